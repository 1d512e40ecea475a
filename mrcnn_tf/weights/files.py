"""Reading of weight files: .npz, .safetensors, .pth and .pt (with PyTorch) and .pkl (Detectron2)."""
from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mrcnn_tf.files import open_regular
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.restricted_pickle import PickleError
from mrcnn_tf.files.restricted_pickle import load as load_pickle
from mrcnn_tf.files.text import error_line
from mrcnn_tf.weights.rules import WeightsError


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the parameters of a file by name. The suffix of the file determines its format.

    Raises:
        WeightsError: the suffix is unknown, the file is missing, damaged or without parameters, or PyTorch is missing.
        PickleError: as `restricted_pickle.load`.
    """
    path = pathlib.Path(path)
    if path.suffix not in _READERS:
        raise WeightsError(f'{path}: give a file that ends in one of {", ".join(_READERS)}')
    if not path.exists():
        raise WeightsError(f'{path}: no such file; give a file of weights, or a name that `mrcnn weights` lists to '
                           '`mrcnn import-weights NAME`')
    try:
        content = _READERS[path.suffix](path)
    except (WeightsError, PickleError):
        raise
    except OSError as error:
        raise WeightsError(f'{path}: {error.strerror or error}; give a file that can be read') from None
    # numpy, zipfile, safetensors and PyTorch raise different errors for a damaged file
    except Exception as error:
        raise WeightsError(f'{path}: damaged, or not what its name says ({error_line(error)}); '
                           'download it again') from None
    return _arrays(content, path)


def _npz(path: pathlib.Path) -> Any:
    with open_regular(path) as stream:
        if not zipfile.is_zipfile(stream):          # numpy would read it as a pickle or as one array
            raise ValueError('not a zip archive')
        with np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)


def _safetensors(path: pathlib.Path) -> Any:
    from safetensors.numpy import load_file

    with open_regular(path):      # only checks that it is a regular file
        return load_file(path)


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise WeightsError(f'{path}: .pth files need PyTorch; {install("torch")}, or save the weights as .safetensors '
                           'or .npz on a machine with PyTorch') from None
    with open_regular(path) as stream:
        content = torch.load(stream, map_location='cpu', weights_only=True)
    return {name: (value.float() if value.is_floating_point() else value).numpy()
            if isinstance(value, torch.Tensor) else value for name, value in _unwrapped(content).items()}


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    '.npz': _npz, '.safetensors': _safetensors, '.pth': _torch, '.pt': _torch, '.pkl': load_pickle}


def _unwrapped(content: Any) -> Mapping[str, Any]:
    """Return the parameters of a file; a training checkpoint holds them in one of its entries."""
    for key in ('model', 'state_dict'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f'it contains a {type(content).__name__}, not parameters by name')
    return content


def _arrays(content: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        arrays = {str(name): np.asarray(value) for name, value in _unwrapped(content).items()
                  if isinstance(value, np.ndarray | np.generic)}
    except ValueError as error:
        raise WeightsError(f'{path}: {error}') from None
    if not arrays:
        raise WeightsError(f'{path}: it contains no parameters')
    return arrays

"""Files of weights -> numpy arrays by name: .npz, .safetensors, .pth (by torch) and .pkl (Detectron2)."""
from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mrcnn_tf.files import open_regular
from mrcnn_tf.files.restricted_pickle import PickleError
from mrcnn_tf.files.restricted_pickle import load as load_pickle
from mrcnn_tf.files.text import error_line
from mrcnn_tf.weights.rules import WeightsError


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All parameters of a file by their names; the kind is told by its ending.

    Raises:
        WeightsError: an unknown ending, a file that is missing, damaged or holds something else, torch is missing.
    """
    path = pathlib.Path(path)
    if path.suffix not in _READERS:
        raise WeightsError(f'{path}: give a file that ends in one of {", ".join(_READERS)}')
    try:
        found = _READERS[path.suffix](path)
    except (WeightsError, PickleError):
        raise
    except OSError as error:
        raise WeightsError(f'{path}: {error.strerror or error}; give a file that can be read') from None
    # numpy, zip, safetensors and torch each raise errors of their own for what is no such file
    except Exception as error:
        raise WeightsError(f'{path}: damaged, or not what its name says ({error_line(error)}); '
                           'download it again') from None
    return _arrays(found, path)


def _npz(path: pathlib.Path) -> Any:
    with open_regular(path) as stream:
        if not zipfile.is_zipfile(stream):          # numpy would take it for a pickle, or for one array
            raise ValueError('no zip archive')
        with np.load(stream, allow_pickle=False) as arrays:
            return dict(arrays)


def _safetensors(path: pathlib.Path) -> Any:
    from safetensors.numpy import load_file

    with open_regular(path):      # which load_file opens by its name
        return load_file(path)


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError:
        raise WeightsError(f"{path}: .pth files are read by torch, which is not here; pip install 'mrcnn-tf[torch]', "
                           'or save the weights as .safetensors or .npz where torch is') from None
    with open_regular(path) as stream:
        found = torch.load(stream, map_location='cpu', weights_only=True)
    found = _unwrapped(found)
    return {name: (value.float() if value.is_floating_point() else value).numpy()
            if isinstance(value, torch.Tensor) else value for name, value in found.items()}


_READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    '.npz': _npz, '.safetensors': _safetensors, '.pth': _torch, '.pt': _torch, '.pkl': load_pickle}


def _unwrapped(found: Any) -> Mapping[str, Any]:
    """Checkpoints of training keep the parameters in one of their entries."""
    for key in ('model', 'state_dict'):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    if not isinstance(found, Mapping):
        raise ValueError(f'it holds a {type(found).__name__}, not parameters by name')
    return found


def _arrays(found: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        arrays = {str(name): np.asarray(value) for name, value in _unwrapped(found).items()
                  if isinstance(value, np.ndarray | np.generic)}
    except ValueError as error:
        raise WeightsError(f'{path}: {error}') from None
    if not arrays:
        raise WeightsError(f'{path}: it holds no parameters')
    return arrays

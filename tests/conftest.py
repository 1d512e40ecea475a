"""What all tests share: a quiet TensorFlow on a bounded number of CPU threads, and the folders of real data.

The environment is set here, before any test module imports TensorFlow, and reaches the processes that tests start.
What is tested is the installed package, or the source tree where none is installed: the report's header names it.
"""
from __future__ import annotations

import os
import pathlib
import sys

import pytest

_THREADS = str(min(4, os.cpu_count() or 1))
for _name, _value in {
    'TF_CPP_MIN_LOG_LEVEL': '2',             # 2: errors only
    'TF_NUM_INTRAOP_THREADS': _THREADS,      # a test's tensors are small: more threads cost more than they bring
    'TF_NUM_INTEROP_THREADS': _THREADS,
    'CUDA_VISIBLE_DEVICES': '-1',            # expected values are float32; CUDA_VISIBLE_DEVICES=0 pytest tries a GPU
}.items():
    os.environ.setdefault(_name, _value)

_ROOT = str(pathlib.Path(__file__).resolve().parents[1])
sys.path[:] = [*(path for path in sys.path if path not in ('', _ROOT)), _ROOT]     # an installed mrcnn_tf comes first

_SHARED = pathlib.Path(__file__).resolve().parents[2] / 'shared'


def pytest_report_header() -> str:
    """Names the stack and where the package under test comes from: a source tree or an installation."""
    from importlib import metadata, util

    versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('tensorflow', 'keras', 'numpy', 'omegaconf'))
    spec = util.find_spec('mrcnn_tf')
    return f'stack: {versions}\nmrcnn_tf: {spec.origin if spec else "not installed; try pip install -e ."}'


def _folder(path: pathlib.Path) -> pathlib.Path:
    if not path.is_dir():
        pytest.skip(f'no folder {path}')
    return path


@pytest.fixture(scope='session')
def nuclei_dir() -> pathlib.Path:
    """COCO json and PNG of 267 + 40 fluorescence images: `annotations/instances_{train,val}.json`, `images/`."""
    return _folder(_SHARED / 'data' / 'nuclei')


@pytest.fixture(scope='session')
def coco_dir() -> pathlib.Path:
    """A hundred COCO 2017 images with polygons and crowds: `annotations/instances_{train,val}.json`, images."""
    return _folder(_SHARED / 'data' / 'coco_permissive')


@pytest.fixture(scope='session')
def parity_dir() -> pathlib.Path:
    """Stage-by-stage numbers of a reference Mask R-CNN: `ops.npz`, `infer_*.npz`, `train_*.npz`, `tolerances.json`."""
    return _folder(_SHARED / 'parity')


@pytest.fixture(scope='session')
def ops_kit(parity_dir: pathlib.Path):  # noqa: ANN201
    """Operator cases of the reference, arrays by name."""
    import numpy as np

    with np.load(parity_dir / 'ops.npz') as arrays:
        return dict(arrays)

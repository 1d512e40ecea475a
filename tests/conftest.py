"""What all tests share: a quiet TensorFlow on a bounded number of CPU threads, and the folders of real data.

The environment is set here, before any test module imports TensorFlow, and reaches the processes that tests start.
What is tested is the installed package, or the source tree where none is installed: the report's header names it.
"""
from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pathlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests import isolation
from tests.parity.kit import Kit, KitError

_THREADS = str(min(4, os.cpu_count() or 1))
for _name, _value in {
    'TF_CPP_MIN_LOG_LEVEL': '2',             # 2: errors only
    'TF_NUM_INTRAOP_THREADS': _THREADS,      # a test's tensors are small: more threads cost more than they bring
    'TF_NUM_INTEROP_THREADS': _THREADS,
    'TF_ONEDNN_USE_SYSTEM_ALLOCATOR': '1',   # oneDNN's own never gives memory back: processes grew to 6 GB
    # LLVM's optimizations take half of the time of compiling; they do not change what XLA makes of a graph.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'CUDA_VISIBLE_DEVICES': '-1',            # expected values are float32; CUDA_VISIBLE_DEVICES=0 pytest tries a GPU
}.items():
    os.environ.setdefault(_name, _value)

_ROOT = str(pathlib.Path(__file__).resolve().parents[1])
sys.path[:] = [*(path for path in sys.path if path not in ('', _ROOT)), _ROOT]     # an installed mrcnn_tf comes first

_SHARED = pathlib.Path(__file__).resolve().parents[2] / 'shared'


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here and not in tests/parity, since tables of the kit serve other tests too."""
    group = parser.getgroup('parity with the reference implementations')
    group.addoption('--kit', metavar='PATH', help='folder of reference cases, of torchvision or Detectron2; all run '
                                                  'in all modes (default: ../shared/parity and ../shared/parity_d2, '
                                                  'each case in one mode)')
    group.addoption('--all-modes', action='store_true', help='run the cases of the default kits in all modes too')
    group.addoption('--differences', metavar='FILE', help='append what was measured, for tests.parity.table')


def pytest_configure(config: pytest.Config) -> None:
    """Raises pytest.UsageError for a --kit that is none."""
    config.stash[KITS] = _kits(config)
    if hasattr(config, 'workerinput') and isolation.SUPPORTED:     # a process of xdist
        config.pluginmanager.register(isolation.FileProcesses(config), 'file processes')


KITS = pytest.StashKey['list[Kit]']()


def _kits(config: pytest.Config) -> list[Kit]:
    named = config.getoption('--kit')
    folders = [pathlib.Path(named)] if named else [
        folder for folder in (_SHARED / 'parity', _SHARED / 'parity_d2') if folder.is_dir()]
    try:
        return [Kit(folder) for folder in folders]
    except KitError as error:
        raise pytest.UsageError(f'--kit: {error}') from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first, so that no process of xdist waits long for another's last file."""
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Let Python look for unreachable objects rarely: tracing makes so many that the search took a tenth of the time.

    `_free_memory` collects them where memory grows.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def pytest_report_header() -> str:
    """Names the stack and where the package under test comes from: a source tree or an installation."""
    from importlib import metadata, util

    versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('tensorflow', 'keras', 'numpy', 'omegaconf'))
    spec = util.find_spec('mrcnn_tf')
    return f'stack: {versions}\nmrcnn_tf: {spec.origin if spec else "not installed; try pip install -e ."}'


_PEAKS = pytest.StashKey['list[tuple[int, str]]']()     # bytes and file of the largest process of each of xdist's


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Note the memory that a process of xdist reports when it ends, which it does not if it crashed."""
    node.config.stash.setdefault(_PEAKS, []).append(getattr(node, 'workeroutput', {}).get('peak', (0, 'unknown')))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    size, file = max(config.stash.get(_PEAKS, [(0, '')]))
    if size:
        terminalreporter.write_line(f'largest process: {size / 2 ** 30:.1f} GiB, {file}')


def forget_graphs() -> None:
    """Free the memory of models under test.

    TensorFlow never removes a traced custom gradient from its registry, which keeps the graph and its weights. glibc
    keeps freed memory until malloc_trim returns it: 100 MB after one training step of a detector.
    """
    if 'tensorflow' in sys.modules:
        from tensorflow.python.framework import ops  # there is no public way

        registered = ops.gradient_registry._registry
        for name in [name for name in registered if name.startswith('CustomGradient-')]:
            del registered[name]
        _free_memory()


def _free_memory() -> None:
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'malloc_trim'):    # glibc only
        libc.malloc_trim(0)


@contextlib.contextmanager
def shallow() -> Iterator[None]:
    """A context in which ResNets have one block per stage."""
    from mrcnn_tf.layers.backbones import resnet

    with pytest.MonkeyPatch.context() as patch:
        for name, form in resnet.FORMS.items():
            patch.setitem(resnet.FORMS, name, form._replace(blocks=(1, 1, 1, 1)))
        yield


@pytest.fixture(scope='module')
def shallow_resnets() -> Iterator[None]:
    """One block per stage, for the files whose tests are not about backbones: graphs are traced and compiled sooner."""
    with shallow():
        yield


# The tests in these folders compare the results of graphs with those of others, so they run as a user's graphs do.
_OPTIMIZED = ('layers', 'ops', 'parity', 'serving')


@pytest.fixture(autouse=True, scope='module')
def _optimize_graphs_where_results_count(request: pytest.FixtureRequest) -> None:
    """Switch TensorFlow's rewriting of graphs off elsewhere: it takes a sixth of the time of tests that train.

    The processes that tests start, such as those of the command line, are not affected.
    """
    if 'tensorflow' in sys.modules:
        import tensorflow as tf

        folder = request.path.relative_to(_ROOT).parts[1]
        tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': folder not in _OPTIMIZED})


def _seed() -> None:
    random.seed(0)     # Keras takes the seeds of weights from it
    np.random.seed(0)
    if own := getattr(sys.modules.get('keras.src.backend'), '_SEED_GENERATOR', None):
        own.generator = None     # keras.utils.set_random_seed makes Keras 2 take them from a generator of its own


@pytest.fixture(autouse=True, scope='module')
def _seed_fixtures_of_modules() -> None:
    """Draw the weights of models that fixtures share from the same seed in each run: limits are not met by chance."""
    _seed()
    if 'tensorflow' in sys.modules:
        import tensorflow as tf

        tf.random.set_seed(0)     # once for each file: it clears the cache of all compiled graphs


@pytest.fixture(autouse=True)
def _seed_tests(_seed_fixtures_of_modules: None) -> None:
    """Draw the same weights whichever tests of the file ran before."""
    _seed()


_GROWTH = 250 * 2 ** 20     # bytes; a test that builds a detector adds 50 MB
_resident_before = 0


@pytest.fixture(autouse=True)
def _free_memory_when_it_has_grown() -> Iterator[None]:
    """Python rarely collects the models of earlier tests by itself, as their millions of bytes are few objects."""
    global _resident_before
    yield
    resident = _resident()
    if resident > _resident_before + _GROWTH:
        _free_memory()
        _resident_before = _resident()
    else:
        _resident_before = min(_resident_before, resident)


def _resident() -> int:
    """Return the resident memory of this process in bytes; 0 where the system does not say."""
    pages = pathlib.Path('/proc/self/statm')
    return int(pages.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') if pages.exists() else 0


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
def bccd_dir() -> pathlib.Path:
    """Blood cells in VOC's layout: `Annotations`, `ImageSets/Main/{train,val}.txt`, `JPEGImages`; 205 + 87 images."""
    return _folder(_SHARED / 'data' / 'bccd')


@pytest.fixture(scope='session')
def kit(pytestconfig: pytest.Config) -> Kit:
    """Numbers of torchvision's Mask R-CNN: see tests/parity/kit.py."""
    for found in pytestconfig.stash[KITS]:
        if found.framework == 'torchvision':
            return found
    pytest.skip(NO_KIT)


NO_KIT = 'no parity kit of torchvision: neither ../shared/parity nor --kit PATH is one'


@pytest.fixture(scope='session')
def ops_kit(kit: Kit) -> dict:
    """Operator cases of the reference, arrays by name."""
    if not kit.has_operators:
        pytest.skip(f'{kit.folder} has no ops.npz')
    return kit.arrays('ops')

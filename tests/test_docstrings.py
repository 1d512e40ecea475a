"""The examples in the docstrings run and print what they say.

They run in a directory with the set `data/train.json`, the config `mine.yaml` and, where they need it, the
model directory `runs/mine` and torchvision's weights `weights.npz`.
"""
from __future__ import annotations

import doctest
import importlib
import pathlib
import pkgutil

import numpy as np
import pytest

import mrcnn_tf as m
from mrcnn_tf import config as configuration
from tests.training.tiny import CATEGORIES, tiny_config, write_data
from tests.weights import small

PACKAGES = ('data_tools', 'mrcnn_tf')
PUBLIC = (*m._EXPORTS.values(), 'layers.heads.Res5Head', 'ops.boxes.decode', 'ops.boxes.encode', 'ops.boxes.iou')
# Their examples read the model directory; seconds each.
SLOW = ('cli.train', 'evaluation.run', 'serving.export', 'serving.predictor', 'weights.importing',
        'weights.model_directory')


def modules() -> list[str]:
    """Return the names of all modules of the packages, and of the packages themselves."""
    names = list(PACKAGES)
    for package in PACKAGES:
        names += [each.name for each in pkgutil.walk_packages(importlib.import_module(package).__path__, f'{package}.')]
    return names


@pytest.fixture(scope='module')
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp('examples')
    (directory / 'data').mkdir()
    write_data(directory / 'data')
    config = tiny_config(pathlib.Path('data'), 'model.detections.score_threshold=0')
    configuration.save(config, directory / 'mine.yaml')
    return directory


@pytest.fixture(scope='module')
def model_directory(directory: pathlib.Path) -> pathlib.Path:
    config = configuration.load(directory / 'mine.yaml')
    m.save_detector(directory / 'runs' / 'mine', m.build_detector(config.model), config, CATEGORIES)
    np.savez(directory / 'weights.npz', **small.state())
    return directory


@pytest.mark.parametrize('name', [pytest.param(name, marks=[pytest.mark.slow] * name.endswith(SLOW))
                                  for name in modules()])
def test_examples(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        if example.examples:
            monkeypatch.setattr('mrcnn_tf.serving.server_kit.replay', lambda *_: None)    # seconds each
            monkeypatch.chdir(request.getfixturevalue('model_directory' if name.endswith(SLOW) else 'directory'))
            runner.run(example, out=report.append)
    assert not runner.summarize(verbose=False).failed, ''.join(report)


@pytest.mark.parametrize('name', PUBLIC)
def test_public_names_have_an_example(name: str) -> None:
    """A module has one in one of its functions."""
    module, _, attribute = f'mrcnn_tf.{name}'.rpartition('.')
    documented = getattr(importlib.import_module(module), attribute, None) or importlib.import_module(
        f'mrcnn_tf.{name}')
    tests = doctest.DocTestFinder().find(documented, name)
    assert any(test.examples and 'Example:' in (test.docstring or '') for test in tests)

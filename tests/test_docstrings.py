"""The examples in the docstrings of the public modules run and print what they say."""
from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ('mrcnn_tf.layers', 'mrcnn_tf.ops')
PUBLIC = ('layers.anchors.AnchorGenerator', 'layers.heads.BoxHead', 'layers.heads.MaskHead', 'layers.heads.RPNHead',
          'layers.heads.Res5Head', 'layers.proposals.ProposalLayer', 'layers.roi.RoIAlign', 'layers.roi.RoIPool',
          'layers.roi.RoIWarp', 'ops.boxes.decode', 'ops.boxes.encode', 'ops.boxes.iou', 'ops.boxes.nms')


def modules() -> list[str]:
    """Names of all modules of the packages, and of the packages themselves."""
    names = list(PACKAGES)
    for package in PACKAGES:
        names += [each.name for each in pkgutil.walk_packages(importlib.import_module(package).__path__, f'{package}.')]
    return names


@pytest.mark.parametrize('name', modules())
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for example in doctest.DocTestFinder().find(module, name):
        runner.run(example, out=report.append)
    assert not runner.summarize(verbose=False).failed, ''.join(report)


@pytest.mark.parametrize('name', PUBLIC)
def test_public_names_have_an_example(name: str) -> None:
    module, _, attribute = f'mrcnn_tf.{name}'.rpartition('.')
    documented = getattr(importlib.import_module(module), attribute)
    assert 'Example:' in documented.__doc__ and '>>> ' in documented.__doc__

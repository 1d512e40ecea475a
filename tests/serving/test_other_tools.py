"""The examples of docs/other_tools.md run as they are, on a drawn set whose detections are its ground truth."""
from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from data_tools.formats import shapes
from tests.paths import ROOT


@pytest.fixture
def truth(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The annotations in val.json in the working directory; runs/mine/detections.json has the same objects."""
    drawn = shapes.draw(tmp_path, 2, seed=1, size=(64, 64))
    drawn.annotations.rename(tmp_path / 'val.json')
    annotations = json.loads((tmp_path / 'val.json').read_text())
    keys = ('image_id', 'category_id', 'bbox', 'segmentation')
    detections = [{**{key: each[key] for key in keys}, 'score': .5} for each in annotations['annotations']]
    (tmp_path / 'runs' / 'mine').mkdir(parents=True)
    (tmp_path / 'runs' / 'mine' / 'detections.json').write_text(json.dumps(detections))
    monkeypatch.chdir(tmp_path)
    return annotations


def run(package: str) -> dict[str, Any]:
    """Return the names that the example which imports a package defines."""
    blocks = re.findall('```python\n(.*?)```', (ROOT / 'docs' / 'other_tools.md').read_text(), re.DOTALL)
    (block,) = [each for each in blocks if re.search(f'^(import|from) {package}', each, re.MULTILINE)]
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def test_pycocotools(truth: dict[str, Any]) -> None:
    results = run('pycocotools.coco')['results']
    assert [each['bbox'] for each in results.anns.values()] == [each['bbox'] for each in truth['annotations']]


def test_supervision(truth: dict[str, Any]) -> None:
    pytest.importorskip('supervision')
    detections = run('supervision')['detections']
    expected = [each for each in truth['annotations'] if each['image_id'] == 1]
    assert detections.class_id.tolist() == [each['category_id'] for each in expected]
    np.testing.assert_array_equal(detections.mask.sum((1, 2)), [each['area'] for each in expected])
    np.testing.assert_array_equal(detections.box_area, [each['bbox'][2] * each['bbox'][3] for each in expected])


def test_fiftyone(truth: dict[str, Any]) -> None:
    pytest.importorskip('fiftyone')
    dataset = run('fiftyone')['dataset']
    names = {each['id']: each['name'] for each in truth['categories']}
    for number, sample in enumerate(dataset, 1):
        expected = [each for each in truth['annotations'] if each['image_id'] == number]
        assert [each.label for each in sample.predictions.detections] == [names[a['category_id']] for a in expected]
        assert [each.mask.sum() for each in sample.predictions.detections] == [each['area'] for each in expected]

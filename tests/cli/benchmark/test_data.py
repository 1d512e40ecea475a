"""Work of the benchmarks that needs no detector: images repeated, made-up detections."""
from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_tf.cli.benchmark import data
from mrcnn_tf.evaluation import coco


@pytest.fixture
def annotations(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two images of 40 x 60 px; the first has one object."""
    for name in 'ab':
        Image.new('RGB', (60, 40)).save(tmp_path / f'{name}.jpg')
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps({
        'images': [{'id': 7 + i, 'file_name': f'{name}.jpg', 'height': 40, 'width': 60} for i, name in enumerate('ab')],
        'annotations': [{'id': 3, 'image_id': 7, 'category_id': 5, 'bbox': [10, 10, 20, 10], 'area': 200, 'iscrowd': 0,
                         'segmentation': [[10, 10, 30, 10, 30, 20, 10, 20]]}],
        'categories': [{'id': 5, 'name': 'cell'}]}))
    return path


@pytest.mark.parametrize(('least', 'exactly', 'images', 'owners'), [
    (3, False, [1, 2, 3, 4], [1, 3]), (3, True, [1, 2, 3], [1, 3]), (1, True, [1], [1])],
    ids=['whole repetitions', 'exactly', 'fewer than there are'])
def test_images_are_repeated_with_their_objects(annotations: pathlib.Path, tmp_path: pathlib.Path, least: int,
                                                exactly: bool, images: list[int], owners: list[int]) -> None:
    assert data.repeat(annotations, tmp_path / 'more.json', least, exactly) == len(images)
    written: dict[str, Any] = json.loads((tmp_path / 'more.json').read_text())
    assert [each['id'] for each in written['images']] == images
    assert [each['image_id'] for each in written['annotations']] == owners
    assert [each['id'] for each in written['annotations']] == list(range(1, len(owners) + 1))


@pytest.mark.parametrize(('content', 'message'), [
    ('{"a": 1}', 'not COCO annotations'), ('{"images": [], "annotations": [], "categories": []}', 'has no images')],
    ids=['another file', 'no images'])
def test_a_json_that_cannot_be_repeated(tmp_path: pathlib.Path, content: str, message: str) -> None:
    (tmp_path / 'a.json').write_text(content)
    with pytest.raises(coco.EvaluationError, match=message):
        data.repeat(tmp_path / 'a.json', tmp_path / 'more.json', 3)


def test_detections_near_objects_need_masks(annotations: pathlib.Path) -> None:
    described = json.loads(annotations.read_text())
    del described['annotations'][0]['segmentation']
    annotations.write_text(json.dumps(described))
    assert [len(each) for _, each in data.detections(coco.read_coco(annotations))] == [100, 100]


def test_detections_are_made_up_for_every_image(annotations: pathlib.Path) -> None:
    found = dict(data.detections(coco.read_coco(annotations)))
    again = dict(data.detections(coco.read_coco(annotations)))
    assert sorted(found) == [7, 8]
    for image, instances in found.items():
        assert len(instances) == 100 and instances.masks is not None and instances.masks.shape == (100, 28, 28)
        assert (np.diff(instances.scores) <= 0).all() and (instances.labels == 1).all()
        np.testing.assert_array_equal(instances.boxes, again[image].boxes)
    # 60 of 100 are near the only object, whose center is (15, 20).
    centers = found[7].boxes.reshape(-1, 2, 2).mean(1)
    assert 40 < (np.abs(centers - [15, 20]) < 6).all(1).sum() < 80


def test_evaluation_of_made_up_detections(annotations: pathlib.Path, tmp_path: pathlib.Path) -> None:
    work, said = data.metrics_of(annotations, 4, tmp_path)
    work()
    assert said['images'] == 4 and said['detections'] == 400 and .1 < said['bbox/AP'] < 1
    assert len(json.loads((tmp_path / 'detections.json').read_text())) == 400


def test_conversion_writes_nothing_that_stays(annotations: pathlib.Path, tmp_path: pathlib.Path) -> None:
    directory = tmp_path / 'out'
    directory.mkdir()
    work, said = data.conversion_of(annotations, tmp_path, 3, 1, directory)
    work()
    work()
    assert said['images'] == 4 and said['bytes_an_image'] > 500
    assert [each.name for each in directory.iterdir()] == ['annotations.json']

"""Maps from the classes of a data set to those of the weights."""
from __future__ import annotations

import pytest

from mrcnn_tf.input.manifest import Category
from mrcnn_tf.weights import classes
from mrcnn_tf.weights.rules import WeightsError

COCO = [Category(1, 1, 'person'), Category(2, 2, 'bicycle'), Category(3, 3, 'car'), Category(4, 4, 'motorcycle'),
        Category(5, 5, 'airplane'), Category(6, 6, 'bus'), Category(7, 7, 'train'), Category(8, 8, 'truck')]
CITYSCAPES = [Category(i, 20 + i, name) for i, name in enumerate(
    ('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'), 1)]


def test_cityscapes_from_coco() -> None:
    labels = classes.source_labels(CITYSCAPES, COCO, classes.CITYSCAPES_FROM_COCO)
    assert labels == [1, None, 3, 8, 6, 7, 4, 2]
    assert classes.source_labels(CITYSCAPES[::-1], COCO, classes.CITYSCAPES_FROM_COCO) == labels[::-1]


def test_cityscapes_from_coco_has_the_official_classes() -> None:
    labels = pytest.importorskip('cityscapesscripts.helpers.labels').labels
    assert set(classes.CITYSCAPES_FROM_COCO) == {
        label.name for label in labels if label.hasInstances and not label.ignoreInEval}


def test_unmapped_and_unknown_classes_are_refused() -> None:
    with pytest.raises(WeightsError, match="class 'dog' is not in the map of classes; map it to a class or to None"):
        classes.source_labels([Category(1, 1, 'dog')], COCO, classes.CITYSCAPES_FROM_COCO)
    with pytest.raises(WeightsError, match="class 'truck' is mapped to 'truck', which the weights do not have"):
        classes.source_labels(CITYSCAPES, COCO[:7], classes.CITYSCAPES_FROM_COCO)


def test_class_map_describes_each_class() -> None:
    made = classes.class_map(CITYSCAPES[:3], COCO, classes.read_map('cityscapes-from-coco'))
    assert made == ((1, None, 3), 'person as person, rider at random, car as car')


def test_read_map_reads_yaml_and_json(tmp_path) -> None:
    path = tmp_path / 'map.yaml'
    for text in ('boat: null\ncar: bus', '{"boat": null, "car": "bus"}'):
        path.write_text(text)
        assert classes.read_map(path) == {'boat': None, 'car': 'bus'}


@pytest.mark.parametrize(('content', 'message'), [
    (None, 'No such file or directory; give cityscapes-from-coco or a YAML file'), (b'a: [', 'not YAML'),
    (b'\xff', 'not YAML'), (b'- car', 'expected lines'), (b'1: car', 'expected lines'), (b'car: 3', 'expected lines')])
def test_a_file_without_a_map_is_refused(content, message, tmp_path) -> None:
    path = tmp_path / 'map.yaml'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=f'^{path}: .*{message}') as error:
        classes.read_map(path)
    assert '\n' not in str(error.value)

"""Drawing: pixels computed by hand, and places of texts."""
from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import visualize

NAMES = ['cat', 'dog']


def instances(boxes, scores, masks=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Instances(boxes, np.array(scores, np.float32), np.ones(len(boxes), np.int32), masks)


def grey(height, width, value=100):
    return np.full((height, width, 3), value, np.uint8)


def test_a_large_image_keeps_its_size_and_other_pixels():
    mask = np.zeros((1, 1300, 700), bool)
    mask[0, 600:700, 300:400] = True
    out = visualize.draw(grey(1300, 700), instances([[600, 300, 700, 400]], [.9], mask), NAMES)
    assert out.shape == (1300, 700, 3) and out.dtype == np.uint8
    changed = (out != 100).any(2)
    assert changed[600:700, 300:400].all()
    changed[600:700, 300:400] = False
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))    # the text, above the box
    assert 560 <= rows[0] <= rows[-1] < 600 and 300 <= columns[0] <= columns[-1] < 420


def test_a_mask_is_half_transparent_with_a_solid_contour():
    mask = np.zeros((1, 1300, 1300), bool)
    mask[0, 600:700, 500:600] = True
    out = visualize.draw(grey(1300, 1300), instances([[400, 400, 900, 900]], [.9], mask), NAMES)
    # the first colour is red, (255, 13, 13): 0.55 * 100 + 0.45 * (255, 13, 13)
    assert out[650, 550].tolist() == [169, 60, 60]
    for y, x in ((600, 550), (699, 550), (650, 500), (650, 599)):
        assert out[y, x].tolist() == [255, 13, 13]
    assert out[599, 550].tolist() == out[700, 550].tolist() == [100, 100, 100]
    assert (out[400, 500:899] == [255, 13, 13]).all() and (out[899, 400:899] == [255, 13, 13]).all()    # the box


def test_masks_over_boxes_are_pasted():
    out = visualize.draw(grey(1300, 1300), instances([[400, 400, 900, 900]], [.9], np.ones((1, 28, 28), np.float32)),
                         NAMES, dialect='pixel_center')
    assert out[650, 650].tolist() == [169, 60, 60] and out[380, 880].tolist() == [100, 100, 100]


def test_a_small_image_is_enlarged():
    out = visualize.draw(grey(20, 30), instances([[5, 10, 15, 20]], [.9]), NAMES)
    assert out.shape == (20 * 42, 30 * 42, 3)    # 1260 of 1280 px
    assert (out[5 * 42, 10 * 42:20 * 42 - 1] == [255, 13, 13]).all()
    assert (out[15 * 42 - 1, 10 * 42:20 * 42 - 1] == [255, 13, 13]).all() and (out[15 * 42 + 1, 10 * 42] == 100).all()


def test_a_small_image_keeps_its_size_on_request():
    mask = np.zeros((1, 60, 90), bool)
    mask[0, 40:50, 30:60] = True
    out = visualize.draw_at_size(grey(60, 90), instances([[40, 30, 50, 60]], [.9], mask), NAMES)
    assert out.shape == (60, 90, 3) and out[45, 45].tolist() == [169, 60, 60] and (out[55:] == 100).all()


def test_instances_below_the_threshold_are_left_out():
    found = instances([[100, 100, 200, 200], [600, 600, 700, 700]], [.5, .49])
    out = visualize.draw(grey(1300, 1300), found, NAMES)
    assert (out[50:200, 100:200] != 100).any() and (out[500:] == 100).all()
    assert (visualize.draw(grey(1300, 1300), found, NAMES, threshold=.4)[600:700, 600:700] != 100).any()


@pytest.mark.parametrize('masks', [None, np.zeros((0, 28, 28), np.float32)], ids=['no masks', 'zero masks'])
def test_an_image_without_instances_is_unchanged(masks):
    assert (visualize.draw(grey(700, 700), instances([], [], masks), NAMES) == 100).all()


@pytest.mark.parametrize('box', [[0, 0, 3, 3], [1297, 1297, 1300, 1300], [-50, -50, 2000, 2000], [10, 10, 10, 10],
                                 [20, 20, 10, 10]], ids=['top left', 'bottom right', 'larger', 'empty', 'inverted'])
def test_texts_stay_in_the_picture(box):
    out = visualize.draw(grey(1300, 1300), instances([box], [1.]), NAMES)
    letters = (out == [255, 255, 255]).all(2)    # white on red
    assert letters.sum() > 20
    assert not letters[0].any() and not letters[-1].any() and not letters[:, 0].any() and not letters[:, -1].any()


def test_a_picture_smaller_than_its_text():
    assert visualize.draw(grey(1, 1), instances([[0, 0, 1, 1]], [.9]), NAMES).shape == (1280, 1280, 3)
    assert visualize.draw(grey(1300, 3), instances([[0, 0, 9, 3]], [.9]), NAMES).shape == (1300, 3, 3)


def test_confidence_makes_the_text_longer():
    found = instances([[600, 300, 700, 1000]], [.9])
    def text(**more):
        out = visualize.draw(grey(1300, 1300), found, NAMES, **more)
        return (out[560:600] != 100).any((0, 2)).sum()
    assert text() > 1.5 * text(confidence=False) > 0


def test_labels_without_a_name_and_names_beyond_ascii():
    found = instances([[60, 60, 90, 90]] * 2, [.9, .8])
    found.labels = np.array([3, 1])
    assert visualize.draw(grey(100, 100), found, ['épinoche 刺魚']).shape == (1200, 1200, 3)


def test_texts_of_neighbours_do_not_overlap():
    taken = []
    for _ in range(4):
        taken.append(visualize._place((100, 100, 140, 140), (0, 0, 36, 12), (500, 500), taken))
    for i, a in enumerate(taken):
        assert not any(visualize._overlap(a, b) for b in taken[:i])


def test_colors_are_distinct():
    colors = np.array(visualize._colors(200), int)
    distance = np.abs(colors[:, None] - colors[None]).max(2) + 999 * np.eye(200, dtype=int)
    assert distance.min() > 0 and distance[:20, :20].min() > 25
    assert np.abs(np.diff(colors, axis=0)).max(1).min() > 80    # one after the other


@pytest.mark.parametrize(('shape', 'kind'), [((4, 4, 3), np.float32), ((4, 4), np.uint8), ((4, 4, 4), np.uint8)],
                         ids=['float', 'gray', 'four channels'])
def test_an_image_of_another_shape_or_type_is_an_error(shape, kind):
    with pytest.raises(ValueError, match=r'image .* expected uint8 \[height, width, 3\]'):
        visualize.draw(np.zeros(shape, kind), instances([], []), NAMES)


def test_side_by_side():
    colors = [10, 0, 90], [0, 90, 10]    # texts are grey
    left, right = np.full((300, 200, 3), colors[0], np.uint8), np.full((250, 400, 3), colors[1], np.uint8)
    sheet = visualize.side_by_side([left, right], ['ground truth', 'prediction'])
    places = [np.argwhere((sheet == color).all(2)) for color in colors]
    assert sheet.dtype == np.uint8 and [len(place) for place in places] == [300 * 200, 250 * 400]
    (top, first), (top_too, second) = (place.min(0) for place in places)
    assert top == top_too > 0 and second >= first + 200
    for x, width in ((first, 200), (second, 400)):
        assert (sheet[:top, x:x + width] < 100).any()    # its caption
    with pytest.raises(ValueError, match='1 captions for 2 pictures'):
        visualize.side_by_side([left, right], ['one'])


def test_crowded_microscopy(nuclei_dir):
    truth = json.loads((nuclei_dir / 'annotations' / 'instances_val.json').read_text())
    first = truth['images'][0]
    objects = [each for each in truth['annotations'] if each['image_id'] == first['id']]
    x, y, width, height = np.array([each['bbox'] for each in objects]).T
    masks = np.array([coco_mask.decode(each['segmentation']) for each in objects], bool)
    found = Instances(np.stack([y, x, y + height, x + width], 1), np.ones(len(x)), np.ones(len(x), int), masks)
    with Image.open(nuclei_dir / 'images' / first['file_name']) as file:
        image = np.array(file.convert('RGB'))
    out = visualize.draw(image, found, ['nucleus'], confidence=False)
    plain = visualize.draw(image, found[:0], ['nucleus'])
    covered = masks.any(0).repeat(5, 0).repeat(5, 1)
    assert (out != plain).any(2)[covered].mean() > .99


def test_painting_in_given_colors() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 10:30] = 1
    pixels = np.full((60, 80, 3), 100, np.uint8)
    drawn = visualize.paint(pixels, [mask], np.array([[20., 10, 40, 30]]), [''], [(255, 0, 0)])
    assert drawn[30, 20].tolist() == [169, 55, 55]      # 0.55 * 100 + 0.45 * color
    assert drawn[20, 20].tolist() == [255, 0, 0] and drawn[5, 5].tolist() == [100] * 3
    # without a text nothing else is drawn
    assert (drawn != 100).any(axis=2).sum() == 20 * 20

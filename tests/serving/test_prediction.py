"""The result of a predictor: subsets, masks, pictures and other tools' types, from arrays made by hand."""
from __future__ import annotations

import base64
import io
import json
import re
import sys
import types

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving.prediction import Prediction
from mrcnn_tf.serving.sources import InferenceError

CATEGORIES = [Category(1, 7, 'cat'), Category(2, 3, 'dog & <b>')]
BOXES = np.array([[10, 20, 30, 60], [0, 0, 8, 8], [5, 5, 9, 9]], np.float32)


def prediction(masks: np.ndarray | None = None, source: object = None) -> Prediction:
    """Two dogs and a cat in a gray image of 40 x 80 px."""
    found = Instances(BOXES, np.float32([.9, .6, .2]), np.int32([2, 1, 2]), masks, {'age': np.array([3., 1., 2.])})
    gray = np.full((40, 80, 3), 100, np.uint8)
    return Prediction(found, (40, 80), CATEGORIES, 'pixel_center', gray if source is None else source)


def test_columns_and_subsets() -> None:
    found = prediction(np.ones((3, 28, 28), np.float32))
    assert found.names == ['dog & <b>', 'cat', 'dog & <b>'] and len(found) == 3
    sure = found[found.scores > .5]
    assert sure.boxes.tolist() == BOXES[:2].tolist() and sure.further['age'].tolist() == [3, 1]
    assert sure.masks.shape == (2, 40, 80) and found[:0].masks.shape == (0, 40, 80)
    assert [each.names for each in found] == [['dog & <b>'], ['cat'], ['dog & <b>']]
    assert found[-1].scores.tolist() == [np.float32(.2)] and found[[2, 0]].labels.tolist() == [2, 2]
    with pytest.raises(IndexError, match='detection 3: the image has 3'):
        found[3]


def test_masks_are_those_of_the_whole_image() -> None:
    masks = prediction(np.ones((3, 28, 28), np.float32)).masks
    # Along the edges, the weights of the mask fall to a half and less.
    assert masks.dtype == bool and masks[0, 11:29, 21:59].all()
    masks[0, 10:30, 20:60] = False
    assert not masks[0].any() and prediction().masks is None


def test_a_picture_of_the_same_size() -> None:
    picture = np.asarray(prediction().draw())
    assert picture.shape == (40, 80, 3) and prediction().draw(enlarge=True).size == (1280, 640)
    assert (picture[29, 20:59] == [255, 13, 13]).all()    # the lower edge of the first box, in the first color
    assert (np.asarray(prediction().draw(threshold=.95)) == 100).all()


def test_cocos_form() -> None:
    first, *_ = results = prediction(np.ones((3, 28, 28), np.float32)).to_coco(image_id=5)
    assert json.loads(json.dumps(results)) == results and len(results) == 3
    mask = coco_mask.decode(first.pop('segmentation'))
    assert first == {'image_id': 5, 'category_id': 3, 'bbox': [20, 10, 40, 20], 'score': .9, 'category': 'dog & <b>'}
    assert mask[11:29, 21:59].all() and 'image_id' not in prediction().to_coco()[0]


def test_what_a_notebook_shows() -> None:
    text = prediction()._repr_html_()
    assert '80 x 40 px, 3 detections: 2 dog &amp; &lt;b&gt;, 1 cat; drawn: 2 with a score of 0.5 or more' in text
    assert '<td>0.900</td><td>10.0, 20.0, 30.0, 60.0</td>' in text and '<b>' not in text
    picture = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]*)"', text)[1])))
    assert picture.size == (1280, 640)
    many = prediction()[np.zeros(50, int)]
    assert '<td colspan="4">and 30 more</td>' in many._repr_html_()
    large = prediction(source=np.zeros((40, 2000, 3), np.uint8))
    assert Image.open(io.BytesIO(large._repr_png_())).size == (1280, 26)
    assert repr(prediction()[:0]) == '<Prediction: 80 x 40 px, 0 detections>'


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments; tests/serving/test_other_tools.py uses the package itself."""
    module = types.ModuleType('supervision')
    module.Detections = lambda **arguments: arguments
    monkeypatch.setitem(sys.modules, 'supervision', module)
    made = prediction(np.ones((3, 28, 28), np.float32)).to_supervision()
    assert made['xyxy'].tolist() == [[20, 10, 60, 30], [0, 0, 8, 8], [5, 5, 9, 9]]
    assert made['class_id'].tolist() == [1, 0, 1] and made['mask'].shape == (3, 40, 80)
    assert made['data']['class_name'].tolist() == ['dog & <b>', 'cat', 'dog & <b>']


def test_without_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'supervision', None)
    with pytest.raises(InferenceError, match='^to_supervision needs the package supervision: pip install supervision$'):
        prediction().to_supervision()


def test_an_image_that_is_no_longer_there(tmp_path) -> None:
    with pytest.raises(InferenceError, match='gone.png: No such file or directory'):
        prediction(source=tmp_path / 'gone.png').draw()

"""Inference: batches taken apart by hand, COCO's form, predictors of both kinds, images that cannot be used."""
from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import types
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.input import images
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import predictor, sources
from mrcnn_tf.serving.sources import InferenceError
from mrcnn_tf.training import checkpoints
from mrcnn_tf.weights import model_directory
from mrcnn_tf.weights.rules import variable_path

pytestmark = pytest.mark.usefixtures('shallow_resnets')
SEED = 10    # of weights that find something
CATEGORIES = [Category(1, 7, 'cat'), Category(2, 3, 'dog')]


class Served(tf.Module):
    """Finds the whole image, and under it one that is not valid; the score is the mean of the pixels over 255."""

    def __init__(self, scale):
        self.scale = tf.Variable(float(scale))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, 'image_bytes')])
    def serve(self, image_bytes):
        image = tf.cast(tf.io.decode_png(image_bytes[0], channels=3), tf.float32)
        size = tf.shape(image)[:2]
        box = tf.concat([[0., 0.], tf.cast(size, tf.float32)], 0)
        score = tf.reduce_mean(image) / 255 * self.scale
        return {'boxes': tf.stack([box, box])[None], 'scores': tf.stack([score, 0.])[None],
                'labels': tf.constant([[2, 0]]), 'category_ids': tf.constant([[3, 0]]),
                'valid': tf.constant([[True, False]]), 'masks': tf.ones([1, 2, 28, 28]), 'sizes': size[None],
                'keypoints': tf.constant([[[[.25, .5, 1.]], [[0., 0., 0.]]]])}


def export(directory, scale=1., described=None):
    module = Served(scale)
    tf.saved_model.save(module, str(directory), signatures={'serving_default': module.serve})
    (directory / 'assets.extra').mkdir()
    (directory / 'assets.extra' / 'mrcnn.json').write_text(json.dumps(described or {
        'categories': [dataclasses.asdict(c) for c in CATEGORIES], 'paste': 'detectron', 'score_threshold': .05}))
    return directory


@pytest.fixture(scope='module')
def versions(tmp_path_factory):
    """A directory of versions 2 and 10 of a SavedModel."""
    folder = tmp_path_factory.mktemp('model')
    export(folder / '2', scale=.5)
    export(folder / '10')
    (folder / '11').mkdir()    # being written by somebody
    return folder


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((30, 20, 3), 51, np.uint8)).save(tmp_path / 'grey.png')
    return tmp_path / 'grey.png'


@pytest.mark.parametrize(('name', 'score'), [('', .2), ('10', .2), ('2', .1)])
def test_a_saved_model(versions, picture, name, score):
    loaded = predictor.load_predictor(versions / name)
    assert list(loaded.categories) == CATEGORIES and loaded.paste == 'detectron'
    found = loaded(picture)
    assert found.boxes.tolist() == [[0, 0, 30, 20]] and found.labels.tolist() == [2] and found.names == ['dog']
    assert found.scores.tolist() == pytest.approx([score]) and found.instances.masks.shape == (1, 28, 28)
    assert found.size == (30, 20) and found.masks.shape == (1, 30, 20)


def test_images_of_all_kinds(versions, picture, capsys):
    pixels = np.full((30, 20, 3), 51, np.uint8)
    given = [picture, str(picture), picture.read_bytes(), pixels, pixels[..., 0], Image.fromarray(pixels)]
    found = predictor.load_predictor(versions)(given)
    assert [each.size for each in found] == [(30, 20)] * 6
    np.testing.assert_allclose([each.scores for each in found], .2, rtol=1e-6)
    assert capsys.readouterr().out.startswith('predicted: 6 of 6 images')
    assert predictor.load_predictor(versions)([], progress=True) == []


def test_the_precision_of_an_exported_model_is_that_of_its_export(versions):
    with pytest.raises(predictor.InferenceError, match='no model directory, and the precision of an exported model is'):
        predictor.load_predictor(versions, precision='bfloat16')


def test_an_error_says_which_image_of_a_list_it_is(versions, picture):
    loaded = predictor.load_predictor(versions)
    with pytest.raises(InferenceError, match=r'^images\[1\]: float64 array of shape \[4, 4\]; expected uint8'):
        loaded([picture, np.zeros((4, 4))])
    with pytest.raises(InferenceError, match='^image: neither a JPEG nor a PNG'):
        loaded(b'hello')


def test_predictions_of_further_branches_are_kept(versions, picture):
    found = predictor.load_predictor(versions)(picture)
    assert {name: values.tolist() for name, values in found.further.items()} == {'keypoints': [[[.25, .5, 1.]]]}
    assert found[:0].further['keypoints'].shape == (0, 1, 3)


class FakeDetector:
    """Finds the whole of each image; records how many images share a batch."""

    def __init__(self, sizes):
        self.sizes, self.batches = sizes, []

    def __call__(self, batches):
        self.batches.append(len(batches[0]['images']))
        boxes = tf.pad(batches[0]['sizes'], [[0, 0], [2, 0]])[:, None]
        count = len(boxes)
        return {'boxes': boxes, 'scores': tf.ones([count, 1]), 'labels': tf.ones([count, 1], tf.int32),
                'valid': tf.fill([count, 1], True)}


@pytest.mark.parametrize('widths, batch_size, expected', [
    ([40] * 5, None, [1] * 5), ([40] * 5, 2, [2, 2, 1]), ([40, 40, 60, 60], 2, [2, 2]), ([40, 60, 60], 2, [1] * 3),
    ([40] * 3, 4, [1] * 3)], ids=['one by one', 'the rest alone', 'two sizes', 'two sizes in a batch', 'too few'])
def test_images_of_equal_canvases_share_a_batch(monkeypatch, widths, batch_size, expected):
    config = tiny_config()
    fake = FakeDetector([config.data])
    monkeypatch.setattr(predictor, 'detection_function', lambda *_: fake)
    detector = types.SimpleNamespace(inputs_read=('images', 'sizes'), engine='op')
    loaded = predictor.DetectorPredictor(detector, config, CATEGORIES)
    found = loaded([np.zeros((40, width, 3), np.uint8) for width in widths], batch_size, progress=False)
    assert fake.batches == expected
    assert [each.boxes.tolist() for each in found] == [[[0, 0, 40, width]] for width in widths]


@pytest.mark.parametrize('detector, message', [
    ({'inputs_read': ('proposals',), 'engine': 'op'}, 'a fast_rcnn needs the proposals of each image'),
    ({'inputs_read': (), 'engine': 'xla'}, "build it with engine='op' for images of any size")],
    ids=['proposals', 'fixed canvases'])
def test_detectors_that_cannot_take_plain_images(detector, message):
    with pytest.raises(InferenceError, match=message):
        predictor.DetectorPredictor(types.SimpleNamespace(**detector), tiny_config(), CATEGORIES)


@pytest.mark.parametrize('kind', ['nothing', 'empty', 'a file'])
def test_no_model(tmp_path, kind):
    path = tmp_path / 'there'
    if kind == 'empty':
        path.mkdir()
    elif kind == 'a file':
        path.write_text('')
    with pytest.raises(InferenceError, match='there: no model; give a directory that `mrcnn train` wrote') as error:
        predictor.load_predictor(path)
    assert '\n' not in str(error.value)


def test_a_saved_model_of_somebody_else(tmp_path):
    module = Served(1)
    tf.saved_model.save(module, str(tmp_path / 'other'))
    with pytest.raises(InferenceError, match=r'other: cannot be loaded \([^ ]*mrcnn.json: No such file') as error:
        predictor.load_predictor(tmp_path / 'other')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('described', [{'paste': 'detectron'}, {'categories': [{'id': 1}], 'paste': 'detectron'}, [1]])
def test_a_description_that_lacks_a_part(tmp_path, described):
    folder = tmp_path / 'saved'
    (folder / 'assets.extra').mkdir(parents=True)
    (folder / 'saved_model.pb').write_bytes(b'')
    (folder / 'assets.extra' / 'mrcnn.json').write_text(json.dumps(described))
    with pytest.raises(InferenceError, match='saved: cannot be loaded'):
        predictor.load_predictor(folder)


def test_a_damaged_saved_model(tmp_path):
    folder = export(tmp_path / 'saved')
    (folder / 'saved_model.pb').write_bytes(b'not a protocol buffer')
    with pytest.raises(InferenceError, match='saved: cannot be loaded'):
        predictor.load_predictor(folder)


def damaged(folder, kind):
    path = folder / f'{kind}.jpg'
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    if kind == 'cut':
        noise.save(path)
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == 'gif':
        noise.save(path, 'GIF')
    elif kind == 'cut png':
        noise.save(path, 'PNG')
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'text':
        path.write_text('hello')
    return path


@pytest.mark.parametrize('kind, reason', [
    ('cut', 'the file is damaged or cut'), ('cut png', 'the file is damaged or cut'),
    ('empty', 'the file is empty; copy it again'),
    *((kind, 'neither a JPEG nor a PNG; convert it to one') for kind in ('gif', 'text'))])
def test_an_image_that_cannot_be_decoded(versions, tmp_path, kind, reason):
    path = damaged(tmp_path, kind)
    for use in (sources.read_image, predictor.load_predictor(versions)):
        with pytest.raises(InferenceError, match=f'{kind}.jpg: {reason}') as error:
            use(path)
        assert '\n' not in str(error.value)


def test_an_image_that_is_not_there(versions, tmp_path):
    with pytest.raises(InferenceError, match='none.png: No such file or directory; give an image file'):
        predictor.load_predictor(versions)([tmp_path / 'none.png'])
    with pytest.raises(InferenceError, match='Is a directory'):
        sources.read_image(tmp_path)


def tiny_config():
    config = Config()
    data, model = config.data, config.model
    data.short_sides, data.test_short_side, data.canvases = [32], 32, [[32, 64], [64, 32]]
    data.long_side = data.test_long_side = 64
    model.num_classes, model.backbone.name, model.backbone.fpn_channels = 2, 'resnet18', 8
    model.anchors.sizes = [[8.], [16.], [32.], [64.], [128.]]
    model.box_head.width, model.mask_head.width = 8, 8
    model.rpn.pre_nms_test = model.rpn.post_nms_test = 20
    model.detections.max_detections, model.detections.score_threshold = 5, 0.
    return config


def test_a_model_directory(tmp_path):
    config = tiny_config()
    model = build_detector(config.model)
    for variable in model.variables:
        if len(variable.shape) > 1:    # kernels, the frozen ones too: the same in every run, by name
            name = '/'.join(variable_path(variable).split('/')[-4:])
            rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
            variable.assign(rng.normal(0, 1 / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
    model_directory.create(tmp_path / 'run', config, CATEGORIES)
    model.compile(tf.keras.optimizers.SGD(0.1))
    checkpoints.Checkpoints(tmp_path / 'run', model, keep=1).save(3)
    loaded = predictor.load_predictor(tmp_path / 'run')
    assert list(loaded.categories) == CATEGORIES and loaded.paste == 'pixel_center'

    pixels = np.random.default_rng(0).integers(0, 256, (128, 80, 3), np.uint8)    # portrait: 51 x 32 on 64 x 32
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    found = loaded(tmp_path / 'a.png')
    resized = images.resize(tf.constant(pixels, tf.float32), [51, 32])
    expected = model({'images': tf.pad(resized, [[0, 13], [0, 0], [0, 0]])[None], 'sizes': tf.constant([[51., 32.]])})
    valid = expected['valid'][0].numpy()
    assert valid.any() and len(found) == valid.sum()
    scaled = expected['boxes'][0].numpy()[valid] * [128 / 51, 80 / 32, 128 / 51, 80 / 32]
    np.testing.assert_allclose(found.boxes, scaled, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected['scores'][0].numpy()[valid], atol=1e-4)
    np.testing.assert_allclose(found.instances.masks, expected['masks'][0].numpy()[valid], atol=1e-3)
    assert found.boxes.min() >= 0 and (found.boxes <= [128, 80, 128, 80]).all()


def test_an_unfinished_model_directory(tmp_path):
    model_directory.create(tmp_path / 'run', tiny_config(), CATEGORIES)
    with pytest.raises(ValueError, match='run has no checkpoint yet'):
        predictor.load_predictor(tmp_path / 'run')


DEVICES = """
import threading
import tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],
                                           [tf.config.LogicalDeviceConfiguration()] * 2)
from mrcnn_tf.detectors.inference import tracer
from mrcnn_tf.layers.normalization import ConvNorm, Norm
from mrcnn_tf.serving.predictor import OnDevices

together = threading.Barrier(2)    # fails unless both devices work at the same time

class Fake:
    categories, paste, rule, batch_size = [], 'pixel_center', None, 3

    def __init__(self):
        self.layer = ConvNorm(Norm('frozen'), 2, 3)
        self.layer(tf.zeros([1, 4, 4, 2]))
        self.run = tracer(self.layer, final=True)(self.layer, False)

    def detect(self, encoded):
        together.wait(60)
        found = self.run(tf.ones([1, 4, 4, 2]))
        weight = tf.convert_to_tensor(self.layer.conv.kernel)
        return [found.device[-5:], weight.device[-5:]]

loaded = OnDevices(['CPU:0', 'CPU:1'], Fake)
results = []
threads = [threading.Thread(target=lambda: results.append(loaded.detect([]))) for _ in range(4)]
[each.start() for each in threads], [each.join() for each in threads]
print(loaded.concurrency, loaded.batch_size, *sorted(' '.join(result) for result in results))
"""


def test_devices_take_batches_at_the_same_time():
    done = subprocess.run([sys.executable, '-c', DEVICES], text=True, capture_output=True, timeout=200,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert done.stdout.split('\n')[0] == '2 3 ' + ' '.join(['CPU:0 CPU:0'] * 2 + ['CPU:1 CPU:1'] * 2), done.stderr

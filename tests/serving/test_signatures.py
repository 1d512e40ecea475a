"""The signatures of an exported model, with a network that finds the whole image and its upper left quarter."""
from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf.config import Config
from mrcnn_tf.input import decoding
from mrcnn_tf.serving import signatures as serving

LIMIT, SIDE = 3, 4
RNG = np.random.default_rng(0)
WIDE, TALL = (RNG.integers(0, 256, shape, np.uint8) for shape in ((20, 40, 3), (64, 32, 3)))
SPEC = {'boxes': tf.TensorSpec([LIMIT, 4]), 'scores': tf.TensorSpec([LIMIT]),
        'labels': tf.TensorSpec([LIMIT], tf.int32), 'valid': tf.TensorSpec([LIMIT], tf.bool),
        'masks': tf.TensorSpec([LIMIT, SIDE, SIDE])}
Outputs = dict[str, np.ndarray]


def find(images: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
    """The score of the whole image is the mean of its pixels over 255, that of the quarter 0.1."""
    whole = tf.pad(sizes, [[0, 0], [2, 0]])
    score = tf.reduce_sum(images) / tf.reduce_prod(sizes) / 3 / 255
    masks = tf.reshape(tf.range(SIDE * SIDE, dtype=tf.float32) / 15, [SIDE, SIDE])
    return {'boxes': tf.stack([whole, whole / 2, tf.zeros_like(whole)], axis=1), 'scores': tf.stack([[score, .1, 0.]]),
            'labels': tf.constant([[2, 1, 0]]), 'valid': tf.constant([[True, True, False]]),
            'masks': tf.stack([masks, 1 - masks, 0 * masks])[None]}


@pytest.fixture(scope='module')
def answers() -> serving.Answers:
    """Images are resized to a shorter side of 32 px and may have 2500 pixels."""
    data = Config().data
    data.test_short_side, data.test_long_side, data.max_pixels = 32, 64, 2500
    return serving.Answers(serving.Network(tf.function(find, autograph=False), SPEC, 'pixel_center'), data, [70, 3])


@pytest.fixture(scope='module')
def signed(answers: serving.Answers) -> dict[str, Any]:
    return serving.signatures(answers)


def encoded(image: np.ndarray, kind: str = 'PNG') -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def ask(signature: Any, *given: Any) -> Outputs:
    return {name: value.numpy() for name, value in signature(*map(tf.constant, given)).items()}


def inputs_of(signature: Any) -> dict[str, tf.TensorSpec]:
    return {spec.name: spec for spec in tf.nest.flatten(signature.structured_input_signature)}


def example(**features: bytes) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature={
        name.replace('_', '/'): tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()})).SerializeToString()


FILES = [encoded(WIDE), encoded(TALL)]


def test_inputs_and_outputs(signed: dict[str, Any]) -> None:
    def text(specs: dict[str, tf.TensorSpec]) -> str:
        return ', '.join(f'{name} {spec.dtype.name} {spec.shape.as_list()}' for name, spec in sorted(specs.items()))

    ours = ('boxes float32 [None, 3, 4], category_ids int32 [None, 3], labels int32 [None, 3], '
            'masks float32 [None, 3, 4, 4], scores float32 [None, 3], sizes int32 [None, 2], status int32 [None], '
            'valid bool [None, 3]')
    known = ('detection_boxes float32 [None, 3, 4], detection_classes {0} [None, 3], '
             'detection_masks float32 [None, 3, 4, 4], detection_scores float32 [None, 3], ')
    assert {name: (text(inputs_of(each)), text(each.structured_outputs)) for name, each in signed.items()} == {
        'serving_default': ('image_bytes string [None]',
                            known.format('float32') + 'num_detections float32 [None], status int32 [None, 1]'),
        'detect': ('image_bytes string [None]', ours),
        'detect_pixels': ('images uint8 [None, None, None, 3], sizes int32 [None, 2]', ours),
        'detect_examples': ('tf_example string [None]', ours),
        'model_garden': ('inputs string [None]', known.format('int32') + 'image_info float32 [None, 4, 2], '
                         'num_detections int32 [None], status int32 [None]')}


def test_detections_of_files(signed: dict[str, Any]) -> None:
    found = ask(signed['detect'], FILES)
    assert found['sizes'].tolist() == [[20, 40], [64, 32]] and found['status'].tolist() == [0, 0]
    np.testing.assert_allclose(found['boxes'][0], [[0, 0, 20, 40], [0, 0, 10, 20], [0, 0, 0, 0]])
    assert found['labels'].tolist() == [[2, 1, 0]] * 2 and found['category_ids'].tolist() == [[3, 70, 0]] * 2
    np.testing.assert_allclose(found['scores'][1, 0], TALL.mean() / 255, atol=1e-5)    # it keeps its size


def test_pixels_and_records_give_what_files_give(signed: dict[str, Any]) -> None:
    expected = ask(signed['detect'], FILES)
    padded = np.stack([np.pad(WIDE, ((0, 44), (0, 0), (0, 0))), np.pad(TALL, ((0, 0), (0, 8), (0, 0)))])
    for found in (ask(signed['detect_pixels'], padded, [[20, 40], [64, 32]]),
                  ask(signed['detect_examples'], [example(image_encoded=each) for each in FILES])):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)


DAMAGED = {
    'empty': (b'', decoding.NOT_AN_IMAGE), 'text': (b'hello', decoding.NOT_AN_IMAGE),
    'gif': (encoded(WIDE, 'GIF'), decoding.NOT_AN_IMAGE), 'cut png': (FILES[0][:300], decoding.DAMAGED),
    'changed png': (FILES[0][:300] + b'abcd' + FILES[0][304:], decoding.DAMAGED),
    'cut jpeg': (encoded(WIDE, 'JPEG')[:-200], decoding.DAMAGED), 'marker alone': (b'\xff\xd8\xff', decoding.DAMAGED),
    'large': (encoded(np.zeros((51, 50, 3), np.uint8)), decoding.TOO_LARGE)}


@pytest.mark.parametrize('signature', ['detect', 'detect_examples'])
def test_no_image_makes_its_neighbors_fail(signed: dict[str, Any], signature: str) -> None:
    images = [FILES[0], *(image for image, _ in DAMAGED.values()), FILES[1]]
    records = [example(image_encoded=image) for image in images] if signature == 'detect_examples' else images
    found = ask(signed[signature], records)
    assert found['status'].tolist() == [0, *(status for _, status in DAMAGED.values()), 0]
    for name, value in ask(signed['detect'], FILES).items():
        np.testing.assert_array_equal(found[name][[0, -1]], value, name)
        assert name == 'status' or not found[name][1:-1].any()


def test_records_without_an_image(signed: dict[str, Any]) -> None:
    records = [b'no record', example(image_format=b'png'), example(image_encoded=FILES[0])]
    found = ask(signed['detect_examples'], records)
    assert found['status'].tolist() == [decoding.DAMAGED, decoding.DAMAGED, decoding.OK]


@pytest.mark.parametrize('size, status', [
    ((0, 5), decoding.DAMAGED), ((5, -1), decoding.DAMAGED), ((61, 60), decoding.DAMAGED),
    ((60, 60), decoding.TOO_LARGE), ((50, 50), decoding.OK)],
    ids=['no rows', 'negative', 'beyond the array', 'large', 'at the limit'])
def test_sizes_of_pixels(signed: dict[str, Any], size: tuple[int, int], status: int) -> None:
    assert ask(signed['detect_pixels'], np.zeros((1, 60, 60, 3), np.uint8), [size])['status'].tolist() == [status]


@pytest.mark.parametrize('name', ['serving_default', 'detect', 'detect_examples', 'model_garden'])
def test_a_request_without_images(signed: dict[str, Any], name: str) -> None:
    found = signed[name](tf.constant([], tf.string))
    assert {value.shape[0] for value in found.values()} == {0}


def test_a_client_of_the_object_detection_api(signed: dict[str, Any]) -> None:
    """The steps of `run_inference_for_single_image` in its tutorial."""
    outputs = signed['serving_default'](tf.constant(FILES[:1]))
    count = int(outputs.pop('num_detections').numpy()[0])
    found = {name: value[0, :count].numpy() for name, value in outputs.items()}
    assert count == 2 and found['detection_classes'].tolist() == [3, 70]    # the data set's own ids
    np.testing.assert_allclose(found['detection_boxes'], [[0, 0, 1, 1], [0, 0, .5, .5]])
    assert found['detection_masks'].shape == (2, SIDE, SIDE) and found['status'].tolist() == [0]


def test_a_client_of_model_garden(signed: dict[str, Any]) -> None:
    found = ask(signed['model_garden'], [*FILES, b''])
    assert found['num_detections'].tolist() == [2, 2, 0]
    np.testing.assert_allclose(found['image_info'][0], [[20, 40], [32, 64], [1.6, 1.6], [0, 0]])
    original = found['detection_boxes'] / np.tile(found['image_info'][:, 2], 2)[:, None].clip(1e-9)
    np.testing.assert_allclose(original[:2, 0], [[0, 0, 20, 40], [0, 0, 64, 32]], rtol=1e-5)


@pytest.mark.parametrize('input_type, name, given', [
    ('image_tensor', 'input_tensor', WIDE[None]), ('tf_example', 'tf_example', [example(image_encoded=FILES[0])])])
def test_other_inputs_of_the_default_signature(
        answers: serving.Answers, signed: dict[str, Any], input_type: str, name: str, given: Any) -> None:
    default = serving.default_signature(answers, input_type)
    assert list(inputs_of(default)) == [name]
    found = ask(default, given)
    for key, value in ask(signed['serving_default'], FILES[:1]).items():
        np.testing.assert_array_equal(found[key], value, key)

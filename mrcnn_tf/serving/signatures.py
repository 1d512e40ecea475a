"""The signatures of an exported model: images in several forms in, detections by the names of several clients out.

B images of a request (0 or more), D detections per image. The model processes one image at a time, on a canvas of its
own size, as in evaluation. The answer to an image does not depend on the other images of its request. No image makes a
request fail: `status` tells which ones could not be used.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager as ContextManager
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_tf.config import DataConfig
from mrcnn_tf.input import decoding, images
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.serving import mask_forms

Detections = dict[str, tf.Tensor]

DEFAULT, DETECT = 'serving_default', 'detect'
_ENCODED = 'image/encoded'    # the feature of a tf.train.Example
_READ = ('images', 'sizes', 'original_sizes')    # of the batch of one image
_PER_IMAGE = {'status': tf.TensorSpec([], tf.int32), 'sizes': tf.TensorSpec([2], tf.int32),
              'resized': tf.TensorSpec([2], tf.float32), 'canvas': tf.TensorSpec([2], tf.int32)}


class Network(NamedTuple):
    """A detector as a function of one image.

    call: images float32 [1, H, W, 3] and sizes float32 [1, 2] -> detections [1, D, ...], boxes in px of the canvas.
    spec: of the detections of an image, `Detector.output_spec`.
    paste: the dialect of pasting masks.
    variables: those that `call` reads.
    """
    call: Callable[[tf.Tensor, tf.Tensor], Detections]
    spec: dict[str, tf.TensorSpec]
    paste: str
    variables: Sequence[tf.Variable] = ()


class Answers:
    """The answers of a network to images.

    Each method returns, for the B images of a request:

    - `status` int32 [B]: see `decoding.try_decode`; an image that is not OK has no detections
    - `boxes` float32 [B, D, 4] px of the image, `scores` float32 [B, D], `labels` int32 [B, D], `valid` bool [B, D] and
      the outputs of further branches, best first; zeros where not valid
    - `category_ids` int32 [B, D]: the data set's own ids
    - masks in the chosen form, `masks` and its suffix
    - `sizes` int32 [B, 2]: height and width of the image, px; `resized` float32 [B, 2] and `canvas` int32 [B, 2]: those
      of the resized image, without and with padding

    Args:
        network: the detector.
        data: the function reads the size limit, the rule for EXIF and the resize rule.
        category_ids: of the labels 1..K, in order.
        masks: a key of `mask_forms.FORMS`.
    """

    def __init__(self, network: Network, data: DataConfig, category_ids: Sequence[int], masks: str = 'float32') -> None:
        self._network, self._data, self._form = network, data, mask_forms.FORMS[masks]
        self._rule, self._ids = decoding.Rule.of(data), [0, *category_ids]
        # Traced once for all signatures.
        self.of_bytes = tf.function(self._of_bytes, [tf.TensorSpec([None], tf.string)], autograph=False)
        self.of_pixels = tf.function(self._of_pixels, [tf.TensorSpec([None, None, None, 3], tf.uint8),
                                                       tf.TensorSpec([None, 2], tf.int32)], autograph=False)

    def _of_bytes(self, encoded: tf.Tensor) -> Detections:
        """Answer JPEG or PNG files, string [B]."""
        return self._each(encoded, lambda each: decoding.try_decode(each, self._rule, self._entry, _no_image()))

    def of_examples(self, serialized: tf.Tensor) -> Detections:
        """Answer files in records, string [B]: tf.train.Examples with `image/encoded`."""
        def file(each: tf.Tensor) -> tf.Tensor:
            return tf.io.parse_single_example(each, {_ENCODED: tf.io.FixedLenFeature([], tf.string)})[_ENCODED]

        return self._each(serialized, lambda each: decoding.try_decode(
            each, self._rule, self._entry, _no_image(), file))

    def _of_pixels(self, pixels: tf.Tensor, sizes: tf.Tensor) -> Detections:
        """Answer RGB images, uint8 [B, H, W, 3], of int32 [B, 2] rows and columns each; the rest is padding."""
        def read(element: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, Detections]:
            image, size = element
            status = tf.where(tf.reduce_all((size >= 1) & (size <= tf.shape(image)[:2])), decoding.OK, decoding.DAMAGED)
            if self._rule.max_pixels is not None:
                large = tf.reduce_prod(tf.cast(size, tf.int64)) > self._rule.max_pixels
                status = tf.where(large & (status == decoding.OK), decoding.TOO_LARGE, status)
            return status, tf.cond(status == decoding.OK, lambda: self._entry(image[:size[0], :size[1]]), _no_image)

        return self._each((pixels, sizes), read)

    def _entry(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        with not_compiled():
            batch = images.batch_of_one(pixels, self._data)
        return {name: batch[name] for name in _READ}

    def _each(self, elements: Any, read: Callable[[Any], tuple[tf.Tensor, Detections]]) -> Detections:
        # One image at a time: its arithmetic uses all cores, and memory does not grow with the request.
        return tf.map_fn(lambda element: self._answer(*read(element)), elements, parallel_iterations=1,
                         fn_output_signature={**self._spec(), **_PER_IMAGE})

    def _answer(self, status: tf.Tensor, batch: dict[str, tf.Tensor]) -> Detections:
        spec = self._spec()
        found = tf.cond(status == decoding.OK, lambda: self._detect(batch),
                        lambda: {name: tf.zeros(each.shape, each.dtype) for name, each in spec.items()})
        return {**found, 'status': status, 'sizes': batch['original_sizes'][0], 'resized': batch['sizes'][0],
                'canvas': tf.shape(batch['images'])[1:3]}

    def _detect(self, batch: dict[str, tf.Tensor]) -> Detections:
        """Return the detections of a batch of one image."""
        canvas = tf.ensure_shape(batch['images'], [1, None, None, 3])
        sizes, original = (tf.ensure_shape(batch[name], [1, 2]) for name in ('sizes', 'original_sizes'))
        found = self._network.call(canvas, sizes)
        found = {**found, 'boxes': box_ops.to_original(found['boxes'], sizes, original)}
        found = {name: value[0] for name, value in found.items()}
        found['category_ids'] = tf.gather(self._ids, found['labels'])
        if 'masks' in found:
            masks = mask_forms.Found(found.pop('masks'), found['boxes'], found['valid'], original[0],
                                     self._network.paste)
            found['masks' + self._form.suffix] = self._form.encode(masks)
        return found

    def _spec(self) -> dict[str, tf.TensorSpec]:
        """Return the spec of the detections of one image."""
        spec = dict(self._network.spec)
        spec['category_ids'] = spec['labels']
        if 'masks' in spec:
            limit, side, _ = spec.pop('masks').shape
            spec['masks' + self._form.suffix] = self._form.spec(limit, side)
        return spec


def not_compiled() -> ContextManager[None]:
    """Return a context for operations of a graph that XLA, if a server uses it, leaves out.

    Their shapes depend on the image, and XLA would compile them again for each size.
    """
    scope: ContextManager[None] = tf.xla.experimental.jit_scope(compile_ops=False)
    return scope


def _no_image() -> dict[str, tf.Tensor]:
    return {'images': tf.zeros([1, 0, 0, 3]), 'sizes': tf.zeros([1, 2]), 'original_sizes': tf.zeros([1, 2], tf.int32)}


def plain(answers: Detections) -> Detections:
    """Return the outputs of this project's signatures."""
    return {name: value for name, value in answers.items() if name not in ('resized', 'canvas')}


def object_detection_api(answers: Detections) -> Detections:
    """Return the outputs of the TF Object Detection API's exporter, `exporter_lib_v2.py`: all are float32.

    Boxes are fractions of the image's sides, classes are the data set's own ids. `status` is int32 [B, 1]: clients of
    the API take `value[0, :n]` of all outputs but `num_detections`.
    """
    sides = tf.cast(tf.tile(tf.maximum(answers['sizes'], 1), [1, 2]), tf.float32)
    return {**_detection_names(answers), 'detection_boxes': answers['boxes'] / sides[:, None],
            'detection_classes': tf.cast(answers['category_ids'], tf.float32),
            'num_detections': tf.cast(_count(answers), tf.float32), 'status': answers['status'][:, None]}


def model_garden(answers: Detections) -> Detections:
    """Return the outputs of Model Garden's exporter, `official/vision/serving/detection.py`, for Mask R-CNN.

    Boxes are in px of the resized image. `image_info` float32 [B, 4, 2] has the image's sides, those of the canvas, the
    scale from the image to the resized one, and the offset, which is 0.
    """
    sizes, canvas = (tf.cast(answers[name], tf.float32) for name in ('sizes', 'canvas'))
    scale = answers['resized'] / tf.maximum(sizes, 1.)
    return {**_detection_names(answers), 'detection_boxes': answers['boxes'] * tf.tile(scale, [1, 2])[:, None],
            'detection_classes': answers['category_ids'], 'num_detections': _count(answers),
            'image_info': tf.stack([sizes, canvas, scale, tf.zeros_like(scale)], axis=1), 'status': answers['status']}


def _detection_names(answers: Detections) -> Detections:
    """Return scores, masks and the outputs of further branches as `detection_...`."""
    others = {'boxes', 'labels', 'valid', 'category_ids', *_PER_IMAGE}
    return {f'detection_{name}': value for name, value in answers.items() if name not in others}


def _count(answers: Detections) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(answers['valid'], tf.int32), axis=1)


def _of_whole_images(answers: Answers) -> Callable[[tf.Tensor], Detections]:
    def answer(pixels: tf.Tensor) -> Detections:
        shape = tf.shape(pixels)
        return answers.of_pixels(pixels, tf.tile(shape[None, 1:3], [shape[0], 1]))

    return answer


# The inputs that `serving_default` may have, by type: the name, the spec and how it is answered.
INPUT_TYPES: dict[str, tuple[str, tf.TensorSpec, Callable[[Answers], Callable[[tf.Tensor], Detections]]]] = {
    'image_bytes': ('image_bytes', tf.TensorSpec([None], tf.string), lambda answers: answers.of_bytes),
    'image_tensor': ('input_tensor', tf.TensorSpec([None, None, None, 3], tf.uint8), _of_whole_images),
    'tf_example': ('tf_example', tf.TensorSpec([None], tf.string), lambda answers: answers.of_examples)}


def signatures(answers: Answers, input_type: str = 'image_bytes') -> dict[str, Any]:
    """Return the concrete functions by the name of their signature.

    Args:
        answers: the answers to name.
        input_type: of `serving_default`, a key of `INPUT_TYPES`.
    """
    strings = tf.TensorSpec([None], tf.string)
    return {
        DEFAULT: default_signature(answers, input_type),
        DETECT: _traced(answers.of_bytes, plain, image_bytes=strings),
        'detect_pixels': _traced(answers.of_pixels, plain, images=tf.TensorSpec([None, None, None, 3], tf.uint8),
                                 sizes=tf.TensorSpec([None, 2], tf.int32)),
        'detect_examples': _traced(answers.of_examples, plain, tf_example=strings),
        'model_garden': _traced(answers.of_bytes, model_garden, inputs=strings)}


def default_signature(answers: Answers, input_type: str) -> Any:
    """Return the concrete function of `serving_default`; see `signatures`."""
    name, spec, answer = INPUT_TYPES[input_type]
    return _traced(answer(answers), object_detection_api, **{name: spec})


def description_signature(text: str) -> Any:
    """Return the concrete function of the signature `describe`: the text for each element of `index` int32 [B].

    Clients of a server cannot read files of the export. The input is there because TF Serving's batching needs one.
    """
    def describe(index: tf.Tensor) -> Detections:
        return {'description': tf.fill(tf.shape(index), text)}

    return tf.function(describe, [tf.TensorSpec([None], tf.int32, 'index')], autograph=False).get_concrete_function()


def _traced(answer: Callable[..., Detections], names: Callable[[Detections], Detections], **inputs: tf.TensorSpec
            ) -> Any:
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()]
    return tf.function(lambda *given: names(answer(*given)), specs, autograph=False).get_concrete_function()

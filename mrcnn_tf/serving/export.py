"""Export of a SavedModel for TF Serving. It takes the bytes of image files and returns instances.

B images of a request (0 or more), D detections per image, K classes, m side of a mask in cells (28).

The graph decodes and resizes the images. Loading the SavedModel needs TensorFlow only, neither this package nor Keras.
The model processes one image at a time, on a canvas of its own size, as in evaluation. The result for an image does not
depend on the other images of its request. Height and width are dynamic; all other shapes are static.
"""
from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from mrcnn_tf import __version__, files
from mrcnn_tf.config import Config, DataConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.files.text import write_error
from mrcnn_tf.input import decoding, images
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.weights.model_directory import restore_model

_log = logging.getLogger(__name__)

Detections = dict[str, tf.Tensor]

_DESCRIPTION = 'assets.extra/mrcnn.json'    # a directory that TF Serving leaves alone
_SIGNATURE = 'serving_default'


class ExportError(ValueError):
    """A model that cannot be exported; the message is one line: what is wrong, the remedy."""


def export(model_dir: str | os.PathLike[str], output: str | os.PathLike[str], checkpoint: str | int = 'best',
           ) -> pathlib.Path:
    """Write a trained model as the next version of the SavedModel `output`: `output/1`, `output/2`, ...

    The version gets its final name when it is complete, so TF Serving never loads a part of one. The signature
    `serving_default` takes `image_bytes`, string [B], JPEG or PNG. Its outputs are sorted by score, with zeros in slots
    that are not valid:

    - `boxes` float32 [B, D, 4]: y1, x1, y2, x2 in px of the image. With `data.exif=apply`, the image is the rotated
      one, as viewers show it.
    - `scores` float32 [B, D], `labels` int32 [B, D] (1..K), `valid` bool [B, D]
    - `category_ids` int32 [B, D]: the data set's own ids
    - `sizes` int32 [B, 2]: height and width of the image in px
    - `masks` float32 [B, D, m, m], with a mask branch: probabilities over the box

    The file `assets.extra/mrcnn.json` holds the categories, the dialect of pasting, the score threshold, `exif` and
    `max_pixels`.

    Args:
        model_dir: a model directory.
        output: directory of all versions, created if missing. Its name is the model's name in TF Serving.
        checkpoint: as `restore_model`.

    Returns:
        The path of the version.

    Raises:
        CheckpointError, ConfigError, ManifestError: there is no model directory or no checkpoint, or a part is damaged.
        ExportError: a category id does not fit int32, or the model is a fast_rcnn, which needs proposals.
        OSError: the disk is full, no permission, or another export wrote the version.

    Example:
        >>> import mrcnn_tf as m
        >>> str(m.export('runs/mine', 'served/mine'))
        'served/mine/1'
    """
    model, config, categories = restore_model(model_dir, 'op', checkpoint)
    return export_detector(model, config, categories, output)


def export_detector(detector: Detector, config: Config, categories: Sequence[Category],
                    output: str | os.PathLike[str]) -> pathlib.Path:
    """Write a detector as the next version of the SavedModel `output`, and return the path of the version.

    The signature is that of `export`; further branches of the detector add their predictions, relative to the boxes.

    Args:
        detector: with the 'op' engine.
        config: the function reads `data` and `model.detections`.
        categories: of the detector's labels 1..K.
        output: directory of all versions.

    Raises:
        ExportError, OSError: as `export`.

    Example:
        >>> import mrcnn_tf as m
        >>> detector, config, categories = m.load_detector('runs/mine')
        >>> str(m.export_detector(detector, config, categories, 'served/detector'))
        'served/detector/1'
    """
    if 'proposals' in detector.inputs_read:
        raise ExportError('a fast_rcnn needs the proposals of each image, which no request holds; export a faster_rcnn')
    if detector.engine != 'op':
        raise ExportError("the detector has the 'xla' engine; build it with engine='op' for images of any size")
    if config.data.test_scales or config.data.test_flip:
        _log.warning('%s: a SavedModel has one view of each image, at data.test_short_side: data.test_scales and '
                     'data.test_flip are left out', output)
    module, signature = _traced(serving_function(detector, config.data, _category_ids(categories)))
    version = pathlib.Path(output) / str(_newest_version(pathlib.Path(output)) + 1)
    try:
        with files.atomic_path(version) as temporary:
            # Nobody needs the gradient of a signature, so custom gradients are left out.
            tf.saved_model.save(module, str(temporary), {_SIGNATURE: signature},
                                tf.saved_model.SaveOptions(experimental_custom_gradients=False))
            files.write_json(temporary / _DESCRIPTION, _description(config, categories))
    except tf.errors.OpError as error:
        raise OSError(f'{version}: {write_error(error)}; make room there or give another --output') from None
    return version


def serving_function(model: Detector, data: DataConfig, category_ids: Sequence[int]
                     ) -> Callable[[tf.Tensor], Detections]:
    """Return the function of the signature: `image_bytes` string [B] -> the outputs of `export`.

    Args:
        model: with the 'op' engine.
        category_ids: of the labels 1..K, in order.
    """
    ids = tf.constant([0, *category_ids], tf.int32)

    def one(encoded: tf.Tensor, number: tf.Tensor) -> Detections:
        name = tf.strings.join(['image_bytes[', tf.strings.as_string(number), ']'])
        batch = decoding.decode(encoded, name, decoding.Rule.of(data),
                                then=lambda pixels: images.batch_of_one(pixels, data))
        found = _detect(model, batch)
        return {**found, 'category_ids': tf.gather(ids, found['labels']), 'sizes': batch['original_sizes'][0]}

    def serve(image_bytes: tf.Tensor) -> Detections:
        elements = image_bytes, tf.range(tf.size(image_bytes))
        # One image at a time: its arithmetic uses all cores, and memory does not grow with the request.
        return tf.map_fn(lambda element: one(*element), elements, parallel_iterations=1,
                         fn_output_signature=_output_spec(model))

    return serve


def _detect(model: Detector, batch: dict[str, tf.Tensor]) -> Detections:
    """Return the detections [D, ...] of a batch of one image; boxes are in px of the original image."""
    detections = model({key: batch[key] for key in ('images', 'sizes')}, training=False)
    boxes = box_ops.to_original(detections['boxes'], batch['sizes'], batch['original_sizes'])
    return {name: value[0] for name, value in {**detections, 'boxes': boxes}.items()}


def _output_spec(model: Detector) -> dict[str, tf.TensorSpec]:
    """Return the spec of the outputs for one image."""
    spec = model.output_spec()
    return {**spec, 'category_ids': spec['labels'], 'sizes': tf.TensorSpec([2], tf.int32)}


def _traced(serve: Callable[[tf.Tensor], Detections]) -> tuple[tf.Module, Any]:
    """Return a module that holds the variables, and the signature.

    The module is not the Keras model, which TensorFlow would save layer by layer.
    """
    function = tf.function(serve, autograph=False, input_signature=[tf.TensorSpec([None], tf.string, 'image_bytes')])
    signature = function.get_concrete_function()    # saving would trace a tf.function once more
    module = tf.Module()
    module.weights = list(signature.graph.variables)
    return module, signature


def _category_ids(categories: Sequence[Category]) -> list[int]:
    for category in categories:
        if not -2 ** 31 <= category.id < 2 ** 31:
            raise ExportError(f'category {category.name!r} has the id {category.id}, which int32 does not hold; '
                              'give it a smaller one in categories.json')
    return [category.id for category in categories]


def _newest_version(output: pathlib.Path) -> int:
    """Return the number of the newest version, 0 if there is none."""
    return max((int(path.name) for path in output.glob('*') if path.name.isdecimal()), default=0)


def _description(config: Config, categories: Sequence[Category]) -> dict[str, object]:
    return {'categories': [dataclasses.asdict(category) for category in categories],
            'paste': config.model.detections.paste,
            'score_threshold': config.model.detections.score_threshold,
            'model': config.model.kind,
            'exif': config.data.exif,
            'max_pixels': config.data.max_pixels,
            'mrcnn_tf_version': __version__}

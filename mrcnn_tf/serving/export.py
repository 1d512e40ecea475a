"""Export of a SavedModel for TF Serving: versions, the network of a detector, the description beside it.

K classes; see `signatures.py` for the inputs and outputs.

The graph decodes and resizes the images. Loading the SavedModel needs TensorFlow only, neither this package nor Keras.
Height and width are dynamic; all other shapes are static.
"""
from __future__ import annotations

import dataclasses
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf import __version__, files
from mrcnn_tf.config import Config, DataConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.files.text import write_error
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import server_kit
from mrcnn_tf.serving.canvas_network import canvas_network
from mrcnn_tf.serving.mask_forms import FORMS
from mrcnn_tf.serving.network import WEIGHTS, ExportError, network
from mrcnn_tf.serving.signatures import (
    DEFAULT,
    DETECT,
    INPUT_TYPES,
    Answers,
    Network,
    description_signature,
    signatures,
)
from mrcnn_tf.weights.model_directory import restore_model

_log = logging.getLogger(__name__)

_DESCRIPTION = 'assets.extra/mrcnn.json'    # a directory that TF Serving leaves alone
WARMUPS = ('clients', 'all')
_EXACT = 2 ** 24    # the integers below it are exact in float32


@dataclass(frozen=True)
class ExportOptions:
    """What an exported model takes and returns, and how it is stored.

    Attributes:
        masks: the form of the masks in all signatures: 'float32' (probabilities over the boxes), 'uint8' (255 times
            these), 'bits' (packed), 'png', 'rle' (COCO's code of the whole image) or 'image_png'.
        input_type: of the signature `serving_default`: 'image_bytes', 'image_tensor' or 'tf_example'.
        weights: 'variables', or 'constants': faster on a CPU, but each signature that is used takes several times the
            memory of the weights.
        warmup: the signatures that a server asks when it loads the model: 'clients', `serving_default` and `detect`
            (not with constants), or 'all', each of which takes seconds and memory.

    Raises:
        ExportError: a value is none of these.

    Example:
        >>> import mrcnn_tf as m
        >>> m.ExportOptions(masks='rle').input_type
        'image_bytes'
    """
    masks: str = 'float32'
    input_type: str = 'image_bytes'
    weights: str = 'variables'
    warmup: str = 'clients'

    def __post_init__(self) -> None:
        for name, known in (('masks', FORMS), ('input_type', INPUT_TYPES), ('weights', WEIGHTS),
                            ('warmup', WARMUPS)):
            value = getattr(self, name)
            if value not in known:
                raise ExportError(f'{name} is {value!r}; expected one of {", ".join(known)}')


def export(model_dir: str | os.PathLike[str], output: str | os.PathLike[str], checkpoint: str | int = 'best',
           options: ExportOptions | None = None, precision: str = 'float32', engine: str = 'op') -> pathlib.Path:
    """Write a trained model as the next version of the SavedModel `output`: `output/1`, `output/2`, ...

    The version gets its final name when it is complete, so TF Serving never loads a part of one. docs/serving.md lists
    the signatures with their inputs and outputs.

    The file `assets.extra/mrcnn.json` and the signature `describe` give the categories, the dialect of pasting, the
    form of the masks, the score threshold, `exif` and `max_pixels`.

    Args:
        model_dir: a model directory.
        output: directory of all versions, created if missing. Its name is the model's name in TF Serving.
        checkpoint: as `restore_model`.
        options: see `ExportOptions`; None: the defaults.
        precision: of convolutions and matrix products: 'float32' or 'bfloat16'.
        engine: 'op' (TensorFlow's kernels), or 'xla' (arithmetic on `data.canvases`, for servers that compile with XLA;
            takes twice as long on others).

    Returns:
        The path of the version.

    Raises:
        CheckpointError, ConfigError, ManifestError: there is no model directory or no checkpoint, or a part is damaged.
        ConfigError: engine is 'xla', and an image may be larger than all of `data.canvases`.
        ExportError: a category id does not fit int32, the model is a fast_rcnn, which needs proposals, or engine is
            'xla' and the weights are constants.
        ValueError: another precision.
        OSError: the disk is full, no permission, or another export wrote the version.

    Example:
        >>> import mrcnn_tf as m
        >>> str(m.export('runs/mine', 'served/mine'))
        'served/mine/1'
    """
    model, config, categories = restore_model(model_dir, engine, checkpoint, precision)
    return export_detector(model, config, categories, output, options)


def export_detector(detector: Detector, config: Config, categories: Sequence[Category],
                    output: str | os.PathLike[str], options: ExportOptions | None = None) -> pathlib.Path:
    """Write a detector as the next version of the SavedModel `output`, and return the path of the version.

    The signatures are those of `export`; further branches of the detector add their predictions, relative to the boxes.

    Args:
        detector: its engine is that of the export, see `export`.
        config: the function reads `data` and `model.detections`.
        categories: of the detector's labels 1..K.
        output: directory of all versions.
        options: as `export`.

    Raises:
        ExportError, OSError: as `export`.

    Example:
        >>> import mrcnn_tf as m
        >>> detector, config, categories = m.load_detector('runs/mine')
        >>> str(m.export_detector(detector, config, categories, 'served/detector'))
        'served/detector/1'
    """
    options = options or ExportOptions()
    warn_of_views(config.data, output)
    ids = _category_ids(categories)
    model = _network(detector, config, options.weights)
    module = tf.Module()    # not the Keras model, which TensorFlow would save layer by layer
    module.weights = list(model.variables)
    described = {**describe(config, categories), 'masks': options.masks, 'engine': detector.engine}
    functions = {**signatures(Answers(model, config.data, ids, options.masks), options.input_type),
                 'describe': description_signature(json.dumps(described))}
    version = pathlib.Path(output) / str(_newest_version(pathlib.Path(output)) + 1)
    try:
        with files.atomic_path(version) as temporary:
            # Nobody needs the gradient of a signature, so custom gradients are left out.
            tf.saved_model.save(module, str(temporary), functions,
                                tf.saved_model.SaveOptions(experimental_custom_gradients=False))
            requests = list(_warmup(functions, _shapes(config.data, detector.engine), options))
            server_kit.write_warmup(temporary, version.parent.resolve().name, requests)
            server_kit.replay(temporary, requests)
            files.write_json(temporary / _DESCRIPTION, described)
    except tf.errors.OpError as error:
        raise OSError(f'{version}: {write_error(error)}; make room there or give another --output') from None
    return version


def _category_ids(categories: Sequence[Category]) -> list[int]:
    for category in categories:
        if not -2 ** 31 <= category.id < 2 ** 31:
            raise ExportError(f'category {category.name!r} has the id {category.id}, which int32 does not hold; '
                              'give it a smaller one in categories.json')
        if abs(category.id) > _EXACT:
            _log.warning('category %r has the id %d, which the float32 of detection_classes rounds; read category_ids '
                         'of the signature detect', category.name, category.id)
    return [category.id for category in categories]


def _network(detector: Detector, config: Config, weights: str) -> Network:
    """Return the network of a detector with either engine."""
    paste = config.model.detections.paste
    if detector.engine == 'op':
        return network(detector, paste, weights)
    if weights == 'constants':
        raise ExportError("weights is 'constants', which the engine 'xla' would copy for each canvas; give 'variables'")
    return canvas_network(detector, config.data, paste)


def _shapes(data: DataConfig, engine: str) -> list[tuple[int, int]]:
    """Return the sizes of the images of the warm-up: each canvas, or the test size, landscape and portrait."""
    if engine == 'xla':    # each canvas has a network of its own
        return [(height, width) for height, width in data.canvases]
    sides = min(data.test_short_side, data.test_long_side), data.test_long_side
    return [sides, sides[::-1]]


def _warmup(functions: Mapping[str, Any], shapes: Sequence[tuple[int, int]], options: ExportOptions
            ) -> Iterator[server_kit.Request]:
    """Yield requests with a gray image of each shape to the signatures of `options.warmup`."""
    chosen = functions if options.warmup == 'all' else [DEFAULT, DETECT]
    if options.warmup == 'clients' and options.weights == 'constants':
        chosen = [DEFAULT]    # a second signature takes several times their memory
    for shape in shapes:
        image = np.full([*shape, 3], 128, np.uint8)
        file = tf.io.encode_png(image).numpy()
        record = tf.train.Example(features=tf.train.Features(feature={
            'image/encoded': tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))})).SerializeToString()
        encoded, pixels = np.array([file], object), image[None]
        inputs = {'image_bytes': encoded, 'inputs': encoded, 'tf_example': np.array([record], object),
                  'images': pixels, 'input_tensor': pixels, 'sizes': np.array([shape], np.int32),
                  'index': np.zeros(1, np.int32)}
        for name in functions:
            if name in chosen:
                specs = tf.nest.flatten(functions[name].structured_input_signature)
                yield name, {spec.name: inputs[spec.name] for spec in specs}


def _newest_version(output: pathlib.Path) -> int:
    """Return the number of the newest version, 0 if there is none."""
    return max((int(path.name) for path in output.glob('*') if path.name.isdecimal()), default=0)


def warn_of_views(data: DataConfig, output: str | os.PathLike[str]) -> None:
    """Log a warning if the settings ask for several views of an image, which no exported model has."""
    if data.test_scales or data.test_flip:
        _log.warning('%s: an exported model has one view of each image, at data.test_short_side: data.test_scales and '
                     'data.test_flip are left out', output)


def describe(config: Config, categories: Sequence[Category]) -> dict[str, Any]:
    """Return what a predictor of an exported model needs besides its network, for JSON."""
    return {'categories': [dataclasses.asdict(category) for category in categories],
            'paste': config.model.detections.paste,
            'score_threshold': config.model.detections.score_threshold,
            'model': config.model.kind,
            'exif': config.data.exif,
            'max_pixels': config.data.max_pixels,
            'mrcnn_tf_version': __version__}

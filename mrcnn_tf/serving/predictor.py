"""Predictors: a model directory, an exported model or a detector that turns images into predictions."""
from __future__ import annotations

import abc
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.augmentation import detection_function
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.detectors.devices import Copies
from mrcnn_tf.detectors.instances import Instances, instances_of, split_batch
from mrcnn_tf.files.progress import track
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import decoding, images
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import fixed_size, mask_forms, sources
from mrcnn_tf.serving.formats import FORMATS
from mrcnn_tf.serving.prediction import Prediction
from mrcnn_tf.serving.sources import Encoded, InferenceError, Source
from mrcnn_tf.weights.model_directory import restore_model

_ASSETS = 'assets.extra/mrcnn.json'
_OF_THE_REQUEST = ('category_ids', 'sizes', 'status')    # outputs of a SavedModel besides the detections

Found = tuple[Instances, tuple[int, int]]    # of one image: its detections, and its height and width


class Predictor(abc.ABC):
    """A trained model as a function of images.

    Attributes:
        categories: of the labels 1..K, in order.
        paste: the dialect of pasting masks, `model.detections.paste`.
        rule: the rule for images: sizes and EXIF. Boxes are in the pixels that `read_image` returns.
        batch_size: how many images of a list share a batch.
        concurrency: how many threads may use it at once to advantage.
    """
    categories: Sequence[Category]
    paste: str
    rule: decoding.Rule
    batch_size = concurrency = 1

    @abc.abstractmethod
    def detect(self, encoded: Sequence[Encoded]) -> list[Found]:
        """Return the detections of each image, in px of the image, and the image's size.

        Raises:
            InferenceError: an image cannot be decoded, or `rule` refuses it; the message names it.
        """

    @overload    # a str is a sequence of str too, and is one path
    def __call__(  # type: ignore[overload-overlap]
        self, given: Source, batch_size: int | None = None, progress: bool = True) -> Prediction: ...

    @overload
    def __call__(self, given: Sequence[Source], batch_size: int | None = None, progress: bool = True
                 ) -> list[Prediction]: ...

    def __call__(self, given: Any, batch_size: int | None = None, progress: bool = True
                 ) -> Prediction | list[Prediction]:
        """Return the prediction of an image, or a list of those of a list of images.

        Args:
            given: path of a JPEG or PNG file, the bytes of one, uint8 array [H, W, 3] (RGB) or [H, W] (gray), PIL
                image; or a list of them. An EXIF orientation is treated as `data.exif` says, also that of a PIL image.
            batch_size: images of a list that share a batch, if they have the same size; None: the model's
                `data.evaluation_batch_size`. A SavedModel processes one image at a time.
            progress: show the progress of a list.

        Raises:
            InferenceError: an image cannot be read, decoded or used; the message names the file, or its place in the
                list.
        """
        if not isinstance(given, list | tuple):
            return next(self.predictions([('image', given)], 1))
        predictions = self.stream(given, batch_size)
        return list(track(predictions, len(given), 'predicted') if progress and len(given) > 1 else predictions)

    def stream(self, given: Iterable[Source], batch_size: int | None = None) -> Iterator[Prediction]:
        """Yield the predictions of images one after the other; arguments and errors as for a call."""
        named = ((f'images[{number}]', image) for number, image in enumerate(given))
        return self.predictions(named, batch_size or self.batch_size)

    def predictions(self, named: Iterable[tuple[str, Source]], batch_size: int) -> Iterator[Prediction]:
        """Yield the predictions of images with names, which messages call those that are no paths."""
        remaining = iter(named)
        while batch := list(itertools.islice(remaining, batch_size)):
            encoded = [sources.encode(image, name) for name, image in batch]
            # An incomplete batch goes one by one: the graph of another batch size would take seconds to trace.
            parts = [encoded] if len(encoded) == batch_size else [[each] for each in encoded]
            found = itertools.chain.from_iterable(map(self.detect, parts))
            for (_, image), (instances, size) in zip(batch, found, strict=True):
                yield Prediction(instances, size, self.categories, self.paste, image, self.rule)


def load_predictor(path: str | os.PathLike[str], checkpoint: str | int = 'best', precision: str | None = None,
                   devices: Sequence[str] = ()) -> Predictor:
    """Return the model at `path`.

    Args:
        path: a model directory, a SavedModel, a directory of versions, of which the newest, or a LiteRT or ONNX file.
        checkpoint: of a model directory, as `restore_model`; of no effect for exported models.
        precision: of a model directory: 'float32' (the default) or 'bfloat16', of convolutions and matrix products.
        devices: of a model directory: TensorFlow's names of several devices, which take batches in turn, such as
            ['GPU:0', 'GPU:1']; each has the weights. Empty: the device that TensorFlow chooses.

    Raises:
        InferenceError: there is no such model, or a part of it is missing; a precision is given for an exported model.
        ValueError: another precision.

    Example:
        >>> import mrcnn_tf as m
        >>> predictor = m.load_predictor('runs/mine')
        >>> [category.name for category in predictor.categories]
        ['low', 'high']
    """
    path = pathlib.Path(path)
    if (path / 'config.yaml').is_file():
        def load() -> Predictor:
            return DetectorPredictor(*restore_model(path, 'op', checkpoint, precision or 'float32'), final=True)

        return OnDevices(devices, load) if devices else load()
    if precision:
        raise InferenceError(f'{path}: no model directory, and the precision of an exported model is chosen at its '
                             'export: `mrcnn export --precision`')
    if path.suffix in FORMATS and not path.is_dir():
        return ModelFile(path)
    versions = [p for p in path.iterdir() if p.name.isdecimal()] if path.is_dir() else []
    for candidate in (path, *sorted(versions, key=lambda p: int(p.name), reverse=True)):
        if (candidate / 'saved_model.pb').is_file():
            return SavedModel(candidate)
    raise InferenceError(f'{path}: no model; give a directory that `mrcnn train` wrote (config.yaml) or `mrcnn export` '
                         'wrote (saved_model.pb, or versions such as 1/saved_model.pb), or a .tflite or .onnx file')


class SavedModel(Predictor):
    """The `Predictor` of one version of a SavedModel, whose graph includes preprocessing."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Raise InferenceError if the SavedModel is damaged or `mrcnn export` did not write it."""
        remedy = 'give a SavedModel that `mrcnn export` wrote'
        try:
            described = files.read_json(directory / _ASSETS)
            self.categories = [Category(**category) for category in described['categories']]
            self.paste = described['paste']
            # Older exports have no rule: they take any size and ignore EXIF.
            self.rule = decoding.Rule(described.get('exif', 'ignore'), described.get('max_pixels'))
            self._loaded = tf.saved_model.load(str(directory))    # kept: the signature holds its variables weakly
            self._masks = described.get('masks', 'float32')
            signatures = self._loaded.signatures
            self._signature = signatures['detect' if 'detect' in signatures else 'serving_default']    # older exports
        except (OSError, ValueError, TypeError, LookupError, tf.errors.OpError) as error:
            raise InferenceError(f'{directory}: cannot be loaded ({error_line(error)}); {remedy}') from None

    def detect(self, encoded: Sequence[Encoded]) -> list[Found]:
        return [self._detect(each) for each in encoded]    # its graph processes one image at a time too

    def _detect(self, encoded: Encoded) -> Found:
        sources.refuse(encoded, self.rule)
        try:
            outputs = self._signature(image_bytes=tf.constant([encoded.content]))
        except tf.errors.InvalidArgumentError as error:    # of an older export, which has no status
            sources.decode(encoded, self.rule)    # says what is wrong with the image
            raise InferenceError(f'{encoded.name}: the SavedModel fails ({error_line(error)}); export it again'
                                 ) from None
        columns = {name: value.numpy()[0] for name, value in outputs.items()}
        if columns.get('status', decoding.OK) != decoding.OK:
            sources.decode(encoded, self.rule)
            raise InferenceError(f'{encoded.name}: the SavedModel cannot decode the image; save the image anew')
        height, width = columns['sizes'].tolist()
        return exported_instances(columns, self._masks), (height, width)


def exported_instances(columns: Mapping[str, np.ndarray], masks: str) -> Instances:
    """Return the detections of an image from the outputs of the signature `detect`.

    Args:
        columns: of the image, by name.
        masks: the form of the masks in the export.
    """
    detections = {name: column for name, column in columns.items() if name not in _OF_THE_REQUEST}
    encoded = detections.pop('masks' + mask_forms.FORMS[masks].suffix, None)
    found = instances_of(detections)
    if encoded is not None:
        height, width = columns['sizes'].tolist()
        found.masks = mask_forms.decode(masks, encoded[detections['valid']], (height, width))
    return found


class ModelFile(Predictor):
    """The `Predictor` of a LiteRT or ONNX file, whose network takes one image on a canvas of fixed size."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raise InferenceError if the file is missing or damaged, or `mrcnn export` did not write it."""
        try:
            described, self._run = FORMATS[path.suffix].load(files.read_bytes(path))
            self.categories = [Category(**category) for category in described['categories']]
            self.paste, self._size = described['paste'], described['size']
            self.rule = decoding.Rule(described['exif'], described['max_pixels'])
            self._data = fixed_size.data_config(described['resize'])
        except InferenceError:
            raise
        except Exception as error:    # each format has errors of its own
            raise InferenceError(f'{path}: cannot be loaded ({error_line(error)}); give a {path.suffix} file that '
                                 '`mrcnn export` wrote') from None

    def detect(self, encoded: Sequence[Encoded]) -> list[Found]:
        return [self._detect(each) for each in encoded]

    def _detect(self, encoded: Encoded) -> Found:
        batch = fixed_size.batch_of_one(sources.decode(encoded, self.rule), self._data, self._size)
        found = self._run(batch['images'].numpy(), batch['sizes'].numpy())
        (_, size, instances), = split_batch(found, batch)
        return instances, size


class DetectorPredictor(Predictor):
    """The `Predictor` of a detector in memory.

    Args:
        detector: with the 'op' engine.
        config: the function reads `data` and `model.detections`.
        categories: of the detector's labels 1..K.
        final: whether its weights will not change after the first prediction. Prediction is then faster: batch
            normalization is folded into the convolutions.

    Raises:
        InferenceError: a fast_rcnn, which needs proposals, or the 'xla' engine, which needs fixed canvases.

    Example:
        >>> import numpy as np
        >>> import mrcnn_tf as m
        >>> predictor = m.DetectorPredictor(*m.load_detector('runs/mine'))
        >>> found = predictor(np.zeros([48, 64, 3], np.uint8))
        >>> found.size, len(found.names) == len(found.boxes)
        ((48, 64), True)
    """

    def __init__(self, detector: Detector, config: Config, categories: Sequence[Category], final: bool = False
                 ) -> None:
        if 'proposals' in detector.inputs_read:
            raise InferenceError('a fast_rcnn needs the proposals of each image; use `mrcnn evaluate`, whose records '
                                 'have them')
        if detector.engine != 'op':
            raise InferenceError("the detector has the 'xla' engine; build it with engine='op' for images of any size")
        self.categories, self.paste = categories, config.model.detections.paste
        self.rule, self.batch_size = decoding.Rule.of(config.data), config.data.evaluation_batch_size
        self._detect = detection_function(detector, config.data, final)

    def detect(self, encoded: Sequence[Encoded]) -> list[Found]:
        pixels = [sources.decode(each, self.rule) for each in encoded]
        views = [[images.batch_of_one(each, data) for data in self._detect.sizes] for each in pixels]
        same = len({tuple(tuple(batch['images'].shape) for batch in each) for each in views}) == 1
        groups = [views] if same else [[each] for each in views]
        return [found for group in groups for found in self._detect_batch(group)]

    def _detect_batch(self, group: Sequence[Sequence[dict[str, tf.Tensor]]]) -> Iterator[Found]:
        """Yield what is found in images of equal canvases, each given as a batch of one in every size."""
        batches = [{key: tf.concat([batch[key] for batch in column], axis=0) for key in column[0]}
                   for column in zip(*group, strict=True)]
        detections = self._detect([{'images': batch['images'], 'sizes': batch['sizes']} for batch in batches])
        for _, size, instances in split_batch(detections, batches[0]):
            yield instances, size


class OnDevices(Predictor):
    """The `Predictor` of a model on several devices, of which a free one takes the next batch.

    Args:
        devices: TensorFlow's names.
        load: returns a predictor, called once in the scope of each device.
    """

    def __init__(self, devices: Sequence[str], load: Callable[[], Predictor]) -> None:
        self._copies = Copies(devices, load)
        one = self._copies.last
        self.categories, self.paste, self.rule = one.categories, one.paste, one.rule
        self.batch_size, self.concurrency = one.batch_size, len(devices)

    def detect(self, encoded: Sequence[Encoded]) -> list[Found]:
        with self._copies.free() as predictor:
            return predictor.detect(encoded)

"""Predictors: a model directory or a SavedModel that turns image files into instances."""
from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.detectors.augmentation import detection_function
from mrcnn_tf.detectors.instances import Instances, instances_of, split_batch
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import decoding, images
from mrcnn_tf.input.manifest import Category

_ASSETS = 'assets.extra/mrcnn.json'
_DAMAGED = 'the file is damaged or cut; copy it again, or save the image anew'


class InferenceError(ValueError):
    """A model or an image that cannot be used; the message is one line: the file, what is wrong, the remedy."""


class Predictor(Protocol):
    """A trained model as a function of image files."""

    @property
    def categories(self) -> Sequence[Category]:
        """The categories of labels 1..K, in order."""

    @property
    def paste(self) -> str:
        """The dialect of pasting masks, `model.detections.paste`."""

    @property
    def rule(self) -> decoding.Rule:
        """The rule for image files: sizes and EXIF. Boxes are in the pixels that `read_image` returns."""

    def __call__(self, paths: Sequence[str | os.PathLike[str]]) -> list[Instances]:
        """Return the instances of every image, best first.

        Raises:
            InferenceError: an image cannot be read or decoded, or `rule` refuses it; the message names the file.
        """


def load_predictor(path: str | os.PathLike[str]) -> Predictor:
    """Return the model at `path`: a model directory, a SavedModel, or a directory of versions, of which the newest.

    Raises:
        InferenceError: there is no such model, or a part of it is missing.
    """
    path = pathlib.Path(path)
    if (path / 'config.yaml').is_file():
        return ModelDirectory(path)
    versions = [p for p in path.iterdir() if p.name.isdecimal()] if path.is_dir() else []
    for candidate in (path, *sorted(versions, key=lambda p: int(p.name), reverse=True)):
        if (candidate / 'saved_model.pb').is_file():
            return SavedModel(candidate)
    raise InferenceError(f'{path}: no model; give a directory that `mrcnn train` wrote (config.yaml) or `mrcnn export` '
                         'wrote (saved_model.pb, or versions such as 1/saved_model.pb)')


def read_image(path: str | os.PathLike[str], rule: decoding.Rule = decoding.DEFAULT) -> np.ndarray:
    """Return the pixels of an image file as a model with this rule sees them: RGB uint8 [H, W, 3].

    Images of 16 bits are converted to 8.

    Raises:
        InferenceError: there is no such file, it cannot be read, it is neither JPEG nor PNG, it is damaged, or `rule`
            refuses it.
    """
    pixels = _decode(path, _read(path), rule).numpy()
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


class SavedModel:
    """The `Predictor` of one version of a SavedModel, whose graph includes preprocessing."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Raise InferenceError if the SavedModel is damaged or `mrcnn export` did not write it."""
        remedy = 'give a SavedModel that `mrcnn export` wrote'
        try:
            described = files.read_json(directory / _ASSETS)
            self.categories: Sequence[Category] = [Category(**category) for category in described['categories']]
            self.paste: str = described['paste']
            # Older exports have no rule: they take any size and ignore EXIF.
            self.rule = decoding.Rule(described.get('exif', 'ignore'), described.get('max_pixels'))
            self._loaded = tf.saved_model.load(str(directory))    # kept: the signature holds its variables weakly
            self._signature = self._loaded.signatures['serving_default']
        except (OSError, ValueError, TypeError, LookupError, tf.errors.OpError) as error:
            raise InferenceError(f'{directory}: cannot be loaded ({error_line(error)}); {remedy}') from None

    def __call__(self, paths: Sequence[str | os.PathLike[str]]) -> list[Instances]:
        return [self._predict(path) for path in paths]

    def _predict(self, path: str | os.PathLike[str]) -> Instances:
        encoded = _read(path)
        _refuse(path, encoded, self.rule)
        try:
            detections = self._signature(image_bytes=tf.constant([encoded]))
        except tf.errors.InvalidArgumentError as error:
            _decode(path, encoded, self.rule)    # says what is wrong with the image
            raise InferenceError(f'{path}: the SavedModel fails ({error_line(error)}); export it again') from None
        return instances_of({name: value.numpy()[0] for name, value in detections.items()})


class ModelDirectory:
    """The `Predictor` of a model directory, with its newest checkpoint."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Raise a ValueError of one line if a part of the directory is missing or its checkpoint does not fit."""
        # Imported here, because a SavedModel needs no layers.
        from mrcnn_tf.weights import model_directory

        model, self._config, self.categories = model_directory.restore_model(directory)
        if 'proposals' in model.inputs_read:
            raise InferenceError(f'{directory}: a fast_rcnn needs the proposals of each image; use '
                                 '`mrcnn evaluate`, whose records have them')
        self._detect = detection_function(model, self._config.data)
        self.paste: str = self._config.model.detections.paste
        self.rule = decoding.Rule.of(self._config.data)

    def __call__(self, paths: Sequence[str | os.PathLike[str]]) -> list[Instances]:
        return [self._predict(path) for path in paths]

    def _predict(self, path: str | os.PathLike[str]) -> Instances:
        image = _decode(path, _read(path), self.rule)
        batches = [images.batch_of_one(image, data) for data in self._detect.sizes]
        detections = self._detect([{'images': batch['images'], 'sizes': batch['sizes']} for batch in batches])
        return next(instances for _, _, instances in split_batch(detections, batches[0]))


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        encoded = files.read_bytes(path)
    except OSError as error:
        raise InferenceError(f'{path}: {error.strerror}; give an image file that can be read') from None
    if not encoded:
        raise InferenceError(f'{path}: the file is empty; copy it again')
    return encoded


def _decode(path: str | os.PathLike[str], encoded: bytes, rule: decoding.Rule) -> tf.Tensor:
    """Return the pixels [h, w, 3]: uint8, or float32 0..255 for 16 bits."""
    _refuse(path, encoded, rule)
    try:
        return decoding.decode(tf.constant(encoded), os.fsencode(path), rule, then=lambda pixels: pixels)
    except tf.errors.InvalidArgumentError:
        raise InferenceError(f'{path}: {_DAMAGED}') from None


def _refuse(path: str | os.PathLike[str], encoded: bytes, rule: decoding.Rule) -> None:
    """Raise InferenceError for a file that is not decoded, by its header."""
    try:
        reason = decoding.refusal(tf.constant(encoded), rule).numpy().decode()
    except tf.errors.InvalidArgumentError:
        reason = _DAMAGED
    if reason:
        raise InferenceError(f'{path}: {reason}')

"""Settings that follow from the data: a packaged config has them for its own data, and a user's data need others.

A setting that the user has chosen is never changed.
"""
from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Collection

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config, ConfigError
from mrcnn_tf.input import canvases, images
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.weights.checkpoint_files import steps_in
from mrcnn_tf.weights.model_directory import read

_EPOCHS, _MIN_STEPS = 12, 1000    # of a recipe for a set of any size
_WASTE = 1.25      # padded area, as a multiple of that of the proposed canvases, from which on they are told


def derive(config: Config, chosen: Collection[str], model_dir: str | os.PathLike[str] | None = None
           ) -> tuple[Config, list[str]]:
    """Return the config with derived settings, and a line about each of them and each that deserves a look.

    `model.num_classes` is that of the model directory, if it has a checkpoint, else the number of categories of
    `data.train`. `data.canvases` that do not hold all images of the resize rule are replaced. Canvases that are much
    larger than needed stay, and the line proposes others.

    Args:
        config: with data.train; without it, the config is returned as it is.
        chosen: dotted names of the settings that the user has set, see `config.chosen`.
        model_dir: the model directory, which need not exist; None: a new one.

    Raises:
        ManifestError, InputError: data.train cannot be used.
        CheckpointError, ConfigError: the model directory is damaged.
    """
    manifest = config.data.train
    if not manifest:
        return config, []
    config, lines = configuration.changed(config, []), list[str]()      # a copy
    trained = model_dir is not None and steps_in(pathlib.Path(model_dir) / 'checkpoints')
    resumed = read(pathlib.Path(str(model_dir)))[0] if trained else None
    if 'model.num_classes' not in chosen:
        origin = model_dir if resumed else manifest
        classes = resumed.model.num_classes if resumed else len(Manifest.read(manifest).categories)
        if classes not in (0, config.model.num_classes):
            lines.append(f'model.num_classes is {classes}, the categories of {origin}')
            config.model.num_classes = classes
    if 'data.canvases' not in chosen:
        lines += _canvases(config, resumed)
    configuration.validate(config)
    return config, lines


def adapt(config: Config, chosen: Collection[str]) -> list[str]:
    """Return 'key=value' settings that adapt a recipe to a set of any kind: sizes, canvases, limits of objects, steps.

    The canvases hold all images, the limits of objects are at least the largest number on an image, and training takes
    12 epochs, but at least 1000 steps.

    Args:
        config: the recipe, with data.train.
        chosen: dotted names of the settings that the user has set. They are left out.

    Raises:
        ManifestError, InputError: data.train cannot be used.
    """
    data, manifest = config.data, Manifest.read(str(config.data.train))
    sizes, objects = canvases.image_sizes(str(data.train)), manifest.max_objects_per_image
    sides = canvases.smaller_sides(sizes, data)
    resized = configuration.changed(config, [f'data.{name}={value}' for name, value in sides.items()])
    limits = {'data.max_objects': data.max_objects,
              'model.detections.max_detections': config.model.detections.max_detections}
    settings = {
        **{f'data.{name}': value for name, value in sides.items()},
        'data.canvases': canvases.propose(sizes, resized.data),
        'solver.steps': max(_MIN_STEPS, _EPOCHS * math.ceil(manifest.counts.images / config.solver.reference_batch)),
        **{name: objects for name, limit in limits.items() if objects > limit}}
    return [f'{name}={value}'.replace(' ', '') for name, value in settings.items() if name not in chosen]


def _canvases(config: Config, resumed: Config | None) -> list[str]:
    """Replace canvases that do not hold all images; return a line about that, or about canvases that waste memory."""
    data = config.data
    try:
        images.check_canvases(data, training=True)
        fits = True
    except ConfigError:
        fits = False
    if resumed is not None:
        data.canvases = data.canvases if fits else resumed.data.canvases
        return []
    sizes = canvases.image_sizes(str(data.train))
    if not sizes:
        return []
    proposed, before = canvases.propose(sizes, data), data.canvases
    if not fits:
        data.canvases = proposed
        return [f'data.canvases is {proposed}, from the sizes of the images: none of {before} holds all images of '
                'data.short_sides and data.long_side']
    now, then = (canvases.padding(sizes, data, each).area for each in (before, proposed))
    if now < _WASTE * then:
        return []
    return [f'data.canvases={before} has {now:.2f} times the area of the images; '
            f"'data.canvases={proposed}' would have {then:.2f} times".replace(', ', ',')]

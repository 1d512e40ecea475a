"""Write an HTML page of training images as a model gets them: resized, flipped and augmented, on their canvas.

The page shows what `data.augment` does to objects before a run spends hours on it: boxes and masks are those of the
batches. The images are the first ones of the training.
"""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data_tools import inspect_page
from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.files import html
from mrcnn_tf.input import damage
from mrcnn_tf.input.dataset import training_dataset
from mrcnn_tf.input.manifest import Manifest

_SETTINGS = ('short_sides', 'long_side', 'canvases', 'flip_horizontal', 'flip_vertical')


def write(config: Config, output: str | os.PathLike[str], images: int = 24) -> None:
    """Write the page of a training; it is the same for the same set and settings.

    Args:
        config: the function reads `data`, whose `train` is the set, `model` and `train.seed`. The number of classes is
            that of the set.
        output: the HTML file; an existing one is replaced.
        images: number of images shown.

    Raises:
        ManifestError, ConfigError, InputError: the set or the settings cannot be used, or a record is damaged.
        OSError: the disk is full, permission is denied.
    """
    manifest = str(config.data.train)
    described = Manifest.read(manifest)
    names = [category.name for category in described.categories]
    # One image per batch keeps the images in the order of their numbers, on which all randomness depends.
    single = configuration.changed(config, ['data.batch_size=1', f'model.num_classes={max(1, len(names))}'])
    figures = [_figure(entry, names) for entry in _entries(single, manifest, images)]
    html.write_page(output, html.document(f'{described.name}: {len(figures)} training images', (
        *_settings(config), '<div class="pictures">', *figures, '</div>')))


def _entries(config: Config, manifest: str, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the first images of a training, as batches without the dimension B."""
    try:
        for batch in training_dataset(manifest, config).take(count).as_numpy_iterator():
            yield {key: value[0] for key, value in batch.items()}
    except tf.errors.OpError as error:
        raise damage.explain(error, manifest) from error


def _settings(config: Config) -> Iterator[str]:
    data = config.data
    chosen: dict[str, Any] = {f'data.{name}': getattr(data, name) for name in _SETTINGS}
    defaults = dataclasses.asdict(type(data.augment)())
    chosen |= {f'data.augment.{name}': value for name, value in dataclasses.asdict(data.augment).items()
               if value != defaults[name]}
    yield '<div class="card"><table class="list">'
    yield from (f'<tr><th>{name}</th><td>{html.escape(value)}</td></tr>' for name, value in chosen.items())
    yield '</table></div><h2>Images</h2>'


def _figure(entry: dict[str, np.ndarray], names: Sequence[str]) -> str:
    count, ignored = int(entry['valid'].sum()), int(entry['crowd'].sum())
    height, width = entry['sizes'].astype(int).tolist()
    canvas = entry['images'].shape
    text = (f'{height} x {width} on a canvas of {canvas[0]} x {canvas[1]}, {count} object{"" if count == 1 else "s"}'
            + (f', {ignored} of them ignored' if ignored else ''))
    return html.figure(_picture(entry, names), f'image {entry["image_ids"]}', text)


def _picture(entry: dict[str, np.ndarray], names: Sequence[str]) -> bytes:
    """Return a JPEG of the canvas with the objects, the smallest on top."""
    pixels, scale = inspect_page.reduced(np.clip(entry['images'] + .5, 0, 255).astype(np.uint8))
    boxes = entry['boxes'][entry['valid']]
    order = np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind='stable')

    def column(name: str) -> np.ndarray:
        return entry[name][entry['valid']][order]

    masks = column('masks').astype(np.float32) / 255 * column('has_mask')[:, None, None] if 'masks' in entry else None
    instances = Instances(boxes[order] * scale, np.ones(len(order), np.float32),
                          column('labels') + len(names) * column('crowd').astype(np.int32), masks)
    return inspect_page.drawn_jpeg(pixels, instances, [name + more for more in ('', ' (ignored)') for name in names])

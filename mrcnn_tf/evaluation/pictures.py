"""Pictures of a few images of a set: ground truth on the left, predictions on the right.

n: objects of an image; H, W: its size in px.
"""
from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence

import numpy as np
from PIL import Image

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.input import decoding, record_reader
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.input.records import Annotated, ObjectAnnotation

_SIDE = 620       # px, the longer side of each image of a pair: it is drawn at the size at which it is shown
_THRESHOLD = .5   # score


class Pictures:
    """Draws predictions beside the ground truth of some images of a set, which are read once.

    Args:
        manifest: of the set.
        numbers: of the images in the set, from 0.
        categories: of the predictions' labels 1..K.
        paste: the dialect of pasting masks.

    Raises:
        ManifestError: the manifest cannot be used.
        RecordError: a record or its image is damaged.
    """

    def __init__(self, manifest: str | os.PathLike[str], numbers: Collection[int], categories: Sequence[Category],
                 paste: str) -> None:
        self._known = [category.name for category in Manifest.read(manifest).categories]
        self._names, self._paste = [category.name for category in categories], paste
        places = enumerate(record_reader.places(manifest))
        examples = [record_reader.decode(serialized) for number, (_, serialized) in places if number in numbers]
        self._examples = {example.image_id: example for example in examples}

    @property
    def image_ids(self) -> Collection[int]:
        """The ids of the images."""
        return self._examples.keys()

    def draw(self, image_id: int, instances: Instances) -> np.ndarray:
        """Return the picture of an image and of the predictions of score 0.5 or more, uint8 [h, w, 3].

        The captions say how many there are, so that an image without predictions is not taken for one with them.
        """
        example = self._examples[image_id]
        image = Image.fromarray(record_reader.pixels(example, decoding.AS_STORED))
        scale = _SIDE / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        pixels = np.array(image.resize(size, Image.Resampling.BILINEAR))
        truth, found = annotated(example), instances[instances.scores >= _THRESHOLD]
        pair = [visualize.draw_at_size(pixels, _resized(truth, scale, size), self._known, confidence=False),
                visualize.draw_at_size(pixels, _resized(found, scale, size), self._names, dialect=self._paste)]
        captions = f'ground truth: {len(truth) or "no"} object{"" if len(truth) == 1 else "s"}', (
            f'prediction: {len(found) or "nothing"} of score {_THRESHOLD} or more')
        return visualize.side_by_side(pair, captions)


def _resized(instances: Instances, scale: float, size: tuple[int, int]) -> Instances:
    """Return instances of an image that is resized to a width and height."""
    masks = instances.masks
    if masks is not None and masks.dtype == bool:
        masks = np.array([Image.fromarray(mask).resize(size, Image.Resampling.NEAREST) for mask in masks], bool)
    return Instances(instances.boxes * np.float32(scale), instances.scores, instances.labels, masks)


def annotated(example: Annotated) -> Instances:
    """Return the objects of a record as instances of score 1, with masks bool [n, H, W] if any object has one."""
    objects = example.objects
    masks = [_mask(each, (example.height, example.width)) for each in objects]
    return Instances(np.array([each.box for each in objects], np.float32).reshape(-1, 4),
                     np.ones(len(objects), np.float32), np.array([each.label for each in objects], np.int32),
                     np.array(masks) if any(each.mask for each in objects) else None)


def _mask(each: ObjectAnnotation, size: tuple[int, int]) -> np.ndarray:
    if not each.mask:
        return np.zeros(size, bool)
    with Image.open(io.BytesIO(each.mask)) as png:
        return np.asarray(png) > 0

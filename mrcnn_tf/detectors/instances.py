"""Instances: the detections of a batch as numpy arrays, image by image, in px of the original images.

B images, D detections an image, n instances of one image, m cells a side of a mask (28). Boxes are float32
[y1, x1, y2, x2] with continuous edges; labels are 1..K.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.input.manifest import Category
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import paste


@dataclass
class Instances:
    """The objects of one image, found or annotated, best first.

    Attributes:
        boxes: float32 [n, 4].
        scores: float32 [n], 0..1.
        labels: int32 [n], 1..K.
        masks: float32 [n, m, m], probabilities over the boxes; or bool [n, H, W], masks of the whole image; or None.
        further: predictions of branches of your own, [n, ...] by name, relative to the boxes.

    Example:
        >>> import numpy as np
        >>> import mrcnn_tf as m
        >>> boxes = np.float32([[0, 0, 4, 4], [1, 1, 3, 3]])
        >>> instances = m.Instances(boxes, np.float32([.9, .3]), np.int32([1, 2]))
        >>> instances[instances.scores >= .5].labels.tolist()
        [1]
    """
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None
    further: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: np.ndarray | slice) -> Instances:
        """Return the chosen instances, by bool [n], indices or a slice."""
        masks = None if self.masks is None else self.masks[chosen]
        further = {name: values[chosen] for name, values in self.further.items()}
        return Instances(self.boxes[chosen], self.scores[chosen], self.labels[chosen], masks, further)

    def image_masks(self, height: int, width: int, dialect: str) -> Iterator[np.ndarray]:
        """Yield masks of the whole image: uint8 [height, width], 0 or 1; none if the instances have no masks."""
        if self.masks is not None and self.masks.dtype == bool:
            yield from (mask.astype(np.uint8) for mask in self.masks)
        elif self.masks is not None:
            yield from paste.paste(self.masks, self.boxes, height, width, dialect)

    def all_image_masks(self, height: int, width: int, dialect: str) -> np.ndarray | None:
        """Return `image_masks` as one array, bool [n, height, width]; None if the instances have no masks."""
        if self.masks is None:
            return None
        if self.masks.dtype == bool:
            return self.masks.copy()
        return paste.paste_all(self.masks, self.boxes, height, width, dialect)

    def rle(self, height: int, width: int, dialect: str) -> list[dict[str, Any]]:
        """Return COCO's compressed run-length codes of `image_masks`."""
        if self.masks is None or self.masks.dtype == bool:
            return [paste.encode(mask) for mask in self.image_masks(height, width, dialect)]
        return paste.to_rle(self.masks, self.boxes, height, width, dialect)


def split_batch(detections: Mapping[str, Any], batch: Mapping[str, Any]) -> Iterator[
        tuple[int, tuple[int, int], Instances]]:
    """Yield (image id, (height, width) of the original image, instances) of every valid image of a batch.

    Args:
        detections: boxes [B, D, 4] px of the canvas, scores, labels, valid [B, D] and perhaps masks [B, D, m, m].
        batch: the batch of the detections: sizes, original_sizes [B, 2], image_ids and image_valid [B].
    """
    boxes = box_ops.to_original(*map(tf.convert_to_tensor, (
        detections['boxes'], batch['sizes'], batch['original_sizes'])))
    columns = {name: np.asarray(column) for name, column in {**detections, 'boxes': boxes}.items()}
    for i in np.flatnonzero(np.asarray(batch['image_valid'])):
        height, width = np.asarray(batch['original_sizes'])[i].tolist()
        instances = instances_of({name: column[i] for name, column in columns.items()})
        yield int(np.asarray(batch['image_ids'])[i]), (height, width), instances


def to_coco(instances: Instances, size: tuple[int, int], categories: Sequence[Category],
            dialect: str) -> list[dict[str, Any]]:
    """Return the results of one image in COCO's format, without the image's id.

    Each has category_id, bbox [x, y, width, height], score and, with masks, segmentation (RLE). Edges and scores are
    the shortest decimals that give the same float32.

    Args:
        instances: of the image.
        size: its height and width, px.
        categories: of the model, in the order of their labels 1..K.
        dialect: of pasting, `model.detections.paste`.

    Raises:
        ValueError: a label that the categories do not have.
    """
    unknown = [label for label in instances.labels.tolist() if not 1 <= label <= len(categories)]
    if unknown:
        raise ValueError(f'label {unknown[0]}: the model has categories 1..{len(categories)}')
    results: list[dict[str, Any]] = [
        {'category_id': categories[label - 1].id, 'bbox': _coco_box(box), 'score': _short(score)}
        for label, box, score in zip(instances.labels.tolist(), instances.boxes, instances.scores, strict=True)]
    if instances.masks is not None:
        for result, code in zip(results, instances.rle(*size, dialect), strict=True):
            result['segmentation'] = code
    return results


def instances_of(detections: Mapping[str, np.ndarray]) -> Instances:
    """Return the valid detections of one image.

    Args:
        detections: boxes [D, 4], scores, labels, valid [D], perhaps masks, and those of branches of your own.
    """
    columns = {name: values[detections['valid']] for name, values in detections.items() if name != 'valid'}
    known = {name: columns.pop(name) for name in ('boxes', 'scores', 'labels', 'masks') if name in columns}
    return Instances(**known, further=columns)


def _coco_box(box: np.ndarray) -> list[float]:
    y1, x1, y2, x2 = (_short(edge) for edge in box)
    return [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)]    # the sixth decimal is below the step of float32


def _short(value: np.floating[Any]) -> float:
    return float(str(np.float32(value)))

"""Instances: the detections of a batch as numpy arrays, image by image, in px of the original images.

B images, D detections an image, n instances of one image, m cells a side of a mask (28). Boxes are float32
[y1, x1, y2, x2] with continuous edges; labels are 1..K.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mrcnn_tf.input.manifest import Category
from mrcnn_tf.ops import paste


@dataclass
class Instances:
    """The objects of one image, found or annotated, best first.

    Attributes:
        boxes: float32 [n, 4].
        scores: float32 [n], 0..1.
        labels: int32 [n], 1..K.
        masks: float32 [n, m, m], probabilities over the boxes; or bool [n, H, W], masks of the whole image; or None.
    """
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: np.ndarray | slice) -> Instances:
        """The chosen ones: bool [n], indices or a slice."""
        masks = None if self.masks is None else self.masks[chosen]
        return Instances(self.boxes[chosen], self.scores[chosen], self.labels[chosen], masks)

    def image_masks(self, height: int, width: int, dialect: str) -> Iterator[np.ndarray]:
        """Masks of the whole image, one at a time: uint8 [height, width], 0 or 1; nothing when there are no masks."""
        if self.masks is not None and self.masks.dtype == bool:
            yield from (mask.astype(np.uint8) for mask in self.masks)
        elif self.masks is not None:
            yield from paste.paste(self.masks, self.boxes, height, width, dialect)


def split_batch(detections: Mapping[str, Any], batch: Mapping[str, Any]) -> Iterator[
        tuple[int, tuple[int, int], Instances]]:
    """(image id, (height, width) of the original image, instances) of every image of a batch that is no filler.

    Boxes go from the canvas to the original image, by the ratio of the sides axis by axis, and are clipped to it.

    Args:
        detections: boxes [B, D, 4] px of the canvas, scores, labels, valid [B, D] and perhaps masks [B, D, m, m].
        batch: what the detections were made from: sizes, original_sizes [B, 2], image_ids and image_valid [B].
    """
    columns = {name: np.asarray(column) for name, column in detections.items()}
    sizes, original_sizes = np.asarray(batch['sizes'], np.float64), np.asarray(batch['original_sizes'])
    for i in np.flatnonzero(np.asarray(batch['image_valid'])):
        height, width = original_sizes[i].tolist()
        instances = instances_of({name: column[i] for name, column in columns.items()})
        boxes = instances.boxes * np.tile(original_sizes[i] / sizes[i], 2)
        instances.boxes = np.clip(boxes, 0, [height, width, height, width]).astype(np.float32)
        yield int(np.asarray(batch['image_ids'])[i]), (height, width), instances


def to_coco(instances: Instances, size: tuple[int, int], categories: Sequence[Category],
            dialect: str) -> list[dict[str, Any]]:
    """COCO's results of one image, without its id: category_id, bbox [x, y, width, height], score, segmentation (RLE).

    Edges and scores are the shortest decimals that give the same float32.

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
        for result, mask in zip(results, instances.image_masks(*size, dialect), strict=True):
            result['segmentation'] = paste.encode(mask)
    return results


def instances_of(detections: Mapping[str, np.ndarray]) -> Instances:
    """The valid ones of one image: boxes [D, 4], scores, labels, valid [D] and perhaps masks [D, m, m]."""
    valid = detections['valid']
    return Instances(**{name: detections[name][valid] for name in ('boxes', 'scores', 'labels', 'masks')
                        if name in detections})


def _coco_box(box: np.ndarray) -> list[float]:
    y1, x1, y2, x2 = (_short(edge) for edge in box)
    return [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)]    # the sixth decimal is below the step of float32


def _short(value: np.floating[Any]) -> float:
    return float(str(np.float32(value)))

"""Pictures of the worst images of a report: ground truth and detections side by side, errors in red.

H, W: size of an image; n objects or detections of an image.
"""
from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf.evaluation import diagnostics, visualize
from mrcnn_tf.evaluation.coco import CocoEvaluator
from mrcnn_tf.evaluation.errors import KINDS
from mrcnn_tf.evaluation.report import Analysis
from mrcnn_tf.files.html import figure
from mrcnn_tf.files.text import one_line
from mrcnn_tf.input import decoding, record_reader

_SIDE, _LEGIBLE = 700, 500     # px, the largest and the smallest longer side of an image on the page
_NAMED = 40                    # objects: with more on an image, their names would hide it
_CORRECT, _WRONG, _IGNORED = (46, 204, 113), (255, 64, 64), (160, 160, 160)


class Mark(NamedTuple):
    """An object or a detection to draw: in COCO's format, its name and its color."""
    region: Mapping[str, Any]
    text: str
    color: tuple[int, int, int]


def figures(manifest: str | os.PathLike[str], evaluator: CocoEvaluator, analysis: Analysis, limit: int) -> list[str]:
    """Return the HTML of the worst images, the worst first.

    Args:
        manifest: of the set.
        evaluator: with the ground truth and detections.
        analysis: of its boxes or masks.
        limit: number of images.

    Raises:
        ManifestError: the manifest cannot be used.
        RecordError: a shard is damaged, or an image cannot be decoded.
    """
    counts = diagnostics.image_counts(analysis.matches, analysis.threshold)
    worst = diagnostics.worst_images(counts, limit)
    wanted = {analysis.matches.image_ids[i]: i for i in worst}
    found: dict[int, str] = {}
    for _, serialized in record_reader.places(manifest) if wanted else ():
        example = record_reader.decode(serialized)
        if example.image_id in wanted:
            position = wanted[example.image_id]
            panels = [_panel(record_reader.pixels(example, decoding.AS_STORED), marks) for marks in (
                objects(evaluator, analysis, position), detections(evaluator, analysis, position))]
            correct, wrong, missed = counts[position].tolist()
            found[position] = figure(_jpeg(panels), example.filename or example.source_id, (
                f'id {example.source_id}: {correct} correct, {wrong} wrong, {missed} missed'))
    return [found[i] for i in worst if i in found]


def objects(evaluator: CocoEvaluator, analysis: Analysis, position: int) -> list[Mark]:
    """Return the objects and crowds of an image, those that the detections above the threshold miss in red."""
    matches, annotations = analysis.matches, evaluator.truth.annotations
    image_id, names = matches.image_ids[position], dict(evaluator.truth.categories)
    kept = matches.detections.score >= analysis.threshold
    found = set(matches.detections.matched[kept, 0].tolist())
    here = np.flatnonzero(matches.objects.image == position)
    state = {int(matches.objects.annotation[i]): int(i) in found for i in here}
    marks = []
    for number, each in enumerate(annotations):
        if each['image_id'] == image_id:
            name = names[each['category_id']]
            if number not in state:
                marks.append(Mark(each, f'{name} (crowd)' if each['iscrowd'] else f'{name} (ignored)', _IGNORED))
            else:
                marks.append(Mark(each, name if state[number] else f'{name} missed',
                                  _CORRECT if state[number] else _WRONG))
    return marks


def detections(evaluator: CocoEvaluator, analysis: Analysis, position: int) -> list[Mark]:
    """Return the detections of an image above the threshold, the best last; wrong ones with their kind of error."""
    found, names = analysis.matches.detections, dict(evaluator.truth.categories)
    marks = []
    for i in np.flatnonzero((found.image == position) & (found.score >= analysis.threshold))[::-1]:
        result = evaluator.detections[found.result[i]]
        text, kind = f'{names[result["category_id"]]} {found.score[i]:.2f}', analysis.errors.kind[i]
        if kind >= 0:
            marks.append(Mark(result, f'{text} {KINDS[kind]}', _WRONG))
        else:
            marks.append(Mark(result, text, _IGNORED if found.ignored[i, 0] else _CORRECT))
    return marks


def _panel(pixels: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """Return an image with its marks, errors on top: uint8 [h, w, 3]."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    scale = min(_SIDE, max(longer, _LEGIBLE)) / longer
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ordered = sorted(marks, key=lambda mark: mark.color == _WRONG)
    boxes = np.array([mark.region['bbox'] for mark in ordered], np.float64).reshape(-1, 4) * scale
    x, y, wide, high = boxes.T
    texts = [one_line(mark.text, 60) if len(marks) <= _NAMED else '' for mark in ordered]
    return visualize.paint(np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)),
                           _masks(ordered, size), np.stack([y, x, y + high, x + wide], axis=1), texts,
                           [mark.color for mark in ordered])


def _masks(marks: Sequence[Mark], size: tuple[int, int]) -> Iterable[np.ndarray]:
    """Yield the mask of each mark at a size, empty for one that has none; nothing if none has one."""
    if any('segmentation' in mark.region for mark in marks):
        for mark in marks:
            if 'segmentation' in mark.region:
                whole = Image.fromarray(coco_mask.decode(mark.region['segmentation']))
                yield np.asarray(whole.resize(size, Image.Resampling.NEAREST))
            else:
                yield np.zeros(size[::-1], np.uint8)


def _jpeg(panels: Sequence[np.ndarray]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(visualize.side_by_side(panels, ['ground truth', 'detections'])).save(stream, 'JPEG', quality=82)
    return stream.getvalue()

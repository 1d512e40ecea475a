"""The numbers of a converted set, counted in one pass over its records, and a sample of its images.

n objects of an image, N images of the sample. Sides and areas are in px of the image as stored. A histogram counts what
lies from one edge on and below the next; what lies beyond the last edge is counted last.
"""
from __future__ import annotations

import bisect
import hashlib
import heapq
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mrcnn_tf.input import record_reader
from mrcnn_tf.input.records import Annotated

# Square root of the area, px: COCO calls small what is below 32, large what is from 96 on.
SIDES = (0, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1024)
OBJECTS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257)
RATIOS = (0, 1 / 8, 1 / 4, 1 / 2, 1 / math.sqrt(2), math.sqrt(2), 2, 4, 8)     # height / width


@dataclass
class OfClass:
    """Objects of a label."""
    objects: int = 0
    crowds: int = 0     # among the objects
    images: int = 0     # with at least one


@dataclass
class Tally:
    """Counts of a set; the histograms have a count for each of their edges."""
    classes: dict[int, OfClass] = field(default_factory=dict)                      # by label
    sides: list[int] = field(default_factory=lambda: [0] * len(SIDES))             # objects by root of their area
    per_image: list[int] = field(default_factory=lambda: [0] * len(OBJECTS))       # images by objects on them
    box_ratios: list[int] = field(default_factory=lambda: [0] * len(RATIOS))       # objects
    image_ratios: list[int] = field(default_factory=lambda: [0] * len(RATIOS))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)               # images by height, width
    sample: list[Annotated] = field(default_factory=list)


def tally(manifest: str | os.PathLike[str], sample: int) -> Tally:
    """Counts what the records hold, and keeps N images, the same for the same set whatever its shards.

    Raises:
        ManifestError: the manifest cannot be used.
        RecordError: a damaged shard, or a record that is none.
    """
    found = Tally()
    chosen: list[tuple[int, int, Annotated]] = []      # a heap: the one to go next comes first
    for ordinal, (place, serialized) in enumerate(record_reader.places(manifest)):
        example = record_reader.decode(serialized, f'{place.file}: record {place.number}')
        _add(found, example)
        heapq.heappush(chosen, (-_draw(example, ordinal), -ordinal, example))
        if len(chosen) > sample:
            heapq.heappop(chosen)
    found.sample = [example for *_, example in sorted(chosen, key=lambda each: -each[1])]
    return found


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values lie from each edge on and below the next one; none may lie below the first."""
    counts = [0] * len(edges)
    for value in values:
        counts[bisect.bisect_right(edges, value) - 1] += 1
    return counts


def _draw(example: Annotated, ordinal: int) -> int:
    """A number that has nothing to do with the image's place or content, but is always the same."""
    name = example.source_id or example.filename or str(ordinal)
    return int.from_bytes(hashlib.sha256(name.encode('utf-8', 'backslashreplace')).digest()[:8], 'big')


def _add(found: Tally, example: Annotated) -> None:
    objects = example.objects
    for each in objects:
        of_class = found.classes.setdefault(each.label, OfClass())
        of_class.objects += 1
        of_class.crowds += each.crowd
    for label in {each.label for each in objects}:
        found.classes[label].images += 1
    boxes = [(max(y2 - y1, 0), max(x2 - x1, 0)) for y1, x1, y2, x2 in (each.box for each in objects)]
    found.sides = _sum(found.sides, histogram([math.sqrt(max(each.area, 0)) for each in objects], SIDES))
    found.box_ratios = _sum(found.box_ratios, histogram([_ratio(*sides) for sides in boxes], RATIOS))
    found.image_ratios = _sum(found.image_ratios, histogram([_ratio(example.height, example.width)], RATIOS))
    found.per_image = _sum(found.per_image, histogram([len(objects)], OBJECTS))
    found.sizes[example.height, example.width] += 1


def _ratio(height: float, width: float) -> float:
    return height / width if width else math.inf


def _sum(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]

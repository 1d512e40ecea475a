"""Statistics of a converted set, computed in one pass over its records, and a sample of its images.

n objects of an image, N images of the sample. Sides and areas are in px of the image as stored. A bin of a histogram
holds the values from its edge on and below the next edge; the last bin holds all values from the last edge on.
"""
from __future__ import annotations

import array
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

# Square root of the area, px. COCO calls objects below 32 small and those from 96 on large.
SIDES = (0, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1024)
OBJECTS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257)
RATIOS = (0, 1 / 8, 1 / 4, 1 / 2, 1 / math.sqrt(2), math.sqrt(2), 2, 4, 8)     # height / width


@dataclass
class ClassCounts:
    """Objects of one label."""
    objects: int = 0
    crowds: int = 0     # included in the objects
    images: int = 0     # with at least one of the objects


@dataclass
class Statistics:
    """Counts of a set; a histogram has one count for each of its edges."""
    classes: dict[int, ClassCounts] = field(default_factory=dict)                  # by label
    sides: list[int] = field(default_factory=lambda: [0] * len(SIDES))             # objects by root of their area
    per_image: list[int] = field(default_factory=lambda: [0] * len(OBJECTS))       # images by number of objects
    box_ratios: list[int] = field(default_factory=lambda: [0] * len(RATIOS))       # objects
    image_ratios: list[int] = field(default_factory=lambda: [0] * len(RATIOS))
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)               # images by height, width
    sample: list[Annotated] = field(default_factory=list)
    # of each object that is no crowd: y1, x1, y2, x2, height and width of its image
    boxes: array.array[float] = field(default_factory=lambda: array.array('f'))

    def add(self, example: Annotated) -> None:
        """Add one record to the counts."""
        objects = example.objects
        for each in objects:
            of_class = self.classes.setdefault(each.label, ClassCounts())
            of_class.objects += 1
            of_class.crowds += each.crowd
        for label in {each.label for each in objects}:
            self.classes[label].images += 1
        sides = [(max(y2 - y1, 0), max(x2 - x1, 0)) for y1, x1, y2, x2 in (each.box for each in objects)]
        self.sides = _sum(self.sides, histogram([math.sqrt(max(each.area, 0)) for each in objects], SIDES))
        self.box_ratios = _sum(self.box_ratios, histogram([_ratio(*side) for side in sides], RATIOS))
        self.image_ratios = _sum(self.image_ratios, histogram([_ratio(example.height, example.width)], RATIOS))
        self.per_image = _sum(self.per_image, histogram([len(objects)], OBJECTS))
        self.sizes[example.height, example.width] += 1
        self.boxes.extend(number for each in objects if not each.crowd
                          for number in (*each.box, example.height, example.width))


def compute(manifest: str | os.PathLike[str], sample: int) -> Statistics:
    """Return the statistics of a set with a sample of N images.

    Args:
        manifest: of the set.
        sample: N. The sample depends on the names of the images, not on the shards.

    Raises:
        ManifestError: the manifest cannot be used.
        RecordError: a damaged shard or record.
    """
    statistics = Statistics()
    chosen: list[tuple[int, int, Annotated]] = []      # a heap; the image with the largest key is removed first
    for ordinal, (place, serialized) in enumerate(record_reader.places(manifest)):
        example = record_reader.decode(serialized, f'{place.file}: record {place.number}')
        statistics.add(example)
        heapq.heappush(chosen, (-_sampling_key(example, ordinal), -ordinal, example))
        if len(chosen) > sample:
            heapq.heappop(chosen)
    statistics.sample = [example for *_, example in sorted(chosen, key=lambda each: -each[1])]
    return statistics


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Return the number of values in each bin; no value may be below the first edge."""
    counts = [0] * len(edges)
    for value in values:
        counts[bisect.bisect_right(edges, value) - 1] += 1
    return counts


def _sampling_key(example: Annotated, ordinal: int) -> int:
    """Return a hash of the image's name: the images with the smallest keys are a reproducible random sample."""
    name = example.source_id or example.filename or str(ordinal)
    return int.from_bytes(hashlib.sha256(name.encode('utf-8', 'backslashreplace')).digest()[:8], 'big')


def _ratio(height: float, width: float) -> float:
    return height / width if width else math.inf


def _sum(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]

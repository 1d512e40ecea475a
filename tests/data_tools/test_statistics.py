"""Statistics of a set, computed by hand."""
from __future__ import annotations

import math
import pathlib

from data_tools import statistics
from data_tools.issues import IssueLog
from data_tools.sharding import writer
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source
from mrcnn_tf.input.records import Annotated, ObjectAnnotation


class Item:
    """An image of so many objects."""
    bytes = 100

    def __init__(self, number: int, *objects: ObjectAnnotation, size: tuple[int, int] = (100, 200)) -> None:
        self.number, self.objects, self.size = number, objects, size


def make(item: Item) -> tuple[Annotated, IssueLog]:
    return Annotated(b'\x89PNG...', 'png', f'{item.number}.png', str(item.number), item.number, *item.size,
                     list(item.objects)), IssueLog()


def written(directory: pathlib.Path, *items: Item, images_per_shard: int = 1000) -> pathlib.Path:
    head = Manifest('set', [Category(1, 1, 'cat'), Category(2, 2, 'dog')], Counts(), 0, {}, {},
                    [], False, Source('coco', 'a.json', 'images'))
    writer.write(items, make, head, directory, writer.Options(images_per_shard=images_per_shard))
    return directory / 'set.json'


def thing(height: float, width: float, label: int = 1, crowd: bool = False) -> ObjectAnnotation:
    return ObjectAnnotation((0.0, 0.0, height, width), label, ('cat', 'dog')[label - 1], height * width, crowd)


def test_counts_of_a_set(tmp_path: pathlib.Path) -> None:
    counts = statistics.compute(written(
        tmp_path, Item(1, thing(4, 4), thing(8, 2, 2), thing(96, 96, 2, crowd=True)),
        Item(2, size=(300, 100)), Item(3, thing(10, 100), size=(100, 100))), 0)
    assert counts.classes == {1: statistics.ClassCounts(2, 0, 2), 2: statistics.ClassCounts(2, 1, 1)}
    # Roots of the areas: 4, 4, 96 and 31.6.
    assert dict(zip(statistics.SIDES, counts.sides, strict=True)) == {
        **dict.fromkeys(statistics.SIDES, 0), 4: 2, 96: 1, 16: 1}
    assert dict(zip(statistics.OBJECTS, counts.per_image, strict=True)) == {
        **dict.fromkeys(statistics.OBJECTS, 0), 0: 1, 1: 1, 3: 1}
    ratios = dict.fromkeys(statistics.RATIOS, 0)
    # Height / width of the boxes: 1, 4, 1 and 0.1; of the images: 0.5, 3, 1.
    assert dict(zip(statistics.RATIOS, counts.box_ratios, strict=True)) == {**ratios, 1 / math.sqrt(2): 2, 4: 1, 0: 1}
    assert dict(zip(statistics.RATIOS, counts.image_ratios, strict=True)) == {
        **ratios, 0.5: 1, 2: 1, 1 / math.sqrt(2): 1}
    assert counts.sizes == {(100, 200): 1, (300, 100): 1, (100, 100): 1} and counts.sample == []


def test_a_bin_begins_at_its_edge() -> None:
    assert statistics.histogram([0, 0.5, 1, 2, 2.5, 9], [0, 1, 2]) == [2, 1, 3]
    assert statistics.histogram([], [0, 1]) == [0, 0]


def test_the_sample_does_not_depend_on_the_shards(tmp_path: pathlib.Path) -> None:
    items = [Item(number) for number in range(40)]
    one = statistics.compute(written(tmp_path / 'one', *items), 7)
    many = statistics.compute(written(tmp_path / 'many', *items, images_per_shard=3), 7)
    ids = [example.image_id for example in one.sample]
    assert ids == [example.image_id for example in many.sample] == sorted(ids) and len(set(ids)) == 7
    assert max(ids) - min(ids) > 10      # from all over the set
    assert len(statistics.compute(tmp_path / 'one' / 'set.json', 99).sample) == 40


def test_a_box_without_width_is_counted(tmp_path: pathlib.Path) -> None:
    counts = statistics.compute(written(tmp_path, Item(1, thing(5, 0))), 1)
    assert counts.box_ratios[-1] == 1 and counts.sides[0] == 1

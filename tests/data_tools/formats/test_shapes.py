"""The drawn data set: its json describes its images, and both depend on the seed only."""
from __future__ import annotations

import collections
import json
import math
import pathlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.formats import coco, shapes


def content(directory: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob('*') if path.is_file()}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: pathlib.Path) -> None:
    for name, count, seed in (('a', 3, 5), ('b', 3, 5), ('more', 4, 5), ('other', 3, 6)):
        drawn = shapes.draw(tmp_path / name, count, seed)
        assert drawn == (tmp_path / name / 'annotations.json', tmp_path / name / 'images')
    a, b, more, other = (content(tmp_path / name) for name in ('a', 'b', 'more', 'other'))
    assert sorted(a) == ['annotations.json', *(f'images/00000{i}.png' for i in (1, 2, 3))]
    assert a == b
    for name in sorted(a)[1:]:
        assert more[name] == a[name] != other[name]


def test_the_json_describes_the_masks(tmp_path: pathlib.Path) -> None:
    drawn = shapes.draw(tmp_path, 12, 0, (96, 128))
    data = json.loads(drawn.annotations.read_text())
    assert [category['name'] for category in data['categories']] == ['circle', 'rectangle', 'triangle']
    assert {each['category_id'] for each in data['annotations']} == {1, 2, 3}
    assert [each['id'] for each in data['annotations']] == list(range(1, len(data['annotations']) + 1))
    covered: dict[int, np.ndarray] = collections.defaultdict(lambda: np.zeros([96, 128], np.uint8))
    for each in data['annotations']:
        mask = coco_mask.decode(each['segmentation'])
        covered[each['image_id']] += mask
        rows, columns = mask.nonzero()
        assert each['bbox'] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert each['area'] == mask.sum() > 0 and each['iscrowd'] == 0
    assert sorted(covered) == [image['id'] for image in data['images']] == list(range(1, 13))
    assert max(mask.max() for mask in covered.values()) == 1      # no pixel belongs to two
    for image in data['images']:
        with Image.open(drawn.images / image['file_name']) as picture:
            assert (picture.format, picture.mode, picture.size) == ('PNG', 'RGB', (128, 96))
        assert (image['height'], image['width']) == (96, 128)


def test_one_to_six_shapes_of_an_eighth_to_a_half_of_the_side() -> None:
    counts, sides = set(), []
    for seed in range(60):
        _, labels, masks = shapes.draw_one(np.random.default_rng(seed), (128, 128))
        counts.add(len(labels))
        if len(masks) == 1:
            rows, columns = masks[0].nonzero()
            sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert min(counts) == 1 and max(counts) in (5, 6)
    assert 8 <= min(sides) <= max(sides) <= 64 * math.sqrt(2)     # a square of half the side, turned


def test_only_the_pixels_of_masks_are_painted() -> None:
    for seed in range(8):
        background = shapes._background(np.random.default_rng(seed), (128, 128)).round()
        picture, _, masks = shapes.draw_one(np.random.default_rng(seed), (128, 128))
        shown = np.any(masks, axis=0)
        differs = (picture != background).any(axis=2)
        assert not differs[~shown].any()
        assert differs[shown].mean() > 0.99


def test_outlines_have_the_shape_of_their_label() -> None:
    counts: collections.Counter[int] = collections.Counter()
    for seed in range(60):
        for label in (1, 2, 3):
            mask = shapes._outline(np.random.default_rng(seed), label, (256, 256))
            if mask[[0, -1]].any() or mask[:, [0, -1]].any():
                continue
            rows, columns = mask.nonzero()
            cut = mask[rows.min():rows.max() + 1, columns.min():columns.max() + 1]
            counts[label] += 1
            if label == 1:      # fills pi / 4 of a square
                assert abs(cut.shape[0] - cut.shape[1]) <= 1 and cut.mean() == pytest.approx(math.pi / 4, abs=0.03)
            elif label == 2:    # is itself when turned by half
                assert (cut != cut[::-1, ::-1]).mean() < 0.06
            else:               # no triangle fills more than half of its box; the pixels of the rim do a little
                assert cut.mean() < 0.54 and (cut != cut[::-1, ::-1]).mean() > 0.2
    assert min(counts.values()) >= 20 and len(counts) == 3


def row(text: str) -> np.ndarray:
    return np.array([[character == '#' for character in text]])


def test_later_shapes_hide_earlier_ones() -> None:
    visible = shapes.keep_visible([row('######....'), row('....####..')])
    np.testing.assert_array_equal(visible, [row('####......'), row('....####..')])


def test_a_shape_that_is_nearly_hidden_is_left_out_and_hides_nothing() -> None:
    # Of the second only one pixel of four is visible: it goes, and the first shows all that the third does not hide.
    visible = shapes.keep_visible([row('####......'), row('..####....'), row('...#######')])
    assert visible[1] is None
    np.testing.assert_array_equal([visible[0], visible[2]], [row('###.......'), row('...#######')])


def test_an_older_set_is_replaced(tmp_path: pathlib.Path) -> None:
    shapes.draw(tmp_path, 3, 1)
    shapes.draw(tmp_path, 2, 2)
    assert len(json.loads((tmp_path / 'annotations.json').read_text())['images']) == 2


def test_the_json_is_written_after_the_images(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes.draw(tmp_path, 1, 1)

    def full(self: Image.Image, path: pathlib.Path) -> None:
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(OSError, match='No space left'):
        shapes.draw(tmp_path, 2, 1)
    assert list(content(tmp_path)) == ['images/000001.png']      # the old one, whole


@pytest.mark.parametrize('images, seed, size', [(0, 0, (128, 128)), (1, -1, (128, 128)), (1, 0, (128, 31))])
def test_invalid_arguments(tmp_path: pathlib.Path, images: int, seed: int, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f'^cannot draw {images} images'):
        shapes.draw(tmp_path, images, seed, size)
    assert content(tmp_path) == {}


def test_a_drawn_set_converts_without_issues(tmp_path: pathlib.Path) -> None:
    drawn = shapes.draw(tmp_path / 'drawn', 6, 3)
    manifest = coco.convert(drawn.annotations, drawn.images, tmp_path / 'records')
    listed = json.loads(drawn.annotations.read_text())['annotations']
    assert (manifest.counts.images, manifest.counts.objects) == (6, len(listed))
    assert manifest.dropped == {} and manifest.repaired == {}

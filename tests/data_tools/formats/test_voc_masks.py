"""Masks of VOC's SegmentationObject: its colors, sizes and unknown segments. `test_voc` covers whole sets."""
from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from data_tools.formats import voc_masks
from data_tools.issues import InvalidDataError, Issue

PIXELS = np.array([[0, 1, 1], [2, 255, 0]], np.uint8)


@pytest.mark.parametrize(('index', 'color'), [
    pytest.param(0, (0, 0, 0), id='background'), pytest.param(3, (128, 128, 0), id='bird'),
    pytest.param(15, (192, 128, 128), id='person'), pytest.param(20, (0, 64, 128), id='tvmonitor'),
    pytest.param(255, (224, 224, 192), id='border')])
def test_colors_that_voc_publishes(index: int, color: tuple[int, ...]) -> None:
    assert tuple(voc_masks.color_map()[index]) == color and len(np.unique(voc_masks.color_map(), axis=0)) == 256


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'RGBA'])
def test_pixels_of_each_mode(tmp_path: pathlib.Path, mode: str) -> None:
    image = Image.fromarray(PIXELS)
    if mode != 'L':
        image.putpalette(voc_masks.color_map().ravel().tolist())      # a palette image of these indices
    (image if mode in 'LP' else image.convert(mode)).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(voc_masks.read(tmp_path / 'a.png'), [[0, 1, 1], [2, 0, 0]])      # no border


def test_images_that_are_no_segmentation(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidDataError, match=f'no segmentation: {tmp_path}/a.png'):
        voc_masks.read(tmp_path / 'a.png')
    Image.fromarray(PIXELS.astype(np.uint16)).save(tmp_path / 'b.png')
    with pytest.raises(InvalidDataError, match='expected a palette, gray values of 8 bit or colors; --boxes'):
        voc_masks.read(tmp_path / 'b.png')
    Image.fromarray(np.full((2, 2, 3), (1, 2, 3), np.uint8)).save(tmp_path / 'c.png')
    with pytest.raises(InvalidDataError, match=r"c.png: RGB \[1, 2, 3\] is no color of VOC's map; --boxes"):
        voc_masks.read(tmp_path / 'c.png')


def test_the_mask_of_an_object() -> None:
    np.testing.assert_array_equal(voc_masks.mask(PIXELS, 1, (2, 3)), [[False, True, True], [False, False, False]])
    assert not voc_masks.mask(PIXELS, 3, (2, 3)).any()
    with pytest.raises(InvalidDataError, match='SegmentationObject is 3 wide and 2 high, the image 2 wide and 3 high'):
        voc_masks.mask(PIXELS, 1, (3, 2))


def test_segments_beyond_the_objects() -> None:
    assert voc_masks.unknown_segments(PIXELS, 1) == [
        Issue('segments of no object', '[2, 255], the xml has 1 objects')]
    assert voc_masks.unknown_segments(PIXELS[:1], 1) == voc_masks.unknown_segments(None, 0) == []

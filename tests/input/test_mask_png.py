"""Masks as PNG, read by two independent decoders."""
from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mrcnn_tf.input import mask_png


def whole(pixels: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[corner[0]:corner[0] + pixels.shape[0], corner[1]:corner[1] + pixels.shape[1]] = pixels
    return mask


def check(pixels: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> bytes:
    png = mask_png.encode(pixels, corner, size)
    expected = whole(pixels, corner, size)
    with Image.open(io.BytesIO(png)) as image:
        image.verify()      # checksums
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == 'L'
        np.testing.assert_array_equal(np.array(image), expected)
    np.testing.assert_array_equal(tf.io.decode_png(png)[..., 0], expected)
    return png


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_pixel_is_read_as_it_was_written(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    down, across = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    corner = data.draw(st.integers(0, height - down)), data.draw(st.integers(0, width - across))
    seed = data.draw(st.integers(0, 2 ** 32 - 1))
    check(np.random.RandomState(seed).randint(0, 2, (down, across)).astype(np.uint8), corner, (height, width))


@pytest.mark.parametrize('size', [(480, 640), (640, 427), (1024, 2048), (1, 5000), (5000, 1), (1, 1), (1023, 1023)],
                         ids=lambda size: f'{size[0]}x{size[1]}')
def test_images_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    ones = np.ones(((height + 2) // 3, (width + 2) // 3), np.uint8)
    for corner in ((0, 0), (height - len(ones), width - ones.shape[1]), (height // 3, width // 3)):
        check(ones, corner, size)
    check(np.zeros((0, 0), np.uint8), (0, 0), size)
    check(np.ones(size, np.uint8), (0, 0), size)


def test_any_layout_of_memory() -> None:
    pixels = np.asfortranarray(np.triu(np.ones((20, 30), np.uint8)))
    assert check(pixels, (3, 4), (50, 60)) == check(pixels.copy('C'), (3, 4), (50, 60))
    check(pixels[::2, ::-1], (3, 4), (50, 60))


def test_a_mask_is_smaller_than_with_pillow() -> None:
    y, x = np.mgrid[:120, :90]
    pixels = ((y - 60) ** 2 / 3600 + (x - 45) ** 2 / 2025 <= 1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(whole(pixels, (200, 300), (480, 640))).save(stream, 'PNG', compress_level=1)
    assert len(check(pixels, (200, 300), (480, 640))) < len(stream.getvalue())


def test_the_checksum_of_zeros() -> None:
    for text in (b'', b'abc', bytes(range(256)) * 300):
        for count in (0, 1, 1024, 2 ** 18):
            assert mask_png._adler_of_zeros(zlib.adler32(text), count) == zlib.adler32(text + bytes(count))


@pytest.mark.parametrize(('corner', 'size'), [
    ((-1, 0), (9, 9)), ((0, 8), (9, 9)), ((8, 0), (9, 9)), ((0, 0), (1, 9)), ((0, 0), (0, 0))],
    ids=['above', 'right', 'below', 'too_high', 'empty_image'])
def test_a_box_that_exceeds_the_image_is_refused(corner: tuple[int, int], size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match='exceeds the image of'):
        mask_png.encode(np.ones((2, 2), np.uint8), corner, size)

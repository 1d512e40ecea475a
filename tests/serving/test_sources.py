"""Images to predict on: every kind gives the same pixels, and what cannot be used is one clear line."""
from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mrcnn_tf.input import decoding
from mrcnn_tf.serving import sources
from mrcnn_tf.serving.sources import InferenceError

COLOR = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
GRAY = COLOR[..., 0]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, 'PNG')
    return stream.getvalue()


@pytest.mark.parametrize('given, expected', [
    (COLOR, COLOR), (np.asfortranarray(COLOR), COLOR), (GRAY, np.stack([GRAY] * 3, 2)),
    (png(Image.fromarray(COLOR)), COLOR), (Image.fromarray(COLOR), COLOR),
    (Image.fromarray(GRAY), np.stack([GRAY] * 3, 2)),
    (Image.fromarray(np.dstack([COLOR, GRAY])), COLOR), (Image.fromarray(COLOR).convert('CMYK'), COLOR),
    (Image.fromarray(GRAY > 100), 255 * np.stack([GRAY > 100] * 3, 2)),
    (Image.fromarray(GRAY.astype(np.uint16) * 257), np.stack([GRAY] * 3, 2))],
    ids=['array', 'array in column order', 'gray array', 'bytes', 'PIL', 'gray PIL', 'PIL with alpha',
         'PIL for print', 'black and white PIL', 'PIL of 16 bits'])
def test_every_kind_of_image_gives_its_pixels(given, expected):
    pixels = sources.read_image(given)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_a_pil_image_of_a_closed_file_is_an_error(tmp_path):
    Image.fromarray(COLOR).save(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as image:
        pass
    with pytest.raises(InferenceError, match='^image: the PIL image cannot be read .*; open the file anew$'):
        sources.read_image(image)


def test_a_damaged_pil_image_is_an_error(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg').write_bytes((tmp_path / 'a.jpg').read_bytes()[:2000])
    with Image.open(tmp_path / 'a.jpg') as image, pytest.raises(InferenceError, match='^image: the PIL image'):
        sources.read_image(image)


@pytest.mark.parametrize('given, message', [
    (COLOR / 255, r'image: float64 array of shape \[2, 3, 3\]; expected uint8 \[height, width, 3\], RGB 0..255, '
                  r'or \[height, width\], gray; convert values of 0..1 with \(255 \* image\).round\(\).astype'),
    (COLOR[None], r'shape \[1, 2, 3, 3\]; .*; give the images of a batch as a list: list\(images\)$'),
    (COLOR.transpose(2, 0, 1)[..., :2], r'shape \[3, 2, 2\]; .*; move the channels to the end: image.transpose'),
    (np.zeros((2, 3, 4), np.uint8), r'shape \[2, 3, 4\]; .*; leave out the alpha channel: image\[..., :3\]$'),
    (np.zeros((0, 3, 3), np.uint8), r'shape \[0, 3, 3\]; expected uint8 \[height, width, 3\]'),
    (COLOR.astype(np.uint16), 'image: uint16 array'), (Image.fromarray(GRAY / 1.), 'PIL image of mode F; convert it'),
    (None, 'image: got NoneType; expected a path, the bytes of a JPEG or PNG file, a uint8 array or a PIL image$'),
    (b'', 'image: the file is empty'), (b'hello', 'image: neither a JPEG nor a PNG; convert it to one')],
    ids=['floats', 'a batch', 'channels first', 'alpha', 'no pixels', '16 bits', 'PIL of floats', 'None', 'no bytes',
         'other bytes'])
def test_what_is_no_image_is_one_line(given, message):
    if isinstance(given, Image.Image):
        given = given.convert('F')
    with pytest.raises(InferenceError, match=message) as error:
        sources.read_image(given)
    assert '\n' not in str(error.value)


@pytest.fixture
def photo(tmp_path):
    """A photograph whose EXIF says to turn it by a quarter."""
    made = Image.Exif()
    made[0x0112] = 8
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / 'a.jpg', exif=made)
    return tmp_path / 'a.jpg'


def test_images_are_read_as_the_model_sees_them(tmp_path):
    grey16 = np.array([[0, 257, 65535], [514, 771, 128]], np.uint16)    # v of 8 bit is 257 v of 16
    Image.fromarray(grey16).save(tmp_path / 'a.png')
    image = sources.read_image(tmp_path / 'a.png')
    assert image.dtype == np.uint8 and image[:, :, 0].tolist() == [[0, 1, 255], [2, 3, 0]]
    assert (image[:, :, 1:] == image[:, :, :1]).all()


@pytest.mark.parametrize('kind', ['path', 'bytes', 'PIL'])
def test_the_rule_holds_for_every_kind_of_image(photo, kind):
    name = 'a.jpg' if kind == 'path' else 'image'
    given = {'path': lambda: photo, 'bytes': photo.read_bytes, 'PIL': lambda: Image.open(photo)}[kind]()
    assert sources.read_image(given).shape == (30, 20, 3)
    assert sources.read_image(given, decoding.AS_STORED).shape == (20, 30, 3)
    with pytest.raises(InferenceError, match=rf'{name}: its EXIF says to turn it \(orientation 8\); turn its pixels'):
        sources.read_image(given, decoding.Rule('error'))
    with pytest.raises(InferenceError, match=f'{name}: 30 px wide and 20 px high, which is 600 pixels; make it '):
        sources.read_image(given, decoding.Rule(max_pixels=599))


def test_an_array_has_a_limit_too():
    with pytest.raises(InferenceError, match='image: 3 px wide and 2 px high, which is 6 pixels; make it smaller'):
        sources.read_image(COLOR, decoding.Rule(max_pixels=5))

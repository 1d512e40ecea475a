"""The page of training images: its pictures are those of the batches, with boxes and masks where the objects are."""
from __future__ import annotations

import base64
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from data_tools import augmented_page
from mrcnn_tf.config import Config, DataConfig, ModelConfig
from mrcnn_tf.config.schema import AugmentConfig
from mrcnn_tf.input import records
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.records import Annotated, ObjectAnnotation
from tests.input.small_sets import png, write_set


def write_example(folder: pathlib.Path, image: bytes | None = None) -> str:
    """One gray image of 320 x 640 with a black object of 80 x 160 in its left half, and a crowd in the other half."""
    pixels = np.full((320, 640, 3), 128, np.uint8)
    mask = np.zeros((320, 640), bool)
    mask[80:160, 80:240] = True
    pixels[mask] = 0
    objects = [ObjectAnnotation((80., 80., 160., 240.), 1, 'a', 12800., mask=records.encode_mask(mask)),
               ObjectAnnotation((0., 320., 320., 640.), 2, 'b', 1., True, mask=records.encode_mask(np.zeros_like(mask)),
                                has_mask=False)]
    return write_set(folder, [Annotated(image or png(pixels), 'png', '1.png', '1', 1, 320, 640, objects)], shards=1)


def settings(manifest: str, **augment: float) -> Config:
    return Config(data=DataConfig(train=manifest, short_sides=[320], long_side=640, canvases=[[640, 640]],
                                  flip_horizontal=1., augment=AugmentConfig(**augment)),   # type: ignore[arg-type]
                  model=ModelConfig(num_classes=2))


def test_the_page_shows_the_images_that_training_gets(tmp_path: pathlib.Path) -> None:
    """Mirrored, the object is at x 400 to 560. Pictures of 640 px are shown twice as large."""
    page = tmp_path / 'page.html'
    augmented_page.write(settings(write_example(tmp_path / 'set'), cutout_side=.3), page, 2)
    text = page.read_text()
    assert '<h1>set: 2 training images</h1>' in text
    assert '<th>data.augment.cutout_side</th><td>0.3</td>' in text and 'data.augment.hue' not in text
    captions = re.findall(r'<figcaption>(.*?)</figcaption>', text)
    assert captions == ['<b>image 1</b> 320 x 640 on a canvas of 640 x 640, 2 objects, 1 of them ignored'] * 2
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.findall(r'base64,([^"]+)"', text)[0]))))
    assert picture.shape == (1280, 1280, 3)
    colored = picture.max(axis=2).astype(int) - picture.min(axis=2) > 40
    rows, columns = np.flatnonzero(colored[:, 780:1140].mean(axis=1) > .5), np.flatnonzero(
        colored[200:300].mean(axis=0) > .9)
    # The mask fills the object; JPEG blurs its edges.
    inner = columns[columns > 700]
    assert abs(rows[0] - 160) < 8 and abs(rows[-1] - 320) < 8
    assert abs(inner[0] - 800) < 8 and abs(inner[-1] - 1120) < 8
    assert (picture[700:, :] < 10).all()      # the padding


def test_a_damaged_image_is_named(tmp_path: pathlib.Path) -> None:
    manifest = write_example(tmp_path / 'set', png(np.zeros((320, 640, 3), np.uint8))[:100])
    with pytest.raises(InputError, match='image 1'):
        augmented_page.write(settings(manifest), tmp_path / 'page.html', 1)
    assert not (tmp_path / 'page.html').exists()

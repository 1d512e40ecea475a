"""In what the conventions of resizing differ: masks from torchvision's, images from Detectron2's (docs/parity.md).

Images and boxes are resized as torchvision does it (test_ops.py). Its masks are resized by nearest neighbour before
they become targets; ours are cut out of the image as it was, by their boxes, and never resized.
"""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf.input import decoding, images, records
from mrcnn_tf.ops import targets
from tests.conftest import KITS

CROP, TARGET = 112, 28     # data.mask_size, and cells of a target


def box_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.float32([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def target(mask: np.ndarray, extent: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Of one object in the box, in the reference's dialect."""
    found = targets.mask_targets(tf.constant(box[None]), tf.constant(mask[None]), tf.constant(extent[None]), TARGET,
                                 False, False)
    return found.numpy()[0]


@pytest.mark.parametrize('name', ['up', 'down'])
def test_mask_targets_of_resized_objects(ops_kit, hold, name) -> None:
    """Each object in its own box: nearest neighbour moves an edge by up to half a pixel of the old or the new image."""
    from tests.parity.reference import Difference

    apart, flipped = [], []
    for mask, resized in zip(ops_kit['resize_masks'], ops_kit[f'resize_masks_{name}'], strict=True):
        scale = np.tile(np.float32(resized.shape) / np.float32(mask.shape), 2)
        box, whole = box_of(mask), np.float32([0, 0, *resized.shape])
        crop = images.crop_masks(tf.constant([records.encode_mask(mask)]), tf.constant(box[None]),
                                 tf.constant(mask.shape), CROP).numpy()[0]
        theirs, ours = target(resized * np.uint8(255), whole, box * scale), target(crop, box * scale, box * scale)
        apart.append(np.abs(ours - theirs).mean())
        flipped.append(((ours >= .5) != (theirs >= .5)).mean())
    # An edge moves by a quarter of a pixel on the average, which an object of 20 px a side sees in every 20th cell of
    # each axis; measured 0.03 and 0.07.
    hold([Difference(f'resize_masks_{name}: mean difference of targets', np.mean(apart), .15),
          Difference(f'resize_masks_{name}: share of targets on the other side of 0.5', np.mean(flipped), .15)],
         'resize', '-', 'eager')


# Where the exact value is a half, Pillow's fixed point decides: up to 1.6 % of the values, by one grey level.
TIES = .02


@pytest.mark.parametrize(('short', 'long', 'way', 'smoothed'), [
    (800, 1333, 'enlarged to 800 px', .4), (256, 427, 'shrunk to 256 px', 5.)], ids=['enlarged', 'shrunk'])
def test_images_beside_pillow(coco_dir, hold, short, long, way, smoothed) -> None:
    """Detectron2 resizes bytes by Pillow. torchvision's dialect neither rounds pixels nor smooths where it shrinks."""
    from tests.parity.reference import Difference

    apart, other = [], []
    for path in sorted(coco_dir.rglob('*.jpg'))[:6]:
        picture = Image.open(path).convert('RGB')
        shape = images.resized_shape(picture.height, picture.width, short, long, rounded=True).numpy().tolist()
        scale = min(short / min(picture.size), long / max(picture.size))
        assert shape == [int(picture.height * scale + .5), int(picture.width * scale + .5)]
        theirs = np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR), np.float32)
        pixels = np.asarray(picture, np.float32)
        other.append((images.resize(pixels, shape, True).numpy() != theirs).mean())
        apart.append(np.abs(images.resize(pixels, shape, False).numpy() - theirs).mean())
    hold([Difference(f'Detectron2 dialect beside Pillow, {way}: share of values off by 1', np.max(other), TIES),
          Difference(f'torchvision dialect beside Pillow, {way}: mean difference of 0..255', np.mean(apart), smoothed)],
         'resize', '-', 'eager')


def test_images_of_detectron2(pytestconfig, coco_dir, hold) -> None:
    """From the file to the pixels that Detectron2 feeds, which its kit stores."""
    from tests.parity.reference import Difference

    kit = next((kit for kit in pytestconfig.stash[KITS] if kit.framework == 'detectron2'), None)
    if kit is None:
        pytest.skip('no parity kit of Detectron2: neither ../shared/parity_d2 nor --kit PATH is one')
    found = []
    for key, theirs in kit.arrays('images').items():
        image = decoding.decode(tf.constant((coco_dir / f'{key.partition("@")[0]}.jpg').read_bytes()))
        shape = images.resized_shape(*image.shape[:2], min(theirs.shape[:2]), 1333, rounded=True)
        ours = images.resize(image, shape, antialias=True).numpy()[..., ::-1]
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1
        found.append((ours != theirs).mean())
    hold([Difference('Detectron2 dialect beside the pixels of its kit: share of values off by 1', np.max(found), TIES)],
         'resize', '-', 'eager')

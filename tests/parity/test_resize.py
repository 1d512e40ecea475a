"""In what the conventions of resizing differ: masks from torchvision's, images from Detectron2's (docs/parity.md).

Images and boxes are resized as torchvision does it (test_ops.py). Its masks are resized by nearest neighbour before
they become targets; ours are cut out of the image as it was, by their boxes, and never resized.
"""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf import targets
from mrcnn_tf.input import images, records

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


def test_images_beside_detectron2(coco_dir, hold) -> None:
    """Detectron2 resizes bytes by Pillow; of that its dialect here leaves out the rounding of pixels to whole numbers.
    torchvision's dialect does not smooth where it shrinks: nothing changes where images are enlarged, as COCO's are."""
    from tests.parity.reference import Difference

    found = {'Detectron2': ([], []), 'torchvision': ([], [])}
    for path in sorted(coco_dir.rglob('*.jpg'))[:6]:
        picture = Image.open(path).convert('RGB')
        for kind, (short, long) in enumerate(((800, 1333), (256, 427))):
            shape = images.resized_shape(picture.height, picture.width, short, long, rounded=True).numpy().tolist()
            scale = min(short / min(picture.size), long / max(picture.size))
            assert shape == [int(picture.height * scale + .5), int(picture.width * scale + .5)]
            theirs = np.asarray(picture.resize(shape[::-1], Image.Resampling.BILINEAR), np.float32)
            for dialect, antialias in (('Detectron2', True), ('torchvision', False)):
                ours = images.resize(np.asarray(picture, np.float32), shape, antialias).numpy()
                found[dialect][kind].append(np.abs(ours - theirs).mean())
    # Rounding is 0.25 on the average, once for each axis in Pillow.
    limits = {'Detectron2': (.4, .4), 'torchvision': (.4, 5.)}
    hold([Difference(f'{dialect} dialect beside Pillow, {way}: mean difference of 0..255', np.mean(sizes), limit)
          for dialect in found for way, sizes, limit in zip(
              ('enlarged to 800 px', 'shrunk to 256 px'), found[dialect], limits[dialect], strict=True)],
         'resize', '-', 'eager')

"""Our side of the interchange: what our reader makes of a set, object by object, against pycocotools' reading.

usage: ours.py JSON MANIFEST
"""
from __future__ import annotations

import io
import sys

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import Manifest


def main(annotations: str, manifest: str) -> None:
    """Prints what was compared; an AssertionError names what differs."""
    truth, names = COCO(annotations), [category.name for category in Manifest.read(manifest).categories]
    images = objects = pixels = 0
    farthest = 0.0
    for found in ground_truth(manifest):
        expected = truth.loadAnns(truth.getAnnIds(found['image_id']))
        assert len(expected) == len(found['labels']), found['image_id']
        images += 1
        for i, each in enumerate(expected):
            assert names[found['labels'][i] - 1] == truth.cats[each['category_id']]['name']
            assert found['crowd'][i] == each['iscrowd']
            assert np.isclose(found['area'][i], each['area'], rtol=1e-6)
            x, y, across, down = each['bbox']
            farthest = max(farthest, float(np.abs(found['boxes'][i] - [y, x, y + down, x + across]).max()))
            with Image.open(io.BytesIO(found['masks'][i])) as mask:
                pixels += int(np.count_nonzero(np.array(mask) != truth.annToMask(each)))
            objects += 1
    print(f'{images} images, {objects} objects: names, crowds and areas equal, boxes to {farthest:.1e} px, '
          f'{pixels} pixels of masks differ')
    assert images and not pixels and farthest < 0.1


if __name__ == '__main__':
    main(*sys.argv[1:])

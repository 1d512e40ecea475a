"""The best IoU of boxes with anchors, and the anchors that are proposed, worked out by hand."""
from __future__ import annotations

import numpy as np
import pytest

from data_tools import anchor_fit
from mrcnn_tf import config as configuration
from mrcnn_tf.config import AnchorConfig
from mrcnn_tf.layers.anchors import AnchorGenerator
from mrcnn_tf.ops.boxes import iou

ONE = AnchorConfig(sizes=[[16.]], ratios=[1.])
C4 = ['model.backbone.maps=c4', 'model.anchors.sizes=[[32,64]]', 'model.anchors.ratios=[1]', 'data.test_short_side=100',
      'data.test_long_side=200']


def test_the_best_iou_of_one_anchor_shape() -> None:
    boxes = np.array([[8., 8, 24, 24], [8, 8, 24, 16], [12, 8, 28, 24]])
    # equal; half of it, 4 px beside the center; 4 px off
    assert anchor_fit.best_ious(boxes, ONE, [16]) == pytest.approx([1, 8 / 16, 12 / 20])


def test_the_best_iou_is_that_of_all_anchors() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(8, 90, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(2, 30, (40, 2))], axis=1).astype(np.float32)
    config = AnchorConfig(sizes=[[8.], [24.]], ratios=[.5, 2.])
    features = [np.zeros([1, 128 // step, 128 // step, 1], np.float32) for step in (4, 8)]
    every = AnchorGenerator(config.sizes, config.ratios, (4, 8))(features)
    assert anchor_fit.best_ious(boxes, config, (4, 8)) == pytest.approx(np.asarray(iou(boxes, every)).max(1), abs=1e-5)


def test_smaller_boxes_get_smaller_anchors() -> None:
    """Boxes of 20 px on images that are resized by half have 10 px; the anchors have 32 and 64."""
    config = configuration.load('mask_rcnn_r50_c4_1x', C4)
    boxes = np.array([[x - 10, 32 * k - 10, x + 10, 32 * k + 10] for k in range(1, 6) for x in (32., 64)])
    found = anchor_fit.fit(boxes, np.tile([200, 200], (10, 1)), config)
    assert found is not None and found.proposed is not None
    assert found.best == pytest.approx(np.full(10, 100 / 32 ** 2)) and found.roots.tolist() == [10.] * 10
    assert found.proposed.ratios == [1.] and 10. in found.proposed.sizes[0]
    assert [row[:2] for row in found.rows()] == [('small, below 32 px', 10), ('all', 10)]
    assert 'cover 0% of the boxes at IoU 0.7' in found.advice() and 'would cover 100%' in found.text()


def test_anchors_that_fit_are_kept() -> None:
    config = configuration.load('mask_rcnn_r50_c4_1x', C4)
    found = anchor_fit.fit(np.array([[0., 0, 64, 64]]), np.array([[100, 200]]), config)
    assert found is not None and found.proposed is None and 'no others' in found.advice()
    assert anchor_fit.fit(np.zeros([0, 4]), np.zeros([0, 2]), config) is None

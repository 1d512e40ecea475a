"""Whole-model inference against the reference, stage by stage and along the whole chain."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf import rpn
from tests.parity.reference import Case, yx

CASES = ['infer_maskrcnn_resnet18_fpn_0', 'infer_maskrcnn_resnet18_fpn_1', 'infer_maskrcnn_resnet18_fpn_2',
         'infer_maskrcnn_resnet50_fpn_0']
KEYS = ['0', '1', '2', '3', 'pool']


def close(ours, theirs, limit, what):
    difference = np.abs(np.asarray(ours) - theirs).max() if np.size(theirs) else 0.
    assert difference <= limit, f'{what} differs by {difference:.2g}, more than {limit}'


def nearest(ours, theirs):
    """For each expected box the index of ours nearest to it."""
    return np.abs(theirs[:, None] - ours[None]).max(-1).argmin(1) if len(ours) else np.zeros(0, int)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_inference_case(parity_dir, name):
    """Features, region proposals and detections, with the kit's limits."""
    case = Case(parity_dir / f'{name}.npz')
    model, batch = case.model('op'), case.batch()
    features, anchors, logits, deltas = model.describe(batch['images'], batch['sizes'], False)
    for feature, key in zip(features, KEYS, strict=True):
        part = np.transpose(feature, (0, 3, 1, 2))[:, case[f'fpn_{key}_channels'], ::case[f'fpn_{key}_step'],
                                                   ::case[f'fpn_{key}_step']]
        close(part, case[f'fpn_{key}'], 5e-4, f'fpn_{key}')
    close(anchors, yx(case['anchors']), 1e-4, 'anchors')
    proposals = rpn.propose(logits, deltas, anchors, batch['sizes'], model.settings.rpn, False, 'op')
    found = model(batch)
    for i in range(case.count):
        valid = proposals.valid[i].numpy()
        expected = yx(case[f'proposals_{i}'])
        ours = proposals.boxes[i].numpy()[valid]
        assert len(ours) == len(expected)
        match = nearest(ours, expected)
        assert len(set(match)) == len(expected)
        close(ours[match], expected, 3e-2, f'proposals_{i}')
        close(tf.sigmoid(proposals.logits[i]).numpy()[valid][match], case[f'proposal_scores_{i}'], 5e-5, 'scores')
        check_detections(case, found, i)


def check_detections(case, found, i):
    """Detections of image i matched with the nearest of the same label."""
    expected, labels = yx(case[f'det_boxes_{i}']), case[f'det_labels_{i}']
    valid = found['valid'][i].numpy()
    assert valid.sum() == len(expected)
    boxes, ours = found['boxes'][i].numpy()[valid], found['labels'][i].numpy()[valid]
    # A label apart counts as a far box, so that the nearest has the same label.
    match = nearest(np.c_[boxes, 1e4 * ours], np.c_[expected, 1e4 * labels])
    assert len(set(match)) == len(expected)
    close(boxes[match], expected, 3e-2, f'det_boxes_{i}')
    close(found['scores'][i].numpy()[valid][match], case[f'det_scores_{i}'], 5e-4, f'det_scores_{i}')
    close(found['masks'][i].numpy()[valid][match], case[f'det_mask_probs_{i}'], 1e-2, f'det_mask_probs_{i}')


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_heads_from_stored_boxes(parity_dir, name):
    """RoIAlign and heads alone, fed with the stored proposals and detections: narrow limits."""
    case = Case(parity_dir / f'{name}.npz')
    model, batch = case.model('op'), case.batch()
    features = model.describe(batch['images'], batch['sizes'], False)[0][:4]
    for i in range(case.count):
        level = [f[i:i + 1] for f in features]
        rois = tf.constant(yx(case[f'proposals_{i}'])[None])
        pooled = model.box_pool(level, rois)
        close(np.transpose(pooled[0, :8, :, :, ::32], (0, 3, 1, 2)), case[f'roi_pooled_{i}'], 2e-4, 'roi_pooled')
        logits = model.box_head(pooled)[0]
        close(logits[0, :50], case[f'box_logits_{i}'], 5e-4, 'box_logits')
        if len(case[f'det_boxes_{i}']):
            masks = model.mask_head(model.mask_pool(level, tf.constant(yx(case[f'det_boxes_{i}'])[None])))
            index = np.arange(masks.shape[1]), case[f'det_labels_{i}'] - 1
            probabilities = tf.sigmoid(masks[0]).numpy()[index[0], :, :, index[1]]
            close(probabilities, case[f'det_mask_probs_{i}'], 3e-4, 'mask probabilities')

"""Imported models, compared with outputs that PyTorch computed from the same weights.

The models are Detectron2's C4, DC5, ResNeXt-101 FPN and cascade, and torchvision's second recipe.
`detectron2_reference.py` and `torchvision_reference.py` made the outputs.
"""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf import config
from mrcnn_tf.config import DataConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.detectors.instances import split_batch
from mrcnn_tf.input import images
from mrcnn_tf.weights import detectron2, torchvision
from tests.parity.inference_stages import nearest
from tests.weights import detectron2_reference, torchvision_reference

XY = [1, 0, 3, 2]


def built(framework, state, *overrides) -> Detector:
    source, found = framework.settings(state)
    model = build_detector(config.load(source, [*found, *overrides]).model)
    framework.load_state_dict(model, state)
    return model


def outputs(model: Detector, image: np.ndarray, rois: np.ndarray) -> dict[str, np.ndarray]:
    """Return the outputs that the reference stores, in our layouts; those of a cascade's box heads are concatenated."""
    batch = {'images': tf.constant(image[None]), 'sizes': tf.constant([image.shape[:2]], tf.float32)}
    features = model.features(batch)
    _, logits, deltas = model.proposer.score(features, batch['images'])
    regions = tf.constant(rois[None][..., XY])
    pooled = model.box.roi_features.pool(features, regions)
    classes, boxes = (tf.concat(each, 1) for each in zip(*(head(pooled) for head in model.box.heads), strict=True))
    masks = model.branches[0].head(model.branches[0].roi_features.pool(features, regions[:, :1]))
    found = {f'feature_{k}': feature[..., ::16] for k, feature in enumerate(features)}
    found.update(logits=tf.concat(logits, 1)[0], deltas=tf.concat(deltas, 1)[0], classes=classes[0], boxes=boxes[0],
                 masks=masks[0])
    return {name: np.asarray(value) for name, value in found.items()}


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-4 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize(('case', 'name'), [
    ('c4', 'mask_rcnn_r50_c4_1x'),
    pytest.param('dc5', 'mask_rcnn_r50_dc5_1x', marks=pytest.mark.slow),
    pytest.param('x101', 'mask_rcnn_r50_fpn_1x', marks=pytest.mark.slow),
    pytest.param('cascade', 'cascade_mask_rcnn_r50_fpn_1x', marks=pytest.mark.slow)])
def test_detectron2(case, name) -> None:
    with np.load(detectron2_reference.PATH) as stored:
        expected = {key.split('/')[1]: stored[key] for key in stored if key.startswith(f'{case}/')}
    state = detectron2_reference.state(case)
    assert detectron2.settings(state)[0] == name
    model = built(detectron2, state, f'model.box_head.width={detectron2_reference.WIDTH}')
    expected.update({key: expected[key].transpose(0, 2, 3, 1) for key in expected if key.startswith(('feat', 'mask'))},
                    deltas=expected['deltas'][:, XY], boxes=expected['boxes'][..., XY],
                    classes=expected['classes'][:, [3, 0, 1, 2]])
    compare(outputs(model, detectron2_reference.IMAGE, detectron2_reference.ROIS), expected)


@pytest.mark.slow
def test_torchvision_v2() -> None:
    with np.load(torchvision_reference.PATH) as stored:
        expected = dict(stored)
    state = torchvision_reference.state(expected)
    assert torchvision.settings(state)[0] == 'torchvision_mask_rcnn_r50_fpn_v2'
    model = built(torchvision, state)
    expected.update({key: expected[key].transpose(0, 2, 3, 1) for key in expected if key.startswith('feature')},
                    deltas=expected['deltas'][:, XY], boxes=expected['boxes'][:, 1:, XY],
                    masks=expected['masks'].transpose(0, 2, 3, 1)[..., 1:])
    stages = {name: value for name, value in expected.items() if not name.startswith(('names', 'shapes', 'found_'))}
    compare(outputs(model, torchvision_reference.IMAGE, torchvision_reference.ROIS), stages)
    compare_detections(model, expected)


def compare_detections(model: Detector, expected: dict[str, np.ndarray]) -> None:
    """Compare all detections, with resizing and a canvas that the strides do not divide."""
    data = DataConfig(test_short_side=torchvision_reference.SHORT_SIDE)
    batch = images.batch_of_one(tf.constant(torchvision_reference.IMAGE), data)
    ((_, _, found),) = split_batch(model(batch), batch)
    assert len(found) == len(expected['found_boxes'])
    index, apart = nearest(found.boxes, expected['found_boxes'][:, XY], found.labels, expected['found_labels'])
    assert apart < .03
    np.testing.assert_allclose(found.scores[index], expected['found_scores'], atol=5e-4)

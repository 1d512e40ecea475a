"""A small detector for tests: ResNet-18 and 64 x 64 px, its batches, and weights whose answers differ."""
from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.detector import Detector, build_detector

RATE, CLIP = .05, .5
Step = tuple[dict[str, list[float]], list[np.ndarray]]    # losses by name, and the weights after it


def small_config(**changes: Any) -> ModelConfig:
    """Changes are given as section__field=value."""
    config = ModelConfig(num_classes=3, channel_order='rgb', pixel_mean=[110., 120., 130.], pixel_std=[60., 55., 50.])
    values = dict(
        backbone__name='resnet18', backbone__fpn_channels=16, backbone__norm='batch', backbone__frozen_stages=2,
        anchors__sizes=[[8.], [16.], [32.], [64.], [128.]], rpn__batch_per_image=32, rpn__pre_nms_train=40,
        rpn__pre_nms_test=40, rpn__post_nms_train=24, rpn__post_nms_test=24, roi__batch_per_image=16,
        box_head__pool_size=3, box_head__width=32, mask_head__pool_size=4, mask_head__width=8,
        mask_head__convolutions=1, detections__max_detections=16, detections__score_threshold=.6)
    for name, value in {**values, **changes}.items():
        *section, field = name.split('__')
        assert hasattr(getattr(config, *section) if section else config, field)
        setattr(getattr(config, *section) if section else config, field, value)
    return config


def make_batch(width: int = 64, **changes: Any) -> dict[str, tf.Tensor]:
    """Two images, the second with padding; three objects, one of them a crowd, and two; four slots."""
    rng = np.random.default_rng(4)
    sizes = np.float32([[64, width], [48, 56]])
    images = rng.uniform(0, 255, (2, 64, width, 3)).astype(np.float32)
    images[1, 48:], images[1, :, 56:] = 0, 0
    boxes = np.zeros([2, 4, 4], np.float32)
    boxes[0, :3] = [[5, 5, 30, 40], [20, 30, 50, 60], [30, 0, 64, 60]]
    boxes[1, :2] = [[3, 3, 40, 20], [10, 30, 28, 50]]
    batch = {
        'images': images, 'sizes': sizes, 'original_sizes': sizes.astype(np.int32), 'image_ids': np.array([7, 9]),
        'image_valid': np.ones(2, bool), 'boxes': boxes, 'labels': np.int32([[1, 3, 2, 0], [2, 1, 0, 0]]),
        'crowd': np.array([[False, False, True, False], [False] * 4]), 'valid': boxes.any(-1),
        'has_mask': boxes.any(-1),
        'masks': rng.integers(0, 256, (2, 4, 14, 14)).astype(np.uint8)}
    return {name: tf.constant(value) for name, value in {**batch, **changes}.items()}


def without_objects(**changes: Any) -> dict[str, tf.Tensor]:
    """As the input pads: zeros in every slot."""
    batch = make_batch()
    return {**batch, **{name: tf.zeros_like(batch[name]) for name in (
        'boxes', 'labels', 'crowd', 'valid', 'masks', 'has_mask')}, **changes}


def scale_to(layer: Any, output: tf.Tensor, deviation: float) -> None:
    layer.kernel.assign(layer.kernel * deviation / (np.std(output) + 1e-9))


def enliven(model: Detector, batch: dict[str, tf.Tensor]) -> None:
    """Fresh weights score everything alike; these give well separated scores, boxes and masks."""
    features = model.features(batch)
    _, logits, deltas = model.proposer.score(features, batch['images'])
    scale_to(model.proposer.head.objectness, tf.concat(logits, 1), 2.)
    scale_to(model.proposer.head.deltas, tf.concat(deltas, 1), .3)
    boxes = tf.constant([[[4. * i, 3. * i, 30. + 2 * i, 24. + 3 * i] for i in range(12)]] * len(batch['images']))
    for head in model.box.heads:
        scores, shifts = head(model.box.roi_features.roi_layer(features[:4], boxes))
        scale_to(head.classes, scores, 2.)
        scale_to(head.deltas, shifts, 1.)
    mask, = model.branches
    scale_to(mask.head.masks, mask.head(mask.roi_features.roi_layer(features[:4], boxes)), 2.)


def compiled_model(engine: str, weights: list[np.ndarray], jit: bool = False, config: ModelConfig | None = None
                   ) -> Detector:
    model = build_detector(config or small_config(), engine)
    model.set_weights(weights)
    model.compile(keras.optimizers.SGD(RATE), clip_norm=CLIP, seed=3, jit_compile=jit)
    return model


def mixed_model(weights: list[np.ndarray], config: ModelConfig | None = None) -> Detector:
    keras.mixed_precision.set_global_policy('mixed_bfloat16')
    try:
        return compiled_model('op', weights, config=config)
    finally:
        keras.mixed_precision.set_global_policy('float32')


def fit(model: Detector, *batches: dict[str, tf.Tensor], steps: int | None = None) -> dict[str, list[float]]:
    """`model.fit` on a tf.data set of these batches, over and over if `steps` says so; the losses of the last step."""
    dataset = tf.data.Dataset.from_tensors(batches[0])
    for batch in batches[1:]:
        dataset = dataset.concatenate(tf.data.Dataset.from_tensors(batch))
    if steps:
        dataset = dataset.repeat()
    history = model.fit(dataset, steps_per_epoch=steps or len(batches), shuffle=False, verbose=0).history
    return {name: values[-1] for name, values in history.items()}


def assert_same_detections(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    np.testing.assert_array_equal(found['valid'], expected['valid'])
    np.testing.assert_array_equal(found['labels'], expected['labels'])
    for name, limit in (('boxes', 1e-2), ('scores', 1e-4), ('masks', 1e-3)):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=limit, err_msg=name)


def names_of(model: Detector) -> list[str]:
    return [getattr(v, 'path', v.name) for v in model.weights]


def assert_same_step(model: Detector, before: list[np.ndarray], found: Step, expected: Step) -> None:
    """The same losses, and the same weights after it."""
    assert sorted(found[0]) == sorted(expected[0])
    for name, value in found[0].items():
        np.testing.assert_allclose(value, expected[0][name], rtol=1e-4, err_msg=name)
    for name, old, ours, theirs in zip(names_of(model), before, found[1], expected[1], strict=True):
        moved = np.abs(theirs - old).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-3 * moved + 1e-8, err_msg=name)

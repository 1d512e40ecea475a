"""The whole detector: inference compiled by XLA and not, both engines, both precisions, and batches of every kind.

The detector is small: ResNet-18, 64 x 64 px, two images. Functions are traced once a module and shared.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.detectors import detector
from mrcnn_tf.detectors.detector import LOSSES, Detector, build_detector
from mrcnn_tf.layers import winograd
from tests.detectors.small import (
    assert_same_detections,
    assert_same_step,
    compiled_model,
    enliven,
    fit,
    make_batch,
    mixed_model,
    small_config,
    without_objects,
)
from tests.modes import recorded


@pytest.fixture(scope='module')
def detect(op_model, weights) -> Callable[..., dict[str, np.ndarray]]:
    function = tf.function(lambda batch: op_model(batch), autograph=False)

    def run(batch: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        op_model.set_weights(weights)
        return {name: value.numpy() for name, value in function(
            {name: batch[name] for name in ('images', 'sizes')}).items()}

    return run


@pytest.fixture(scope='module')
def differentiate(op_model, weights) -> Callable[..., tuple[dict[str, float], list[np.ndarray]]]:
    """Losses by name and gradients of their sum; nothing is updated but running statistics, which are put back."""
    @tf.function(autograph=False)
    def function(batch: dict[str, tf.Tensor], seed: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            losses = op_model.losses(batch, seed)
            total = tf.add_n(list(losses.values()))
        return losses, tape.gradient(total, op_model.trainable_variables)

    def run(batch: dict[str, tf.Tensor], seed: tuple[int, int] = (0, 0)) -> Any:
        op_model.set_weights(weights)
        losses, gradients = function(batch, tf.constant(seed))
        op_model.set_weights(weights)
        return {name: float(value) for name, value in losses.items()}, [g.numpy() for g in gradients]

    return run


@pytest.fixture(scope='module')
def xla_model(weights) -> Detector:
    return compiled_model('xla', weights)


@pytest.mark.parametrize('mode', ['graph', 'jit'])
def test_the_inference_of_the_xla_engine(detect, xla_model, mode) -> None:
    """Uncompiled, and compiled as a whole: the detections of the 'op' engine, in shapes that are known beforehand."""
    batch = {name: make_batch()[name] for name in ('images', 'sizes')}
    function = tf.function(lambda batch: xla_model(batch), autograph=False, jit_compile=mode == 'jit')
    expected = detect(batch)
    assert expected['valid'].sum() > 5 and not expected['valid'].all()
    assert_same_detections(function(batch), expected)
    shapes = {name: (x.shape.as_list(), x.dtype) for name, x in function.get_concrete_function(
        batch).structured_outputs.items()}
    assert shapes == {'boxes': ([2, 16, 4], tf.float32), 'scores': ([2, 16], tf.float32), 'labels': ([2, 16], tf.int32),
                      'valid': ([2, 16], tf.bool), 'masks': ([2, 16, 8, 8], tf.float32)}


@pytest.mark.slow
@pytest.mark.large
def test_bells_and_whistles_compiled_as_a_whole() -> None:
    """In one model a cascade, hard RoIs, dropout, refined boxes that vote, and masks whose classes compete: a step of
    training and inference compiled by XLA are those of the 'op' engine."""
    config = small_config(
        roi__sampling='ohem', box_head__dropout=.3, box_head__class_agnostic=True, cascade__positive_iou=[.6],
        cascade__box_weights=[[20., 20., 10., 10.]], detections__refinements=1, detections__box_voting_iou=.6,
        mask_head__classifier='softmax', detections__score_threshold=.35)
    keras.utils.set_random_seed(4)
    model = build_detector(config)
    enliven(model, make_batch())
    weights = model.get_weights()
    steps, found, batch = [], [], {name: make_batch()[name] for name in ('images', 'sizes')}
    for engine, jit in (('op', False), ('xla', True)):
        model = compiled_model(engine, weights, jit, config)
        found.append(tf.function(lambda batch, model=model: model(batch), autograph=False, jit_compile=jit)(batch))
        steps.append((fit(model, make_batch()), model.get_weights()))
    assert found[0]['valid'].numpy().sum() > 5
    assert_same_detections(found[1], found[0])
    assert {f'loss_classifier_stage{stage}' for stage in (1, 2)} < set(steps[0][0])
    assert_same_step(model, weights, steps[1], steps[0])


def test_detections_lie_in_their_images_best_first(detect) -> None:
    found = detect(make_batch())
    for i, (height, width) in enumerate(make_batch()['sizes'].numpy()):
        kept = found['valid'][i]
        boxes, scores = found['boxes'][i], found['scores'][i]
        assert (boxes >= 0).all() and (boxes <= [height, width, height, width]).all()
        assert (boxes[kept, 2:] > boxes[kept, :2]).all()
        assert (np.diff(scores) <= 0).all() and (scores[kept] > .6).all()
        assert ((found['labels'][i] >= 1) == kept).all() and (found['labels'][i] <= 3).all()
        assert (found['masks'][i][kept] > 0).all() and (found['masks'][i] < 1).all()
        assert not any(np.any(found[name][i][~kept]) for name in found)


def test_permuted_images_give_permuted_detections(detect) -> None:
    batch = make_batch()
    found = detect(batch)
    flipped = detect({name: value[::-1] for name, value in batch.items()})
    assert_same_detections({name: value[::-1] for name, value in flipped.items()}, found)


@pytest.mark.slow
def test_what_lies_beyond_an_image_does_not_count(detect, differentiate) -> None:
    """The canvas of the second image is filled with noise beyond 48 x 56 px."""
    batch = make_batch()
    images = np.random.default_rng(1).uniform(0, 255, batch['images'].shape).astype(np.float32)
    images[0], images[1, :48, :56] = batch['images'][0], batch['images'][1, :48, :56]
    noisy = {**batch, 'images': tf.constant(images)}
    for name, value in detect(batch).items():
        np.testing.assert_array_equal(detect(noisy)[name], value)
    assert differentiate(noisy)[0] == differentiate(batch)[0]


def test_a_larger_canvas_gives_the_same_detections(weights) -> None:
    """Where convolutions cannot see beyond their own cell, nothing of the canvas is left but its zeros: the picture
    fills 28 x 28 of the image's 64 x 64 px, so that the border's half cells, which RoIAlign repeats on the small canvas
    and not on the large one, hold zeros too."""
    model = build_detector(small_config(rpn__post_nms_test=16, detections__score_threshold=.1))
    model.set_weights(weights)
    for variable in [*model.backbone.weights, *model.proposer.head.weights]:
        if len(variable.shape) == 4 and variable.shape[0] > 1:
            middle, kernel = variable.shape[0] // 2, np.zeros(variable.shape)
            kernel[middle, middle] = variable.numpy()[middle, middle]
            variable.assign(kernel)
    images = np.broadcast_to(np.float32(model.settings.pixel_mean), [1, 64, 64, 3]).copy()
    images[:, :28, :28] = make_batch()['images'][0, :28, :28]
    small = {'images': tf.constant(images), 'sizes': tf.constant([[64., 64.]])}
    enliven(model, small)
    model.proposer.head.objectness.bias.assign(tf.fill([3], -6.))               # of cells that hold nothing
    large = {**small, 'images': tf.pad(small['images'], [[0, 0], [0, 64], [0, 128], [0, 0]])}
    found, expected = (tf.function(model.call, autograph=False)(batch) for batch in (large, small))
    assert expected['valid'].numpy().sum() > 4
    assert_same_detections(found, expected)


def test_images_are_normalised_in_the_order_of_the_weights() -> None:
    """(x - mean) / deviation by channel; BGR turns the channels first; zeros beyond the image."""
    images, sizes = tf.constant([[[[10., 20., 30.]] * 2] * 2]), tf.constant([[1., 2.]])
    settings = dict(pixel_mean=[1., 2., 3.], pixel_std=[1., 2., 9.])
    rgb = build_detector(small_config(channel_order='rgb', **settings)).normalize(images, sizes)
    np.testing.assert_allclose(rgb, [[[[9, 9, 3]] * 2, [[0, 0, 0]] * 2]], rtol=1e-6)
    bgr = build_detector(small_config(channel_order='bgr', **settings)).normalize(images, sizes)
    np.testing.assert_allclose(bgr, [[[[29, 9, 7 / 9]] * 2, [[0, 0, 0]] * 2]], rtol=1e-6)


@pytest.mark.parametrize('way', ['eager', 'graph'])
def test_training_with_the_convolutions_for_a_cpu(op_model, weights, monkeypatch, way) -> None:
    def differentiated() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = op_model.losses(make_batch(), tf.constant((0, 0)))
            total = tf.add_n(list(losses.values()))
        return [*losses.values(), *tape.gradient(total, op_model.trainable_variables)]

    def step(function: Callable[[], list[tf.Tensor]]) -> list[np.ndarray]:
        op_model.set_weights(weights)
        values = [value.numpy() for value in function()]
        op_model.set_weights(weights)
        return values

    expected = step(differentiated)
    monkeypatch.setattr(winograd, 'CELLS', 1)
    monkeypatch.setattr(winograd, 'CHANNELS', 1)
    with recorded(winograd, 'convolution') as calls:
        found = step(differentiated if way == 'eager' else tf.function(differentiated, autograph=False))
    assert len(calls) > 10
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3 * np.abs(other).max())


@pytest.mark.parametrize('training', [True, False])
def test_results_in_bfloat16_are_more_exact_in_training(op_model, monkeypatch, training) -> None:
    given = []

    def context(*arguments: Any) -> Any:
        given.append(arguments)
        return contextlib.nullcontext()

    monkeypatch.setattr(detector, 'winograd_convolutions', context)
    op_model.losses(make_batch(), tf.constant((0, 0)), training=training)
    assert given == [('op', training)]


@pytest.mark.parametrize('kind', ['empty', 'only crowds'])
def test_a_batch_without_objects_to_find(differentiate, op_model, kind) -> None:
    """Nothing to regress, only background: losses and gradients are finite, those of box and mask outputs zero."""
    batch = make_batch()
    batch = without_objects() if kind == 'empty' else {**batch, 'crowd': batch['valid']}
    losses, gradients = differentiate(batch)
    assert losses['loss_rpn_box_reg'] == losses['loss_box_reg'] == losses['loss_mask'] == 0
    assert 0 < losses['loss_objectness'] < 99 and 0 < losses['loss_classifier'] < 99
    assert all(np.isfinite(g).all() for g in gradients)
    by_name = dict(zip([id(v) for v in op_model.trainable_variables], gradients, strict=True))
    box_head, rpn_head = op_model.box.heads[0], op_model.proposer.head
    for layer, moves in ((op_model.branches[0].head, False), (box_head.deltas, False), (rpn_head.deltas, False),
                         (box_head.classes, True), (rpn_head.objectness, True)):
        assert all(bool(np.any(by_name[id(v)])) is moves for v in layer.trainable_variables)


def test_a_crowd_is_neither_object_nor_background(differentiate) -> None:
    """What a crowd's slot holds as label and mask does not matter; its box does, and taking it for an object does."""
    batch = make_batch()
    losses, _ = differentiate(batch)
    changed = {**batch, 'labels': tf.constant([[1, 3, 1, 0], [2, 1, 0, 0]]),
               'masks': tf.concat([batch['masks'][:, :2], 255 - batch['masks'][:, 2:]], axis=1)}
    assert differentiate(changed)[0] == losses
    assert differentiate({**batch, 'crowd': tf.zeros_like(batch['crowd'])})[0] != losses
    gone = np.array(batch['valid'])
    gone[0, 2] = False
    assert differentiate({**batch, 'valid': tf.constant(gone)})[0] != losses


def test_the_masks_of_objects_with_a_box_only_do_not_count(differentiate, op_model) -> None:
    """What stands in their masks does not matter, and all other losses stay; where no object has a mask, the mask head
    gets no gradient. All have one where the batch does not say."""
    batch = make_batch()
    losses, _ = differentiate(batch)
    some = {**batch, 'has_mask': tf.constant([[True, False, True, False], [True, False, False, False]])}
    found, _ = differentiate(some)
    blank = np.array(batch['masks'])
    blank[0, 1], blank[1, 1] = 0, 255
    assert differentiate({**some, 'masks': tf.constant(blank)})[0] == found
    assert found['loss_mask'] != losses['loss_mask'] and {**found, 'loss_mask': losses['loss_mask']} == losses
    none, gradients = differentiate({**batch, 'has_mask': tf.zeros_like(batch['has_mask'])})
    assert none == {**losses, 'loss_mask': 0.} and all(np.isfinite(g).all() for g in gradients)
    by_name = dict(zip([id(v) for v in op_model.trainable_variables], gradients, strict=True))
    assert not any(np.any(by_name[id(v)]) for v in op_model.branches[0].head.trainable_variables)
    assert any(np.any(by_name[id(v)]) for v in op_model.box.heads[0].trainable_variables)
    unsaid = {name: value for name, value in batch.items() if name != 'has_mask'}
    assert float(op_model.losses(unsaid, tf.constant([0, 0]))['loss_mask']) == pytest.approx(losses['loss_mask'])


def test_what_stands_in_unused_slots_does_not_count(differentiate) -> None:
    batch = make_batch()
    unused = ~batch['valid'].numpy()
    boxes, labels, masks = (batch[name].numpy() for name in ('boxes', 'labels', 'masks'))
    boxes[unused], labels[unused], masks[unused] = [8, 8, 40, 40], 2, 255
    stuffed = {**batch, 'boxes': tf.constant(boxes), 'labels': tf.constant(labels), 'masks': tf.constant(masks)}
    assert differentiate(stuffed)[0] == differentiate(batch)[0]


def test_an_object_without_an_area_leaves_everything_finite(differentiate) -> None:
    boxes = make_batch()['boxes'].numpy()
    boxes[0, 0], boxes[1, 1] = [20, 20, 20, 20], [10, 30, 10, 50]
    losses, gradients = differentiate(make_batch(boxes=boxes))
    assert all(np.isfinite(value) for value in losses.values())
    assert all(np.isfinite(g).all() for g in gradients)


def test_the_seed_decides_what_is_drawn(differentiate) -> None:
    first, gradients = differentiate(make_batch(), (5, 2))
    again, same = differentiate(make_batch(), (5, 2))
    assert first == again
    for a, b in zip(gradients, same, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    for seed in ((6, 2), (5, 4)):
        other, _ = differentiate(make_batch(), seed)
        assert other['loss_objectness'] != first['loss_objectness']
        assert other['loss_classifier'] != first['loss_classifier']


@pytest.mark.parametrize('changes', [
    dict(kind='faster_rcnn', box_head__class_agnostic=True),
    dict(kind='fast_rcnn', backbone__name='vgg16', backbone__maps='c5', anchors__sizes=[[8.]], roi__layer='pool',
         roi__aggregate='max', roi__background_iou=.1, box_head__dropout=.5),
    dict(box_head__class_agnostic=True, mask_head__class_agnostic=True, roi__batch_per_image=99,
         rpn__batch_per_image=9999),
    dict(roi__sampling='ohem', roi__batch_per_image=4),
    dict(roi__batch_per_image=2, roi__positive_fraction=.5, rpn__batch_per_image=2, rpn__loss_normalizer='sampled'),
    dict(backbone__maps='c4', anchors__sizes=[[8., 16., 32.]], box_head__pool_size=4, box_head__fully_connected=0,
         mask_head__convolutions=0, roi__layer='warp', roi__aggregate='max', detections__refinements=1),
    dict(backbone__maps='c5', anchors__sizes=[[8., 16., 32.]], roi__layer='pool', roi__aggregate='max',
         mask_head__classifier='softmax', rpn__classifier='softmax'),
    dict(backbone__fpn_channels=32, backbone__fpn_norm='group', box_head__convolutions=1, box_head__norm='group',
         box_head__convolution_width=32, box_head__fully_connected=1, rpn__convolutions=2)])
def test_other_models(changes) -> None:
    """Without masks; with given regions and dropout; one box and mask for all classes, more slots than candidates; the
    hardest RoIs; two slots, one for a positive; res5 as a head, boxes read twice; one dilated map, RoIPool, classes
    that compete; normalization outside the backbone."""
    model = build_detector(small_config(roi__sampling_ratio=1, **changes))
    count = len(model.weights)
    batch, with_masks = make_batch(), model.settings.kind == 'mask_rcnn'
    if not with_masks:
        del batch['masks']
    names = LOSSES if with_masks else LOSSES[:-1]
    if model.settings.kind == 'fast_rcnn':
        proposals = tf.constant([[[4., 4., 32., 38.], [10., 5., 60., 60.], [0., 0., 0., 0.]]] * 2)
        batch.update(proposals=proposals, proposals_valid=proposals[..., 2] > 0.)
        names = LOSSES[2:-1]
    with tf.GradientTape() as tape:
        losses = model.losses(batch, tf.constant([0, 0]))
        total = tf.add_n(list(losses.values()))
    gradients = tape.gradient(total, model.trainable_variables)
    assert list(losses) == list(names)
    assert all(np.isfinite(x) for x in losses.values()) and float(losses['loss_classifier']) > 0
    assert all(np.isfinite(g).all() for g in gradients)
    found = model(batch)
    assert ('masks' in found) is with_masks
    assert bool(model.branches) is with_masks
    assert len(model.weights) == count                                     # all were made before the first batch


def test_the_rpn_alone(op_model, weights, differentiate) -> None:
    """The RPN of Mask R-CNN by itself: the same two losses, its proposals as detections, and nothing of the heads."""
    batch = make_batch()
    expected = differentiate(batch)[0]
    model = build_detector(small_config(kind='rpn'))
    for part in ('backbone', 'proposer'):
        getattr(model, part).set_weights(getattr(op_model, part).get_weights())
    assert len(model.weights) == len(model.backbone.weights) + len(model.proposer.head.weights)
    found = model(batch)
    boxes, _, valid = op_model.proposer.propose(op_model.features(batch), batch)
    np.testing.assert_allclose(found['boxes'], boxes, atol=1e-3)
    np.testing.assert_array_equal(found['valid'], valid)
    assert sorted(found) == ['boxes', 'labels', 'scores', 'valid']
    scores, valid = found['scores'].numpy(), valid.numpy()
    assert (found['labels'].numpy() == valid).all() and ((scores > 0) == valid).all() and scores.max() < 1
    assert (np.diff(scores) <= 0).all() and tuple(model.output_spec()['scores'].shape) == scores.shape[1:] == (24,)
    losses = model.losses(batch, tf.constant([0, 0]))                   # last: statistics move
    assert list(losses) == list(LOSSES[:2])
    for name, value in losses.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)


@pytest.mark.parametrize(('kind', 'needs'), [
    ('rpn', ()), ('fast_rcnn', ('proposals',)), ('faster_rcnn', ()), ('mask_rcnn', ('masks',))])
def test_config_and_branches_agree_on_what_training_needs(kind, needs) -> None:
    config = small_config(kind=kind)
    assert build_detector(config).needs == config.needs == needs


def test_a_cascade() -> None:
    """Every weight of the three heads is made before the first batch and has a gradient; losses are named by stage."""
    model = build_detector(small_config(
        box_head__class_agnostic=True, cascade__positive_iou=[.6, .7], cascade__box_weights=[[20., 20., 10., 10.]] * 2))
    count, batch = len(model.weights), make_batch()
    with tf.GradientTape() as tape:
        losses = model.losses(batch, tf.constant([0, 0]))
        total = tf.add_n(list(losses.values()))
    gradients = tape.gradient(total, model.trainable_variables)
    assert list(losses) == [*LOSSES[:2], *(f'{name}_stage{i}' for i in (1, 2, 3) for name in LOSSES[2:4]), 'loss_mask']
    assert all(np.isfinite(x) for x in losses.values()) and all(np.isfinite(g).all() for g in gradients)
    assert len(model.box.heads) == 3 and model(batch)['masks'].shape == [2, 16, 8, 8]
    assert len(model.weights) == count


@pytest.mark.parametrize('maps', ['fpn', 'c4'])
def test_one_graph_serves_all_heights_and_widths(maps) -> None:
    """C4 with sides that nothing divides, FPN with the anchors' stride of the canvas. Detections are those of static
    shapes."""
    keras.utils.set_random_seed(3)
    one_map = {} if maps == 'fpn' else {
        'backbone__maps': 'c4', 'anchors__sizes': [[8., 16., 32.]], 'anchors__order': 'size_major',
        'box_head__fully_connected': 0, 'box_head__pool_size': 4, 'mask_head__convolutions': 0}
    stride = 'canvas' if maps == 'fpn' else 'level'
    model = build_detector(small_config(anchors__stride=stride, detections__score_threshold=.2, **one_map))
    graph = tf.function(lambda images, sizes: model({'images': images, 'sizes': sizes}), autograph=False,
                        input_signature=[tf.TensorSpec([1, None, None, 3]), tf.TensorSpec([1, 2])])
    one_side = tf.function(lambda images, sizes: model({'images': images, 'sizes': sizes})['boxes'], autograph=False)
    assert one_side.get_concrete_function(tf.TensorSpec([1, 64, None, 3]), tf.TensorSpec([1, 2])).outputs
    rng = np.random.default_rng(1)
    for canvas in ((64, 96), (32, 64)) if maps == 'fpn' else ((53, 71), (33, 30)):
        images, sizes = tf.constant(rng.uniform(0, 255, (1, *canvas, 3)), tf.float32), tf.constant([canvas], tf.float32)
        static, dynamic = model({'images': images, 'sizes': sizes}), graph(images, sizes)
        assert static['valid'].numpy().any()
        for name, value in static.items():
            np.testing.assert_allclose(dynamic[name], value, atol=1e-4, err_msg=name)


def test_losses_of_mixed_precision_are_near_those_of_float32(weights) -> None:
    """Without proposals, whose order a rounding may change: the objects' own boxes are the RoIs."""
    config = small_config(rpn__min_side=999.)
    exact, mixed = (model.losses(make_batch(), tf.constant([0, 0])) for model in (
        compiled_model('op', weights, config=config), mixed_model(weights, config)))
    for name in LOSSES:
        assert mixed[name].dtype == tf.float32
        np.testing.assert_allclose(mixed[name], exact[name], rtol=.03, err_msg=name)
    assert any(float(mixed[name]) != float(exact[name]) for name in LOSSES)


def test_boxes_are_not_rounded_under_mixed_precision(weights) -> None:
    found = mixed_model(weights)(make_batch())
    assert {name: x.dtype.name for name, x in found.items()} == {
        'boxes': 'float32', 'scores': 'float32', 'labels': 'int32', 'valid': 'bool', 'masks': 'float32'}
    edges = tf.boolean_mask(found['boxes'], found['valid'])
    edges = tf.boolean_mask(edges, (edges > 0) & (edges % 1 > 0))
    rounded = tf.cast(tf.cast(edges, tf.bfloat16), tf.float32)
    assert len(edges) > 10 and np.mean(edges == rounded) < .1

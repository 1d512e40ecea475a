"""Every table of ops.npz: single operators against the reference's values and gradients, in every mode and engine.

Numbers of rows and classes are the kit's; what it does not store (thresholds, scales, grids) its README states.
"""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.input import images, transforms
from mrcnn_tf.input.transforms import Sample
from mrcnn_tf.layers import roi
from mrcnn_tf.layers.anchors import AnchorGenerator, base_anchors
from mrcnn_tf.layers.normalization import FrozenBatchNormalization
from mrcnn_tf.ops import boxes, losses, paste, targets
from mrcnn_tf.training.optimizers import SGD
from tests.modes import ENGINES_AND_MODES, MODES, gradients_of, ours, with_gradient

BETA = 1 / 9
WEIGHTS = {'1': (1., 1., 1., 1.), '10': (10., 10., 5., 5.)}
SIZES = {'7x7': (7, 7), '3x5': (3, 5)}
STRIDE = 4


def last(array: np.ndarray) -> np.ndarray:
    """Channels from second to last place."""
    return np.moveaxis(array, 1, -1)


# RoIAlign, RoIPool, levels --------------------------------------------------------------------------------------------

# Eagerly, the largest box would take hundreds of small steps where it adapts.
ALIGNED = [(size, dialect, ratio, engine, mode) for size in SIZES for dialect in ('legacy', 'aligned')
           for ratio in ('ratio2', 'adaptive') for engine, mode in ENGINES_AND_MODES
           if mode != 'eager' or (size, dialect, ratio) == ('7x7', 'aligned', 'ratio2')]


@pytest.mark.parametrize(('size', 'dialect', 'ratio', 'engine', 'mode'), ALIGNED)
def test_roi_align(ops_kit, held, size, dialect, ratio, engine, mode) -> None:
    """Boxes crossing edges, outside, tiny, empty and huge among them."""
    rois, samples = ops_kit['roi_boxes'], 2 if ratio == 'ratio2' else 0
    corners, image = tf.constant(ours(rois[:, 1:])[None]), tf.constant(rois[:, 0].astype(np.int32))

    def pool(features: tf.Tensor) -> tf.Tensor:
        plan = roi.sampling_plan(corners, tf.zeros([1, len(rois)], tf.int32), [STRIDE], SIZES[size], samples,
                                 dialect == 'aligned')
        return roi.roi_align([features], plan._replace(image=image), SIZES[size], samples ** 2, engine)

    out, gradient = MODES[mode](lambda x: with_gradient(
        pool, x, cotangent=last(ops_kit[f'roi_cotangent_{size}'])))(tf.constant(last(ops_kit['roi_input'])))
    name = f'roi_align_{size}_{dialect}_{ratio}'
    held(name, out, last(ops_kit[name]), mode, engine)
    held(f'{name}_grad', gradient, last(ops_kit[f'{name}_grad']), mode, engine)


@pytest.mark.parametrize('mode', MODES)
def test_roi_pool(ops_kit, held, mode) -> None:
    """Corners on half cells round away from zero."""
    rois = ops_kit['roi_pool_boxes']
    corners, image = tf.constant(ours(rois[:, 1:])[None]), tf.constant(rois[:, 0].astype(np.int32))

    def pool(features: tf.Tensor) -> tf.Tensor:
        plan = roi.pooling_plan(corners, tf.zeros([1, len(rois)], tf.int32), [STRIDE], [features], (7, 7))
        return roi.roi_pool([features], plan._replace(image=image))

    out, gradient = MODES[mode](lambda x: with_gradient(
        pool, x, cotangent=last(ops_kit['roi_pool_cotangent'])))(tf.constant(last(ops_kit['roi_input'])))
    held('roi_pool_7x7', out, last(ops_kit['roi_pool_7x7']), mode)
    held('roi_pool_7x7_grad', gradient, last(ops_kit['roi_pool_7x7_grad']), mode)


@pytest.mark.parametrize('mode', MODES)
def test_level(ops_kit, held, mode) -> None:
    """Sides at and near 56, 112, 224, 448 px."""
    levels = MODES[mode](lambda b: roi.assign_levels(b, 4))(ours(ops_kit['level_boxes']))
    held('level', levels + 2, ops_kit['level'], mode)


# Boxes ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode', MODES)
def test_iou(ops_kit, held, mode) -> None:
    """Touching, nested, equal and empty boxes among them."""
    held('iou', MODES[mode](boxes.iou)(ours(ops_kit['iou_a']), ours(ops_kit['iou_b'])), ops_kit['iou'], mode)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('name', WEIGHTS)
def test_box_coder(ops_kit, held, mode, name) -> None:
    """Targets, and boxes of several classes, some of whose dh and dw exceed the cap."""
    weights, from_boxes = WEIGHTS[name], ours(ops_kit['coder_boxes'])
    encoded = MODES[mode](lambda a, b: boxes.encode(a, b, weights))(from_boxes, ours(ops_kit['coder_reference']))
    held(f'encode_{name}', ours(encoded.numpy()), ops_kit[f'encode_{name}'], mode)
    deltas = ours(ops_kit['coder_deltas'].reshape(len(from_boxes), -1, 4))
    decoded = MODES[mode](lambda d, b: boxes.decode(d, b, weights))(deltas, from_boxes[:, None])
    held(f'decode_{name}', ours(decoded.numpy()), ops_kit[f'decode_{name}'], mode)


@pytest.mark.parametrize('mode', MODES)
def test_clip(ops_kit, held, mode) -> None:
    """To 100 x 120 px; the rows of both sides at least 1e-3 px."""
    clipped = MODES[mode](boxes.clip)(ours(ops_kit['clip_boxes'])[None], tf.constant([[100., 120.]]))[0].numpy()
    held('clipped_boxes', ours(clipped), ops_kit['clipped_boxes'], mode)
    kept = np.flatnonzero((clipped[:, 2:] - clipped[:, :2] >= 1e-3).all(1))
    held('clipped_kept', kept, ops_kit['clipped_kept'].reshape(-1), mode)


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
@pytest.mark.parametrize('percent', [30, 50, 70])
def test_nms(ops_kit, held, engine, mode, percent) -> None:
    """Alone and within groups; no pair is within 0.002 of the threshold."""
    arrays = ours(ops_kit['nms_boxes']), ops_kit['nms_scores']
    for name, groups in ((f'nms_keep_{percent}', None), (f'batched_nms_keep_{percent}', ops_kit['nms_groups'])):
        held(name, keep(engine, mode, *arrays, percent / 100, groups), ops_kit[name], mode, engine)


@pytest.mark.parametrize(('engine', 'mode'), ENGINES_AND_MODES)
@pytest.mark.parametrize('percent', [50, 25])
def test_nms_of_an_overlap_equal_to_the_threshold(ops_kit, held, engine, mode, percent) -> None:
    kept = keep(engine, mode, ours(ops_kit['nms_exact_boxes']), ops_kit['nms_exact_scores'], percent / 100)
    held(f'nms_exact_keep_{percent}', kept, ops_kit[f'nms_exact_keep_{percent}'], mode, engine)


def keep(engine: str, mode: str, rows: np.ndarray, scores: np.ndarray, threshold: float,
         groups: np.ndarray | None = None) -> np.ndarray:
    """Kept indices, best first."""
    more = () if groups is None else (tf.constant(groups[None], tf.int32),)
    index, valid = MODES[mode](lambda b, s, *g: boxes.nms(b, s, threshold, len(rows), engine, *g))(
        tf.constant(rows[None]), tf.constant(scores[None]), *more)
    return index.numpy()[valid.numpy()]


# Anchors, matching, mask targets --------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode', MODES)
def test_default_anchors(ops_kit, held, mode) -> None:
    """The coarsest level's stride is 64 px down and 48 px across: canvas // cells."""
    sizes, ratios = [[32.], [64.], [128.], [256.], [512.]], [.5, 1., 2.]
    maps = [tf.zeros([2, *grid, 1]) for grid in ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))]
    layer = AnchorGenerator(sizes, ratios, None, rounded=True)
    anchors = MODES[mode](lambda features: layer(features, canvas=(64, 96)))(maps)
    held('anchors_default', ours(anchors.numpy()), ops_kit['anchors_default'], mode)
    base = np.concatenate([base_anchors(level, ratios, True) for level in sizes])
    held('anchors_default_base', ours(base), ops_kit['anchors_default_base'].reshape(-1, 4), mode)


@pytest.mark.parametrize('mode', MODES)
def test_odd_anchors(ops_kit, held, mode) -> None:
    """Several sizes a level, and another number of them on each: two layers, since the levels share the RPN's head."""
    ratios, levels = [.4, 1., 1.7], (([20., 33., 47.5], (16, 24)), ([75.], (8, 12)))
    layers = [AnchorGenerator([sizes], ratios, None, rounded=True) for sizes, _ in levels]
    anchors = [MODES[mode](lambda x, layer=layer: layer([x], canvas=(64, 96)))(tf.zeros([1, *grid, 1]))
               for layer, (_, grid) in zip(layers, levels, strict=True)]
    held('anchors_odd', ours(np.concatenate(anchors)), ops_kit['anchors_odd'], mode)
    base = np.concatenate([base_anchors(sizes, ratios, True) for sizes, _ in levels])
    held('anchors_odd_base', ours(base), ops_kit['anchors_odd_base'].reshape(-1, 4), mode)


# The reference gives overlaps, not boxes: they take the place of what `match` would compute. `zero_row` without low
# matches only: an object that overlaps nothing makes no candidate positive here (see docs/parity.md).
MATCHES = [(quality, thresholds, low) for quality in ('', 'real_', 'zero_row_') for thresholds in ('75_25', '50_50')
           for low in ('plain', 'low') if (quality, low) != ('zero_row_', 'low')]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('quality', 'thresholds', 'low'), MATCHES)
def test_matcher(ops_kit, held, monkeypatch, mode, quality, thresholds, low) -> None:
    """Ties between objects, between candidates and with the thresholds among them."""
    table = ops_kit[f'matcher_quality_{quality}'.rstrip('_')]
    overlaps_are(monkeypatch, table)
    found = matched(mode, *table.shape, thresholds, low == 'low')
    name = f'matcher_match_{quality}{thresholds}_{low}'
    held(name, found, ops_kit[name], mode)


@pytest.mark.parametrize('thresholds', ['75_25', '50_50'])
def test_matcher_of_an_object_that_overlaps_nothing(ops_kit, monkeypatch, thresholds) -> None:
    """The reference makes every candidate that does not overlap it a match; ours differs there, and only there."""
    table = ops_kit['matcher_quality_zero_row']
    overlaps_are(monkeypatch, table)
    found = matched('graph', *table.shape, thresholds, True)
    others = np.delete(table, np.flatnonzero(table.max(1) == 0), axis=0)
    overlaps_are(monkeypatch, others)
    without = matched('graph', *others.shape, thresholds, True)
    np.testing.assert_array_equal(found < 0, without < 0)
    theirs = ops_kit[f'matcher_match_zero_row_{thresholds}_low']
    assert (theirs >= 0).sum() > (found >= 0).sum()
    np.testing.assert_array_equal(found[found >= 0], theirs[found >= 0])


def overlaps_are(monkeypatch: pytest.MonkeyPatch, table: np.ndarray) -> None:
    """Let `boxes.iou` look up the rows of a table [objects, candidates] by the first number of an object's box."""
    monkeypatch.setattr(boxes, 'iou', lambda gt, _: tf.gather(tf.constant(table), tf.cast(gt[..., 0], tf.int32)))


def matched(mode: str, objects: int, candidates: int, thresholds: str, low: bool) -> np.ndarray:
    """As the reference writes it: the object, -1 below, -2 between."""
    positive, negative = (int(part) / 100 for part in thresholds.split('_'))
    # The function under the compiled one, so that no trace with this table outlives the test.
    found = MODES[mode](lambda c, g, usable, crowd: targets.match.python_function(
        c, g, usable, crowd, positive, negative, low, 1.))(
        tf.zeros([candidates, 4]), tf.tile(tf.range(objects, dtype=tf.float32)[None, :, None], [1, 1, 4]),
        tf.ones([1, objects], tf.bool),
        tf.zeros([1, objects], tf.bool))
    label, index = found.label[0].numpy(), found.matched_gt_index[0].numpy()
    return np.select([label == 1, label == 0], [index, -1], -2)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_mask_targets(ops_kit, held, mode, dtype) -> None:
    """Masks over the whole image; boxes across edges, tiny and large among them. uint8 counts to 255."""
    masks = ops_kit['target_masks'][ops_kit['target_matched']]
    masks = (masks * 255 if dtype == 'uint8' else masks).astype(dtype)
    extent = tf.tile(tf.constant([[0., 0., *masks.shape[1:]]]), [len(masks), 1])
    size = ops_kit['target_out'].shape[1]
    found = MODES[mode](lambda b, m: targets.mask_targets(b, m, extent, size, False, False))(
        tf.constant(ours(ops_kit['target_boxes'])), tf.constant(masks))
    held('target_out', found, ops_kit['target_out'], mode)


# Losses ---------------------------------------------------------------------------------------------------------------

def test_smooth_l1(ops_kit, held) -> None:
    held('smooth_l1_y', losses.smooth_l1(tf.constant(ops_kit['smooth_l1_x']), BETA), ops_kit['smooth_l1_y'])


@pytest.mark.parametrize('mode', MODES)
def test_rpn_losses(ops_kit, held, mode) -> None:
    """Ignored anchors among them; both losses over the number of the sampled."""
    labels = tf.constant(ops_kit['rpn_loss_labels'][None])
    goals, positive, sampled = tf.constant(ops_kit['rpn_loss_targets'][None]), labels == 1, labels >= 0
    count = tf.reduce_sum(tf.cast(sampled, tf.float32))

    def run(logits: tf.Tensor, deltas: tf.Tensor) -> tuple:
        return gradients_of(lambda x, d: (losses.objectness_loss(x, positive, sampled, count),
                                          losses.box_loss(d, goals, positive, BETA, count)), logits, deltas)

    parts, gradients = MODES[mode](run)(
        tf.constant(ops_kit['rpn_loss_logits'][None]), tf.constant(ops_kit['rpn_loss_deltas'][None]))
    for name, value in zip(('objectness', 'box', 'logits_grad', 'deltas_grad'), (*parts, *gradients), strict=True):
        held(f'rpn_loss_{name}', np.squeeze(value), np.squeeze(ops_kit[f'rpn_loss_{name}']), mode)


@pytest.mark.parametrize('mode', MODES)
def test_box_head_losses(ops_kit, held, mode) -> None:
    """The reference regresses a background box that has no part in the loss; ours has none."""
    labels = tf.constant(ops_kit['box_loss_labels'][None].astype(np.int32))
    goals, every = tf.constant(ops_kit['box_loss_targets'][None]), tf.ones(labels.shape, tf.bool)
    logits, count = ops_kit['box_loss_logits'], labels.shape[1]
    theirs = ops_kit['box_loss_deltas'].reshape(*logits.shape, 4)
    assert not ops_kit['box_loss_deltas_grad'].reshape(theirs.shape)[:, 0].any()

    def run(logits: tf.Tensor, deltas: tf.Tensor) -> tuple:
        return gradients_of(lambda x, d: (
            losses.classification_loss(x, labels, every),
            losses.box_loss(losses.of_class(d, labels, 2), goals, labels > 0, BETA, tf.constant(float(count)))),
            logits, deltas)

    parts, gradients = MODES[mode](run)(tf.constant(logits[None]), tf.constant(theirs[None, :, 1:]))
    held('box_loss_classifier', parts[0], np.squeeze(ops_kit['box_loss_classifier']), mode)
    held('box_loss_box', parts[1], np.squeeze(ops_kit['box_loss_box']), mode)
    held('box_loss_logits_grad', gradients[0][0], ops_kit['box_loss_logits_grad'], mode)
    held('box_loss_deltas_grad', gradients[1][0], ops_kit['box_loss_deltas_grad'].reshape(theirs.shape)[:, 1:], mode)


@pytest.mark.parametrize('mode', MODES)
def test_mask_loss(ops_kit, held, mode) -> None:
    labels = tf.constant(ops_kit['mask_loss_gt_labels'][ops_kit['target_matched']][None].astype(np.int32))
    goals, positive = tf.constant(ops_kit['target_out'][None]), tf.ones(labels.shape, tf.bool)

    def run(logits: tf.Tensor) -> tuple:
        return gradients_of(
            lambda x: (losses.mask_loss(losses.of_class(x, labels, 4), goals, positive),), logits)

    (part,), (gradient,) = MODES[mode](run)(tf.constant(last(ops_kit['mask_loss_logits'])[None, ..., 1:]))
    held('mask_loss', part, np.squeeze(ops_kit['mask_loss']), mode)
    # The kit's limit is for values about 1; the largest of this gradient is a ten-thousandth. So by its own size:
    scale = np.abs(ops_kit['mask_loss_logits_grad']).max()
    held('mask_loss_logits_grad', gradient[0] / scale, last(ops_kit['mask_loss_logits_grad'])[..., 1:] / scale, mode)


# Masks in images ------------------------------------------------------------------------------------------------------

def test_paste(ops_kit, held) -> None:
    """Boxes cross the border, are a pixel wide or smaller, fill the image."""
    height, width = ops_kit['paste_size'].tolist()
    masks, corners = ops_kit['paste_masks'], ours(ops_kit['paste_boxes'])
    out = np.zeros(ops_kit['paste_out'].shape, np.float32)
    for image, mask, window in zip(out, masks, paste.windows(masks, corners, height, width, 'detectron'), strict=True):
        top, left, rows, columns = window
        image[top:top + len(rows), left:left + len(columns)] = rows @ mask @ columns.T
    held('paste_out', out, ops_kit['paste_out'])
    cut = np.stack(list(paste.paste(masks, corners, height, width, 'detectron')))
    sure = np.abs(ops_kit['paste_out'] - .5) > 2e-5
    np.testing.assert_array_equal(cut[sure], ops_kit['paste_out'][sure] >= .5)


# Input, normalisation, optimizer --------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('epsilon', 'name'), [(1e-5, 'bn_y_eps_1e5'), (0., 'bn_y_eps_0')])
def test_frozen_normalisation(ops_kit, held, mode, epsilon, name) -> None:
    """One variance is small enough for epsilon to show."""
    layer = FrozenBatchNormalization(epsilon)
    layer.build((None, None, None, ops_kit['bn_x'].shape[1]))
    for variable, part in ((layer.gamma, 'weight'), (layer.beta, 'bias'), (layer.moving_mean, 'mean'),
                           (layer.moving_variance, 'var')):
        variable.assign(ops_kit[f'bn_{part}'])
    held(name, MODES[mode](layer)(tf.constant(last(ops_kit['bn_x']))), last(ops_kit[name]), mode)


def test_resized_shape(ops_kit, held) -> None:
    shapes = [images.resized_shape(height, width, 800, 1333) for height, width in ops_kit['resize_sizes']]
    held('resize_sizes_800_1333', shapes, ops_kit['resize_sizes_800_1333'])


@pytest.mark.parametrize(('name', 'short_side', 'long_side'), [('up', 64, 90), ('down', 24, 40)])
def test_resize(ops_kit, held, name, short_side, long_side) -> None:
    """Image, boxes, and the sides that they are resized to. Masks: see test_resize.py."""
    image = np.moveaxis(ops_kit['resize_image'], 0, -1)
    shape = images.resized_shape(*image.shape[:2], short_side, long_side)
    boxes = tf.constant(ours(ops_kit['resize_boxes']))
    sample = Sample(tf.constant(image), boxes, tf.ones(len(boxes), tf.int32), tf.zeros(len(boxes), tf.bool))
    resized = transforms.resize(sample, shape)
    held(f'resize_image_{name}', resized.image, np.moveaxis(ops_kit[f'resize_image_{name}'], 0, -1))
    held(f'resize_boxes_{name}', ours(resized.boxes.numpy()), ops_kit[f'resize_boxes_{name}'])


def test_sgd_path(ops_kit, held) -> None:
    """The rate changes, and the velocity does not contain it."""
    rates = ops_kit['sgd_lr'].tolist()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(list(range(len(rates) - 1)), rates)
    variable = tf.Variable(ops_kit['sgd_start'], dtype=tf.float32)
    optimizer, path = SGD(schedule, momentum=.9, weight_decay=.01), []
    for gradient in ops_kit['sgd_grads']:
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
        path.append(variable.numpy())
    held('sgd_path', path, ops_kit['sgd_path'])

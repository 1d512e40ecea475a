"""A training case, stage by stage: labels of anchors and RoIs, losses, gradients, and three steps of SGD on one batch.

A anchors, R RoIs (proposals, then objects), p trained parameters. The reference stores its numbers in float64, of each
parameter at 16 places.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import ModelConfig, SolverConfig
from mrcnn_tf.detectors.detector import LOSSES, Detector
from mrcnn_tf.layers.anchors import AnchorGenerator
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import proposals as proposal_ops
from mrcnn_tf.ops import targets
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.weights.torchvision import correspondence
from tests.modes import recorded, wrapped
from tests.parity.inference_stages import NOT_FOUND, match
from tests.parity.reference import Case, Difference, farthest, yx

ROUNDING = 2. ** -22                # of a parameter's value: what three additions in float32 may lose


def seed() -> tf.Tensor:
    """Every positive and every negative is sampled: nothing hangs on it."""
    return tf.constant([0, 0])


def stages(case: Case, model: Detector, jit: bool) -> Iterator[Difference]:
    """All stages of a case, in order."""
    yield from pieces(case, model.settings, model.engine, jit)
    yield from _steps(case, model, jit)


# Pieces without weights, fed with stored numbers ----------------------------------------------------------------------

def pieces(case: Case, settings: ModelConfig, engine: str, jit: bool) -> Iterator[Difference]:
    """Labels of the anchors, and labels, matches and targets of the stored RoIs."""
    batch = case.batch()
    objects, crowds = batch['valid'] & ~batch['crowd'], batch['valid'] & batch['crowd']

    def matches(candidates: tf.Tensor, *thresholds: Any) -> tuple[np.ndarray, np.ndarray]:
        found = wrapped(lambda c: targets.match(c, batch['boxes'], objects, crowds, *thresholds), jit)(candidates)
        return found.label.numpy(), found.matched_gt_index.numpy()

    labels, _ = matches(_anchors(case, settings), settings.rpn.positive_iou, settings.rpn.negative_iou, True,
                        settings.rpn.crowd_iof)
    for i in range(case.count):
        yield Difference(f'stored anchor_labels_{i}', farthest(labels[i], case[f'anchor_labels_{i}']), 0.)
    rois, roi = yx(case.stacked('rois')), settings.roi
    negative_iou = roi.positive_iou if roi.negative_iou is None else roi.negative_iou
    labels, matched = matches(tf.constant(rois), roi.positive_iou, negative_iou, False, roi.crowd_iof)
    for i in range(case.count):
        count = len(case[f'rois_{i}'])
        yield from _roi_piece(case, settings, i, rois[i, :count], labels[i, :count], matched[i, :count])


def _anchors(case: Case, settings: ModelConfig) -> tf.Tensor:
    """Of the levels of a canvas: strides 4 .. 32, then every second cell."""
    config, (height, width) = settings.anchors, case.canvas
    grids = [(height // stride, width // stride) for stride in (4, 8, 16, 32)]
    grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    layer = AnchorGenerator(config.sizes, config.ratios, None, rounded=config.rounded, offset=config.offset)
    return layer([tf.zeros([1, *grid, 1]) for grid in grids], canvas=case.canvas)


def _roi_piece(case: Case, settings: ModelConfig, i: int, rois: np.ndarray, label: np.ndarray, matched: np.ndarray
               ) -> Iterator[Difference]:
    boxes, classes = yx(case[f'gt_boxes_{i}']), case[f'gt_labels_{i}']
    if not len(boxes):
        boxes, classes = np.zeros([1, 4], np.float32), np.zeros([1], np.int64)               # never matched
    labels = np.select([label == 1, label == 0], [classes[np.minimum(matched, len(boxes) - 1)], 0], -1)
    yield Difference(f'stored roi_labels_{i}', farthest(labels, case[f'roi_labels_{i}']), 0.)
    yield Difference(f'stored roi_matched_{i}', farthest(matched, case[f'roi_matched_{i}'] * (labels > 0)), 0.)
    goals = box_ops.encode(tf.constant(rois), tf.constant(boxes[np.minimum(matched, len(boxes) - 1)]),
                           settings.box_head.box_weights).numpy()
    theirs = yx(case[f'roi_targets_{i}'])
    # The kit names no limit for these: they are encoded boxes, as in its tables of operators.
    limit = case.limit('ops') * max(1., np.abs(theirs).max(initial=0.))
    yield Difference(f'stored roi_targets_{i}', farthest(np.where(labels[:, None] > 0, goals, 0.), theirs), limit)


# Steps ----------------------------------------------------------------------------------------------------------------

def _steps(case: Case, model: Detector, jit: bool) -> Iterator[Difference]:
    rules = {theirs: (variable, convert) for variable, theirs, convert in correspondence(model)}
    names = [str(name) for name in case['param_names']]
    variables = [rules[name][0] for name in names]
    others = {id(v) for v in model.trainable_variables} ^ {id(v) for v in variables}
    yield Difference('trained parameters', float(len(others)), 0.)
    differentiate, optimizer = _differentiate(case, model, variables, jit), _optimizer(case, model)
    entries = common_entries(case, {name: rules[name][1] for name in names})
    for step in range(len(case['losses'])):
        losses, gradients, seen = differentiate()
        seen = tf.nest.map_structure(np.asarray, seen)
        if not step:
            yield from _proposals(case, seen['proposals'])
        yield Difference(f'counts {step}', farthest(_counts(case, seen), case['counts'][step]), 0.)
        yield from _losses(case, step, [float(losses[name]) for name in LOSSES if name in losses])
        if not step:
            yield from gradient_stages(case, gradients, entries)
        yield _parameters(case, step, [v.numpy() for v in variables], entries)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        del losses, gradients, seen     # before the next ones are made


def _differentiate(case: Case, model: Detector, variables: list[Any], jit: bool) -> Any:
    """() -> losses, gradients, and what was matched on the way."""
    batch = case.batch()

    def run() -> tuple[dict[str, tf.Tensor], list[tf.Tensor], dict[str, Any]]:
        with recorded(proposal_ops, 'propose') as proposals, recorded(targets, 'match') as matches, \
                tf.GradientTape() as tape:
            losses = model.losses(batch, seed())
            total = tf.add_n(list(losses.values()))
        objects = batch['valid'] & ~batch['crowd']
        seen = {'proposals': proposals[0]._asdict(), 'anchor_labels': matches[0].label, 'roi_labels': matches[1].label,
                'roi_valid': tf.concat([proposals[0].valid, objects], axis=1)}
        return losses, tape.gradient(total, variables), seen

    return wrapped(run, jit)


def _optimizer(case: Case, model: Detector) -> Any:
    recipe = case.config['optimiser']
    solver = SolverConfig(optimizer=recipe['name'], learning_rate=recipe['lr'], momentum=recipe['momentum'],
                          weight_decay=recipe['weight_decay'], decay_biases=True)
    return build_optimizer(solver, recipe['lr'], model)


def _proposals(case: Case, ours: dict[str, np.ndarray]) -> Iterator[Difference]:
    for i in range(case.count):
        _, size = match(ours['boxes'][i][ours['valid'][i]], yx(case[f'proposals_{i}']))
        yield Difference(f'proposals_{i}', size, case.limit('proposals'))


def _counts(case: Case, seen: dict[str, Any]) -> np.ndarray:
    """Of each image: anchors positive, negative, ignored, RoIs positive, negative."""
    anchors, rois, valid = seen['anchor_labels'], seen['roi_labels'], seen['roi_valid']
    return np.array([[(anchors[i] == 1).sum(), (anchors[i] == 0).sum(), (anchors[i] < 0).sum(),
                      (valid[i] & (rois[i] == 1)).sum(), (valid[i] & (rois[i] == 0)).sum()]
                     for i in range(case.count)])


def _losses(case: Case, step: int, ours: list[float]) -> Iterator[Difference]:
    limit = case.limit('later_losses_relative' if step else 'first_losses_relative')
    for name, mine, theirs in zip(LOSSES, ours, case['losses'][step], strict=True):
        yield Difference(f'{name} {step}', abs(mine - theirs) / (abs(theirs) or 1.), limit)


# Gradients and parameters, at the reference's places ------------------------------------------------------------------

Entries = list[tuple[np.ndarray, np.ndarray]]


def common_entries(case: Case, converts: dict[str, Any]) -> Entries:
    """For each parameter the columns of the kit's samples that exist in ours, and their flat positions in ours.

    The background's box and mask have no counterpart.
    """
    state, entries = case.state_dict(), []
    for name, positions in zip(case['param_names'], case['param_index'], strict=True):
        numbered = np.arange(state[str(name)].size, dtype=np.float64).reshape(state[str(name)].shape)
        places = np.asarray(converts[str(name)](numbered)).ravel().astype(np.int64)
        ours = np.full(numbered.size, -1)
        ours[places] = np.arange(len(places))
        columns = np.flatnonzero(ours[positions] >= 0)
        entries.append((columns, ours[positions][columns]))
    return entries


def gradient_stages(case: Case, gradients: list[Any], entries: Entries) -> Iterator[Difference]:
    """Norm of each parameter's gradient, and some of its entries over their root mean square."""
    state = case.state_dict()
    norms = np.array([np.sqrt((np.asarray(g, np.float64) ** 2).sum()) for g in gradients])
    theirs = case['grad_norm']
    relative = np.abs(norms - theirs) / np.where(theirs > 0, theirs, 1.)
    yield Difference('grad_norm', float(relative.max()), case.limit('grad_norm_relative'))
    scale = theirs / np.sqrt([state[str(name)].size for name in case['param_names']])
    worst = [_apart(np.asarray(g), expected, entry).max(initial=0.) / (s or 1.) for g, expected, entry, s in zip(
        gradients, case['grad_samples'], entries, scale, strict=True)]
    yield Difference('grad_samples', float(max(worst)), case.limit('grad_samples_over_rms'))


def _apart(ours: np.ndarray, theirs: np.ndarray, entry: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    columns, places = entry
    return np.abs(ours.ravel()[places].astype(np.float64) - theirs[columns])


def _parameters(case: Case, step: int, ours: list[np.ndarray], entries: Entries) -> Difference:
    """Beyond what float32 rounds off, over the largest move of the 16 samples from the start."""
    worst = 0. if ours else NOT_FOUND
    for value, start, theirs, entry in zip(ours, case['param_samples'][0], case['param_samples'][step], entries,
                                           strict=True):
        beyond = np.maximum(_apart(value, theirs, entry) - ROUNDING * np.abs(start[entry[0]]), 0.)
        moved = np.abs(theirs - start).max()
        worst = max(worst, float(beyond.max(initial=0.)) / (moved or 1.))
    return Difference(f'param_samples {step}', worst, case.limit('param_samples_over_move'))

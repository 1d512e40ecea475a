"""A training case of Detectron2, stage by stage: labels of anchors and RoIs, proposals, losses and gradients.

The reference's own samples are put in place of ours, its proposals where RoIs are sampled from, and its labels of the
anchors that tie, so that losses are compared on the same anchors and RoIs. A anchors, S sampled RoIs.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import proposals as proposal_ops
from mrcnn_tf.ops import targets
from mrcnn_tf.weights.detectron2 import correspondence
from tests.modes import recorded, wrapped
from tests.parity.detectron2_case import Detectron2Case
from tests.parity.reference import Difference, farthest, yx
from tests.parity.training_stages import common_entries, gradient_stages

LOSSES = {'loss_rpn_cls': 'loss_objectness', 'loss_rpn_loc': 'loss_rpn_box_reg', 'loss_cls': 'loss_classifier',
          'loss_box_reg': 'loss_box_reg', 'loss_mask': 'loss_mask'}
FOUND, PARTNER = .01, .2               # share of proposals that may lack a partner within so many px


def seed() -> tf.Tensor:
    """What is sampled is put in its place."""
    return tf.constant([0, 0])


def pieces(case: Detectron2Case, settings: ModelConfig, engine: str, jit: bool) -> Iterator[Difference]:
    """The label and the object of each sampled RoI."""
    batch = case.batch()
    objects, crowds = batch['valid'] & ~batch['crowd'], batch['valid'] & batch['crowd']
    roi, rois = settings.roi, tf.constant(yx(case.stacked('rois')))
    found = wrapped(lambda boxes: targets.match(boxes, batch['boxes'], objects, crowds, roi.positive_iou,
                                                roi.positive_iou, False, roi.crowd_iof), jit)(rois)
    for i in range(case.count):
        matched = found.matched_gt_index[i]
        positive = (found.label[i] == 1).numpy()
        labels = np.where(positive, tf.gather(batch['labels'][i], matched), 0)
        yield Difference(f'stored roi_labels_{i}', farthest(labels, case[f'roi_labels_{i}']), 0.)
        boxes = tf.gather(batch['boxes'][i], matched).numpy()
        yield Difference(f'stored roi_gt_boxes_{i}',
                         farthest(boxes[positive], yx(case[f'roi_gt_boxes_{i}'])[positive]), 0.)


def stages(case: Detectron2Case, model: Detector, jit: bool) -> Iterator[Difference]:
    """All stages of a case, in order."""
    yield from pieces(case, model.settings, model.engine, jit)
    rules = {theirs: (variable, convert) for variable, theirs, convert in correspondence(model)}
    names = [str(name) for name in case['param_names']]
    variables = [rules[name][0] for name in names]
    others = {id(v) for v in model.trainable_variables} ^ {id(v) for v in variables}
    yield Difference('trained parameters', float(len(others)), 0.)
    losses, gradients, seen = differentiate(case, model, variables, jit)
    for i in range(case.count):
        yield from _anchor_labels(case, i, seen['anchor_labels'][i])
        yield _proposals(case, i, seen['boxes'][i][seen['valid'][i]])
    for theirs, value in zip(case['loss_names'].tolist(), case['losses'], strict=True):
        yield Difference(f'{LOSSES[theirs]} 0', abs(float(losses[LOSSES[theirs]]) - value),
                         case.limit_of_loss(theirs, value))
    entries = common_entries(case, {name: rules[name][1] for name in names})
    yield from gradient_stages(case, gradients, entries)


def differentiate(case: Detectron2Case, model: Detector, variables: list[Any], jit: bool
                  ) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """Losses, gradients, and what our own arithmetic proposed and matched on the way."""
    batch = case.batch()

    def run() -> tuple[dict[str, tf.Tensor], list[tf.Tensor], dict[str, tf.Tensor]]:
        with recorded(proposal_ops, 'propose') as proposals, _stored_proposals(case), _stored_samples(case), \
                _stored_labels(case), recorded(targets, 'match') as matches, tf.GradientTape() as tape:
            losses = model.losses(batch, seed())
            total = tf.add_n(list(losses.values()))
        seen = {**proposals[0]._asdict(), 'anchor_labels': matches[0].label}
        return losses, tape.gradient(total, variables), seen

    return tf.nest.map_structure(np.asarray, wrapped(run, jit)())


@contextlib.contextmanager
def _stored_proposals(case: Detectron2Case) -> Iterator[None]:
    """The reference's proposals in place of ours, which are still made."""
    original = proposal_ops.propose
    valid = case.filled('proposals')
    stored = proposal_ops.Proposals(tf.constant(yx(case.stacked('proposals'))), tf.zeros(valid.shape),
                                    tf.constant(valid))

    def propose(*args: Any) -> proposal_ops.Proposals:
        original(*args)
        return stored

    with mock.patch.object(proposal_ops, 'propose', propose):
        yield


@contextlib.contextmanager
def _stored_labels(case: Detectron2Case) -> Iterator[None]:
    """The reference's labels of the anchors whose label depends on the last bit, and the objects they overlap most."""
    original, shape = targets.match, [case.count, len(case['anchor_labels_0'])]
    calls = iter([True])
    unsure = np.zeros(shape, bool)
    for i in range(case.count):
        unsure[i, case[f'anchors_unsure_{i}']] = True
    stored = case.stacked('anchor_labels').astype(np.int32)

    def match(candidates: tf.Tensor, gt_boxes: tf.Tensor, usable: tf.Tensor, *rest: Any) -> targets.Matches:
        found = original(candidates, gt_boxes, usable, *rest)
        if not next(calls, False):                                               # RoIs come second
            return found
        best = tf.argmax(tf.where(usable[:, :, None], box_ops.iou(gt_boxes, candidates), -1.), axis=1,
                         output_type=tf.int32)
        label = tf.where(unsure, stored, found.label)
        return targets.Matches(label, tf.where(label == 1, tf.where(unsure, best, found.matched_gt_index), 0))

    with mock.patch.object(targets, 'match', match):
        yield


@contextlib.contextmanager
def _stored_samples(case: Detectron2Case) -> Iterator[None]:
    """The reference's samples in place of ours: of anchors first, then of RoIs."""
    kept = case.stacked('proposals').shape[1]
    anchors = [(case[f'anchors_positive_{i}'], case[f'anchors_negative_{i}']) for i in range(case.count)]
    rois = []
    for i in range(case.count):
        index, own = case[f'roi_index_{i}'], len(case[f'proposals_{i}'])
        index = np.where(index < own, index, index - own + kept)                 # objects follow the padded proposals
        rois.append((index[case[f'roi_labels_{i}'] > 0], index[case[f'roi_labels_{i}'] == 0]))
    calls = iter((anchors, rois))

    def sample(label: tf.Tensor, limit: int, fraction: float, seed: tf.Tensor) -> tuple[targets.Samples, int]:
        parts = next(calls)
        index, valid = np.zeros([len(parts), limit], np.int32), np.zeros([len(parts), limit], bool)
        for i, (positive, negative) in enumerate(parts):
            both = np.concatenate([positive, negative])
            index[i, :len(both)], valid[i, :len(both)] = both, True
        first = np.arange(limit) < np.array([[len(positive)] for positive, _ in parts])
        samples = targets.Samples(tf.constant(index), tf.constant(first & valid), tf.constant(valid))
        return samples, int(limit * fraction)

    with mock.patch.object(targets, 'sample', sample):
        yield


def _anchor_labels(case: Detectron2Case, i: int, ours: np.ndarray) -> Iterator[Difference]:
    sure = np.ones(len(ours), bool)
    sure[case[f'anchors_unsure_{i}']] = False
    yield Difference(f'number of anchors_{i}', farthest(len(ours), len(case[f'anchor_labels_{i}'])), 0.)
    wrong = ours[sure] != case[f'anchor_labels_{i}'][sure] if len(ours) == len(case[f'anchor_labels_{i}']) else sure
    yield Difference(f'wrong anchor_labels_{i}', float(wrong.sum()), 0.)


def _proposals(case: Detectron2Case, i: int, ours: np.ndarray) -> Difference:
    """The share of the reference's proposals that ours lack: which of several near the limits is kept may differ."""
    theirs = yx(case[f'proposals_{i}'])
    apart = np.abs(theirs[:, None] - ours[None]).max(-1).min(1)
    return Difference(f'share of proposals_{i} not found', float((apart > PARTNER).mean()), FOUND)

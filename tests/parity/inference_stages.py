"""An inference case, stage by stage in the order of the network: how far each lies from the reference.

First the forced stages, each fed with what the reference stored of the one before wherever it did, so that a mistake
shows where it is made and nowhere else; then the same along the whole chain, from pixels to pasted masks ('chain ...').
n images, R proposals, D detections; the reference's maps are N, C, H, W, ours N, H, W, C.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from pycocotools import mask as coco_mask

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.detectors.rpn import RPN
from mrcnn_tf.layers.anchors import AnchorGenerator
from mrcnn_tf.layers.roi import assign_levels
from mrcnn_tf.ops import detections as detection_ops
from mrcnn_tf.ops import losses as loss_ops
from mrcnn_tf.ops import paste
from mrcnn_tf.ops import proposals as proposal_ops
from tests.modes import recorded, wrapped
from tests.parity.reference import Case, Difference, farthest, unpack, yx

LEVELS = ('0', '1', '2', '3', 'pool')
STRIDES = (4, 8, 16, 32, 64)
NOT_FOUND = np.inf

# Of the kit's README, which its tables do not hold: pasted pixels that may differ along the whole chain.
PIXELS, SHARE = 5, .002


def stages(case: Case, model: Detector, jit: bool) -> Iterator[Difference]:
    """All stages of a case, in order."""
    outputs = run(case, model, jit)
    yield from network_stages(case, outputs)
    yield from pieces(case, model.settings, model.engine, jit)
    yield from head_stages(case, model, outputs['features'], jit)
    yield from chain_stages(case, outputs)


# What our network gives -----------------------------------------------------------------------------------------------

def run(case: Case, model: Detector, jit: bool) -> dict[str, Any]:
    """Every stage along the chain, recorded in one compiled call of the model."""

    def look(images: tf.Tensor, sizes: tf.Tensor) -> dict[str, Any]:
        with (recorded(tf.nn, 'max_pool2d') as pools, recorded(type(model), 'normalize') as inputs,
              recorded(type(model.backbone.body), '__call__') as maps, recorded(type(model), 'features') as found_maps,
              recorded(RPN, 'score') as scores, recorded(proposal_ops, 'propose') as proposals):
            found = model({'images': images, 'sizes': sizes})                      # the stem's pool comes first
        features = found_maps[0]
        return {'input': inputs[0], 'stem': pools[0], 'body': [maps[0][stride] for stride in sorted(maps[0])],
                'features': features, 'anchors': scores[0].anchors, 'rpn_logits': scores[0].logits,
                'rpn_deltas': scores[0].deltas, 'proposals': proposals[0]._asdict(),
                'box': _box_head(model, features, proposals[0].boxes), 'found': found,
                'mask_pooled': _mask_pooled(model, features, found['boxes'])}

    batch = case.batch()
    return tf.nest.map_structure(np.asarray, wrapped(look, jit)(batch['images'], batch['sizes']))


def _box_head(model: Detector, features: list[tf.Tensor], rois: tf.Tensor) -> dict[str, tf.Tensor]:
    pooled, head = model.box.roi_features.roi_layer(features[:4], rois), model.box.heads[0]
    logits, deltas = head(pooled)
    fc6, fc7 = head.hidden
    hidden = fc7(fc6(tf.reshape(pooled, [-1, np.prod(pooled.shape[2:])])))
    return {'pooled': tf.transpose(pooled[..., ::32], [0, 1, 4, 2, 3]), 'cls': logits, 'reg': deltas,
            'fc7': tf.reshape(hidden, [*pooled.shape[:2], -1])}


def _mask_pooled(model: Detector, features: list[tf.Tensor], boxes: tf.Tensor) -> tf.Tensor:
    """Some channels [n, D, c, 14, 14]; nothing where the model has no masks."""
    if not model.branches:
        return tf.zeros([0])
    return tf.transpose(model.branches[0].roi_features.roi_layer(features[:4], boxes)[..., ::32], [0, 1, 4, 2, 3])


# Pixels to proposals --------------------------------------------------------------------------------------------------

def network_stages(case: Case, outputs: dict[str, Any]) -> Iterator[Difference]:
    """What stands before the first box: from the input, since the reference stored parts of these maps only."""
    yield from _input_stages(case, outputs['input'])
    yield from _moments(case, 'stem', 'stem', outputs['stem'])
    for level, ours in enumerate(outputs['body']):
        yield from _moments(case, f'body_{level}', 'body', ours)
        yield _map(case, f'body_{level}', 'body', ours)
    for level, ours in zip(LEVELS, outputs['features'], strict=True):
        yield _map(case, f'fpn_{level}', 'fpn', ours)
    yield Difference('level_hw', farthest([f.shape[1:3] for f in outputs['features']], case['level_hw']), 0.)
    for key in ('rpn_logits', 'rpn_deltas'):
        for level, flat, feature in zip(LEVELS, outputs[key], outputs['features'], strict=True):
            yield _map(case, f'{key}_{level}', key, _as_map(flat, feature.shape))


def _input_stages(case: Case, ours: np.ndarray) -> Iterator[Difference]:
    limit = case.limit('input')
    ours = ours.transpose(0, 3, 1, 2)
    yield Difference('input_shape', farthest(ours.shape, case['input_shape']), 0.)
    samples = ours.ravel()[np.minimum(case['input_samples_index'], ours.size - 1)]
    yield Difference('input_samples', farthest(samples, case['input_samples']), limit)
    for name, function in (('mean', np.mean), ('std', np.std)):
        moment = function(ours.astype(np.float64), axis=(2, 3))
        yield Difference(f'input_{name}', farthest(moment, case[f'input_{name}']), limit)


def _moments(case: Case, name: str, key: str, ours: np.ndarray) -> Iterator[Difference]:
    """Mean and deviation of each channel; only of the stem nothing else is stored."""
    for moment, function in (('mean', np.mean), ('std', np.std)):
        values = function(ours.astype(np.float64), axis=(1, 2))
        yield Difference(f'{name}_{moment}', farthest(values, case[f'{name}_{moment}']), case.limit(key))


def _map(case: Case, name: str, key: str, ours: np.ndarray) -> Difference:
    """The stored part of a map [n, h, w, c]."""
    step = int(case[f'{name}_step'])
    part = ours.transpose(0, 3, 1, 2)[:, case[f'{name}_channels'], ::step, ::step]
    return Difference(name, farthest(part, case[name]), case.limit(key))


def _as_map(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """RPN output [n, h * w * a] or [n, h * w * a, 4] -> [n, h, w, a or 4 a], deltas in the reference's order."""
    if flat.ndim == 3:
        flat = yx(flat)
    return flat.reshape(*shape[:3], -1)


# Pieces without weights, fed with stored numbers ----------------------------------------------------------------------

def pieces(case: Case, settings: ModelConfig, engine: str, jit: bool) -> Iterator[Difference]:
    """Anchors, proposals, levels, selection and pasting, each from the reference's own input to it."""
    yield _anchor_piece(case, settings)
    yield from _proposal_piece(case, settings, engine, jit)
    for name, boxes in (('proposal_levels', 'proposals'), ('det_levels', 'det_boxes')):
        yield Difference(f'stored {name}', _levels_apart(case, settings, name, boxes), 0.)
    yield from _selection_piece(case, settings, engine, jit)
    for i in range(case.count if 'det_pasted_index_0' in case else 0):
        yield _paste_piece(case, settings, i)


def _anchor_piece(case: Case, settings: ModelConfig) -> Difference:
    config = settings.anchors
    maps = [tf.zeros([1, *shape, 1]) for shape in case['level_hw']]
    layer = AnchorGenerator(config.sizes, config.ratios, None, rounded=config.rounded, offset=config.offset)
    ours = layer(maps, canvas=case.canvas)
    theirs = case['anchors']
    # Whole pixels, exact in float32, where they are rounded: the limit is that of the kit's table of anchors.
    return Difference('anchors', farthest(yx(ours.numpy()), theirs), case.limit('ops') * max(1., np.abs(theirs).max()))


def _proposal_piece(case: Case, settings: ModelConfig, engine: str, jit: bool) -> Iterator[Difference]:
    """Where the case holds the RPN's maps whole."""
    maps = {key: [case[f'{key}_{level}'] for level in LEVELS] for key in ('rpn_logits', 'rpn_deltas')}
    if any(int(case[f'{key}_{level}_step']) > 1 for key in maps for level in LEVELS):
        return
    logits = [x.transpose(0, 2, 3, 1).reshape(case.count, -1) for x in maps['rpn_logits']]
    deltas = [yx(x.transpose(0, 2, 3, 1).reshape(case.count, -1, 4)) for x in maps['rpn_deltas']]
    found = wrapped(lambda *args: proposal_ops.propose(*args, settings.rpn, False, engine), jit)(
        logits, deltas, yx(case['anchors']), case.sizes())
    yield from _proposals(case, 'stored ', {k: v.numpy() for k, v in found._asdict().items()})


def _proposals(case: Case, prefix: str, ours: dict[str, np.ndarray]) -> Iterator[Difference]:
    for i in range(case.count):
        valid = ours['valid'][i]
        boxes, scores = ours['boxes'][i][valid], 1 / (1 + np.exp(-ours['logits'][i][valid].astype(np.float64)))
        index, size = match(boxes, yx(case[f'proposals_{i}']))
        yield Difference(f'{prefix}proposals_{i}', size, case.limit('proposals'))
        yield _rows(case, f'{prefix}proposal_scores_{i}', 'objectness', scores, index, case[f'proposal_scores_{i}'])


def _levels_apart(case: Case, settings: ModelConfig, name: str, boxes: str) -> float:
    return max(farthest(levels_of(settings, yx(case[f'{boxes}_{i}'])), case[f'{name}_{i}']) for i in range(case.count))


def levels_of(settings: ModelConfig, boxes: np.ndarray) -> np.ndarray:
    roi = settings.roi
    return assign_levels(tf.constant(boxes), 4, roi.canonical_size, roi.canonical_level).numpy() + 2


def _selection_piece(case: Case, settings: ModelConfig, engine: str, jit: bool) -> Iterator[Difference]:
    """Where the case holds the predictions for all proposals."""
    if any(len(case[f'box_logits_{i}']) < len(case[f'proposals_{i}']) for i in range(case.count)):
        return
    rois, logits, deltas = (case.stacked(name) for name in ('proposals', 'box_logits', 'box_deltas'))
    deltas = yx(deltas.reshape(*logits.shape, 4)[:, :, 1:])                # the background's box has no counterpart
    found = wrapped(lambda *args: detection_ops.select(
        detection_ops.candidates(*args, settings.box_head.box_weights), settings.detections, engine), jit)(
        tf.constant(yx(rois)), tf.constant(case.filled('proposals')), logits, tf.constant(deltas), case.sizes())
    yield from detection_stages(case, 'stored ', {k: v.numpy() for k, v in found._asdict().items()})


def _paste_piece(case: Case, settings: ModelConfig, i: int) -> Difference:
    """Pixels beyond those that the reference is unsure of, the worst mask of the image."""
    index = case[f'det_pasted_index_{i}']
    wrong = _wrong_pixels(case, settings, i, case[f'det_mask_probs_{i}'][index], yx(case[f'det_boxes_{i}'][index]))
    return Difference(f'stored det_pasted_{i}', float((wrong - case[f'det_pasted_unsure_{i}']).max(initial=0)), 0.)


def _wrong_pixels(case: Case, settings: ModelConfig, i: int, masks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Pixels of each pasted mask that the reference has otherwise: int [M]. Through COCO's code, as results are."""
    height, width = case.images[i].shape[:2]
    bits = unpack(case[f'det_pasted_bits_{i}'], height, width)
    codes = paste.to_rle(masks, boxes, height, width, settings.detections.paste)
    wrong = [(coco_mask.decode(code) != theirs).sum() for code, theirs in zip(codes, bits, strict=True)]
    return np.array(wrong, np.int64)


# Heads, fed with stored boxes -----------------------------------------------------------------------------------------

def head_stages(case: Case, model: Detector, features: list[np.ndarray], jit: bool) -> Iterator[Difference]:
    """RoIAlign and heads over our features at the stored proposals and detections."""
    rois, filled = yx(case.stacked('proposals')), case.filled('proposals')

    def from_proposals(maps: list[tf.Tensor], sizes: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        return _box_head(model, maps, rois), model.detect(maps, tf.constant(rois), tf.constant(filled), sizes)

    maps = [tf.constant(f) for f in features]
    box, found = tf.nest.map_structure(np.asarray, wrapped(from_proposals, jit)(maps, case.sizes()))
    for i in range(case.count):
        yield from _box_rows(case, 'stored ', box, i, np.arange(len(case[f'proposals_{i}'])))
    yield from detection_stages(case, 'from stored proposals ', found)
    if model.branches and case.filled('det_boxes').size:
        yield from _mask_stages(case, model, maps, jit)


def _mask_stages(case: Case, model: Detector, maps: list[tf.Tensor], jit: bool) -> Iterator[Difference]:
    boxes, labels = tf.constant(yx(case.stacked('det_boxes'))), tf.constant(case.stacked('det_labels'), tf.int32)

    def from_detections(maps: list[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        logits = model.branches[0].head(model.branches[0].roi_features.roi_layer(maps[:4], boxes))
        return _mask_pooled(model, maps, boxes), tf.sigmoid(loss_ops.of_class(logits, labels, 4))

    pooled, masks = (x.numpy() for x in wrapped(from_detections, jit)(maps))
    for i in range(case.count):
        every = np.arange(len(case[f'det_boxes_{i}']))
        for name, key, ours in (('mask_pooled', 'mask_pooled', pooled), ('det_mask_probs', 'det_probs', masks)):
            yield _rows(case, f'stored {name}_{i}', f'stored {key}', ours[i], every, case[f'{name}_{i}'])


def _box_rows(case: Case, prefix: str, box: dict[str, np.ndarray], i: int, index: np.ndarray) -> Iterator[Difference]:
    """What the box head gives for the first proposals; index: of ours that are the reference's."""
    for name, key in (('roi_pooled', 'pooled'), ('roi_fc7', 'fc7'), ('box_logits', 'cls'), ('box_deltas', 'reg')):
        theirs, ours = case[f'{name}_{i}'], box[key][i]
        if key == 'reg':
            theirs = yx(theirs.reshape(len(theirs), -1, 4)[:, 1:])
        yield _rows(case, f'{prefix}{name}_{i}', 'stored ' * (prefix == 'stored ') + key, ours, index, theirs)


def _rows(case: Case, name: str, key: str, ours: np.ndarray, index: np.ndarray, theirs: np.ndarray) -> Difference:
    """The rows of ours at `index` against the first rows, which are those stored."""
    index = index[:len(theirs)]
    size = NOT_FOUND if (index < 0).any() else farthest(ours[index], theirs)
    return Difference(name, size, case.limit(key))


# The whole chain ------------------------------------------------------------------------------------------------------

def chain_stages(case: Case, outputs: dict[str, Any]) -> Iterator[Difference]:
    """Boxes and what hangs on them, from the pixels: each of the reference's is matched with our nearest."""
    settings = case.settings()
    yield from _proposals(case, 'chain ', outputs['proposals'])
    for i in range(case.count):
        boxes = outputs['proposals']['boxes'][i][outputs['proposals']['valid'][i]]
        index, _ = match(boxes, yx(case[f'proposals_{i}']))
        ours = levels_of(settings, boxes)
        yield Difference(f'chain proposal_levels_{i}', farthest(ours[index], case[f'proposal_levels_{i}']), 0.)
        yield from _box_rows(case, 'chain ', outputs['box'], i, index)
    yield from detection_stages(case, 'chain ', outputs['found'])
    if 'masks' in outputs['found']:
        for i in range(case.count):
            yield from _chain_masks(case, settings, outputs, i)


def _chain_masks(case: Case, settings: ModelConfig, outputs: dict[str, Any], i: int) -> Iterator[Difference]:
    found = {name: value[i][outputs['found']['valid'][i]] for name, value in outputs['found'].items()}
    index, _ = match(found['boxes'], yx(case[f'det_boxes_{i}']), found['labels'], case[f'det_labels_{i}'])
    yield _rows(case, f'chain mask_pooled_{i}', 'mask_pooled', outputs['mask_pooled'][i], index,
                case[f'mask_pooled_{i}'])
    yield _rows(case, f'chain det_mask_probs_{i}', 'det_probs', found['masks'], index, case[f'det_mask_probs_{i}'])
    pasted = index[case[f'det_pasted_index_{i}']]
    size = NOT_FOUND if (pasted < 0).any() else float(
        _wrong_pixels(case, settings, i, found['masks'][pasted], found['boxes'][pasted]).sum())
    yield Difference(f'chain det_pasted_{i}', size, PIXELS + SHARE * case[f'det_pasted_count_{i}'].sum())


def detection_stages(case: Case, prefix: str, found: dict[str, np.ndarray]) -> Iterator[Difference]:
    for i in range(case.count):
        valid = found['valid'][i]
        boxes, labels, scores = (found[name][i][valid] for name in ('boxes', 'labels', 'scores'))
        index, size = match(boxes, yx(case[f'det_boxes_{i}']), labels, case[f'det_labels_{i}'])
        yield Difference(f'{prefix}det_boxes_{i}', size, case.limit('det_boxes'))
        yield _rows(case, f'{prefix}det_scores_{i}', 'det_scores', scores, index, case[f'det_scores_{i}'])


def match(ours: np.ndarray, theirs: np.ndarray, our_labels: np.ndarray | None = None,
          their_labels: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """For each of the reference's boxes the nearest of ours of the same label, and the largest distance, px.

    As `nearest`; the distance is infinite too where the numbers of boxes differ, for then one is missing or too many.
    """
    if len(ours) != len(theirs):
        return np.full(len(theirs), -1), NOT_FOUND
    return nearest(ours, theirs, our_labels, their_labels)


def nearest(ours: np.ndarray, theirs: np.ndarray, our_labels: np.ndarray | None = None,
            their_labels: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """For each of the reference's boxes the nearest of ours of the same label, and the largest distance, px.

    The index is -1, and the distance infinite, where there is none; it is infinite too where two want the same box.
    """
    if not len(theirs):
        return np.zeros(0, int), 0.
    if not len(ours):
        return np.full(len(theirs), -1), NOT_FOUND
    apart = np.abs(theirs[:, None].astype(np.float64) - ours[None]).max(-1)                  # [theirs, ours]
    if our_labels is not None and their_labels is not None:
        apart = np.where(their_labels[:, None] == our_labels[None], apart, NOT_FOUND)
    index, size = apart.argmin(1), float(apart.min(1).max())
    if not np.isfinite(size) or len(set(index.tolist())) < len(index):
        return np.where(np.isfinite(apart.min(1)), index, -1), NOT_FOUND
    return index, size

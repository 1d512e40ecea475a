"""An inference case of Detectron2, stage by stage in the order of the network: how far each lies from the reference.

First the chain from the pixels to the RPN's decoded boxes and pieces fed with stored numbers; then the heads over our
features at the *stored* proposals and detections; last the whole chain. Proposals and detections are compared as sets,
and only those that Detectron2's own float32 run found too. Of a full list of detections, those whose scores differ
from the last one's by less than the limit are left out: rounding decides which of them has the last place.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.detectors.instances import Instances, split_batch
from mrcnn_tf.detectors.rpn import RPN
from mrcnn_tf.layers.anchors import AnchorGenerator
from mrcnn_tf.ops import boxes as box_ops
from mrcnn_tf.ops import losses as loss_ops
from mrcnn_tf.ops import paste
from mrcnn_tf.ops import proposals as proposal_ops
from tests.modes import recorded, wrapped
from tests.parity.detectron2_case import Detectron2Case
from tests.parity.inference_stages import NOT_FOUND, PIXELS, SHARE, levels_of, nearest
from tests.parity.kit import KitError
from tests.parity.reference import Difference, farthest, unpack, yx

EXACT = 2. ** -20        # of the largest value: a few steps of float32
STORED = 2e-5            # of the largest value, as in the tables of operators of torchvision's kit


def stages(case: Detectron2Case, model: Detector, jit: bool) -> Iterator[Difference]:
    """All stages of a case, in order."""
    outputs = run(case, model, jit)
    yield from network_stages(case, outputs)
    yield from pieces(case, model.settings, model.engine, jit)
    yield from head_stages(case, model, outputs, jit)
    yield from chain_stages(case, model, outputs)


def run(case: Detectron2Case, model: Detector, jit: bool) -> dict[str, Any]:
    """Every stage along the chain, recorded in one call of the model in a graph."""
    stored = {'proposals': yx(case['proposals'])[None], 'proposals_valid': np.ones([1, len(case['proposals'])], bool)}

    def look(batch: dict[str, tf.Tensor]) -> dict[str, Any]:
        with (recorded(tf.nn, 'max_pool2d') as pools, recorded(type(model), 'normalize') as inputs,
              recorded(type(model.backbone.body), '__call__') as maps, recorded(type(model), 'features') as features,
              recorded(RPN, 'score') as scores, recorded(proposal_ops, 'propose') as proposals):
            found = model(batch)                                                  # the stem's pool comes first
        out = {'input': inputs[0], 'stem': pools[0], 'body': maps[0], 'features': features[0], 'found': found}
        if scores:
            out.update(rpn_logits=scores[0].logits, rpn_deltas=scores[0].deltas, anchors=scores[0].anchors,
                       proposals=proposals[0]._asdict())
        return out

    batch = case.batch()
    given = {**{name: batch[name] for name in ('images', 'sizes')},
             **({} if model.proposer.head else {name: tf.constant(value) for name, value in stored.items()})}
    return tf.nest.map_structure(np.asarray, wrapped(look, jit)(given))


# Pixels to decoded boxes ----------------------------------------------------------------------------------------------

def network_stages(case: Detectron2Case, outputs: dict[str, Any]) -> Iterator[Difference]:
    """The canvas, the input, feature maps, and what the RPN says of some anchors and of those it likes best."""
    yield Difference('canvas', farthest(case.canvas, case.config['padded_size']), 0.)
    yield from _moments(case, 'input', outputs['input'], EXACT * np.abs(case['input_std']).max())
    yield from _moments(case, 'body_stem', outputs['stem'], case.limit('body'))
    for ours in outputs['body'].values():                    # by channels: res4 and res5 of DC5 share a stride
        stage = int(np.log2(ours.shape[-1] // 64))
        yield from _moments(case, f'body_res{stage}', ours, case.limit('body'))
    for level, ours in enumerate(outputs['features']):
        yield from _feature(case, f'feature_{level}', ours[0].transpose(2, 0, 1))
    if 'rpn_logits' in outputs:
        counts = [logits.shape[1] for logits in outputs['rpn_logits']]
        anchors = np.split(outputs['anchors'], np.cumsum(counts)[:-1])
        for level, (logits, deltas, boxes) in enumerate(
                zip(outputs['rpn_logits'], outputs['rpn_deltas'], anchors, strict=True)):
            yield from _rpn_level(case, f'rpn_{level}', logits[0], yx(deltas[0]), boxes)


def _moments(case: Detectron2Case, name: str, ours: np.ndarray, limit: float) -> Iterator[Difference]:
    for moment, function in (('mean', np.mean), ('std', np.std)):
        values = function(ours.astype(np.float64), axis=(0, 1, 2))
        values = values[::-1] if name == 'input' and case.settings().channel_order == 'rgb' else values
        yield Difference(f'{name}_{moment}', farthest(values, case[f'{name}_{moment}']), limit)


def _feature(case: Detectron2Case, name: str, ours: np.ndarray) -> Iterator[Difference]:
    limit = case.limit('features')
    yield Difference(f'shape of {name}', farthest(ours.shape, case[f'{name}_shape']), 0.)
    yield Difference(f'mean of {name}', farthest(ours.mean((1, 2), np.float64), case[f'{name}_mean']), limit)
    yield Difference(f'std of {name}', farthest(ours.astype(np.float64).std((1, 2)), case[f'{name}_std']), limit)
    values = ours.ravel()[np.minimum(case[f'{name}_index'], ours.size - 1)]
    yield Difference(name, farthest(values, case[f'{name}_values']), limit)


def _rpn_level(case: Detectron2Case, name: str, logits: np.ndarray, deltas: np.ndarray, anchors: np.ndarray
               ) -> Iterator[Difference]:
    level = name.rpartition('_')[2]
    decoded = yx(box_ops.decode(tf.constant(yx(deltas)), tf.constant(anchors)).numpy())
    for key, ours in (('logits', logits), ('deltas', deltas)):
        moments = np.stack([ours.mean(0, np.float64), ours.astype(np.float64).std(0)])
        yield Difference(f'moments of rpn_{key}_{level}', farthest(moments, case[f'{name}_{key}_mean_std']),
                         case.limit(f'rpn_{key}'))
    for part in ('sample', 'top'):
        index = np.minimum(case[f'{name}_{part}_index'], len(logits) - 1)
        for key, ours, limit in (('logits', logits, case.limit('rpn_logits')),
                                 ('deltas', deltas, case.limit('rpn_deltas')),
                                 ('anchors', yx(anchors), EXACT * np.abs(anchors).max()),
                                 ('boxes', decoded, case.limit('rpn_decoded'))):
            yield Difference(f'{part} rpn_{key}_{level}', farthest(ours[index], case[f'{name}_{part}_{key}']), limit)


# Pieces without weights, fed with stored numbers ----------------------------------------------------------------------

def pieces(case: Detectron2Case, settings: ModelConfig, engine: str, jit: bool) -> Iterator[Difference]:
    """Anchors, decoding, levels, a cascade's boxes, the way back to the file and pasting."""
    if 'cell_anchors_0' in case:
        yield from _anchor_pieces(case, settings)
        yield from _decoding_pieces(case, jit)
    if 'proposal_levels' in case:
        ours = levels_of(settings, yx(case['proposals']))
        yield Difference('stored proposal_levels', farthest(ours, case['proposal_levels']), 0.)
    for stage in range(len(settings.cascade.positive_iou)):
        yield _cascade_piece(case, settings, stage)
    yield _file_piece(case)
    if 'mask_bits' in case:
        yield from _paste_pieces(case, settings)


def _anchor_pieces(case: Detectron2Case, settings: ModelConfig) -> Iterator[Difference]:
    """Every anchor: the first and last of each level, their number and mean."""
    grids: list[list[int]] = []
    while f'feature_{len(grids)}_shape' in case:
        grids.append(case[f'feature_{len(grids)}_shape'][1:].tolist())
    config = settings.anchors
    layer = AnchorGenerator(config.sizes, config.ratios, case.config['strides'] if config.stride == 'level' else None,
                            config.rounded, config.offset, config.order)
    ours = yx(layer([tf.zeros([1, *grid, 1]) for grid in grids], canvas=tuple(case.config['padded_size'])).numpy())
    counts = [rows * columns * each for (rows, columns), each in zip(grids, layer.per_cell, strict=True)]
    for level, boxes in enumerate(np.split(ours, np.cumsum(counts)[:-1])):
        name, limit = f'anchors_{level}', EXACT * np.abs(boxes).max()
        cell = boxes[:layer.per_cell[level]]                                      # its centre is the origin
        yield Difference(f'cell_anchors_{level}', farthest(cell, case[f'cell_anchors_{level}']), limit)
        yield Difference(f'count of {name}', farthest(len(boxes), case[f'{name}_count']), 0.)
        first, last = case[f'{name}_first'], case[f'{name}_last']
        yield Difference(f'first {name}', farthest(boxes[:len(first)], first), limit)
        yield Difference(f'last {name}', farthest(boxes[-len(last):], last), limit)
        mean = boxes.astype(np.float64).sum(0) / len(boxes)
        yield Difference(f'mean of {name}', farthest(mean, case[f'{name}_sum'] / case[f'{name}_count']), limit)


def _decoding_pieces(case: Detectron2Case, jit: bool) -> Iterator[Difference]:
    """Boxes from the stored deltas and anchors, of all levels at once."""
    names = [name.removesuffix('_deltas') for name in case.arrays if name.endswith(('_sample_deltas', '_top_deltas'))]
    deltas, anchors, theirs = (np.concatenate([case[f'{name}_{key}'] for name in names])
                               for key in ('deltas', 'anchors', 'boxes'))
    ours = wrapped(box_ops.decode, jit)(tf.constant(yx(deltas)), tf.constant(yx(anchors)))
    yield Difference('stored rpn_boxes', farthest(yx(ours.numpy()), theirs), STORED * np.abs(theirs).max())


def _cascade_piece(case: Detectron2Case, settings: ModelConfig, stage: int) -> Difference:
    """The boxes that the next stage reads."""
    weights = [settings.box_head.box_weights, *settings.cascade.box_weights][stage]
    boxes = box_ops.decode(tf.constant(yx(case[f'box_deltas_{stage}'])), tf.constant(yx(case[f'stage_boxes_{stage}'])),
                           weights)
    ours = yx(box_ops.clip(boxes[None], tf.constant(case.sizes()))[0].numpy())
    theirs = case[f'stage_boxes_{stage + 1}']
    return Difference(f'stored stage_boxes_{stage + 1}', farthest(ours, theirs), STORED * np.abs(theirs).max())


def _file_piece(case: Detectron2Case) -> Difference:
    """Boxes in pixels of the file."""
    boxes = case['det_boxes' if 'det_boxes' in case else 'proposals']
    ours = _in_file(case, {'boxes': yx(boxes)[None], 'scores': np.ones([1, len(boxes)], np.float32),
                           'labels': np.ones([1, len(boxes)], np.int32), 'valid': np.ones([1, len(boxes)], bool)})
    theirs = case['out_boxes']
    return Difference('stored out_boxes', farthest(yx(ours.boxes), theirs), STORED * np.abs(theirs).max())


def _in_file(case: Detectron2Case, found: dict[str, np.ndarray]) -> Instances:
    """Detections of the one image in pixels of the file."""
    batch = {'sizes': case.sizes(), 'original_sizes': [case.config['original_size']], 'image_ids': [0],
             'image_valid': [True]}
    return next(instances for _, _, instances in split_batch(found, batch))


def _paste_pieces(case: Detectron2Case, settings: ModelConfig) -> Iterator[Difference]:
    """Pixels beyond those that the reference is unsure of, and masks of which only the area is stored."""
    probabilities = case['det_mask_probs']
    pasted = _pasted(case, settings, probabilities, yx(case['out_boxes'][:len(probabilities)]))
    wrong = _wrong_pixels(case, pasted)
    yield Difference('stored mask_bits', float((wrong - case['mask_unsure'][:len(wrong)]).max()), 0.)
    areas = np.abs(pasted.sum((1, 2), np.int64) - case['mask_area'])
    yield Difference('stored mask_area', float((areas - case['mask_unsure']).max()), 0.)


def _pasted(case: Detectron2Case, settings: ModelConfig, masks: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    height, width = case.config['original_size']
    return np.stack(list(paste.paste(masks, boxes, height, width, settings.detections.paste)))


def _wrong_pixels(case: Detectron2Case, pasted: np.ndarray) -> np.ndarray:
    """Pixels that the reference has otherwise, of each mask that it stored in full: int [n]."""
    theirs = unpack(case['mask_bits'], *case.config['original_size'])
    return (pasted[:len(theirs)] != theirs).sum((1, 2))


# Heads, fed with stored boxes -----------------------------------------------------------------------------------------

def head_stages(case: Detectron2Case, model: Detector, outputs: dict[str, Any], jit: bool) -> Iterator[Difference]:
    """RoIAlign and heads over our features at the stored proposals and detections."""
    if model.box is None:
        return
    features = [tf.constant(each) for each in outputs['features']]
    rois = tf.constant(yx(case['proposals'])[None])

    def read(maps: list[tf.Tensor]) -> dict[str, Any]:
        stages = []
        for number, stage in enumerate(model.box.stages):
            boxes = tf.constant(yx(case[_staged(case, 'stage_boxes', number)])[None]) if model.box.heads[1:] else (
                rois[:, :len(case['box_logits'])])
            stages.append(stage.head(model.box.roi_features.pool(maps, boxes)))
        levels = maps[:model.backbone.pooled]
        out = {'pooled': model.box.roi_features.roi_layer(levels, rois[:, :len(case['roi_pooled'])]),
               'stages': stages, 'found': model.detect(maps, rois, tf.fill(rois.shape[:2], True), case.sizes())}
        if model.branches:
            boxes = tf.constant(yx(case['det_boxes'][:len(case['det_mask_probs'])])[None])
            labels = tf.constant(case['det_labels'][None, :boxes.shape[1]], tf.int32)
            logits = model.branches[0].head(model.branches[0].roi_features.pool(maps, boxes))
            out['masks'] = tf.sigmoid(loss_ops.of_class(logits, labels, 4))
        return out

    ours = tf.nest.map_structure(np.asarray, wrapped(read, jit)(features))
    step = case.config['roi_pooled_channel_step']
    yield Difference('stored roi_pooled', farthest(ours['pooled'][0, ..., ::step].transpose(0, 3, 1, 2),
                                                   case['roi_pooled']), case.limit('features'))
    for number, (logits, deltas) in enumerate(ours['stages']):
        name = _staged(case, 'box_logits', number)
        yield Difference(f'stored {name}', farthest(logits[0], np.roll(case[name], 1, axis=1)), case.limit('cls'))
        name = _staged(case, 'box_deltas', number)
        theirs = yx(case[name].reshape(len(case[name]), -1, 4))
        yield Difference(f'stored {name}', farthest(deltas[0], theirs), case.limit('reg'))
    yield from _detections(case, 'from stored proposals ', ours['found'])[1]
    if 'masks' in ours:
        yield Difference('stored det_mask_probs', farthest(ours['masks'][0], case['det_mask_probs']),
                         case.limit('det_mask_probs'))


def _staged(case: Detectron2Case, name: str, number: int) -> str:
    return f'{name}_{number}' if f'{name}_{number}' in case else name


# The whole chain ------------------------------------------------------------------------------------------------------

def chain_stages(case: Detectron2Case, model: Detector, outputs: dict[str, Any]) -> Iterator[Difference]:
    """Boxes and what depends on them, from the pixels."""
    if 'proposals' in outputs:
        yield from _proposals(case, outputs['proposals'])
    found = outputs['found']
    if model.box is None:
        yield from _proposals_in_file(case, found)
        return
    index, differences = _detections(case, 'chain ', found)
    yield from differences
    valid, boxes = found['valid'][0], _in_file(case, found).boxes
    size = NOT_FOUND if (index < 0).any() else farthest(yx(boxes[index]), case['out_boxes'][_certain(case)])
    scale = max(np.array(case.config['original_size']) / case.config['resized_size'])
    yield Difference('chain out_boxes', size, case.limit('det_boxes') * max(1., scale))
    if 'masks' in found:
        yield from _masks(case, model.settings, found['masks'][0][valid], boxes, index)


def _proposals(case: Detectron2Case, ours: dict[str, np.ndarray]) -> Iterator[Difference]:
    stable, valid = case['proposals_stable'], ours['valid'][0]
    yield Difference('number of proposals', abs(int(valid.sum()) - len(stable)), float((~stable).sum()))
    index, size = nearest(ours['boxes'][0][valid], yx(case['proposals'])[stable])
    yield Difference('chain proposals', size, case.limit('proposal_boxes'))
    logits = NOT_FOUND if (index < 0).any() else farthest(ours['logits'][0][valid][index],
                                                          case['proposal_logits'][stable])
    yield Difference('chain proposal_logits', logits, case.limit('proposal_logits'))


def _proposals_in_file(case: Detectron2Case, found: dict[str, np.ndarray]) -> Iterator[Difference]:
    """Where they are the result."""
    ours, stable = _in_file(case, found), case['proposals_stable']
    index, size = nearest(ours.boxes, yx(case['out_boxes'])[stable])
    scale = max(np.array(case.config['original_size']) / case.config['resized_size'])
    yield Difference('chain out_boxes', size, case.limit('proposal_boxes') * max(1., scale))
    theirs = 1 / (1 + np.exp(-case['out_logits'][stable].astype(np.float64)))
    scores = NOT_FOUND if (index < 0).any() else farthest(ours.scores[index], theirs)
    yield Difference('chain out_scores', scores, case.limit('proposal_logits'))


def _certain(case: Detectron2Case) -> np.ndarray:
    """Which detections do not depend on rounding: bool [D]."""
    stable, scores = case['det_stable'], case['det_scores']
    if len(scores) < case.settings().detections.max_detections:
        return stable
    certain = stable & (scores > scores.min() + case.limit('det_scores'))
    if 2 * certain.sum() < len(scores):
        raise KitError(f'{case.name}: most detections have the score of the last one, so they cannot be compared')
    return certain


def _detections(case: Detectron2Case, prefix: str, found: dict[str, np.ndarray]
                ) -> tuple[np.ndarray, list[Difference]]:
    """Which of our valid detections are the reference's certain ones, and how far they lie from them."""
    valid, certain = found['valid'][0], _certain(case)
    boxes, labels, scores = (found[name][0][valid] for name in ('boxes', 'labels', 'scores'))
    index, size = nearest(boxes, yx(case['det_boxes'])[certain], labels, case['det_labels'][certain])
    apart = NOT_FOUND if (index < 0).any() else farthest(scores[index], case['det_scores'][certain])
    return index, [
        Difference(f'{prefix}number of detections', abs(len(boxes) - len(certain)),
                   float((~case['det_stable']).sum())),
        Difference(f'{prefix}det_boxes', size, case.limit('det_boxes')),
        Difference(f'{prefix}det_scores', apart, case.limit('det_scores'))]


def _masks(case: Detectron2Case, settings: ModelConfig, masks: np.ndarray, boxes: np.ndarray, index: np.ndarray
           ) -> Iterator[Difference]:
    """Of the first detections, where the chain found them; index: of ours that are the certain ones."""
    order = np.full(len(case['det_scores']), -1)
    order[_certain(case)] = index
    theirs = case['det_mask_probs']
    kept = np.flatnonzero(order[:len(theirs)] >= 0)
    chosen = order[kept]
    yield Difference('chain det_mask_probs', farthest(masks[chosen], theirs[kept]) if len(kept) else NOT_FOUND,
                     case.limit('det_mask_probs'))
    pasted = _pasted(case, settings, masks[chosen], boxes[chosen])
    areas = np.abs(pasted.sum((1, 2), np.int64) - case['mask_area'][kept])
    allowed = PIXELS + SHARE * case['mask_area'][kept] + case['mask_unsure'][kept]
    yield Difference('chain mask_area: pixels beyond the limit', float((areas - allowed).max(initial=0.)), 0.)
    full = kept < len(case['mask_bits'])
    bits = unpack(case['mask_bits'], *case.config['original_size'])[kept[full]]
    wrong = (pasted[full] != bits).sum((1, 2))
    yield Difference('chain mask_bits: pixels beyond the limit', float((wrong - allowed[full]).max(initial=0.)), 0.)

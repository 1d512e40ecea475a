"""Export of the proposals of an RPN to a file, which `mrcnn convert proposals` adds to the records of a set.

N: images; m: proposals of an image.
"""
from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Sequence

import tensorflow as tf

import mrcnn_tf
from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.augmentation import SingleView
from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.detectors.devices import first_of
from mrcnn_tf.evaluation.proposal_file import ProposalFile
from mrcnn_tf.evaluation.run import Evaluated, predictions
from mrcnn_tf.files.progress import track
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.weights.model_directory import restore_checkpoint, restore_model

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


class ProposalError(ValueError):
    """The model or the file name cannot be used; the message is one line with the remedy."""


def propose(model_dir: PathLike, manifest: PathLike, output: PathLike, training: bool = False,
            checkpoint: str | int = 'best', precision: str = 'float32', devices: Sequence[str] = ()) -> None:
    """Write the proposals of a trained model for each image of a set to an .npz file.

    An interrupted call leaves `.NAME.npz.journal` and `.NAME.npz.rows`, which the same call continues; the file is then
    the same in all bytes.

    It holds ids [N] (`image/source_id`), counts [N] (m), boxes float32 [sum of m, 4] as y1, x1, y2, x2 in px of the
    image, best first, and their objectness as scores float32 [sum of m].

    Args:
        model_dir: the model directory of an rpn, or of a detector with one.
        manifest: path of the manifest.
        output: the file; an existing one is replaced once the new one is complete.
        training: export `rpn.post_nms_train` of `rpn.pre_nms_train` proposals, as in training, instead of the numbers
            for inference.
        checkpoint: as `restore_model`.
        precision: of convolutions and matrix products: 'float32' or 'bfloat16'.
        devices: as `evaluate`.

    Raises:
        ProposalError: the model has no RPN; the file name does not end in .npz.
        CheckpointError, ConfigError, ManifestError, InputError: the model or the set cannot be used.
        OSError: the disk is full or not writable.
    """
    output = pathlib.Path(output)
    if output.suffix != '.npz':
        raise ProposalError(f'{output}: expected a name that ends in .npz')
    with first_of(devices):
        model, config, _, step = restore_checkpoint(model_dir, checkpoint=checkpoint, precision=precision)
    if 'proposals' in model.inputs_read:
        raise ProposalError(f'{model_dir}: a {config.model.kind} has no RPN; give an rpn, faster_rcnn or mask_rcnn')
    ids = {record['image_id']: record['source_id'] for record in ground_truth(manifest)}
    fingerprint = _fingerprint(model, config, manifest, f'{training} {precision}')
    evaluated = Evaluated(model, devices, lambda: restore_model(model_dir, 'op', step, precision)[0])
    detect = evaluated.function(lambda each: SingleView(
        lambda batch: each.propose(batch, training), each, config.data, final=True))
    with ProposalFile(output, fingerprint) as written:
        before = len(written.ids)
        if before:
            _log.info('%s: continues after %d of %d images', output, before, len(ids))
        found = predictions(detect, config, manifest, skip=before)
        for image_id, _, instances in track(found, len(ids) - before, 'proposed'):
            written.add(ids[image_id], instances)
        written.finish()


def _fingerprint(model: Detector, config: Config, manifest: PathLike, options: str) -> str:
    """Return a line that differs if the proposals may: by weights, settings, set, options of the call or versions."""
    total = hashlib.sha256(files.read_bytes(manifest))
    for part in (dataclasses.asdict(config), options, mrcnn_tf.__version__, tf.__version__):
        total.update(repr(part).encode())
    for array in model.get_weights():
        total.update(array.tobytes())
    return total.hexdigest()

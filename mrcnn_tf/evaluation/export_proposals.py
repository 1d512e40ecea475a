"""Export of the proposals of an RPN to a file, which `mrcnn convert proposals` adds to the records of a set.

N: images; m: proposals of an image.
"""
from __future__ import annotations

import os
import pathlib
import tempfile
from typing import IO

import numpy as np

from mrcnn_tf import files
from mrcnn_tf.detectors.augmentation import SingleView
from mrcnn_tf.evaluation.run import predictions
from mrcnn_tf.files.progress import track
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.weights.model_directory import restore_model

PathLike = str | os.PathLike[str]


class ProposalError(ValueError):
    """The model or the file name cannot be used; the message is one line with the remedy."""


def propose(model_dir: PathLike, manifest: PathLike, output: PathLike, training: bool = False,
            checkpoint: str | int = 'best', precision: str = 'float32') -> None:
    """Write the proposals of a trained model for each image of a set to an .npz file.

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

    Raises:
        ProposalError: the model has no RPN; the file name does not end in .npz.
        CheckpointError, ConfigError, ManifestError, InputError: the model or the set cannot be used.
        OSError: the disk is full or not writable.
    """
    output = pathlib.Path(output)
    if output.suffix != '.npz':
        raise ProposalError(f'{output}: expected a name that ends in .npz')
    model, config, _ = restore_model(model_dir, checkpoint=checkpoint, precision=precision)
    if 'proposals' in model.inputs_read:
        raise ProposalError(f'{model_dir}: a {config.model.kind} has no RPN; give an rpn, faster_rcnn or mask_rcnn')
    ids = {record['image_id']: record['source_id'] for record in ground_truth(manifest)}
    detect = SingleView(lambda batch: model.propose(batch, training), model, config.data, final=True)
    names, counts = [], []
    with files.atomic_path(output) as temporary, tempfile.TemporaryFile(dir=output.parent) as rows:
        for image_id, _, instances in track(predictions(detect, config, manifest), len(ids), 'proposed'):
            names.append(ids[image_id])
            counts.append(len(instances))
            rows.write(np.column_stack([instances.boxes, instances.scores]).astype(np.float32).tobytes())
        stored = _stored(rows, sum(counts))
        np.savez(temporary, ids=names, counts=counts, boxes=stored[:, :4], scores=stored[:, 4])


def _stored(rows: IO[bytes], count: int) -> np.ndarray:
    """Return the rows y1, x1, y2, x2, score of a file, float32 [count, 5]; they stay in the file."""
    rows.flush()
    return np.memmap(rows, np.float32, 'r', shape=(count, 5)) if count else np.zeros((0, 5), np.float32)

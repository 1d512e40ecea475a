"""A trained RPN over a converted set, to a file of proposals that `mrcnn convert proposals` attaches to the set.

N images, m proposals of one.
"""
from __future__ import annotations

import os
import pathlib

import numpy as np

from mrcnn_tf import files
from mrcnn_tf.detectors.augmentation import SingleView
from mrcnn_tf.evaluation.run import predictions
from mrcnn_tf.files.progress import track
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.weights.model_directory import restore_model

PathLike = str | os.PathLike[str]


class ProposalError(ValueError):
    """A model or a name that does not do; the message is one line with the remedy."""


def propose(model_dir: PathLike, manifest: PathLike, output: PathLike, training: bool = False) -> None:
    """Writes the proposals of the newest checkpoint for every image of a set, as an .npz.

    It holds ids [N] (`image/source_id`), counts [N] (m), boxes float32 [sum of m, 4] as y1, x1, y2, x2 in px of the
    image, best first, and their objectness as scores float32 [sum of m].

    Args:
        model_dir: of an rpn, or of a detector that has one.
        manifest: of the set.
        output: the file; an older one is replaced once the new one is whole.
        training: as many as the model is trained on, `rpn.post_nms_train` of `rpn.pre_nms_train`, not those of tests.

    Raises:
        ProposalError: a fast_rcnn, which proposes nothing; a name that does not end in .npz.
        CheckpointError, ConfigError, ManifestError, InputError: the model or the set cannot be used.
        OSError: the disk is full, no permission.
    """
    output = pathlib.Path(output)
    if output.suffix != '.npz':
        raise ProposalError(f'{output}: expected a name that ends in .npz')
    model, config, _ = restore_model(model_dir)
    if 'proposals' in model.inputs_read:
        raise ProposalError(f'{model_dir}: a {config.model.kind} proposes nothing; give an rpn or a faster_rcnn')
    ids = {record['image_id']: record['source_id'] for record in ground_truth(manifest)}
    detect = SingleView(lambda batch: model.propose(batch, training), config.data, model.engine == 'xla')
    found = {ids[image_id]: instances for image_id, _, instances in track(
        predictions(detect, config, manifest), len(ids), 'proposed')}
    with files.atomic_path(output) as temporary:
        np.savez(temporary, ids=list(found), counts=[len(each) for each in found.values()],
                 boxes=np.concatenate([each.boxes for each in found.values()]),
                 scores=np.concatenate([each.scores for each in found.values()]))

"""Which record of a set is damaged: errors of TensorFlow while batches are read, as one line for the user."""
from __future__ import annotations

import logging
import os
import re

import tensorflow as tf

from mrcnn_tf.input import records, samples
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.transforms import Sample
from mrcnn_tf.input.tuning import PARALLEL, untuned

_log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
# The messages of this package's assertions, 'MANIFEST: image ID: REASON', inside those of TensorFlow.
_ASSERTION = re.compile(r'assertion failed: \[(.*: image -?\d+: .*)\]')
_POSSIBLE = (tf.errors.InvalidArgumentError, tf.errors.DataLossError, tf.errors.NotFoundError)


class InputError(ValueError):
    """A set, or a record of it, cannot be used; the message is one line: file, record or image, and what to do."""


def explain(error: tf.errors.OpError, manifest: PathLike) -> Exception:
    """Return the error to raise instead of one that occurred while batches of a set were read.

    If TensorFlow's message does not name the damaged record, this function decodes the records until it finds it.

    Args:
        error: what the iterator, or a training step that reads from it, raised.
        manifest: path of the set's manifest.

    Returns:
        InputError that names the shard and record, or the image; ManifestError if a shard is missing; `error` itself
        if the records are not the cause.
    """
    if message := _assertion(error):
        return InputError(message)
    if not isinstance(error, _POSSIBLE):
        return error
    if isinstance(error, tf.errors.InvalidArgumentError) and 'GetNext' not in str(error):
        return error    # of the model's arithmetic, not of the iterator
    try:
        described = Manifest.read(manifest)
    except ValueError as changed:
        return changed
    _log.warning('%s: searching for the damaged record', manifest)
    damages = (_first_damage(manifest, file, described.has_masks) for file in described.shard_paths(manifest))
    return next((damage for damage in damages if damage), error)


def _first_damage(manifest: PathLike, file: str, has_masks: bool) -> InputError | None:
    """Return what is wrong with the first unusable record of a shard, None if all can be used."""
    @tf.autograph.experimental.do_not_convert
    def decode(serialized: tf.Tensor) -> Sample:
        record = records.parse(serialized, has_masks)
        return samples.decode(record, 1, samples.image_name(manifest, record))

    good = 0
    dataset = untuned(tf.data.TFRecordDataset(file))
    try:
        for _ in dataset.map(decode, num_parallel_calls=PARALLEL, deterministic=True):
            good += 1
    except tf.errors.DataLossError:
        return InputError(f'{file}: record {good} (from 0) is damaged: its checksum or length is wrong; '
                          'copy the shard again or convert the data again')
    except tf.errors.InvalidArgumentError as error:
        return InputError(f'{file}: record {good} (from 0){_image_id(dataset, good)}: {_reason(error)}; '
                          'replace the image file and convert the data again')
    return None


def _assertion(error: tf.errors.OpError) -> str:
    """Return the message of this package's assertion, '' if the error is another one."""
    match = _ASSERTION.search(error.message or '')
    return re.sub(r'\\([\'"\\])', r'\1', match.group(1)) if match else ''    # TensorFlow escapes quotes


def _image_id(dataset: tf.data.Dataset, index: int) -> str:
    """Return ' = image 42' for the record with this index, '' if it cannot be parsed."""
    try:
        record = records.parse(next(iter(dataset.skip(index))), with_masks=False)
    except tf.errors.InvalidArgumentError:
        return ''
    return f' = image {int(record["image_id"])}'


def _reason(error: tf.errors.OpError) -> str:
    """Return TensorFlow's message without the names of its nodes."""
    if message := _assertion(error):
        return message.partition(': image ')[2].partition(': ')[2]
    line = re.sub(r'\{\{.*?\}\}|\[Op:.*', '', error.message.split('\n')[0])
    return line.rpartition('Iterator::')[2].partition(': ')[2] if 'Iterator::' in line else line.strip()

"""All annotations of a set, image by image: what metrics compare predictions with."""
from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from mrcnn_tf.input import records
from mrcnn_tf.input.damage import explain
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.tuning import PARALLEL, untuned


def ground_truth(manifest: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the annotations of each image, in the order of the shards, without a limit on objects.

    Args:
        manifest: path of the set's manifest.

    Yields:
        A dict with image_id, height, width (int, px) and source_id (str, the data set's id). Of n objects it has boxes
        float32 [n, 4] (px of the file), labels int32 [n], crowd bool [n], area float32 [n] (px^2), annotation_ids
        int64 [n]; if the set has masks, masks, a list of n PNGs of the whole image, and has_mask bool [n]; if it has
        proposals, proposals float32 [m, 4] (px of the file), best first.

    Raises:
        ManifestError: the manifest cannot be used.
        InputError: a damaged shard or record.

    Example:
        >>> import mrcnn_tf as m
        >>> first = next(m.ground_truth('data/train.json'))
        >>> first['height'], first['width'], first['labels'].tolist()
        (64, 64, [1])
    """
    described = Manifest.read(manifest)
    dataset = tf.data.TFRecordDataset(described.shard_paths(manifest)).map(
        functools.partial(_annotations, with_masks=described.has_masks, with_proposals=described.has_proposals),
        num_parallel_calls=PARALLEL, deterministic=True)
    try:
        for record in untuned(dataset.prefetch(2 * PARALLEL)).as_numpy_iterator():
            yield {**record, **{key: int(record[key]) for key in ('image_id', 'height', 'width')},
                   'source_id': record['source_id'].decode(errors='backslashreplace'),
                   **({'masks': list(record['masks'])} if described.has_masks else {})}
    except tf.errors.OpError as error:
        raise explain(error, manifest) from error


@tf.autograph.experimental.do_not_convert
def _annotations(serialized: tf.Tensor, with_masks: bool, with_proposals: bool) -> dict[str, tf.Tensor]:
    record = records.parse(serialized, with_masks, with_proposals)
    return {key: value for key, value in record.items() if key != 'encoded'}

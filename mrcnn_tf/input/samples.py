"""From a record to a Sample, and from a Sample to the object slots of a batch.

n objects and m proposals of a record; G object slots and P proposal slots of a batch; S side of a mask crop; K classes.
A record is the dict that `records.parse` returns.
"""
from __future__ import annotations

import os
from collections.abc import Sequence

import tensorflow as tf

from mrcnn_tf.input import decoding, images
from mrcnn_tf.input.transforms import Sample, scale_boxes

_OF_OBJECTS = ('boxes', 'labels', 'crowd', 'area', 'annotation_ids', 'difficult', 'truncated', 'masks', 'has_mask')

Record = dict[str, tf.Tensor]


def image_name(manifest: str | os.PathLike[str], record: Record) -> tf.Tensor:
    """Return the name of an image in error messages, string []."""
    return tf.strings.join([f'{manifest}: image ', tf.strings.as_string(record['image_id'])])


def original_size(record: Record) -> tf.Tensor:
    """Return height and width of the image file, int32 [2]."""
    return tf.stack([record['height'], record['width']])


def check_labels(record: Record, classes: int, name: tf.Tensor) -> None:
    """Add an assertion to the graph that all labels are in 1..K, K = `classes`."""
    wrong = tf.boolean_mask(record['labels'], (record['labels'] < 1) | (record['labels'] > classes))
    tf.debugging.Assert(tf.size(wrong) == 0, [tf.strings.join(
        [name, ': label ', tf.strings.reduce_join(tf.strings.as_string(wrong[:1])),
         f', expected 1..{classes}; set model.num_classes or convert the data again'])])


def limit(record: Record, max_objects: int, max_proposals: int) -> Record:
    """Return the record with its largest objects, crowds after all others, and its best proposals.

    The objects stay in the order of the record.
    """
    # Negative for crowds, and rising with the area: the largest crowd follows the smallest other object.
    rank = tf.where(record['crowd'], -1 / (1 + record['area']), record['area'])
    kept = tf.sort(tf.argsort(rank, direction='DESCENDING', stable=True)[:max_objects])
    limited = {key: tf.gather(record[key], kept) for key in _OF_OBJECTS if key in record}
    if 'proposals' in record:
        limited['proposals'] = record['proposals'][:max_proposals]
    return {**record, **limited}


def decode(record: Record, mask_size: int, name: tf.Tensor, shape: tf.Tensor | None = None, antialias: bool = False
           ) -> Sample:
    """Return the image with all objects and proposals of the record.

    Args:
        record: with masks, if the sample shall have them.
        mask_size: S.
        name: string [], what an error calls the image.
        shape: int32 [2], to which it is resized; None: it keeps its size.
        antialias: as in `images.resize`.

    Raises:
        tf.errors.InvalidArgumentError: a damaged image or mask, or one of another size than the record states.
    """
    image, size = decode_image(record, name, shape, antialias), original_size(record)
    masks = None
    if 'masks' in record:
        masks = images.crop_masks(record['masks'], record['boxes'], size, mask_size, name)
    sample = Sample(image, record['boxes'], record['labels'], record['crowd'], masks, record.get('has_mask'),
                    record.get('proposals'))
    return sample if shape is None else scale_boxes(sample, size, shape)


def decode_image(record: Record, name: tf.Tensor, shape: tf.Tensor | None = None, antialias: bool = False) -> tf.Tensor:
    """Return the image, float32 [h, w, 3], RGB 0..255; arguments and errors as in `decode`."""
    def finish(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Resized before any cast: the float32 array of a photograph of 12 megapixels would have 144 MB.
        image = tf.cast(pixels, tf.float32) if shape is None else images.resize(pixels, shape, antialias)
        return image, tf.shape(pixels)[:2]

    image, actual = decoding.decode(record['encoded'], name, then=finish)
    stated = original_size(record)
    tf.debugging.Assert(tf.reduce_all(stated == actual), [tf.strings.join(
        [name, ': is ', images.size_text(actual), ', its record says ', images.size_text(stated),
         '; convert the data again'])])
    return image


def checked(sample: Sample, canvas: Sequence[int] | tf.Tensor, slots: tuple[int, int], name: tf.Tensor) -> Sample:
    """Return the sample, with assertions that transforms kept its fields of equal length and its image on the canvas.

    Args:
        canvas: height and width that the image is padded to.
        slots: G and P, the largest numbers of objects and proposals.
        name: string [], what an error calls the image.
    """
    def check(condition: tf.Tensor, *message: tf.Tensor | str) -> tf.Operation:
        return tf.debugging.Assert(condition, [tf.strings.join([name, ': after the transforms ', *message])])

    counts = tf.stack([tf.shape(value)[0] for value in sample[1:6] if value is not None])
    proposals = tf.constant(0) if sample.proposals is None else tf.shape(sample.proposals)[0]
    shape = tf.shape(sample.image)[:2]
    with tf.control_dependencies([
        check(tf.reduce_all(counts == counts[0]),
              'boxes, labels, crowd, masks and has_mask differ in length; drop objects with Sample.keep'),
        check(tf.reduce_all(shape <= canvas), 'it is ', images.size_text(shape), ', larger than its canvas; crop it'),
        check((counts[0] <= slots[0]) & (proposals <= slots[1]), 'it has ', tf.strings.as_string(counts[0]),
              ' objects and ', tf.strings.as_string(proposals),
              ' proposals; raise data.max_objects or data.max_proposals'),
    ]):
        return Sample(*(None if value is None else tf.identity(value) for value in sample))


def slots(sample: Sample, max_objects: int, max_proposals: int) -> Record:
    """Return the objects and proposals of a sample as those of a Batch, without the dimension B.

    Args:
        sample: with at most G objects and P proposals.
        max_objects: G.
        max_proposals: P.
    """
    objects = {'boxes': sample.boxes, 'labels': sample.labels, 'crowd': sample.crowd,
               'valid': tf.ones_like(sample.crowd)}
    if sample.masks is not None:
        objects |= {'masks': sample.masks, 'has_mask': sample.has_mask}
    padded = {key: _pad(value, max_objects) for key, value in objects.items()}
    if sample.proposals is not None:
        proposals = {'proposals': sample.proposals, 'proposals_valid': tf.ones_like(sample.proposals[:, 0], tf.bool)}
        padded |= {key: _pad(value, max_proposals) for key, value in proposals.items()}
    return padded


def _pad(values: tf.Tensor, count: int) -> tf.Tensor:
    """Return [n, ...] as [G, ...], with zeros (False) in the slots without an object."""
    padding = [[0, count - tf.shape(values)[0]], *[[0, 0]] * (values.shape.rank - 1)]
    return tf.ensure_shape(tf.pad(values, padding), [count, *values.shape[1:]])

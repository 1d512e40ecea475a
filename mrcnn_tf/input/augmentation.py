"""Augmentation of a training image by `data.augment`: geometry, copy-paste and cutout, then colors.

Geometry and occlusion work on the source image and its whole masks, before masks are cropped to S x S: see
`visibility`. So they replace the resize and the flips, and are no transforms of a Sample. Large-scale jitter, rotation,
shear, translation and flips are one placement, so each pixel is interpolated once.

An object of which less than `min_visible` is left becomes a crowd, which is neither a positive nor background: the
detector is not taught that what shows of it is background. An object of which nothing is left is dropped.

Simple Copy-Paste (Ghiasi et al. 2021, arXiv 2012.07177): both images are placed at random, each on its own; each object
of the second one is pasted with a probability of 1/2, without blending. Pasted pixels hide what they cover.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from mrcnn_tf.config import Config, DataConfig
from mrcnn_tf.config.schema import AugmentConfig
from mrcnn_tf.input import color, geometry, images, samples, transforms, visibility
from mrcnn_tf.input.geometry import Placement
from mrcnn_tf.input.transforms import Sample

# Positions of seeds. They are below 0 because transforms count from 0.
_PLACEMENT, _PLACEMENT_OF_PASTED, _CUTOUT, _PASTE, _COLOR = range(-5, 0)
_PASTED = 0.5        # probability of an object


class Source(NamedTuple):
    """A record as a source of pixels and objects."""
    record: samples.Record       # with at most G objects; with masks if objects are pasted
    resized: tf.Tensor           # int32 [2], to which the image is resized without augmentation
    name: tf.Tensor              # string [], what an error calls the image


def reads_masks(rule: AugmentConfig, any_masks: bool) -> bool:
    """Return whether augmentation needs masks even if the model does not; any_masks: the set has some."""
    return rule.copy_paste > 0 or rule.turns and any_masks


def augment(source: Source, pasted: Source | None, canvas: tf.Tensor | list[int], config: Config,
            seed: tf.Tensor) -> Sample:
    """Return an augmented image with its objects and proposals.

    Args:
        source: the image.
        pasted: the image whose objects are pasted; None without copy-paste.
        canvas: height and width; the result is at most as large.
        config: the function reads `data`, and `model.pixel_mean`, which fills where there is no image.
        seed: int64 [2], of the image.
    """
    data, rule, fill = config.data, config.data.augment, _fill(config)
    placement = _placement(source, canvas, data, transforms.step_seed(seed, _PLACEMENT))
    paste: _Paste | None = None
    if pasted is not None:
        paste = _sample_paste(source, pasted, placement, canvas, data, seed)
        placement = placement._replace(shape=paste.placement.shape)
    image = geometry.place_image(samples.decode_image(source.record, source.name), placement, data.antialias, fill)
    holes = _holes(placement.shape, rule, transforms.step_seed(seed, _CUTOUT)) if rule.cutout else None
    hidden = holes
    if pasted is not None and paste is not None:
        image, covered, added = _pasted_objects(image, pasted, paste, holes, config)
        hidden = covered if holes is None else covered | holes
    sample = _objects(source, placement, data, hidden)
    if pasted is not None:
        sample = _joined(sample, added)
    if holes is not None:
        image = tf.where(holes[..., None], fill, image)
    return color.jitter(sample._replace(image=image), transforms.step_seed(seed, _COLOR), rule)


class _Paste(NamedTuple):
    """Which objects are pasted, and where."""
    placement: Placement         # of the image that they come from; with the shape of the result
    chosen: tf.Tensor            # bool [n], of the objects of that image


def _fill(config: Config) -> tf.Tensor:
    """Return the color, RGB, that normalization turns to zeros, as it does the padding."""
    model = config.model
    return tf.constant(model.pixel_mean if model.channel_order == 'rgb' else model.pixel_mean[::-1], tf.float32)


def _placement(source: Source, canvas: tf.Tensor | list[int], data: DataConfig, seed: tf.Tensor) -> Placement:
    return geometry.sample_placement(samples.original_size(source.record), source.resized, canvas, data, seed)


def _sample_paste(source: Source, pasted: Source, placement: Placement, canvas: tf.Tensor | list[int],
                  data: DataConfig, seed: tf.Tensor) -> _Paste:
    """Return random objects to paste, as many as there are free slots of the batch, or none."""
    record = pasted.record
    count = tf.shape(record['boxes'])[0]
    numbers = transforms.uniform(transforms.step_seed(seed, _PASTE), 1 + count)
    wanted = (numbers[0] < data.augment.copy_paste) & (numbers[1:] < _PASTED) & record['has_mask'] & ~record['crowd']
    # An object that is pasted without a slot would become background.
    free = data.max_objects - tf.shape(source.record['boxes'])[0]
    chosen = wanted & (tf.cumsum(tf.cast(wanted, tf.int32)) <= free)
    theirs = _placement(pasted, canvas, data, transforms.step_seed(seed, _PLACEMENT_OF_PASTED))
    shape = tf.where(tf.reduce_any(chosen), tf.maximum(placement.shape, theirs.shape), placement.shape)
    return _Paste(theirs._replace(shape=shape), chosen)


def _pasted_objects(image: tf.Tensor, pasted: Source, paste: _Paste, holes: tf.Tensor | None, config: Config
                    ) -> tuple[tf.Tensor, tf.Tensor, Sample]:
    """Return the image with the pasted pixels, which pixels they are, bool [oh, ow], and the pasted objects."""
    record, placement, data = pasted.record, paste.placement, config.data
    keys = ('boxes', 'labels', 'crowd', 'masks', 'has_mask')
    chosen = {**record, **{key: tf.boolean_mask(record[key], paste.chosen) for key in keys}}
    chosen.pop('proposals', None)

    def draw() -> tuple[tf.Tensor, tf.Tensor]:
        pixels = samples.decode_image(record, pasted.name)
        theirs = geometry.place_image(pixels, placement, data.antialias, _fill(config))
        union = tf.foldl(lambda mask, png: tf.maximum(mask, images.decode_mask(png, placement.size, pasted.name)),
                         chosen['masks'], tf.zeros(tf.concat([placement.size, [1]], axis=0), tf.uint8))
        covered = geometry.warp(tf.cast(union, tf.float32), placement.matrix(), placement.shape)[:, :, 0] >= .5
        return tf.where(covered[..., None], theirs, image), covered

    def leave() -> tuple[tf.Tensor, tf.Tensor]:
        return image, tf.zeros(placement.shape, tf.bool)

    drawn, covered = tf.cond(tf.reduce_any(paste.chosen), draw, leave)
    return drawn, covered, _objects(pasted._replace(record=chosen), placement, data, holes)


def _objects(source: Source, placement: Placement, data: DataConfig, hidden: tf.Tensor | None) -> Sample:
    """Return the objects and proposals of a placed image, with a placeholder for the image."""
    record, least = source.record, data.augment.min_visible
    if 'masks' in record:
        placed = visibility.place_masks(record, placement, data.mask_size, source.name, hidden)
    else:
        placed = visibility.place_boxes(record['boxes'], placement, hidden)
    crowd = record['crowd'] | (placed.visible < least)
    sample = Sample(tf.zeros([0, 0, 3]), placed.boxes, record['labels'], crowd, placed.masks, record.get('has_mask'))
    sample = sample.keep(placed.visible > 0)
    if 'proposals' not in record:
        return sample
    proposals = visibility.place_boxes(record['proposals'], placement)
    left = (proposals.visible > 0) & (proposals.visible >= least)
    return sample._replace(proposals=tf.boolean_mask(proposals.boxes, left))


def _joined(first: Sample, second: Sample) -> Sample:
    """Return the objects of both samples, with the image of the first."""
    fields = {name: tf.concat([getattr(first, name), getattr(second, name)], axis=0)
              for name in ('boxes', 'labels', 'crowd', 'masks', 'has_mask')}
    return first._replace(**fields)


def _holes(shape: tf.Tensor, rule: AugmentConfig, seed: tf.Tensor) -> tf.Tensor:
    """Return random squares, bool [oh, ow]; their centers are in the image, and their sides may exceed it."""
    middles = tf.reshape(transforms.uniform(seed, 2 * rule.cutout), [-1, 2, 1]) * tf.cast(shape, tf.float32)[:, None]
    half = rule.cutout_side * tf.cast(tf.reduce_min(shape), tf.float32) / 2
    rows, columns = (tf.abs(geometry.centers(0, shape[axis]) - middles[:, axis]) < half for axis in (0, 1))
    return tf.reduce_any(rows[:, :, None] & columns[:, None, :], axis=0)

"""Shards to batches: training without end and evaluation of each image once, both of static shapes; ground truths.

B images of a batch, H, W their canvas, G object slots, S side of a mask crop, K classes; n objects of a record. The
Batch (keys, types, shapes) is in ARCHITECTURE.md. `manifest` is always the path of a NAME.json.

What fixes a batch is `train.seed` and the number of the step: each record has a number that counts from the first step
over all epochs and workers, and its short side and flips are drawn from the seed and that number alone.
"""
from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import Config, ConfigError
from mrcnn_tf.input import decoding, images, records, transforms
from mrcnn_tf.input.manifest import Manifest

_log = logging.getLogger(__name__)

# Shards read side by side. A fixed number: the automatic one depends on the machine, and the order would with it.
_READERS = 8
_BATCHES_AHEAD = 2
_OPTIONAL = ('masks', 'proposals')    # keys of a batch that it holds only where a model needs them
_FILLER = -1      # number of what fills up the last batch of an evaluation
# The functions of the graph have no Python branches on tensors: AutoGraph would bring nothing and take seconds.
_in_graph = tf.autograph.experimental.do_not_convert
# What the assertions of this package say of an image; TensorFlow puts its own words around it.
_ASSERTION = re.compile(r'assertion failed: \[(.*: image -?\d+: .*)\]')

PathLike = str | os.PathLike[str]


class InputError(ValueError):
    """Records that cannot be used; the message is one line: the file, the record or image, the remedy."""


class Survey(NamedTuple):
    """What training makes of a set."""
    images: int           # in the shards
    usable: int           # are trained on
    cut_images: int       # usable, with more than G objects
    cut_objects: int      # beyond the G that are kept
    crowds_only: tuple[int, ...] = ()     # labels of which every object is a crowd


def training_dataset(manifest: PathLike, config: Config, start_step: int = 0, shard: tuple[int, int] = (0, 1),
                     needs: Collection[str] | None = None) -> tf.data.Dataset:
    """Batches without end, of one worker: each usable record once an epoch over all workers, in a new order each epoch.

    Images without an object other than crowds are left out unless `data.keep_empty`; of more than `data.max_objects`
    objects the largest are kept, crowds last. Both are counted and logged. A batch is always full and of one canvas.

    Args:
        manifest: path of the manifest.
        config: `data`, `model.num_classes` and `train.seed` matter.
        start_step: go on as after so many steps. With one canvas the batches are exactly those of an uninterrupted
            run. With several, records go on at the same place; fewer than B a canvas and worker, those that waited for
            their batch to fill, are left out of this epoch, and as many come twice.
        shard: (index, count) of the worker; it gets `data.batch_size` / count images a step.
        needs: the optional keys that the batch holds, of 'masks' and 'proposals'; None: `config.model.needs`.

    Returns:
        Dataset of the Batch dict, B = data.batch_size / count. With one canvas every shape is static, with several H
        and W of `images` are None.

    Raises:
        ManifestError, ConfigError, InputError: the manifest, the settings, or both together cannot be used. While
            iterating, tf.errors.OpError, which `readable` explains.
    """
    index, workers = shard
    if config.data.batch_size % workers:
        raise ConfigError(f'data.batch_size is {config.data.batch_size}: expected a multiple of the {workers} workers')
    recipe = _recipe(manifest, config, needs, training=True)
    usable = _count_usable(recipe)
    start = start_step * config.data.batch_size
    stream = tf.data.Dataset.counter(start // usable).flat_map(functools.partial(_epoch, recipe))
    stream = stream.skip(start % usable).enumerate(start).shard(workers, index)
    return _batches(recipe, stream, config.data.batch_size // workers)


def check(manifest: PathLike, config: Config, needs: Collection[str] | None = None, training: bool = True) -> None:
    """Raise what `training_dataset` or `evaluation_dataset` raises for a set that does not fit the settings.

    Reads the manifest only, no record.
    """
    _recipe(manifest, config, needs, training)


def evaluation_dataset(manifest: PathLike, config: Config, batch_size: int, fixed_canvases: bool = False,
                       needs: Collection[str] | None = None) -> tf.data.Dataset:
    """Batches that hold every image once, in the order of the shards (of each canvas), at the size for tests.

    The canvas is each image's own size, rounded up to `data.pad_multiple`: images of equal canvases share a batch. The
    last batch of each canvas is filled up with zeros whose `image_valid` is False. Metrics compare predictions with
    `ground_truth`, so the batches hold masks only on demand: for the losses of `fit(validation_data=...)`.

    Args:
        manifest: path of the manifest.
        config: `data` and `model.num_classes` matter.
        batch_size: B.
        fixed_canvases: for the 'xla' engine: an image goes to the smallest of `data.canvases` that holds it, and
            `padded_sizes` says which canvas would be its own.
        needs: the optional keys that the batch holds, of 'masks' and 'proposals'; None: those of `config.model.needs`
            without 'masks'.

    Returns:
        Finite dataset of the Batch dict. H and W are None, unless there is one fixed canvas.

    Raises: as `training_dataset`.
    """
    recipe = _recipe(manifest, config, needs, training=False, fixed_canvases=fixed_canvases)
    return _batches(recipe, tf.data.TFRecordDataset(recipe.files).enumerate(), batch_size)


def ground_truth(manifest: PathLike) -> Iterator[dict[str, Any]]:
    """Annotations of each image in the order of the shards, all objects of it.

    Yields:
        image_id, height, width (int, px), source_id (the data set's, a text) and, n objects: boxes float32 [n, 4] (px
        of the file), labels int32 [n], crowd bool [n], area float32 [n] (px^2), annotation_ids int64 [n]; where the
        set has masks, masks, a list of n PNG of the whole image, and has_mask bool [n]; where it has proposals,
        proposals float32 [m, 4] (px of the file), best first.

    Raises:
        ManifestError: the manifest cannot be used.
        InputError: a damaged shard or record.
    """
    described = Manifest.read(manifest)
    dataset = tf.data.TFRecordDataset(described.shard_paths(manifest)).map(
        functools.partial(_annotations, with_masks=described.has_masks, with_proposals=described.has_proposals),
        num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    try:
        for truth in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            yield {**truth, **{key: int(truth[key]) for key in ('image_id', 'height', 'width')},
                   'source_id': truth['source_id'].decode(errors='backslashreplace'),
                   **({'masks': list(truth['masks'])} if described.has_masks else {})}
    except tf.errors.OpError as error:
        raise readable(error, manifest) from error


def survey(manifest: PathLike, config: Config) -> Survey:
    """Counts what `training_dataset` leaves out or learns nothing of, in one pass that decodes no image.

    Raises:
        ManifestError: the manifest cannot be used.
        InputError: a damaged shard or record.
    """
    described = Manifest.read(manifest)
    labels = len(described.categories) + 1

    def of_labels(record: dict[str, tf.Tensor], counted: tf.Tensor) -> tf.Tensor:
        """How many objects of each label are counted, int64 [K + 1]."""
        return tf.math.bincount(tf.boolean_mask(record['labels'], counted), minlength=labels, maxlength=labels,
                                dtype=tf.int64)

    @_in_graph
    def count(serialized: tf.Tensor) -> tf.Tensor:
        record = records.parse(serialized, with_masks=False)
        usable = tf.cast(config.data.keep_empty | _has_target(record), tf.int64)
        beyond = usable * tf.maximum(tf.size(record['labels'], tf.int64) - config.data.max_objects, 0)
        images = tf.stack([1, usable, tf.cast(beyond > 0, tf.int64), beyond])
        return tf.concat([images, of_labels(record, record['crowd']), of_labels(record, ~record['crowd'])], axis=0)

    counts = tf.data.TFRecordDataset(described.shard_paths(manifest)).map(count, num_parallel_calls=tf.data.AUTOTUNE)
    try:
        images, crowds, others = np.split(counts.reduce(np.zeros(4 + 2 * labels, np.int64), tf.add).numpy(),
                                          [4, 4 + labels])
    except tf.errors.OpError as error:
        raise readable(error, manifest) from error
    crowds_only = tuple(np.flatnonzero((crowds > 0) & (others == 0)).tolist())
    return Survey(*images.tolist())._replace(crowds_only=crowds_only)


def readable(error: tf.errors.OpError, manifest: PathLike) -> Exception:
    """What to raise instead of an error that came up while batches of `manifest` were read.

    Where TensorFlow does not tell which record is damaged, it is looked for: a pass that decodes all up to it.

    Returns:
        InputError that names the shard and record, or the image; ManifestError where a shard is gone; `error` itself
        where the records are not at fault.
    """
    told = _told(error)
    if told:
        return InputError(told)
    if not isinstance(error, (tf.errors.InvalidArgumentError, tf.errors.DataLossError, tf.errors.NotFoundError)):
        return error
    if isinstance(error, tf.errors.InvalidArgumentError) and 'GetNext' not in str(error):
        return error    # of the model's arithmetic, not of the iterator
    try:
        described = Manifest.read(manifest)
    except ValueError as changed:
        return changed
    _log.warning('%s: looking for the damaged record', manifest)
    found = (_damage(manifest, file, described.has_masks) for file in described.shard_paths(manifest))
    return next((damage for damage in found if damage), error)


@dataclass(frozen=True)
class _Recipe:
    """How a record becomes an entry of a batch."""
    manifest: PathLike
    described: Manifest
    config: Config
    needs: frozenset[str]     # optional keys of the batch
    training: bool
    fixed_canvases: bool = True

    @property
    def files(self) -> list[str]:
        return self.described.shard_paths(self.manifest)

    def seed(self, number: tf.Tensor) -> tf.Tensor:
        """int64 [2] of the record with this number."""
        return tf.stack([tf.constant(self.config.train.seed, tf.int64), number])

    def shape(self, record: dict[str, tf.Tensor], number: tf.Tensor) -> tf.Tensor:
        """int32 [2], what the record's image is resized to."""
        data, size = self.config.data, _size(record)
        if not self.training:
            return images.inference_shape(size, data)
        short_side = transforms.random_side(self.seed(number), data.short_sides)
        return images.resized_shape(size[0], size[1], short_side, data.long_side, data.round_sides)

    @property
    def only_canvas(self) -> list[int] | None:
        """Height and width of the canvas of all images, where there is but one."""
        canvases = self.config.data.canvases
        return list(canvases[0]) if self.fixed_canvases and len(canvases) == 1 else None

    def canvas(self, shape: tf.Tensor) -> tf.Tensor:
        """int32 [2], the canvas of an image resized to `shape`."""
        data = self.config.data
        return images.choose_canvas(shape, data.canvases) if self.fixed_canvases else (
            images.own_canvas(shape, data.pad_multiple))


def _recipe(manifest: PathLike, config: Config, needs: Collection[str] | None, training: bool,
            fixed_canvases: bool = True) -> _Recipe:
    if fixed_canvases:
        images.check_canvases(config.data, training)
    needs = _needs(config, needs, training)
    described = Manifest.read(manifest)
    classes = len(described.categories)
    if described.counts.images == 0:
        raise InputError(f'{manifest}: holds no images; convert annotations that have some')
    if classes > config.model.num_classes:
        raise InputError(f'{manifest}: has {classes} categories and model.num_classes is {config.model.num_classes}; '
                         f'set model.num_classes={classes}')
    if 'masks' in needs and described.counts.objects and not described.any_masks:
        raise InputError(f'{manifest}: its objects have no masks; convert annotations with masks or set '
                         'model.kind=faster_rcnn')
    if 'proposals' in needs and not described.has_proposals:
        raise InputError(f'{manifest}: its records have no proposals; attach some with `mrcnn convert proposals`, or '
                         'set model.kind=faster_rcnn')
    recipe = _Recipe(manifest, described, config, needs, training, fixed_canvases)
    _check_exif(recipe)
    return recipe


def _needs(config: Config, needs: Collection[str] | None, training: bool) -> frozenset[str]:
    if needs is None:
        return frozenset(config.model.needs) - frozenset(() if training else ('masks',))
    if unknown := sorted(set(needs) - set(_OPTIONAL)):
        raise InputError(f'needs: {unknown[0]!r} is not an optional key of a batch; give some of '
                         f'{", ".join(_OPTIONAL)}')
    return frozenset(needs)


def _check_exif(recipe: _Recipe) -> None:
    """Refuse to train on photographs turned by another rule than those to predict on; warn of it in an evaluation."""
    exif = recipe.config.data.exif
    if count := recipe.described.turned_otherwise(exif):
        was = {'apply': 'ignore', 'ignore': 'apply'}[exif]
        text = (f'{recipe.manifest}: it was converted with --exif {was} and has {count} photographs that EXIF says to '
                f'turn, while predict and export see such photographs by data.exif={exif}')
        if recipe.training:
            raise InputError(f'{text}; set data.exif={was}, or convert it again with --exif {exif}')
        _log.warning('%s', text)


def _count_usable(recipe: _Recipe) -> int:
    """Records trained on in an epoch; logs what is left out. Reads the records only where the manifest cannot tell."""
    data, described = recipe.config.data, recipe.described
    counts = described.counts
    found = Survey(counts.images, counts.images - (0 if data.keep_empty else counts.images_without_objects), 0, 0)
    # The manifest does not tell which images and classes have crowds alone.
    if described.max_objects_per_image > data.max_objects or counts.crowds:
        found = survey(recipe.manifest, recipe.config)
    if found.usable == 0:
        raise InputError(f'{recipe.manifest}: no image has an object to train on; annotate objects that are not crowds')
    _log_left_out(recipe, found)
    return found.usable


def _log_left_out(recipe: _Recipe, found: Survey) -> None:
    if found.usable < found.images:
        _log.warning('%s: %d of %d images have no object and are left out (data.keep_empty=true trains on them)',
                     recipe.manifest, found.images - found.usable, found.images)
    if found.cut_objects:
        _log.warning('%s: %d objects beyond data.max_objects=%d in %d images are left out, the smallest ones',
                     recipe.manifest, found.cut_objects, recipe.config.data.max_objects, found.cut_images)
    counts = recipe.described.counts
    if 'masks' in recipe.needs and counts.objects_without_mask:
        _log.warning('%s: %d of %d objects have a box and no mask: they train the boxes and have no mask loss',
                     recipe.manifest, counts.objects_without_mask, counts.objects)
    if found.crowds_only:
        names = [recipe.described.categories[label - 1].name for label in found.crowds_only]
        _log.warning('%s: all objects of %s are crowds, so no detection of that class is learnt', recipe.manifest,
                     ', '.join(map(repr, names)))


@_in_graph
def _epoch(recipe: _Recipe, epoch: tf.Tensor) -> tf.data.Dataset:
    """Serialized usable records, each once, in the order of this epoch."""
    seed, data = recipe.config.train.seed, recipe.config.data
    files = tf.random.experimental.stateless_shuffle(
        tf.constant(recipe.files), tf.stack([tf.constant(seed, tf.int64), epoch]), alg='philox')
    dataset = tf.data.Dataset.from_tensor_slices(files).interleave(
        tf.data.TFRecordDataset, cycle_length=_READERS, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    if not data.keep_empty:
        dataset = dataset.filter(lambda serialized: _has_target(records.parse(serialized, with_masks=False)))
    return _shuffle(dataset, data.shuffle_buffer, seed, epoch)


def _shuffle(dataset: tf.data.Dataset, buffer: int, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
    # Dataset.shuffle would mix in tf.random.set_seed, and the order would depend on who called it before.
    spec = dataset.element_spec
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset), buffer_size=tf.constant(max(1, buffer), tf.int64),
        seed=tf.constant(seed, tf.int64), seed2=epoch + 1,      # two zeros would mean: at random
        output_types=[spec.dtype], output_shapes=[spec.shape], reshuffle_each_iteration=False)
    return tf.data.experimental.from_variant(shuffled, spec)


def _has_target(record: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.reduce_any(~record['crowd'])


@_in_graph
def _batches(recipe: _Recipe, stream: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Numbered serialized records to batches; records wait for their batch serialized, before they grow large."""
    def choose(number: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        if recipe.only_canvas:
            return tf.constant(recipe.only_canvas), number, serialized
        shape = recipe.shape(records.parse(serialized, with_masks=False), number)
        return recipe.canvas(shape), number, serialized

    def fill(_: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        filler = tf.constant(_FILLER, tf.int64)
        fillers = window.take(1).map(lambda canvas, number, serialized: (canvas, filler, serialized)).repeat()
        return window.concatenate(fillers).take(batch_size)

    dataset = stream.map(choose, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # The key is one number, int64: height and width of the canvas.
    dataset = dataset.group_by_window(
        lambda canvas, *_: tf.reduce_sum(tf.cast(canvas, tf.int64) * [1 << 32, 1]), fill, window_size=batch_size)
    dataset = dataset.map(functools.partial(_entry_or_filler, recipe),
                          num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    # The workers' parts are made here; sharding by a strategy would drop records.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.batch(batch_size, drop_remainder=True).prefetch(_BATCHES_AHEAD).with_options(options)


def _entry_or_filler(recipe: _Recipe, canvas: tf.Tensor, number: tf.Tensor, serialized: tf.Tensor,
                     ) -> dict[str, tf.Tensor]:
    entry = _entry(recipe, recipe.only_canvas or canvas, number, serialized)
    return tf.cond(tf.equal(number, _FILLER), lambda: tf.nest.map_structure(tf.zeros_like, entry), lambda: entry)


def _entry(recipe: _Recipe, canvas: list[int] | tf.Tensor, number: tf.Tensor, serialized: tf.Tensor,
           ) -> dict[str, tf.Tensor]:
    """One image of a Batch, without the dimension B."""
    data = recipe.config.data
    record = records.parse(serialized, 'masks' in recipe.needs, 'proposals' in recipe.needs)
    name = _name(recipe.manifest, record)
    _check_labels(record, recipe.config.model.num_classes, name)
    objects = _largest(record, data.max_objects)
    sample = _sample(record, objects, data.mask_size, name)
    if 'proposals' in recipe.needs:                                               # they move as boxes do
        sample = sample._replace(boxes=tf.concat([sample.boxes, record['proposals'][:data.max_proposals]], axis=0))
    sample = transforms.resize(sample, recipe.shape(record, number), data.antialias)
    if recipe.training:
        sample = transforms.random_flips(sample, recipe.seed(number), data.flip_horizontal, data.flip_vertical)
    boxes, proposals = tf.split(sample.boxes, [tf.size(objects['labels']), -1])
    slots = {'boxes': boxes, 'labels': objects['labels'], 'crowd': objects['crowd'],
             'valid': tf.ones_like(objects['crowd'])}
    if sample.masks is not None:
        slots |= {'masks': sample.masks, 'has_mask': objects['has_mask']}
    regions = {'proposals': proposals, 'proposals_valid': tf.ones_like(proposals[:, 0], tf.bool)}
    own_canvas = {} if recipe.training or not recipe.fixed_canvases else {
        'padded_sizes': tf.cast(images.own_canvas(tf.shape(sample.image)[:2], data.pad_multiple), tf.float32)}
    return {
        **images.batch_entry(sample.image, canvas, _size(record), record['image_id']),
        **own_canvas,
        **{key: _pad_slots(value, data.max_objects) for key, value in slots.items()},
        **{key: _pad_slots(value, data.max_proposals) for key, value in regions.items() if 'proposals' in recipe.needs},
    }


def _sample(record: dict[str, tf.Tensor], objects: dict[str, tf.Tensor], mask_size: int, name: tf.Tensor,
            ) -> transforms.Sample:
    """The image as it is in the file, with the objects given."""
    image = decoding.decode(record['encoded'], name)
    shape, found = _size(record), tf.shape(image)[:2]
    tf.debugging.Assert(tf.reduce_all(shape == found), [tf.strings.join(
        [name, ': is ', images.size_text(found), ', its record says ', images.size_text(shape),
         '; convert it again'])])
    if 'masks' not in objects:
        return transforms.Sample(image, objects['boxes'])
    masks = images.crop_masks(objects['masks'], objects['boxes'], shape, mask_size, name)
    return transforms.Sample(image, objects['boxes'], masks)


def _size(record: dict[str, tf.Tensor]) -> tf.Tensor:
    """Return height and width of the file, int32 [2]."""
    return tf.stack([record['height'], record['width']])


def _largest(record: dict[str, tf.Tensor], limit: int) -> dict[str, tf.Tensor]:
    """The features of at most `limit` objects: by area, crowds after all others; in the order of the record."""
    # Below 0 and rising with the area: crowds come last, the largest of them first.
    rank = tf.where(record['crowd'], -1 / (1 + record['area']), record['area'])
    kept = tf.sort(tf.argsort(rank, direction='DESCENDING', stable=True)[:limit])
    return {key: tf.gather(record[key], kept) for key in ('boxes', 'labels', 'crowd', 'masks', 'has_mask')
            if key in record}


def _pad_slots(values: tf.Tensor, slots: int) -> tf.Tensor:
    """[n, ...] -> [G, ...], zeros (False) in the slots without an object."""
    padding = [[0, slots - tf.shape(values)[0]], *[[0, 0]] * (values.shape.rank - 1)]
    return tf.ensure_shape(tf.pad(values, padding), [slots, *values.shape[1:]])


def _check_labels(record: dict[str, tf.Tensor], classes: int, name: tf.Tensor) -> None:
    wrong = tf.boolean_mask(record['labels'], (record['labels'] < 1) | (record['labels'] > classes))
    tf.debugging.Assert(tf.size(wrong) == 0, [tf.strings.join(
        [name, ': label ', tf.strings.reduce_join(tf.strings.as_string(wrong[:1])),
         f', expected 1..{classes}; set model.num_classes or convert it again'])])


def _name(manifest: PathLike, record: dict[str, tf.Tensor]) -> tf.Tensor:
    """What messages call an image."""
    return tf.strings.join([f'{manifest}: image ', tf.strings.as_string(record['image_id'])])


@_in_graph
def _annotations(serialized: tf.Tensor, with_masks: bool, with_proposals: bool) -> dict[str, tf.Tensor]:
    record = records.parse(serialized, with_masks, with_proposals)
    return {key: value for key, value in record.items() if key != 'encoded'}


def _damage(manifest: PathLike, file: str, has_masks: bool) -> InputError | None:
    """What is wrong with the first record of a shard that cannot be used, None where all can."""
    @_in_graph
    def probe(serialized: tf.Tensor) -> transforms.Sample:
        record = records.parse(serialized, has_masks)
        return _sample(record, record, mask_size=1, name=_name(manifest, record))

    good = 0
    dataset = tf.data.TFRecordDataset(file)
    try:
        for _ in dataset.map(probe, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True):
            good += 1
    except tf.errors.DataLossError:
        return InputError(f'{file}: record {good} (from 0) is damaged: its checksum or length is wrong; '
                          'copy the shard again or convert the data again')
    except tf.errors.InvalidArgumentError as error:
        return InputError(f'{file}: record {good} (from 0){_image_id(dataset, good)}: {_reason(error)}; '
                          'mend the image and convert the data again')
    return None


def _told(error: tf.errors.OpError) -> str:
    """The words of this package's assertion, empty where it was none."""
    found = _ASSERTION.search(error.message or '')
    return re.sub(r'\\([\'"\\])', r'\1', found.group(1)) if found else ''    # TensorFlow escapes quotes


def _image_id(dataset: tf.data.Dataset, index: int) -> str:
    """' = image 42' of the record with this index, nothing where the record cannot be parsed."""
    try:
        record = records.parse(next(iter(dataset.skip(index))), with_masks=False)
    except tf.errors.InvalidArgumentError:
        return ''
    return f' = image {int(record["image_id"])}'


def _reason(error: tf.errors.OpError) -> str:
    """TensorFlow's message without the names of its nodes."""
    told = _told(error)
    if told:
        return told.partition(': image ')[2].partition(': ')[2]
    line = re.sub(r'\{\{.*?\}\}|\[Op:.*', '', error.message.split('\n')[0])
    return line.rpartition('Iterator::')[2].partition(': ')[2] if 'Iterator::' in line else line.strip()

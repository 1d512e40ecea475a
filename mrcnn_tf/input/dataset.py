"""From shards to batches: an endless dataset for training, and one that holds each image once for evaluation.

B images of a batch, H, W their canvas, G object slots, S side of a mask crop. ARCHITECTURE.md lists the keys, types and
shapes of a Batch. `manifest` is always the path of a NAME.json.

`train.seed` and the number of the step determine a batch. Each record has a number, counted from the first step over
all epochs and workers; its short side, its flips and all other random numbers depend on the seed and that number alone.
Copy-paste takes objects of the next record. A record is a serialized string [], or with copy-paste, string [2]: it and
the next one. Before it is read, it may be the number of its place in the set, int64 instead of string.
"""
from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import Config, ConfigError
from mrcnn_tf.input import augmentation, images, records, samples, transforms
from mrcnn_tf.input.index import Index
from mrcnn_tf.input.recipe import Recipe, recipe_of
from mrcnn_tf.input.record_table import read_table
from mrcnn_tf.input.survey import count_usable, has_target
from mrcnn_tf.input.transforms import Transform
from mrcnn_tf.input.tuning import PARALLEL, untuned

# Shards that are read in parallel. The automatic number depends on the machine, and the order of records would too.
_READERS = 8
_IN_ORDER = {'cycle_length': _READERS, 'num_parallel_calls': _READERS, 'deterministic': True}    # of `interleave`
_BATCHES_AHEAD = 2
_REPLAYED = 4096     # records whose canvases are computed together
_FILLER = -1      # number of the entries that fill up the last batch of an evaluation
# The functions of the graph have no Python branches on tensors. AutoGraph would convert nothing, and take seconds.
_in_graph = tf.autograph.experimental.do_not_convert

PathLike = str | os.PathLike[str]


def training_dataset(manifest: PathLike, config: Config, start_step: int = 0, shard: tuple[int, int] = (0, 1),
                     needs: Collection[str] | None = None, transforms: Sequence[Transform] = ()) -> tf.data.Dataset:
    """Return an endless dataset of training batches: each epoch holds every usable record once, in a new order.

    Images whose only objects are crowds, and images without objects, are left out unless `data.keep_empty`. Images with
    more than `data.max_objects` objects keep the largest ones, crowds last. Both are counted and logged. Each batch is
    full, and all its images are on the same canvas.

    Args:
        manifest: path of the manifest.
        config: the function reads `data`, `model.num_classes`, `model.needs` and `train.seed`.
        start_step: number of steps to skip. The batches are exactly those of an uninterrupted run. With several
            canvases, those of all skipped records are computed again, to find the records that wait for their batch to
            fill.
        shard: (index, count) of the worker, which gets `data.batch_size` / count images per step.
        needs: the optional keys that a batch holds, of 'masks' and 'proposals'; None: `config.model.needs`.
        transforms: augmentations of your own, see `mrcnn_tf.input.transforms`, applied in order after resizing,
            flipping and `data.augment`. They may drop objects and proposals, and return a smaller image.

    Returns:
        Dataset of the Batch dict, B = data.batch_size / count. With one canvas every shape is static. With several, H
        and W of `images` are None.

    Raises:
        ManifestError, ConfigError, InputError: the manifest or the settings cannot be used, or not together. While
            iterating, tf.errors.OpError, which `damage.explain` explains.

    Example:
        >>> import mrcnn_tf as m
        >>> config = m.load_config('mine.yaml')
        >>> batch = next(iter(m.training_dataset('data/train.json', config)))
        >>> batch['images'].shape, batch['boxes'].shape
        (TensorShape([4, 64, 64, 3]), TensorShape([4, 2, 4]))
    """
    recipe = recipe_of(manifest, config, needs, training=True, own_transforms=tuple(transforms))
    return _training_parts(recipe, start_step, shard, [PARALLEL])[0]


def training_parts(manifest: PathLike, config: Config, start_step: int = 0, shard: tuple[int, int] = (0, 1),
                   needs: Collection[str] | None = None, cores: Sequence[int] = (PARALLEL,)) -> list[tf.data.Dataset]:
    """Return the batches of `training_dataset` in P datasets, for P machines: dataset i holds batch i, i + P, ...

    They are for the training step, which takes `images` of whole numbers as uint8: a quarter of the bytes to move.

    Args:
        manifest, config, start_step, shard, needs: as of `training_dataset`.
        cores: of each of the P machines; by default, this one alone.

    Raises: as `training_dataset`.
    """
    recipe = dataclasses.replace(recipe_of(manifest, config, needs, training=True), compact=True)
    return _training_parts(recipe, start_step, shard, cores)


def evaluation_dataset(manifest: PathLike, config: Config, batch_size: int, fixed_canvases: bool = False,
                       needs: Collection[str] | None = None, images: int | None = None) -> tf.data.Dataset:
    """Return a finite dataset that holds every image once at its test size, in the order of the shards.

    The canvas is each image's own size, rounded up to `data.pad_multiple`. Images of equal canvases share a batch, in
    the order of the shards for each canvas. The last batch of each canvas is filled up with zeros, whose `image_valid`
    is False. The batches serve as `validation_data` of `fit`; metrics compare predictions with `ground_truth` instead.

    Args:
        manifest: path of the manifest.
        config: the function reads `data`, `model.num_classes` and `model.needs`.
        batch_size: B.
        fixed_canvases: for the 'xla' engine: an image is padded to the smallest of `data.canvases` that holds it, and
            `padded_sizes` holds the canvas that would be its own.
        needs: the optional keys that a batch holds, of 'masks' and 'proposals'; None: `config.model.needs`.
        images: how many images, those `is_among` chooses; None: all.

    Returns:
        Finite dataset of the Batch dict. H and W are None, unless there is one fixed canvas.

    Raises: as `training_dataset`.

    Example:
        >>> import mrcnn_tf as m
        >>> dataset = m.evaluation_dataset('data/train.json', m.load_config('mine.yaml'), batch_size=8)
        >>> sum(int(batch['image_valid'].numpy().sum()) for batch in dataset)
        16
    """
    recipe = recipe_of(manifest, config, needs, training=False, fixed_canvases=fixed_canvases)
    stream, total = tf.data.TFRecordDataset(recipe.files).enumerate(), recipe.described.counts.images
    if images is not None and images < total:
        stream = stream.filter(_in_graph(lambda number, _: is_among(number, images, total)))
    return _batches(recipe, stream, batch_size)


def is_among(number: Any, images: int, total: int) -> Any:
    """Return whether an image, by its number from 0, is among `images` of `total` that are spread evenly over a set.

    Example:
        >>> [number for number in range(7) if is_among(number, 3, 7)]
        [0, 3, 5]
    """
    return number * images // total != (number - 1) * images // total


def check(manifest: PathLike, config: Config, needs: Collection[str] | None = None, training: bool = True) -> None:
    """Raise what `training_dataset` or `evaluation_dataset` raises for a set that does not fit the settings.

    Reads the manifest only, no record.
    """
    recipe_of(manifest, config, needs, training)


@dataclass(frozen=True)
class _Part:
    """The batches that one of several machines computes: number `index`, `index` + `count`, ..."""
    index: int = 0
    count: int = 1
    cores: int = PARALLEL

    def of(self, stream: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        """Return the elements of this part's batches, of a stream of the elements of all batches."""
        if self.count == 1:
            return stream
        return stream.batch(batch_size, drop_remainder=True).shard(self.count, self.index).unbatch()


def _training_parts(recipe: Recipe, start_step: int, shard: tuple[int, int], cores: Sequence[int]
                    ) -> list[tf.data.Dataset]:
    index, workers = shard
    config, manifest = recipe.config, recipe.manifest
    if config.data.batch_size % workers:
        raise ConfigError(f'data.batch_size is {config.data.batch_size}: expected a multiple of the {workers} workers')
    usable = count_usable(manifest, recipe.described, config, 'masks' in recipe.needs)
    start = start_step * config.data.batch_size
    # With several canvases, records wait for their batch to fill, also when a run stops.
    replays = start_step > 0 and not recipe.only_canvas
    # A single reader from the beginning of an epoch reads all shards from end to end. Otherwise the stream has
    # positions, in the same order, until it is known which of them are needed.
    positions = Index.of(manifest, recipe.described) if (
        workers * len(cores) > 1 or start % usable or replays) else None
    numbered = functools.partial(_numbered, recipe, positions, usable, shard)
    batch_size = config.data.batch_size // workers
    stream = _after(recipe, numbered, shard, start_step * batch_size, batch_size) if replays else numbered(start)
    parts = [_Part(number, len(cores), count) for number, count in enumerate(cores)]
    return [_part(recipe, stream, positions, batch_size, part) for part in parts]


def _numbered(recipe: Recipe, positions: Index | None, usable: int, shard: tuple[int, int], start: int
              ) -> tf.data.Dataset:
    """Return the records of a worker with their numbers, from number `start` on, a multiple of the workers."""
    index, workers = shard
    stream = tf.data.Dataset.counter(start // usable).flat_map(functools.partial(_epoch, recipe, _reader(
        recipe, positions, usable)))
    stream = stream.skip(start % usable)
    if recipe.config.data.augment.copy_paste:
        stream = stream.window(2, shift=1).flat_map(lambda pair: pair.batch(2, drop_remainder=True))
    return stream.enumerate(start).shard(workers, index)


def _after(recipe: Recipe, numbered: Callable[[int], tf.data.Dataset], shard: tuple[int, int], images: int,
           batch_size: int) -> tf.data.Dataset:
    """Return the numbered positions of a worker after batches of so many images: first those that wait for a batch.

    Computes the canvases of all records so far again, of their sizes in the table of the set.
    """
    sizes = read_table(recipe.manifest, recipe.described).sizes

    @_in_graph
    def keyed(number: tf.Tensor, place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        height, width = tf.unstack(tf.constant(sizes)[place[0] if place.shape.rank else place])
        return number, place, _key(recipe.canvas(recipe.shape({'height': height, 'width': width}, number)))

    waiting: dict[int, list[tuple[int, Any]]] = {}     # by canvas
    stream = numbered(0).map(keyed, num_parallel_calls=PARALLEL, deterministic=True).batch(_REPLAYED)
    for block in untuned(stream).as_numpy_iterator():
        for number, place, key in zip(*(column.tolist() for column in block), strict=True):
            of_canvas = waiting.setdefault(key, [])
            of_canvas.append((number, place))
            if len(of_canvas) == batch_size:
                of_canvas.clear()
                images -= batch_size
            if not images:
                following = numbered(number - shard[0] + shard[1])
                left = sorted(each for of_canvas in waiting.values() for each in of_canvas)
                return tf.data.Dataset.from_tensor_slices(tuple(np.array(column) for column in zip(
                    *left, strict=True))).concatenate(following) if left else following
    raise AssertionError('the records are endless')


def _part(recipe: Recipe, stream: tf.data.Dataset, positions: Index | None, batch_size: int, part: _Part
          ) -> tf.data.Dataset:
    """Return the batches of a part, of the numbered records of a worker, which are read if they are positions."""
    if recipe.only_canvas:      # otherwise the records say which of them share a batch
        stream = part.of(stream, batch_size)
    if positions:
        stream = stream.interleave(functools.partial(_read, positions), **_IN_ORDER)
    return _batches(recipe, stream, batch_size, part)


@_in_graph
def _epoch(recipe: Recipe, reader: Callable[[tf.Tensor], tf.data.Dataset], epoch: tf.Tensor) -> tf.data.Dataset:
    """Return the usable records, each once, in the order of this epoch."""
    seed = recipe.config.train.seed
    shards = tf.random.experimental.stateless_shuffle(
        tf.range(len(recipe.files)), tf.stack([tf.constant(seed, tf.int64), epoch]), alg='philox')
    dataset = tf.data.Dataset.from_tensor_slices(shards).interleave(reader, **_IN_ORDER)
    return _shuffle(dataset, recipe.config.data.shuffle_buffer, seed, epoch)


def _reader(recipe: Recipe, positions: Index | None, usable: int) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Return the function from the number of a shard to its usable records: serialized, or with positions numbers."""
    if positions is None:
        files = tf.constant(recipe.files)

        def read(shard: tf.Tensor) -> tf.data.Dataset:
            dataset = tf.data.TFRecordDataset(files[shard])
            return dataset if recipe.config.data.keep_empty else dataset.filter(
                lambda serialized: has_target(records.parse_labels(serialized)))
        return _in_graph(read)
    if usable == recipe.described.counts.images:
        return _in_graph(positions.numbers)
    chosen = tf.constant(read_table(recipe.manifest, recipe.described).has_target)
    return _in_graph(lambda shard: positions.numbers(shard).filter(lambda number: chosen[number]))


@_in_graph
def _read(positions: Index, number: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
    """Return a dataset of one numbered record, read at its position; with copy-paste, `record` is two of them."""
    pair = tf.data.Dataset.from_tensor_slices(record).flat_map(_in_graph(positions.read)).batch(
        2, drop_remainder=True) if record.shape.rank else positions.read(record)
    return pair.map(lambda serialized: (number, serialized))


def _shuffle(dataset: tf.data.Dataset, buffer: int, seed: int, epoch: tf.Tensor) -> tf.data.Dataset:
    # Dataset.shuffle depends on tf.random.set_seed too, so the order would change with whoever called that before.
    spec = dataset.element_spec
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset), buffer_size=tf.constant(max(1, buffer), tf.int64),
        seed=tf.constant(seed, tf.int64), seed2=epoch + 1,      # two zeros mean a random seed
        output_types=[spec.dtype], output_shapes=[spec.shape], reshuffle_each_iteration=False)
    return tf.data.experimental.from_variant(shuffled, spec)


@_in_graph
def _batches(recipe: Recipe, stream: tf.data.Dataset, batch_size: int, part: _Part = _Part()) -> tf.data.Dataset:
    """Return batches of a stream of numbered records, which wait for their batch serialized because they are small."""
    def choose(number: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        if recipe.only_canvas:
            return tf.constant(recipe.only_canvas), number, serialized
        shape = recipe.shape(records.parse_size(_strings(serialized)[0]), number)
        return recipe.canvas(shape), number, serialized

    def fill(_: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        filler = tf.constant(_FILLER, tf.int64)
        fillers = window.take(1).map(lambda canvas, number, serialized: (canvas, filler, serialized)).repeat()
        return window.concatenate(fillers).take(batch_size)

    dataset = stream.map(choose, num_parallel_calls=part.cores, deterministic=True)
    dataset = dataset.group_by_window(
        lambda canvas, *_: _key(canvas), fill, window_size=batch_size)
    if not recipe.only_canvas:
        dataset = part.of(dataset, batch_size)
    dataset = dataset.map(functools.partial(_entry_or_filler, recipe),
                          num_parallel_calls=part.cores, deterministic=True)
    options = tf.data.Options()
    # `shard` divides the records among the workers already; a strategy that shards again would drop some.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return untuned(dataset.batch(batch_size, drop_remainder=True).prefetch(_BATCHES_AHEAD).with_options(options))


def _key(canvas: tf.Tensor) -> tf.Tensor:
    """Return an int64 that combines height and width of a canvas."""
    return tf.reduce_sum(tf.cast(canvas, tf.int64) * [1 << 32, 1])


def _entry_or_filler(recipe: Recipe, canvas: tf.Tensor, number: tf.Tensor, serialized: tf.Tensor) -> samples.Record:
    entry = _entry(recipe, recipe.only_canvas or canvas, number, serialized)
    return tf.cond(tf.equal(number, _FILLER), lambda: tf.nest.map_structure(tf.zeros_like, entry), lambda: entry)


def _entry(recipe: Recipe, canvas: list[int] | tf.Tensor, number: tf.Tensor, serialized: tf.Tensor) -> samples.Record:
    """Return one image of a Batch, without the dimension B."""
    data, seed = recipe.config.data, recipe.seed(number)
    source, *others = (_source(recipe, each, number) for each in _strings(serialized))
    record, resized, name = source
    if recipe.augmented:
        sample = augmentation.augment(source, others[0] if others else None, canvas, recipe.config, seed)
        if 'masks' not in recipe.needs:
            sample = sample._replace(masks=None, has_mask=None)
        sample = transforms.apply(recipe.own_transforms, sample, seed, first=1 + len(recipe.transforms()))
    else:
        sample = samples.decode(record, data.mask_size, name, resized, data.antialias)
        if recipe.uint8_images:      # now: flips and padding then move a quarter of the bytes
            sample = sample._replace(image=tf.cast(sample.image, tf.uint8))
        # The first seed has sampled the short side.
        sample = transforms.apply([*recipe.transforms(), *recipe.own_transforms], sample, seed, first=1)
    if recipe.own_transforms:
        sample = samples.checked(sample, canvas, (data.max_objects, data.max_proposals), name)
    own_canvas = {}
    if recipe.fixed_canvases and not recipe.training:
        shape = tf.shape(sample.image)[:2]
        own_canvas['padded_sizes'] = tf.cast(images.own_canvas(shape, data.pad_multiple), tf.float32)
    entry = images.batch_entry(sample.image, canvas, samples.original_size(record), record['image_id'])
    return {**entry, **own_canvas, **samples.slots(sample, data.max_objects, data.max_proposals)}


def _strings(serialized: tf.Tensor) -> list[tf.Tensor]:
    """Return the record, and with copy-paste the one whose objects are pasted, each string []."""
    return tf.unstack(serialized) if serialized.shape.rank else [serialized]


def _source(recipe: Recipe, serialized: tf.Tensor, number: tf.Tensor) -> augmentation.Source:
    """Return a record with checked labels and at most as many objects and proposals as a batch holds."""
    data = recipe.config.data
    record = records.parse(serialized, recipe.reads_masks, 'proposals' in recipe.needs)
    name = samples.image_name(recipe.manifest, record)
    samples.check_labels(record, recipe.config.model.num_classes, name)
    return augmentation.Source(samples.limit(record, data.max_objects, data.max_proposals),
                               recipe.shape(record, number), name)

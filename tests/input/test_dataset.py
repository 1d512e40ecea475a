"""Batches from real shards: values, order, resuming, workers, what is left out, what is damaged.

The sets here are tiny: image i is grey of value i, so that a batch shows which images it holds and where they lie.
"""
from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mrcnn_tf.config import Config, ConfigError, DataConfig, ModelConfig, TrainConfig
from mrcnn_tf.input import records
from mrcnn_tf.input.dataset import (
    InputError,
    Survey,
    check,
    evaluation_dataset,
    ground_truth,
    readable,
    survey,
    training_dataset,
)
from mrcnn_tf.input.manifest import Category, Counts, Incident, Manifest, ManifestError, Shard, Source
from mrcnn_tf.input.records import Annotated, ObjectAnnotation

Batch = dict[str, np.ndarray]
KEYS = {'images', 'sizes', 'original_sizes', 'image_ids', 'image_valid', 'boxes', 'labels', 'crowd', 'valid'}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


def thing(box: Sequence[float] = (1, 2, 5, 8), label: int = 1, crowd: bool = False, size: tuple[int, int] = (8, 16),
          ) -> ObjectAnnotation:
    """An object whose mask is the upper half of its box."""
    y1, x1, y2, x2 = box
    mask = np.zeros(size)
    mask[int(y1):int(y1 + y2) // 2, int(x1):int(x2)] = 1
    area = (y2 - y1) * (x2 - x1) / 2
    return ObjectAnnotation((y1, x1, y2, x2), label, 'thing', area, crowd, 1000 + label, records.encode_mask(mask))


def picture(number: int, objects: Sequence[ObjectAnnotation] | None = None, size: tuple[int, int] = (8, 16),
            ) -> Annotated:
    pixels = np.full(size, number, np.uint8)
    return Annotated(png(pixels), 'png', f'{number}.png', str(number), number, *size,
                     [thing(size=size)] if objects is None else list(objects))


def write_set(folder: pathlib.Path, pictures: Sequence[Annotated], shards: int = 3, **changes: Any) -> str:
    """Shards and manifest, without the converter; record i goes to shard i modulo `shards`."""
    folder.mkdir(exist_ok=True)
    stated = []
    for index in range(shards):
        path = folder / f'set-{index:05d}-of-{shards:05d}.tfrecord'
        part = pictures[index::shards]
        with tf.io.TFRecordWriter(str(path)) as writer:
            for each in part:
                writer.write(records.encode(each))
        content = path.read_bytes()
        stated.append(Shard(path.name, len(part), len(content), hashlib.sha256(content).hexdigest()))
    objects = [o for each in pictures for o in each.objects]
    without, crowds = sum(not p.objects for p in pictures), sum(o.crowd for o in objects)
    manifest = Manifest(
        'set', [Category(k, 10 * k, f'class {k}') for k in (1, 2)],
        Counts(len(pictures), without, len(objects), crowds), max([0, *(len(p.objects) for p in pictures)]),
        {}, {}, stated, True, Source('coco', 'a.json', 'images'))
    path = folder / 'set.json'
    dataclasses.replace(manifest, **changes).write(path)
    return str(path)


def config(seed: int = 0, classes: int = 2, **data: Any) -> Config:
    settings = {
        'batch_size': 4, 'short_sides': [16], 'long_side': 32, 'test_short_side': 16, 'test_long_side': 32,
        'canvases': [[32, 32]], 'flip_horizontal': 0., 'max_objects': 3, 'mask_size': 4, 'shuffle_buffer': 8, **data}
    return Config(data=DataConfig(**settings), model=ModelConfig(num_classes=classes), train=TrainConfig(seed=seed))


@pytest.fixture(scope='module')
def ten(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images 1 to 10 of 8 x 16 px with one object each, in three shards of 4, 3, 3 records."""
    return write_set(tmp_path_factory.mktemp('ten'), [picture(number) for number in range(1, 11)])


def take(dataset: tf.data.Dataset, count: int) -> list[Batch]:
    return list(dataset.take(count).as_numpy_iterator())


def ids(batches: Sequence[Batch]) -> list[int]:
    return [int(i) for batch in batches for i in batch['image_ids']]


def assert_equal(first: Sequence[Batch], second: Sequence[Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert set(a) == set(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], key)


def test_every_shape_is_static_with_one_canvas(ten: str) -> None:
    spec = training_dataset(ten, config(canvases=[[32, 64]])).element_spec
    shapes = {key: (value.shape.as_list(), value.dtype.name) for key, value in spec.items()}
    assert shapes == {
        'images': ([4, 32, 64, 3], 'float32'), 'sizes': ([4, 2], 'float32'), 'original_sizes': ([4, 2], 'int32'),
        'image_ids': ([4], 'int64'), 'image_valid': ([4], 'bool'), 'boxes': ([4, 3, 4], 'float32'),
        'labels': ([4, 3], 'int32'), 'crowd': ([4, 3], 'bool'), 'valid': ([4, 3], 'bool'),
        'masks': ([4, 3, 4, 4], 'uint8'), 'has_mask': ([4, 3], 'bool')}


def test_values_of_a_batch_by_hand(tmp_path: pathlib.Path) -> None:
    objects = [thing((1, 2, 5, 8), 2), thing((0, 0, 8, 16), 1, crowd=True)]
    path = write_set(tmp_path, [picture(7, objects)], shards=1)
    batch = take(training_dataset(path, config(batch_size=1)), 1)[0]
    expected = np.zeros([1, 32, 32, 3], np.float32)
    expected[0, :16, :32] = 7      # 8 x 16 at twice its size
    np.testing.assert_array_equal(batch['images'], expected)
    np.testing.assert_array_equal(batch['sizes'], [[16, 32]])
    np.testing.assert_array_equal(batch['original_sizes'], [[8, 16]])
    np.testing.assert_array_equal(batch['image_ids'], [7])
    np.testing.assert_array_equal(batch['image_valid'], [True])
    np.testing.assert_array_equal(batch['boxes'], [[[2, 4, 10, 16], [0, 0, 16, 32], [0, 0, 0, 0]]])
    np.testing.assert_array_equal(batch['labels'], [[2, 1, 0]])
    np.testing.assert_array_equal(batch['crowd'], [[False, True, False]])
    np.testing.assert_array_equal(batch['valid'], [[True, True, False]])
    # Rows 1 and 2 of the box's four are inside: cells of one row each. Of 8 rows 0 to 3: cells of two.
    half = np.repeat([255, 255, 0, 0], 4).reshape(4, 4)
    np.testing.assert_array_equal(batch['masks'][0], [half, half, np.zeros([4, 4])])


def test_flips_move_boxes_and_masks_too(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [picture(7)], shards=1)
    batch = take(training_dataset(path, config(batch_size=1, flip_horizontal=1., flip_vertical=1.)), 1)[0]
    np.testing.assert_array_equal(batch['boxes'][0, 0], [16 - 10, 32 - 16, 16 - 2, 32 - 4])
    np.testing.assert_array_equal(batch['masks'][0, 0], np.repeat([0, 0, 255, 255], 4).reshape(4, 4))
    np.testing.assert_array_equal(batch['images'][0, :, :, 0] > 0, np.arange(32)[:, None] < np.full([1, 32], 16))


def test_short_side_is_drawn_of_those_given(ten: str) -> None:
    sizes = [tuple(size) for batch in take(training_dataset(ten, config(short_sides=[8, 12, 16])), 8)
             for size in batch['sizes'].tolist()]
    assert set(sizes) == {(8, 16), (12, 24), (16, 32)}


@pytest.mark.parametrize('pixels', [np.full([8, 16], 32896, np.uint16), np.full([8, 16], 128, np.uint8),
                                    np.full([8, 16, 4], 128, np.uint8)], ids=['16 bit', 'grey', 'alpha'])
def test_other_pixels_become_rgb(tmp_path: pathlib.Path, pixels: np.ndarray) -> None:
    path = write_set(tmp_path, [dataclasses.replace(picture(1), encoded=png(pixels))], shards=1)
    image = take(evaluation_dataset(path, config(), 1), 1)[0]['images'][0]
    np.testing.assert_array_equal(image[:16], np.full([16, 32, 3], 128))


def test_an_epoch_holds_every_image_once_in_a_new_order(ten: str) -> None:
    order = ids(take(training_dataset(ten, config(batch_size=5)), 6))
    epochs = [order[:10], order[10:20], order[20:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1, 11))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_and_draws_depend_on_the_seed_alone(ten: str) -> None:
    settings = {'short_sides': [8, 12, 16], 'flip_horizontal': .5}
    first = take(training_dataset(ten, config(**settings)), 6)
    tf.random.set_seed(123)      # what other code does must not matter
    assert_equal(take(training_dataset(ten, config(**settings)), 6), first)
    assert ids(take(training_dataset(ten, config(seed=1, **settings)), 6)) != ids(first)


def test_shards_are_read_in_another_order_each_epoch(ten: str) -> None:
    # Without a buffer the first record of an epoch is the first of the first shard: image 1, 2 or 3.
    order = ids(take(training_dataset(ten, config(batch_size=10, shuffle_buffer=1)), 12))
    assert set(order[::10]) == {1, 2, 3}


def test_start_step_goes_on_as_an_uninterrupted_run(ten: str) -> None:
    # Batches of 4 of 10 images: epochs end within batches, and step 9 lies in the fourth epoch.
    settings = config(short_sides=[8, 12, 16], flip_horizontal=.5)
    whole = take(training_dataset(ten, settings), 12)
    for start in (3, 9):
        assert_equal(take(training_dataset(ten, settings, start), 3), whole[start:start + 3])


def test_start_step_counts_usable_images_alone(tmp_path: pathlib.Path) -> None:
    pictures = [picture(1), picture(2, []), picture(3, [thing(crowd=True)]), *(picture(n) for n in range(4, 9))]
    path = write_set(tmp_path, pictures)
    whole = take(training_dataset(path, config()), 6)
    assert_equal(take(training_dataset(path, config(), 4), 2), whole[4:])


def test_workers_together_make_the_batch_of_one(ten: str) -> None:
    settings = config(short_sides=[8, 12, 16], flip_horizontal=.5)
    whole = take(training_dataset(ten, settings, 5), 5)      # steps 5 to 9: the third and the fourth epoch
    parts = [take(training_dataset(ten, settings, 5, (worker, 2)), 5) for worker in (0, 1)]
    for key in whole[0]:      # records go to the workers in turn
        for batch, first, second in zip(whole, *parts, strict=True):
            in_turn = np.stack([first[key], second[key]], axis=1).reshape(batch[key].shape)
            np.testing.assert_array_equal(batch[key], in_turn, key)
    assert collections.Counter(ids(parts[0] + parts[1])) == dict.fromkeys(range(1, 11), 2)


def test_batch_must_divide_among_the_workers(ten: str) -> None:
    with pytest.raises(ConfigError, match='^data.batch_size is 4: expected a multiple of the 3 workers$'):
        training_dataset(ten, config(), shard=(0, 3))


def test_images_without_objects_are_left_out_and_counted(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = [picture(1), picture(2, []), picture(3, [thing(crowd=True)]), picture(4, [thing(), thing(crowd=True)])]
    path = write_set(tmp_path, pictures)
    assert survey(path, config()) == Survey(images=4, usable=2, cut_images=0, cut_objects=0)
    assert set(ids(take(training_dataset(path, config(), start_step=1), 4))) == {1, 4}
    assert caplog.messages == [
        f'{path}: 2 of 4 images have no object and are left out (data.keep_empty=true trains on them)']


def test_images_without_objects_are_kept_on_demand(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_set(tmp_path, [picture(1), picture(2, [])])
    batches = take(training_dataset(path, config(batch_size=2, keep_empty=True)), 2)
    assert [sorted(batch['image_ids']) for batch in batches] == [[1, 2]] * 2
    assert [batch['valid'].sum(axis=1)[list(batch['image_ids']).index(2)] for batch in batches] == [0, 0]
    assert not caplog.messages


def test_a_whole_batch_without_objects(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [picture(number, []) for number in (1, 2)])
    batch = take(training_dataset(path, config(batch_size=2, keep_empty=True, flip_horizontal=1.)), 1)[0]
    for key in ('boxes', 'labels', 'crowd', 'valid', 'masks'):
        assert not batch[key].any(), key
    assert batch['image_valid'].all() and set(batch['images'][:, 0, 0, 0]) == {1, 2}


@pytest.mark.parametrize('objects', [[], [thing(crowd=True)]], ids=['none', 'crowds'])
def test_a_set_without_any_object_is_refused(tmp_path: pathlib.Path, objects: list[ObjectAnnotation]) -> None:
    path = write_set(tmp_path, [picture(1, objects)])
    with pytest.raises(InputError, match=f'^{path}: no image has an object to train on; annotate objects that'):
        training_dataset(path, config())


@pytest.mark.parametrize('keep_empty', [False, True])
def test_a_class_of_crowds_alone_is_named(tmp_path: pathlib.Path, keep_empty: bool, caplog: pytest.LogCaptureFixture
                                          ) -> None:
    path = write_set(tmp_path, [picture(1, [thing(), thing(label=2, crowd=True)]), picture(2, [thing(crowd=True)])])
    training_dataset(path, config(keep_empty=keep_empty))
    name = Manifest.read(path).categories[1].name
    assert f'{path}: all objects of {name!r} are crowds, so no detection of that class is learnt' in caplog.messages


def test_the_largest_objects_are_kept_and_the_rest_counted(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    widths = [3, 9, 4, 16, 6]
    objects = [thing((0, 0, 4, width), label=1 + (width == 16), crowd=width == 16) for width in widths]
    path = write_set(tmp_path, [picture(1, objects), picture(2, objects[:2]), picture(3, objects[1:])])
    kept = {int(batch['image_ids'][0]): batch for batch in take(training_dataset(path, config(batch_size=1)), 3)}
    # The largest three that are no crowd, in the order of the record; a crowd only where there is room.
    assert [(kept[i]['boxes'][0, :, 3] / 2).tolist() for i in (1, 2, 3)] == [[9, 4, 6], [3, 9, 0], [9, 4, 6]]
    assert f'{path}: 3 objects beyond data.max_objects=3 in 2 images are left out, the smallest ones' in caplog.messages
    assert survey(path, config()) == Survey(images=3, usable=3, cut_images=2, cut_objects=3, crowds_only=(2,))


def test_a_batch_is_full_and_of_one_canvas(tmp_path: pathlib.Path) -> None:
    shapes = {0: (8, 16), 1: (16, 8), 2: (8, 8)}
    pictures = [picture(n, [thing((0, 0, 4, 4), size=shapes[n % 3])], shapes[n % 3]) for n in range(1, 19)]
    settings = config(canvases=[[32, 64], [64, 32], [32, 32]], short_sides=[32], long_side=64,
                      test_short_side=32, test_long_side=64)
    dataset = training_dataset(write_set(tmp_path, pictures), settings)
    assert dataset.element_spec['images'].shape.as_list() == [4, None, None, 3]
    batches = take(dataset, 27)      # 108 images, six epochs
    shape_of = {0: (32, 64), 1: (64, 32), 2: (32, 32)}
    for batch in batches:
        assert {shape_of[i % 3] for i in batch['image_ids']} == {batch['images'].shape[1:3]}
        assert batch['images'].shape[0] == 4 and batch['image_valid'].all()
        np.testing.assert_array_equal(batch['sizes'], [batch['images'].shape[1:3]] * 4)
    # 108 to 117 records were read, each image 6 or 7 times; at most the last 3 of a canvas wait for their batch.
    assert {5, 6, 7} >= set(collections.Counter(ids(batches)).values())


@pytest.mark.parametrize('batch_size', [4, 5, 16])
def test_evaluation_holds_every_image_once(ten: str, batch_size: int) -> None:
    batches = list(evaluation_dataset(ten, config(), batch_size).as_numpy_iterator())
    valid = np.concatenate([batch['image_valid'] for batch in batches])
    assert len(batches) == -(-10 // batch_size) and len(valid) == len(batches) * batch_size
    assert [i for i, there in zip(ids(batches), valid, strict=True) if there] == [1, 4, 7, 10, 2, 5, 8, 3, 6, 9]
    assert valid[:10].all() and not valid[10:].any()
    assert set(batches[0]) == KEYS
    for key, values in batches[-1].items():      # a filler is nothing but zeros
        assert not values[10 % batch_size or batch_size:].any(), key


def test_evaluation_fills_the_last_batch_of_each_canvas(tmp_path: pathlib.Path) -> None:
    pictures = [picture(n, [], (8, 16) if n < 6 else (16, 8)) for n in range(1, 9)]
    settings = config(canvases=[[16, 32], [32, 16]])
    batches = list(evaluation_dataset(write_set(tmp_path, pictures), settings, 3, True).as_numpy_iterator())
    held = {(b['images'].shape[1:3], tuple(sorted(b['image_ids'][b['image_valid']]))) for b in batches}
    assert held == {((16, 32), (1, 2, 4)), ((16, 32), (3, 5)), ((32, 16), (6, 7, 8))}
    assert all(len(batch['image_valid']) == 3 for batch in batches)


def test_evaluation_gives_each_image_its_own_canvas(tmp_path: pathlib.Path) -> None:
    """The canvases of training play no part; images of equal canvases share a batch."""
    pictures = [picture(n, [], (8, 16) if n < 4 else (16, 10)) for n in range(1, 6)]
    settings = config(canvases=[[64, 64]], test_short_side=16, test_long_side=64, pad_multiple=32)
    batches = list(evaluation_dataset(write_set(tmp_path, pictures), settings, 2).as_numpy_iterator())
    assert sorted(batch['images'].shape[1:3] for batch in batches) == [(32, 32)] * 3
    unpadded = dataclasses.replace(settings, data=dataclasses.replace(settings.data, pad_multiple=1))
    batches = list(evaluation_dataset(tmp_path / 'set.json', unpadded, 2).as_numpy_iterator())
    assert sorted(batch['images'].shape[1:3] for batch in batches) == [(16, 32), (16, 32), (25, 16)]
    assert all('padded_sizes' not in batch for batch in batches)


def test_fixed_canvases_come_with_the_size_of_an_own_one(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [picture(1, [], (8, 16))])
    settings = config(canvases=[[64, 96]], test_short_side=20, test_long_side=64)
    (batch,) = evaluation_dataset(path, settings, 2, fixed_canvases=True).as_numpy_iterator()
    assert batch['images'].shape == (2, 64, 96, 3)
    assert batch['padded_sizes'].tolist() == [[32, 64], [0, 0]]


def test_evaluation_does_not_flip_and_has_the_size_for_tests(ten: str) -> None:
    settings = config(flip_horizontal=1., test_short_side=8)
    batch = take(evaluation_dataset(ten, settings, 1), 1)[0]
    np.testing.assert_array_equal(batch['sizes'], [[8, 16]])
    np.testing.assert_array_equal(batch['boxes'][0, 0], [1, 2, 5, 8])


def test_ground_truth_is_what_was_written(tmp_path: pathlib.Path) -> None:
    objects = [thing((1.25, 2.5, 5, 8), 2), thing((0, 0, 8, 16), 1, crowd=True)] * 3      # more than max_objects
    path = write_set(tmp_path, [picture(7, objects), picture(8, [])], shards=1)
    first, second = ground_truth(path)
    assert [first[key] for key in ('image_id', 'height', 'width')] == [7, 8, 16]
    np.testing.assert_array_equal(first['boxes'], [o.box for o in objects])
    np.testing.assert_array_equal(first['labels'], [2, 1] * 3)
    np.testing.assert_array_equal(first['crowd'], [False, True] * 3)
    np.testing.assert_array_equal(first['area'], [o.area for o in objects])
    np.testing.assert_array_equal(first['annotation_ids'], [1002, 1001] * 3)
    assert first['masks'] == [o.mask for o in objects]
    assert second['image_id'] == 8 and second['masks'] == [] and second['boxes'].shape == (0, 4)


def test_objects_with_a_box_only(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are told and stay; which of the slots has a mask moves with the objects, of which the smallest is cut."""
    bare = dataclasses.replace(thing((0, 0, 8, 8)), mask=records.encode_mask(np.zeros([8, 16])), has_mask=False)
    objects = [thing((0, 0, 2, 2)), bare, thing((0, 4, 8, 16)), thing((2, 2, 6, 10))]
    path = write_set(tmp_path, [picture(1, objects)], 1, counts=Counts(1, 0, 4, 0, 1))
    [batch] = take(training_dataset(path, config(batch_size=1, flip_horizontal=1.)), 1)
    assert batch['has_mask'].tolist() == [[False, True, True]]
    assert [mask.any() for mask in batch['masks'][0]] == [False, True, True]
    assert '1 of 4 objects have a box and no mask' in caplog.text
    [truth] = ground_truth(path)
    assert truth['has_mask'].tolist() == [True, False, True, True] and len(truth['masks']) == 4
    alone = write_set(tmp_path / 'alone', [picture(1, [bare])], 1, counts=Counts(1, 0, 1, 0, 1))
    with pytest.raises(InputError, match='its objects have no masks'):
        training_dataset(alone, config())
    [batch] = take(training_dataset(alone, config(batch_size=1), needs=()), 1)
    assert 'has_mask' not in batch and batch['valid'].sum() == 1


def test_ground_truth_without_masks(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [picture(1, [dataclasses.replace(thing(), mask=None)])], has_masks=False)
    assert ['masks' in truth for truth in ground_truth(path)] == [False]


def test_no_python_in_the_graph(ten: str) -> None:
    for dataset in (training_dataset(ten, config()), evaluation_dataset(ten, config(), 2)):
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(dataset)).numpy()
        assert b'TFRecordDataset' in graph and b'PyFunc' not in graph and b'GeneratorDataset' not in graph


def explained(path: str, masks: bool = False) -> Exception:
    """What the user is told of the error that comes up while batches are read, with masks for training."""
    try:
        take(training_dataset(path, config()) if masks else evaluation_dataset(path, config(), 4), 8)
    except tf.errors.OpError as error:
        return readable(error, path)
    raise AssertionError('no error came up')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'encoded': b'GIF89a'}, 'PATH: image 5: neither a JPEG nor a PNG; convert it to one'),
    ({'height': 9}, 'PATH: image 5: is 8 x 16, its record says 9 x 16; convert it again'),
    ({'objects': [thing(label=3)]}, 'PATH: image 5: label 3, expected 1..2; set model.num_classes or convert it again'),
    ({'objects': [thing(size=(16, 8))]}, "PATH: image 5: a mask is not of the image's size, 8 x 16; convert it again"),
    ({'encoded': png(np.ones([8, 16], np.uint8))[:60]},
     'FILE: record 1 (from 0) = image 5: Invalid PNG data, size 60; mend the image and convert the data again'),
    ({'encoded': b'\xff\xd8\xff\xe0'}, 'FILE: record 1 (from 0) = image 5: jpeg::Uncompress failed. Invalid JPEG data '
                                       'or crop window.; mend the image and convert the data again'),
    ({'objects': [dataclasses.replace(thing(), mask=thing().mask[:60])]},
     'FILE: record 1 (from 0) = image 5: Invalid PNG data, size 60; mend the image and convert the data again'),
])
def test_what_cannot_be_used_is_named(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    pictures = [dataclasses.replace(picture(n), **(changes if n == 5 else {})) for n in range(1, 9)]
    path = write_set(tmp_path, pictures)
    error = explained(path, masks='objects' in changes)
    assert isinstance(error, InputError)
    expected = message.replace('PATH', path).replace('FILE', str(tmp_path / 'set-00001-of-00003.tfrecord'))
    assert str(error) == expected


def damage(path: pathlib.Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def test_a_damaged_shard_is_named(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [picture(n) for n in range(1, 9)])
    shard = tmp_path / 'set-00002-of-00003.tfrecord'
    damage(shard, -1)      # of the last record's checksum
    expected = (f'{shard}: record 1 (from 0) is damaged: its checksum or length is wrong; copy the shard again or '
                'convert the data again')
    assert str(explained(path)) == expected
    for read in (lambda: list(ground_truth(path)), lambda: survey(path, config())):
        with pytest.raises(InputError, match=f'^{re.escape(expected)}$'):
            read()


def test_a_shard_that_is_cut_or_lost_is_named_before_it_is_read(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [picture(n) for n in range(1, 9)])
    dataset = evaluation_dataset(path, config(), 4)
    shard = tmp_path / 'set-00002-of-00003.tfrecord'
    shard.write_bytes(shard.read_bytes()[:-5])
    for make in (training_dataset, survey):
        with pytest.raises(ManifestError, match=f'{shard} has [0-9]+ bytes, expected'):
            make(path, config())
    shard.unlink()      # after the manifest was read
    with pytest.raises(tf.errors.OpError) as caught:
        take(dataset, 8)
    assert str(readable(caught.value, path)) == (
        f'{path}: its shard {shard} is missing; copy it there or convert the data again')


def test_a_record_that_is_no_example_is_named(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [picture(1)], shards=1)
    shard = tmp_path / 'set-00000-of-00001.tfrecord'
    with tf.io.TFRecordWriter(str(shard)) as writer:
        writer.write(b'no example')
    manifest = pathlib.Path(path)
    manifest.write_text(re.sub(r'"bytes": [0-9]+', f'"bytes": {shard.stat().st_size}', manifest.read_text()))
    assert str(explained(path)).startswith(f'{shard}: record 0 (from 0): Could not parse example input')


def test_names_with_other_letters_and_quotes_come_out_as_they_are(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path / "Zoë's 细胞", [picture(1, [thing(label=3)])], shards=1)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        take(evaluation_dataset(path, config(), 1), 1)
    assert str(readable(caught.value, path)) == (
        f'{path}: image 1: label 3, expected 1..2; set model.num_classes or convert it again')


def test_errors_that_are_not_of_the_records_are_left_alone(ten: str) -> None:
    model = tf.errors.InvalidArgumentError(None, None, 'Incompatible shapes: [2] vs. [3] [Op:AddV2]')
    memory = tf.errors.ResourceExhaustedError(None, None, 'OOM [Op:IteratorGetNext]')
    elsewhere = tf.errors.InvalidArgumentError(None, None, 'Expected size[0] [Op:IteratorGetNext]')   # no bad record
    for error in (model, memory, elsewhere):
        assert readable(error, ten) is error


def test_settings_and_data_must_fit(tmp_path: pathlib.Path, ten: str) -> None:
    with pytest.raises(InputError, match=f'^{ten}: has 2 categories and model.num_classes is 1; set model.num_classes'):
        training_dataset(ten, config(classes=1))
    with pytest.raises(ConfigError, match='^data.canvases: none of'):
        evaluation_dataset(ten, config(test_long_side=64), 1, fixed_canvases=True)
    bare = write_set(tmp_path / 'bare', [picture(1, [dataclasses.replace(thing(), mask=None)])], has_masks=False)
    with pytest.raises(InputError, match=f'^{bare}: its objects have no masks; convert annotations with masks or set '):
        training_dataset(bare, config())
    batch = take(training_dataset(bare, config(), needs=()), 1)[0]
    assert set(batch) == KEYS and batch['valid'].sum() == 4
    nothing = write_set(tmp_path / 'nothing', [])
    with pytest.raises(InputError, match=f'^{nothing}: holds no images; convert annotations that have some$'):
        evaluation_dataset(nothing, config(), 1)
    with pytest.raises(ManifestError, match='none.json: no such file'):
        training_dataset(tmp_path / 'none.json', config())


def test_proposals_move_with_the_image(tmp_path: pathlib.Path) -> None:
    """Doubled in size, then turned left to right over 32 px; the best three of four; an image without any has none."""
    found = records.Proposals(np.float32([[1, 2, 5, 8], [0, 0, 8, 16], [2, 3, 4, 5], [0, 0, 1, 1]]),
                              np.float32([.9, .8, .7, .6]))
    nothing = records.Proposals(np.zeros([0, 4], np.float32), np.zeros(0, np.float32))
    pictures = [dataclasses.replace(picture(1), proposals=found), dataclasses.replace(picture(2), proposals=nothing)]
    path = write_set(tmp_path / 'set', pictures, shards=1, has_proposals=True)
    settings = config(batch_size=2, flip_horizontal=1., max_proposals=3)
    settings.model.kind = 'fast_rcnn'
    (batch,) = take(training_dataset(path, settings), 1)
    order = np.argsort(batch['image_ids'])
    assert batch['proposals'].shape == (2, 3, 4) and batch['boxes'].shape == (2, 3, 4)
    assert batch['proposals'][order[0]].tolist() == [[2, 16, 10, 28], [0, 0, 16, 32], [4, 22, 8, 26]]
    assert batch['proposals_valid'][order].tolist() == [[True] * 3, [False] * 3]
    assert batch['boxes'][order[0], 0].tolist() == [2, 16, 10, 28]
    (batch,) = take(evaluation_dataset(path, settings, 2), 1)
    assert batch['proposals'][0].tolist() == [[2, 4, 10, 16], [0, 0, 16, 32], [4, 6, 8, 10]]


@pytest.mark.parametrize('was, action, exif', [('ignore', 'kept', 'apply'), ('apply', 'repaired', 'ignore')])
def test_photographs_turned_by_another_rule_than_the_models(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, was: str, action: str, exif: str) -> None:
    reason = {'ignore': 'EXIF orientation ignored', 'apply': 'EXIF orientation applied'}[was]
    path = write_set(tmp_path, [picture(1)], 1, **{action: {reason: [Incident(1, None, 'orientation 6', '1.png')]}})
    text = (f'{path}: it was converted with --exif {was} and has 1 photographs that EXIF says to turn, while predict '
            f'and export see such photographs by data.exif={exif}')
    with pytest.raises(InputError, match=f'^{text}; set data.exif={was}, or convert it again with --exif {exif}$'):
        check(path, config(exif=exif))
    evaluation_dataset(path, config(exif=exif), 1)
    assert caplog.messages == [text]
    for fitting in (was, 'error'):
        check(path, config(exif=fitting))


def test_a_batch_holds_what_a_model_needs(tmp_path: pathlib.Path) -> None:
    """By default what `model.kind` needs; an evaluation compares no masks, and holds them on demand only."""
    proposals = records.Proposals(np.float32([[1, 2, 5, 8]]), np.float32([.9]))
    path = write_set(tmp_path, [dataclasses.replace(picture(1), proposals=proposals)], shards=1, has_proposals=True)
    masks, regions = {'masks', 'has_mask'}, {'proposals', 'proposals_valid'}
    settings = config(max_proposals=2)
    assert set(evaluation_dataset(path, settings, 1).element_spec) == KEYS
    assert set(training_dataset(path, settings, needs=['proposals', 'masks']).element_spec) == KEYS | masks | regions
    settings.model.kind = 'fast_rcnn'
    assert set(training_dataset(path, settings).element_spec) == KEYS | regions
    assert set(evaluation_dataset(path, settings, 1, needs=['masks']).element_spec) == KEYS | masks


def test_an_evaluation_with_masks_by_hand(tmp_path: pathlib.Path) -> None:
    """The mask covers the upper two rows of the box's four; a filler has none."""
    [batch] = evaluation_dataset(write_set(tmp_path, [picture(1)]), config(), 2, needs=['masks']).as_numpy_iterator()
    np.testing.assert_array_equal(batch['masks'][0, 0], np.repeat([255, 255, 0, 0], 4).reshape(4, 4))
    assert batch['has_mask'].tolist() == [[True, False, False], [False] * 3] and not batch['masks'][1].any()


def test_an_unknown_need_is_refused(ten: str) -> None:
    with pytest.raises(InputError, match="^needs: 'keypoints' is not an optional key of a batch; give some of masks, "):
        training_dataset(ten, config(), needs=('masks', 'keypoints'))


def test_fast_rcnn_on_records_without_proposals(ten: str) -> None:
    settings = config()
    settings.model.kind = 'fast_rcnn'
    with pytest.raises(InputError, match='json: its records have no proposals; attach some with `mrcnn convert propo'):
        training_dataset(ten, settings)

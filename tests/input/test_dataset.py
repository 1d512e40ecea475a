"""Batches from converted sets: values, order, resuming, workers, canvases, what a set must hold."""
from __future__ import annotations

import collections
import dataclasses
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import ConfigError
from mrcnn_tf.config.schema import AugmentConfig
from mrcnn_tf.input import records
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.dataset import check, evaluation_dataset, training_dataset, training_parts
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.input.manifest import Counts, IssueEntry, ManifestError
from mrcnn_tf.input.recipe import recipe_of
from mrcnn_tf.input.transforms import Transform
from tests.input.small_sets import assert_equal, config, example, ids, png, take, thing, write_set

KEYS = {'images', 'sizes', 'original_sizes', 'image_ids', 'image_valid', 'boxes', 'labels', 'crowd', 'valid'}


def test_every_shape_is_static_with_one_canvas(ten_images: str) -> None:
    spec = training_dataset(ten_images, config(canvases=[[32, 64]])).element_spec
    shapes = {key: (value.shape.as_list(), value.dtype.name) for key, value in spec.items()}
    assert shapes == {
        'images': ([4, 32, 64, 3], 'float32'), 'sizes': ([4, 2], 'float32'), 'original_sizes': ([4, 2], 'int32'),
        'image_ids': ([4], 'int64'), 'image_valid': ([4], 'bool'), 'boxes': ([4, 3, 4], 'float32'),
        'labels': ([4, 3], 'int32'), 'crowd': ([4, 3], 'bool'), 'valid': ([4, 3], 'bool'),
        'masks': ([4, 3, 4, 4], 'uint8'), 'has_mask': ([4, 3], 'bool')}


def test_values_of_a_batch_by_hand(tmp_path: pathlib.Path) -> None:
    objects = [thing((1, 2, 5, 8), 2), thing((0, 0, 8, 16), 1, crowd=True)]
    path = write_set(tmp_path, [example(7, objects)], shards=1)
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
    path = write_set(tmp_path, [example(7)], shards=1)
    batch = take(training_dataset(path, config(batch_size=1, flip_horizontal=1., flip_vertical=1.)), 1)[0]
    np.testing.assert_array_equal(batch['boxes'][0, 0], [16 - 10, 32 - 16, 16 - 2, 32 - 4])
    np.testing.assert_array_equal(batch['masks'][0, 0], np.repeat([0, 0, 255, 255], 4).reshape(4, 4))
    np.testing.assert_array_equal(batch['images'][0, :, :, 0] > 0, np.arange(32)[:, None] < np.full([1, 32], 16))


def test_the_short_side_is_sampled_from_the_list(ten_images: str) -> None:
    sizes = [tuple(size) for batch in take(training_dataset(ten_images, config(short_sides=[8, 12, 16])), 8)
             for size in batch['sizes'].tolist()]
    assert set(sizes) == {(8, 16), (12, 24), (16, 32)}


@pytest.mark.parametrize('pixels', [np.full([8, 16], 32896, np.uint16), np.full([8, 16], 128, np.uint8),
                                    np.full([8, 16, 4], 128, np.uint8)], ids=['16_bits', 'gray', 'alpha'])
def test_all_kinds_of_pixels_become_rgb(tmp_path: pathlib.Path, pixels: np.ndarray) -> None:
    path = write_set(tmp_path, [dataclasses.replace(example(1), encoded=png(pixels))], shards=1)
    image = take(evaluation_dataset(path, config(), 1), 1)[0]['images'][0]
    np.testing.assert_array_equal(image[:16], np.full([16, 32, 3], 128))


def test_an_epoch_holds_every_image_once_in_a_new_order(ten_images: str) -> None:
    order = ids(take(training_dataset(ten_images, config(batch_size=5)), 6))
    epochs = [order[:10], order[10:20], order[20:]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(1, 11))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_order_and_random_numbers_depend_only_on_the_seed(ten_images: str) -> None:
    settings = {'short_sides': [8, 12, 16], 'flip_horizontal': .5}
    first = take(training_dataset(ten_images, config(**settings)), 6)
    tf.random.set_seed(123)      # by other code; must not matter
    assert_equal(take(training_dataset(ten_images, config(**settings)), 6), first)
    assert ids(take(training_dataset(ten_images, config(seed=1, **settings)), 6)) != ids(first)


def test_each_epoch_reads_the_shards_in_another_order(ten_images: str) -> None:
    # Without a buffer the first record of an epoch is the first of the first shard: image 1, 2 or 3.
    order = ids(take(training_dataset(ten_images, config(batch_size=10, shuffle_buffer=1)), 12))
    assert set(order[::10]) == {1, 2, 3}


def test_the_end_of_training_waits_for_no_tuning_thread(ten_images: str) -> None:
    options = training_dataset(ten_images, config()).options()
    assert options.autotune.enabled is False


def test_start_step_continues_an_uninterrupted_run(ten_images: str) -> None:
    # Batches of 4 of 10 images: epochs end within batches, and step 9 lies in the fourth epoch.
    settings = config(short_sides=[8, 12, 16], flip_horizontal=.5)
    whole = take(training_dataset(ten_images, settings), 12)
    for start in (3, 9):
        assert_equal(take(training_dataset(ten_images, settings, start), 3), whole[start:start + 3])


@pytest.mark.slow
def test_start_step_counts_only_usable_images(tmp_path: pathlib.Path) -> None:
    examples = [example(1), example(2, []), example(3, [thing(crowd=True)]), *(example(n) for n in range(4, 9))]
    path = write_set(tmp_path, examples)
    whole = take(training_dataset(path, config()), 6)
    assert_equal(take(training_dataset(path, config(), 4), 2), whole[4:])


@pytest.mark.slow
def test_the_batches_of_all_workers_make_the_batch_of_one(ten_images: str) -> None:
    settings = config(short_sides=[8, 12, 16], flip_horizontal=.5)
    whole = take(training_dataset(ten_images, settings, 5), 5)      # steps 5 to 9: the third and the fourth epoch
    parts = [take(training_dataset(ten_images, settings, 5, (worker, 2)), 5) for worker in (0, 1)]
    for key in whole[0]:      # records go to the workers in turn
        for batch, first, second in zip(whole, *parts, strict=True):
            in_turn = np.stack([first[key], second[key]], axis=1).reshape(batch[key].shape)
            np.testing.assert_array_equal(batch[key], in_turn, key)
    assert collections.Counter(ids(parts[0] + parts[1])) == dict.fromkeys(range(1, 11), 2)


def test_the_batch_size_must_be_a_multiple_of_the_workers(ten_images: str) -> None:
    with pytest.raises(ConfigError, match='^data.batch_size is 4: expected a multiple of the 3 workers$'):
        training_dataset(ten_images, config(), shard=(0, 3))


def test_images_without_objects_are_kept_on_demand(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_set(tmp_path, [example(1), example(2, [])])
    batches = take(training_dataset(path, config(batch_size=2, keep_empty=True)), 2)
    assert [sorted(batch['image_ids']) for batch in batches] == [[1, 2]] * 2
    assert [batch['valid'].sum(axis=1)[list(batch['image_ids']).index(2)] for batch in batches] == [0, 0]
    assert not caplog.messages


def test_a_whole_batch_without_objects(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(number, []) for number in (1, 2)])
    batch = take(training_dataset(path, config(batch_size=2, keep_empty=True, flip_horizontal=1.)), 1)[0]
    for key in ('boxes', 'labels', 'crowd', 'valid', 'masks'):
        assert not batch[key].any(), key
    assert batch['image_valid'].all() and set(batch['images'][:, 0, 0, 0]) == {1, 2}


def test_each_batch_is_full_and_has_one_canvas(tmp_path: pathlib.Path) -> None:
    shapes = {0: (8, 16), 1: (16, 8), 2: (8, 8)}
    examples = [example(n, [thing((0, 0, 4, 4), size=shapes[n % 3])], shapes[n % 3]) for n in range(1, 19)]
    settings = config(canvases=[[32, 64], [64, 32], [32, 32]], short_sides=[32], long_side=64,
                      test_short_side=32, test_long_side=64)
    dataset = training_dataset(write_set(tmp_path, examples), settings)
    assert dataset.element_spec['images'].shape.as_list() == [4, None, None, 3]
    batches = take(dataset, 27)      # 108 images, six epochs
    shape_of = {0: (32, 64), 1: (64, 32), 2: (32, 32)}
    for batch in batches:
        assert {shape_of[i % 3] for i in batch['image_ids']} == {batch['images'].shape[1:3]}
        assert batch['images'].shape[0] == 4 and batch['image_valid'].all()
        np.testing.assert_array_equal(batch['sizes'], [batch['images'].shape[1:3]] * 4)
    # 108 to 117 records were read, each image 6 or 7 times; at most the last 3 of a canvas wait for their batch.
    assert {5, 6, 7} >= set(collections.Counter(ids(batches)).values())


@pytest.mark.parametrize('start, shard, augment', [
    (1, (0, 1), {}), pytest.param(6, (1, 2), {'augment': AugmentConfig(copy_paste=.5)}, marks=pytest.mark.slow)],
    ids=['first epoch', 'later epoch, second worker, pasted objects'])
def test_a_run_with_several_canvases_resumes_as_if_it_had_not_stopped(
        tmp_path: pathlib.Path, start: int, shard: tuple[int, int], augment: dict[str, AugmentConfig]) -> None:
    """Also the records that were waiting for their batch to fill come in the batch that they would have been in."""
    shapes = [(8, 16), (16, 8), (8, 8)]
    path = write_set(tmp_path, [example(n, size=shapes[n % 3]) for n in range(11)])
    settings = config(canvases=[[32, 64], [64, 32], [32, 32]], short_sides=[20, 26, 32], long_side=64,
                      flip_horizontal=.5, **augment)
    whole = take(training_dataset(path, settings, 0, shard, ()), start + 5)
    assert len({batch['images'].shape for batch in whole}) > 1
    assert_equal(take(training_dataset(path, settings, start, shard, ()), 5), whole[start:])


@pytest.mark.parametrize('batch_size', [4, 5, 16])
def test_evaluation_holds_every_image_once(ten_images: str, batch_size: int) -> None:
    batches = list(evaluation_dataset(ten_images, config(), batch_size).as_numpy_iterator())
    valid = np.concatenate([batch['image_valid'] for batch in batches])
    assert len(batches) == -(-10 // batch_size) and len(valid) == len(batches) * batch_size
    assert [i for i, is_valid in zip(ids(batches), valid, strict=True) if is_valid] == [1, 4, 7, 10, 2, 5, 8, 3, 6, 9]
    assert valid[:10].all() and not valid[10:].any()
    assert set(batches[0]) == KEYS | {'masks', 'has_mask'}
    for key, values in batches[-1].items():      # fillers are zeros
        assert not values[10 % batch_size or batch_size:].any(), key


def test_evaluation_fills_the_last_batch_of_each_canvas(tmp_path: pathlib.Path) -> None:
    examples = [example(n, [], (8, 16) if n < 6 else (16, 8)) for n in range(1, 9)]
    settings = config(canvases=[[16, 32], [32, 16]])
    batches = list(evaluation_dataset(write_set(tmp_path, examples), settings, 3, True).as_numpy_iterator())
    content = {(b['images'].shape[1:3], tuple(sorted(b['image_ids'][b['image_valid']]))) for b in batches}
    assert content == {((16, 32), (1, 2, 4)), ((16, 32), (3, 5)), ((32, 16), (6, 7, 8))}
    assert all(len(batch['image_valid']) == 3 for batch in batches)


def test_evaluation_gives_each_image_its_own_canvas(tmp_path: pathlib.Path) -> None:
    """The canvases of training are not used; images of equal canvases share a batch."""
    examples = [example(n, [], (8, 16) if n < 4 else (16, 10)) for n in range(1, 6)]
    settings = config(canvases=[[64, 64]], test_short_side=16, test_long_side=64, pad_multiple=32)
    batches = list(evaluation_dataset(write_set(tmp_path, examples), settings, 2).as_numpy_iterator())
    assert sorted(batch['images'].shape[1:3] for batch in batches) == [(32, 32)] * 3
    unpadded = dataclasses.replace(settings, data=dataclasses.replace(settings.data, pad_multiple=1))
    batches = list(evaluation_dataset(tmp_path / 'set.json', unpadded, 2).as_numpy_iterator())
    assert sorted(batch['images'].shape[1:3] for batch in batches) == [(16, 32), (16, 32), (25, 16)]
    assert all('padded_sizes' not in batch for batch in batches)


def test_batches_on_fixed_canvases_hold_the_size_of_the_own_canvas(tmp_path: pathlib.Path) -> None:
    path = write_set(tmp_path, [example(1, [], (8, 16))])
    settings = config(canvases=[[64, 96]], test_short_side=20, test_long_side=64)
    (batch,) = evaluation_dataset(path, settings, 2, fixed_canvases=True).as_numpy_iterator()
    assert batch['images'].shape == (2, 64, 96, 3)
    assert batch['padded_sizes'].tolist() == [[32, 64], [0, 0]]


def test_evaluation_uses_the_test_size_and_does_not_flip(ten_images: str) -> None:
    settings = config(flip_horizontal=1., test_short_side=8)
    batch = take(evaluation_dataset(ten_images, settings, 1), 1)[0]
    np.testing.assert_array_equal(batch['sizes'], [[8, 16]])
    np.testing.assert_array_equal(batch['boxes'][0, 0], [1, 2, 5, 8])


def test_objects_with_a_box_only(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are logged and kept. `has_mask` stays with its object when the smallest object is dropped."""
    bare = dataclasses.replace(thing((0, 0, 8, 8)), mask=records.encode_mask(np.zeros([8, 16])), has_mask=False)
    objects = [thing((0, 0, 2, 2)), bare, thing((0, 4, 8, 16)), thing((2, 2, 6, 10))]
    path = write_set(tmp_path, [example(1, objects)], 1, counts=Counts(1, 0, 4, 0, 1))
    [batch] = take(training_dataset(path, config(batch_size=1, flip_horizontal=1.)), 1)
    assert batch['has_mask'].tolist() == [[False, True, True]]
    assert [mask.any() for mask in batch['masks'][0]] == [False, True, True]
    assert '1 of 4 objects have a box and no mask' in caplog.text
    [annotations] = ground_truth(path)
    assert annotations['has_mask'].tolist() == [True, False, True, True] and len(annotations['masks']) == 4
    alone = write_set(tmp_path / 'alone', [example(1, [bare])], 1, counts=Counts(1, 0, 1, 0, 1))
    with pytest.raises(InputError, match='its objects have no masks'):
        training_dataset(alone, config())
    [batch] = take(training_dataset(alone, config(batch_size=1), needs=()), 1)
    assert 'has_mask' not in batch and batch['valid'].sum() == 1


def test_the_graph_holds_no_python_function(ten_images: str) -> None:
    for dataset in (training_dataset(ten_images, config()), evaluation_dataset(ten_images, config(), 2)):
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(dataset)).numpy()
        assert b'TFRecordDataset' in graph and b'PyFunc' not in graph and b'GeneratorDataset' not in graph


def test_a_set_that_does_not_fit_the_settings_is_refused(tmp_path: pathlib.Path, ten_images: str) -> None:
    with pytest.raises(InputError, match=f'^{ten_images}: has 2 categories and model.num_classes is 1; set model.num_'):
        training_dataset(ten_images, config(classes=1))
    with pytest.raises(ConfigError, match='^data.canvases: none of'):
        evaluation_dataset(ten_images, config(test_long_side=64), 1, fixed_canvases=True)
    bare = write_set(tmp_path / 'bare', [example(1, [dataclasses.replace(thing(), mask=None)])], has_masks=False)
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
    """Doubled in size, then mirrored over 32 px; the best three of four; none for an image without proposals."""
    four = records.Proposals(np.float32([[1, 2, 5, 8], [0, 0, 8, 16], [2, 3, 4, 5], [0, 0, 1, 1]]),
                             np.float32([.9, .8, .7, .6]))
    nothing = records.Proposals(np.zeros([0, 4], np.float32), np.zeros(0, np.float32))
    examples = [dataclasses.replace(example(1), proposals=four), dataclasses.replace(example(2), proposals=nothing)]
    path = write_set(tmp_path / 'set', examples, shards=1, has_proposals=True)
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


@pytest.mark.parametrize(('was', 'action', 'exif'), [('ignore', 'kept', 'apply'), ('apply', 'repaired', 'ignore')],
                         ids=['ignored', 'applied'])
def test_photographs_rotated_by_another_rule_than_the_models(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, was: str, action: str, exif: str) -> None:
    reason = {'ignore': 'EXIF orientation ignored', 'apply': 'EXIF orientation applied'}[was]
    path = write_set(tmp_path, [example(1)], 1, **{action: {reason: [IssueEntry(1, None, 'orientation 6', '1.png')]}})
    text = (f'{path}: it was converted with --exif {was} and has 1 photographs with an EXIF rotation, while predict '
            f'and export treat such photographs by data.exif={exif}')
    remedy = f'set data.exif={was}, or convert the data again with --exif {exif}'
    with pytest.raises(InputError, match=f'^{text}; {remedy}$'):
        check(path, config(exif=exif))
    evaluation_dataset(path, config(exif=exif), 1)
    assert caplog.messages == [text]
    for fitting in (was, 'error'):
        check(path, config(exif=fitting))


def test_a_batch_holds_what_a_model_needs(tmp_path: pathlib.Path) -> None:
    """By default what `model.kind` needs."""
    proposals = records.Proposals(np.float32([[1, 2, 5, 8]]), np.float32([.9]))
    path = write_set(tmp_path, [dataclasses.replace(example(1), proposals=proposals)], shards=1, has_proposals=True)
    masks, regions = {'masks', 'has_mask'}, {'proposals', 'proposals_valid'}
    settings = config(max_proposals=2)
    assert set(evaluation_dataset(path, settings, 1).element_spec) == KEYS | masks
    assert set(training_dataset(path, settings, needs=['proposals', 'masks']).element_spec) == KEYS | masks | regions
    settings.model.kind = 'fast_rcnn'
    assert set(training_dataset(path, settings).element_spec) == KEYS | regions
    assert set(evaluation_dataset(path, settings, 1, needs=['masks']).element_spec) == KEYS | masks


def test_an_evaluation_with_masks_by_hand(tmp_path: pathlib.Path) -> None:
    """The mask covers the upper two rows of the box's four; a filler has none."""
    [batch] = evaluation_dataset(write_set(tmp_path, [example(1)]), config(), 2, needs=['masks']).as_numpy_iterator()
    np.testing.assert_array_equal(batch['masks'][0, 0], np.repeat([255, 255, 0, 0], 4).reshape(4, 4))
    assert batch['has_mask'].tolist() == [[True, False, False], [False] * 3] and not batch['masks'][1].any()


def test_an_unknown_need_is_refused(ten_images: str) -> None:
    with pytest.raises(InputError, match="^needs: 'keypoints' is not an optional key of a batch; give some of masks, "):
        training_dataset(ten_images, config(), needs=('masks', 'keypoints'))


def test_fast_rcnn_on_records_without_proposals(ten_images: str) -> None:
    settings = config()
    settings.model.kind = 'fast_rcnn'
    with pytest.raises(InputError, match='json: its records have no proposals; attach some with `mrcnn convert propo'):
        training_dataset(ten_images, settings)


def test_the_training_step_gets_whole_numbers_as_uint8(tmp_path: pathlib.Path) -> None:
    """The values are those that all others get."""
    gradient = np.add.outer(np.arange(0, 80, 10), np.arange(0, 160, 10)).astype(np.uint8)
    path = write_set(tmp_path, [dataclasses.replace(example(1), encoded=png(gradient))], 1)
    settings = config(batch_size=1, short_sides=[13], antialias=True, flip_horizontal=1.)
    expected, = take(training_dataset(path, settings, needs=()), 1)
    batch, = take(training_parts(path, settings, 0, (0, 1), (), [1])[0], 1)
    assert expected['images'].dtype == np.float32 and batch['images'].dtype == np.uint8
    assert len(np.unique(expected['images'])) > 20
    assert_equal([batch], [expected])


@pytest.mark.parametrize('changes, own_transforms', [
    ({'antialias': False}, ()), ({'augment': AugmentConfig(brightness=.5)}, ()), ({}, (lambda sample, seed: sample,))],
    ids=['bilinear', 'augmented', 'own transform'])
def test_images_that_may_have_fractions_are_not_uint8(ten_images: str, changes: dict[str, object],
                                                      own_transforms: tuple[Transform, ...]) -> None:
    recipe = recipe_of(ten_images, config(**{'antialias': True, **changes}), (), True, own_transforms=own_transforms)
    assert not dataclasses.replace(recipe, compact=True).uint8_images

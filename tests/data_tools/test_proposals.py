"""Proposals joined to the records of a set."""
from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools import proposals, selective_search
from data_tools.issues import ConversionError, Log
from data_tools.sharding import writer
from mrcnn_tf.files.restricted_pickle import PickleError
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source
from mrcnn_tf.input.records import Annotated

_HEIGHT, _WIDTH = 40, 60


class _Item:
    bytes = 1000

    def __init__(self, source_id: str) -> None:
        self.source_id = source_id


def _picture(seed: int) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 20, (_HEIGHT, _WIDTH, 3)).astype(np.uint8)
    pixels[5:25, 10:30] = 240, 20, 20
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


def _make(item: _Item) -> tuple[Annotated, Log]:
    objects = [records.ObjectAnnotation((5.0, 10.0, 25.0, 30.0), 1, 'red', 400.0)]
    return Annotated(_picture(len(item.source_id)), 'png', f'{item.source_id}.png', item.source_id, 7, _HEIGHT, _WIDTH,
                     objects), Log()


@pytest.fixture
def manifest(tmp_path: pathlib.Path) -> pathlib.Path:
    """A set of the images 139, 25 and img_7 of 40 x 60, two to a shard."""
    head = Manifest('set', [Category(1, 1, 'red')], Counts(), 0, {}, {}, [], False,
                    Source('coco', 'a.json', 'images'))
    writer.write([_Item('139'), _Item('25'), _Item('img_7')], _make, head, tmp_path / 'in',
                 writer.Options(images_per_shard=2))
    return tmp_path / 'in' / 'set.json'


def _parsed(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Records by source id."""
    shards = tf.data.TFRecordDataset(Manifest.read(path).shard_paths(path))
    found = [records.parse(each, False, with_proposals=True) for each in shards]
    return {each['source_id'].numpy().decode(): {k: v.numpy() for k, v in each.items()} for each in found}


def _pickled(directory: pathlib.Path, **data: Any) -> pathlib.Path:
    path = directory / 'rpn.pkl'
    path.write_bytes(pickle.dumps(data, 2))
    return path


# As Detectron2 reads them: x1, y1, x2, y2.
_BOXES = [np.array([[1, 2, 3, 4], [10, 5, 30, 25], [0, 0, 60, 40]], np.float32), np.zeros((0, 4), np.float32)]
_SCORES = [np.array([0.5, 2.5, -1], np.float32), np.zeros(0, np.float32)]


def test_detectron2(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=[139, 25], boxes=_BOXES, objectness_logits=_SCORES, bbox_mode=0)
    written = proposals.attach(manifest, path, tmp_path / 'out', 'set', top=2)
    found = _parsed(tmp_path / 'out' / 'set.json')
    np.testing.assert_array_equal(found['139']['proposals'], [[5, 10, 25, 30], [2, 1, 4, 3]])     # the two best
    np.testing.assert_array_equal(found['139']['proposal_scores'], [2.5, 0.5])
    assert found['25']['proposals'].shape == found['img_7']['proposals'].shape == (0, 4)
    assert written.has_proposals and written.max_proposals_per_image == 2 and written.proposals_from == str(path)
    assert [i.image_id for i in written.kept['no proposals for the image']] == ['img_7']
    assert written.dropped == {}


def test_everything_else_of_the_record_stays(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, indexes=[139], boxes=_BOXES[:1], scores=_SCORES[:1])     # Detectron's names
    before = manifest.read_bytes()
    proposals.attach(manifest, path, tmp_path / 'out', 'new', options=writer.Options(images_per_shard=2))
    assert manifest.read_bytes() == before
    read = [[tf.train.Example.FromString(each.numpy()) for each in tf.data.TFRecordDataset(
        Manifest.read(file).shard_paths(file))] for file in (manifest, tmp_path / 'out' / 'new.json')]
    for old, new in zip(*read, strict=True):
        del new.features.feature['image/proposal/box'], new.features.feature['image/proposal/score']
        assert new == old
    old, new = Manifest.read(manifest), Manifest.read(tmp_path / 'out' / 'new.json')
    assert (new.counts, new.categories, new.source) == (old.counts, old.categories, old.source)


def test_the_same_bytes_from_any_number_of_processes(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=['img_7', '139'], boxes=_BOXES[:1] * 2, scores=_SCORES[:1] * 2)
    one, two = (proposals.attach(manifest, path, tmp_path / str(workers), 'a',
                                 options=writer.Options(2, workers=workers)) for workers in (1, 2))
    assert len(one.shards) == 2 and one.shards == two.shards and one.kept == two.kept != {}


def test_what_is_left_out_is_counted(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    boxes = [[-5, 0, 10, 10], [1, 1, np.nan, 2], [3, 3, 3, 9], [70, 5, 80, 9], [1, 1, 2, 2], [4, 4, 5, 5]]
    scores = [1, 2, 3, 4, np.inf, 5]
    path = _pickled(tmp_path, ids=['139', 'unknown'], boxes=[np.array(boxes)] * 2, scores=[np.array(scores)] * 2)
    written = proposals.attach(manifest, path, tmp_path / 'out', 'set')
    found = _parsed(tmp_path / 'out' / 'set.json')['139']
    np.testing.assert_array_equal(found['proposals'], [[4, 4, 5, 5], [0, 0, 10, 10]])
    np.testing.assert_array_equal(found['proposal_scores'], [5, 1])
    told = {reason: [(i.image_id, i.detail) for i in of]
            for reason, of in {**written.dropped, **written.repaired, **written.kept}.items()}
    assert told == {
        'non-finite proposals': [('139', '2 of 6')],
        'proposals without area in the image': [('139', '2 of 4')],
        'proposals for a missing image': [('unknown', '6 boxes')],
        'proposals clipped': [('139', '1 of 4')],
        'no proposals for the image': [('25', 'kept with none'), ('img_7', 'kept with none')]}


def test_xywh_of_detectron2(tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=[1], boxes=[np.array([[10, 5, 20, 15]])], scores=[[1.0]], bbox_mode=np.int64(1))
    np.testing.assert_array_equal(proposals.read(path)['1'].boxes, [[5, 10, 20, 30]])


def _saved(directory: pathlib.Path, **arrays: Any) -> pathlib.Path:
    np.savez(directory / 'p.npz', **arrays)
    return directory / 'p.npz'


@pytest.mark.parametrize(('order', 'boxes'), [
    (None, [[5, 10, 20, 30]] * 3), ('yxyx', [[5, 10, 20, 30]] * 3), ('xyxy', [[10, 5, 30, 20]] * 3),
    ('xywh', [[10, 5, 20, 15]] * 3)])
def test_numpy(order: str | None, boxes: list[list[int]], tmp_path: pathlib.Path) -> None:
    path = _saved(tmp_path, ids=['a', 'b', 'c'], counts=[2, 0, 1], boxes=boxes, **({'order': order} if order else {}))
    found = proposals.read(path)
    assert list(found) == ['a', 'b', 'c'] and [len(each.boxes) for each in found.values()] == [2, 0, 1]
    np.testing.assert_array_equal(found['c'].boxes, [[5, 10, 20, 30]])
    np.testing.assert_array_equal(found['a'].scores, [1, 0.5])      # by rank, where none are given
    np.testing.assert_array_equal(proposals.read(_saved(
        tmp_path, ids=[7.0], counts=[1], boxes=boxes[:1], scores=[0.25]))['7'].scores, [0.25])


def test_selective_search_as_published(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    scipy_io = pytest.importorskip('scipy.io', reason="no scipy; pip install -e '.[proposals]'")
    boxes, images = np.empty((1, 2), object), np.empty((2, 1), object)
    # y1, x1, y2, x2, pixels from 1 on, the last included: the first is the pixel of the corner, the second all.
    boxes[0, 0], boxes[0, 1] = np.array([[1, 1, 1, 1], [1, 1, 40, 60]], np.uint16), np.zeros((0, 4))
    images[0, 0], images[1, 0] = 'img_7', '25'
    scipy_io.savemat(tmp_path / 'ss.mat', {'boxes': boxes, 'images': images})
    written = proposals.attach(manifest, tmp_path / 'ss.mat', tmp_path / 'out', 'set')
    found = _parsed(tmp_path / 'out' / 'set.json')
    np.testing.assert_array_equal(found['img_7']['proposals'], [[0, 0, 1, 1], [0, 0, 40, 60]])
    np.testing.assert_array_equal(found['img_7']['proposal_scores'], [1, 0.5])
    assert written.max_proposals_per_image == 2 and 'proposals clipped' not in written.repaired


@pytest.mark.parametrize(('data', 'named'), [
    ([1, 2], "no list 'ids' or 'indexes'"),
    ({'ids': [1]}, "no list 'boxes'"),
    ({'ids': [1], 'boxes': [], 'scores': []}, '1 ids, 0 lists of boxes and 0 of scores'),
    ({'ids': [1], 'boxes': [[[1, 2, 3]]], 'scores': [[1]]}, 'image 1: boxes or scores are no numbers, or not four'),
    ({'ids': [1], 'boxes': [[['a', 2, 3, 4]]], 'scores': [[1]]}, 'image 1: boxes or scores are no numbers'),
    ({'ids': [1], 'boxes': [[[1, 2, 3, 4]]], 'scores': [[1, 2]]}, 'image 1: 1 boxes and 2 scores'),
    ({'ids': [1, '1'], 'boxes': [[], []], 'scores': [[], []]}, 'image id 1 comes twice'),
    ({'ids': [], 'boxes': [], 'scores': [], 'bbox_mode': 4}, 'bbox_mode is 4'),
])
def test_a_pickle_that_holds_something_else(data: Any, named: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps(data))
    with pytest.raises(ConversionError) as caught:
        proposals.read(path)
    assert str(caught.value).startswith(f'{path}: ') and named in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_pickle_that_asks_for_more(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps({'ids': [os.system]}))
    with pytest.raises(PickleError, match='system'):
        proposals.attach(manifest, tmp_path / 'a.pkl', tmp_path / 'out', 'set')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('arrays', 'named'), [
    ({'ids': [1]}, "no array 'boxes' or 'counts'"),
    ({'ids': [1], 'counts': [2], 'boxes': np.zeros((1, 4))}, '1 ids, 1 counts of 2 boxes together, and 1 boxes'),
    ({'ids': [1, 2], 'counts': [1], 'boxes': np.zeros((1, 4))}, '2 ids, 1 counts'),
    ({'ids': [1, 2], 'counts': [2, -1], 'boxes': np.zeros((1, 4))}, '2 ids, 2 counts'),
    ({'ids': [1], 'counts': [1], 'boxes': np.zeros((1, 4)), 'order': 'zyx'}, "order is 'zyx'"),
    ({'ids': 5, 'counts': 3, 'boxes': 3.0}, '1 ids, 1 counts of 3 boxes together, and 1 boxes'),
    ({'ids': 5, 'counts': 1, 'boxes': 3.0}, 'boxes or scores are no numbers, or not four to a box'),
    ({'ids': np.array([{}], object)}, 'cannot be read'),
])
def test_an_npz_that_holds_something_else(arrays: Any, named: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError) as caught:
        proposals.read(_saved(tmp_path, **arrays))
    assert named in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['a.npz', 'a.mat', 'a.csv', 'none.npz'])
def test_other_files(name: str, tmp_path: pathlib.Path) -> None:
    if name.endswith('.mat'):
        pytest.importorskip('scipy.io', reason="no scipy; pip install -e '.[proposals]'")
    (tmp_path / 'a.npz').write_bytes(b'nonsense')
    (tmp_path / 'a.mat').write_bytes(b'nonsense of more than a hundred and twenty-eight bytes' * 4)
    with pytest.raises(ConversionError) as caught:
        proposals.read(tmp_path / name)
    assert str(caught.value).startswith(f'{tmp_path / name}: ') and '\n' not in str(caught.value)


def test_proposals_of_another_set(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=[1], boxes=[[]], scores=[[]])
    with pytest.raises(ConversionError, match=r'its image ids \(1\) are no source ids of .* \(139, 25, img_7\)'):
        proposals.attach(manifest, path, tmp_path / 'out', 'set')


def test_a_set_is_never_replaced_by_itself(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=[139], boxes=_BOXES[:1], scores=_SCORES[:1])
    before = sorted(each.name for each in manifest.parent.iterdir())
    with pytest.raises(ConversionError, match='would replace it'):
        proposals.attach(manifest, path, manifest.parent, 'set')
    assert sorted(each.name for each in manifest.parent.iterdir()) == before
    proposals.attach(manifest, path, manifest.parent, 'other')      # beside it is fine
    assert Manifest.read(manifest).has_proposals is False
    assert json.loads((manifest.parent / 'other.json').read_text())['has_proposals'] is True


def _needs_opencv() -> None:
    try:
        selective_search.check('fast')
    except ConversionError as error:
        pytest.skip(str(error))


def test_selective_search_finds_the_object(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    _needs_opencv()
    written = proposals.attach(manifest, None, tmp_path / 'out', 'set', top=50)
    found = _parsed(tmp_path / 'out' / 'set.json')
    assert written.proposals_from == 'selective search, fast' and 0 < written.max_proposals_per_image <= 50
    for record in found.values():
        boxes, scores = record['proposals'], record['proposal_scores']
        y1, x1, y2, x2 = boxes.T
        assert ((y1 >= 0) & (x1 >= 0) & (y2 > y1) & (x2 > x1) & (y2 <= _HEIGHT) & (x2 <= _WIDTH)).all()
        assert (np.diff(scores) < 0).all() and scores[0] == 1
        # The red square is at rows 5..24 and columns 10..29; OpenCV blurs before it segments.
        assert (np.abs(boxes - [5, 10, 25, 30]).max(axis=1) <= 2).any()


def test_selective_search_gives_the_same_each_time() -> None:
    _needs_opencv()
    first, second = (selective_search.propose(_picture(3)) for _ in range(2))
    np.testing.assert_array_equal(first.boxes, second.boxes)


def test_the_order_mixes_sizes_and_favours_large_ones() -> None:
    sides = np.random.RandomState(0).permutation(np.arange(1, 101))
    ordered = selective_search.ordered(np.stack([sides * 0, sides * 0, sides, sides], axis=1))[:, 2]
    assert sorted(ordered) == list(range(1, 101)) and ordered[:25].mean() > 60 > 40 > ordered[-25:].mean()
    assert ordered[:25].min() < 75
    shuffled = np.stack([sides * 0, sides * 0, sides, sides], axis=1)[::-1]
    np.testing.assert_array_equal(selective_search.ordered(shuffled)[:, 2], ordered)
    assert selective_search.ordered(np.zeros((0, 4), np.int64)).shape == (0, 4)


def test_ranks() -> None:
    np.testing.assert_array_equal(selective_search.ranked(4), [1, 0.75, 0.5, 0.25])
    assert selective_search.ranked(0).shape == (0,)


def test_without_opencv(monkeypatch: pytest.MonkeyPatch, manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'cv2', None)
    with pytest.raises(ConversionError, match=r"pip install 'mrcnn-tf\[proposals\]'"):
        proposals.attach(manifest, None, tmp_path / 'out', 'set')
    with pytest.raises(ConversionError, match='expected one of fast, quality'):
        proposals.attach(manifest, None, tmp_path / 'out', 'set', mode='slow')

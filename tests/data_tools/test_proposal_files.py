"""Files of proposals: pickles of Detectron, .npz arrays and .mat files."""
from __future__ import annotations

import pathlib
import pickle
from typing import Any

import numpy as np
import pytest

from data_tools import proposal_files
from data_tools.issues import ConversionError


def pickled(directory: pathlib.Path, **data: Any) -> pathlib.Path:
    path = directory / 'rpn.pkl'
    path.write_bytes(pickle.dumps(data, 2))
    return path


def test_xywh_of_detectron2(tmp_path: pathlib.Path) -> None:
    path = pickled(tmp_path, ids=[1], boxes=[np.array([[10, 5, 20, 15]])], scores=[[1.0]], bbox_mode=np.int64(1))
    np.testing.assert_array_equal(proposal_files.read(path)['1'].boxes, [[5, 10, 20, 30]])


def saved(directory: pathlib.Path, **arrays: Any) -> pathlib.Path:
    np.savez(directory / 'p.npz', **arrays)
    return directory / 'p.npz'


@pytest.mark.parametrize(('order', 'boxes'), [
    (None, [[5, 10, 20, 30]] * 3), ('yxyx', [[5, 10, 20, 30]] * 3), ('xyxy', [[10, 5, 30, 20]] * 3),
    ('xywh', [[10, 5, 20, 15]] * 3)])
def test_an_npz_of_each_order(order: str | None, boxes: list[list[int]], tmp_path: pathlib.Path) -> None:
    path = saved(tmp_path, ids=['a', 'b', 'c'], counts=[2, 0, 1], boxes=boxes, **({'order': order} if order else {}))
    by_image = proposal_files.read(path)
    assert list(by_image) == ['a', 'b', 'c'] and [len(each.boxes) for each in by_image.values()] == [2, 0, 1]
    np.testing.assert_array_equal(by_image['c'].boxes, [[5, 10, 20, 30]])
    np.testing.assert_array_equal(by_image['a'].scores, [1, 0.5])      # by rank if there are none
    np.testing.assert_array_equal(proposal_files.read(saved(
        tmp_path, ids=[7.0], counts=[1], boxes=boxes[:1], scores=[0.25]))['7'].scores, [0.25])


@pytest.mark.parametrize(('data', 'named'), [
    ([1, 2], "no list 'ids' or 'indexes'"),
    ({'ids': [1]}, "no list 'boxes'"),
    ({'ids': [1], 'boxes': [], 'scores': []}, '1 ids, 0 lists of boxes and 0 lists of scores'),
    ({'ids': [1], 'boxes': [[[1, 2, 3]]], 'scores': [[1]]}, 'image 1: expected four numbers per box and one score'),
    ({'ids': [1], 'boxes': [[['a', 2, 3, 4]]], 'scores': [[1]]}, 'image 1: expected four numbers per box'),
    ({'ids': [1], 'boxes': [[[1, 2, 3, 4]]], 'scores': [[1, 2]]}, 'image 1: 1 boxes and 2 scores'),
    ({'ids': [1, '1'], 'boxes': [[], []], 'scores': [[], []]}, 'image id 1 occurs twice'),
    ({'ids': [], 'boxes': [], 'scores': [], 'bbox_mode': 4}, 'bbox_mode is 4'),
])
def test_a_pickle_that_holds_something_else(data: Any, named: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'a.pkl'
    path.write_bytes(pickle.dumps(data))
    with pytest.raises(ConversionError) as caught:
        proposal_files.read(path)
    assert str(caught.value).startswith(f'{path}: ') and named in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('arrays', 'named'), [
    ({'ids': [1]}, "no array 'boxes' or 'counts'"),
    ({'ids': [1], 'counts': [2], 'boxes': np.zeros((1, 4))}, '1 ids, 1 counts of 2 boxes together, and 1 boxes'),
    ({'ids': [1, 2], 'counts': [1], 'boxes': np.zeros((1, 4))}, '2 ids, 1 counts'),
    ({'ids': [1, 2], 'counts': [2, -1], 'boxes': np.zeros((1, 4))}, '2 ids, 2 counts'),
    ({'ids': [1], 'counts': [1], 'boxes': np.zeros((1, 4)), 'order': 'zyx'}, "order is 'zyx'"),
    ({'ids': 5, 'counts': 3, 'boxes': 3.0}, '1 ids, 1 counts of 3 boxes together, and 1 boxes'),
    ({'ids': 5, 'counts': 1, 'boxes': 3.0}, 'expected four numbers per box and one score'),
    ({'ids': np.array([{}], object)}, 'cannot be read'),
])
def test_an_npz_that_holds_something_else(arrays: Any, named: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError) as caught:
        proposal_files.read(saved(tmp_path, **arrays))
    assert named in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['a.npz', 'a.mat', 'a.csv', 'none.npz'])
def test_files_that_cannot_be_read(name: str, tmp_path: pathlib.Path) -> None:
    if name.endswith('.mat'):
        pytest.importorskip('scipy.io', reason="no scipy; pip install -e '.[proposals]'")
    (tmp_path / 'a.npz').write_bytes(b'nonsense')
    (tmp_path / 'a.mat').write_bytes(b'nonsense of more than a hundred and twenty-eight bytes' * 4)
    with pytest.raises(ConversionError) as caught:
        proposal_files.read(tmp_path / name)
    assert str(caught.value).startswith(f'{tmp_path / name}: ') and '\n' not in str(caught.value)

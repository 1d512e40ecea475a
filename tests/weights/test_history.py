"""history.csv: what is written is read back; the best row; damaged files."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.weights.checkpoint_files import CheckpointError
from mrcnn_tf.weights.history import History


def history_of(directory: pathlib.Path, values: dict[str, list[float | None]], metric: str | None = None) -> History:
    """Return a history of steps 10, 20, ..., given the values of each column."""
    history = History(directory, metric)
    for i, row in enumerate(zip(*values.values(), strict=True)):
        history.add(10 * (i + 1), dict(zip(values, row, strict=True)))
    return history


def test_rows_are_read_back(tmp_path: pathlib.Path) -> None:
    written = History(tmp_path)
    written.add(10, {'bbox/AP': 0.1 + 0.2, 'bbox/APl': None})
    written.add(20, {'bbox/AP': 0.25, 'bbox/APl': None, 'bbox/AP/a, "b"': 0.5})    # a validation set of more classes
    assert written.path.read_text() == ('step,bbox/AP,bbox/APl,"bbox/AP/a, ""b"""\n10,0.30000000000000004,,\n'
                                        '20,0.25,,0.5\n')
    rows = History(tmp_path).rows
    assert [row.step for row in rows] == [10, 20]
    assert rows[0].values == {'bbox/AP': 0.1 + 0.2, 'bbox/APl': None, 'bbox/AP/a, "b"': None}


def test_a_run_that_resumes_repeats_the_rows_after_its_step(tmp_path: pathlib.Path) -> None:
    history = history_of(tmp_path, {'bbox/AP': [.1, .2, .3]})
    history.remove_after(30)
    assert [row.step for row in history.rows] == [10, 20, 30]
    history.remove_after(10)
    assert [row.step for row in History(tmp_path).rows] == [10]
    history.add(20, {'bbox/AP': .4})
    assert history.has(20) and not history.has(30)
    assert [row.values['bbox/AP'] for row in History(tmp_path).rows] == [.1, .4]


@pytest.mark.parametrize(('metric', 'values', 'step', 'since'), [
    (None, {'bbox/AP': [.1, .3, .3, .2]}, 20, 2),
    (None, {'bbox/AP': [.1, .3, .2], 'segm/AP': [.3, .2, .1]}, 10, 2),
    (None, {'bbox/AP': [.1, .3, .2], 'segm/AP': [None, None, None]}, 20, 1),
    ('bbox/AP50', {'bbox/AP': [.1, .3], 'bbox/AP50': [.5, .4]}, 10, 1),
    ('val_loss', {'bbox/AP': [.1, .3, .4], 'val_loss': [2., 1., 3.]}, 20, 1),
    (None, {'bbox/AP': [0., 0., .1, 0.]}, 30, 1),
    (None, {'bbox/AP': [0., 0., 0.]}, 30, 0),
    (None, {'bbox/AP': [.1, float('nan'), .2]}, 30, 0)],
    ids=['the first of equals', 'masks before boxes', 'no masks', 'a named metric', 'the lowest loss', 'zeros first',
         'only zeros', 'NaN'])
def test_the_best_row(tmp_path: pathlib.Path, metric: str | None, values: dict[str, list[float | None]], step: int,
                      since: int) -> None:
    written = history_of(tmp_path, values, metric)
    for history in (written, History(tmp_path, metric)):
        assert history.best().step == step and history.since_best() == since


def test_the_best_row_of_some_steps(tmp_path: pathlib.Path) -> None:
    history = history_of(tmp_path, {'bbox/AP': [.1, .3, .2]})
    assert history.best([10, 30]).step == 30 and history.best([]) is None


@pytest.mark.parametrize('values', [{}, {'bbox/AP': [None]}, {'other/AP': [.5]}], ids=['no rows', 'None', 'no metric'])
def test_without_a_metric_no_row_is_the_best(tmp_path: pathlib.Path, values: dict[str, list[float | None]]) -> None:
    history = history_of(tmp_path, values)
    assert history.best() is None and history.since_best() == 0 and history.metric is None


@pytest.mark.parametrize('content', [b'a,b\n1,2\n', b'step,bbox/AP\n1;0.5\n', b'step,bbox/AP\n1,good\n', b'\xff\xfe',
                                     b'step\n1,2\n'], ids=['no steps', 'semicolons', 'words', 'binary', 'long row'])
def test_a_damaged_file_is_an_error_of_one_line(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / 'history.csv').write_bytes(content)
    with pytest.raises(CheckpointError, match=r'^[^\n]*history.csv: is not the history of a run \([^\n]*remove it'):
        History(tmp_path)


def test_an_empty_file_has_no_rows(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'history.csv').touch()
    assert History(tmp_path).rows == []

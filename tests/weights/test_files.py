"""Weight files of each format, complete and damaged."""
from __future__ import annotations

import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from mrcnn_tf.files.restricted_pickle import PickleError
from mrcnn_tf.weights import files
from mrcnn_tf.weights.rules import WeightsError

ARRAYS = {'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3), 'a.bias': np.float32([1, 2])}


def write(path, arrays) -> None:
    if path.suffix == '.npz':
        np.savez(path, **arrays)
    elif path.suffix == '.safetensors':
        save_file(arrays, path)
    elif path.suffix == '.pkl':
        path.write_bytes(pickle.dumps({'model': arrays, '__author__': 'someone'}, protocol=2))
    else:
        torch = pytest.importorskip('torch')
        torch.save({'model': {name: torch.from_numpy(value) for name, value in arrays.items()}, 'epoch': 3}, path)


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors', '.pkl', '.pth'])
def test_parameters_are_read_by_name(tmp_path, suffix) -> None:
    path = tmp_path / f'weights{suffix}'
    write(path, ARRAYS)
    parameters = files.read(path)
    assert parameters.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(parameters[name], value)


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors', '.pkl', '.pth'])
@pytest.mark.parametrize('keep', [0, 5, .5, .97])
def test_a_file_that_is_cut_off_is_refused(tmp_path, suffix, keep) -> None:
    path = tmp_path / f'weights{suffix}'
    write(path, ARRAYS)
    content = path.read_bytes()
    path.write_bytes(content[:int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises((WeightsError, PickleError), match=f'^{path}: ') as error:
        files.read(path)
    assert '\n' not in str(error.value)


class _Foreign:
    def __reduce__(self):
        return print, ('run',)


def test_a_pickle_with_code_is_refused_by_name(tmp_path, capsys) -> None:
    path = tmp_path / 'weights.pkl'
    path.write_bytes(pickle.dumps({'model': {'a': _Foreign()}}))
    with pytest.raises(PickleError, match='builtins.*print'):
        files.read(path)
    assert not capsys.readouterr().out


def test_objects_in_npz_are_refused(tmp_path) -> None:
    path = tmp_path / 'weights.npz'
    np.savez(path, a=np.array([_Foreign()], object))
    with pytest.raises(WeightsError, match='damaged, or not what its name says'):
        files.read(path)


@pytest.mark.parametrize(('name', 'message'), [
    ('weights.h5', r'ends in one of \.npz, \.safetensors'), ('missing.npz', 'no such file'),
    ('missing.pth', 'no such file'), ('there.npz', 'directory')])
def test_an_unreadable_file_is_refused(tmp_path, name, message) -> None:
    (tmp_path / 'there.npz').mkdir()
    with pytest.raises(WeightsError, match=message):
        files.read(tmp_path / name)


def test_a_file_without_parameters_is_refused(tmp_path) -> None:
    path = tmp_path / 'weights.pkl'
    for value, message in (({'lr': .1}, 'contains no parameters'), ([1, 2], 'contains a list, not parameters by name')):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(WeightsError, match=message):
            files.read(path)


def test_pth_files_need_pytorch(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'torch', None)
    path = tmp_path / 'weights.pth'
    path.write_bytes(b'x')
    with pytest.raises(WeightsError, match=r'pip install .*\[torch\]'):
        files.read(path)

"""Reading of pickles: values of all protocols, and refusal of malicious, damaged and unsupported files."""
from __future__ import annotations

import collections
import os
import pathlib
import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrcnn_tf.files.restricted_pickle import PickleError, load

# float32 [1, -2] as Python 2's numpy pickled it, protocol 2: texts are bytes (U), and so are the array's.
_PYTHON_2 = (b'\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85q\x02U\x01bq\x03'
             b'\x87q\x04Rq\x05(K\x01K\x02\x85q\x06cnumpy\ndtype\nq\x07U\x02f4q\x08K\x00K\x01\x87q\tRq\n(K\x03U\x01<q\x0bNNN'
             b'J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0cb\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0q\rtq\x0eb.')
# The same of Python 2's protocol 0, in which everything is a line.
_PYTHON_2_LINES = (b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n"
                   b"(I1\n(I2\ntp6\ncnumpy\ndtype\np7\n(S'f4'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\ntp12\nb"
                   b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\np13\ntp14\nb.")

_VALUES = {
    'blobs': {'conv1_w': np.arange(6, dtype=np.float32).reshape(2, 3), 'big_endian': np.array([1, 300], '>i2'),
              'columns_first': np.asfortranarray(np.arange(6.).reshape(2, 3)), 'none': np.zeros((0, 4), np.float32),
              'scalar': np.array(2.5), 'flags': np.array([True, False]), 'names': np.array(['a', 'bcd']),
              'bytes': np.array([b'x', b'yz']), 'half': np.array([0.5], np.float16), 'complex': np.array([1 + 2j])},
    'numbers': [1, -2 ** 70, 2.5, 1 + 2j, True, None, np.float32(1.5), np.int64(-7), np.bool_(True)],
    'texts': ('a', 'é中', b'\x00\xff', b'', bytearray(b'ab')),
    'sets': [{1, 2}, frozenset({3})], 'dtype': np.dtype('<i8'), 3: 'three',
}


def _assert_same(value: Any, expected: Any) -> None:
    assert type(value) is type(expected)
    if isinstance(expected, dict):
        assert list(value) == list(expected)
        for key in expected:
            _assert_same(value[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(value) == len(expected)
        for one, other in zip(value, expected, strict=True):
            _assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert value.dtype == expected.dtype and value.flags.writeable
        assert value.flags.f_contiguous == expected.flags.f_contiguous
        np.testing.assert_array_equal(value, expected)
    else:
        assert value == expected


def _write(directory: pathlib.Path, data: bytes) -> pathlib.Path:
    path = directory / 'a.pkl'
    path.write_bytes(data)
    return path


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_are_read_unchanged(protocol: int, tmp_path: pathlib.Path) -> None:
    # Before protocol 5 a bytearray is made by a call of `bytearray`, which is refused.
    values = _VALUES if protocol == 5 else {**_VALUES, 'texts': _VALUES['texts'][:4]}
    _assert_same(load(_write(tmp_path, pickle.dumps(values, protocol))), values)


@pytest.mark.parametrize('data', [_PYTHON_2, _PYTHON_2_LINES], ids=['protocol 2', 'protocol 0'])
def test_arrays_of_python_2_are_read(data: bytes, tmp_path: pathlib.Path) -> None:
    _assert_same(load(_write(tmp_path, data)), np.array([1, -2], np.float32))


def test_module_names_of_numpy_1_and_2_are_known(tmp_path: pathlib.Path) -> None:
    for core in (b'numpy.core.multiarray', b'numpy._core.multiarray'):
        data = _PYTHON_2.replace(b'numpy.core.multiarray', core)
        _assert_same(load(_write(tmp_path, data)), np.array([1, -2], np.float32))


def test_ordered_dicts_become_dicts(tmp_path: pathlib.Path) -> None:
    data = pickle.dumps(collections.OrderedDict([('b', 1), ('a', np.array([2]))]), 2)
    _assert_same(load(_write(tmp_path, data)), {'b': 1, 'a': np.array([2])})


def test_shared_objects_stay_shared(tmp_path: pathlib.Path) -> None:
    array = np.array([1.0])
    inner = (array,)
    loaded = load(_write(tmp_path, pickle.dumps([array, inner, inner])))
    assert loaded[0] is loaded[1][0] and loaded[1] is loaded[2]


@pytest.mark.parametrize('kind', [tuple, list])
def test_a_value_with_too_many_paths_is_refused(kind: Any, tmp_path: pathlib.Path) -> None:
    value: Any = kind([np.array([1])])
    for _ in range(60):
        value = kind([value, value])      # 2^60 paths lead to the array, so `repr` would take forever
    with pytest.raises(PickleError, match='the same values too often'):
        load(_write(tmp_path, pickle.dumps(value)))


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_with_too_many_paths_is_refused(protocol: int, tmp_path: pathlib.Path) -> None:
    parts: list[Any] = [()]
    for _ in range(60):
        parts.append((parts[-1], parts[-1]))      # its hash would take forever in this test too
    program = pickle.dumps(parts[-1], protocol)[:-1]
    for key in (b'}' + program + b'Ns.', b'}(' + program + b'Nu.', b'(' + program + b'Nd.',
                b'\x8f(' + program + b'\x90.', b'(' + program + b'\x91.',
                b'c__builtin__\nset\n](' + program + b'e\x85R.'):
        with pytest.raises(PickleError, match='the same values too often'):
            load(_write(tmp_path, key))


@pytest.mark.parametrize(('data', 'named'), [
    (b'(' * 2_000_000, 'nested too deeply'), (b'(' * 2_000_000 + b'.', 'nested too deeply'),
    (b']' * 100_000 + b'a' * 99_999 + b'.', 'nested too deeply'),
    (b')' + b'\x85' * 100_000 + b'.', 'nested too deeply'),
    # Each of 20,000 calls copies the same 10,000 bytes: 200 megabytes from 0.1.
    (b'](c_codecs\nencode\nq\0X' + (10_000).to_bytes(4, 'little') + b'a' * 10_000 + b'U\x06latin1\x86q\1'
     + b'h\0h\1R' * 20_000 + b'e.', 'more than the file holds'),
    # The same of arrays: 20,000 states with the same 10,000 bytes.
    (b'](cnumpy.core.multiarray\n_reconstruct\nq\0cnumpy\nndarray\nNN\x87q\1(M\x10\x27\x85cnumpy\ndtype\nU\x02i1\x85R\x89X'
     + (10_000).to_bytes(4, 'little') + b'a' * 10_000 + b'tq\2' + b'h\0h\1Rh\2b' * 20_000 + b'e.',
     'more than the file holds'),
], ids=['marks', 'marks and an end', 'lists', 'tuples', 'copies of text', 'copies of arrays'])
def test_memory_and_time_bombs_are_refused_within_seconds(data: bytes, named: str, tmp_path: pathlib.Path) -> None:
    start = time.process_time()
    with pytest.raises(PickleError, match=named):
        load(_write(tmp_path, data))
    assert time.process_time() - start < 5


class _Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


class _Stated:
    """Pickled as a call, and a state for its result."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


class _Own(np.ndarray):
    pass


def _text(text: str) -> bytes:
    return b'\x8c' + bytes([len(text.encode())]) + text.encode()


@pytest.mark.parametrize(('hostile', 'named'), [
    (_Call(os.system, 'touch here'), f'{os.system.__module__}.system'),
    (_Call(eval, '1 + 1'), 'builtins.eval'),
    (_Call(getattr, 'x', 'upper'), 'builtins.getattr'),
    (_Call(bytearray, 10 ** 15), 'builtins.bytearray'),
    (_Call(np.load, 'x'), 'numpy.load'),
    (np.zeros(2).view(_Own), 'test_restricted_pickle._Own'),
    (pathlib.PurePosixPath('a'), 'PurePosixPath'),
    ([{'deep': (np.float32, 1)}], 'numpy.float32'),
    (np.ndarray, 'function or a class'),
    (_Call(np.ndarray, (10 ** 12,)), 'numpy.ndarray'),
    (np.array([1, 'a', None], object), 'O8'),
    (np.array([(1, 2)], [('a', 'i4'), ('b', 'i4')]), 'V8'),
    (np.array(['2020-01-01'], 'M8[D]'), 'M8'),
])
def test_other_functions_and_classes_are_refused_by_name(hostile: Any, named: str, tmp_path: pathlib.Path) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = _write(tmp_path, pickle.dumps(hostile, protocol).replace(b'__builtin__', b'builtins'))
        with pytest.raises(PickleError) as caught:
            load(path)
        assert str(caught.value).startswith(f'{path}: ') and named in str(caught.value)
        assert '\n' not in str(caught.value)


_HEAD = b'\x80\x04'


@pytest.mark.parametrize(('data', 'named'), [
    # An attribute of a known class.
    (_HEAD + _text('numpy') + _text('dtype.__init__') + b'\x93.', 'numpy.dtype.__init__'),
    (_HEAD + _text('numpy') + _text('_evil\xe9\x00\r') + b'\x93.', 'numpy._evil\xe9\\x00\\r'),
    (b'(S"touch here"\nios\nsystem\n.', 'os.system'),                             # INST
    (b'cnumpy\ndtype\n(S"f4"\nt\x81.', 'NEWOBJ'),                                # a constructor is not a class
    (b'\x82\x01.', 'extension code 1'),                                           # EXT1
    (b'Pname\n.', 'objects outside of it'),                                       # PERSID
    (b'PK\x03\x04 a zip', 'not a pickle'),
    (b'(lp0\n(tR.', 'not callable'),
    (b'c_codecs\nencode\n(S"a"\nS"rot13"\ntR.', 'encodes text as rot13'),
    # State for a constructor, a list, a dict and a scalar.
    (b'cnumpy\ndtype\n(N}S"__code__"\nNstb.', 'changes a function'),
    (b'(lp0\n}S"a"\nNsb.', 'list'),
    (b'}(N}S"a"\nNstb.', 'dict'),
    (b'K\x010K\x02.', 'uses POP'), (b'K\x012\x86.', 'uses DUP'),
    (b'K\x01K\x02.', 'more than one value'), (b'(K\x01\x86.', 'operands are missing'),
])
def test_malicious_programs_are_refused(data: bytes, named: str, tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, data)
    with pytest.raises(PickleError) as caught:
        load(path)
    assert str(caught.value).startswith(f'{path}: ') and named in str(caught.value)
    assert str(caught.value).isprintable()


def test_forged_dtype_flags_are_ignored(tmp_path: pathlib.Path) -> None:
    # With flags 63 numpy would use these 8 bytes as a pointer to a Python object.
    dtype = _Stated(np.dtype, ('i8', False, False), (3, '<', None, None, None, -1, -1, 63))
    forged = _Stated(*np.zeros(0).__reduce__()[:2], (1, (1,), dtype, False, b'\x41' * 8))
    loaded = load(_write(tmp_path, pickle.dumps(forged)))
    assert loaded.dtype == np.dtype('i8') and not loaded.dtype.hasobject
    assert loaded.tolist() == [0x4141414141414141] and not np.dtype('i8').hasobject


@pytest.mark.parametrize(('shape', 'dtype', 'data'), [
    ((3,), 'i8', b'\0' * 16),
    ((1,), 'i8', b'\0' * 16),
    ((-1,), 'i8', b'\0' * 16),
    ((2 ** 62, 4), 'i8', b''),
    ((1,), 'i8', [object]),
    ((1,), 'U999999999', b'\0' * 4),
    ((1,), 'U1', b'\xff\xff\x11\0'),      # beyond the last character of Unicode, 0x10ffff
    ('a', 'i8', b''),
])
def test_an_array_whose_bytes_do_not_fit_is_refused(
        shape: Any, dtype: str, data: Any, tmp_path: pathlib.Path) -> None:
    state = (1, shape, _Stated(np.dtype, (dtype, False, True), (3, '<', None, None, None, -1, -1, 0)), False, data)
    with pytest.raises(PickleError):
        load(_write(tmp_path, pickle.dumps(_Stated(*np.zeros(0).__reduce__()[:2], state))))


@pytest.mark.parametrize('data', [
    _HEAD + b'\x8e' + (2 ** 60).to_bytes(8, 'little') + b'ab.',             # bytes of an exabyte
    b'\x80\x05\x96' + (2 ** 40).to_bytes(8, 'little') + b'ab.',             # a bytearray of a terabyte
    _HEAD + b'\x95' + (2 ** 50).to_bytes(8, 'little') + b'N.',              # a frame of a petabyte
])
def test_a_length_beyond_the_file_is_refused(data: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(PickleError, match='cut off'):
        load(_write(tmp_path, data))


@pytest.mark.parametrize('data', [b'Nr\xff\xff\xff\x7f.', b'Np2147483647\n.'], ids=['LONG_BINPUT', 'PUT'])
def test_a_large_memo_index_is_refused(data: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(PickleError, match='PUT 2147483647 is beyond its end'):     # pickle would allocate 32 GiB
        load(_write(tmp_path, data))


def test_deeply_nested_containers_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(PickleError, match='nested too deeply'):
        load(_write(tmp_path, b'\x80\x02' + b'](' * 50000 + b'e' * 50000 + b'.'))


def test_a_container_that_holds_itself_is_refused(tmp_path: pathlib.Path) -> None:
    inner: list[Any] = []
    inner.append((inner,))
    direct: dict[str, Any] = {}
    direct['self'] = direct
    for value in (inner, inner[0], direct):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(PickleError, match='that holds itself'):
                load(_write(tmp_path, pickle.dumps(value, protocol)))


def test_a_pickle_cut_off_anywhere_is_refused(tmp_path: pathlib.Path) -> None:
    whole = pickle.dumps({'boxes': [np.zeros((2, 4))], 'ids': [1, 2]}, 2)
    for length in range(len(whole)):
        path = _write(tmp_path, whole[:length])
        with pytest.raises(PickleError, match='not a pickle, or cut off'):
            load(path)


@pytest.mark.parametrize('data', [b'', b'\x89HDF\r\n\x1a\n', b'{"a": 1}', b'\xff\xd8\xff\xe0'])
def test_files_of_other_formats_are_refused(data: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(PickleError, match='a.pkl: not a pickle, or cut off .*; copy it again'):
        load(_write(tmp_path, data))


def test_a_missing_file_is_refused(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path / 'none.pkl', tmp_path):
        with pytest.raises(PickleError, match=f'^{path}: .*; give a pickle$'):
            load(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10 ** 6), st.integers(0, 255)), min_size=1, max_size=8),
       protocol=st.integers(0, 5))
def test_damaged_pickles_give_a_value_or_one_line(changes: list[tuple[int, int]], protocol: int,
                                                 tmp_path: pathlib.Path) -> None:
    data = bytearray(pickle.dumps({'boxes': [np.zeros((2, 4))], 'ids': (1, 'a'), 'set': {1}}, protocol))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        load(_write(tmp_path, bytes(data)))
    except PickleError as error:
        assert '\n' not in str(error)

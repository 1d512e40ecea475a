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


def _same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            _same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _same(one, other)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.flags.writeable
        assert found.flags.f_contiguous == expected.flags.f_contiguous
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def _write(directory: pathlib.Path, data: bytes) -> pathlib.Path:
    path = directory / 'a.pkl'
    path.write_bytes(data)
    return path


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_texts_and_containers_come_back_as_they_were(protocol: int, tmp_path: pathlib.Path) -> None:
    # Without protocol 5 a bytearray is made by a call, which is not admitted.
    values = _VALUES if protocol == 5 else {**_VALUES, 'texts': _VALUES['texts'][:4]}
    _same(load(_write(tmp_path, pickle.dumps(values, protocol))), values)


@pytest.mark.parametrize('data', [_PYTHON_2, _PYTHON_2_LINES])
def test_python_2(data: bytes, tmp_path: pathlib.Path) -> None:
    _same(load(_write(tmp_path, data)), np.array([1, -2], np.float32))


def test_names_of_numpy_1_and_2(tmp_path: pathlib.Path) -> None:
    for core in (b'numpy.core.multiarray', b'numpy._core.multiarray'):
        data = _PYTHON_2.replace(b'numpy.core.multiarray', core)
        _same(load(_write(tmp_path, data)), np.array([1, -2], np.float32))


def test_ordered_dicts_become_dicts(tmp_path: pathlib.Path) -> None:
    data = pickle.dumps(collections.OrderedDict([('b', 1), ('a', np.array([2]))]), 2)
    _same(load(_write(tmp_path, data)), {'b': 1, 'a': np.array([2])})


def test_what_was_one_object_stays_one(tmp_path: pathlib.Path) -> None:
    array = np.array([1.0])
    inner = (array,)
    found = load(_write(tmp_path, pickle.dumps([array, inner, inner])))
    assert found[0] is found[1][0] and found[1] is found[2]


@pytest.mark.parametrize('kind', [tuple, list])
def test_a_value_of_too_many_paths_is_refused(kind: Any, tmp_path: pathlib.Path) -> None:
    value: Any = kind([np.array([1])])
    for _ in range(60):
        value = kind([value, value])      # 2^60 paths lead to the array: to print it would take for ever
    with pytest.raises(PickleError, match='the same values too often'):
        load(_write(tmp_path, pickle.dumps(value)))


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_of_too_many_paths_is_refused(protocol: int, tmp_path: pathlib.Path) -> None:
    parts: list[Any] = [()]
    for _ in range(60):
        parts.append((parts[-1], parts[-1]))      # its hash would take for ever, here too: so the program by hand
    program = pickle.dumps(parts[-1], protocol)[:-1]
    for key in (b'}' + program + b'Ns.', b'}(' + program + b'Nu.', b'(' + program + b'Nd.',
                b'\x8f(' + program + b'\x90.', b'(' + program + b'\x91.',
                b'c__builtin__\nset\n](' + program + b'e\x85R.'):
        with pytest.raises(PickleError, match='a key that is a container of containers'):
            load(_write(tmp_path, key))


@pytest.mark.parametrize(('data', 'named'), [
    (b'(' * 2_000_000, 'nested too deeply'), (b'(' * 2_000_000 + b'.', 'nested too deeply'),
    (b']' * 100_000 + b'a' * 99_999 + b'.', 'nested too deeply'),
    (b')' + b'\x85' * 100_000 + b'.', 'nested too deeply'),
    # Each of 100,000 calls copies the same 10,000 bytes: a gigabyte from 0.2 megabytes.
    (b'c_codecs\nencode\nq\0X' + (10_000).to_bytes(4, 'little') + b'a' * 10_000 + b'U\x06latin1\x86q\1'
     + b'h\0h\1R' * 100_000 + b'.', 'more than the file holds'),
], ids=['marks', 'marks and an end', 'lists', 'tuples', 'copies'])
def test_bombs_end_within_seconds(data: bytes, named: str, tmp_path: pathlib.Path) -> None:
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
    """Pickled as a call and a state for what it gives."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


class _Own(np.ndarray):
    pass


def _text(text: str) -> bytes:
    return b'\x8c' + bytes([len(text)]) + text.encode()


@pytest.mark.parametrize(('hostile', 'named'), [
    (_Call(os.system, 'touch here'), f'{os.system.__module__}.system'),
    (_Call(eval, '1 + 1'), 'builtins.eval'),
    (_Call(getattr, 'x', 'upper'), 'builtins.getattr'),
    (_Call(bytearray, 10 ** 15), 'builtins.bytearray'),
    (_Call(np.load, 'x'), 'numpy.load'),
    (_Own((2,)), 'test_restricted_pickle._Own'),
    (pathlib.PurePosixPath('a'), 'PurePosixPath'),
    ([{'deep': (np.float32, 1)}], 'numpy.float32'),
    (np.ndarray, 'function or a class'),
    (_Call(np.ndarray, (10 ** 12,)), 'numpy.ndarray'),
    (np.array([1, 'a', None], object), 'O8'),
    (np.array([(1, 2)], [('a', 'i4'), ('b', 'i4')]), 'V8'),
    (np.array(['2020-01-01'], 'M8[D]'), 'M8'),
])
def test_anything_else_is_refused_by_name(hostile: Any, named: str, tmp_path: pathlib.Path) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = _write(tmp_path, pickle.dumps(hostile, protocol).replace(b'__builtin__', b'builtins'))
        with pytest.raises(PickleError) as caught:
            load(path)
        assert str(caught.value).startswith(f'{path}: ') and named in str(caught.value)
        assert '\n' not in str(caught.value)


_HEAD = b'\x80\x04'


@pytest.mark.parametrize(('data', 'named'), [
    # An attribute of what is admitted.
    (_HEAD + _text('numpy') + _text('dtype.__init__') + b'\x93.', 'numpy.dtype.__init__'),
    (b'(S"touch here"\nios\nsystem\n.', 'os.system'),                             # INST
    (b'(S"f4"\ninumpy\ndtype\n.', 'objects of classes'),
    (b'(cnumpy\ndtype\nS"f4"\no.', 'objects of classes'),                         # OBJ
    (b'cnumpy\ndtype\n(S"f4"\nt\x81.', 'objects of classes'),                     # NEWOBJ
    (b'\x82\x01.', 'objects of classes'),                                         # EXT1
    (b'Pname\n.', 'objects outside of it'),                                       # PERSID
    (b'PK\x03\x04 a zip', 'objects outside of it'),
    (b'(lp0\n(tR.', 'calls an object of list'),
    (b'c_codecs\nencode\n(S"a"\nS"rot13"\ntR.', 'encodes text as rot13'),
    # State for a function of ours, and for a container.
    (b'cnumpy\ndtype\n(N}S"__code__"\nNstb.', 'changes an object of function'),
    (b'(lp0\n}b.', 'changes an object of list'),
    (b'cnumpy\n_evil\xc3\xa9\x00\r\n.', "asks for 'numpy._evil\\xe9\\x00\\r'..."),
])
def test_hostile_programs_are_refused(data: bytes, named: str, tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, data)
    with pytest.raises(PickleError) as caught:
        load(path)
    assert str(caught.value).startswith(f'{path}: ') and named in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_forged_dtype_stays_a_plain_one(tmp_path: pathlib.Path) -> None:
    # Flags 63 tell numpy that these 8 bytes are a pointer to a Python object.
    dtype = _Stated(np.dtype, ('i8', False, False), (3, '<', None, None, None, -1, -1, 63))
    forged = _Stated(*np.zeros(0).__reduce__()[:2], (1, (1,), dtype, False, b'\x41' * 8))
    found = load(_write(tmp_path, pickle.dumps(forged)))
    assert found.dtype == np.dtype('i8') and not found.dtype.hasobject
    assert found.tolist() == [0x4141414141414141] and not np.dtype('i8').hasobject


@pytest.mark.parametrize(('shape', 'dtype', 'data'), [
    ((3,), 'i8', b'\0' * 16),
    ((1,), 'i8', b'\0' * 16),
    ((-1,), 'i8', b'\0' * 16),
    ((2 ** 62, 4), 'i8', b''),
    ((1,), 'i8', [object]),
    ((1,), 'U999999999', b'\0' * 4),
    ('a', 'i8', b''),
])
def test_an_array_has_the_bytes_that_it_says(shape: Any, dtype: str, data: Any, tmp_path: pathlib.Path) -> None:
    state = (1, shape, _Stated(np.dtype, (dtype, False, True), (3, '<', None, None, None, -1, -1, 0)), False, data)
    with pytest.raises(PickleError):
        load(_write(tmp_path, pickle.dumps(_Stated(*np.zeros(0).__reduce__()[:2], state))))


@pytest.mark.parametrize('data', [
    _HEAD + b'\x8e' + (2 ** 60).to_bytes(8, 'little') + b'ab.',             # bytes of an exabyte
    b'\x80\x05\x96' + (2 ** 40).to_bytes(8, 'little') + b'ab.',             # a bytearray of a terabyte
    _HEAD + b'\x95' + (2 ** 50).to_bytes(8, 'little') + b'N.',              # a frame of a petabyte
])
def test_a_length_beyond_the_file_is_not_believed(data: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(PickleError, match='cut one'):
        load(_write(tmp_path, data))


def test_a_memo_of_any_index_takes_no_memory(tmp_path: pathlib.Path) -> None:
    assert load(_write(tmp_path, b'Nr\xff\xff\xff\xff.')) is None


def test_containers_too_deep(tmp_path: pathlib.Path) -> None:
    with pytest.raises(PickleError, match='nested too deeply'):
        load(_write(tmp_path, b'\x80\x02' + b'](' * 50000 + b'e' * 50000 + b'.'))


def test_a_container_that_holds_itself(tmp_path: pathlib.Path) -> None:
    inner: list[Any] = []
    inner.append((inner,))
    for value, kind in ((inner, 'list'), (inner[0], 'tuple')):
        with pytest.raises(PickleError, match=f'a {kind} that holds itself'):
            load(_write(tmp_path, pickle.dumps(value)))


def test_every_cut_is_told(tmp_path: pathlib.Path) -> None:
    whole = pickle.dumps({'boxes': [np.zeros((2, 4))], 'ids': [1, 2]}, 2)
    for length in range(len(whole)):
        path = _write(tmp_path, whole[:length])
        with pytest.raises(PickleError, match='not a pickle, or a cut one'):
            load(path)


@pytest.mark.parametrize('data', [b'', b'\x89HDF\r\n\x1a\n', b'{"a": 1}', b'\xff\xd8\xff\xe0'])
def test_other_files(data: bytes, tmp_path: pathlib.Path) -> None:
    with pytest.raises(PickleError, match='a.pkl: not a pickle, or a cut one .*; copy it again'):
        load(_write(tmp_path, data))


def test_no_file(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path / 'none.pkl', tmp_path):
        with pytest.raises(PickleError, match=f'^{path}: .*; give a pickle$'):
            load(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10 ** 6), st.integers(0, 255)), min_size=1, max_size=8),
       protocol=st.integers(0, 5))
def test_damaged_bytes_give_a_value_or_the_error(changes: list[tuple[int, int]], protocol: int,
                                                 tmp_path: pathlib.Path) -> None:
    data = bytearray(pickle.dumps({'boxes': [np.zeros((2, 4))], 'ids': (1, 'a'), 'set': {1}}, protocol))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        load(_write(tmp_path, bytes(data)))
    except PickleError as error:
        assert '\n' not in str(error)

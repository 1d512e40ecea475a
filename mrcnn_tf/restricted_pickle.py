"""Reads pickles of numbers: numpy arrays, scalars and dtypes, plain Python containers, numbers and text, nothing else.

A pickle is a program; whoever loads one runs what its author wrote. Weights and proposals of other projects come as
pickles, of Python 2 too. Here the program may call eight functions of this module, which stand in for those that
numpy's and Python's own pickles name, and give state to the two objects that those make. No code of numpy ever sees
what the file says of a dtype's flags or of an array's pointers: an array is made from plain bytes of a plain type.
"""
from __future__ import annotations

import math
import os
import pathlib
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np

_PLAIN_DTYPE = re.compile(r'b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU][1-9]\d{0,8}')
_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray, np.generic, np.dtype)
_OPEN = object()    # stands for a tuple of which not all is known yet
_INSTEAD = 'save it again as arrays in dicts, lists and tuples'


class PickleError(ValueError):
    """A pickle that is not read; the message is one line: the file, what is wrong, the remedy."""


def load(path: str | os.PathLike[str]) -> Any:
    """What a pickle of any protocol holds; texts of Python 2 are taken as latin-1, as numpy's bytes need it.

    Returns:
        None, numbers, text, bytes, dicts (ordered ones too), lists, tuples, sets, numpy arrays (copies, writable) of
        numbers or fixed-length text, numpy scalars and dtypes, inside one another as they were.

    Raises:
        PickleError: no such file, not a pickle, a cut one, or one that asks for any other class or function.
    """
    path = pathlib.Path(path)
    try:
        with path.open('rb') as stream:
            return _finish(_Unpickler(_Bounded(stream, path.stat().st_size)).load(), {})
    except OSError as error:
        raise PickleError(f'{path}: {error.strerror}; give a pickle') from None
    except _Refused as refused:
        raise PickleError(f'{path}: {refused}; {_INSTEAD}') from None
    except RecursionError:
        raise PickleError(f'{path}: its containers are nested too deeply; {_INSTEAD}') from None
    except Exception as error:      # nonsense makes the reader of pickles raise almost anything
        raise PickleError(f'{path}: not a pickle, or a cut one ({_one_line(error)}); copy it again') from None


class _Refused(Exception):
    """The pickle asks for something that is not read here."""


class _Bounded:
    """A stream that promises no bytes it does not have: a length is believed only when the file is that long."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size = stream, size

    def read(self, count: int) -> bytes:
        if count > self._size - self._stream.tell():
            raise EOFError('it ends too early')
        return self._stream.read(count)

    def readline(self) -> bytes:
        line = self._stream.readline()
        if not line.endswith(b'\n'):
            raise EOFError('it ends too early')
        return line


class _Dtype:
    """A dtype to be: its byte order comes later, as state."""
    __slots__ = ('value',)
    __hash__ = None    # type: ignore[assignment]    # what holds one cannot be the key of a dict

    def __init__(self, value: np.dtype[Any]) -> None:
        self.value = value

    def set(self, state: Any) -> None:
        _, order, *rest = state
        if rest[:3] != [None] * 3:
            raise _Refused('it holds an array of records')
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array to be: all that it is comes later, as state."""
    __slots__ = ('value',)
    __hash__ = None    # type: ignore[assignment]

    def __init__(self) -> None:
        self.value = np.zeros(0, np.int8)

    def set(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.value = _array(shape, dtype, data, 'F' if fortran else 'C')


def _array(shape: Any, dtype: Any, data: Any, order: str) -> np.ndarray:
    """A writable copy of the plain bytes `data`, which must be exactly as long as shape and dtype say."""
    if isinstance(data, list):
        raise _Refused('it holds an array of Python objects')
    if not isinstance(dtype, _Dtype) or order not in ('C', 'F'):
        raise ValueError('an array of no dtype')
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError('an array of no shape')
    data = _bytes(data)
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise ValueError(f'{len(data)} bytes for an array {shape} of {dtype.value}')
    return np.ndarray(shape, dtype.value, data, order='F' if order == 'F' else 'C').copy('K')


def _bytes(data: Any) -> bytes:
    """Bytes as Python 3 and as Python 2 pickled them."""
    return data.encode('latin-1') if isinstance(data, str) else bytes(memoryview(data))


def _make_dtype(name: Any, align: Any = False, copy: Any = True) -> _Dtype:
    if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
        raise _Refused(f'it holds an array of dtype {_shown(name)}')
    return _Dtype(np.dtype(name))


def _ndarray(*arguments: Any) -> Any:
    raise _Refused('it calls numpy.ndarray')


def _reconstruct(kind: Any, shape: Any, dtype: Any) -> _Array:
    if kind is not _ndarray:
        raise _Refused('it holds an array of another class')
    return _Array()


def _scalar(dtype: Any, data: Any) -> Any:
    return _array((), dtype, data, 'C')[()]


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(shape, dtype, data, order)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise _Refused(f'it encodes text as {_shown(encoding)}')
    return text.encode('latin-1')


def _empty_bytes() -> bytes:
    return b''


def _ordered(items: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in items}


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _set(items: list[Any]) -> set[Any]:
    return set(items)


def _frozenset(items: list[Any]) -> frozenset[Any]:
    return frozenset(items)


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ('numpy', 'dtype'): _make_dtype,
    ('numpy', 'ndarray'): _ndarray,
    **{(f'numpy.{core}.multiarray', name): function for core in ('core', '_core')
       for name, function in (('_reconstruct', _reconstruct), ('scalar', _scalar))},
    **{(f'numpy.{core}.numeric', '_frombuffer'): _from_buffer for core in ('core', '_core')},
    ('_codecs', 'encode'): _encode,
    ('collections', 'OrderedDict'): _ordered,
    **{(module, name): function for module in ('builtins', '__builtin__') for name, function in (
        ('bytes', _empty_bytes), ('complex', _complex), ('set', _set), ('frozenset', _frozenset))},
}


# The one in Python: its memo is a dict (the one in C makes room for any index that a file names), and what may be
# called or given state can be said here.
class _Unpickler(pickle._Unpickler):
    """Calls what is admitted, gives state to what that made, and nothing more."""
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, stream: _Bounded) -> None:
        super().__init__(stream, encoding='latin1')

    def find_class(self, module: str, name: str) -> Any:
        found = _ADMITTED.get((module, name))
        if found is None:
            raise _Refused(f'it asks for {_shown(f"{module}.{name}")}, and only numpy arrays and plain Python values '
                           'are read')
        return found

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not any(function is admitted for admitted in _ADMITTED.values()):
            raise _Refused(f'it calls an object of {type(function).__name__}')
        self.stack.append(function(*arguments))

    def give_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (_Array, _Dtype)):
            raise _Refused(f'it changes an object of {type(target).__name__}')
        target.set(state)

    def bytearray_(self) -> None:
        self.stack.append(bytearray(self.read(*struct.unpack('<Q', self.read(8)))))

    def refuse(self) -> None:
        raise _Refused('it makes objects of classes')

    def refuse_reference(self) -> None:
        raise _Refused('it refers to objects outside of it')

    def refuse_by_name(self) -> None:
        self.find_class(self.readline()[:-1].decode('latin-1'), self.readline()[:-1].decode('latin-1'))
        self.refuse()

    dispatch |= {pickle.REDUCE[0]: call, pickle.BUILD[0]: give_state, pickle.BYTEARRAY8[0]: bytearray_,
                 pickle.INST[0]: refuse_by_name}
    dispatch |= dict.fromkeys(b''.join((
        pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4)), refuse)
    dispatch |= dict.fromkeys(pickle.PERSID + pickle.BINPERSID, refuse_reference)


def _finish(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """The value with its arrays and dtypes in place; `done` holds old and new of each container by the old one's id."""
    if isinstance(value, (_Array, _Dtype)):
        return value.value
    if isinstance(value, _LEAVES):
        return value
    if id(value) not in done:
        done[id(value)] = value, _OPEN if isinstance(value, tuple) else value     # a list or dict may hold itself
        done[id(value)] = value, _finish_container(value, done)
    if done[id(value)][1] is _OPEN:
        raise _Refused('it holds a tuple that holds itself')
    return done[id(value)][1]


def _finish_container(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, list):
        value[:] = [_finish(each, done) for each in value]
    elif isinstance(value, dict):
        for key in value:
            _finish(key, done)
            value[key] = _finish(value[key], done)
    elif isinstance(value, tuple):
        return tuple(_finish(each, done) for each in value)
    elif isinstance(value, (set, frozenset)):
        for each in value:      # what can be hashed has no array in it
            _finish(each, done)
    else:
        raise _Refused('it holds a function or a class')
    return value


def _shown(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and len(text) <= 80 else f'{text[:60]!a}...'


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__

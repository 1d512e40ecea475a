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

from mrcnn_tf.files import open_regular
from mrcnn_tf.files.text import error_line

_PLAIN_DTYPE = re.compile(r'b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU][1-9]\d{0,8}')
_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray, np.ndarray, np.generic, np.dtype)
_OPEN = object()    # stands for a container of which not all is known yet
_TOO_DEEP = 'its containers are nested too deeply'
_DEEPEST = 1000     # marks within marks
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
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            value = _Unpickler(stream, size).load()
        return _Finisher(size).finish(value)
    except OSError as error:
        raise PickleError(f'{path}: {error.strerror}; give a pickle') from None
    except _Refused as refused:
        raise PickleError(f'{path}: {refused}; {_INSTEAD}') from None
    except RecursionError:
        raise PickleError(f'{path}: {_TOO_DEEP}; {_INSTEAD}') from None
    except Exception as error:      # nonsense makes the reader of pickles raise almost anything
        raise PickleError(f'{path}: not a pickle, or a cut one ({error_line(error)}); copy it again') from None


class _Refused(Exception):
    """The pickle asks for something that is not read here."""


class _Bounded:
    """A stream that promises no bytes it does not have: a length is believed only when the file is that long."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise EOFError('it ends too early')
        return self._stream.read(count)

    def readline(self) -> bytes:
        line = self._stream.readline()
        self._left -= len(line)
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
    return {_key(key): value for key, value in items}


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _set(items: list[Any]) -> set[Any]:
    return set(map(_key, items))


def _frozenset(items: list[Any]) -> frozenset[Any]:
    return frozenset(map(_key, items))


def _key(value: Any) -> Any:
    """The key of a dict or element of a set: Python takes the hash of a tuple along every path into it, each time."""
    parts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(part, (tuple, frozenset)) for part in parts):
        raise _Refused('it holds a key that is a container of containers')
    return value


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
    metastack: list[list[Any]]
    load_mark: Callable[[], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__(_Bounded(stream, size), encoding='latin1')
        self._most, self._made = _most(size), 0

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
        self.stack.append(self._counted(function(*arguments)))

    def give_state(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (_Array, _Dtype)):
            raise _Refused(f'it changes an object of {type(target).__name__}')
        target.set(state)
        self._counted(target.value)

    def _counted(self, made: Any) -> Any:
        """Return what a call made: many calls may copy the same bytes of the file."""
        self._made += made.nbytes if isinstance(made, np.ndarray) else len(made) if hasattr(made, '__len__') else 1
        if self._made > self._most:
            raise _Refused('it makes more than the file holds')
        return made

    def mark(self) -> None:
        if len(self.metastack) >= _DEEPEST:
            raise _Refused(_TOO_DEEP)
        self.load_mark()

    def dict_(self) -> None:
        items = self.pop_mark()
        self.stack.append({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_key(key)] = value

    def set_items(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][_key(key)] = value

    def add_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(map(_key, items))

    def frozenset_(self) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(_key, items)))

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
                 pickle.INST[0]: refuse_by_name, pickle.MARK[0]: mark, pickle.DICT[0]: dict_,
                 pickle.SETITEM[0]: set_item, pickle.SETITEMS[0]: set_items, pickle.ADDITEMS[0]: add_items,
                 pickle.FROZENSET[0]: frozenset_}
    dispatch |= dict.fromkeys(b''.join((
        pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4)), refuse)
    dispatch |= dict.fromkeys(pickle.PERSID + pickle.BINPERSID, refuse_reference)


class _Finisher:
    """Puts arrays and dtypes in the place of those to be, and counts what the value holds along every path into it.

    A file of a few bytes can hold 2^60 paths to one object; whoever prints, compares or copies the value walks all.
    """

    def __init__(self, size: int) -> None:
        self._most, self._count = _most(size), 0
        self._done: dict[int, tuple[Any, Any, int]] = {}     # old and new of each container, and its count

    def finish(self, value: Any) -> Any:
        self._count += 1
        if self._count > self._most:
            raise _Refused('it holds the same values too often')
        if isinstance(value, (_Array, _Dtype)):
            return value.value
        if isinstance(value, _LEAVES):
            return value
        if id(value) not in self._done:
            before, self._done[id(value)] = self._count, (value, _OPEN, 0)
            made = self._container(value)
            self._done[id(value)] = value, made, self._count - before
            return made
        _, made, count = self._done[id(value)]
        if made is _OPEN:
            raise _Refused(f'it holds a {type(value).__name__} that holds itself')
        self._count += count
        return made

    def _container(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.finish(each) for each in value]
        if isinstance(value, dict):
            return {self.finish(key): self.finish(each) for key, each in value.items()}
        if isinstance(value, tuple):
            return tuple(self.finish(each) for each in value)
        if isinstance(value, (set, frozenset)):
            for each in value:      # what can be hashed has no array in it
                self.finish(each)
            return value
        raise _Refused('it holds a function or a class')


def _most(size: int) -> int:
    """How many values and bytes a file may make: each takes a byte of it at least, unless it is there several times."""
    return 10 * size + 1000


def _shown(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and len(text) <= 80 else f'{text[:60]!a}...'

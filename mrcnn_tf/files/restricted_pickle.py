"""Reading of pickles that hold numpy arrays, scalars and dtypes, plain Python containers, numbers and text.

A pickle is a program for a stack machine: loading one with `pickle.load` runs what its author wrote. Weights and
proposals of other projects come as pickles, of Python 2 too. Here they are read in three steps:

1. `_check` reads the program without running it, and refuses one whose values would need more memory or time than the
   size of the file justifies.
2. `_Unpickler.find_class` finds only `_Constructor`s of this module, which replace the functions and classes that
   pickles of numpy name. Numpy never sees the dtype flags of a file, with which bytes would become pointers to objects.
3. `copy.deepcopy` replaces the placeholders that the constructors made by their arrays and dtypes.
"""
from __future__ import annotations

import copy
import math
import mmap
import os
import pathlib
import pickle
import pickletools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, BinaryIO, NoReturn, cast

import numpy as np

from mrcnn_tf.files import open_regular
from mrcnn_tf.files.text import error_line, one_line

_PLAIN_DTYPE = re.compile(r'b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU][1-9]\d{0,8}')
_OPCODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
_PUT = {'PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'}
_GET = {'GET', 'BINGET', 'LONG_BINGET'}
_ALLOCATED = {'PUT', 'BINPUT', 'LONG_BINPUT', 'FRAME'}     # `pickle` allocates memory for as much as they claim
_CHANGES_FIRST = {'APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD'}    # the others make a new value
_UNUSED = {'DUP', 'POP', 'POP_MARK'}    # which Python writes only for tuples that hold themselves
_DEEPEST = 100      # levels of containers
_REMEDY = 'save it again as arrays in dicts, lists and tuples'


class PickleError(ValueError):
    """A pickle that cannot be read; the message is one line that names the file, the reason and the remedy."""


def load(path: str | os.PathLike[str]) -> Any:
    """Return the value of a pickle of any protocol. Text of Python 2 is decoded as latin-1.

    Returns:
        None, numbers, text, bytes, dicts (also for OrderedDict), lists, tuples, sets, numpy arrays (writable copies) of
        numbers or fixed-length text, numpy scalars and dtypes, nested as in the file.

    Raises:
        PickleError: there is no such file, it is not a pickle or is cut off, or it needs another class or function.
    """
    path = pathlib.Path(path)
    try:
        with open_regular(path) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as program:
            _check(program, len(program))
            return copy.deepcopy(_Unpickler(stream, len(program)).load())
    except OSError as error:
        raise PickleError(f'{path}: {error.strerror}; give a pickle') from None
    except _Refused as refused:
        raise PickleError(f'{path}: {refused}; {_REMEDY}') from None
    except Exception as error:      # a damaged program makes `pickle` raise almost any exception
        raise PickleError(f'{path}: not a pickle, or cut off ({error_line(error)}); copy it again') from None


class _Refused(Exception):
    """The pickle needs something that is not supported."""


def _limit(size: int) -> int:
    """Return how many values, and how many bytes of arrays and texts, a pickle of `size` bytes may make."""
    return 10 * size + 1000     # a value takes at least one byte, but several references may lead to it


class _Extent:
    """The number of values along all paths into a value, and its levels of containers.

    A hundred bytes can describe tuples with 2^60 paths to one object; their hash or `repr` would take forever.
    """
    __slots__ = ('count', 'depth', 'used')

    def __init__(self, parts: Iterable[_Extent] = ()) -> None:
        self.count, self.depth, self.used = 1, 0, False
        self.add(parts)

    def add(self, parts: Iterable[_Extent]) -> None:
        """Count the values that are put into this one."""
        for part in parts:
            part.used = True
            self.count += part.count
            self.depth = max(self.depth, part.depth + 1)
        if self.used:       # a container changes only before it is put into another one, unless it holds itself
            raise _Refused('it has a container that holds itself')


def _check(program: mmap.mmap, size: int) -> None:
    """Follow the stack of a program with the extents of its values, and refuse what is too large or too deep."""
    stack: list[_Extent] = []
    marks: list[int] = []
    memo: dict[int, _Extent] = {}
    most = _limit(size)
    for opcode, argument in _instructions(program):
        if opcode.name in _ALLOCATED and argument > size:
            raise ValueError(f'{opcode.name} {argument} is beyond its end')
        if opcode.name == 'MARK':
            marks.append(len(stack))
        elif opcode.name in _PUT:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in _GET:
            stack.append(memo[argument])
        else:
            _follow(opcode, stack, marks)
        if len(marks) > _DEEPEST or stack and stack[-1].depth > _DEEPEST:
            raise _Refused('its containers are nested too deeply')
        if stack and stack[-1].count > most:
            raise _Refused('it holds the same values too often')
    if stack:
        raise ValueError('more than one value')


def _instructions(program: mmap.mmap) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Yield opcodes and arguments. `pickletools.genops` does the same, but fails for non-ASCII text of protocol 0."""
    name = ''
    while name != 'STOP':
        opcode = _OPCODES.get(code := program.read(1))
        if opcode is None:
            raise ValueError(f'unknown opcode {code!r}' if code else 'it ends too early')
        name = opcode.name
        yield opcode, (program.readline() if name == 'STRING' else
                       opcode.arg.reader(cast(IO[bytes], program)) if opcode.arg else None)


def _follow(opcode: pickletools.OpcodeInfo, stack: list[_Extent], marks: list[int]) -> None:
    """Take the operands of an opcode off the stack and put its result there."""
    if opcode.name in _UNUSED:
        raise _Refused(f'it uses {opcode.name}, as for a tuple that holds itself')
    if pickletools.markobject in opcode.stack_before:
        start = marks.pop() - opcode.stack_before.index(pickletools.markobject)
    else:
        start = len(stack) - len(opcode.stack_before)
    if start < (marks[-1] if marks else 0):
        raise ValueError('operands are missing')
    operands = stack[start:]
    del stack[start:]
    if opcode.name in _CHANGES_FIRST:
        operands[0].add(operands[1:])
        stack.append(operands[0])
    elif opcode.stack_after:
        stack.append(_Extent(operands))


class _Unpickler(pickle.Unpickler):
    """An unpickler that calls only its own methods."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__(stream, encoding='latin1')
        self._bytes_left = _limit(size)

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a function or class.

        Raises:
            _Refused: it has none.
        """
        if (module, name) not in _METHODS:
            raise _Refused(f'it asks for {one_line(f"{module}.{name}", 80)}, but only numpy arrays and plain Python '
                           'values are read')
        return _Constructor(getattr(self, _METHODS[module, name]))

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused('it refers to objects outside of it')

    def array(self, shape: Any, dtype: Any, data: Any, order: str) -> np.ndarray:
        """Return a writable array of plain bytes, which must be exactly as many as shape and dtype need."""
        if isinstance(data, list):
            raise _Refused('it holds an array of Python objects')
        if not isinstance(dtype, _Dtype) or order not in ('C', 'F'):
            raise ValueError('an array without a dtype')
        if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError('an array without a shape')
        data = data.encode('latin-1') if isinstance(data, str) else bytes(memoryview(data))     # str: Python 2
        if math.prod(shape) * dtype.value.itemsize != len(data):
            raise ValueError(f'{len(data)} bytes for an array {shape} of {dtype.value}')
        if dtype.value.kind == 'U' and np.frombuffer(
                data, np.dtype('u4').newbyteorder(dtype.value.byteorder)).max(initial=0) > sys.maxunicode:
            raise ValueError('an array of text with a number that is not a character')
        self._count(len(data))
        return np.ndarray(shape, dtype.value, data, order='F' if order == 'F' else 'C').copy('K')

    def _count(self, size: int) -> None:
        """Refuse a program that copies the same bytes of the file again and again."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise _Refused('it makes more than the file holds')

    def dtype(self, name: Any, align: Any = False, copy: Any = True) -> _Dtype:
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise _Refused(f'it holds an array of dtype {one_line(name, 80)}')
        return _Dtype(np.dtype(name))

    def ndarray(self, *arguments: Any) -> NoReturn:
        raise _Refused('it calls numpy.ndarray')

    def reconstruct(self, kind: Any, shape: Any, dtype: Any) -> _Array:
        return _Array(self.array)

    def scalar(self, dtype: Any, data: Any) -> Any:
        return self.array((), dtype, data, 'C')[()]

    def from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array(self.array)
        array.__setstate__((shape, dtype, order == 'F', data))
        return array

    def encode(self, text: str, encoding: str) -> bytes:
        if encoding not in ('latin1', 'latin-1'):
            raise _Refused(f'it encodes text as {one_line(encoding, 80)}')
        self._count(len(text))
        return text.encode('latin-1')

    def empty_bytes(self) -> bytes:
        return b''

    def ordered_dict(self, items: Any = ()) -> dict[Any, Any]:
        return dict(items)

    def make_complex(self, real: float, imaginary: float) -> complex:
        return complex(real, imaginary)

    def make_set(self, items: list[Any]) -> set[Any]:
        return set(items)

    def make_frozenset(self, items: list[Any]) -> frozenset[Any]:
        return frozenset(items)


_METHODS = {
    ('numpy', 'dtype'): 'dtype',
    ('numpy', 'ndarray'): 'ndarray',
    **{(f'numpy.{core}.multiarray', '_reconstruct'): 'reconstruct' for core in ('core', '_core')},
    **{(f'numpy.{core}.multiarray', 'scalar'): 'scalar' for core in ('core', '_core')},
    **{(f'numpy.{core}.numeric', '_frombuffer'): 'from_buffer' for core in ('core', '_core')},
    ('_codecs', 'encode'): 'encode',
    ('collections', 'OrderedDict'): 'ordered_dict',
    **{(module, 'bytes'): 'empty_bytes' for module in ('builtins', '__builtin__')},
    **{(module, name): f'make_{name}' for module in ('builtins', '__builtin__')
       for name in ('complex', 'set', 'frozenset')},
}


class _Constructor:
    """A function that a pickle may call, without attributes that it could change."""
    __slots__ = ('_function',)
    __hash__ = None    # type: ignore[assignment]    # not a key of a dict

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Refused('it changes a function')

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise _Refused('it holds a function or a class')


class _Dtype:
    """A placeholder of a dtype; its byte order comes later, as state."""
    __slots__ = ('value',)
    __hash__ = None    # type: ignore[assignment]

    def __init__(self, value: np.dtype[Any]) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        _, order, *rest = state
        if rest[:3] != [None] * 3:
            raise _Refused('it holds an array of records')
        self.value = self.value.newbyteorder(order)

    def __deepcopy__(self, memo: Any) -> np.dtype[Any]:
        return self.value


class _Array:
    """A placeholder of an array; shape, dtype and data come later, as state."""
    __slots__ = ('_make', 'value')
    __hash__ = None    # type: ignore[assignment]

    def __init__(self, make: Callable[[Any, Any, Any, str], np.ndarray]) -> None:
        self._make, self.value = make, np.zeros(0, np.int8)

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.value = self._make(shape, dtype, data, 'F' if fortran else 'C')

    def __deepcopy__(self, memo: Any) -> np.ndarray:
        return self.value

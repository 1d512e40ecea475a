"""The versions of an exported model: the newest is loaded, checked, warmed up and run.

B images of a request. TensorFlow Serving names the states of a version: LOADING, AVAILABLE, END.
"""
from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from mrcnn_tf import files
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input.tuning import untuned
from mrcnn_tf.serving.server_kit import WARMUP
from mrcnn_tf.serving.signatures import DETECT

_log = logging.getLogger(__name__)

_DESCRIPTION = 'assets.extra/mrcnn.json'
_RETRY, _LONGEST_RETRY = 10., 600.    # s until a version that could not be loaded is tried again
Arrays = dict[str, np.ndarray]


class ServeError(ValueError):
    """A model that cannot be served; the message is one line: the directory or port, what is wrong, the remedy."""


class RequestError(ValueError):
    """A request that cannot be answered.

    Attributes:
        code: name of the status in gRPC: NOT_FOUND, INVALID_ARGUMENT or UNAVAILABLE.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Version:
    """A loaded version of an exported model.

    Args:
        directory: its name is the number of the version.
        warmup: run the recorded requests of the export, so that the first client does not wait.

    Attributes:
        number: of the version.
        description: categories, form of the masks and so on: `assets.extra/mrcnn.json`.

    Raises:
        ServeError: the SavedModel is damaged, or `mrcnn export` did not write it.
    """

    def __init__(self, directory: pathlib.Path, warmup: bool = True) -> None:
        self.number = int(directory.name)
        try:
            self.description: dict[str, Any] = files.read_json(directory / _DESCRIPTION)
            self._loaded = tf.saved_model.load(str(directory))    # kept: the signatures hold its variables weakly
            self._signatures = {name: each for name, each in self._loaded.signatures.items()
                                if not name.startswith('__')}
            if warmup:
                self._warm_up(directory / WARMUP)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ServeError(f'{directory}: cannot be served ({error_line(error)}); export the model again') from None

    def _warm_up(self, path: pathlib.Path) -> None:
        records = untuned(tf.data.TFRecordDataset([str(path)] if path.exists() else []))
        for record in records.as_numpy_iterator():
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            # TensorFlow optimizes each signature by itself, and `detect` is the one of the page and of our clients.
            for signature in {request.model_spec.signature_name, DETECT}:
                if self.inputs(signature).keys() == inputs.keys():
                    self.run(signature, inputs)

    @property
    def signatures(self) -> Mapping[str, Any]:
        """The concrete functions by name."""
        return self._signatures

    def inputs(self, signature: str) -> dict[str, tf.TensorSpec]:
        """Return the inputs of a signature by name.

        Raises:
            RequestError: there is no such signature.
        """
        if signature not in self._signatures:
            raise RequestError('INVALID_ARGUMENT', f'Serving signature name: "{signature}" not found in signature def; '
                                                   f'expected one of {", ".join(sorted(self._signatures))}')
        _, inputs = self._signatures[signature].structured_input_signature
        return inputs

    def check(self, signature: str, inputs: Mapping[str, np.ndarray]) -> int:
        """Return B of a request.

        Raises:
            RequestError: the inputs do not fit the signature.
        """
        expected = self.inputs(signature)
        if inputs.keys() != expected.keys():
            raise RequestError('INVALID_ARGUMENT', f'inputs of {signature}: got {_names(inputs)}; expected '
                                                   f'{_names(expected)}')
        for name, value in inputs.items():
            spec = expected[name]
            if tf.as_dtype(value.dtype) != spec.dtype or not spec.shape.is_compatible_with(value.shape):
                raise RequestError('INVALID_ARGUMENT', f'input {name}: got {tf.as_dtype(value.dtype).name} of shape '
                                                       f'{list(value.shape)}; expected {spec.dtype.name} {spec.shape}')
        counts = {len(value) for value in inputs.values()}
        if len(counts) != 1:
            raise RequestError('INVALID_ARGUMENT', f'inputs of {signature} have {_names(map(str, counts))} elements')
        return counts.pop()

    def run(self, signature: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Return the outputs of a signature."""
        given = {name: tf.constant(value) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in self._signatures[signature](**given).items()}


def _names(names: Any) -> str:
    return ', '.join(sorted(names)) or 'none'


@dataclasses.dataclass(frozen=True)
class State:
    """What `GetModelStatus` says of a version.

    Attributes:
        number: of the version.
        state: 'LOADING', 'AVAILABLE' or 'END'.
        error: why it could not be loaded, else empty.
    """
    number: int
    state: str
    error: str = ''


class _Failure(NamedTuple):
    """A version that could not be loaded: its files by then, why, when it is tried again, and how long that was."""
    files: tuple[tuple[str, int, int], ...]
    error: str
    again: float
    pause: float

    @classmethod
    def after(cls, last: _Failure | None, files: tuple[tuple[str, int, int], ...], error: str) -> _Failure:
        """Return the failure that follows the last one of the version."""
        pause = min(2 * last.pause, _LONGEST_RETRY) if last and last.files == files else _RETRY
        return cls(files, error, time.monotonic() + pause, pause)


def _files(directory: pathlib.Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of change of each file below a directory."""
    found = []
    for path in sorted(directory.rglob('*')):
        with contextlib.suppress(OSError):    # it is being replaced
            status = path.stat()
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


class Versions:
    """The versions below a directory, of which the newest is served.

    Args:
        directory: has a directory for each version, `1`, `2`, ...
        warmup: see `Version`.

    Raises:
        ServeError: there is no version, or the newest cannot be served.
    """

    def __init__(self, directory: pathlib.Path, warmup: bool = True) -> None:
        self._directory, self._warmup, self._lock = directory, warmup, threading.Lock()
        self._states: dict[int, State] = {}
        self._failed: dict[int, _Failure] = {}
        newest = self._newest()
        if not newest:
            raise ServeError(f'{directory}: has no version of a model (1/saved_model.pb); give the directory that '
                             '`mrcnn export --output` wrote')
        self._current = Version(directory / str(newest), warmup)
        self._note(State(newest, 'AVAILABLE'))

    def get(self, number: int | None = None) -> Version:
        """Return the version that is served.

        Args:
            number: that was asked for; None: any.

        Raises:
            RequestError: the version with this number is not served.
        """
        current = self._current
        if number not in (None, current.number):
            raise RequestError('NOT_FOUND', f'version {number} is not served, {current.number} is')
        return current

    def states(self, number: int | None = None) -> list[State]:
        """Return the states of all versions that were loaded, the newest first, or of one.

        Raises:
            RequestError: there is no version with this number.
        """
        with self._lock:
            states = [self._states[each] for each in sorted(self._states, reverse=True) if number in (None, each)]
        if not states:
            raise RequestError('NOT_FOUND', f'there is no version {number}')
        return states

    def reload(self) -> None:
        """Load the newest version if it is not the current one.

        One that could not be loaded is tried again when its files have changed, and else after `_RETRY` seconds, then
        twice as long each time, up to `_LONGEST_RETRY`. Its error is logged when it is another one than before.
        """
        newest, before = self._newest(), self._current.number
        if newest in (0, before):
            return
        files, failure = _files(self._directory / str(newest)), self._failed.get(newest)
        if failure and failure.files == files and time.monotonic() < failure.again:
            return
        self._note(State(newest, 'LOADING'))
        try:
            self._current = Version(self._directory / str(newest), self._warmup)
        except ServeError as error:
            if not failure or str(error) != failure.error:
                _log.error('%s; version %d is still served', error, before)
            self._note(State(newest, 'END', str(error)))
            self._failed[newest] = _Failure.after(failure, files, str(error))
        else:
            self._failed.pop(newest, None)
            self._note(State(newest, 'AVAILABLE'))
            self._note(State(before, 'END'))
            _log.info('%s: version %d replaces version %d', self._directory, newest, before)

    def _newest(self) -> int:
        """Return the number of the newest version, 0 if there is none."""
        paths = self._directory.glob('*/saved_model.pb')
        return max((int(path.parent.name) for path in paths if path.parent.name.isdecimal()), default=0)

    def _note(self, state: State) -> None:
        with self._lock:
            self._states[state.number] = state

"""Copies of a model on several devices, used by several threads."""
from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import tensorflow as tf

from mrcnn_tf.detectors.augmentation import Detect
from mrcnn_tf.detectors.branch import Batch, Detections
from mrcnn_tf.files.processes import in_order

Copy = TypeVar('Copy')
Item = TypeVar('Item')
Result = TypeVar('Result')


def several_gpus() -> list[str]:
    """Return TensorFlow's names of the GPUs, or none if there is only one."""
    names = [device.name for device in tf.config.list_logical_devices('GPU')]
    return names if len(names) > 1 else []


def first_of(devices: Sequence[str]) -> contextlib.AbstractContextManager[Any]:
    """Return the scope of the first device; without devices, that of the device that TensorFlow chooses."""
    return tf.device(devices[0]) if devices else contextlib.nullcontext()


class Copies(Generic[Copy]):
    """Copies of a model, one on each device.

    Args:
        devices: TensorFlow's names.
        load: returns a copy, called once in the scope of each device.
    """

    def __init__(self, devices: Sequence[str], load: Callable[[], Copy]) -> None:
        self._free: queue.SimpleQueue[tuple[str, Copy]] = queue.SimpleQueue()
        for device in devices:
            with tf.device(device):
                self.last = load()
            self._free.put((device, self.last))

    @contextlib.contextmanager
    def free(self) -> Iterator[Copy]:
        """A context with a copy that no other thread uses, in the scope of its device."""
        device, copy = self._free.get()
        try:
            with tf.device(device):
                yield copy
        finally:
            self._free.put((device, copy))


class DetectOnDevices:
    """Detections of batches, each on a free device.

    Args:
        devices: TensorFlow's names.
        load: returns the function of batches with weights of its own, called once in the scope of each device.
    """

    def __init__(self, devices: Sequence[str], load: Callable[[], Detect]) -> None:
        self._copies = Copies(devices, load)
        self.sizes, self.inputs = self._copies.last.sizes, self._copies.last.inputs
        self.fixed_canvases, self.concurrency = self._copies.last.fixed_canvases, len(devices)

    def __call__(self, batches: Sequence[Batch]) -> Detections:
        with self._copies.free() as detect:
            return detect(batches)


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield what `work` returns of each item, in order; a few items are in work."""
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from in_order(pool, work, items, 2 * threads)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

"""The connections between the workers of a cluster: they agree before they train, and none waits for a dead one.

Workers connect to the chief at its address of the cluster, before TensorFlow listens there; the connections stay open.
So no further port is needed, and a worker that ends is noticed at once, whatever TensorFlow is doing. Messages are
lines of JSON. Needs no TensorFlow.
"""
from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from mrcnn_tf.files.text import error_text, one_line
from mrcnn_tf.training.clusters import SINGLE, Cluster, ClusterError
from mrcnn_tf.training.links import Link, connect, gather

_LEAVE = 20.0            # s after a failure in which a worker leaves by itself; then it is ended
_BEAT = 2.0              # s between two signs of life, less for a short timeout
RESTART = 'start all workers again with the same command to resume from the newest checkpoint'


class PeerError(ClusterError):
    """Another worker failed, or differs from this one; the message is one line that names it."""


class Peers:
    """The other workers of a cluster, as a context: leaving it with an error tells them the reason.

    Args:
        cluster: of this process; for a single worker nothing is connected, and all methods return at once.
        timeout: seconds after which a worker counts as dead that does not join, answer or proceed.

    Attributes:
        failure: the reason why another worker failed, '' if none did.
        signal: the signal that a worker received, and which worker.
        on_failure: called in another thread with the reason of a failure, to end what the main thread waits for.
        on_signal: called in another thread with the signal that another worker received.
    """

    def __init__(self, cluster: Cluster = SINGLE, timeout: float = 120) -> None:
        self.failure, self.signal = '', ''
        self.on_failure: Callable[[str], None] = lambda reason: None
        self.on_signal: Callable[[str], None] = lambda signal: None
        self._cluster, self._timeout = cluster, timeout
        self._links: dict[int, Link] = {}                 # by worker; a worker that is not the chief has only chief's
        self._changed = threading.Condition()
        self._values: dict[str, dict[int, dict[str, str]]] = {}    # by topic and worker, on the chief
        self._since: dict[str, float] = {}                # by topic: when the first worker reached it
        self._remedies: dict[str, str] = {}               # by topic
        self._agreed: set[str] = set()                    # topics
        self._confirmed: set[int] = set()                 # the workers that know the step to stop at
        self._stop_step: int | None = None
        self._activity: tuple[str, float] | None = None
        self._step: int | None = None                     # the last one that has ended; None: outside of training
        self._position: int | None = None                 # 2 n after step n, 2 n + 1 in step n + 1; None: not watched
        self._positions: dict[int, int | None] = {}       # by worker, on the chief
        self._moved = 0.0                                 # when one of them changed
        self._left: set[int] = set()                      # workers that have finished
        self._leaves = self._fails = self._closed = self._pauses = False

    def __enter__(self) -> Peers:
        """Connect all workers.

        Raises:
            PeerError, ClusterError: a worker does not join within the timeout, or the port of this one is in use.
        """
        if self.count > 1:
            if self._is_chief:
                self._links = gather(self._cluster, self._timeout)
            else:
                self._links = {0: connect(self._cluster, self._timeout)}
            for index, link in self._links.items():
                threading.Thread(target=self._read, args=(index, link), daemon=True).start()
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        """Tell the other workers why this one ends. Without an error, wait until all have finished."""
        try:
            if error is None:
                self.leave()
            elif not self._leaves and self._is_first():
                self._send_all(kind='stopped', reason=one_line(error_text(error), 500))
        finally:
            self._closed = True
            for link in self._links.values():
                link.close()

    def leave(self) -> None:
        """Wait until all workers have called this: nothing that follows needs another worker.

        Raises:
            PeerError: another worker failed.
        """
        self._leaves = True
        if not self._is_chief:
            self._send_all(kind='left')
        with self._changed:
            self._changed.wait_for(lambda: self.failure or len(self._left) == len(self._links))
        if self._is_chief:
            self._send_all(kind='left')
        self.check()

    @property
    def count(self) -> int:
        """The number of workers."""
        return len(self._cluster.addresses)

    @property
    def _is_chief(self) -> bool:
        return self._cluster.index == 0

    def agree(self, topic: str, values: Mapping[str, str], remedy: str) -> None:
        """Check that the values of all workers are equal. Each worker must call this with the same topic.

        Raises:
            PeerError: they differ: names the worker and the first difference; or another worker failed.
        """
        if not self._links:
            return
        if self._is_chief:
            self._remedies[topic] = remedy
            self._receive_values(0, topic, dict(values))
        else:
            self._links[0].send(kind='values', topic=topic, values=dict(values))
        with self._changed:
            self._changed.wait_for(lambda: self.failure or topic in self._agreed)
        self.check()

    def check(self) -> None:
        """Raise PeerError if another worker failed."""
        if self.failure:
            raise PeerError(self.failure)

    def stops_at(self, step: int, signal: str) -> bool:
        """Return whether training stops at a step that this worker has done; all workers return the same.

        Args:
            signal: the one that this worker has received, '' for none.
        """
        self.check()
        if not self._links:
            return bool(signal)
        if signal and not self.signal:
            self._receive_signal(f'{signal} of {self._cluster.name(self._cluster.index)}')
        if self._is_chief and self.signal and self._stop_step is None:
            self._announce(step + 1)
        return self._stop_step is not None and step >= self._stop_step

    def explain(self) -> str:
        """Return why another worker failed, after an error of TensorFlow's communication; '' if all others answer."""
        for _ in range(6):
            with self._changed:
                self._changed.wait_for(lambda: self.failure, self._interval)
            if self.failure:
                break
            self._check_silence(3 * self._interval)
        return self.failure

    @contextlib.contextmanager
    def timed(self, activity: str) -> Iterator[None]:
        """A context for something that no other worker takes part in, such as reading: it may last `timeout`."""
        self._activity = activity, time.monotonic()
        try:
            yield
        finally:
            self._activity = None

    @contextlib.contextmanager
    def watched(self, step: int) -> Iterator[None]:
        """A context for training after `step`. From the second step on, none may take longer than `timeout`."""
        self._step = step
        try:
            yield
        finally:
            self._step = self._position = None

    @contextlib.contextmanager
    def step(self, may_last: bool) -> Iterator[None]:
        """A context for a training step; if it `may_last`, because it is compiled, there is no limit."""
        if self._step is not None:
            self._position = None if may_last else 2 * self._step + 1
        yield
        if self._step is not None:
            self._step += 1
            self._position = 2 * self._step

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """A context for what may last long on worker 0, such as an evaluation between two steps."""
        position, self._position, self._pauses = self._position, None, True
        yield
        self._position, self._pauses = position, False
        self._since = dict.fromkeys(self._since, time.monotonic())

    @property
    def _interval(self) -> float:
        return min(_BEAT, self._timeout / 6)

    def _announce(self, step: int) -> None:
        """Tell all workers the step to stop at, and wait until they know: none can be past it, as the chief is not."""
        self._send_all(kind='stop', step=step, signal=self.signal)
        with self._changed:
            self._changed.wait_for(lambda: self.failure or len(self._confirmed) == len(self._links))
        self.check()
        self._stop_step = step

    def _receive_signal(self, signal: str) -> None:
        self.signal = self.signal or signal
        self.on_signal(self.signal)
        if not self._is_chief:
            self._links[0].send(kind='signal', signal=signal)

    def _send_all(self, **message: Any) -> None:
        for link in self._links.values():
            link.send(**message)

    def _read(self, index: int, link: Link) -> None:
        """Handle the messages of a worker until it leaves or its connection breaks."""
        for message in link.messages():
            if message['kind'] != 'beat':
                self._handle(index, message)
            elif self._is_chief:
                self._place(index, message.get('position'))
                if message['seconds'] > self._timeout:
                    self._stalls(index, message['activity'], message['seconds'])
        if index not in self._left:
            self._fail(f'{self._cluster.name(index)} ended without a message: it was killed, or its machine or network '
                       f'failed; see its output, then {RESTART}')

    def _handle(self, index: int, message: dict[str, Any]) -> None:
        kind = message['kind']
        if kind == 'values':
            self._receive_values(index, message['topic'], message['values'])
        elif kind == 'signal':
            self._receive_signal(message['signal'])
        elif kind == 'stopped':
            reason = one_line(message['reason'], 500)
            self._fail(reason if message.get('relayed') else f'{self._cluster.name(index)} stopped: {reason}')
        with self._changed:
            if kind == 'agreed':
                self._agreed.add(message['topic'])
            elif kind == 'stop':
                self.signal, self._stop_step = message['signal'], message['step']
                self._links[0].send(kind='confirmed')
            elif kind == 'confirmed':
                self._confirmed.add(index)
            elif kind == 'left':
                self._left.add(index)
            self._changed.notify_all()

    def _receive_values(self, index: int, topic: str, values: dict[str, str]) -> None:
        """On the chief: compare the values when all workers have given theirs, and tell all the result."""
        with self._changed:
            of_worker = self._values.setdefault(topic, {})
            of_worker[index] = values
            self._since.setdefault(topic, time.monotonic())
        if len(of_worker) == self.count:
            if difference := self._difference(of_worker):
                self._fail(f'{difference}; {self._remedies[topic]}')
                return
            self._send_all(kind='agreed', topic=topic)
            with self._changed:
                self._agreed.add(topic)
                self._changed.notify_all()

    def _difference(self, values: Mapping[int, Mapping[str, str]]) -> str:
        """Return the first difference of a worker from the chief, '' if there is none."""
        for index in sorted(values):
            for key in {**values[0], **values[index]}:
                theirs, ours = (each.get(key, 'missing') for each in (values[index], values[0]))
                if theirs != ours:
                    return (f'{self._cluster.name(index)} differs from {self._cluster.name(0)}: {key} is {theirs} on '
                            f'worker {index} and {ours} on worker 0')
        return ''

    def _beat(self) -> None:
        """Give signs of life, and look for workers without one."""
        while not self._closed and not self.failure:
            activity, since = self._activity or ('', time.monotonic())
            seconds = time.monotonic() - since
            position = None if self._activity else self._position
            self._send_all(kind='beat', activity=activity, seconds=seconds, position=position)
            self._check_silence(self._timeout)
            if self._is_chief:
                self._place(0, position)
                if seconds > self._timeout:
                    self._stalls(0, activity, seconds)
                self._check_topics()
                self._check_steps()
            time.sleep(self._interval)

    def _place(self, index: int, position: int | None) -> None:
        """Note how far a worker is."""
        if position is None or position != self._positions.get(index):
            self._moved = time.monotonic()
        self._positions[index] = position

    def _check_steps(self) -> None:
        """Look for a step that does not end although all workers give signs of life."""
        positions = [self._positions.get(index) for index in range(self.count)]
        seconds = time.monotonic() - self._moved
        known = [position for position in positions if position is not None]
        if len(known) < self.count or seconds <= self._timeout:
            return
        last = min(known)
        behind = [self._cluster.name(index) for index in range(self.count) if positions[index] == last]
        what = f'step {last // 2 + 1} for {seconds:.0f} s'
        remedy = f'end the worker, then {RESTART}; raise train.timeout if a step only takes longer'
        if len(behind) < self.count:
            self._fail(f'{", ".join(behind)} has not {"ended" if last % 2 else "begun"} {what}, and the other workers '
                       f'wait for that: it hangs; {remedy}')
        else:
            self._fail(f'no worker has {"ended" if last % 2 else "begun"} {what}: one of {", ".join(behind)} hangs, or '
                       f'the network between them; {remedy}')

    def _check_silence(self, limit: float) -> None:
        for index, link in self._links.items():
            silent = time.monotonic() - link.heard
            if silent > limit and index not in self._left:
                self._fail(f'{self._cluster.name(index)} has not answered for {silent:.0f} s: it hangs, or its machine '
                           f'or network failed; end it, then {RESTART}')

    def _check_topics(self) -> None:
        for topic, since in list(self._since.items()):
            missing = [self._cluster.name(index) for index in range(self.count)
                       if index not in self._values[topic] and not (index == 0 and self._pauses)]
            if missing and time.monotonic() - since > self._timeout:
                self._fail(f'{", ".join(missing)} has not reached the comparison of the {topic} within '
                           f'{self._timeout:g} s; see its output, or raise train.timeout if it only takes longer')

    def _stalls(self, index: int, activity: str, seconds: float) -> None:
        self._fail(f'{self._cluster.name(index)} {activity} for {seconds:.0f} s; check its storage, or raise '
                   'train.timeout if that only takes longer')

    def _fail(self, reason: str) -> None:
        """Record the first failure, tell all workers, and end what this one waits for."""
        if not self._is_first():
            return
        if self._is_chief:    # before its main thread, which the failure wakes up, closes the connections
            self._send_all(kind='stopped', reason=reason, relayed=True)
        with self._changed:
            self.failure = reason
            self._changed.notify_all()
        threading.Thread(target=self.on_failure, args=(reason,), daemon=True).start()
        threading.Thread(target=self._end, daemon=True).start()

    def _is_first(self) -> bool:
        """Return whether no worker has failed yet. Workers that leave because of a failure are none of their own."""
        with self._changed:
            first = not self._fails and not self._closed
            self._fails = True
            return first

    def _end(self) -> None:
        """End this process if its main thread does not, because it waits for something that is not aborted."""
        time.sleep(_LEAVE)
        if self._closed:
            return
        sys.stderr.write(f'mrcnn: error: {self.failure}\n')
        sys.stderr.flush()
        os._exit(1)

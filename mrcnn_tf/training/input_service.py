"""Batches that input servers compute (`train.input=service`, `mrcnn input-server`), and what happens if one fails.

Of P servers, server i computes batch i, i + P, ... of each worker, and the worker takes them in turn. So the batches
and their order are those without servers, whatever P is.
"""
from __future__ import annotations

import atexit
import os
import re
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import cancellation

from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.files.text import error_line, one_line
from mrcnn_tf.input.damage import explain
from mrcnn_tf.input.dataset import training_parts
from mrcnn_tf.input.tuning import untuned
from mrcnn_tf.training.clusters import ClusterError
from mrcnn_tf.training.input_server import versions
from mrcnn_tf.training.links import Link, open_link
from mrcnn_tf.training.strategies import end_at_once

_BEAT = 2.0           # s between two signs of life
_LIMIT = 0.8          # of the timeout: a failure of a server is named before other workers name this one
_BATCHES_AHEAD = 2    # of each server
_RESTART = 'then train with the same command to resume from the newest checkpoint; other servers may take over'
_abandoned: list[Any] = []    # iterators whose end would wait for a server that hangs


class InputServerError(ClusterError):
    """An input server cannot be used or has failed; the message is one line that names it."""


@dataclass(frozen=True)
class _Server:
    address: str
    link: Link
    dispatcher: str       # host:port
    cores: int


class InputServers:
    """The input servers of a training, as a context.

    Args:
        addresses: host:port of each server; for none, nothing is connected.
        timeout: seconds in which a server must be reached, answer, and give a batch.

    Attributes:
        failure: why a server failed, '' if none did.
        device: where `take` leaves the batches of a single replica; None: TensorFlow decides.
    """

    def __init__(self, addresses: Sequence[str] = (), timeout: float = 120) -> None:
        self.failure = ''
        self.device: str | None = None
        self._addresses, self._timeout, self._limit = list(addresses), timeout, _LIMIT * timeout
        self._servers: list[_Server] = []
        self._manifest = ''
        self._since: float | None = None      # when a step began to wait for its batch
        self._closed = False
        self._cancelling = cancellation.CancellationManager()
        self._next = tf.function(lambda iterator: next(iterator), autograph=False)

    def __enter__(self) -> InputServers:
        """Connect all servers.

        Raises:
            InputServerError: a server cannot be reached within the timeout, or has other versions.
        """
        deadline = time.monotonic() + self._timeout
        for address in self._addresses:
            self._servers.append(_connect(address, deadline, self._timeout))
        for server in self._servers:
            threading.Thread(target=self._read, args=(server,), daemon=True).start()
        if self._servers:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        for server in self._servers:
            server.link.close()

    def dataset(self, config: Config, start_step: int, shard: tuple[int, int], needs: Collection[str]
                ) -> tf.data.Dataset:
        """Return the batches of `training_parts`, which the servers compute.

        Raises: as `training_dataset`.
        """
        self._manifest = os.path.abspath(str(config.data.train))
        parts = training_parts(self._manifest, config, start_step, shard, needs, [each.cores for each in self._servers])
        streams = [self._of_server(server, part) for server, part in zip(self._servers, parts, strict=True)]
        turns = tf.data.Dataset.range(len(streams)).repeat()
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return untuned(tf.data.Dataset.choose_from_datasets(streams, turns, stop_on_empty_dataset=True).with_options(
            options))

    def take(self, iterator: Any) -> Any:
        """Return the next batch of an iterator of `dataset`.

        Raises:
            InputServerError: a server has failed.
            InputError: a record is damaged.
        """
        self._check(iterator)
        self._since = time.monotonic()
        try:
            # Otherwise the results of the function may return to the host.
            with cancellation.CancellationManagerContext(self._cancelling), tf.device(self.device):
                return self._next(iterator)
        except tf.errors.OpError as error:
            self._check(iterator)
            raise self._explain(error) from None
        finally:
            self._since = None

    def _explain(self, error: tf.errors.OpError) -> Exception:
        """Return the error to raise instead of one of a server."""
        text = error.message
        if found := re.search(r'assertion failed: \[(.* differs on input server .*?)\]', text):
            return InputServerError(found[1])
        diagnosed = explain(error, self._manifest)
        if diagnosed is not error:
            return diagnosed
        reason = text.split('nonretryable error: ')[-1].split('\n')[0]
        return InputServerError(f'input servers {", ".join(self._addresses)}: {one_line(reason, 300)}; see their '
                                f'output, {_RESTART}')

    def _check(self, iterator: Any) -> None:
        if self.failure:
            _abandoned.append(iterator)
            atexit.register(end_at_once)
            raise InputServerError(self.failure)

    def _of_server(self, server: _Server, part: tf.data.Dataset) -> tf.data.Dataset:
        """Return a part that a server computes, after it has compared its manifest with ours."""
        service, options = tf.data.experimental.service, tf.data.Options()
        # What TensorFlow cannot send to another machine, such as Python, is an error instead of a warning.
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.FAIL
        checked = tf.data.Dataset.zip((part, self._comparison(server))).map(_first).with_options(options)
        return checked.apply(service.distribute(
            service.ShardingPolicy.OFF, f'grpc://{server.dispatcher}', max_outstanding_requests=_BATCHES_AHEAD,
            compression=None))

    def _comparison(self, server: _Server) -> tf.data.Dataset:
        """Return an endless dataset whose first element fails on a server with another manifest."""
        ours = tf.fingerprint([files.read_bytes(self._manifest)])
        different = f'{self._manifest}: differs on input server {server.address}; copy the set there'

        @tf.autograph.experimental.do_not_convert
        def compare(zero: tf.Tensor) -> tf.Tensor:
            theirs = tf.fingerprint([tf.io.read_file(self._manifest)])
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(theirs == ours), [different])]):
                return tf.identity(zero)

        zeros = tf.data.Dataset.from_tensors(0)
        return zeros.map(compare).concatenate(zeros.repeat())

    def _read(self, server: _Server) -> None:
        """Receive signs of life of a server until its connection ends."""
        for _ in server.link.messages():
            pass
        self._fail(f'input server {server.address} ended: it was stopped or killed, or its machine or network failed; '
                   f'start it again, {_RESTART}')

    def _watch(self) -> None:
        """Ask all servers for signs of life, and look for one without any, and for a step without a batch."""
        while not self._closed and not self.failure:
            for server in self._servers:
                server.link.send(kind='alive')
                if (silent := time.monotonic() - server.link.heard) > self._limit:
                    self._fail(f'input server {server.address} has not answered for {silent:.0f} s: it hangs, or its '
                               f'machine or network failed; end it and start it again, {_RESTART}')
            since = self._since
            if since is not None and time.monotonic() - since > self._limit:
                self._fail(f'input servers {", ".join(self._addresses)} gave no batch for {self._limit:.0f} s: check '
                           'their CPUs and storage, or raise train.timeout if a batch only takes longer')
            time.sleep(min(_BEAT, self._timeout / 10))

    def _fail(self, reason: str) -> None:
        """Record the first failure, and end what a step waits for."""
        if not self._closed and not self.failure:
            self.failure = reason
            self._cancelling.start_cancel()


@tf.autograph.experimental.do_not_convert
def _first(batch: Any, _: tf.Tensor) -> Any:
    return batch


def _connect(address: str, deadline: float, timeout: float) -> _Server:
    """Return the connection to a server, which may start meanwhile."""
    link, reason = None, 'the other servers took all the time'
    while link is None and (left := deadline - time.monotonic()) > 0:
        try:
            link = open_link(address, left)
        except OSError as error:
            reason = error_line(error)
            time.sleep(.5)
    if link is None:
        raise InputServerError(f'cannot reach input server {address} within {timeout:g} s: {reason}; start `mrcnn '
                               'input-server` there, and check the address and that its port is open')
    link.send(kind='hello')
    welcome = link.receive(deadline - time.monotonic())
    if welcome.get('kind') != 'welcome':
        link.close()
        raise InputServerError(f'{address} does not answer as an input server: it hangs, or is another program; give '
                               'the address that `mrcnn input-server` printed')
    for name, ours in versions().items():
        if (theirs := welcome['versions'].get(name)) != ours:
            link.close()
            raise InputServerError(f'input server {address} has {name} {theirs} and this machine {ours}; install the '
                                   'same versions on both')
    host = address.rpartition(':')[0]
    return _Server(address, link, f'{host}:{welcome["dispatcher"]}', welcome['cores'])

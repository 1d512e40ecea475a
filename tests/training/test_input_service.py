"""Batches of an input server on loopback are equal to those without one; a server that fails or differs is named."""
from __future__ import annotations

import atexit
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.cli.launch import free_ports
from mrcnn_tf.config import Config
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.dataset import training_parts
from mrcnn_tf.training import strategies, trainer
from mrcnn_tf.training.input_server import versions
from mrcnn_tf.training.input_service import InputServerError, InputServers
from mrcnn_tf.training.links import Link, listen
from tests.input.small_sets import assert_equal, config, example, take, write_set
from tests.training.tiny import tiny_config, write_data
from tests.training.toy import ToyModel

NEEDS = ()


@pytest.fixture(scope='module')
def port() -> Iterator[str]:
    """The port of a server, as `mrcnn input-server` prints it; SIGTERM ends it with exit code 0."""
    with subprocess.Popen([sys.executable, '-m', 'mrcnn_tf.cli.main', 'input-server', '--host', 'localhost', '--port',
                           '0'], stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                               sys.path)}) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.fullmatch(r'input server localhost:(\d+) \(tf.data service on ports \d+ and \d+\), \d+ cores, '
                             r'mrcnn-tf [\d.]+, TensorFlow [\d.]+; Ctrl-C stops it\n', line)
        assert found, line
        yield found[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0 and process.stdout.read() == ''


@pytest.fixture
def manifest(tmp_path: pathlib.Path) -> str:
    """Ten images in three shards: images 1, 4 and 7 are in portrait."""
    sizes = [(16, 8) if number % 3 == 1 else (8, 16) for number in range(10)]
    return write_set(tmp_path / 'set', [example(i, size=size) for i, size in enumerate(sizes)])


@pytest.fixture(autouse=True)
def at_exit(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The functions that would be called at the end of the process: after a failure, one that ends it at once."""
    called: list[Any] = []
    monkeypatch.setattr(atexit, 'register', called.append)
    return called


def batches(servers: InputServers, settings: Config, count: int, start: int = 0, shard: tuple[int, int] = (0, 1)
            ) -> list[dict[str, np.ndarray]]:
    iterator = iter(servers.dataset(settings, start, shard, NEEDS))
    return [{key: value.numpy() for key, value in servers.take(iterator).items()} for _ in range(count)]


def test_batches_are_those_without_servers(port: str, manifest: str) -> None:
    """Of a resumed worker, over more than an epoch: equal in all bits, in the same order.

    Two addresses of one server are two servers.
    """
    settings = config(train=manifest, batch_size=4, flip_horizontal=.5, canvases=[[16, 32], [32, 16]])
    expected = take(training_parts(manifest, settings, 2, (1, 2), NEEDS, [2])[0], 7)
    assert len({batch['images'].tobytes() for batch in expected}) > 4
    with InputServers([f'localhost:{port}', f'127.0.0.1:{port}']) as servers:
        assert_equal(batches(servers, settings, 7, 2, (1, 2)), expected)


@pytest.mark.slow
def test_training_with_a_server_equals_training_without(
        port: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    toys: list[ToyModel] = []
    monkeypatch.setattr(trainer, 'build_detector', lambda *_, **__: toys.append(ToyModel()) or toys[-1])
    write_data(tmp_path)
    servers = f'localhost:{port},127.0.0.1:{port}'
    for overrides in ((), ('train.input=service', f'train.input_servers=[{servers}]')):
        trainer.train(tiny_config(tmp_path, 'solver.steps=3', *overrides), tmp_path / f'run{len(toys)}')
    assert capsys.readouterr().out.count(f'input: batches of 2 input servers ({servers.replace(",", ", ")})') == 1
    for one, other in zip(*(toy.get_weights() for toy in toys), strict=True):
        np.testing.assert_array_equal(one, other)


def test_python_code_is_refused(port: str, manifest: str) -> None:
    """TensorFlow cannot send it to another machine. The tests above show that the pipeline has none."""
    with InputServers([f'localhost:{port}']) as servers:
        servers._manifest = manifest
        python = tf.data.Dataset.range(3).map(lambda x: tf.py_function(lambda y: y, [x], tf.int64))
        with pytest.raises(tf.errors.FailedPreconditionError, match='EagerPyFunc'):
            servers._of_server(servers._servers[0], python)


@pytest.mark.slow
def test_a_damaged_image_is_named(port: str, tmp_path: pathlib.Path) -> None:
    bad = dataclasses.replace(example(7), encoded=example(7).encoded[:40])
    path = write_set(tmp_path / 'set', [*map(example, range(3)), bad], 1)
    with InputServers([f'localhost:{port}']) as servers, pytest.raises(InputError, match='record 3 .*image 7'):
        batches(servers, config(train=path), 1)


def test_another_set_on_the_server(port: str, manifest: str) -> None:
    """The server reads its manifest when it begins, here after another one was written."""
    with InputServers([f'localhost:{port}']) as servers:
        iterator = iter(servers.dataset(config(train=manifest), 0, (0, 1), NEEDS))
        text = pathlib.Path(manifest).read_text(encoding='utf-8')
        pathlib.Path(manifest).write_text(text.replace('a.json', 'b.json'), encoding='utf-8')
        with pytest.raises(InputServerError, match=f'set.json: differs on input server localhost:{port}; copy the set'):
            servers.take(iterator)


def fake(answers: dict[str, Any]) -> tuple[str, threading.Event]:
    """Return the address of a server that greets and then says nothing, and an event that ends its connections."""
    listener, ends = listen(0, 'fake', 'server'), threading.Event()

    def answer() -> None:
        with listener:
            link = Link(listener.accept()[0])
            assert next(link.messages())['kind'] == 'hello'
            link.send(**answers)
            ends.wait(30)
            link.close()

    threading.Thread(target=answer, daemon=True).start()
    return f'localhost:{listener.getsockname()[1]}', ends


WELCOME = {'kind': 'welcome', 'dispatcher': 1, 'cores': 2, 'versions': versions()}


def waiting() -> Any:
    """An iterator that never gives a batch."""
    queue = tf.queue.FIFOQueue(1, tf.int64)
    return iter(tf.data.Dataset.range(9).map(lambda _: queue.dequeue()))


@pytest.mark.parametrize('ended, message', [
    (True, 'input server {} ended: it was stopped or killed, or its machine or network failed; start it again, then '),
    (False, r'input server {} has not answered for \d s: it hangs, or its machine or network failed; end it and ')],
    ids=['it ends', 'it hangs'])
def test_a_server_that_fails_ends_the_wait_for_a_batch(ended: bool, message: str, at_exit: list[Any]) -> None:
    address, ends = fake(WELCOME)
    with InputServers([address], 2) as servers:
        if ended:
            threading.Timer(.2, ends.set).start()
        with pytest.raises(InputServerError, match=message.format(address)):
            servers.take(waiting())
    assert strategies.end_at_once in at_exit
    ends.set()


def test_a_server_that_gives_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    address, ends = fake(WELCOME)
    with InputServers([address], 2) as servers:
        monkeypatch.setattr(servers._servers[0].link, 'heard', float('inf'))
        with pytest.raises(InputServerError, match=f'^input servers {address} gave no batch for 2 s: check their CPUs'):
            servers.take(waiting())
    ends.set()


@pytest.mark.parametrize('welcome, message', [
    ({**WELCOME, 'versions': {**versions(), 'TensorFlow': '2.0.0'}},
     r'^input server {} has TensorFlow 2.0.0 and this machine [\d.]+; install the same versions on both'),
    ({'kind': 'other'}, '^{} does not answer as an input server: it hangs, or is another program; give')],
    ids=['other version', 'other program'])
def test_a_server_that_cannot_be_used(welcome: dict[str, Any], message: str) -> None:
    address, ends = fake(welcome)
    with pytest.raises(InputServerError, match=message.format(address)), InputServers([address], 5):
        pass
    ends.set()


def test_a_server_that_cannot_be_reached() -> None:
    address = f'localhost:{free_ports(1)[0]}'
    with pytest.raises(InputServerError, match=f'cannot reach input server {address} within 1 s: Connection refused; '
                                               'start `mrcnn input-server` there'), InputServers([address], 1):
        pass

"""Workers that agree, stop together, and name the one that fails: as threads of this process, on loopback."""
from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mrcnn_tf.cli.launch import free_ports
from mrcnn_tf.training import peers as module
from mrcnn_tf.training.clusters import Cluster, ClusterError
from mrcnn_tf.training.links import connect
from mrcnn_tf.training.peers import PeerError, Peers

REMEDY = 'do this'


def addresses(count: int) -> tuple[str, ...]:
    return tuple(f'localhost:{port}' for port in free_ports(count))


def run(count: int, body: Callable[[Peers, int], object], timeout: float = 20) -> list[object]:
    """Run a function on each worker, and return its results or errors, with the addresses as HOST0, HOST1, ..."""
    hosts = addresses(count)

    def worker(index: int) -> object:
        try:
            with Peers(Cluster(hosts, index), timeout) as peers:
                return body(peers, index)
        except Exception as error:
            text = f'{type(error).__name__}: {error}'
            for number, host in enumerate(hosts):
                text = text.replace(host, f'HOST{number}')
            return text

    with ThreadPoolExecutor(count) as pool:
        futures: list[Future[object]] = [pool.submit(worker, index) for index in reversed(range(count))]
        return [future.result(timeout=60) for future in reversed(futures)]


@contextlib.contextmanager
def joined(timeout: float) -> Iterator[tuple[Peers, socket.socket]]:
    """The chief of two workers, and the bare connection of the other one, which sends nothing by itself."""
    hosts = addresses(2)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(connect, Cluster(hosts, 1), timeout)
        with contextlib.suppress(PeerError), Peers(Cluster(hosts, 0), timeout) as peers:
            with contextlib.closing(other.result()) as link:
                yield peers, link._socket
            raise PeerError


def wait_for_failure(peers: Peers) -> None:
    while not peers.failure:
        time.sleep(.02)


def test_equal_values_agree() -> None:
    assert run(3, lambda peers, index: peers.agree('settings', {'a': '1'}, REMEDY)) == [None] * 3


@pytest.mark.parametrize('values, difference', [
    ({'a': '1', 'b': '3', 'c': '3'}, 'b is 3 on worker 2 and 2 on worker 0'),
    ({'a': '1'}, 'b is missing on worker 2 and 2 on worker 0'),
    ({'a': '1', 'b': '2', 'c': '1', 'd': '1'}, 'd is 1 on worker 2 and missing on worker 0')],
    ids=['other value', 'missing', 'more'])
def test_the_first_difference_is_named_on_all_workers(values: dict[str, str], difference: str) -> None:
    ours = {'a': '1', 'b': '2', 'c': '1'}
    results = run(3, lambda peers, index: peers.agree('settings', values if index == 2 else ours, REMEDY))
    assert results == [f'PeerError: worker 2 (HOST2) differs from worker 0 (HOST0): {difference}; do this'] * 3


@pytest.mark.parametrize('failing', [0, 1])
def test_the_error_of_a_worker_is_named_on_the_others(failing: int) -> None:
    def body(peers: Peers, index: int) -> None:
        if index == failing:
            raise FileNotFoundError(2, 'No such file or directory', 'train.json')
        peers.agree('settings', {}, REMEDY)

    results = run(3, body)
    assert 'FileNotFoundError' in str(results.pop(failing))
    name = f'worker {failing} (HOST{failing})'
    assert results == [f'PeerError: {name} stopped: train.json: No such file or directory'] * 2


def test_a_failure_aborts_what_a_worker_waits_for() -> None:
    waits, aborted = threading.Event(), threading.Event()

    def body(peers: Peers, index: int) -> bool:
        peers.on_failure = lambda reason: aborted.set()
        if index == 1:
            waits.wait(20)
            raise ValueError('defect')
        waits.set()
        assert aborted.wait(20)                # a collective operation
        return 'worker 1' in peers.explain()

    assert run(2, body)[0] == 'PeerError: worker 1 (HOST1) stopped: defect'     # from `leave`


@pytest.mark.parametrize('signalled', [0, 1])
def test_a_signal_stops_all_workers_after_the_same_step(signalled: int) -> None:
    """Each step ends with a barrier, as an all-reduce does; no worker may go on when another one stops."""
    barrier, received = threading.Barrier(3), []

    def body(peers: Peers, index: int) -> tuple[int, str]:
        peers.on_signal = received.append
        for step in range(1, 100):
            barrier.wait(20)
            time.sleep(.002 * index)
            if peers.stops_at(step, 'SIGTERM' if index == signalled and step >= 5 else ''):
                break
        return step, peers.signal.split(' (')[0]

    results = run(3, body)
    (step, signal), = set(results)    # type: ignore[misc]
    assert 6 <= step < 99 and signal == f'SIGTERM of worker {signalled}'
    assert received


def test_a_single_worker_connects_nothing() -> None:
    with Peers() as peers:
        peers.agree('settings', {'a': '1'}, REMEDY)
        assert not peers.stops_at(1, '') and peers.stops_at(2, 'SIGINT')


def test_a_killed_worker_is_named_at_once() -> None:
    with joined(timeout=60) as (peers, connection):
        connection.shutdown(socket.SHUT_RDWR)
        assert 'ended without a message: it was killed' in peers.explain()


def test_a_silent_worker_is_named_after_the_timeout() -> None:
    with joined(timeout=.6) as (peers, _):
        begun = time.monotonic()
        with pytest.raises(PeerError, match=r'worker 1 \(localhost:\d+\) has not answered for 1 s: it hangs'):
            peers.agree('settings', {}, REMEDY)
        assert .5 < time.monotonic() - begun < 5


def test_a_worker_that_does_not_reach_the_comparison_is_named() -> None:
    def body(peers: Peers, index: int) -> None:
        if index == 0:
            wait_for_failure(peers)
        peers.agree('settings', {}, REMEDY)

    line = 'PeerError: worker 0 (HOST0) has not reached the comparison of the settings within 0.6 s; see its output'
    assert [str(result).partition(', or')[0] for result in run(2, body, timeout=.6)] == [line] * 2


def test_a_worker_whose_input_hangs_is_named() -> None:
    def body(peers: Peers, index: int) -> None:
        with peers.timed('has waited for its input') if index else contextlib.nullcontext():
            wait_for_failure(peers)
        peers.check()

    for result in run(2, body, timeout=.6):
        assert str(result).startswith('PeerError: worker 1 (HOST1) has waited for its input for 1 s; check its storage')


@pytest.mark.parametrize('hangs_in_step, line', [
    (False, 'worker 1 (HOST1) has not begun step 6 for 1 s, and the other workers wait for that'),
    (True, 'no worker has ended step 6 for 1 s: one of worker 0 (HOST0), worker 1 (HOST1) hangs')],
    ids=['between steps', 'in a step'])
def test_a_step_that_does_not_end_is_named(hangs_in_step: bool, line: str) -> None:
    def body(peers: Peers, index: int) -> None:
        with peers.watched(4):
            with peers.step(may_last=False):
                pass
            if index and not hangs_in_step:
                wait_for_failure(peers)
            with peers.step(may_last=False):
                wait_for_failure(peers)
        peers.check()

    for result in run(2, body, timeout=.6):
        assert str(result).startswith(f'PeerError: {line}')


def test_compiling_and_evaluating_may_last_on_one_worker() -> None:
    def body(peers: Peers, index: int) -> str:
        with peers.watched(0):
            with peers.step(may_last=bool(index)):
                time.sleep(1.4)
            with peers.pause() if index else contextlib.nullcontext():
                time.sleep(1.4)
        return peers.failure

    assert run(2, body, timeout=1) == ['', '']


def test_workers_that_do_not_join_are_named() -> None:
    with pytest.raises(ClusterError, match=r'worker 1 \(.*\), worker 2 \(.*\) did not join within 0.3 s; see its'):
        Peers(Cluster(addresses(3), 0), .3).__enter__()


@pytest.mark.parametrize('host, reason', [('localhost', 'Connection refused'), ('no-host.invalid', 'known|resol')],
                         ids=['refused', 'unknown host'])
def test_a_chief_that_cannot_be_reached_is_named(host: str, reason: str) -> None:
    own, other = addresses(2)
    chief = f'{host}:{other.rpartition(":")[2]}'
    with pytest.raises(ClusterError, match=rf'worker 1 cannot reach worker 0 \({chief}\) within 0.3 s: .*{reason}'):
        Peers(Cluster((chief, own), 1), .3).__enter__()


@pytest.mark.parametrize('index', [0, 1])
def test_a_port_in_use_is_named(index: int) -> None:
    with socket.create_server(('localhost', 0)) as other:
        hosts = [*addresses(1), f'localhost:{other.getsockname()[1]}'][::1 if index else -1]
        with pytest.raises(ClusterError, match=rf'worker {index} \(.*\) cannot listen on port \d+: Address .*in use'):
            Peers(Cluster(tuple(hosts), index), 5).__enter__()


@pytest.mark.parametrize('other, reason', [
    (lambda hosts: Cluster((hosts[0], hosts[2]), 1), 'worker 1 has the addresses localhost:.* and worker 0 has local'),
    (lambda hosts: Cluster(hosts, 1), 'two processes are worker 1')], ids=['addresses', 'index'])
def test_workers_with_contradictory_places_are_refused(
        other: Callable[[tuple[str, ...]], Cluster], reason: str) -> None:
    hosts = addresses(3)
    with ThreadPoolExecutor(3) as pool:
        chief = pool.submit(Peers(Cluster(hosts, 0), 10).__enter__)
        first = pool.submit(connect, Cluster(hosts, 1), 10)
        time.sleep(.2)                         # both try their port, which may be the same
        second = pool.submit(connect, other(hosts), 10)
        for each in (chief, second):
            with pytest.raises(ClusterError, match=reason):
                each.result(timeout=20)
        with pytest.raises(ClusterError):      # another reason if it comes after the chief has ended
            first.result(timeout=20)


def test_another_program_on_the_port_does_not_count_as_a_worker() -> None:
    hosts = addresses(2)

    def chief() -> None:
        with Peers(Cluster(hosts, 0), 10):
            pass

    with ThreadPoolExecutor(1) as pool:
        joins = pool.submit(chief)
        _scan(hosts[0])
        with Peers(Cluster(hosts, 1), 10):
            pass
        joins.result(20)


def _scan(address: str) -> None:
    """Connect as a program that speaks another protocol, as soon as something listens."""
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(
                ('localhost', int(address.rpartition(':')[2])), 5) as scanner:
            scanner.sendall(b'GET / HTTP/1.1\r\n\r\n')
            return


def test_a_worker_that_cannot_leave_is_ended(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ended: list[int] = []
    monkeypatch.setattr(module, '_LEAVE', .1)
    monkeypatch.setattr('os._exit', ended.append)
    with joined(timeout=60) as (peers, connection):
        connection.shutdown(socket.SHUT_RDWR)
        assert peers.explain()
        while not ended:
            time.sleep(.02)
    assert ended == [1]
    assert capsys.readouterr().err.startswith('mrcnn: error: worker 1 (localhost:')


def test_the_others_wait_for_worker_0_while_it_pauses() -> None:
    """Longer than the timeout, within which it would have to reach the comparison otherwise."""
    def body(peers: Peers, index: int) -> None:
        if index == 0:
            with peers.pause():
                time.sleep(2.5)
        peers.agree('files', {}, REMEDY)

    assert run(2, body, timeout=1) == [None, None]

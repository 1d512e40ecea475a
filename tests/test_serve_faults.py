"""Thousands of mixed and damaged requests to a server of a small detector."""
from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import serve_faults
from mrcnn_tf.cli.benchmark.served import Served, served
from mrcnn_tf.serving.export import export
from tests.serving.test_export import tiny_config, write_model
from tests.serving.test_signatures import FILES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('shallow_resnets')]


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp('served')
    export(write_model(directory / 'model', tiny_config()), directory / 'pets')
    with served(str(directory / 'pets'), '--batching') as server:
        yield server


def test_2000_mixed_requests_are_answered_as_each_image_alone_in_constant_memory(server: Served) -> None:
    found = serve_faults.mixed(server, FILES, 2000)
    assert found.wrong == 0 and found.equal > 4000
    assert found.memory[-1] < found.memory[1] + 40


def test_10000_damaged_requests_hang_nothing_and_change_no_answer_of_another_client(server: Served) -> None:
    found = serve_faults.fuzzed(server, FILES, 10_000)
    assert found.wrong == 0 and found.equal > 20
    assert {kind for kind, statuses in found.statuses.items() if statuses['OK'] + statuses['200']} == {
        'images over gRPC', 'messages over gRPC', 'images to the page', 'JSON', 'HTTP'}    # they reach the model
    # INTERNAL is gRPC's own answer to bytes that are no message.
    assert set(found.statuses['messages over gRPC']) <= {'OK', 'INTERNAL', 'INVALID_ARGUMENT', 'NOT_FOUND'}
    ends = set().union(*(statuses for kind, statuses in found.statuses.items() if kind != 'messages over gRPC'))
    assert not ends & {'DEADLINE_EXCEEDED', 'UNAVAILABLE', 'UNKNOWN', 'INTERNAL', '500', 'HANGS'}, found.statuses
    assert found.memory[-1] < found.memory[1] + 40

"""Beam writes the same bytes as local processes, resumes after complete shards, and fails with one line."""
from __future__ import annotations

import json
import logging
import pathlib
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from data_tools.formats import coco, shapes
from data_tools.formats.shapes import DrawnSet
from data_tools.issues import ConversionError
from data_tools.sharding import beam, writer
from mrcnn_tf.files.extras import install
from tests.cli.runner import mrcnn

LIMITS = (3, 2 ** 28, 1)     # images and bytes a shard, processes


@pytest.fixture(scope='module')
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnSet:
    """Ten pictures, one of which cannot be read."""
    made = shapes.draw(tmp_path_factory.mktemp('drawn'), 10, 0, (40, 48))
    (made.images / '000005.png').write_bytes(b'no picture')
    return made


@pytest.fixture(scope='module')
def local(drawn: DrawnSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    directory = tmp_path_factory.mktemp('local')
    coco.convert(drawn.annotations, drawn.images, directory, options=writer.Options(*LIMITS))
    return content(directory)


@pytest.fixture()
def quiet() -> Iterator[None]:
    """Beam sets up logging as it likes."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


def content(directory: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b'' for path in directory.iterdir()}


def convert(drawn: DrawnSet, output: pathlib.Path, *options: str) -> None:
    pytest.importorskip('apache_beam', reason='no Apache Beam here; install the extra beam')
    coco.convert(drawn.annotations, drawn.images, output, options=writer.Options(*LIMITS, options))


@pytest.mark.usefixtures('quiet')
def test_the_same_bytes_as_without_it(tmp_path: pathlib.Path, drawn: DrawnSet, local: dict[str, bytes]) -> None:
    convert(drawn, tmp_path)
    assert content(tmp_path) == local and len(local) == 5
    assert 'corrupt image' in json.loads(local['train.json'])['dropped']


@pytest.mark.slow
@pytest.mark.usefixtures('quiet')
@pytest.mark.both_stacks
def test_several_processes(tmp_path: pathlib.Path, drawn: DrawnSet, local: dict[str, bytes]) -> None:
    convert(drawn, tmp_path, '--direct_num_workers=2', '--direct_running_mode=multi_processing')
    assert content(tmp_path) == local


@pytest.mark.usefixtures('quiet')
def test_a_run_resumes_after_complete_shards(
        tmp_path: pathlib.Path, drawn: DrawnSet, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    convert(drawn, tmp_path / 'another')      # skips here without Beam
    run = beam.run

    def half(make: Any, jobs: Any, *others: Any) -> Any:
        run(make, jobs[:2], *others)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(beam, 'run', half)
        convert(drawn, tmp_path / 'out')
    capsys.readouterr()
    coco.convert(drawn.annotations, drawn.images, tmp_path / 'out', options=writer.Options(*LIMITS))     # without it
    assert capsys.readouterr().out.startswith('train: resumes: 2 of 4 shards are complete\n')
    assert content(tmp_path / 'out') == local


@pytest.mark.usefixtures('quiet')
def test_an_error_of_a_worker_reaches_the_caller(
        tmp_path: pathlib.Path, drawn: DrawnSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise ConversionError('a.json: it was changed; convert it again')

    monkeypatch.setattr('data_tools.sharding.shards.write', refuse)
    with pytest.raises(ConversionError, match='^a.json: it was changed; convert it again$'):
        convert(drawn, tmp_path)
    assert content(tmp_path) == {}


@pytest.mark.usefixtures('quiet')
def test_an_error_of_beam_is_one_line(tmp_path: pathlib.Path, drawn: DrawnSet) -> None:
    with pytest.raises(OSError, match=f'^{tmp_path}: Beam failed: Unexpected pipeline runner: NoSuchRunner') as error:
        convert(drawn, tmp_path, '--runner=NoSuchRunner')
    assert '\n' not in str(error.value) and content(tmp_path) == {}


def test_without_the_extra_the_line_names_it(drawn: DrawnSet, tmp_path: pathlib.Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'apache_beam', None)
        result = mrcnn('convert', 'coco', '--annotations', drawn.annotations, '--images', drawn.images, '--output',
                       tmp_path, '--runner', 'beam')
    assert result.exit_code == 1 and content(tmp_path) == {}
    assert result.stderr.splitlines()[-1] == f'mrcnn: error: --runner beam needs Apache Beam: {install("beam")}'


@pytest.mark.usefixtures('quiet')
def test_a_worker_of_other_versions_writes_nothing(
        tmp_path: pathlib.Path, drawn: DrawnSet, monkeypatch: pytest.MonkeyPatch) -> None:
    check = beam._check_versions
    monkeypatch.setattr(beam, '_check_versions', lambda expected: check({**expected, 'Pillow': '1.2'}))
    with pytest.raises(ConversionError, match=r'^a worker of Beam has Pillow [\d.]+, this machine has 1\.2'):
        convert(drawn, tmp_path)
    assert content(tmp_path) == {}


class _Program:
    """Pickled as a call that leaves a file."""

    def __init__(self, mark: pathlib.Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return pathlib.Path.touch, (self.mark,)


@pytest.mark.usefixtures('quiet')
def test_a_pickle_of_another_in_the_output_directory_is_not_run(
        tmp_path: pathlib.Path, drawn: DrawnSet, monkeypatch: pytest.MonkeyPatch) -> None:
    write_items, mark = beam._write_items, tmp_path / 'mark'
    hostile = pickle.dumps(_Program(mark))

    def replaced(job: Any) -> str:
        checksum = write_items(job)
        beam._beside(job, '.items').write_bytes(hostile)
        beam._beside(job, '.error').write_bytes(hostile)      # which the worker's own replaces
        return checksum

    monkeypatch.setattr(beam, '_write_items', replaced)
    with pytest.raises(ConversionError, match=r'00000\.items: it was changed during the conversion; give'):
        convert(drawn, tmp_path / 'out')
    assert not (tmp_path / 'out').exists() and not mark.exists()
    pickle.loads(hostile)
    assert mark.exists()      # it would have been


@pytest.mark.usefixtures('quiet')
def test_a_defect_of_a_worker_is_named(
        tmp_path: pathlib.Path, drawn: DrawnSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('data_tools.sharding.shards.write', lambda *_: 1 // 0)
    with pytest.raises(beam.WorkerError, match='^ZeroDivisionError: '):
        convert(drawn, tmp_path)


def test_beam_and_workers_exclude_each_other() -> None:
    with pytest.raises(ConversionError, match='^--workers has no effect with Beam.*--direct_num_workers=4$'):
        writer.Options(workers=4, beam=())

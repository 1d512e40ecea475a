"""Which version is served: the newest that can be loaded."""
from __future__ import annotations

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.serving import server_kit
from mrcnn_tf.serving.server import versions
from mrcnn_tf.serving.server.versions import RequestError, ServeError, State, Version, Versions

DAMAGED = 'damaged'


@pytest.fixture
def directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A directory of files in place of models; a file that says so is damaged."""
    def load(directory: pathlib.Path, warmup: bool) -> SimpleNamespace:
        if (directory / 'saved_model.pb').read_text() == DAMAGED:
            raise ServeError(f'{directory}: cannot be served')
        return SimpleNamespace(number=int(directory.name))

    monkeypatch.setattr(versions, 'Version', load)
    return tmp_path


def add(directory: pathlib.Path, name: str, content: str = '') -> None:
    (directory / name).mkdir()
    (directory / name / 'saved_model.pb').write_text(content)


def test_the_newest_version_replaces_the_older(directory: pathlib.Path) -> None:
    for name in ('2', '10', 'temporary'):
        add(directory, name)
    (directory / '11').mkdir()    # not complete
    found = Versions(directory)
    assert found.get().number == found.get(10).number == 10 and found.states() == [State(10, 'AVAILABLE')]
    add(directory, '12')
    found.reload()
    assert found.get().number == 12 and found.states() == [State(12, 'AVAILABLE'), State(10, 'END')]
    with pytest.raises(RequestError, match='version 10 is not served, 12 is'):
        found.get(10)
    with pytest.raises(RequestError, match='no version 2'):
        found.states(2)


def test_a_damaged_version_does_not_replace_one_that_works(
        directory: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    add(directory, '1')
    found = Versions(directory)
    add(directory, '2', DAMAGED)
    for _ in range(2):    # the second time it is not tried again, as it is too early
        found.reload()
    assert found.get().number == 1 and caplog.messages == [
        f'{directory}/2: cannot be served; version 1 is still served']
    assert found.states() == [State(2, 'END', f'{directory}/2: cannot be served'), State(1, 'AVAILABLE')]
    add(directory, '3')
    found.reload()
    assert found.get().number == 3


def test_a_version_that_failed_is_tried_again_when_its_files_change(directory: pathlib.Path) -> None:
    add(directory, '1')
    found = Versions(directory)
    add(directory, '2', DAMAGED)
    found.reload()
    (directory / '2' / 'saved_model.pb').write_text('repaired')
    found.reload()
    assert found.get().number == 2 and found.states() == [State(2, 'AVAILABLE'), State(1, 'END')]


def test_a_version_that_failed_is_tried_again_after_longer_and_longer_pauses(
        directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """After 10, 20, 40, ... and at last 600 s; a failure that is not the version's own, such as no memory, passes."""
    now, tried, ready = [0.], [], []
    monkeypatch.setattr(versions, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    add(directory, '1')
    found = Versions(directory)
    add(directory, '2')

    def load(directory: pathlib.Path, warmup: bool) -> SimpleNamespace:
        tried.append(now[0])
        if not ready:
            raise ServeError('no memory')
        return SimpleNamespace(number=2)

    monkeypatch.setattr(versions, 'Version', load)
    for second in range(2500):
        now[0] = float(second)
        found.reload()
    assert tried == [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430]
    assert caplog.messages == ['no memory; version 1 is still served']
    ready.append(True)
    now[0] = 3030.
    found.reload()
    assert found.get().number == 2


@pytest.mark.parametrize('create', [False, True], ids=['missing', 'without versions'])
def test_a_directory_without_versions(tmp_path: pathlib.Path, create: bool) -> None:
    if create:
        (tmp_path / 'model' / 'notes').mkdir(parents=True)
    with pytest.raises(ServeError, match=f'{tmp_path}/model: has no version of a model'):
        Versions(tmp_path / 'model')


@pytest.mark.parametrize('description', [None, '{', '{}'], ids=['missing', 'no json', 'no model'])
def test_a_damaged_version(tmp_path: pathlib.Path, description: str | None) -> None:
    version = tmp_path / '1'
    (version / 'assets.extra').mkdir(parents=True)
    (version / 'saved_model.pb').write_bytes(b'x')
    if description:
        (version / 'assets.extra' / 'mrcnn.json').write_text(description)
    with pytest.raises(ServeError, match=f'{version}: cannot be served .*; export the model again'):
        Version(version)


@pytest.fixture
def version() -> Version:
    spec = {'images': tf.TensorSpec([None, None, 3], tf.uint8), 'sizes': tf.TensorSpec([None, 2], tf.int32)}
    made = Version.__new__(Version)
    made._signatures = {'detect': SimpleNamespace(structured_input_signature=((), spec))}
    return made


def test_warm_up_runs_the_recorded_signature_and_detect(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {'image_bytes': tf.TensorSpec([None], tf.string)}
    made, ran = Version.__new__(Version), []
    made._signatures = {name: SimpleNamespace(structured_input_signature=((), inputs)) for name, inputs in (
        ('serving_default', files), ('detect', files), ('of_pixels', {'images': tf.TensorSpec([None], tf.uint8)}))}
    monkeypatch.setattr(made, 'run', lambda signature, inputs: ran.append((
        signature, *(value.tolist() for value in inputs.values()))))
    for name, inputs in (('serving_default', {'image_bytes': np.array([b'x'], object)}),
                         ('of_pixels', {'images': np.uint8([7])})):
        (tmp_path / name).mkdir()
        server_kit.write_warmup(tmp_path / name, 'mine', [(name, inputs)])
        made._warm_up(tmp_path / name / server_kit.WARMUP)
    made._warm_up(tmp_path / 'missing')
    assert sorted(ran) == [('detect', [b'x']), ('of_pixels', [7]), ('serving_default', [b'x'])]


def test_inputs_are_checked(version: Version) -> None:
    images, sizes = np.zeros([2, 5, 3], np.uint8), np.zeros([2, 2], np.int32)
    assert version.check('detect', {'images': images, 'sizes': sizes}) == 2
    for inputs, message in (({'images': images}, 'got images; expected images, sizes'),
                            ({'images': images, 'sizes': sizes.astype(np.int64)}, 'sizes: got int64 of shape'),
                            ({'images': images[..., :2], 'sizes': sizes}, r'images: got uint8 of shape \[2, 5, 2\]'),
                            ({'images': images, 'sizes': sizes[:1]}, 'have 1, 2 elements')):
        with pytest.raises(RequestError, match=message):
            version.check('detect', inputs)
    with pytest.raises(RequestError, match='"other" not found in signature def; expected one of detect'):
        version.check('other', {})

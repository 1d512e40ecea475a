"""`mrcnn verify` and `mrcnn inspect`: the arguments of the functions that they call, and what they print."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.config import Config
from tests.cli.runner import Recorder, mrcnn


def test_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools import verify as tool

    good = tool.Report('d/train.json', 1, tool.Findings())
    bad = tool.Report('d/train.json', 1, tool.Findings(problems=[tool.Problem('a.tfrecord', 3, 120, 'it is cut')]))
    for report, arguments, code in ((good, [], 0), (bad, ['--sample', 0, '--workers', 3], 1), (bad, ['--json'], 1)):
        verify = Recorder(report)
        monkeypatch.setattr('data_tools.verify.verify', verify)
        result = mrcnn('verify', 'd/train.json', *arguments)
        assert result.exit_code == code
        assert verify.calls == [(pathlib.Path('d/train.json'), *((0, 3) if '--sample' in arguments else (200, 1)))]
        expected = report.json() if '--json' in arguments else report.text()
        assert result.stdout == expected + '\n'


def test_inspect_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    def derive(loaded: Config, chosen: set[str]) -> tuple[Config, list[str]]:
        assert {'data.train', 'train.seed'} <= set(chosen)
        loaded.model.num_classes = 9
        return loaded, ['model.num_classes is 9']

    write = Recorder()
    monkeypatch.setattr('data_tools.augmented_page.write', write)
    monkeypatch.setattr('mrcnn_tf.training.derived.derive', derive)
    result = mrcnn('inspect', 'd/train.json', '--output', 'page.html', '--images', 3, '--augmented', 'shapes_r18_fpn',
                   '--set', 'data.augment.rotation=10', '--set', 'train.seed=7')
    assert (result.exit_code, result.stdout) == (0, 'model.num_classes is 9\npage.html\n')
    [(config, output, images)] = write.calls
    assert config.model.num_classes == 9
    assert (config.data.train, config.data.augment.rotation, config.train.seed) == ('d/train.json', 10, 7)
    assert (output, images) == (pathlib.Path('page.html'), 3)


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'give MANIFEST or --augmented CONFIG'),
    (['d/train.json', '--set', 'train.seed=7'], 'give MANIFEST without --set, or --augmented CONFIG with it'),
    (['--augmented', 'shapes_r18_fpn', '--set', 'data.train=null'],
     'data.train is null; give MANIFEST or --set data.train=NAME.json'),
    (['--augmented', 'shapes_r18_fpn', '--set', 'data.augment.rotation=200'],
     'data.augment.rotation is 200.0: expected at least 0 and at most 180')],
    ids=['nothing', 'settings without config', 'no set', 'wrong value'])
def test_what_inspect_cannot_show(arguments: list[str], message: str) -> None:
    result = mrcnn('inspect', '--output', 'page.html', *arguments)
    assert result.exit_code == 1 and result.stderr == f'mrcnn: error: {message}\n'


def test_inspect(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Recorder()
    monkeypatch.setattr('data_tools.inspect_page.write', write)
    result = mrcnn('inspect', 'd/train.json', '--output', 'page.html', '--images', 3, '--max-pixels', 100)
    assert (result.exit_code, result.stdout) == (0, 'page.html\n')
    assert write.calls == [(pathlib.Path('d/train.json'), pathlib.Path('page.html'), 3, 100, None)]

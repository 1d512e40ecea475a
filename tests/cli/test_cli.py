"""The command line: what reaches the functions behind it, what it says and its exit code when things go wrong."""
from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mrcnn_tf import __version__
from mrcnn_tf.cli import main
from mrcnn_tf.config import Config
from mrcnn_tf.serving import predict_files
from mrcnn_tf.training.callbacks import TrainingError
from tests.training.tiny import SETTINGS, write_data

KINDS = ('coco', 'cityscapes', 'voc')
COMMANDS = (['demo'], ['verify'], *([verb, kind] for verb in ('convert', 'validate') for kind in KINDS),
            *(['import-weights', source] for source in ('torchvision', 'detectron2', 'keras-applications', 'model')),
            ['convert', 'proposals'], ['convert', 'tfrecord'], ['inspect'], ['train'], ['evaluate'], ['export'],
            ['predict'], ['recall'], ['propose'], ['train-alternating'])


def mrcnn(*arguments: object) -> Result:
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != 'TF_CPP_MIN_LOG_LEVEL'}
    return subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)], text=True, capture_output=True, timeout=300,
        env={**inherited, 'PYTHONPATH': os.pathsep.join(sys.path), **environment})


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
def test_help_is_enough_to_use_it(command: list[str]) -> None:
    result = mrcnn(*command, '--help')
    assert result.exit_code == 0
    example = re.search(r'Example:\n +(mrcnn .*)', result.stdout)
    assert example and example[1].startswith(f'mrcnn {" ".join(command)} ')


def test_version() -> None:
    result = mrcnn('--version')
    assert result.exit_code == 0
    assert re.fullmatch(rf'mrcnn-tf {re.escape(__version__)}, tensorflow 2\.[\d.]+, keras \d[\d.]+\n', result.stdout)


@pytest.mark.parametrize(('arguments', 'code'), [
    ('--help', 0), ('train --help', 0), ('--version', 0), ('train nuclei_r18_fpn solver.stepz=3', 1),
    ('train nucleus', 1), ('evaluate', 2)])
def test_help_and_wrong_settings_do_not_wait_for_tensorflow(arguments: str, code: int) -> None:
    program = ('import atexit, sys; atexit.register(lambda: print("tensorflow" in sys.modules)); '
               'from mrcnn_tf.cli.main import main; main()')
    result = python(program, *arguments.split())
    assert (result.returncode, result.stdout.splitlines()[-1]) == (code, 'False'), result.stderr


def test_a_wrong_key_is_one_line() -> None:
    result = mrcnn('train', 'nuclei_r18_fpn', 'solver.stepz=3')
    assert (result.exit_code, result.stdout) == (1, '')
    assert result.stderr == (
        "mrcnn: error: override 'solver.stepz=3': unknown key solver.stepz; did you mean solver.steps?\n")


class Recorder:
    """Takes the place of a function; raises `error` if one is given."""

    def __init__(self, result: Any = None, error: BaseException | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._result, self._error = result, error

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        if self._error:
            raise self._error
        return self._result


@pytest.mark.parametrize(('error', 'line', 'code'), [
    (TrainingError('step 7: loss is nan; lower\nsolver.learning_rate'),
     'error: step 7: loss is nan; lower solver.learning_rate', 1),
    (OSError(28, 'No space left on device', '/full/disk'), 'error: /full/disk: No space left on device', 1),
    (FileExistsError('saved/1: a directory of this name exists'), 'error: saved/1: a directory of this name exists', 1),
    (KeyboardInterrupt(), 'interrupted', 130)], ids=['ours', 'system', 'file', 'ctrl-c'])
def test_what_the_user_can_mend_is_one_line(
        error: BaseException, line: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', Recorder(error=error))
    result = mrcnn('train', 'base')
    assert (result.exit_code, result.stderr) == (code, f'mrcnn: {line}\n')


@pytest.mark.parametrize('error', [ValueError('shapes differ'), TypeError('no float'), RuntimeError('x')], ids=repr)
def test_a_defect_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', Recorder(error=error))
    result = mrcnn('train', 'base')
    assert result.exception is error and result.stderr == ''


@pytest.mark.parametrize(('arguments', 'directory'), [
    (['nuclei_r18_fpn'], 'runs/nuclei_r18_fpn'),
    (['nuclei_r18_fpn.yaml', '--model-dir', 'here', '--allow-changes'], 'here')], ids=str)
def test_train(arguments: list[str], directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr('mrcnn_tf.training.trainer.train', train)
    assert mrcnn('train', *arguments, 'solver.steps=12', 'data.short_sides=[96,128]').exit_code == 0
    (config, model_dir, allow_changes), = train.calls
    assert allow_changes is ('--allow-changes' in arguments)
    assert isinstance(config, Config) and (config.solver.steps, config.data.short_sides) == (12, [96, 128])
    assert config.model.num_classes == 1 and model_dir == pathlib.Path(directory)


def test_train_alternating(monkeypatch: pytest.MonkeyPatch) -> None:
    train = Recorder()
    monkeypatch.setattr('mrcnn_tf.training.alternating.train', train)
    assert mrcnn('train-alternating', 'faster_rcnn_vgg16_unshared', 'solver.gamma=0.2').exit_code == 0
    (config, model_dir), = train.calls
    assert (config.alternating.steps, config.solver.gamma) == (2, .2)
    assert model_dir == pathlib.Path('runs/faster_rcnn_vgg16_unshared')


@pytest.mark.parametrize(('more', 'training'), [([], False), (['--for-training'], True)])
def test_propose(monkeypatch: pytest.MonkeyPatch, more: list[str], training: bool) -> None:
    propose = Recorder()
    monkeypatch.setattr('mrcnn_tf.evaluation.export_proposals.propose', propose)
    result = mrcnn('propose', '--model-dir', 'run', '--data', 'a.json', '--output', 'a.npz', *more)
    assert (result.exit_code, result.stdout) == (0, 'a.npz\n')
    assert propose.calls == [(*map(pathlib.Path, ('run', 'a.json', 'a.npz')), training)]


def test_convert_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools.sharding.writer import Options

    attach = Recorder()
    monkeypatch.setattr('data_tools.proposals.attach', attach)
    needed = ['d/train.json', '--output', 'o', '--name', 'with']
    assert mrcnn('convert', 'proposals', *needed).exit_code == 0
    assert mrcnn('convert', 'proposals', *needed, '--proposals', 'p.mat', '--mode', 'quality', '--top', 100,
                 '--images-per-shard', 5, '--shard-size', 3, '--workers', 2).exit_code == 0
    old, new = pathlib.Path('d/train.json'), (pathlib.Path('o'), 'with')
    assert attach.calls == [(old, None, *new, 2000, 'fast', Options()),
                            (old, pathlib.Path('p.mat'), *new, 100, 'quality', Options(5, 3 * 2 ** 20, 2))]


def test_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    from data_tools import verify as tool

    good = tool.Report('d/train.json', 1, tool.Tally())
    bad = tool.Report('d/train.json', 1, tool.Tally(problems=[tool.Problem('a.tfrecord', 3, 120, 'it is cut')]))
    for report, arguments, code in ((good, [], 0), (bad, ['--sample', 0, '--workers', 3], 1), (bad, ['--json'], 1)):
        verify = Recorder(report)
        monkeypatch.setattr('data_tools.verify.verify', verify)
        result = mrcnn('verify', 'd/train.json', *arguments)
        assert result.exit_code == code
        assert verify.calls == [(pathlib.Path('d/train.json'), *((0, 3) if '--sample' in arguments else (200, 1)))]
        expected = report.json() if '--json' in arguments else report.text()
        assert result.stdout == expected + '\n'


def test_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
    numbers = {f'{kind}/{name}': i / 100 for kind in ('bbox', 'segm') for i, name in enumerate(names, 11)}
    evaluate = Recorder(numbers)
    monkeypatch.setattr('mrcnn_tf.evaluation.run.evaluate', evaluate)
    result = mrcnn('evaluate', '--model-dir', 'run', '--data', 'val.json')
    assert result.exit_code == 0 and evaluate.calls == [(pathlib.Path('run'), pathlib.Path('val.json'), 'coco')]
    rows = re.findall(r'@\[.*\] +([\d.]+) +([\d.]+)', result.stdout)
    assert rows == [(f'0.{i}0', f'0.{i}0') for i in range(11, 23)]


def test_evaluate_by_voc(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Recorder({'voc/mAP': .5, 'voc/AP/cat': .5})
    monkeypatch.setattr('mrcnn_tf.evaluation.run.evaluate', evaluate)
    result = mrcnn('evaluate', '--model-dir', 'run', '--metric', 'voc2007')
    assert result.stdout.split() == ['mAP', '50.0', 'cat', '50.0'] and evaluate.calls[0][2] == 'voc2007'


def test_evaluate_by_cityscapes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ('AP', 'AP50', 'AP/car', 'AP50/car')
    evaluate = Recorder({f'cityscapes/{name}': i / 10 for i, name in enumerate(names, 1)})
    monkeypatch.setattr('mrcnn_tf.evaluation.run.evaluate', evaluate)
    result = mrcnn('evaluate', '--model-dir', 'run', '--metric', 'cityscapes')
    assert result.stdout.split() == ['AP', 'AP50', 'car', '30.0', '40.0', 'mean', '10.0', '20.0']
    assert evaluate.calls[0][2] == 'cityscapes'


def test_export(monkeypatch: pytest.MonkeyPatch) -> None:
    export = Recorder(pathlib.Path('saved/pets/3'))
    monkeypatch.setattr('mrcnn_tf.serving.export.export', export)
    result = mrcnn('export', '--model-dir', 'run', '--output', 'saved/pets')
    assert result.exit_code == 0 and result.stdout == 'saved/pets/3\n'
    assert export.calls == [(pathlib.Path('run'), pathlib.Path('saved/pets'))]


def test_predict_on_what_is_no_model(tmp_path: pathlib.Path) -> None:
    result = mrcnn('predict', 'a.png', '--model', tmp_path, '--output', tmp_path / 'out')
    assert result.exit_code == 1 and result.stderr.startswith(f'mrcnn: error: {tmp_path}: no model; give a directory')
    assert not (tmp_path / 'out').exists()


def test_predict_says_what_became_of_the_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [tmp_path / 'a.png', tmp_path / 'b.png']
    failed = {pathlib.Path('c.jpg'): 'c.jpg: the file is damaged'}
    done = predict_files.Predicted(pictures, failed, [tmp_path / 'b.jpg'], .4)
    monkeypatch.setattr('mrcnn_tf.serving.predictor.load_predictor', Recorder())
    monkeypatch.setattr('mrcnn_tf.serving.predict_files.predict_to_directory', Recorder(done))
    result = mrcnn('predict', 'a.jpg', 'b.jpg', 'c.jpg', '--model', 'm', '--output', 'out')
    assert result.exit_code == 1 and result.stdout.splitlines() == [
        '2 pictures and json files in out',
        f'on 1 of them nothing reaches the threshold of 0.5, such as on {tmp_path}/b.jpg: the best score is 0.400']
    assert result.stderr.splitlines() == [
        'mrcnn: c.jpg: the file is damaged', 'mrcnn: error: 1 of 3 files could not be used, listed above']


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Recorder()
    monkeypatch.setattr('mrcnn_tf.cli.demo.run', run)
    assert mrcnn('demo', '--minutes', '0.5').exit_code == 0
    assert run.calls == [(pathlib.Path('demo'), 0.5)]


NOISE = """
W0000 00:00:1795396227.898610   16053 op_level_cost_estimator.cc:699] Error in PredictCost() for the op
2026-11-23 01:11:53.184821: E external/local_xla/xla/cuda_blas.cc:1515] Unable to register cuBLAS factory
E0000 00:00:1795396309.677255   19003 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
2026-11-23 01:11:53.1: I tensorflow/core/platform/cpu_feature_guard.cc:182] This binary is optimized
""".strip()
KEPT = 'F0000 00:00:1.2 3 x.cc:4] Check failed\nW0000 is not always a log line\n2026-11-23: a date\nno last newline'


@pytest.mark.parametrize('end', ['', 'os.abort()', '1 / 0'])
def test_tensorflows_noise_is_dropped_and_nothing_else(end: str) -> None:
    code = ('import os, sys; from mrcnn_tf.cli import command\nwith command.quiet_tensorflow():\n'
            '    print("of python", file=sys.stderr)\n    os.write(2, sys.argv[1].encode())\n    ' + (end or 'pass'))
    result = python(code, f'{NOISE}\n{KEPT}' + ('\n' if end else ''))
    assert result.returncode == {'': 0, 'os.abort()': -signal.SIGABRT, '1 / 0': 1}[end]
    said = result.stderr.splitlines()
    assert {*KEPT.splitlines(), 'of python'} <= set(said) and not set(said) & set(NOISE.splitlines())
    assert bool(end) or len(said) == 5    # otherwise what the end brings comes on top
    assert ('ZeroDivisionError: division by zero' in said) == (end == '1 / 0')


def test_a_helper_that_outlives_the_command_does_not_hold_it() -> None:
    # multiprocessing leaves one that tracks its resources; it has the stderr that it was started with.
    result = python("""if True:
        import subprocess, sys, time
        from mrcnn_tf.cli.command import quiet_tensorflow
        start = time.monotonic()
        with quiet_tensorflow():
            helper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=subprocess.DEVNULL)
            subprocess.run([sys.executable, '-c', 'import os; os.write(2, b"last words")'])
        took = time.monotonic() - start
        helper.kill()
        assert took < 30, took""")
    assert (result.returncode, result.stderr) == (0, 'last words')


def test_the_user_may_hear_the_noise() -> None:
    code = ('import os; from mrcnn_tf.cli import command\n'
            'with command.quiet_tensorflow(): os.write(2, b"W0000 00:00:1 3 x] y")')
    assert python(code, TF_CPP_MIN_LOG_LEVEL='0').stderr == 'W0000 00:00:1 3 x] y'


@pytest.mark.slow
def test_the_whole_way(tmp_path: pathlib.Path) -> None:
    write_data(tmp_path)
    train = ['train', 'base', '--model-dir', tmp_path / 'run', *SETTINGS, f'data.train={tmp_path}/train.json',
             'solver.steps=2', 'model.detections.score_threshold=0', 'model.detections.max_detections=5']
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 50, 3), np.uint8)).save(tmp_path / 'a.png')
    for command in (train, ['evaluate', '--model-dir', tmp_path / 'run', '--data', tmp_path / 'train.json'],
                    ['export', '--model-dir', tmp_path / 'run', '--output', tmp_path / 'saved']):
        result = mrcnn(*command)
        assert result.exit_code == 0, result.output
    for model in ('run', 'saved'):
        result = mrcnn('predict', tmp_path / 'a.png', '--model', tmp_path / model, '--output', tmp_path / f'of_{model}')
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in (tmp_path / f'of_{model}').iterdir()) == ['a.json', 'a.png']
    assert (tmp_path / 'run' / 'metrics.json').is_file() and (tmp_path / 'saved' / '1' / 'saved_model.pb').is_file()

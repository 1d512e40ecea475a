"""Saving and restoring checkpoints, also after an interruption, on a full disk or with damaged files."""
from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.training.checkpoints import Checkpoints
from mrcnn_tf.training.clusters import Worker
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.schedules import Steps
from mrcnn_tf.weights.checkpoint_files import CheckpointError, find_newest
from mrcnn_tf.weights.history import History
from mrcnn_tf.weights.model_directory import create, restore_model
from tests.training.tiny import tiny_config
from tests.training.toy import ToyModel, batches

CATEGORIES = [Category(1, 7, 'cell'), Category(2, 9, 'nucleus')]


def compiled(width: int = 4, optimizer: str = 'sgd') -> ToyModel:
    model = ToyModel(width)
    model.compile(build_optimizer(SolverConfig(optimizer=optimizer), Steps(0.1, [], 0.1), model))
    return model


def trained(steps: int) -> ToyModel:
    keras.utils.set_random_seed(3)
    model = compiled()
    model.fit(batches(), steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
    return model


def saved(model_dir: pathlib.Path, *steps: int, keep: int = 3) -> ToyModel:
    model = trained(2)
    for step in steps:
        Checkpoints(model_dir, model, keep).save(step)
    return model


def assert_one_line(error: pytest.ExceptionInfo[CheckpointError], *parts: str) -> None:
    message = str(error.value)
    assert '\n' not in message
    for part in parts:
        assert part in message


def test_weights_slots_and_step_are_restored(tmp_path: pathlib.Path) -> None:
    model = saved(tmp_path, 2)
    other = compiled()
    assert Checkpoints(tmp_path, other, 3).restore() == 2
    for a, b in zip([*model.variables, *model.optimizer.momentums],
                    [*other.variables, *other.optimizer.momentums], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert np.abs(other.optimizer.momentums[0].numpy()).max() > 0


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_every_weight_and_slot_of_the_detector_is_restored(tmp_path: pathlib.Path, optimizer: str) -> None:
    config = tiny_config(tmp_path, f'solver.optimizer={optimizer}')
    create(tmp_path, config, CATEGORIES)
    models = []
    for _ in range(2):
        models.append(build_detector(config.model))
        models[-1].compile(build_optimizer(config.solver, Steps(0.1, [], 0.1), models[-1]))
    generator = np.random.default_rng(0)
    for variable in [*models[0].variables, *models[0].optimizer.variables[1:]]:    # the first one is the step
        variable.assign(generator.uniform(size=variable.shape))
    Checkpoints(tmp_path, models[0], 3).save(1)
    Checkpoints(tmp_path, models[1], 3).restore()
    for a, b in zip([*models[0].variables, *models[0].optimizer.variables],
                    [*models[1].variables, *models[1].optimizer.variables], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(models[0].get_weights(), restore_model(tmp_path)[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_empty_directory_restores_nothing(tmp_path: pathlib.Path) -> None:
    assert Checkpoints(tmp_path, compiled(), 3).restore() == 0


def test_the_newest_checkpoints_are_kept(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 5, 10, 15, keep=2)
    names = {path.name.split('.')[0] for path in (tmp_path / 'checkpoints').glob('step-*')}
    assert names == {'step-10', 'step-15'}
    assert find_newest(tmp_path / 'checkpoints') == tmp_path / 'checkpoints' / 'step-15'


def test_the_best_checkpoint_is_kept_besides_the_newest(tmp_path: pathlib.Path) -> None:
    model, history = trained(2), History(tmp_path)
    checkpoints = Checkpoints(tmp_path, model, 2, history=history)
    for step, value in ((5, .1), (10, .3), (15, .2), (20, .1), (25, None), (30, .4)):
        checkpoints.save(step)
        history.add(step, {'bbox/AP': value})
        names = {path.name.split('.')[0] for path in (tmp_path / 'checkpoints').glob('step-*')}
    assert names == {'step-10', 'step-25', 'step-30'}    # step-10 was the best when step-30 was saved
    checkpoints.save(35)
    checkpoints.save(40)
    state = tf.train.get_checkpoint_state(str(tmp_path / 'checkpoints'))
    assert [pathlib.Path(path).name for path in state.all_model_checkpoint_paths] == ['step-30', 'step-35', 'step-40']


def test_a_moved_directory_is_restored(tmp_path: pathlib.Path) -> None:
    saved(tmp_path / 'here', 2)
    (tmp_path / 'here').rename(tmp_path / 'there')
    assert Checkpoints(tmp_path / 'there', compiled(), 3).restore() == 2


@pytest.mark.parametrize('width, optimizer', [(5, 'sgd'), (4, 'adamw')], ids=['architecture', 'optimizer'])
def test_another_architecture_or_optimizer_is_an_error(tmp_path: pathlib.Path, width: int, optimizer: str) -> None:
    saved(tmp_path, 2)
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path, compiled(width, optimizer), 3).restore()
    assert_one_line(error, 'step-2 is of another model or optimizer', '--model-dir')


def test_only_the_chief_writes_files(tmp_path: pathlib.Path) -> None:
    Checkpoints(tmp_path, compiled(), 3, Worker(1, 2)).save(1)
    assert not list(tmp_path.iterdir())


def run_script(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', f'{__package__}.saver', *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})


def test_a_process_killed_during_a_save_keeps_the_previous_checkpoint(tmp_path: pathlib.Path) -> None:
    process = run_script(str(tmp_path), 'forever')
    directory = tmp_path / 'checkpoints'
    deadline = time.monotonic() + 60
    while not stopped_during_a_save(process, directory):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    assert list(directory.glob('*_temp/*'))
    model = ToyModel(40000)
    model.compile(build_optimizer(SolverConfig(), Steps(0.1, [], 0.1), model))
    checkpoints = Checkpoints(tmp_path, model, 2)
    checkpoints.restore()
    assert model.first.get_weights()[1][0] == int(find_newest(directory).name.split('-')[1])    # of a complete save
    checkpoints.save(10 ** 6)
    assert not list(directory.glob('*_temp'))


def stopped_during_a_save(process: subprocess.Popen[str], directory: pathlib.Path) -> bool:
    """Stop the process and return True if it is in the middle of a save, with an earlier one; else let it continue."""
    process.send_signal(signal.SIGSTOP)
    if (directory / 'checkpoint').is_file() and list(directory.glob('*_temp/*')):
        return True
    process.send_signal(signal.SIGCONT)
    time.sleep(0.005)
    return False


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: pathlib.Path) -> None:
    output = run_script(str(tmp_path), 'full').communicate(timeout=60)[0]
    assert 'CheckpointError: ' in output and 'step-2 cannot be written (' in output and 'free disk space' in output
    assert find_newest(tmp_path / 'checkpoints').name == 'step-1'
    assert not [path for path in (tmp_path / 'checkpoints').glob('step-*') if not path.name.startswith('step-1.')]


def test_damaged_checkpoints_are_skipped_and_kept(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 1, 2, 3)
    directory = tmp_path / 'checkpoints'
    broken = directory / 'step-3.data-00000-of-00001'
    broken.write_bytes(broken.read_bytes()[:-1])
    model = compiled()
    checkpoints = Checkpoints(tmp_path, model, 1)
    assert checkpoints.restore() == 2
    message, = (each for each in caplog.messages if ' is damaged (' in each)
    assert message.startswith(f'{directory}/step-3 is damaged (') and message.endswith('); falling back to step-2')
    (directory / 'step-best.index').touch()
    (directory / 'step-9.index.mine').touch()
    checkpoints.save(4)
    names = {'checkpoint', 'step-best.index', 'step-9.index.mine', *(
        f'step-{step}.{end}' for step in (3, 4) for end in ('index', 'data-00000-of-00001'))}
    assert {path.name for path in directory.iterdir()} == names
    assert find_newest(directory).name == 'step-4' and str(caplog.messages).count(' is damaged (') == 1


@pytest.mark.parametrize('content', [None, b'', bytes(range(256)), b'model_checkpoint_path: "step-9"'],
                         ids=['missing', 'empty', 'binary', 'foreign'])
def test_checkpoints_are_found_without_the_list_of_checkpoints(tmp_path: pathlib.Path, content: bytes | None) -> None:
    saved(tmp_path, 1, 2)
    listed = tmp_path / 'checkpoints' / 'checkpoint'
    listed.unlink()
    if content is not None:
        listed.write_bytes(content)
    checkpoints = Checkpoints(tmp_path, compiled(), 3)
    assert checkpoints.restore() == 2
    checkpoints.save(5)
    state = tf.train.get_checkpoint_state(str(listed.parent))
    assert [pathlib.Path(path).name for path in state.all_model_checkpoint_paths] == ['step-1', 'step-2', 'step-5']
    assert tf.train.latest_checkpoint(str(listed.parent)) == str(listed.parent / 'step-5')

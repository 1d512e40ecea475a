"""What is saved comes back whole; what is damaged, foreign or cut short is told in one line."""
from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from mrcnn_tf.config import Config, DataConfig, SolverConfig, TrainConfig
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.model import build_model
from mrcnn_tf.training.checkpoints import CheckpointError, Checkpoints, create, find_newest, read, restore_model
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.schedules import Steps
from mrcnn_tf.training.strategies import Worker

from .tiny import tiny_config
from .toy import ToyModel, batches

CATEGORIES = [Category(1, 7, 'cell'), Category(2, 9, 'nucleus')]
CONFIG = Config(solver=SolverConfig(steps=50))


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


def one_line(error: pytest.ExceptionInfo[CheckpointError], *parts: str) -> None:
    message = str(error.value)
    assert '\n' not in message
    for part in parts:
        assert part in message


def test_weights_slots_and_step_come_back(tmp_path: pathlib.Path) -> None:
    model = saved(tmp_path, 2)
    other = compiled()
    assert Checkpoints(tmp_path, other, 3).restore() == 2
    for a, b in zip([*model.variables, *model.optimizer.momentums],
                    [*other.variables, *other.optimizer.momentums], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert np.abs(other.optimizer.momentums[0].numpy()).max() > 0


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
def test_every_weight_and_slot_of_the_detector_comes_back(tmp_path: pathlib.Path, optimizer: str) -> None:
    config = tiny_config(tmp_path, f'solver.optimizer={optimizer}')
    create(tmp_path, config, CATEGORIES)
    models = []
    for _ in range(2):
        models.append(build_model(config.model))
        models[-1].compile(build_optimizer(config.solver, Steps(0.1, [], 0.1), models[-1]))
    generator = np.random.default_rng(0)
    for variable in [*models[0].variables, *models[0].optimizer.variables[1:]]:    # the first is the step
        variable.assign(generator.uniform(size=variable.shape))
    Checkpoints(tmp_path, models[0], 3).save(1)
    Checkpoints(tmp_path, models[1], 3).restore()
    for a, b in zip([*models[0].variables, *models[0].optimizer.variables],
                    [*models[1].variables, *models[1].optimizer.variables], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(models[0].get_weights(), restore_model(tmp_path)[0].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_empty_directory_starts_at_step_zero(tmp_path: pathlib.Path) -> None:
    assert Checkpoints(tmp_path, compiled(), 3).restore() == 0


def test_the_newest_are_kept(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 5, 10, 15, keep=2)
    names = {path.name.split('.')[0] for path in (tmp_path / 'checkpoints').glob('step-*')}
    assert names == {'step-10', 'step-15'}
    assert find_newest(tmp_path / 'checkpoints') == tmp_path / 'checkpoints' / 'step-15'


def test_a_moved_directory_still_opens(tmp_path: pathlib.Path) -> None:
    saved(tmp_path / 'here', 2)
    (tmp_path / 'here').rename(tmp_path / 'there')
    assert Checkpoints(tmp_path / 'there', compiled(), 3).restore() == 2


@pytest.mark.parametrize('width, optimizer', [(5, 'sgd'), (4, 'adamw')])
def test_another_architecture_or_optimizer(tmp_path: pathlib.Path, width: int, optimizer: str) -> None:
    saved(tmp_path, 2)
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path, compiled(width, optimizer), 3).restore()
    one_line(error, 'step-2 is of another model or optimizer', '--model-dir')


@pytest.mark.parametrize('suffix', ['data-00000-of-00001', 'index'])
@pytest.mark.parametrize('how', ['cut', 'empty', 'flipped'])
def test_a_damaged_checkpoint_names_itself_and_the_remedy_works(tmp_path: pathlib.Path, suffix: str, how: str) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / 'checkpoints' / f'step-2.{suffix}'
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1:]
    path.write_bytes({'cut': whole[:middle], 'empty': b'', 'flipped': flipped}[how])
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path, compiled(), 3).restore()
    one_line(error, 'step-2 is damaged', f'remove {path.with_suffix("")}.*')
    for part in (tmp_path / 'checkpoints').glob('step-2.*'):
        part.unlink()
    assert find_newest(tmp_path / 'checkpoints') == tmp_path / 'checkpoints' / 'step-1'
    Checkpoints(tmp_path, compiled(), 3).restore()


def test_a_list_that_names_nothing_is_not_a_fresh_start(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 1)
    for part in (tmp_path / 'checkpoints').glob('step-1.*'):
        part.unlink()
    with pytest.raises(CheckpointError) as error:
        Checkpoints(tmp_path, compiled(), 3).restore()
    one_line(error, 'names no checkpoint that is there')


def test_workers_other_than_the_chief_leave_nothing(tmp_path: pathlib.Path) -> None:
    Checkpoints(tmp_path, compiled(), 3, Worker(1, 2)).save(1)
    assert not list(tmp_path.iterdir())


def run_script(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-m', f'{__package__}.saver', *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})


def test_a_process_killed_while_saving_leaves_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    process = run_script(str(tmp_path), 'forever')
    directory = tmp_path / 'checkpoints'
    deadline = time.monotonic() + 60
    while not frozen_in_a_save(process, directory):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    assert list(directory.glob('*_temp/*'))
    model = ToyModel(40000)
    model.compile(build_optimizer(SolverConfig(), Steps(0.1, [], 0.1), model))
    checkpoints = Checkpoints(tmp_path, model, 2)
    checkpoints.restore()
    assert model.first.get_weights()[1][0] == int(find_newest(directory).name.split('-')[1])    # not of a half save
    checkpoints.save(10 ** 6)
    assert not list(directory.glob('*_temp'))


def frozen_in_a_save(process: subprocess.Popen[str], directory: pathlib.Path) -> bool:
    """Halts the process and tells whether that was in the middle of a save, with one before it; else lets it go on."""
    process.send_signal(signal.SIGSTOP)
    if (directory / 'checkpoint').is_file() and list(directory.glob('*_temp/*')):
        return True
    process.send_signal(signal.SIGCONT)
    time.sleep(0.005)
    return False


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    output = run_script(str(tmp_path), 'full').communicate(timeout=60)[0]
    assert 'CheckpointError: ' in output and 'step-2 cannot be written (' in output and 'make room' in output
    assert find_newest(tmp_path / 'checkpoints').name == 'step-1'
    assert not [path for path in (tmp_path / 'checkpoints').glob('step-*') if not path.name.startswith('step-1.')]


def test_the_directory_remembers_config_and_categories(tmp_path: pathlib.Path) -> None:
    create(tmp_path / 'run', CONFIG, CATEGORIES)
    assert read(tmp_path / 'run') == (CONFIG, CATEGORIES)


def test_the_same_run_may_go_on_in_other_ways(tmp_path: pathlib.Path) -> None:
    create(tmp_path, CONFIG, CATEGORIES)
    saved(tmp_path, 1)
    elsewhere = dataclasses.replace(CONFIG, train=TrainConfig(strategy='mirrored', log_every=5),
                                    data=DataConfig(test_scales=[400, 800], test_flip=True))
    create(tmp_path, elsewhere, CATEGORIES)
    assert read(tmp_path)[0] == elsewhere


@pytest.mark.parametrize('config, categories, reason', [
    (Config(solver=SolverConfig(steps=60)), CATEGORIES, 'solver.steps is 50 there and 60 here'),
    (dataclasses.replace(CONFIG, train=TrainConfig(seed=1)), CATEGORIES, 'train.seed is 0 there and 1 here'),
    (CONFIG, CATEGORIES[:1], 'categories')])
def test_another_run_is_not_mixed_in(
        tmp_path: pathlib.Path, config: Config, categories: list[Category], reason: str) -> None:
    create(tmp_path, CONFIG, CATEGORIES)
    saved(tmp_path, 1)
    with pytest.raises(CheckpointError) as error:
        create(tmp_path, config, categories)
    one_line(error, reason, 'another --model-dir', 'resume with')
    assert read(tmp_path) == (CONFIG, CATEGORIES)


def test_without_a_checkpoint_a_corrected_config_takes_the_place(tmp_path: pathlib.Path) -> None:
    create(tmp_path, CONFIG, CATEGORIES)
    create(tmp_path, Config(), CATEGORIES[:1])
    assert read(tmp_path) == (Config(), CATEGORIES[:1])


def test_checkpoints_without_a_config_are_left_alone(tmp_path: pathlib.Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(CheckpointError, match='no config.yaml'):
        create(tmp_path, CONFIG, CATEGORIES)


def test_not_a_model_directory(tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match='has no config.yaml; give a model directory'):
        read(tmp_path)

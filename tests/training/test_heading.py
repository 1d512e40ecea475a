"""The first lines of a log."""
from __future__ import annotations

import dataclasses
import pathlib
from types import SimpleNamespace

import pytest
import tensorflow as tf

from mrcnn_tf.config import Config, DataConfig, SolverConfig
from mrcnn_tf.input.manifest import Counts
from mrcnn_tf.training import heading as module

SOLVER = SolverConfig(steps=2, reference_batch=16, learning_rate=.02, warmup_steps=0)


def test_each_subject_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'unused_gpu', lambda: '')
    monkeypatch.setattr(module, 'CORES', 6)
    config = Config(DataConfig(train='a.json', validation='b.json', batch_size=16), solver=SOLVER)
    model = SimpleNamespace(engine='xla', jit=True, weights=[tf.zeros([30, 100]), tf.zeros([7])],
                            trainable_weights=[tf.zeros([30, 100])])
    manifest = SimpleNamespace(counts=Counts(images=64, objects=90))
    assert list(module.heading(config, manifest, model, tf.distribute.get_strategy(), 0)) == [
        'device: CPU, 6 cores, float32, XLA',
        'data: 64 images with 90 objects of a.json; validation on b.json',
        'model: mask_rcnn, resnet50 with fpn, 3,007 parameters, 3,000 of them trained',
        'schedule: 2 steps of 16 images = 0.5 epochs; learning rate 0.02, sgd, step, 0 steps of warm-up']


@pytest.mark.parametrize('engine, jit, said', [('xla', False, True), ('xla', True, False), ('op', False, False)],
                         ids=['deterministic on a GPU', 'XLA', 'op engine'])
def test_the_slower_engine_that_determinism_needs_is_said(engine: str, jit: bool, said: bool,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'unused_gpu', lambda: '')
    model = SimpleNamespace(engine=engine, jit=jit, weights=[], trainable_weights=[])
    lines = module.heading(Config(solver=SOLVER), SimpleNamespace(counts=Counts()), model, tf.distribute.get_strategy(),
                           0)
    assert sum(line.startswith('determinism: RoIAlign uses the xla engine, which is slower, because the op engine has '
                               'no deterministic gradient on a GPU') for line in lines) == said


@pytest.mark.parametrize(('batch', 'settings', 'steps', 'rate'), [
    (2, {}, '16 steps = 2 x 8 of 2 images', '0.0025 = 0.02 / 8 (solver.scale_with_batch)'),
    (32, {}, '1 steps = 2 / 2 of 32 images', '0.04 = 0.02 x 2 (solver.scale_with_batch)'),
    (6, {}, '6 steps = 2 x 16 / 6 of 6 images', '0.0075 = 0.02 x 6 / 16 (solver.scale_with_batch)'),
    (2, {'scale_with_batch': False}, '2 steps of 2 images', '0.02')],
    ids=['smaller', 'larger', 'no multiple', 'not scaled'])
def test_scaled_numbers_are_shown_with_those_of_the_config(batch: int, settings: dict[str, bool], steps: str,
                                                           rate: str) -> None:
    config = Config(DataConfig(batch_size=batch), solver=dataclasses.replace(SOLVER, **settings))
    line = module.schedule_line(config, 64, 0)
    assert line.startswith(f'schedule: {steps} = ') and f'; learning rate {rate}, sgd' in line


@pytest.mark.parametrize(('visible', 'reason'), [
    ('-1', "CUDA_VISIBLE_DEVICES is '-1'"), (None, "install CUDA's libraries with `pip install")],
    ids=['hidden', 'no libraries'])
def test_a_gpu_that_is_not_used_is_said(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, reason: str) -> None:
    monkeypatch.setattr(module, '_DRIVER', tmp_path)
    monkeypatch.setattr(module.tf.config, 'list_physical_devices', lambda kind: [])
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert module.unused_gpu().startswith(
        f'device: this machine has an NVIDIA GPU, but TensorFlow sees none and trains on the CPU: {reason}')
    monkeypatch.setattr(module.tf.config, 'list_physical_devices', lambda kind: ['GPU:0'])
    assert module.unused_gpu() == ''


def test_a_machine_without_a_gpu_has_nothing_to_say(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_DRIVER', tmp_path / 'none')
    monkeypatch.setenv('PATH', str(tmp_path))
    assert module.unused_gpu() == ''

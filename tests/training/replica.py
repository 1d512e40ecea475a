"""A script: `replica toy|detector DATA MODEL_DIR WEIGHTS.npz [override ...]` trains, then writes the weights.

Errors end it as they end `mrcnn train`.

With train.strategy=mirrored, the CPU is split into two devices. With SIGNAL=SIGTERM@N in the environment, the process
sends itself that signal in step N, or to the process SIGNAL_TO; with SIGNAL=SLEEP@N, it sleeps for an hour.
"""
from __future__ import annotations

import os
import pathlib
import signal
import time
from typing import Annotated, Any

import keras
import numpy as np
import tensorflow as tf
import typer

from mrcnn_tf.cli.command import command
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.layers.backbones import resnet
from mrcnn_tf.training import trainer
from mrcnn_tf.training.callbacks import step_of
from tests.training.tiny import tiny_config
from tests.training.toy import ToyModel


@command
def main(kind: str, data: str, model_dir: str, weights: str,
         overrides: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    config = tiny_config(pathlib.Path(data), *overrides or ())
    if config.train.strategy == 'mirrored':
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices('CPU')[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    built: list[keras.Model] = []
    before: list[np.ndarray] = []

    def build(model_config: Any, engine: str) -> keras.Model:
        built.append(toy() if kind == 'toy' else build_detector(model_config, engine))
        before.extend(built[-1].get_weights())
        return built[-1]

    trainer.build_detector = build
    resnet.FORMS['resnet18'] = resnet.Form((1, 1, 1, 1), False)     # one block per stage is traced sooner
    trainer.train(config, model_dir)
    after = {f'after_{i}': array for i, array in enumerate(built[0].get_weights())}
    np.savez(weights, step=step_of(built[0]), **after, **{f'before_{i}': array for i, array in enumerate(before)})


def toy() -> ToyModel:
    model = ToyModel()
    if 'SIGNAL' in os.environ:
        name, step = os.environ['SIGNAL'].split('@')
        model.before_step = {int(step): lambda: time.sleep(3600) if name == 'SLEEP' else (
            os.kill(int(os.environ.get('SIGNAL_TO', os.getpid())), signal.Signals[name]))}
    return model


if __name__ == '__main__':
    typer.run(main)

"""A script: `saver DIR forever` saves checkpoints until it is killed; `saver DIR full` saves on a full disk."""
from __future__ import annotations

import pathlib
import resource
import signal
import sys

import numpy as np

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.training.checkpoints import Checkpoints
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.training.schedules import Steps
from tests.training.toy import ToyModel


def main(directory: str, how: str) -> None:
    model = ToyModel(width=40000)    # over 1 MB, so that a save can be interrupted
    model.compile(build_optimizer(SolverConfig(), Steps(0.1, [], 0.1), model))
    checkpoints = Checkpoints(pathlib.Path(directory), model, keep=2)
    for step in range(1, 10 ** 6 if how == 'forever' else 3):
        kernel, bias = model.first.get_weights()
        model.first.set_weights([kernel, np.full_like(bias, step)])
        checkpoints.save(step)
        if how == 'full':
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)    # makes a write beyond the limit fail as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


if __name__ == '__main__':
    main(*sys.argv[1:])

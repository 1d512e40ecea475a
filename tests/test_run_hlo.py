"""The training step as XLA compiles it for a GPU, which need not be there (benchmarks/run_hlo.py)."""
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest


def _installed(package: str, module: str) -> bool:
    return bool(importlib.util.find_spec(package) and importlib.util.find_spec(f'{package}.{module}'))


def run(module: str, *arguments: object) -> str:
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'XLA_FLAGS': ''}
    return subprocess.run([sys.executable, '-m', f'benchmarks.{module}', *map(str, arguments)], env=environment,
                          check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(not (_installed('jax_plugins', 'xla_cuda13') and _installed('nvidia', 'cu13')),
                    reason="needs XLA's compiler for GPUs: pip install '.[gpu_compiler]'")
def test_a_training_step_of_mask_rcnn(tmp_path) -> None:
    """Two images of 832 x 1344 px in float32 take at most 2.5 GB of temporary arrays, without train.recompute.

    cuDNN computes the ReLU of each convolution that has one: the stem, three for each of 16 bottlenecks, five levels of
    the RPN head, and five of the mask head.
    """
    program, compiled = tmp_path / 'step.pb', tmp_path / 'compiled.txt'
    run('xla_report', 'train', '--config', 'mask_rcnn_r50_fpn_1x', '--program', program)
    row = json.loads(run('run_hlo', program, '--device', 'h100', '--limit', 2.5e9, '--hlo', compiled))
    assert 1e9 < row['temporary_bytes'] <= 2.5e9
    assert compiled.read_text().count('"activation_mode":"kRelu"') == 1 + 16 * 3 + 5 + 5

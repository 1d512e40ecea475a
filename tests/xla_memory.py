"""How much memory XLA plans for temporary arrays: its own buffer assignment, read from its dump.

XLA reads XLA_FLAGS once in a process, so the functions are compiled, not run, in a process of their own.
"""
from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def compile_only(name: str, function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> Any:
    """Compile a function for arguments of these shapes, and return it; its dump carries the name."""
    def named(*args: tf.Tensor) -> Any:
        return function(*args)

    named.__name__ = name
    compiled = tf.function(named, autograph=False, jit_compile=True)
    compiled.experimental_get_compiler_ir(*specs)(stage='optimized_hlo')
    return compiled


def temporary_bytes(module: str, folder: pathlib.Path) -> dict[str, int]:
    """Return, by name, the temporary memory of all that `python -m module` compiles with `compile_only`."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'CUDA_VISIBLE_DEVICES': '-1',
                   'XLA_FLAGS': f'--xla_dump_to={folder} --xla_dump_hlo_as_text'}
    subprocess.run([sys.executable, '-m', module], env=environment, check=True)
    found = {}
    for path in folder.glob('*buffer-assignment.txt'):
        name = re.search(r'a_inference_(\w+?)_\d+__', path.name)
        assert name, path
        sizes = re.findall(r'^allocation \d+: size (\d+), preallocated-temp', path.read_text(), re.MULTILINE)
        found[name[1]] = sum(int(size) for size in sizes)
    return found

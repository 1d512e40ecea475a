"""Reports what XLA plans for a training step, inference or one operation: its own analysis, compiled on a CPU, not run.

    python benchmarks/xla_report.py nms
    python benchmarks/xla_report.py train --config mask_rcnn_r50_fpn_1x --size 832 1344 --hlo step.txt

Prints one JSON line: bytes of temporary arrays by XLA's buffer assignment; floating-point operations of matrix products
and convolutions, and bytes that its kernels read and write, both with loops counted as often as they run, or once if
that is known only when they run; every loop with its number of iterations or null; and the ten largest temporary
arrays with the operation that makes them. `--hlo` writes the compiled program.
"""
from __future__ import annotations

import argparse
import collections
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2, 's64': 8, 'u64': 8, 'f64': 8}
FREE = ('parameter', 'tuple', 'get-tuple-element', 'bitcast', 'constant', 'while', 'conditional', 'call')
_LINE = re.compile(r'^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$')
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')


class Instruction(NamedTuple):
    """An instruction of a computation: its result's shapes, operation, and the rest of its line."""
    shapes: list[tuple[str, list[int]]]
    operation: str
    rest: str

    def bytes(self) -> int:
        return sum(BYTES.get(kind, 4) * math.prod(sides) for kind, sides in self.shapes)

    def calls(self) -> list[str]:
        return re.findall(r'(?:calls|body|to_apply)=%([\w.-]+)', self.rest)


class Program:
    """The computations of an optimized HLO text, by name: instructions by name."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if begun := re.match(r'^(ENTRY )?%(\S+) \(', line):
                current = self.computations[begun[2]] = {}
                self.entry = begun[2] if begun[1] else getattr(self, 'entry', '')
            elif found := _LINE.match(line):
                shapes = [(kind, [int(n) for n in sides.split(',') if n]) for kind, sides in _SHAPE.findall(found[2])]
                current[found[1]] = Instruction(shapes, found[3], found[4])
        self.loops: list[dict[str, Any]] = []

    def cost(self, name: str, times: int = 1) -> collections.Counter[str]:
        """Return FLOPs and bytes of a computation that runs `times` times, and note its loops."""
        total: collections.Counter[str] = collections.Counter()
        for instruction in self.computations[name].values():
            if instruction.operation == 'while':
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
                self.loops.append({'iterations': int(trips[1]) if trips else None, 'op': _source(instruction.rest)})
                total.update(self.cost(instruction.calls()[-1], times * int(trips[1] if trips else 1)))
            elif instruction.operation == 'call':
                total.update(self.cost(instruction.calls()[0], times))
            else:
                total['flops'] += times * self._flops(name, instruction)
                if instruction.operation not in FREE:
                    total['bytes'] += times * (instruction.bytes() + sum(x.bytes() for x in self._operands(
                        name, instruction)))
        return total

    def _operands(self, name: str, instruction: Instruction) -> list[Instruction]:
        names = re.findall(r'%([\w.-]+)', instruction.rest.split('), ')[0])
        return [self.computations[name][each] for each in names if each in self.computations[name]]

    def _flops(self, name: str, instruction: Instruction) -> int:
        if instruction.operation == 'fusion':
            called = instruction.calls()[0]
            return sum(self._flops(called, each) for each in self.computations[called].values())
        size = math.prod(instruction.shapes[0][1]) if instruction.shapes else 0
        if instruction.operation == 'dot':
            left = self._operands(name, instruction)[0].shapes[0][1]
            contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
            return 2 * size * math.prod(left[int(i)] for i in (contracted[1].split(',') if contracted else ()) if i)
        if instruction.operation == 'convolution':
            kernel = self._operands(name, instruction)[1].shapes[0][1]
            labels = re.search(r'dim_labels=\w+_(\w+)->', instruction.rest)
            assert labels, instruction.rest
            return 2 * size * math.prod(kernel) // kernel[labels[1].index('o')]
        return 0


def _source(rest: str) -> str:
    found = re.search(r'op_name="([^"]*)"', rest)
    return found[1] if found else ''


def largest(assignment: str, program: Program, count: int = 10) -> list[dict[str, Any]]:
    """Return the largest arrays of the temporary allocations, an entry for each place."""
    sources = {name: _source(each.rest) for of in program.computations.values() for name, each in of.items()}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for part in assignment.split('\nallocation ')[1:]:
        if 'preallocated-temp' in part.partition('\n')[0]:
            for name, size, offset, shape in re.findall(
                    r'value: <\d+ ([\w.-]+)\S* @\d+> \(size=(\d+),offset=(\d+)\): (\S+)', part):
                found.setdefault((size, offset), {'bytes': int(size), 'shape': shape.partition('{')[0], 'array': name,
                                                  'op': sources.get(name, '')})
    return sorted(found.values(), key=lambda each: -each['bytes'])[:count]


def compile_operation(what: str, config_name: str, batch: int, size: list[int]) -> None:
    """Compile; XLA writes its analysis to the folder that XLA_FLAGS names."""
    import tensorflow as tf

    from mrcnn_tf import config as configuration
    from mrcnn_tf.ops import boxes
    from tests.xla_memory import compile_only

    if what == 'nms':
        compile_only('nms', lambda rows, scores: boxes.nms(rows, scores, .7, 2000, 'xla'),
                     [tf.TensorSpec([batch, 12000, 4]), tf.TensorSpec([batch, 12000])])
        return
    from mrcnn_tf.detectors.detector import build_detector

    config = configuration.load(config_name)
    detector = build_detector(config.model, engine='xla')
    spec = {'images': tf.TensorSpec([batch, *size, 3]), 'sizes': tf.TensorSpec([batch, 2])}
    if what == 'infer':
        compile_only('infer', lambda images, sizes: detector({'images': images, 'sizes': sizes}, training=False),
                     list(spec.values()))
        return
    slots, side = config.data.max_objects, config.data.mask_size
    spec |= {'boxes': tf.TensorSpec([batch, slots, 4]), 'labels': tf.TensorSpec([batch, slots], tf.int32),
             'masks': tf.TensorSpec([batch, slots, side, side], tf.uint8),
             **{name: tf.TensorSpec([batch, slots], tf.bool) for name in ('crowd', 'valid', 'has_mask')}}

    def step(*values: tf.Tensor) -> Any:
        return detector._losses_and_gradients(dict(zip(spec, values, strict=True)), tf.zeros([2], tf.int32))

    compile_only('train', step, list(spec.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['train', 'infer', 'nms'])
    parser.add_argument('--config', default='mask_rcnn_r50_fpn_1x')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, nargs=2, default=[832, 1344])
    parser.add_argument('--hlo', type=pathlib.Path)
    given = parser.parse_args()
    if os.environ.get('XLA_REPORT_CHILD'):
        compile_operation(given.what, given.config, given.batch, given.size)
        return
    with tempfile.TemporaryDirectory() as folder:
        # XLA reads XLA_FLAGS once in a process.
        subprocess.run([sys.executable, *sys.argv], check=True, env={
            **os.environ, 'XLA_REPORT_CHILD': '1', 'CUDA_VISIBLE_DEVICES': '-1',
            'PYTHONPATH': os.pathsep.join(each or '.' for each in sys.path),
            'XLA_FLAGS': f'--xla_dump_to={folder} --xla_dump_hlo_as_text'})
        text, = pathlib.Path(folder).glob(f'*_inference_{given.what}_*cpu_after_optimizations.txt')
        assignment = text.with_name(f'{text.stem}-buffer-assignment.txt').read_text()
        program = Program(text.read_text())
        if given.hlo:
            given.hlo.write_text(text.read_text())
    sizes = re.findall(r'^allocation \d+: size (\d+), preallocated-temp', assignment, re.MULTILINE)
    cost = program.cost(program.entry)
    print(json.dumps({'what': given.what, 'batch': given.batch, 'temporary_bytes': sum(map(int, sizes)), **cost,
                      'loops': program.loops, 'largest': largest(assignment, program)}, indent=1))


if __name__ == '__main__':
    main()

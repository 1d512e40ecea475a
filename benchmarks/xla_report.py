"""Reports what XLA plans for a training step, inference or one operation: its own analysis, compiled on a CPU, not run.

    python -m benchmarks.xla_report nms
    python -m benchmarks.xla_report train train.recompute=true --config mask_rcnn_r50_fpn_1x --limit 2.5e9
    python -m benchmarks.xla_report train --hlo compiled.txt --program step.pb

Prints a JSON object: bytes of temporary arrays by XLA's buffer assignment; floating-point operations of matrix products
and convolutions, and bytes that its kernels read and write (of gathers, slices and scatters only the rows in question),
both with loops counted as often as they run, or once if that is known only when they run; every loop with its number of
iterations or null; the ten largest temporary arrays with the operation that makes them; and for GPUs, the least time
that these FLOPs and these bytes take at the peaks of `mrcnn_tf/training/plan.py`. All is computed in float32; `half` of
a GPU halves the bytes. **Nothing runs on a GPU.** With train.precision=mixed_bfloat16 the program that --program writes
is that of a GPU; the rest of the report is not, since XLA computes in float32 on a CPU.

--hlo writes the compiled program as text. --program writes the program before XLA's optimization, and beside it a
description of its inputs, with which `run_hlo.py` runs it. With --limit, more temporary bytes are an error.
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
from collections.abc import Sequence
from typing import Any, NamedTuple

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

LISTED = 4096     # values of an input that `describe` lists
BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2, 's64': 8, 'u64': 8, 'f64': 8}
FREE = ('parameter', 'tuple', 'get-tuple-element', 'bitcast', 'constant', 'while', 'conditional', 'call')
PARTIAL_READS = ('gather', 'dynamic-slice', 'slice')
_LINE = re.compile(r'^\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$')
_SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')


class Instruction(NamedTuple):
    """An instruction of a computation: its result's shapes, operation, and the rest of its line."""
    shapes: list[tuple[str, list[int]]]
    operation: str
    rest: str

    def bytes(self) -> int:
        return sum(BYTES.get(kind, 4) * math.prod(sides) for kind, sides in self.shapes)

    def operands(self) -> list[str]:
        return re.findall(r'%([\w.-]+)', self.rest.split('), ')[0])

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
                    total['bytes'] += times * self._traffic(name, instruction)
        return total

    def _operands(self, name: str, instruction: Instruction) -> list[Instruction]:
        return [self.computations[name][each] for each in instruction.operands() if each in self.computations[name]]

    def _traffic(self, name: str, instruction: Instruction) -> int:
        """Return the bytes that a kernel reads and writes.

        Of what it gathers or slices from, it reads the result's size; what it updates or scatters into stays in place.
        """
        operands = self._operands(name, instruction)
        if instruction.operation != 'fusion':
            changed = self._changed(name, instruction)
            if changed is not None:
                return 2 * changed + sum(x.bytes() for x in operands[1:])
            if instruction.operation in PARTIAL_READS:
                return 2 * instruction.bytes() + sum(x.bytes() for x in operands[1:])
            return instruction.bytes() + sum(x.bytes() for x in operands)
        called = instruction.calls()[0]
        inside = self.computations[called]
        parameters = {int(each.rest.split(')')[0]): key for key, each in inside.items()
                      if each.operation == 'parameter'}
        changed = self._changed(called, list(inside.values())[-1])
        return (instruction.bytes() if changed is None else changed) + sum(
            self._read(called, parameters[number], operand.bytes()) for number, operand in enumerate(operands))

    def _changed(self, name: str, instruction: Instruction) -> int | None:
        """Return the bytes that a scatter or an update in place changes; None of another instruction."""
        index = {'scatter': 2, 'dynamic-update-slice': 1}.get(instruction.operation)
        return None if index is None else self._operands(name, instruction)[index].bytes()

    def _read(self, name: str, array: str, whole: int) -> int:
        """Return the bytes that a fused computation reads of an array of `whole` bytes."""
        total = 0
        for key, user in self.computations[name].items():
            if array in user.operands():
                first = user.operands().index(array) == 0 and user.operands().count(array) == 1
                changed = self._changed(name, user) if first else None
                if changed is not None:
                    total += changed
                elif user.operation in PARTIAL_READS and first:
                    total += user.bytes()
                elif user.operation == 'bitcast':
                    total += self._read(name, key, whole)
                else:
                    return whole
        return min(total, whole)

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


def ceilings(flops: float, bytes_: float, images: int) -> dict[str, Any]:
    """Return, by GPU and precision, the milliseconds of a step of which the slower one is the least, and images/s.

    Beside them stands MLPerf's step on 8 H100: 96 images, 12 on each GPU.
    """
    from mrcnn_tf.training.plan import GPUS

    found: dict[str, Any] = {'published: MLPerf, 8 H100, half': {'step_ms': 69, 'images_per_second_of_a_gpu': 174}}
    for name in ('a100', 'h100', 'h200'):
        gpu = GPUS[name]
        for precision, peak, width in (('float32', gpu.flops, 1.), ('half', gpu.half_flops, .5)):
            parts = 1e3 * flops / peak, 1e3 * width * bytes_ / gpu.bandwidth
            found[f'{name}, {precision}'] = {
                'arithmetic_ms': round(parts[0], 1), 'memory_ms': round(parts[1], 1),
                'images_per_second_at_most': round(1e3 * images / max(parts)),
                'images_per_second_without_overlap': round(1e3 * images / sum(parts))}
    return found


def training_batch(config: Any, batch: int, size: list[int]) -> dict[str, np.ndarray]:
    """Return a batch with eight objects in each image."""
    rng, slots, side = np.random.default_rng(0), config.data.max_objects, config.data.mask_size
    valid = np.tile(np.arange(slots) < 8, [batch, 1])
    sides = np.exp(rng.uniform(np.log(24), np.log(400), [batch, slots, 2]))
    corners = rng.uniform(0, 1, [batch, slots, 2]) * (np.array(size) - sides)
    boxes = np.where(valid[..., None], np.concatenate([corners, corners + sides], -1), 0)
    return {'images': rng.uniform(0, 255, [batch, *size, 3]).astype(np.float32),
            'sizes': np.tile(np.float32(size), [batch, 1]), 'boxes': boxes.astype(np.float32),
            'labels': np.where(valid, rng.integers(1, config.model.num_classes + 1, valid.shape), 0).astype(np.int32),
            'masks': rng.integers(0, 256, [batch, slots, side, side]).astype(np.uint8),
            'crowd': np.zeros_like(valid), 'valid': valid, 'has_mask': valid}


def describe(value: np.ndarray) -> dict[str, Any]:
    """Return an input of a program for `run_hlo.py`: its values, or how to draw them if there are many."""
    kinds = {'float32': 'f32', 'bfloat16': 'bf16', 'int32': 'i32', 'uint8': 'ui8', 'bool': 'i1'}
    found = {'shape': list(value.shape), 'type': kinds[value.dtype.name]}
    value = value.astype(np.float32) if value.dtype.name == 'bfloat16' else value
    if value.size <= LISTED:
        return {**found, 'values': value.ravel().tolist()}
    if value.dtype == np.uint8 or value.min() >= 0:
        return {**found, 'lowest': float(value.min()), 'highest': float(value.max())}
    reach = 3 ** .5 * float(value.std())     # of uniform values with this deviation
    return {**found, 'lowest': float(value.mean()) - reach, 'highest': float(value.mean()) + reach}


def compile_operation(given: argparse.Namespace) -> None:
    """Compile; XLA writes its analysis to the folder that XLA_FLAGS names."""
    import tensorflow as tf

    from mrcnn_tf import config as configuration
    from mrcnn_tf.layers.normalization import folded_normalization, folded_weights
    from mrcnn_tf.layers.precision import precision_policy
    from mrcnn_tf.ops import boxes
    from tests.xla_memory import compile_only

    if given.what == 'nms':
        rng = np.random.default_rng(0)
        corners = rng.uniform(0, 800, [given.batch, 12000, 2])
        rows = np.concatenate([corners, corners + rng.uniform(8, 200, corners.shape)], axis=2)
        values = {'boxes': rows.astype(np.float32), 'scores': rng.normal(size=rows.shape[:2]).astype(np.float32)}

        def function(*inputs: tf.Tensor) -> Any:
            return boxes.nms(*inputs, .7, 2000, 'xla')
    else:
        from mrcnn_tf.detectors.detector import build_detector

        config = configuration.load(given.config, given.settings)
        with precision_policy(config.train.precision):
            detector = build_detector(config.model, engine='xla')
        detector.recompute = config.train.recompute
        values = training_batch(config, given.batch, given.size)
        if given.what == 'infer':
            values, folded = {name: values[name] for name in ('images', 'sizes')}, folded_weights(detector)

        def function(*inputs: tf.Tensor) -> Any:
            batch = dict(zip(values, inputs, strict=True))
            if given.what == 'infer':
                with folded_normalization(folded):
                    return detector(batch, training=False)
            return detector._values_and_gradients(batch, tf.zeros([2], tf.int32))

    specs = [tf.TensorSpec(value.shape, value.dtype) for value in values.values()]
    compiled = compile_only(given.what, function, specs)
    if given.program:
        write_program(compiled, specs, list(values.values()), given.program)


def write_program(compiled: Any, specs: Sequence[Any], values: list[np.ndarray], path: pathlib.Path) -> None:
    """Write a traced function as an HloModuleProto, and a description of its inputs: arguments, then variables."""
    concrete = compiled.get_concrete_function(*specs)
    of_handle = {id(variable.handle): variable.numpy() for variable in concrete.variables}
    captured = [of_handle[id(tensor)] if id(tensor) in of_handle else tensor.numpy()
                for tensor in concrete.captured_inputs]
    path.write_bytes(compiled.experimental_get_compiler_ir(*specs)(stage='hlo_serialized'))
    path.with_name(f'{path.name}.json').write_text(json.dumps([describe(value) for value in [*values, *captured]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['train', 'infer', 'nms'])
    parser.add_argument('settings', nargs='*', metavar='KEY=VALUE', help='settings that replace those of the config')
    parser.add_argument('--config', default='mask_rcnn_r50_fpn_1x')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, nargs=2, default=[832, 1344])
    parser.add_argument('--hlo', type=pathlib.Path)
    parser.add_argument('--program', type=pathlib.Path)
    parser.add_argument('--limit', type=float, help='of the temporary bytes')
    given = parser.parse_args()
    if os.environ.get('XLA_REPORT_CHILD'):
        compile_operation(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        # XLA reads XLA_FLAGS once in a process.
        child = subprocess.run([sys.executable, *sys.argv], check=False, env={
            **os.environ, 'XLA_REPORT_CHILD': '1', 'CUDA_VISIBLE_DEVICES': '-1',
            'PYTHONPATH': os.pathsep.join(each or '.' for each in sys.path),
            'XLA_FLAGS': f'--xla_dump_to={folder} --xla_dump_hlo_as_text'})
        if child.returncode:
            raise SystemExit(child.returncode)
        text, = pathlib.Path(folder).glob(f'*_inference_{given.what}_*cpu_after_optimizations.txt')
        assignment = text.with_name(f'{text.stem}-buffer-assignment.txt').read_text()
        program = Program(text.read_text())
        if given.hlo:
            given.hlo.write_text(text.read_text())
    sizes = re.findall(r'^allocation \d+: size (\d+), preallocated-temp', assignment, re.MULTILINE)
    cost, temporary = program.cost(program.entry), sum(map(int, sizes))
    print(json.dumps({
        'what': given.what, 'config': None if given.what == 'nms' else [given.config, *given.settings],
        'batch': given.batch, 'temporary_bytes': temporary, **cost, 'loops': program.loops,
        'largest': largest(assignment, program),
        'gpus': ceilings(cost['flops'], cost['bytes'], given.batch) if given.what == 'train' else None}, indent=1))
    if given.limit and temporary > given.limit:
        raise SystemExit(f'{temporary} temporary bytes are more than --limit {given.limit:.0f}')


if __name__ == '__main__':
    main()

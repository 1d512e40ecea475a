"""Runs and times a program that `xla_report.py --program` wrote. Needs jaxlib alone: neither JAX nor TensorFlow.

    python -m benchmarks.xla_report train --config mask_rcnn_r50_fpn_1x --program step.pb     # also writes step.pb.json
    python -m venv /tmp/jaxlib && /tmp/jaxlib/bin/pip install jaxlib jax-cuda12-pjrt[with-cuda]
    /tmp/jaxlib/bin/python -m benchmarks.run_hlo step.pb --device cuda --repetitions 20

Prints one JSON line: seconds to compile, the memory that XLA plans, and the median and the minimum of the milliseconds
of an execution. `step.pb.json` describes the inputs; those that it does not list are random, the same numbers on
every device. Weights are random too, so the proposals of an RPN, and the passes of adaptive RoIAlign, are not those of
a trained model. --compare runs the program on the CPU too and adds the largest difference of each result. --hlo writes
what the device's compiler made of the program, and --profile the time of each kernel of one execution.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxlib import _profile_data, _profiler, xla_client


def client_of(device: str) -> Any:
    """Return the XLA client of 'cpu' or 'cuda'; the package jax-cuda13-pjrt or jax-cuda12-pjrt has the latter."""
    if device == 'cpu':
        return xla_client.make_cpu_client()
    for version in (13, 12):
        found = importlib.util.find_spec('jax_plugins')
        for folder in (found.submodule_search_locations or ()) if found else ():
            library = pathlib.Path(folder, f'xla_cuda{version}', 'xla_cuda_plugin.so')
            if library.exists():
                _profiler.register_plugin_profiler(xla_client.load_pjrt_plugin_dynamically('cuda', str(library)))
                xla_client.initialize_pjrt_plugin('cuda')
                return xla_client.make_c_api_client('cuda')
    raise SystemExit('no plugin for CUDA: pip install "jax-cuda12-pjrt[with-cuda]" of the version of jaxlib')


class Device:
    """A device that compiles StableHLO and executes it."""

    def __init__(self, name: str) -> None:
        self.client = client_of(name)
        self._devices = xla_client.DeviceList(tuple(self.client.local_devices()[:1]))

    def compiled(self, code: bytes) -> Any:
        return self.client.compile_and_load(code, self._devices, xla_client.CompileOptions())


def inputs_program(inputs: list[dict[str, Any]]) -> str:
    """Return a StableHLO program without arguments whose results are the inputs, the same on every device."""
    lines = []
    for number, each in enumerate(inputs):
        size = int(np.prod(each['shape'], dtype=int))
        name, kind = f'%input{number}', 'x'.join([*map(str, each['shape']), each['type']])
        if 'values' in each:
            lines.append(f'{name}_1 = stablehlo.constant dense<{json.dumps(each["values"])}> : '
                         f'tensor<{size}x{each["type"]}>')
        else:
            bits, flat = f'tensor<{size}xui32>', f'tensor<{size}xf32>'
            scale = (each['highest'] - each['lowest']) / 2 ** 24
            lines += [
                f'{name}_key = stablehlo.constant dense<[{number}, 0]> : tensor<2xui64>',
                f'{name}_state, {name}_bits = stablehlo.rng_bit_generator {name}_key, algorithm = THREE_FRY : '
                f'(tensor<2xui64>) -> (tensor<2xui64>, {bits})',
                f'{name}_eight = stablehlo.constant dense<8> : {bits}',
                f'{name}_24 = stablehlo.shift_right_logical {name}_bits, {name}_eight : {bits}',
                f'{name}_whole = stablehlo.convert {name}_24 : ({bits}) -> {flat}',
                f'{name}_scale = stablehlo.constant dense<{scale:e}> : {flat}',
                f'{name}_scaled = stablehlo.multiply {name}_whole, {name}_scale : {flat}',
                f'{name}_lowest = stablehlo.constant dense<{each["lowest"]:e}> : {flat}',
                f'{name}_float = stablehlo.add {name}_scaled, {name}_lowest : {flat}',
                f'{name}_1 = stablehlo.convert {name}_float : ({flat}) -> tensor<{size}x{each["type"]}>']
        lines.append(f'{name} = stablehlo.reshape {name}_1 : (tensor<{size}x{each["type"]}>) -> tensor<{kind}>')
    kinds = ', '.join('tensor<' + 'x'.join([*map(str, each['shape']), each['type']]) + '>' for each in inputs)
    names = ', '.join(f'%input{number}' for number in range(len(inputs)))
    return '\n'.join(['module {', f'func.func public @main() -> ({kinds}) {{', *lines, f'return {names} : {kinds}',
                      '}', '}'])


def execute(program: Any, arguments: list[Any]) -> list[Any]:
    """Return the results of a compiled program on one device, when they are there."""
    results = [shards[0] for shards in program.execute_sharded(arguments).disassemble_into_single_device_arrays()]
    for result in results:
        result.block_until_ready()
    return results


def kernels(run: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return the kernels and copies of a run on a GPU, or what a CPU's profile has: rows by total time."""
    session = _profiler.ProfilerSession()
    run()
    found: dict[tuple[str, ...], list[float]] = {}
    for plane in _profile_data.ProfileData.from_serialized_xspace(session.stop()).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                key = plane.name, line.name, event.name, str(stats.get('hlo_op', '')), str(stats.get('tf_op', ''))
                found.setdefault(key, []).append(event.duration_ns / 1e6)
    rows = [dict(zip(('plane', 'line', 'kernel', 'instruction', 'op'), key, strict=True), ms=round(sum(times), 4),
                 calls=len(times)) for key, times in found.items()]
    return sorted(rows, key=lambda row: -row['ms'])


def differences(ones: list[Any], others: list[Any]) -> list[float]:
    """Return the largest difference of each result, divided by the largest value."""
    return [float(np.abs(one.astype(np.float64) - other).max() / max(np.abs(other.astype(np.float64)).max(), 1e-30))
            if one.size else 0. for one, other in zip(ones, others, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('program', type=pathlib.Path)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--repetitions', type=int, default=10)
    parser.add_argument('--compare', action='store_true', help='with the results of the CPU')
    parser.add_argument('--profile', type=pathlib.Path, metavar='JSON')
    parser.add_argument('--hlo', type=pathlib.Path, metavar='TXT')
    given = parser.parse_args()
    device = Device(given.device)
    inputs = inputs_program(json.loads(pathlib.Path(f'{given.program}.json').read_text())).encode()
    code = xla_client._xla.mlir.hlo_to_stablehlo(given.program.read_bytes())
    arguments = execute(device.compiled(inputs), [])
    begun = time.perf_counter()
    program = device.compiled(code)
    seconds = time.perf_counter() - begun
    results = [np.asarray(result) for result in execute(program, arguments)]
    finite = sum(bool(np.isfinite(result).all()) for result in results)
    times = []
    for _ in range(given.repetitions):
        begun = time.perf_counter()
        execute(program, arguments)
        times.append(1e3 * (time.perf_counter() - begun))
    memory = program.get_compiled_memory_stats()
    row = {
        'program': given.program.name, 'platform': device.client.platform, 'version': device.client.platform_version,
        'compile_seconds': round(seconds, 1), 'temporary_bytes': memory.temp_size_in_bytes,
        'argument_bytes': memory.argument_size_in_bytes, 'results': len(results), 'finite_results': finite,
        'repetitions': len(times), 'median_ms': round(statistics.median(times), 2), 'minimum_ms': round(min(times), 2)}
    print(json.dumps(row), flush=True)
    if given.hlo:
        given.hlo.write_text(program.hlo_modules()[0].to_string())
    if given.profile:
        given.profile.write_text(json.dumps(kernels(lambda: execute(program, arguments)), indent=0))
    if given.compare:
        cpu = Device('cpu')
        others = [np.asarray(each) for each in execute(cpu.compiled(code), execute(cpu.compiled(inputs), []))]
        print(json.dumps({'differences': [float(f'{each:.1e}') for each in differences(results, others)]}))


if __name__ == '__main__':
    main()

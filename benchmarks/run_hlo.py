"""Runs and times a program that `xla_report.py --program` wrote. Needs jaxlib alone: neither JAX nor TensorFlow.

    python benchmarks/xla_report.py train --config mask_rcnn_r50_fpn_1x --program step.pb     # also writes step.pb.json
    python -m venv /tmp/jaxlib && /tmp/jaxlib/bin/pip install jaxlib jax-cuda12-pjrt[with-cuda]
    /tmp/jaxlib/bin/python benchmarks/run_hlo.py step.pb --device cuda --repetitions 20

Prints one JSON line: seconds to compile, the memory that XLA plans, and the median and the minimum of the milliseconds
of an execution. `step.pb.json` describes the inputs; those that it does not list in full are drawn at random on the
device. Weights are random too, so the proposals of an RPN, and the passes of adaptive RoIAlign, are not those of a
trained model. Written for and tried with jaxlib 0.10.2 on a CPU. **Nobody has run it on a GPU.**
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import statistics
import time
from typing import Any

import numpy as np
from jaxlib import xla_client


def client_of(device: str) -> Any:
    """Return the XLA client of 'cpu' or 'cuda'; the package jax-cuda13-pjrt or jax-cuda12-pjrt has the latter."""
    if device == 'cpu':
        return xla_client.make_cpu_client()
    for version in (13, 12):
        found = importlib.util.find_spec('jax_plugins')
        for folder in (found.submodule_search_locations or ()) if found else ():
            library = pathlib.Path(folder, f'xla_cuda{version}', 'xla_cuda_plugin.so')
            if library.exists():
                xla_client.load_pjrt_plugin_dynamically('cuda', str(library))
                xla_client.initialize_pjrt_plugin('cuda')
                return xla_client.make_c_api_client('cuda')
    raise SystemExit('no plugin for CUDA: pip install "jax-cuda12-pjrt[with-cuda]" of the version of jaxlib')


def inputs_program(inputs: list[dict[str, Any]]) -> str:
    """Return a StableHLO program without arguments whose results are the inputs."""
    lines = []
    for number, each in enumerate(inputs):
        shape, size = each['shape'], int(np.prod(each['shape'], dtype=int))
        name, kind = f'%input{number}', 'x'.join([*map(str, shape), each['type']])
        if 'values' in each:
            literal = json.dumps(each['values'])
            flat = f'tensor<{size}x{each["type"]}>'
            lines += [f'{name}_ = stablehlo.constant dense<{literal}> : {flat}',
                      f'{name} = stablehlo.reshape {name}_ : ({flat}) -> tensor<{kind}>']
            continue
        ends = (each['mean'], each['deviation']) if 'mean' in each else (each['lowest'], each['highest'])
        for suffix, value in zip('ab', ends, strict=True):
            lines.append(f'{name}_{suffix} = stablehlo.constant dense<{value:e}> : tensor<f32>')
        floats = 'x'.join([*map(str, shape), 'f32'])
        lines += [f'{name}_s = stablehlo.constant dense<{shape}> : tensor<{len(shape)}xi64>',
                  f'{name}_f = stablehlo.rng {name}_a, {name}_b, {name}_s, distribution = '
                  f'{"NORMAL" if "mean" in each else "UNIFORM"} : (tensor<f32>, tensor<f32>, tensor<{len(shape)}xi64>)'
                  f' -> tensor<{floats}>',
                  f'{name} = stablehlo.convert {name}_f : (tensor<{floats}>) -> tensor<{kind}>']
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('program', type=pathlib.Path)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--repetitions', type=int, default=10)
    given = parser.parse_args()
    client = client_of(given.device)
    devices = xla_client.DeviceList(tuple(client.local_devices()[:1]))

    def compiled(code: bytes) -> Any:
        return client.compile_and_load(code, devices, xla_client.CompileOptions())

    inputs = json.loads(pathlib.Path(f'{given.program}.json').read_text())
    arguments = execute(compiled(inputs_program(inputs).encode()), [])
    begun = time.perf_counter()
    program = compiled(xla_client._xla.mlir.hlo_to_stablehlo(given.program.read_bytes()))
    seconds = time.perf_counter() - begun
    results = [np.asarray(result) for result in execute(program, arguments)]
    finite = sum(bool(np.isfinite(result).all()) for result in results)
    times = []
    for _ in range(given.repetitions):
        begun = time.perf_counter()
        execute(program, arguments)
        times.append(1e3 * (time.perf_counter() - begun))
    memory = program.get_compiled_memory_stats()
    print(json.dumps({
        'program': given.program.name, 'platform': client.platform, 'version': client.platform_version,
        'compile_seconds': round(seconds, 1), 'temporary_bytes': memory.temp_size_in_bytes,
        'argument_bytes': memory.argument_size_in_bytes, 'results': len(results), 'finite_results': finite,
        'repetitions': len(times), 'median_ms': round(statistics.median(times), 2),
        'minimum_ms': round(min(times), 2)}))


if __name__ == '__main__':
    main()

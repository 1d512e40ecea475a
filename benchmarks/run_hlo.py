"""Runs and times a program that `xla_report.py --program` wrote. Needs jaxlib alone: neither JAX nor TensorFlow.

    python -m benchmarks.xla_report train --config mask_rcnn_r50_fpn_1x --program step.pb    # also writes step.pb.json
    python -m venv /tmp/jaxlib && /tmp/jaxlib/bin/pip install jaxlib 'jax-cuda13-plugin[with-cuda]'
    /tmp/jaxlib/bin/python -m benchmarks.run_hlo step.pb --device cuda --repetitions 20
    /tmp/jaxlib/bin/python -m benchmarks.run_hlo step.pb --device h200 --limit 2.5e9      # compiles it, without a GPU

Prints one JSON line: seconds to compile, the memory that XLA plans, what the program has of each kind of operation,
and, if it is run, the median and the minimum of the milliseconds of an execution. `step.pb.json` describes the inputs;
those that it does not list are random, the same numbers on every device. Weights are random too, so the proposals of
an RPN, and the passes of adaptive RoIAlign, are not those of a trained model. --compare runs the program on the CPU
too and adds the largest difference of each result. --hlo writes what the device's compiler made of the program, and
--profile the time of each kernel of one execution.

--device a100, h100 or h200 compiles the program for that GPU and does not run it, so no GPU is needed: `pip install
jaxlib jax-cuda13-pjrt nvidia-cuda-nvcc`. XLA then does not choose algorithms by measuring them.
"""
from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import pathlib
import re
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jaxlib.version
import numpy as np
from jaxlib import _profile_data, _profiler, xla_client
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext, _mlirHlo
from jaxlib.mlir.dialects import chlo, stablehlo


class Gpu(NamedTuple):
    """What XLA's compiler has to know of a GPU that is not there."""
    capability: int       # the major number of CUDA's compute capability
    cores: int            # streaming multiprocessors
    units: int            # for float32, of a core
    shared: int           # bytes of shared memory of a core
    cache: int            # bytes, L2
    memory: int           # bytes
    bandwidth: float      # bytes per second
    clock: float          # GHz

    def description(self, name: str) -> str:
        """Return XLA's description, a GpuTargetConfigProto as text."""
        return f"""
            gpu_device_info {{
              name: "{name}" cuda_compute_capability {{ major: {self.capability} }} core_count: {self.cores}
              fpus_per_core: {self.units} clock_rate_ghz: {self.clock} l2_cache_size: {self.cache}
              shared_memory_per_core: {self.shared} shared_memory_per_block: 49152
              shared_memory_per_block_optin: {self.shared - 1024}
              device_memory_size: {self.memory} memory_bandwidth: {self.bandwidth:.0f}
              threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
              registers_per_core_limit: 65536 registers_per_block_limit: 65536
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
            }}
            platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{name}"
            """


GPUS = {'a100': Gpu(8, 108, 64, 164 << 10, 40 << 20, 80 << 30, 2.04e12, 1.41),
        'h100': Gpu(9, 132, 128, 228 << 10, 50 << 20, 80 << 30, 3.35e12, 1.98),
        'h200': Gpu(9, 132, 128, 228 << 10, 50 << 20, 141 << 30, 4.8e12, 1.98)}


def load_plugin() -> Any:
    """Return XLA's compiler and runtime for CUDA, which the package jax-cuda13-pjrt or jax-cuda12-pjrt has."""
    found = importlib.util.find_spec('jax_plugins')
    for version in (13, 12):
        for folder in (found.submodule_search_locations or ()) if found else ():
            library = pathlib.Path(folder, f'xla_cuda{version}', 'xla_cuda_plugin.so')
            if library.exists():
                plugin = xla_client.load_pjrt_plugin_dynamically('cuda', str(library))
                _profiler.register_plugin_profiler(plugin)
                xla_client.initialize_pjrt_plugin('cuda')
                return plugin
    raise SystemExit('no plugin for CUDA: pip install "jax-cuda13-plugin[with-cuda]" of the version of jaxlib, or '
                     'jax-cuda13-pjrt and nvidia-cuda-nvcc to compile without a GPU')


class Device:
    """A device that compiles StableHLO and, if it is there, executes it.

    Attributes:
        present: whether it is there: False for the GPUs of GPUS.
    """

    def __init__(self, name: str) -> None:
        self.present = name not in GPUS
        if name == 'cpu':
            self.client = xla_client.make_cpu_client()
        elif self.present:
            load_plugin()
            self.client = xla_client.make_c_api_client('cuda')
        else:
            topology = xla_client.make_c_api_device_topology(
                load_plugin(), name, target_config=GPUS[name].description(name), topology='1x1x1')
            self.client = topology._make_compile_only_devices()[0].client
        devices = self.client.local_devices() if self.present else self.client.devices()
        self._devices = xla_client.DeviceList(tuple(devices[:1]))

    def compiled(self, code: ir.Module) -> Any:
        options = xla_client.CompileOptions()
        if self.present:
            return self.client.compile_and_load(code, self._devices, options)
        try:
            return self.client.compile(code, self._devices, options)
        except RuntimeError as error:
            if 'PTX' in str(error) or 'libdevice' in str(error):
                raise SystemExit('a part of CUDA is missing: pip install "nvidia-cuda-nvcc>=13"') from error
            raise


def parse(code: bytes | str) -> ir.Module:
    """Return a StableHLO program. Copies, which StableHLO does not have, are left out."""
    context, dialects = ir.Context(), ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(dialects)
    context.append_dialect_registry(dialects)
    context.load_all_available_dialects()
    for dialect in (_mlirHlo.register_mhlo_dialect, stablehlo.register_dialect, chlo.register_dialect):
        dialect(context)

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == 'mhlo.copy':
            operation.results[0].replace_all_uses_with(operation.operands[0])
            operation.erase()
        return ir.WalkResult.ADVANCE

    module = ir.Module.parse(code, context)
    module.operation.walk(visit)
    return module


def kinds(program: str) -> dict[str, int]:
    """Return how many of its instructions are fusions, calls of a library by name, copies and loops."""
    found = re.findall(r' (fusion|copy|while)\(', program) + re.findall('custom_call_target="(.*?)"', program)
    return dict(collections.Counter(found).most_common())


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
    parser.add_argument('--device', choices=['cpu', 'cuda', *GPUS], default='cpu')
    parser.add_argument('--repetitions', type=int, default=10)
    parser.add_argument('--compare', action='store_true', help='with the results of the CPU')
    parser.add_argument('--profile', type=pathlib.Path, metavar='JSON')
    parser.add_argument('--hlo', type=pathlib.Path, metavar='TXT')
    parser.add_argument('--limit', type=float, metavar='BYTES', help='of temporary arrays; more is an error')
    given = parser.parse_args()
    if given.device in GPUS and (given.compare or given.profile):
        parser.error(f'--device {given.device} runs nothing, so it goes with neither --compare nor --profile')
    if not given.program.exists():
        parser.error(f'{given.program}: no such file; `python -m benchmarks.xla_report --program` writes one')
    device = Device(given.device)
    code = parse(xla_client._xla.mlir.hlo_to_stablehlo(given.program.read_bytes()))
    begun = time.perf_counter()
    program = device.compiled(code)
    seconds = time.perf_counter() - begun
    memory, compiled = program.get_compiled_memory_stats(), program.hlo_modules()[0].to_string()
    row = {
        'program': given.program.name, 'device': given.device, 'jaxlib': jaxlib.version.__version__,
        'compile_seconds': round(seconds, 1), 'temporary_bytes': memory.temp_size_in_bytes,
        'argument_bytes': memory.argument_size_in_bytes, 'kinds': kinds(compiled)}
    if given.hlo:
        given.hlo.write_text(compiled)
    if device.present:
        inputs = parse(inputs_program(json.loads(pathlib.Path(f'{given.program}.json').read_text())))
        arguments = execute(device.compiled(inputs), [])
        results = [np.asarray(result) for result in execute(program, arguments)]
        times = []
        for _ in range(given.repetitions):
            begun = time.perf_counter()
            execute(program, arguments)
            times.append(1e3 * (time.perf_counter() - begun))
        row.update(results=len(results), finite_results=sum(bool(np.isfinite(result).all()) for result in results),
                   repetitions=len(times), median_ms=round(statistics.median(times), 2),
                   minimum_ms=round(min(times), 2))
    print(json.dumps(row), flush=True)
    if given.profile:
        given.profile.write_text(json.dumps(kernels(lambda: execute(program, arguments)), indent=0))
    if given.compare:
        cpu = Device('cpu')
        others = [np.asarray(each) for each in execute(cpu.compiled(code), execute(cpu.compiled(inputs), []))]
        print(json.dumps({'differences': [float(f'{each:.1e}') for each in differences(results, others)]}))
    if given.limit is not None and memory.temp_size_in_bytes > given.limit:
        raise SystemExit(f'{given.program}: {memory.temp_size_in_bytes:,} bytes of temporary arrays, more than '
                         f'{given.limit:,.0f}')


if __name__ == '__main__':
    main()

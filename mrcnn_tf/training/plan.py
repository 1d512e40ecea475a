"""How long a training step takes on GPUs that are not here: counted work, divided by what the GPUs can do.

docs/scaling.md has the formulas and compares them with published speeds.

Work is counted in the graph of a training step of one image: floating-point operations (FLOPs, 2 for each product of a
convolution or matrix with its addition) and bytes.
"""
from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import tensorflow as tf

from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.input.dataset import training_parts
from mrcnn_tf.input.synthetic import batch_spec

# All bytes of a step in proportion to those that convolutions and matrix products read and write; and all bytes that
# stay until the backward pass in proportion to what these write: with frozen normalization, and with a trained one
# (as XLA compiles nine configs for an H200).
_TRAFFIC, _KEPT, _KEPT_BY_NORM = 2.0, 0.85, 1.8
# What stays with several GPUs, in proportion to that: their two passes are programs of their own. 1.35 are counted in
# mask_rcnn_r50_fpn_1x, as results of the first one; the rest is assumed.
_KEPT_APART = 1.6
_RECOMPUTED, _KEPT_WITH_IT = 1.10, 0.7     # with train.recompute, of the FLOPs and of what stays
_REACHED = 0.8           # the fraction of a GPU's peaks
_HOST = 0.025            # s per image in which a GPU waits for a host that starts kernels one by one
_RESERVED = 1.5e9        # bytes of memory that CUDA, cuDNN and NCCL take
_MEASURED = 48           # images of the measurement of the input


@dataclass(frozen=True)
class Gpu:
    """Peaks of a GPU, by its data sheet: of dense matrix products per second, bytes per second, bytes.

    Attributes:
        flops: float32, as TensorFlow computes it (TF32 from Ampere on).
        half_flops: bfloat16 or float16.
        bandwidth: of the memory.
        memory: its size.
        link: to the other GPUs of a machine, in one direction.
    """
    flops: float
    half_flops: float
    bandwidth: float
    memory: float
    link: float


GPUS = {'v100': Gpu(15.7e12, 125e12, 0.9e12, 32e9, 150e9),
        'a100': Gpu(156e12, 312e12, 2.04e12, 80e9, 300e9),
        'h100': Gpu(494e12, 989e12, 3.35e12, 80e9, 450e9),
        'h200': Gpu(494e12, 989e12, 4.8e12, 141e9, 450e9)}


@dataclass(frozen=True)
class Work:
    """What a training step of one image does, in float32.

    Attributes:
        flops: of convolutions and matrix products, forward and backward.
        traffic: bytes that pass through the memory.
        kept: bytes that stay from the forward pass to the backward pass.
        parameters, trained: numbers of weights.
    """
    flops: float
    traffic: float
    kept: float
    parameters: int
    trained: int


@dataclass(frozen=True)
class Plan:
    """The prediction of a training step; seconds and bytes are those of one GPU.

    Attributes:
        compute, memory, network: seconds of arithmetic, memory traffic and the exchange of gradients.
        host: seconds in which the GPU waits for the host, where kernels are started one by one.
        bytes: of memory.
        batch: images per step over all GPUs.
    """
    compute: float
    memory: float
    network: float
    host: float
    bytes: float
    batch: int

    @property
    def step(self) -> float:
        """Seconds of a step in which the GPU never waits for the host."""
        return self.compute + self.memory + self.network

    @property
    def images_per_second(self) -> tuple[float, float]:
        """Over all GPUs: if the GPUs wait for the host, and if not."""
        return self.batch / (self.step + self.host), self.batch / self.step

    @property
    def bound(self) -> str:
        """What takes the largest part of a step."""
        parts = {'arithmetic': self.compute, 'memory bandwidth': self.memory, 'the exchange of gradients': self.network}
        return max(parts, key=lambda name: parts[name])


def count(config: Config, canvas: tuple[int, int]) -> Work:
    """Return the work of a training step of one image on a canvas of height and width."""
    model = build_detector(config.model, 'xla')      # that of a GPU, with static shapes
    spec = batch_spec(config.data, model.needs, canvas, 1)

    @tf.function(autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            total = tf.add_n(list(model.losses(batch, tf.zeros([2], tf.int32)).values()))
        return tape.gradient(total, model.trainable_variables)

    operations = step.get_concrete_function(spec).graph.get_operations()
    numbers = [flops(each) for each in operations]
    products = [each for each, number in zip(operations, numbers, strict=True) if number]
    passed = sum(_bytes([*each.inputs, *each.outputs]) for each in products)
    forward = sum(_bytes(each.outputs) for each in products if 'gradient_tape' not in each.name)
    kept = _KEPT if config.model.backbone.norm == 'frozen' else _KEPT_BY_NORM
    total, trained = (sum(math.prod(variable.shape) for variable in variables)
                      for variables in (model.weights, model.trainable_weights))
    return Work(sum(numbers), _TRAFFIC * passed, kept * forward, total, trained)


def flops(operation: tf.Operation) -> int:
    """Return the floating-point operations of a convolution or matrix product, 0 of another operation."""
    kind = operation.type
    if kind in ('MatMul', 'BatchMatMulV2'):
        transposed = operation.get_attr('transpose_a' if kind == 'MatMul' else 'adj_x')
        inner = operation.inputs[0].shape[-2 if transposed else -1]
        return 2 * _size(operation.outputs[0]) * (inner or 0)
    if kind == 'Conv2D':
        return 2 * _size(operation.outputs[0]) * math.prod(operation.inputs[1].shape[:3])
    if kind in ('Conv2DBackpropInput', 'Conv2DBackpropFilter'):
        kernel = operation.inputs[1] if kind == 'Conv2DBackpropInput' else operation.outputs[0]
        return 2 * _size(operation.inputs[2]) * math.prod(kernel.shape[:3])
    return 0


def predict(work: Work, config: Config, gpu: Gpu, count: int, network: float | None = None) -> Plan:
    """Return the prediction of a training step.

    Args:
        work: of `count`.
        config: the function reads `data.batch_size`, `train` and `solver`.
        gpu: the kind of all GPUs.
        count: their number.
        network: bytes per second of the slowest link between two of them; None: they are in one machine.
    """
    half = config.train.precision != 'float32'
    width = 0.5 if half else 1.
    images = math.ceil(config.data.batch_size / count)
    slots = {'adamw': 2, 'lamb': 2}.get(config.solver.optimizer, 1) + bool(config.solver.ema_decay) + bool(
        config.solver.lookahead_steps)
    at_once = math.ceil(images / config.train.accumulation_steps)
    more, kept = (_RECOMPUTED, _KEPT_WITH_IT) if config.train.recompute else (1., 1.)
    if count > 1 and config.train.accumulation_steps == 1:
        kept *= _KEPT_APART
    exchanged = 2 * (count - 1) / count * 4 * work.trained
    return Plan(
        compute=images * more * work.flops / (_REACHED * (gpu.half_flops if half else gpu.flops)),
        memory=images * work.traffic * width / (_REACHED * gpu.bandwidth),
        network=exchanged / (_REACHED * (network or gpu.link)), host=images * _HOST,
        bytes=4 * (work.parameters + work.trained * (1 + slots)) + at_once * kept * work.kept * width + _RESERVED,
        batch=images * count)


def input_seconds(config: Config) -> float:
    """Return the CPU seconds that the input of one image takes on this machine; reads some images of `data.train`."""
    batches = math.ceil(_MEASURED / config.data.batch_size)
    iterator = iter(training_parts(str(config.data.train), config)[0])
    next(iterator)
    begun = time.process_time()
    for _ in range(batches):
        next(iterator)
    return (time.process_time() - begun) / (batches * config.data.batch_size)


def describe(plan: Plan, work: Work, gpu: Gpu, canvas: tuple[int, int], seconds: float | None) -> Iterator[str]:
    """Yield the lines of `mrcnn plan`; `seconds`: see `input_seconds`, None: not measured."""
    yield (f'work of one image on {canvas[0]} x {canvas[1]} px: {work.flops / 1e9:.0f} GFLOP, '
           f'{work.traffic / 1e9:.1f} GB of memory traffic in float32')
    low, high = plan.images_per_second
    milliseconds = [f'{1e3 * each:.1f} ms of' for each in (plan.compute, plan.memory, plan.network)]
    yield (f'step: {1e3 * plan.step:.0f} ms = {milliseconds[0]} arithmetic + {milliseconds[1]} memory traffic + '
           f'{milliseconds[2]} exchanging {4 * work.trained / 1e6:.0f} MB of gradients; most of it is {plan.bound}')
    yield (f'speed: {high:.0f} images/s, {plan.batch} per step, if the GPUs never wait for the host; {low:.0f} '
           f'images/s if they wait {1e3 * _HOST:.0f} ms for each image (docs/scaling.md says how far off both are)')
    fits = 'fits' if plan.bytes < gpu.memory else (
        'too much: lower data.batch_size, set train.recompute or raise train.accumulation_steps')
    yield f'memory: about {plan.bytes / 1e9:.1f} GB of the {gpu.memory / 1e9:.0f} GB of each GPU: {fits}'
    if seconds is None:
        yield 'input: not measured; give data.train to measure its cost on this machine'
    else:
        yield (f'input: {1e3 * seconds:.0f} CPU ms per image, measured on this machine: '
               f'{math.ceil(seconds * low)} to {math.ceil(seconds * high)} cores of its kind for all GPUs')


def _size(tensor: tf.Tensor) -> int:
    sides: list[int] = tensor.shape.as_list()
    return math.prod(sides)


def _bytes(tensors: list[tf.Tensor]) -> int:
    return sum(_size(tensor) * tensor.dtype.size for tensor in tensors if tensor.dtype.is_floating)

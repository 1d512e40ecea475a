"""The schema of everything in `configs/*.yaml`: typed dataclasses that OmegaConf reads, merges and checks.

A field that the published detectors set differently ("dialect") says so. Abbreviations of sources: Fast = Fast R-CNN
(arXiv 1504.08083), Faster = Faster R-CNN (1506.01497), FPN (1612.03144), Mask = Mask R-CNN (1703.06870),
D2 = Detectron2, TV = torchvision. Sides and boxes are in pixels of the resized image.
"""
from __future__ import annotations

import dataclasses
import difflib
import pathlib
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, List, Optional, Sequence, Union, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line that names the field and the remedy."""


def _choice(default: str, *others: str) -> Any:
    """A string field that must be one of the options given."""
    return field(default=default, metadata={'choices': (default, *others)})


def _list(*values: Any) -> Any:
    return field(default_factory=lambda: list(values))


@dataclass
class DataConfig:
    """What is read and how it is brought to static shapes."""
    train: Optional[str] = None           # manifest (NAME.json) that `mrcnn convert` wrote
    validation: Optional[str] = None
    batch_size: int = 16                  # global: all replicas together
    evaluation_batch_size: int = 1        # global
    short_sides: List[int] = _list(640, 672, 704, 736, 768, 800)   # training: one is drawn per image (D2)
    long_side: int = 1333
    test_short_side: int = 800
    test_long_side: int = 1333
    canvases: List[List[int]] = field(    # [height, width]; an image goes to the smallest that holds it
        default_factory=lambda: [[832, 1344], [1344, 832], [1088, 1088]])
    flip_horizontal: float = 0.5          # probability
    flip_vertical: float = 0.0
    max_objects: int = 100                # ground truths kept per image, the largest first; the rest is counted
    mask_size: int = 112                  # side of a mask, stored as a crop of its box
    keep_empty: bool = False              # train on images without objects (D2 drops them)
    shuffle_buffer: int = 1024            # serialized records


@dataclass
class BackboneConfig:
    """ResNet trunk with FPN."""
    name: str = _choice('resnet50', 'resnet18', 'resnet34', 'resnet101')
    fpn_channels: int = 256               # FPN 4.1
    norm: str = _choice('frozen', 'batch', 'sync')
    norm_epsilon: float = 1e-5            # dialect: TV's COCO_V1 weights were published with 0, Keras's with 1.001e-5
    norm_momentum: float = 0.9            # of the running statistics, as Keras defines it (torch: 1 - this)
    stride_in_1x1: bool = True            # dialect: D2/MSRA and Keras R50/R101 True, TV and ResNeXt False
    frozen_stages: int = 2                # not trained: 1 = stem, 2 = stem and res2 (D2), ... 5 = all
    weights: str = 'none'                 # 'none' (random), 'imagenet' (keras.applications), or a model directory


@dataclass
class AnchorConfig:
    """Faster 3.1.1, one scale a level (FPN 4.1)."""
    sizes: List[List[float]] = field(default_factory=lambda: [[32.], [64.], [128.], [256.], [512.]])
    ratios: List[float] = _list(0.5, 1.0, 2.0)    # height / width
    rounded: bool = False                 # dialect: TV rounds the base anchors to whole pixels
    offset: float = 0.0                   # of the first centre, in strides


@dataclass
class RPNConfig:
    """Region proposal network (Faster 3.1)."""
    positive_iou: float = 0.7             # Faster 3.1.2
    negative_iou: float = 0.3
    batch_per_image: int = 256            # Faster 3.1.3
    positive_fraction: float = 0.5
    pre_nms_train: int = 2000             # per level and image (D2, TV)
    pre_nms_test: int = 1000
    post_nms_train: int = 1000            # per image
    post_nms_test: int = 1000
    nms_iou: float = 0.7
    min_side: float = 1e-3                # px; TV; D2 keeps every side above 0
    smooth_l1_beta: float = 0.0           # dialect: 0 is L1 (D2), 1/9 (TV and Detectron)
    loss_normalizer: str = _choice('batch', 'sampled')    # dialect: batch_per_image x N (D2), anchors drawn (TV)
    crowd_iof: float = 0.7                # anchors with more than this of their area in a crowd are ignored; 1 = never


@dataclass
class RoIConfig:
    """Sampling of proposals for the heads (Fast 2.3) and RoIAlign (Mask 3)."""
    positive_iou: float = 0.5             # Fast 2.3
    batch_per_image: int = 512
    positive_fraction: float = 0.25
    crowd_iof: float = 0.7
    aligned: bool = True                  # dialect: half-pixel shift (D2) or not (TV)
    sampling_ratio: int = 0               # dialect: samples per bin and axis; 0 = ceil(bin side) (D2), 2 (TV)
    canonical_size: float = 224.0         # FPN eq. 1
    canonical_level: int = 4


@dataclass
class BoxHeadConfig:
    """Two fully connected layers, K + 1 scores, K box regressions (Fast 2; FPN 4.2)."""
    pool_size: int = 7
    width: int = 1024
    box_weights: List[float] = _list(10.0, 10.0, 5.0, 5.0)    # dy, dx, dh, dw
    class_agnostic: bool = False
    smooth_l1_beta: float = 0.0           # dialect: 0 (D2), 1 (Fast), 1/9 (TV)


@dataclass
class MaskHeadConfig:
    """Four 3x3 convolutions, deconvolution, 1x1 convolution (Mask fig. 4)."""
    pool_size: int = 14
    convolutions: int = 4
    width: int = 256
    class_agnostic: bool = False
    binary_targets: bool = True           # dialect: targets cut at 0.5 (D2), or kept as fractions (TV)


@dataclass
class DetectionConfig:
    """Mask 3.1, inference."""
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100
    min_side: float = 1e-2                # px; TV; D2 keeps every side above 0
    pre_nms: int = 2000                   # (box, class) candidates that enter NMS in the XLA engine
    paste: str = _choice('pixel_center', 'detectron')    # dialect: D2, MM / Detectron, TV


@dataclass
class ModelConfig:
    """The detector."""
    kind: str = _choice('mask_rcnn', 'faster_rcnn')
    num_classes: int = 80                 # K, without background
    channel_order: str = _choice('bgr', 'rgb')                    # dialect: what the weights were trained with
    pixel_mean: List[float] = _list(103.53, 116.28, 123.675)      # in channel_order, of 0..255
    pixel_std: List[float] = _list(1.0, 1.0, 1.0)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask_head: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    detections: DetectionConfig = field(default_factory=DetectionConfig)


@dataclass
class SolverConfig:
    """Optimisation, counted in steps of `reference_batch` images."""
    optimizer: str = _choice('sgd', 'adamw')
    learning_rate: float = 0.02
    momentum: float = 0.9                 # sgd
    weight_decay: float = 1e-4            # sgd: added to the gradient; adamw: decoupled
    decay_biases: bool = False            # dialect: D2 True; norm parameters are never decayed
    steps: int = 90000
    schedule: str = _choice('step', 'cosine', 'constant')
    milestones: List[int] = _list(60000, 80000)
    gamma: float = 0.1
    warmup_steps: int = 1000
    warmup_factor: float = 0.001
    reference_batch: int = 16
    scale_with_batch: bool = True         # learning rate x r, steps, milestones, warm-up / r; r = batch / reference
    clip_norm: Optional[float] = None     # of the gradient of all replicas together


@dataclass
class TrainConfig:
    """How the steps are run."""
    seed: int = 0
    precision: str = _choice('float32', 'mixed_bfloat16')
    strategy: str = _choice('auto', 'one_device', 'mirrored', 'multi_worker')
    jit_compile: str = _choice('auto', 'on', 'off')       # auto: on where a GPU is visible
    deterministic: bool = False           # tf.config.experimental.enable_op_determinism
    checkpoint_every: int = 1000          # steps
    keep_checkpoints: int = 3
    log_every: int = 20                   # steps


@dataclass
class Config:
    """All settings of one model: what `mrcnn train` reads, and what is saved beside the weights as config.yaml."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def load(source: Union[str, pathlib.Path], overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file over its `base` files, then `key=value` overrides, and checks the result.

    Args:
        source: a path, or the name of a config that comes with the package ('nuclei_r18_fpn').
        overrides: such as 'solver.steps=1000'; lists as 'data.short_sides=[384]'.

    Raises:
        ConfigError: a missing or unreadable file, an unknown key, a wrong type, a value out of range.
    """
    merged = OmegaConf.structured(Config)
    for origin, layer in _layers(_find(source)):
        merged = _merge(merged, layer, origin)
    for text in overrides:
        if '=' not in text:
            raise ConfigError(f'override {text!r}: expected key=value')
        key, value = text.split('=', 1)
        try:
            layer = OmegaConf.create()
            OmegaConf.update(layer, key, OmegaConf.from_dotlist([f'value={value}'])['value'])
        except (YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f'override {text!r}: {_first_line(error)}') from None
        merged = _merge(merged, layer, f'override {text!r}')
    config = cast(Config, OmegaConf.to_object(merged))
    validate(config)
    return config


def save(config: Config, path: Union[str, pathlib.Path]) -> None:
    """Writes the resolved config as YAML that `load` reads back to an equal object."""
    pathlib.Path(path).write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


def validate(config: Config) -> None:
    """Raises ConfigError for the first field whose value is impossible, alone or beside another."""
    _check_choices(config, '')
    checks = (
        ('data.batch_size', config.data.batch_size >= 1, 'at least 1'),
        ('data.evaluation_batch_size', config.data.evaluation_batch_size >= 1, 'at least 1'),
        ('data.short_sides', bool(config.data.short_sides) and min(config.data.short_sides) >= 1, 'positive sides'),
        ('data.canvases', bool(config.data.canvases) and all(
            len(c) == 2 and min(c) > 0 and c[0] % 32 == 0 and c[1] % 32 == 0 for c in config.data.canvases),
         '[height, width] pairs that 32 divides'),
        ('data.max_objects', config.data.max_objects >= 1, 'at least 1'),
        ('model.num_classes', config.model.num_classes >= 1, 'at least 1'),
        ('model.pixel_mean', len(config.model.pixel_mean) == 3, 'three numbers'),
        ('model.pixel_std', len(config.model.pixel_std) == 3 and min(config.model.pixel_std) > 0,
         'three positive numbers'),
        ('model.backbone.frozen_stages', 0 <= config.model.backbone.frozen_stages <= 5, '0 to 5'),
        ('model.anchors.sizes', len(config.model.anchors.sizes) == 5, 'one list of sizes for each of P2..P6'),
        ('model.rpn.negative_iou', config.model.rpn.negative_iou <= config.model.rpn.positive_iou,
         'at most model.rpn.positive_iou'),
        ('model.roi.sampling_ratio', config.model.roi.sampling_ratio >= 0, '0 (adaptive) or more'),
        ('model.box_head.box_weights', len(config.model.box_head.box_weights) == 4, 'four numbers'),
        ('solver.steps', config.solver.steps >= 1, 'at least 1'),
        ('solver.learning_rate', config.solver.learning_rate > 0, 'above 0'),
        ('train.checkpoint_every', config.train.checkpoint_every >= 1, 'at least 1'),
        ('train.log_every', config.train.log_every >= 1, 'at least 1'),
    )
    for name, holds, expected in checks:
        if not holds:
            value: Any = config
            for part in name.split('.'):
                value = getattr(value, part)
            raise ConfigError(f'{name} is {value}: expected {expected}')


def packaged() -> List[str]:
    """Names of the configs that come with the package."""
    return sorted(p.name[:-5] for p in resources.files('mrcnn_tf.configs').iterdir() if p.name.endswith('.yaml'))


def _find(source: Union[str, pathlib.Path]) -> pathlib.Path:
    path = pathlib.Path(source)
    if path.is_file():
        return path
    if path.suffix in ('', '.yaml') and len(path.parts) == 1:
        packaged_path = pathlib.Path(str(resources.files('mrcnn_tf.configs'))) / f'{path.stem}.yaml'
        if packaged_path.is_file():
            return packaged_path
    raise ConfigError(f'no config {source}: give a YAML file or one of {", ".join(packaged())}')


def _layers(path: pathlib.Path, above: Sequence[pathlib.Path] = ()) -> List[Any]:
    """(origin, DictConfig) from the most basic file to `path` itself; `base` is relative to the file naming it."""
    if path in above:
        raise ConfigError(f'{path}: its base files form a circle')
    try:
        layer = OmegaConf.load(path)
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f'{path}: {_first_line(error)}') from None
    if not isinstance(layer, DictConfig):
        raise ConfigError(f'{path}: expected keys such as "solver:" at the top')
    base = layer.pop('base', None)
    below = _layers(_find(path.parent / base), (*above, path)) if base else []
    return [*below, (str(path), layer)]


def _merge(config: DictConfig, layer: DictConfig, origin: str) -> DictConfig:
    _check_keys(Config, layer, '', origin)
    try:
        return cast(DictConfig, OmegaConf.merge(config, layer))
    except OmegaConfBaseException as error:
        raise ConfigError(f'{origin}: {error.full_key or "?"}: {_first_line(error)}') from None


def _check_keys(schema: Any, layer: DictConfig, prefix: str, origin: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key in layer:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, 1, 0.5) or _elsewhere(str(key))
            hint = f'did you mean {close[0] if "." in close[0] else prefix + close[0]}?' if close else (
                f'valid: {", ".join(prefix + name for name in fields)}')
            raise ConfigError(f'{origin}: unknown key {prefix}{key}; {hint}')
        inner = fields[str(key)].default_factory
        if dataclasses.is_dataclass(inner):
            value = layer[key]
            if not isinstance(value, DictConfig):
                raise ConfigError(f'{origin}: {prefix}{key} is {value!r}: expected keys below it')
            _check_keys(inner, value, f'{prefix}{key}.', origin)


def _elsewhere(name: str, schema: Any = None, prefix: str = '') -> List[str]:
    """Dotted names of the fields called `name` anywhere in the schema."""
    found = []
    for f in dataclasses.fields(schema or Config):
        if f.name == name:
            found.append(prefix + f.name)
        if dataclasses.is_dataclass(f.default_factory):
            found += _elsewhere(name, f.default_factory, f'{prefix}{f.name}.')
    return found


def _check_choices(node: Any, prefix: str) -> None:
    for f in dataclasses.fields(node):
        value = getattr(node, f.name)
        if dataclasses.is_dataclass(value):
            _check_choices(value, f'{prefix}{f.name}.')
        choices = f.metadata.get('choices')
        if choices and value not in choices:
            close = difflib.get_close_matches(str(value), choices, 1, 0.5)
            hint = f'did you mean {close[0]}?' if close else f'expected one of {", ".join(choices)}'
            raise ConfigError(f'{prefix}{f.name} is {value!r}; {hint}')


def _first_line(error: BaseException) -> str:
    return str(error).strip().split('\n')[0]

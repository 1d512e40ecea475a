"""The schema of everything in `configs/*.yaml`: typed dataclasses that OmegaConf reads, merges and checks.

A field that the published detectors set differently ("dialect") says so. Abbreviations of sources: Fast = Fast R-CNN
(arXiv 1504.08083), Faster = Faster R-CNN (1506.01497), FPN (1612.03144), Mask = Mask R-CNN (1703.06870),
D2 = Detectron2, TV = torchvision. Sides and boxes are in pixels of the resized image.
"""
from __future__ import annotations

import dataclasses
import difflib
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from mrcnn_tf import files


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
    train: str | None = None              # manifest (NAME.json) that `mrcnn convert` wrote
    validation: str | None = None
    batch_size: int = 16                  # global: all replicas together
    evaluation_batch_size: int = 1        # global
    short_sides: list[int] = _list(640, 672, 704, 736, 768, 800)   # training: one is drawn per image (D2)
    long_side: int = 1333
    test_short_side: int = 800
    test_long_side: int = 1333
    round_sides: bool = False             # dialect: resized sides to the nearest pixel (D2) or down (TV)
    antialias: bool = False               # dialect: shrinking averages, as Pillow does (D2), or not (TV)
    canvases: list[list[int]] = field(    # [height, width]; an image goes to the smallest that holds it
        default_factory=lambda: [[800, 1088], [1088, 800], [800, 1344], [1344, 800]])
    flip_horizontal: float = 0.5          # probability
    flip_vertical: float = 0.0
    max_objects: int = 100                # ground truths kept per image, the largest first; the rest is counted
    max_proposals: int = 2000             # fast_rcnn: the best of each record (Fast 4.1)
    mask_size: int = 112                  # side of a mask, stored as a crop of its box
    keep_empty: bool = False              # train on images without objects (D2 drops them)
    shuffle_buffer: int = 1024            # serialized records


@dataclass
class BackboneConfig:
    """The trunk, and which of its maps RPN and heads read."""
    name: str = _choice('resnet50', 'resnet18', 'resnet34', 'resnet101', 'resnext101_32x8d', 'resnext101_64x4d',
                        'vgg16')
    maps: str = _choice('fpn', 'c4', 'c5')    # fpn: P2..P6; one map of stride 16: c4: res4, and res5 is the heads';
    #                                           c5: res5 dilated by two (D2's DC5), conv5_3 of VGG-16
    fpn_channels: int = 256               # FPN 4.1
    fpn_norm: str = _choice('none', 'frozen', 'batch', 'sync', 'group')
    norm: str = _choice('frozen', 'batch', 'sync', 'group')
    norm_epsilon: float = 1e-5            # dialect: TV's COCO_V1 weights were published with 0, Keras's with 1.001e-5
    norm_momentum: float = 0.9            # of the running statistics, as Keras defines it (torch: 1 - this)
    stride_in_1x1: bool = True            # dialect: D2/MSRA and Keras R50/R101 True, TV and ResNeXt False
    frozen_stages: int = 2                # not trained: 1 = stem, 2 = stem and res2 (D2), ... 5 = all; VGG-16: blocks
    weights: str = _choice('none', 'imagenet')     # what training starts from: random, or keras.applications


@dataclass
class AnchorConfig:
    """Faster 3.1.1; one scale a level with FPN (4.1)."""
    sizes: list[list[float]] = field(default_factory=lambda: [[32.], [64.], [128.], [256.], [512.]])
    ratios: list[float] = _list(0.5, 1.0, 2.0)    # height / width
    rounded: bool = False                 # dialect: TV rounds the base anchors to whole pixels
    offset: float = 0.0                   # of the first centre, in strides


@dataclass
class RPNConfig:
    """Region proposal network (Faster 3.1)."""
    convolutions: int = 1                 # 3x3, before those that predict; TV's second recipe has 2
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
    loss_normalizer: str = _choice('batch', 'sampled', 'locations')    # dialect: batch_per_image x N (D2), anchors
    #                                       drawn (TV), of the boxes the cells of the maps x N (Faster eq. 1)
    box_loss_weight: float = 1.0          # lambda of Faster eq. 1; 10 beside `locations`
    classifier: str = _choice('sigmoid', 'softmax')       # of anchors; Faster 3.1 has a softmax over two classes
    crowd_iof: float = 0.7                # anchors with more than this of their area in a crowd are ignored; 1 = never


@dataclass
class RoIConfig:
    """Sampling of proposals for the heads (Fast 2.3) and RoIAlign (Mask 3)."""
    positive_iou: float = 0.5             # Fast 2.3
    negative_iou: float | None = None     # RoIs between it and positive_iou are ignored; none: positive_iou
    batch_per_image: int = 512
    positive_fraction: float = 0.25
    crowd_iof: float = 0.7
    aligned: bool = True                  # dialect: half-pixel shift (D2) or not (TV)
    layer: str = _choice('align', 'warp', 'pool')         # Mask table 2c: RoIAlign, RoIWarp, RoIPool (Fast 2.1)
    aggregate: str = _choice('average', 'max')            # of a bin's samples; RoIPool takes the largest
    sampling_ratio: int = 0               # dialect: samples per bin and axis; 0 = ceil(bin side) (D2), 2 (TV)
    canonical_size: float = 224.0         # FPN eq. 1
    canonical_level: int = 4


@dataclass
class BoxHeadConfig:
    """Fully connected layers, K + 1 scores, K box regressions (Fast 2; FPN 4.2)."""
    pool_size: int = 7                    # 14 with maps: c4, whose res5 halves it
    convolutions: int = 0                 # 3x3, before the fully connected layers; TV's second recipe has 4
    convolution_width: int = 256
    norm: str = _choice('none', 'frozen', 'batch', 'sync', 'group')    # of the convolutions
    fully_connected: int = 2              # 0: the mean of the map (maps: c4)
    width: int = 1024
    box_weights: list[float] = _list(10.0, 10.0, 5.0, 5.0)    # dy, dx, dh, dw
    class_agnostic: bool = False
    smooth_l1_beta: float = 0.0           # dialect: 0 (D2), 1 (Fast), 1/9 (TV)


@dataclass
class MaskHeadConfig:
    """3x3 convolutions, deconvolution, 1x1 convolution (Mask fig. 4)."""
    pool_size: int = 14
    convolutions: int = 4                 # 0 with maps: c4
    norm: str = _choice('none', 'frozen', 'batch', 'sync', 'group')    # of the convolutions
    width: int = 256
    class_agnostic: bool = False
    classifier: str = _choice('sigmoid', 'softmax')       # Mask table 2b: a mask for each class, or classes compete
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
    kind: str = _choice('mask_rcnn', 'faster_rcnn', 'fast_rcnn')    # fast_rcnn: regions come with the records
    num_classes: int = 80                 # K, without background
    channel_order: str = _choice('bgr', 'rgb')                    # dialect: what the weights were trained with
    pixel_mean: list[float] = _list(103.53, 116.28, 123.675)      # in channel_order, of 0..255
    pixel_std: list[float] = _list(1.0, 1.0, 1.0)
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
    milestones: list[int] = _list(60000, 80000)
    gamma: float = 0.1
    warmup_steps: int = 1000
    warmup_factor: float = 0.001
    reference_batch: int = 16
    scale_with_batch: bool = True         # learning rate x r, steps, milestones, warm-up / r; r = batch / reference
    clip_norm: float | None = None        # of the gradient of all replicas together


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


_LIMITS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ('at least 1', lambda x: x >= 1, """
        data.batch_size data.evaluation_batch_size data.short_sides data.long_side data.test_short_side
        data.test_long_side data.canvases data.max_objects data.max_proposals data.mask_size data.shuffle_buffer
        model.num_classes
        model.backbone.fpn_channels model.rpn.batch_per_image model.rpn.pre_nms_train model.rpn.pre_nms_test
        model.rpn.post_nms_train model.rpn.post_nms_test model.roi.batch_per_image model.rpn.convolutions
        model.box_head.pool_size model.box_head.convolution_width model.box_head.width model.mask_head.pool_size
        model.mask_head.width model.detections.max_detections model.detections.pre_nms solver.steps solver.milestones
        solver.reference_batch train.checkpoint_every train.keep_checkpoints train.log_every"""),
    ('0 or more', lambda x: x >= 0, """
        model.backbone.norm_epsilon model.rpn.min_side model.rpn.smooth_l1_beta model.roi.sampling_ratio
        model.box_head.smooth_l1_beta model.box_head.convolutions model.box_head.fully_connected
        model.mask_head.convolutions model.detections.min_side solver.weight_decay solver.warmup_steps train.seed"""),
    ('above 0', lambda x: x > 0, """
        model.pixel_std model.anchors.sizes model.anchors.ratios model.roi.canonical_size model.rpn.box_loss_weight
        model.box_head.box_weights solver.learning_rate solver.gamma solver.clip_norm"""),
    ('0 to 1', lambda x: 0 <= x <= 1, """
        data.flip_horizontal data.flip_vertical model.backbone.norm_momentum model.rpn.positive_iou
        model.rpn.negative_iou model.rpn.positive_fraction model.rpn.nms_iou model.rpn.crowd_iof
        model.roi.positive_iou model.roi.negative_iou model.roi.positive_fraction model.roi.crowd_iof
        model.detections.score_threshold model.detections.nms_iou solver.momentum solver.warmup_factor"""),
    ('0 to 5', lambda x: 0 <= x <= 5, 'model.backbone.frozen_stages'),
    ('one of the levels 2 to 5', lambda x: 2 <= x <= 5, 'model.roi.canonical_level'),
    ('a finite number', math.isfinite, 'model.pixel_mean model.anchors.offset'),
)


def load(source: str | pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file over its `base` files, then `key=value` overrides, and checks the result.

    Args:
        source: a path, or the name of a config that comes with the package ('nuclei_r18_fpn').
        overrides: such as 'solver.steps=1000'; lists as 'data.short_sides=[384]'.

    Raises:
        ConfigError: a missing or unreadable file, an unknown key, a wrong type, a value out of range.
    """
    merged = OmegaConf.structured(Config)
    for origin, layer in [*_layers(_find(source)), *map(_override, overrides)]:
        _apply(merged, layer, Config, '', origin)
    try:
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:                 # an interpolation, ${...}, that leads nowhere
        raise ConfigError(f'{source}: {error.full_key}: {_reason(error)}') from None
    validate(config)
    return config


def save(config: Config, path: str | pathlib.Path) -> None:
    """Writes the resolved config, whole or not at all, as YAML that `load` reads back to an equal object."""
    with files.atomic_path(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding='utf-8')


def validate(config: Config) -> None:
    """Raises ConfigError for the first field whose value is impossible, alone or beside another."""
    _check_choices(config, '')
    for expected, holds, names in _LIMITS:
        for name in names.split():
            value = _value(config, name)
            if not all(math.isfinite(number) and holds(number) for number in _numbers(value)):
                raise ConfigError(f'{name} is {value}: expected {expected}')
    for name, fits, expected in _relations(config):
        if not fits:
            raise ConfigError(f'{name} is {_value(config, name)}: expected {expected}')


def packaged() -> list[str]:
    """Names of the configs that come with the package."""
    return sorted(path.stem for path in _packaged_folder().glob('*.yaml'))


def _relations(config: Config) -> tuple[tuple[str, bool, str], ...]:
    """(field, whether it fits, what is expected) where one number alone does not tell."""
    data, model, solver = config.data, config.model, config.solver
    anchors, backbone = model.anchors, model.backbone
    levels = 5 if backbone.maps == 'fpn' else 1
    return (
        ('data.short_sides', bool(data.short_sides), 'at least one side'),
        ('data.canvases', bool(data.canvases) and all(
            len(canvas) == 2 and canvas[0] % 32 == 0 and canvas[1] % 32 == 0 for canvas in data.canvases),
         '[height, width] pairs that 32 divides'),
        ('model.pixel_mean', len(model.pixel_mean) == 3, 'three numbers'),
        ('model.pixel_std', len(model.pixel_std) == 3, 'three numbers'),
        ('model.backbone.maps', (backbone.maps == 'c5') if backbone.name == 'vgg16' else True,
         'c5 with model.backbone.name=vgg16, which has one map of stride 16'),
        ('model.anchors.sizes', len(anchors.sizes) == levels and bool(anchors.sizes[0]) and all(
            len(sizes) == len(anchors.sizes[0]) for sizes in anchors.sizes),
         'one list of sizes for each of P2..P6, all of one length: the levels share the RPN head' if levels > 1 else
         f'one list of all sizes, for the one map of model.backbone.maps={backbone.maps}'),
        ('model.anchors.ratios', bool(anchors.ratios), 'at least one ratio'),
        ('model.roi.aggregate', model.roi.aggregate == 'max' or model.roi.layer != 'pool',
         'max with model.roi.layer=pool'),
        ('model.roi.sampling_ratio', model.roi.sampling_ratio == 1 or model.roi.layer != 'pool',
         '1 with model.roi.layer=pool, which reads cells and takes no samples'),
        ('model.rpn.negative_iou', model.rpn.negative_iou <= model.rpn.positive_iou, 'at most model.rpn.positive_iou'),
        ('model.mask_head.pool_size',
         model.kind != 'mask_rcnn' or backbone.maps != 'c4' or model.mask_head.pool_size == model.box_head.pool_size,
         'model.box_head.pool_size with model.backbone.maps=c4, whose res5 both share'),
        ('model.roi.negative_iou', model.roi.negative_iou is None or model.roi.negative_iou <= model.roi.positive_iou,
         'at most model.roi.positive_iou'),
        ('model.mask_head.class_agnostic',
         not model.mask_head.class_agnostic or model.mask_head.classifier == 'sigmoid',
         'false with model.mask_head.classifier=softmax, where classes compete'),
        ('model.box_head.box_weights', len(model.box_head.box_weights) == 4, 'four numbers'),
        ('solver.milestones', solver.milestones == sorted(set(solver.milestones)), 'steps in ascending order'),
    )


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split('.'):
        value = getattr(value, part)
    return value


def _numbers(value: Any) -> Iterator[float]:
    """The numbers of a field: itself, or those of its (nested) list; none where it is null."""
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif value is not None:
        yield value


def _packaged_folder() -> pathlib.Path:
    """`mrcnn_tf/configs` of an installation, `configs` of a source tree."""
    package = pathlib.Path(__file__).resolve().parent
    return package / 'configs' if (package / 'configs').is_dir() else package.parent / 'configs'


def _find(source: str | pathlib.Path, beside: pathlib.Path | None = None) -> pathlib.Path:
    """The file that `source` names, from the folder `beside` on, or else among the configs of the package."""
    path = (beside or pathlib.Path()) / source
    if path.is_file():
        return path
    named = _packaged_folder() / f'{pathlib.Path(source).name.removesuffix(".yaml")}.yaml'
    if len(pathlib.Path(source).parts) == 1 and named.is_file():
        return named
    close = difflib.get_close_matches(str(source), packaged(), 1, 0.6)
    hint = f'did you mean {close[0]}?' if close else f'give a YAML file or one of {", ".join(packaged())}'
    raise ConfigError(f'no config {source}; {hint}')


def _layers(path: pathlib.Path, above: Sequence[pathlib.Path] = ()) -> list[tuple[str, dict[Any, Any]]]:
    """(origin, keys) from the most basic file to `path` itself; `base` is relative to the file that names it."""
    if path.resolve() in above:
        raise ConfigError(f'{path}: its base files form a circle; remove one of their "base:" lines')
    layer = _read(path)
    base = layer.pop('base', None)
    if base is None:
        return [(str(path), layer)]
    try:
        found = _find(str(base), path.parent)
    except ConfigError as error:
        raise ConfigError(f'{path}: base: {error}') from None
    return [*_layers(found, (*above, path.resolve())), (str(path), layer)]


def _read(path: pathlib.Path) -> dict[Any, Any]:
    try:
        layer = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f'{path}: {_reason(error)}') from None
    if not isinstance(layer, dict):
        raise ConfigError(f'{path}: expected keys such as "solver:" at the top')
    return layer


def _override(text: str) -> tuple[str, dict[Any, Any]]:
    """(origin, keys) of 'solver.steps=1000'."""
    origin = f'override {text!r}'
    key, equals, value = text.partition('=')
    parts = key.split('.')
    if not equals or not all(part.isidentifier() for part in parts):
        raise ConfigError(f'{origin}: expected key=value, such as solver.steps=1000')
    try:
        layer = cast(dict[Any, Any], OmegaConf.to_container(OmegaConf.from_dotlist([f'{parts[-1]}={value}'])))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f'{origin}: {_reason(error)}') from None
    for part in reversed(parts[:-1]):
        layer = {part: layer}
    return origin, layer


def _apply(config: DictConfig, layer: dict[Any, Any], schema: Any, prefix: str, origin: str) -> None:
    """Sets in `config`, a section of type `schema`, what `layer` holds."""
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key, value in layer.items():
        if key not in fields:
            raise ConfigError(f'{origin}: unknown key {prefix}{key}; {_nearest(str(key), list(fields), prefix)}')
        inner: Any = fields[key].default_factory
        if not dataclasses.is_dataclass(inner):
            _set(config, fields[key], value, prefix, origin)
        elif isinstance(value, dict):
            _apply(config[key], value, inner, f'{prefix}{key}.', origin)
        else:
            raise ConfigError(f'{origin}: {prefix}{key} is {value!r}: expected keys below it')


def _set(config: DictConfig, known: dataclasses.Field[Any], value: Any, prefix: str, origin: str) -> None:
    if 'on' in known.metadata.get('choices', ()) and isinstance(value, bool):
        value = 'on' if value else 'off'                    # YAML reads a bare on or off as a boolean
    try:
        OmegaConf.update(config, known.name, value)
    except OmegaConfBaseException:
        raise ConfigError(f'{origin}: {prefix}{known.name} is {value!r}: expected {known.type}') from None


def _nearest(key: str, names: Sequence[str], prefix: str) -> str:
    """What an unknown key may stand for: the same name elsewhere, a like name here, or else the names that are here."""
    close = _elsewhere(key) or [prefix + name for name in difflib.get_close_matches(key, names, 1, 0.5)]
    return f'did you mean {" or ".join(close)}?' if close else f'valid: {", ".join(prefix + name for name in names)}'


def _elsewhere(name: str, schema: Any = Config, prefix: str = '') -> list[str]:
    """Dotted names of the fields called `name` anywhere in the schema."""
    found = []
    for f in dataclasses.fields(schema):
        inner: Any = f.default_factory
        if f.name == name:
            found.append(prefix + name)
        if dataclasses.is_dataclass(inner):
            found += _elsewhere(name, inner, f'{prefix}{f.name}.')
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


def _reason(error: BaseException) -> str:
    """One line of an error that may have many; YAML's tells the place last."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f'line {error.problem_mark.line + 1}: {error.problem}'
    return str(error).strip().split('\n')[0]

"""The schema of everything in `configs/*.yaml`: typed dataclasses that OmegaConf reads, merges and checks.

A field that the published detectors set differently ("dialect") says so. Abbreviations of sources: Fast = Fast R-CNN
(arXiv 1504.08083), Faster = Faster R-CNN (1506.01497), FPN (1612.03144), TDM (1612.06851), Mask = Mask R-CNN
(1703.06870), D2 = Detectron2, TV = torchvision. Sides and boxes are in pixels of the resized image.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mrcnn_tf.config.trunks import TRUNKS


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
    test_scales: list[int] = _list()      # short sides in which a test image is looked at; none: test_short_side alone
    test_flip: bool = False               # look at its mirror image too (Mask appendix: 400, 500, ... 1200 and flips)
    round_sides: bool = False             # dialect: resized sides to the nearest pixel (D2) or down (TV)
    antialias: bool = False               # dialect: as Pillow, averaged where shrunk, whole numbers (D2); or not (TV)
    canvases: list[list[int]] = field(    # training and XLA: [height, width]; an image goes to the smallest that fits
        default_factory=lambda: [[800, 1088], [1088, 800], [800, 1344], [1344, 800]])
    pad_multiple: int = 32                # inference: an image's own sides are rounded up to it; D2: 1 with C4 and DC5
    exif: str = _choice('apply', 'ignore', 'error')     # photographs to predict on whose EXIF says to turn them: turned
    #                                       before the model sees them, left as stored, or refused
    max_pixels: int = 50_000_000          # of an image file to predict on; larger ones are refused before decoding
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
    name: str = field(default='resnet50', metadata={'choices': TRUNKS})
    maps: str = _choice('fpn', 'c4', 'c5', 'tdm')    # fpn: P2..P6; one map of stride 16: c4: res4, and res5 is the
    #                     heads'; c5: res5 dilated by two (D2's DC5), conv5_3 of VGG-16; tdm: one, modulated top-down
    fpn_channels: int = 256               # FPN 4.1
    tdm_channels: int = 128               # of lateral and top-down modules; the map has both (TDM 3)
    tdm_stride: int = 4                   # of the map
    fpn_norm: str = _choice('none', 'frozen', 'batch', 'sync', 'group')
    norm: str = _choice('frozen', 'batch', 'sync', 'group')
    norm_epsilon: float = 1e-5            # dialect: TV's COCO_V1 weights were published with 0, Keras's with 1.001e-5
    norm_momentum: float = 0.9            # of the running statistics, as Keras defines it (torch: 1 - this)
    stride_in_1x1: bool = True            # dialect: D2/MSRA and Keras R50/R101 True, TV and ResNeXt False
    frozen_stages: int = 2                # not trained: 1 = stem, 2 = stem and res2 (D2), ... 5 = all; VGG-16: blocks
    weights: str = _choice('none', 'imagenet')     # what training starts from: random, or keras.applications
    frozen: bool = False                  # nothing of it is trained, FPN neither (Faster 3.2, steps 3 and 4)


@dataclass
class AnchorConfig:
    """Faster 3.1.1; one scale a level with FPN (4.1)."""
    sizes: list[list[float]] = field(default_factory=lambda: [[32.], [64.], [128.], [256.], [512.]])
    ratios: list[float] = _list(0.5, 1.0, 2.0)    # height / width
    order: str = _choice('ratio_major', 'size_major')     # dialect: channels of one cell, all sizes of the first ratio
    #                                       first (TV, Faster), or all ratios of the first size (D2)
    stride: str = _choice('canvas', 'level')              # dialect: of the centers, canvas side // cells (TV), or the
    #                                       level's own: 4, 8, ... 64 (D2); they differ where 64 does not divide
    rounded: bool = False                 # dialect: TV rounds the base anchors to whole pixels
    offset: float = 0.0                   # of the first center, in strides


@dataclass
class RPNConfig:
    """Region proposal network (Faster 3.1)."""
    convolutions: int = 1                 # 3x3, before those that predict; TV's second recipe has 2
    positive_iou: float = 0.7             # Faster 3.1.2
    negative_iou: float = 0.3
    batch_per_image: int = 256            # Faster 3.1.3
    crossing_anchors: bool = True         # dialect: those that cross the border are trained (D2, TV), or not (3.1.3)
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
    background_iou: float = 0.0           # RoIs below it are ignored; 0.1 in Fast 2.3
    batch_per_image: int = 512
    sampling: str = _choice('random', 'ohem')             # ohem: the RoIs of greatest loss (1604.03540)
    ohem_nms_iou: float = 0.7             # of those that overlap by more only the hardest (1604.03540 3.2)
    positive_fraction: float = 0.25       # at most, of those drawn at random
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
    dropout: float = 0.0                  # share dropped behind each fully connected layer; 0.5 with VGG-16 (Fast)
    box_weights: list[float] = _list(10.0, 10.0, 5.0, 5.0)    # dy, dx, dh, dw
    class_agnostic: bool = False
    smooth_l1_beta: float = 0.0           # dialect: 0 (D2), 1 (Fast), 1/9 (TV)


@dataclass
class CascadeConfig:
    """Box heads after the first, each on the boxes of the one before (1712.00726). None as a rule."""
    positive_iou: list[float] = _list()   # of each such head: 0.6, 0.7; background below
    box_weights: list[list[float]] = _list()              # of each such head: [20, 20, 10, 10], [30, 30, 15, 15]


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
    refinements: int = 0                  # how often boxes are read and moved again (1512.03385, appendix B: 1)
    box_voting_iou: float | None = None   # a box becomes the mean of those that it overlaps by more (1505.01749)
    max_detections: int = 100
    min_side: float = 1e-2                # px; TV; D2 keeps every side above 0
    pre_nms: int = 2000                   # (box, class) candidates that enter NMS in the XLA engine
    paste: str = _choice('pixel_center', 'detectron')    # dialect: D2, MM / Detectron, TV


@dataclass
class ModelConfig:
    """The detector."""
    kind: str = _choice('mask_rcnn', 'faster_rcnn', 'fast_rcnn', 'rpn')    # fast_rcnn: regions come with the
    #                                       records; rpn: proposals alone, without roi, heads and detections
    num_classes: int = 80                 # K, without background
    channel_order: str = _choice('bgr', 'rgb')                    # dialect: what the weights were trained with
    pixel_mean: list[float] = _list(103.53, 116.28, 123.675)      # in channel_order, of 0..255
    pixel_std: list[float] = _list(1.0, 1.0, 1.0)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    cascade: CascadeConfig = field(default_factory=CascadeConfig)
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
    stop_without_positives: int = 500     # stop after so many steps in a row without a positive anchor or RoI; 0: never


@dataclass
class AlternatingConfig:
    """Four-step training of Faster R-CNN (3.2): `mrcnn train-alternating`."""
    steps: int = 4                        # 2: an RPN and a Fast R-CNN that share nothing (RPN* of table 6)
    rpn: list[str] = _list()              # key=value: what differs from the other sections in steps 1 and 3
    fast_rcnn: list[str] = _list()        # the same for steps 2 and 4


@dataclass
class Config:
    """All settings of one model: what `mrcnn train` reads, and what is saved beside the weights as config.yaml."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    alternating: AlternatingConfig = field(default_factory=AlternatingConfig)

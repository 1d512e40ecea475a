"""The schema of all settings in `configs/*.yaml`: typed dataclasses that OmegaConf reads, merges and checks.

"dialect" marks a setting in which the published detectors differ. Sources: Fast = Fast R-CNN (arXiv 1504.08083),
Faster = Faster R-CNN (1506.01497), FPN (1612.03144), TDM (1612.06851), Mask = Mask R-CNN (1703.06870), OHEM
(1604.03540), D2 = Detectron2, TV = torchvision; a number after a source is a section. Sides and boxes are in pixels
(px) of the resized image.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mrcnn_tf.config.backbones import BACKBONES


class ConfigError(ValueError):
    """A configuration cannot be used; the message is one line that names the field and what to do."""


def _choice(default: str, *others: str) -> Any:
    """Return a string field whose value must be one of the arguments; the first one is the default."""
    return field(default=default, metadata={'choices': (default, *others)})


def _list(*values: Any) -> Any:
    return field(default_factory=lambda: list(values))


@dataclass
class DataConfig:
    """Which images are read, how they are resized and padded, and how they are augmented."""
    train: str | None = None              # training set: manifest NAME.json from `mrcnn convert`
    validation: str | None = None         # validation set, likewise
    batch_size: int = 16                  # images per training step, over all replicas
    evaluation_batch_size: int = 1        # images per evaluation step, over all replicas
    short_sides: list[int] = _list(640, 672, 704, 736, 768, 800)   # training: one is sampled per image (D2)
    long_side: int = 1333
    test_short_side: int = 800
    test_long_side: int = 1333
    test_scales: list[int] = _list()      # short sides for multi-scale test-time augmentation; empty: test_short_side
    test_flip: bool = False               # mirror images as well (Mask appendix: 400, 500, ... 1200, each mirrored too)
    round_sides: bool = False             # dialect: resized sides are rounded to nearest (D2) or down (TV)
    antialias: bool = False               # dialect: resize as Pillow, antialiased, to whole numbers (D2), or not (TV)
    canvases: list[list[int]] = field(    # training and XLA: [height, width]; an image gets the smallest that fits
        default_factory=lambda: [[800, 1088], [1088, 800], [800, 1344], [1344, 800]])
    pad_multiple: int = 32                # inference: sides are padded to a multiple of it; D2: 1 with C4 and DC5
    exif: str = _choice('apply', 'ignore', 'error')     # prediction on photographs with an EXIF orientation: rotate
    #                                       them first, use the pixels as stored, or refuse them
    max_pixels: int = 50_000_000          # prediction: larger image files are refused before they are decoded
    flip_horizontal: float = 0.5          # probability of mirroring a training image left to right
    flip_vertical: float = 0.0            # probability of mirroring a training image top to bottom
    max_objects: int = 100                # ground-truth objects kept per image, the largest first; the rest is counted
    max_proposals: int = 2000             # fast_rcnn: the best proposals of each record (Fast 4.1)
    mask_size: int = 112                  # side of a ground-truth mask in a batch, which covers the object's box
    keep_empty: bool = False              # train on images without objects (D2 drops them)
    shuffle_buffer: int = 1024            # size of the shuffle buffer, in serialized records


@dataclass
class BackboneConfig:
    """The backbone, and the feature maps that the RPN and the heads use."""
    name: str = field(default='resnet50', metadata={'choices': BACKBONES})
    maps: str = _choice('fpn', 'c4', 'c5', 'tdm')    # fpn: P2..P6. c4: res4, stride 16; the heads use res5. c5: stride
    #                     16: res5 with dilation 2 (D2's DC5), or conv5_3 of VGG-16. tdm: one map, top-down modulation
    fpn_channels: int = 256               # FPN 4.1
    tdm_channels: int = 128               # of the lateral and of the top-down modules; the map has the sum (TDM 3)
    tdm_stride: int = 4                   # of the feature map
    fpn_norm: str = _choice('none', 'frozen', 'batch', 'sync', 'group')    # normalization of the FPN
    norm: str = _choice('frozen', 'batch', 'sync', 'group')    # normalization of the backbone
    norm_epsilon: float = 1e-5            # dialect: 0 for TV's COCO_V1 weights, 1.001e-5 for those of Keras
    norm_momentum: float = 0.9            # of the moving statistics, as Keras defines it (torch: 1 - this)
    stride_in_1x1: bool = True            # dialect: D2/MSRA and Keras R50/R101 True, TV and ResNeXt False
    frozen_stages: int = 2                # not trained: 1 = stem, 2 = stem and res2 (D2), ... 5 = all; VGG-16: blocks
    weights: str = _choice('none', 'imagenet')     # initial weights: random, or those of keras.applications
    frozen: bool = False                  # train neither the backbone nor the neck (Faster 3.2, steps 3 and 4)


@dataclass
class AnchorConfig:
    """The anchor boxes (Faster 3.1.1), with one scale per level for an FPN (FPN 4.1)."""
    sizes: list[list[float]] = field(default_factory=lambda: [[32.], [64.], [128.], [256.], [512.]])
    ratios: list[float] = _list(0.5, 1.0, 2.0)    # height / width
    order: str = _choice('ratio_major', 'size_major')     # dialect: order of a cell's anchors: all sizes of the first
    #                                       ratio come first (TV, Faster), or all ratios of the first size (D2)
    stride: str = _choice('canvas', 'level')              # dialect: distance of the centers: canvas side // cells (TV),
    #                                       or the stride of the level: 4, 8, ... 64 (D2). They differ if 64 does not
    #                                       divide the side
    rounded: bool = False                 # dialect: TV rounds the base anchors to whole pixels
    offset: float = 0.0                   # of the first center from the image's corner, in strides


@dataclass
class RPNConfig:
    """Region proposal network (Faster 3.1)."""
    convolutions: int = 1                 # hidden 3x3 convolutions; 2 in TV's second recipe
    positive_iou: float = 0.7             # Faster 3.1.2
    negative_iou: float = 0.3
    batch_per_image: int = 256            # anchors sampled per image (Faster 3.1.3)
    crossing_anchors: bool = True         # dialect: train on anchors across the border (D2, TV), or not (Faster 3.1.3)
    positive_fraction: float = 0.5        # largest fraction of positives among the sampled anchors
    pre_nms_train: int = 2000             # proposals before NMS, per level and image (D2, TV)
    pre_nms_test: int = 1000
    post_nms_train: int = 1000            # proposals after NMS, per image
    post_nms_test: int = 1000
    nms_iou: float = 0.7
    min_side: float = 1e-3                # px (TV); smaller proposals are dropped; D2 keeps every side above 0
    smooth_l1_beta: float = 0.0           # dialect: 0 is L1 (D2), 1/9 (TV and Detectron)
    loss_normalizer: str = _choice('batch', 'sampled', 'locations')    # dialect, N images: batch_per_image x N (D2);
    #                                       sampled anchors (TV); for the box loss, cells x N (Faster eq. 1)
    box_loss_weight: float = 1.0          # lambda of Faster eq. 1; 10 with `locations`
    classifier: str = _choice('sigmoid', 'softmax')       # of anchors; Faster 3.1 has a softmax over two classes
    crowd_iof: float = 0.7                # negatives with more than this of their area in a crowd are ignored; 1: none


@dataclass
class RoIConfig:
    """Sampling of RoIs for training (Fast 2.3) and RoIAlign (Mask 3)."""
    positive_iou: float = 0.5             # Fast 2.3
    negative_iou: float | None = None     # RoIs between it and positive_iou are ignored; null: positive_iou
    background_iou: float = 0.0           # RoIs below it are ignored; 0.1 in Fast 2.3
    batch_per_image: int = 512            # RoIs sampled per image
    sampling: str = _choice('random', 'ohem')             # ohem: the RoIs of greatest loss (OHEM)
    ohem_nms_iou: float = 0.7             # of RoIs that overlap by more, only the hardest is used (OHEM 3.2)
    positive_fraction: float = 0.25       # largest fraction of positives, with random sampling
    crowd_iof: float = 0.7                # negatives with more than this of their area in a crowd are ignored; 1: none
    aligned: bool = True                  # dialect: half-pixel shift (D2) or not (TV)
    layer: str = _choice('align', 'warp', 'pool')         # Mask table 2c: RoIAlign, RoIWarp, RoIPool (Fast 2.1)
    aggregate: str = _choice('average', 'max')            # of the samples in a bin; RoIPool needs max
    sampling_ratio: int = 0               # dialect: samples per bin and axis: 0 for ceil(bin side) (D2), 2 (TV)
    canonical_size: float = 224.0         # px; RoIs of this size use canonical_level (FPN eq. 1)
    canonical_level: int = 4


@dataclass
class BoxHeadConfig:
    """The box head: fully connected layers, K + 1 class scores, K box regressions (Fast 2; FPN 4.2)."""
    pool_size: int = 7                    # cells per side of a RoI; 14 with maps: c4, whose res5 halves it
    convolutions: int = 0                 # 3x3 convolutions before the fully connected layers; 4 in TV's second recipe
    convolution_width: int = 256          # channels of each convolution
    norm: str = _choice('none', 'frozen', 'batch', 'sync', 'group')    # normalization of the convolutions
    fully_connected: int = 2              # number of layers; 0: global average pooling (maps: c4)
    width: int = 1024                     # units of each fully connected layer
    dropout: float = 0.0                  # rate after each fully connected layer; 0.5 with VGG-16 (Fast)
    box_weights: list[float] = _list(10.0, 10.0, 5.0, 5.0)    # of dy, dx, dh, dw
    class_agnostic: bool = False          # one box for all classes instead of one per class
    smooth_l1_beta: float = 0.0           # dialect: 0 (D2), 1 (Fast), 1/9 (TV)


@dataclass
class CascadeConfig:
    """The box heads after the first one in Cascade R-CNN (1712.00726); each refines the boxes of the previous head.

    Both lists have one entry per additional head; empty lists give a model without a cascade.
    """
    positive_iou: list[float] = _list()   # RoIs below it are background; published: 0.6, 0.7
    box_weights: list[list[float]] = _list()              # published: [20, 20, 10, 10], [30, 30, 15, 15]


@dataclass
class MaskHeadConfig:
    """The mask head: 3x3 convolutions, a transposed convolution, a 1x1 convolution (Mask fig. 4)."""
    pool_size: int = 14                   # cells per side of a RoI
    convolutions: int = 4                 # 0 with maps: c4
    norm: str = _choice('none', 'frozen', 'batch', 'sync', 'group')    # normalization of the convolutions
    width: int = 256                      # channels of each convolution
    class_agnostic: bool = False          # one mask for all classes instead of one per class
    classifier: str = _choice('sigmoid', 'softmax')       # Mask table 2b: independent masks per class, or a softmax
    binary_targets: bool = True           # dialect: targets thresholded at 0.5 (D2), or fractions (TV)


@dataclass
class DetectionConfig:
    """From predictions to detections in inference (Mask 3.1)."""
    score_threshold: float = 0.05         # detections with lower scores are dropped
    nms_iou: float = 0.5                  # per class
    refinements: int = 0                  # times that the box head is applied to its own boxes (1512.03385, app. B: 1)
    box_voting_iou: float | None = None   # average each box with those that overlap it by more (1505.01749); null: off
    max_detections: int = 100             # per image
    min_side: float = 1e-2                # px (TV); smaller boxes are dropped; D2 keeps every side above 0
    pre_nms: int = 2000                   # (box, class) candidates that enter NMS with the 'xla' engine
    paste: str = _choice('pixel_center', 'detectron')    # dialect of mask pasting: D2 and MMDetection; Detectron and TV


@dataclass
class ModelConfig:
    """The detector."""
    kind: str = _choice('mask_rcnn', 'faster_rcnn', 'fast_rcnn', 'rpn')    # fast_rcnn: proposals come from the records;
    #                                       rpn: proposals only, without roi, heads and detections
    num_classes: int = 80                 # K, without background
    channel_order: str = _choice('bgr', 'rgb')                    # dialect: that of the training of the weights
    pixel_mean: list[float] = _list(103.53, 116.28, 123.675)      # subtracted, in channel_order, from pixels in 0..255
    pixel_std: list[float] = _list(1.0, 1.0, 1.0)                 # divides after the mean is subtracted
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    mask_head: MaskHeadConfig = field(default_factory=MaskHeadConfig)
    detections: DetectionConfig = field(default_factory=DetectionConfig)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the optional keys of a training batch that this detector needs: of 'masks' and 'proposals'."""
        return {'mask_rcnn': ('masks',), 'fast_rcnn': ('proposals',)}.get(self.kind, ())


@dataclass
class SolverConfig:
    """The optimizer and its schedule, in steps of `reference_batch` images."""
    optimizer: str = _choice('sgd', 'adamw')
    learning_rate: float = 0.02
    momentum: float = 0.9                 # sgd only
    weight_decay: float = 1e-4            # sgd: added to the gradient; adamw: decoupled
    decay_biases: bool = False            # dialect: D2 True; normalization parameters are never decayed
    steps: int = 90000
    schedule: str = _choice('step', 'cosine', 'constant')
    milestones: list[int] = _list(60000, 80000)    # steps at which the learning rate is multiplied by gamma
    gamma: float = 0.1
    warmup_steps: int = 1000
    warmup_factor: float = 0.001          # of the learning rate at step 0
    reference_batch: int = 16             # the batch size for which this section is written
    scale_with_batch: bool = True         # learning rate x r; steps, milestones, warm-up / r; r = batch / reference
    clip_norm: float | None = None        # largest global norm of the gradient, over all replicas; null: no clipping


@dataclass
class TrainConfig:
    """How the training steps are run."""
    seed: int = 0
    precision: str = _choice('float32', 'mixed_bfloat16')
    strategy: str = _choice('auto', 'one_device', 'mirrored', 'multi_worker')
    jit_compile: str = _choice('auto', 'on', 'off')       # auto: on where a GPU is visible
    deterministic: bool = False           # call tf.config.experimental.enable_op_determinism
    checkpoint_every: int = 1000          # steps
    keep_checkpoints: int = 3             # number of newest checkpoints to keep
    log_every: int = 20                   # steps
    stop_without_positives: int = 500     # stop after as many steps in a row without a positive anchor or RoI; 0: never


@dataclass
class AlternatingConfig:
    """Four-step alternating training of Faster R-CNN (3.2): `mrcnn train-alternating`."""
    steps: int = 4                        # 2: an RPN and a Fast R-CNN that share no layers (RPN* of table 6)
    rpn: list[str] = _list()              # KEY=VALUE settings that replace those of the other sections in steps 1 and 3
    fast_rcnn: list[str] = _list()        # the same for steps 2 and 4


@dataclass
class Config:
    """All settings of one model: `mrcnn train` reads them and saves them beside the weights as config.yaml."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    alternating: AlternatingConfig = field(default_factory=AlternatingConfig)

"""The schema of all settings in `configs/*.yaml`: typed dataclasses that OmegaConf reads, merges and checks.

"dialect" marks a setting in which the published detectors differ. Sources: Fast = Fast R-CNN (arXiv 1504.08083),
Faster = Faster R-CNN (1506.01497), FPN (1612.03144), TDM (1612.06851), Mask = Mask R-CNN (1703.06870), OHEM
(1604.03540), Copy-Paste = Simple Copy-Paste (2012.07177), D2 = Detectron2, TV = torchvision; a number after a source
is a section. Sides and boxes are in pixels (px) of the resized image.
"""
from __future__ import annotations

from dataclasses import dataclass, field, fields

from mrcnn_tf.config.backbones import BACKBONES
from mrcnn_tf.config.fields import (
    ADDRESSES,
    ASCENDING,
    CANVASES,
    DISTINCT,
    FOUR,
    LOGGERS,
    NOT_EMPTY,
    RANGE,
    THREE,
    choice,
    setting,
)


@dataclass
class AugmentConfig:
    """Augmentation of training images besides short_sides and flips; all of it is off by default.

    Numbers are sampled uniformly for each image. Factors of colors are those of Pillow's ImageEnhance: 1 changes
    nothing.
    """
    # smallest and largest scale of the resized image, which is then cut at random to its canvas (D2); published with
    # one canvas of [1024, 1024]: [0.1, 2.0] (Copy-Paste)
    large_scale_jitter: list[float] = setting([], gt=0, le=4, rule=RANGE)
    rotation: float = setting(0.0, ge=0, le=180)  # largest angle in either direction, degrees
    shear: float = setting(0.0, ge=0, le=60)      # largest angle in either direction, along the x axis, degrees
    translation: float = setting(0.0, ge=0, le=1)  # largest shift along each axis, as a fraction of height and width
    brightness: float = setting(0.0, ge=0, le=1)  # b: the factor is in 1 - b .. 1 + b; 0 is black
    contrast: float = setting(0.0, ge=0, le=1)    # c: the factor is in 1 - c .. 1 + c; 0 is the mean gray
    saturation: float = setting(0.0, ge=0, le=1)  # s: the factor is in 1 - s .. 1 + s; 0 is a gray image
    hue: float = setting(0.0, ge=0, le=0.5)       # largest shift in either direction, as a fraction of the color circle
    sharpness: float = setting(0.0, ge=0, le=1)   # s: the factor is in 1 - s .. 1 + s; 0 is a blurred image
    equalize: float = setting(0.0, ge=0, le=1)    # probability of equalizing the histogram of each color channel
    cutout: int = setting(0, ge=0, le=100)        # number of squares of gray per image (1708.04552); they hide objects
    cutout_side: float = setting(0.2, gt=0, le=1)  # side of a square, as a fraction of the image's shorter side
    copy_paste: float = setting(0.0, ge=0, le=1)  # probability that objects of another image are pasted (Copy-Paste)
    # objects of which a smaller fraction stays visible are ignored: neither positive nor background. 0: none (D2)
    min_visible: float = setting(0.1, ge=0, le=1)

    @property
    def enabled(self) -> bool:
        """Return whether any augmentation is on."""
        return any(getattr(self, each.name) for each in fields(self) if each.name not in ('cutout_side', 'min_visible'))

    @property
    def turns(self) -> bool:
        """Return whether boxes do not stay boxes."""
        return self.rotation > 0 or self.shear > 0


@dataclass
class DataConfig:
    """Which images are read, how they are resized and padded, and how they are augmented."""
    train: str | None = None                      # training set: manifest NAME.json from `mrcnn convert`
    validation: str | None = None                 # validation set: manifest NAME.json
    batch_size: int = setting(16, ge=1)           # images per training step, over all replicas
    evaluation_batch_size: int = setting(1, ge=1)  # images per evaluation step, over all replicas
    # training: short side of the resized image; one is sampled per image (D2)
    short_sides: list[int] = setting([640, 672, 704, 736, 768, 800], ge=1, rule=NOT_EMPTY)
    long_side: int = setting(1333, ge=1)          # training: longest permitted side; a longer image is made smaller
    test_short_side: int = setting(800, ge=1)     # short side in evaluation and prediction
    test_long_side: int = setting(1333, ge=1)     # longest permitted side in evaluation and prediction
    # short sides for multi-scale test-time augmentation; empty: test_short_side
    test_scales: list[int] = setting([], ge=1, rule=DISTINCT)
    test_flip: bool = False  # mirror images as well (Mask appendix: 400, 500, ... 1200, each mirrored too)
    round_sides: bool = False                     # dialect: resized sides are rounded to nearest (D2) or down (TV)
    antialias: bool = False  # dialect: resize as Pillow, antialiased, to whole numbers (D2), or not (TV)
    # training and XLA: [height, width]; an image gets the smallest that fits
    canvases: list[list[int]] = setting([[800, 1088], [1088, 800], [800, 1344], [1344, 800]], ge=1, rule=CANVASES)
    pad_multiple: int = setting(32, ge=1)  # inference: sides are padded to a multiple of it; D2: 1 with C4 and DC5
    # prediction on photographs with an EXIF orientation: rotate them first, use the pixels as stored, or refuse them
    exif: str = choice(['apply', 'ignore', 'error'])
    max_pixels: int = setting(50_000_000, ge=1)   # prediction: larger image files are refused before they are decoded
    flip_horizontal: float = setting(0.5, ge=0, le=1)  # probability of mirroring a training image left to right
    flip_vertical: float = setting(0.0, ge=0, le=1)  # probability of mirroring a training image top to bottom
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    max_objects: int = setting(100, ge=1)  # ground-truth objects kept per image, the largest first; the rest is counted
    max_proposals: int = setting(2000, ge=1)      # fast_rcnn: the best proposals of each record (Fast 4.1)
    mask_size: int = setting(112, ge=1)  # cells per side of a ground-truth mask, which covers the object's box
    keep_empty: bool = False                      # train on images without objects (D2 drops them)
    shuffle_buffer: int = setting(1024, ge=1)     # size of the shuffle buffer, in serialized records


@dataclass
class BackboneConfig:
    """The backbone, and the feature maps that the RPN and the heads use."""
    name: str = choice(BACKBONES)                 # the architecture
    # fpn: P2..P6. c4: res4, stride 16; the heads use res5. c5: stride 16: res5 with dilation 2 (D2's DC5), or
    # conv5_3 of VGG-16. tdm: one map, top-down modulation
    maps: str = choice(['fpn', 'c4', 'c5', 'tdm'])
    fpn_channels: int = setting(256, ge=1)        # channels of each feature map of the FPN (FPN 4.1)
    tdm_channels: int = setting(128, ge=1)  # channels of lateral and of top-down modules; the map has the sum (TDM 3)
    tdm_stride: int = choice([4, 8])              # stride of the feature map of tdm, px per cell
    fpn_norm: str = choice(['none', 'frozen', 'batch', 'sync', 'group'])  # normalization of the FPN
    norm: str = choice(['frozen', 'batch', 'sync', 'group'])  # normalization of the backbone
    norm_epsilon: float = setting(1e-5, ge=0)     # dialect: 0 with TV's COCO_V1 weights, 1.001e-5 with those of Keras
    norm_momentum: float = setting(0.9, ge=0, le=1)  # momentum of the moving statistics, as in Keras (torch: 1 - this)
    # dialect: a stage's stride is in its first 1x1 convolution (D2/MSRA, Keras R50/R101) or in the 3x3 (TV, ResNeXt)
    stride_in_1x1: bool = True
    # not trained: 1 = stem, 2 = stem and res2 (D2), ... 5 = all; VGG-16: blocks
    frozen_stages: int = setting(2, ge=0, le=5)
    weights: str = choice(['none', 'imagenet'])   # initial weights: random, or those of keras.applications
    frozen: bool = False                          # train neither the backbone nor the neck (Faster 3.2, steps 3 and 4)


@dataclass
class AnchorConfig:
    """The anchor boxes (Faster 3.1.1), with one scale per level for an FPN (FPN 4.1)."""
    # square roots of the areas, one list per feature map, the finest first (FPN 4.1)
    sizes: list[list[float]] = setting([[32.], [64.], [128.], [256.], [512.]], gt=0)
    ratios: list[float] = setting([0.5, 1.0, 2.0], gt=0, rule=NOT_EMPTY)  # height / width
    # dialect: order of a cell's anchors: all sizes of the first ratio come first (TV, Faster), or all ratios of the
    # first size (D2)
    order: str = choice(['ratio_major', 'size_major'])
    # dialect: distance of the centers: canvas side // cells (TV), or the stride of the level: 4, 8, ... 64 (D2).
    # They differ if 64 does not divide the side
    stride: str = choice(['canvas', 'level'])
    rounded: bool = False                         # dialect: TV rounds the base anchors to whole pixels
    offset: float = setting(0.0)                  # distance of the first center from the image's corner, in strides


@dataclass
class RPNConfig:
    """Region proposal network (Faster 3.1)."""
    convolutions: int = setting(1, ge=1)          # hidden 3x3 convolutions; 2 in TV's second recipe
    positive_iou: float = setting(0.7, ge=0, le=1)  # anchors of at least this IoU are positive (Faster 3.1.2)
    negative_iou: float = setting(0.3, ge=0, le=1)  # anchors of less than this IoU are negative (Faster 3.1.2)
    batch_per_image: int = setting(256, ge=1)     # anchors sampled per image (Faster 3.1.3)
    crossing_anchors: bool = True  # dialect: train on anchors across the border (D2, TV), or not (Faster 3.1.3)
    positive_fraction: float = setting(0.5, ge=0, le=1)  # largest fraction of positives among the sampled anchors
    pre_nms_train: int = setting(2000, ge=1)      # training: proposals before NMS, per level and image (D2, TV)
    pre_nms_test: int = setting(1000, ge=1)       # inference: proposals before NMS, per level and image (D2, TV)
    post_nms_train: int = setting(1000, ge=1)     # training: proposals after NMS, per image
    post_nms_test: int = setting(1000, ge=1)      # inference: proposals after NMS, per image
    nms_iou: float = setting(0.7, ge=0, le=1)     # NMS drops a proposal that overlaps a better one by more (Faster 3.3)
    min_side: float = setting(1e-3, ge=0)         # px (TV); smaller proposals are dropped; D2 keeps every side above 0
    smooth_l1_beta: float = setting(0.0, ge=0)    # dialect: 0 is L1 (D2), 1/9 (TV and Detectron)
    # dialect, N images: batch_per_image x N (D2); sampled anchors (TV); for the box loss, cells x N (Faster eq. 1)
    loss_normalizer: str = choice(['batch', 'sampled', 'locations'])
    box_loss_weight: float = setting(1.0, gt=0)   # lambda of Faster eq. 1; 10 with `locations`
    classifier: str = choice(['sigmoid', 'softmax'])  # of objectness; softmax: over two classes (Faster 3.1)
    # negatives with more than this of their area in a crowd are ignored; 1: none
    crowd_iof: float = setting(0.7, ge=0, le=1)


@dataclass
class RoIConfig:
    """Sampling of RoIs for training (Fast 2.3) and RoIAlign (Mask 3)."""
    positive_iou: float = setting(0.5, ge=0, le=1)  # RoIs of at least this IoU are positive (Fast 2.3)
    # RoIs of less than this IoU are negative, those between it and positive_iou are ignored; null: positive_iou
    negative_iou: float | None = setting(None, ge=0, le=1)
    background_iou: float = setting(0.0, ge=0, le=1)  # RoIs below it are ignored; 0.1 in Fast 2.3
    batch_per_image: int = setting(512, ge=1)     # RoIs sampled per image
    sampling: str = choice(['random', 'ohem'])    # random, or ohem: the RoIs of greatest loss (OHEM)
    ohem_nms_iou: float = setting(0.7, ge=0, le=1)  # of RoIs that overlap by more, only the hardest is used (OHEM 3.2)
    positive_fraction: float = setting(0.25, ge=0, le=1)  # largest fraction of positives, with random sampling
    # negatives with more than this of their area in a crowd are ignored; 1: none
    crowd_iof: float = setting(0.7, ge=0, le=1)
    aligned: bool = True                          # dialect of RoIAlign: with a half-pixel shift (D2) or without (TV)
    layer: str = choice(['align', 'warp', 'pool'])  # Mask table 2c: RoIAlign, RoIWarp, RoIPool (Fast 2.1)
    aggregate: str = choice(['average', 'max'])   # how the samples in a bin are combined; RoIPool needs max
    sampling_ratio: int = setting(0, ge=0)        # dialect: samples per bin and axis: 0 for ceil(bin side) (D2), 2 (TV)
    canonical_size: float = setting(224.0, gt=0)  # px; RoIs of this size use canonical_level (FPN eq. 1)
    canonical_level: int = setting(4, ge=2, le=5)  # k0 of FPN eq. 1; 4 is P4


@dataclass
class BoxHeadConfig:
    """The box head: fully connected layers, K + 1 class scores, K box regressions (Fast 2; FPN 4.2)."""
    pool_size: int = setting(7, ge=1)             # cells per side of a RoI; 14 with maps: c4, whose res5 halves it
    convolutions: int = setting(0, ge=0)  # 3x3 convolutions before the fully connected layers; 4 in TV's second recipe
    convolution_width: int = setting(256, ge=1)   # channels of each convolution
    norm: str = choice(['none', 'frozen', 'batch', 'sync', 'group'])  # normalization of the convolutions
    fully_connected: int = setting(2, ge=0)       # number of layers; 0: global average pooling (maps: c4)
    width: int = setting(1024, ge=1)              # units of each fully connected layer
    dropout: float = setting(0.0, ge=0, lt=1)     # rate after each fully connected layer; 0.5 with VGG-16 (Fast)
    box_weights: list[float] = setting([10.0, 10.0, 5.0, 5.0], gt=0, rule=FOUR)  # factors of dy, dx, dh, dw
    class_agnostic: bool = False                  # one box for all classes instead of one per class
    smooth_l1_beta: float = setting(0.0, ge=0)    # dialect: 0 is L1 (D2), 1 (Fast), 1/9 (TV)


@dataclass
class CascadeConfig:
    """The box heads after the first one in Cascade R-CNN (1712.00726); each refines the boxes of the previous head.

    Both lists have one entry per additional head; empty lists give a model without a cascade.
    """
    positive_iou: list[float] = setting([], ge=0, le=1)  # RoIs below it are background; published: 0.6, 0.7
    box_weights: list[list[float]] = setting([], gt=0)  # published: [20, 20, 10, 10], [30, 30, 15, 15]


@dataclass
class MaskHeadConfig:
    """The mask head: 3x3 convolutions, a transposed convolution, a 1x1 convolution (Mask fig. 4)."""
    pool_size: int = setting(14, ge=1)            # cells per side of a RoI
    convolutions: int = setting(4, ge=0)          # number of 3x3 convolutions; 0 with maps: c4
    norm: str = choice(['none', 'frozen', 'batch', 'sync', 'group'])  # normalization of the convolutions
    width: int = setting(256, ge=1)               # channels of each convolution
    class_agnostic: bool = False                  # one mask for all classes instead of one per class
    classifier: str = choice(['sigmoid', 'softmax'])  # Mask table 2b: independent masks per class, or a softmax
    binary_targets: bool = True                   # dialect: targets thresholded at 0.5 (D2), or fractions (TV)


@dataclass
class DetectionConfig:
    """From predictions to detections in inference (Mask 3.1)."""
    score_threshold: float = setting(0.05, ge=0, le=1)  # detections with lower scores are dropped
    nms_iou: float = setting(0.5, ge=0, le=1)     # NMS drops a box that overlaps a better one of its class by more
    refinements: int = setting(0, ge=0)  # times that the box head is applied to its own boxes (1512.03385, app. B: 1)
    # average each box with those that overlap it by more (1505.01749); null: off
    box_voting_iou: float | None = setting(None, ge=0, le=1)
    max_detections: int = setting(100, ge=1)      # detections per image, the best first
    min_side: float = setting(1e-2, ge=0)         # px (TV); smaller boxes are dropped; D2 keeps every side above 0
    pre_nms: int = setting(2000, ge=1)            # (box, class) candidates that enter NMS with the 'xla' engine
    paste: str = choice(['pixel_center', 'detectron'])  # dialect of mask pasting: D2 and MMDetection; Detectron and TV


@dataclass
class ModelConfig:
    """The detector.

    Example:
        >>> import mrcnn_tf as m
        >>> m.ModelConfig(num_classes=3).backbone.name
        'resnet50'
    """
    # fast_rcnn: proposals come from the records; rpn: proposals only, without roi, heads and detections
    kind: str = choice(['mask_rcnn', 'faster_rcnn', 'fast_rcnn', 'rpn'])
    num_classes: int = setting(80, ge=1)          # number of classes, K, without background
    channel_order: str = choice(['bgr', 'rgb'])   # dialect: order of colors that the weights were trained with
    # subtracted, in channel_order, from pixels in 0..255
    pixel_mean: list[float] = setting([103.53, 116.28, 123.675], rule=THREE)
    pixel_std: list[float] = setting([1.0, 1.0, 1.0], gt=0, rule=THREE)  # divides after the mean is subtracted
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

    @property
    def norms(self) -> tuple[str, ...]:
        """Return the kinds of normalization of backbone, FPN and heads."""
        return self.backbone.norm, self.backbone.fpn_norm, self.box_head.norm, self.mask_head.norm


@dataclass
class SolverConfig:
    """The optimizer and its schedule, in steps of `reference_batch` images."""
    # sgd: SGD with momentum; sgdw, adamw: with decoupled weight decay (1711.05101); lamb (1904.00962) and lars
    # (1708.03888): with a rate for each layer, for large batches
    optimizer: str = choice(['sgd', 'sgdw', 'adamw', 'lamb', 'lars'])
    learning_rate: float = setting(0.02, gt=0)    # after the warm-up
    momentum: float = setting(0.9, ge=0, le=1)    # of sgd, sgdw and lars
    # sgd, lars: added to the gradient; sgdw, adamw: decoupled; lamb: added to the update
    weight_decay: float = setting(1e-4, ge=0)
    trust_coefficient: float = setting(0.001, gt=0)  # of lars, eta in the paper
    lookahead_steps: int = setting(0, ge=0)       # Lookahead (1907.08610): steps between moves of slow weights; 0: off
    lookahead_rate: float = setting(0.5, gt=0, le=1)  # the fraction of the way that the slow weights move
    # of the exponential moving average of the weights, which evaluation and export then use; such as 0.9998; 0: off
    ema_decay: float = setting(0.0, ge=0, lt=1)
    decay_biases: bool = False                    # dialect: D2 True; normalization parameters are never decayed
    steps: int = setting(90000, ge=1)             # length of the training
    # length instead of steps; milestones given with it are epochs, others keep their place in proportion to the length
    epochs: int | None = setting(None, ge=1)
    # step: by milestones and gamma; cosine: from learning_rate to 0 over all steps (1608.03983)
    schedule: str = choice(['step', 'cosine', 'constant'])
    # steps at which the learning rate is multiplied by gamma
    milestones: list[int] = setting([60000, 80000], ge=1, rule=ASCENDING)
    gamma: float = setting(0.1, gt=0)             # factor of the learning rate at each milestone
    warmup_steps: int = setting(1000, ge=0)       # steps in which the learning rate rises linearly; 0: none
    warmup_factor: float = setting(0.001, ge=0, le=1)  # factor of the learning rate at step 0
    reference_batch: int = setting(16, ge=1)      # the batch size for which this section is written
    # learning rate x r; steps, milestones, warm-up / r; ema_decay ^ r (2307.13813); r = batch / reference
    scale_with_batch: bool = True
    # largest global norm of the gradient, over all replicas; null: no clipping
    clip_norm: float | None = setting(None, gt=0)


@dataclass
class TrainConfig:
    """How the training steps are run."""
    seed: int = setting(0, ge=0)                  # of initial weights, order of the data, augmentation and sampling
    # of convolutions and matrix products; losses are float32. mixed_float16 scales the loss, and skips steps in which
    # gradients overflow
    precision: str = choice(['float32', 'mixed_bfloat16', 'mixed_float16'])
    # mirrored: all GPUs of the machine; multi_worker: several machines; auto: mirrored if several GPUs are visible
    strategy: str = choice(['auto', 'one_device', 'mirrored', 'multi_worker'])
    # where multi_worker finds the other workers: TF_CONFIG, Slurm, an Indexed Job of Kubernetes; auto: the first found
    cluster: str = choice(['auto', 'tf_config', 'slurm', 'kubernetes'])
    timeout: float = setting(120.0, gt=0)         # s; multi_worker stops if a worker does not answer or proceed
    # where batches are computed. local: in the process that trains; service: on the machines of input_servers
    input: str = choice(['local', 'service'])
    # host:port of each `mrcnn input-server`; their number does not change the batches
    input_servers: list[str] = setting([], rule=ADDRESSES)
    jit_compile: str = choice(['auto', 'on', 'off'])  # compile the step with XLA; auto: on where a GPU is visible
    # parts of a replica's images that are computed one after the other, to save memory; the batch is not larger. They
    # cost a second forward pass of backbone and RPN
    accumulation_steps: int = setting(1, ge=1)
    # compute the trained stages of the backbone again for the gradient instead of keeping their results (1604.06174):
    # less memory, more arithmetic
    recompute: bool = False
    deterministic: bool = False                   # call tf.config.experimental.enable_op_determinism
    checkpoint_every: int = setting(1000, ge=1)   # steps between checkpoints; evaluations write one too
    keep_checkpoints: int = setting(3, ge=1)      # number of newest checkpoints to keep; the best one is kept too
    log_every: int = setting(20, ge=1)            # steps between lines of the log
    # where numbers and pictures go besides the log: tensorboard; wandb, Weights & Biases; mlflow (the last two: extras)
    loggers: list[str] = setting(['tensorboard'], rule=LOGGERS)
    # steps between evaluations on data.validation; null: a tenth of the run; 0: never
    evaluate_every: int | None = setting(None, ge=0)
    # images of these evaluations, spread over data.validation; null: all
    evaluate_images: int | None = setting(None, ge=1)
    # says which checkpoint is the best: the highest of a metric, such as bbox/AP50 or segm/AP/NAME of a class, or the
    # lowest val_loss; null: the first of segm/AP, bbox/AP and, for an rpn, recall/AR@1000
    best_metric: str | None = None
    patience: int = setting(0, ge=0)              # stop after as many evaluations without a new best one; 0: never
    # stop after as many steps in a row without a positive anchor or RoI; 0: never
    stop_without_positives: int = setting(500, ge=0)


@dataclass
class AlternatingConfig:
    """Four-step alternating training of Faster R-CNN (3.2): `mrcnn train-alternating`."""
    steps: int = setting(4, ge=1, le=4)           # 2: an RPN and a Fast R-CNN without shared layers (RPN* of table 6)
    rpn: list[str] = setting([])  # KEY=VALUE settings that replace those of the other sections in steps 1 and 3
    fast_rcnn: list[str] = setting([])            # the same for steps 2 and 4


@dataclass
class Config:
    """All settings of one model: `mrcnn train` reads them and saves them beside the weights as config.yaml.

    Example:
        >>> import mrcnn_tf as m
        >>> config = m.Config()
        >>> config.data.batch_size = 4
        >>> config.model.roi.layer
        'align'
    """
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    alternating: AlternatingConfig = field(default_factory=AlternatingConfig)

"""torchvision's cases as our model sees them: configs, weights, batches; layouts and box order turned here.

n images of a case; h, w of an image; H, W of the canvas. The reference's boxes are x1, y1, x2, y2, its maps N, C, H, W.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from mrcnn_tf.config import ModelConfig, load
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.weights import torchvision
from tests.parity.kit import Kit, KitError

Change = Callable[[ModelConfig], None]

# torchvision's names of settings -> ours.
FIELDS = {
    'rpn_pre_nms_top_n_train': 'rpn.pre_nms_train', 'rpn_pre_nms_top_n_test': 'rpn.pre_nms_test',
    'rpn_post_nms_top_n_train': 'rpn.post_nms_train', 'rpn_post_nms_top_n_test': 'rpn.post_nms_test',
    'rpn_nms_thresh': 'rpn.nms_iou', 'rpn_fg_iou_thresh': 'rpn.positive_iou', 'rpn_bg_iou_thresh': 'rpn.negative_iou',
    'rpn_batch_size_per_image': 'rpn.batch_per_image', 'rpn_positive_fraction': 'rpn.positive_fraction',
    'box_score_thresh': 'detections.score_threshold', 'box_nms_thresh': 'detections.nms_iou',
    'box_detections_per_img': 'detections.max_detections', 'box_fg_iou_thresh': 'roi.positive_iou',
    'box_bg_iou_thresh': 'roi.negative_iou', 'box_batch_size_per_image': 'roi.batch_per_image',
    'box_positive_fraction': 'roi.positive_fraction'}


@contextlib.contextmanager
def zeros() -> Iterator[None]:
    """A context that makes variables of zeros. TensorFlow would keep the memory of random numbers, 1.1 GB for a DC5."""
    def call(self: Any, shape: Any, dtype: Any = None, **rest: Any) -> tf.Tensor:
        return tf.zeros(shape, dtype or 'float32')

    with mock.patch.object(keras.initializers.VarianceScaling, '__call__', call), \
            mock.patch.object(keras.initializers.RandomNormal, '__call__', call):
        yield


class Case:
    """One file of the kit, checked against its manifest."""

    def __init__(self, kit: Kit, name: str) -> None:
        self.kit, self.name, self.arrays = kit, name, kit.arrays(name)
        self.config: dict[str, Any] = json.loads(str(self.arrays['config']))
        self.arch: str = self.config['arch']
        self.images = self._images()
        self.count = len(self.images)

    def _images(self) -> list[np.ndarray]:
        """The pixels that the model sees, RGB uint8 [h, w, 3]."""
        images = [self.arrays[f'image_{i}'] for i in range(int(self.arrays['image_count']))]
        for i, image in enumerate(images):
            if min(image.shape[:2]) != self.config['settings'].get('min_size', min(image.shape[:2])):
                raise KitError(f'{self.name}: image_{i} would be resized; the short side of an image equals min_size')
        return images

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def limit(self, key: str) -> float:
        return self.kit.limit(key, self.name)

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.kit.state_dict(self.arch, self.config.get('scale'))

    def model(self, engine: str, change: Change = lambda config: None) -> Detector:
        """Our model with the case's settings, which `change` may still alter, and weights."""
        config = self.settings()
        change(config)
        with zeros():
            model = build_detector(config, engine)
        torchvision.load_state_dict(model, self.state_dict())
        return model

    def settings(self) -> ModelConfig:
        """The config that `mrcnn import-weights` would take for these weights, then what the case sets.

        Raises:
            KitError: a setting without a counterpart here.
        """
        name, changes = torchvision.settings(self.state_dict())
        config = load(name, changes).model
        config.backbone.norm_epsilon = 1e-5               # the kit's; the config has that of the published weights
        config.backbone.frozen_stages = 5 - self.config.get('trainable_layers', 3)
        settings = {name: value for name, value in self.config['settings'].items()
                    if name not in ('min_size', 'max_size')}
        for name, value in settings.items():
            if name not in FIELDS:
                raise KitError(f'{self.name}: {name} has no counterpart here')
            section, field = FIELDS[name].split('.')
            setattr(getattr(config, section), field, value)
        # Of the 'xla' engine: candidates that enter the last suppression, twenty a detection, as by default.
        config.detections.pre_nms = max(config.detections.pre_nms, 20 * config.detections.max_detections)
        return config

    @property
    def canvas(self) -> tuple[int, int]:
        """H, W."""
        multiple = self.pad_multiple
        height, width = (-(-max(image.shape[axis] for image in self.images) // multiple) * multiple for axis in (0, 1))
        return height, width

    @property
    def pad_multiple(self) -> int:
        """What divides the sides of the canvas."""
        return 32

    def sizes(self) -> np.ndarray:
        """float32 [n, 2]."""
        return np.array([image.shape[:2] for image in self.images], np.float32)

    def stacked(self, name: str) -> np.ndarray:
        """`name`_0, `name`_1, ... as one array, the shorter ones filled with zeros."""
        parts = [self[f'{name}_{i}'] for i in range(self.count)]
        out = np.zeros([self.count, max(map(len, parts)), *parts[0].shape[1:]], parts[0].dtype)
        for row, part in zip(out, parts, strict=True):
            row[:len(part)] = part
        return out

    def filled(self, name: str) -> np.ndarray:
        """Which entries of `stacked` are stored ones: bool [n, most]."""
        counts = np.array([len(self[f'{name}_{i}']) for i in range(self.count)])
        return np.arange(counts.max()) < counts[:, None]

    def batch(self) -> dict[str, tf.Tensor]:
        """Images on one canvas; ground truth with masks over the whole image where the case has it."""
        images = np.zeros([self.count, *self.canvas, 3], np.float32)
        for canvas, image in zip(images, self.images, strict=True):
            canvas[:image.shape[0], :image.shape[1]] = image
        batch = {'images': images, 'sizes': self.sizes(), 'image_ids': np.arange(self.count)}
        if 'gt_boxes_0' in self:
            batch.update(self._ground_truth())
        return {name: tf.constant(value) for name, value in batch.items()}

    def _ground_truth(self) -> dict[str, np.ndarray]:
        slots = 1 + max(len(self[f'gt_boxes_{i}']) for i in range(self.count))       # one is always padding
        truth = {'boxes': np.zeros([self.count, slots, 4], np.float32),
                 'labels': np.zeros([self.count, slots], np.int32),
                 'crowd': np.zeros([self.count, slots], bool), 'valid': np.zeros([self.count, slots], bool),
                 'masks': np.zeros([self.count, slots, *self.canvas], np.uint8),
                 'mask_boxes': np.tile(np.float32([0, 0, *self.canvas]), [self.count, slots, 1])}
        for i, image in enumerate(self.images):
            boxes = self[f'gt_boxes_{i}']
            truth['boxes'][i, :len(boxes)] = yx(boxes)
            truth['labels'][i, :len(boxes)] = self[f'gt_labels_{i}']
            truth['valid'][i, :len(boxes)] = True
            height, width = image.shape[:2]
            # The references' masks end at the image, beyond which RoIAlign reads the last row or column.
            beyond = [(0, 0), (0, self.canvas[0] - height), (0, self.canvas[1] - width)]
            masks = np.pad(unpack(self[f'gt_mask_bits_{i}'], height, width), beyond, mode='edge')
            truth['masks'][i, :len(boxes)] = 255 * masks
        return truth


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a stage lies from the reference, and how far it may."""
    stage: str
    size: float
    limit: float

    @property
    def held(self) -> bool:
        return bool(self.size <= self.limit)     # NaN is not

    def __str__(self) -> str:
        return f'{self.stage} differs by {self.size:.3g}, at most {self.limit:.3g} is allowed'


def farthest(ours: Any, theirs: Any) -> float:
    """Largest absolute difference, in float64; infinite between arrays of different shape."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return np.inf
    return float(np.abs(ours - theirs).max(initial=0.))


def yx(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 <-> y1, x1, y2, x2, and deltas alike."""
    return boxes[..., [1, 0, 3, 2]]


def unpack(bits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Packed masks -> uint8 [n, h, w], 0 or 1."""
    return np.unpackbits(bits, axis=1)[:, :height * width].reshape(-1, height, width)

"""The reference's cases as our model sees them: configs, weights, batches; layouts and box order turned here."""
from __future__ import annotations

import importlib.util
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_tf.config import ModelConfig
from mrcnn_tf.model import FasterRCNN, build_model
from mrcnn_tf.weights.torchvision import load_state_dict

CLASSES = {'maskrcnn_resnet18_fpn': 5, 'maskrcnn_resnet50_fpn': 91}
FIELDS = {'rpn_pre_nms_top_n_train': 'rpn.pre_nms_train', 'rpn_pre_nms_top_n_test': 'rpn.pre_nms_test',
          'rpn_post_nms_top_n_train': 'rpn.post_nms_train', 'rpn_post_nms_top_n_test': 'rpn.post_nms_test',
          'rpn_batch_size_per_image': 'rpn.batch_per_image', 'box_batch_size_per_image': 'roi.batch_per_image',
          'box_score_thresh': 'detections.score_threshold', 'box_detections_per_img': 'detections.max_detections',
          'box_nms_thresh': 'detections.nms_iou', 'rpn_nms_thresh': 'rpn.nms_iou'}


class Case:
    """One file of the kit."""

    def __init__(self, path: pathlib.Path) -> None:
        with np.load(path) as arrays:
            self.arrays = dict(arrays)
        self.config: dict[str, Any] = json.loads(str(self.arrays['config']))
        self.folder, self.count = path.parent, int(self.arrays['image_count'])
        self.images = [self.arrays[f'image_{i}'] for i in range(self.count)]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def model(self, engine: str) -> FasterRCNN:
        """Our model with the case's settings and weights."""
        model = build_model(self._settings(), engine)
        load_state_dict(model, self.state_dict())
        return model

    def state_dict(self) -> dict[str, np.ndarray]:
        """The reference's weights by its names."""
        spec = importlib.util.spec_from_file_location('kit_weights', self.folder / 'weights.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.state_dict(self.config['arch'], scale=self.config.get('scale'))

    def _settings(self) -> ModelConfig:
        arch = self.config['arch']
        config = ModelConfig(num_classes=CLASSES[arch] - 1, channel_order='rgb',
                             pixel_mean=[255 * m for m in (.485, .456, .406)],
                             pixel_std=[255 * s for s in (.229, .224, .225)])
        config.backbone.name = arch.split('_')[1]
        config.backbone.stride_in_1x1 = False
        config.backbone.frozen_stages = 5 - self.config.get('trainable_layers', 3)
        config.anchors.rounded, config.roi.aligned, config.roi.sampling_ratio = True, False, 2
        config.rpn.smooth_l1_beta = config.box_head.smooth_l1_beta = 1 / 9
        config.rpn.loss_normalizer, config.mask_head.binary_targets = 'sampled', False
        config.rpn.post_nms_train, config.rpn.crowd_iof, config.roi.crowd_iof = 2000, 1., 1.
        for name, value in self.config['settings'].items():
            if name in FIELDS:
                section, field = FIELDS[name].split('.')
                setattr(getattr(config, section), field, value)
            elif name not in ('min_size', 'max_size'):
                raise ValueError(f'{name} of the kit has no counterpart here')
        return config

    def batch(self) -> dict[str, tf.Tensor]:
        """Images on one canvas; ground truth with masks over the whole image where the case has it."""
        sizes = np.array([image.shape[:2] for image in self.images])
        height, width = -(-sizes.max(0) // 32) * 32
        images = np.zeros([self.count, height, width, 3], np.float32)
        for canvas, image in zip(images, self.images, strict=True):
            canvas[:image.shape[0], :image.shape[1]] = image
        batch = {'images': images, 'sizes': sizes.astype(np.float32), 'image_ids': np.arange(self.count)}
        if 'gt_boxes_0' in self.arrays:
            batch.update(self._ground_truth(height, width))
        return {name: tf.constant(value) for name, value in batch.items()}

    def _ground_truth(self, height: int, width: int) -> dict[str, np.ndarray]:
        slots = 1 + max(len(self[f'gt_boxes_{i}']) for i in range(self.count))       # one is always padding
        truth = {'boxes': np.zeros([self.count, slots, 4], np.float32),
                 'labels': np.zeros([self.count, slots], np.int32),
                 'crowd': np.zeros([self.count, slots], bool), 'valid': np.zeros([self.count, slots], bool),
                 'masks': np.zeros([self.count, slots, height, width], np.uint8),
                 'mask_boxes': np.tile(np.float32([0, 0, height, width]), [self.count, slots, 1])}
        for i, image in enumerate(self.images):
            h, w = image.shape[:2]
            boxes = self[f'gt_boxes_{i}']
            bits = np.unpackbits(self[f'gt_mask_bits_{i}'], axis=1)[:, :h * w].reshape(-1, h, w)
            truth['boxes'][i, :len(boxes)] = boxes[:, [1, 0, 3, 2]]
            truth['labels'][i, :len(boxes)] = self[f'gt_labels_{i}']
            truth['valid'][i, :len(boxes)] = True
            truth['masks'][i, :len(boxes), :h, :w] = 255 * bits
        return truth


def yx(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 <-> y1, x1, y2, x2."""
    return boxes[..., [1, 0, 3, 2]]

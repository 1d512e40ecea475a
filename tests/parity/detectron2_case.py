"""Detectron2's cases as our model sees them: the kit's weights through the importer, and the stored pixels.

Names of arrays are those that torchvision's cases have, so that both share the batch and its ground truth; labels count
from 1 and the background's score comes first, as ours do. An inference case holds one image.
"""
from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config, ModelConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.weights import detectron2
from tests.parity.kit import KitError
from tests.parity.reference import Case, Change, zeros

# Detectron2's names of settings -> ours.
FIELDS = {'MODEL.RPN.POST_NMS_TOPK_TEST': 'rpn.post_nms_test', 'MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE':
          'roi.batch_per_image'}


class Detectron2Case(Case):
    """One file of the kit, checked against its manifest."""

    def _images(self) -> list[np.ndarray]:
        for name in [name for name in self.arrays if name.startswith(('gt_classes_', 'roi_classes_', 'det_classes'))]:
            labels = self.arrays[name] + 1
            self.arrays[name.replace('classes', 'labels')] = np.where(labels > 80, 0, labels)
        keys = self.config.get('resized_keys') or [self.config['resized_key']]
        pixels = self.kit.arrays('images')
        return [np.ascontiguousarray(pixels[key][..., ::-1]) for key in keys]

    def model(self, engine: str, change: Change = lambda config: None) -> Detector:
        """Our model with the case's settings, which `change` may still alter, and the kit's weights."""
        config = self.settings()
        change(config)
        with zeros():
            model = build_detector(config, engine)
        detectron2.load_state_dict(model, self.state_dict())
        return model

    def settings(self) -> ModelConfig:
        """Return the `model` section of `config`."""
        return self.whole_config.model

    @property
    def whole_config(self) -> Config:
        """The config that `mrcnn import-weights` takes for these weights, then what the case sets.

        Raises:
            KitError: a setting without a counterpart here.
        """
        name, changes = self._imported
        return configuration.load(name, [*changes, *self.overrides])

    @property
    def overrides(self) -> list[str]:
        """The case's settings as overrides of a config."""
        if unknown := set(self.config['settings']) - set(FIELDS):
            raise KitError(f'{self.name}: {min(unknown)} has no counterpart here')
        return [f'model.{FIELDS[name]}={value}' for name, value in self.config['settings'].items()]

    @functools.cached_property
    def _imported(self) -> tuple[str, list[str]]:
        return detectron2.settings(self.state_dict())

    @property
    def pad_multiple(self) -> int:
        return self.whole_config.data.pad_multiple

    def limit_of_loss(self, name: str, value: float) -> float:
        """Ten times the noise, or ten times four steps of float32 where the kit measured less: it measured 0 for one
        loss, which is a mean of thousands of terms that are added up in some order."""
        noise: dict[str, Any] = self.kit.tolerances.get(self.name, {}).get('loss_noise', {})
        return 10 * max(noise.get(name, 0.), 2. ** -21 * abs(value))

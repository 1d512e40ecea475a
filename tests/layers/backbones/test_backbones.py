"""Adding a backbone takes one file and one line: this is the file, `BACKBONES` gets the line."""
from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf import config as configuration
from mrcnn_tf.config import BackboneConfig, Config
from mrcnn_tf.config.backbones import BACKBONES, Backbone
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.layers.normalization import ConvNorm, Norm
from tests.test_configs import batch_of_one, reduced

OVERRIDES = {
    'fpn': [], 'tdm': ['model.anchors.sizes=[[16, 32]]'],
    'c4': ['model.anchors.sizes=[[16, 32]]', 'model.box_head.pool_size=4', 'model.mask_head.pool_size=4']}


class Toy(keras.layers.Layer):
    """A convolution for each stride, each halving."""

    def __init__(self, config: BackboneConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strides = (4, 8, 16) if config.maps == 'c4' else (4, 8, 16, 32)
        self.convs = [ConvNorm(Norm.of(config), stride, 3, 4 if stride == 4 else 2, name=f'conv{stride}')
                      for stride in self.strides]
        self.channels = self.strides[-1]

    def call(self, x: tf.Tensor, training: bool = False) -> dict[int, tf.Tensor]:
        maps = {}
        for stride, conv in zip(self.strides, self.convs, strict=True):
            maps[stride] = x = conv(x, training=training)
        return maps

    @staticmethod
    def last_stage(config: BackboneConfig) -> list[ConvNorm]:
        return [ConvNorm(Norm.of(config), 32, 3, 2, name='conv32')]


@pytest.fixture(autouse=True)
def _line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, 'toy', Backbone(f'{__name__}.Toy', tuple(OVERRIDES)))


@pytest.mark.parametrize('maps', OVERRIDES)
def test_a_new_backbone_trains_with_every_neck_and_head(maps: str) -> None:
    keras.utils.set_random_seed(0)
    config = reduced(configuration.load('base', [
        'model.backbone.name=toy', f'model.backbone.maps={maps}', 'model.backbone.norm=batch', *OVERRIDES[maps]]))
    model, batch = build_detector(config.model), batch_of_one(config.model.num_classes)
    losses = model.losses(batch, tf.constant([0, 0]))
    assert len(losses) == 5 and np.isfinite(list(losses.values())).all()
    assert model(batch)['masks'].shape[:2] == [1, 3]


def test_unsupported_feature_maps_are_refused() -> None:
    config = Config()
    config.model.backbone = BackboneConfig(name='toy', maps='c5')
    with pytest.raises(configuration.ConfigError, match='maps is c5: expected fpn or tdm or c4 with .*name=toy'):
        configuration.validate(config)
    with pytest.raises(configuration.ConfigError, match="name is 'toi'; did you mean toy"):
        configuration.load('base', ['model.backbone.name=toi'])

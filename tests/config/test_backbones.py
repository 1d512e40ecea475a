"""The table of backbones. `tests/layers/backbones/test_backbones.py` builds them."""
from __future__ import annotations

import importlib
import subprocess
import sys

import keras
import pytest

from mrcnn_tf.config import BackboneConfig
from mrcnn_tf.config.backbones import BACKBONES
from tests.paths import ROOT


@pytest.mark.parametrize('name', BACKBONES)
def test_the_layer_of_every_backbone_exists(name: str) -> None:
    module, _, layer = BACKBONES[name].layer.rpartition('.')
    assert issubclass(getattr(importlib.import_module(module), layer), keras.layers.Layer)


def test_resnet50_is_the_default() -> None:
    assert BackboneConfig().name == 'resnet50'


def test_a_config_is_checked_without_tensorflow() -> None:
    code = 'import sys; from mrcnn_tf import config; config.load("base"); print("tensorflow" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'

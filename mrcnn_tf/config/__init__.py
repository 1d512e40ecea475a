"""Settings: `schema.py` lists them with their limits, `checking.py` their relations; `loading.py` reads YAML files.

The names of `loading.py` are imported on first use: OmegaConf would double the time of `mrcnn --help`.
"""
import importlib
from typing import TYPE_CHECKING, Any

from mrcnn_tf.config.checking import validate
from mrcnn_tf.config.fields import ConfigError
from mrcnn_tf.config.recipes import Summary, packaged, summaries
from mrcnn_tf.config.schema import (
    AlternatingConfig,
    AnchorConfig,
    BackboneConfig,
    BoxHeadConfig,
    CascadeConfig,
    Config,
    DataConfig,
    DetectionConfig,
    MaskHeadConfig,
    ModelConfig,
    RoIConfig,
    RPNConfig,
    SolverConfig,
    TrainConfig,
)

if TYPE_CHECKING:
    from mrcnn_tf.config.loading import changed, chosen, load, model_config, own_settings, save

__all__ = [
    'AlternatingConfig', 'AnchorConfig', 'BackboneConfig', 'BoxHeadConfig', 'CascadeConfig', 'Config', 'ConfigError',
    'DataConfig', 'DetectionConfig', 'MaskHeadConfig', 'ModelConfig', 'RPNConfig', 'RoIConfig', 'SolverConfig',
    'Summary', 'TrainConfig', 'changed', 'chosen', 'load', 'model_config', 'own_settings', 'packaged', 'save',
    'summaries', 'validate',
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.loading'), name)

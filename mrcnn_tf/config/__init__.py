"""Settings: `schema.py` lists them with their limits, `checking.py` their relations; `loading.py` reads YAML files."""
from mrcnn_tf.config.checking import validate
from mrcnn_tf.config.fields import ConfigError
from mrcnn_tf.config.loading import changed, chosen, load, model_config, own_settings, save
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

__all__ = [
    'AlternatingConfig', 'AnchorConfig', 'BackboneConfig', 'BoxHeadConfig', 'CascadeConfig', 'Config', 'ConfigError',
    'DataConfig', 'DetectionConfig', 'MaskHeadConfig', 'ModelConfig', 'RPNConfig', 'RoIConfig', 'SolverConfig',
    'Summary', 'TrainConfig', 'changed', 'chosen', 'load', 'model_config', 'own_settings', 'packaged', 'save',
    'summaries', 'validate',
]

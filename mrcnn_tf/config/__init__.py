"""Settings: `schema.py` is what there is, `checking.py` what fits together, `loading.py` reads and writes them."""
from mrcnn_tf.config.checking import validate
from mrcnn_tf.config.loading import changed, load, packaged, save
from mrcnn_tf.config.schema import (
    AlternatingConfig,
    AnchorConfig,
    BackboneConfig,
    BoxHeadConfig,
    CascadeConfig,
    Config,
    ConfigError,
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
    'TrainConfig', 'changed', 'load', 'packaged', 'save', 'validate',
]

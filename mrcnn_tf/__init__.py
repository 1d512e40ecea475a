"""Fast, Faster and Mask R-CNN for TensorFlow and Keras.

Import it as `import mrcnn_tf as m`. The names below are imported on first use, so the import itself does not load
TensorFlow.
"""
from __future__ import annotations

import importlib
import os
from typing import Any

__version__ = '0.1.0'

# The public names, and where each is defined in this package: an attribute of a module, or a module.
_EXPORTS = {
    # settings
    'Config': 'config.Config', 'ModelConfig': 'config.ModelConfig', 'load_config': 'config.load',
    # data
    'Manifest': 'input.manifest.Manifest', 'evaluation_dataset': 'input.dataset.evaluation_dataset',
    'ground_truth': 'input.ground_truth.ground_truth', 'training_dataset': 'input.dataset.training_dataset',
    'transforms': 'input.transforms',
    # layers
    'AnchorGenerator': 'layers.anchors.AnchorGenerator', 'BoxHead': 'layers.heads.BoxHead',
    'MaskHead': 'layers.heads.MaskHead', 'ProposalLayer': 'layers.proposals.ProposalLayer',
    'RPNHead': 'layers.heads.RPNHead', 'RoIAlign': 'layers.roi.RoIAlign', 'RoIPool': 'layers.roi.RoIPool',
    'RoIWarp': 'layers.roi.RoIWarp',
    # pure functions
    'boxes': 'ops.boxes', 'losses': 'ops.losses', 'nms': 'ops.boxes.nms', 'paste': 'ops.paste',
    # detectors
    'Branch': 'detectors.branch.Branch', 'Detector': 'detectors.detector.Detector', 'RoIs': 'detectors.branch.RoIs',
    'build_detector': 'detectors.detector.build_detector', 'Instances': 'detectors.instances.Instances',
    # from a detector to a model directory, metrics and an exported model, and back
    'evaluate': 'evaluation.run.evaluate', 'evaluate_detector': 'evaluation.run.evaluate_detector',
    'evaluate_results': 'evaluation.results.evaluate_results',
    'import_weights': 'weights.importing.import_file',
    'export': 'serving.export.export', 'export_detector': 'serving.export.export_detector',
    'export_file': 'serving.export_file.export_file', 'ExportOptions': 'serving.export.ExportOptions',
    'DetectorPredictor': 'serving.predictor.DetectorPredictor', 'Prediction': 'serving.prediction.Prediction',
    'load_detector': 'weights.model_directory.restore_model', 'load_predictor': 'serving.predictor.load_predictor',
    'save_detector': 'weights.model_directory.save_detector', 'train': 'cli.train.run',
}

__all__ = ['__version__', *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    # TensorFlow reads this when it is imported. It warns of its own internals, such as "Error in PredictCost()".
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    module, _, attribute = _EXPORTS[name].rpartition('.')
    parent = importlib.import_module(f'{__name__}.{module}')
    value = getattr(parent, attribute, None)
    value = importlib.import_module(f'{__name__}.{module}.{attribute}') if value is None else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])

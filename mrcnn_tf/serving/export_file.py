"""Export of a model as one LiteRT or ONNX file, for images of a fixed size."""
from __future__ import annotations

import os
import pathlib

from mrcnn_tf import files
from mrcnn_tf.serving import fixed_size, formats, onnx_format
from mrcnn_tf.serving.export import describe, warn_of_views
from mrcnn_tf.serving.network import ExportError
from mrcnn_tf.weights.model_directory import restore_model


def export_file(model_dir: str | os.PathLike[str], output: str | os.PathLike[str], checkpoint: str | int = 'best',
                size: tuple[int, int] | None = None, quantize: str = 'none') -> pathlib.Path:
    """Write a trained model as a LiteRT file (`.tflite`) or an ONNX file (`.onnx`).

    The file has the network for images of one size; docs/serving.md lists its inputs and outputs. It also holds what
    `load_predictor` needs: the categories, the resize rule and the dialect of pasting.

    Args:
        model_dir: a model directory.
        output: the file, which is replaced; its suffix chooses the format.
        checkpoint: as `restore_model`.
        size: height and width of the canvas, multiples of 32; None: a square that holds every image at its size of
            evaluation.
        quantize: how weights are stored: 'none', 'float16' or 'int8'.

    Returns:
        The path of the file.

    Raises:
        CheckpointError, ConfigError, ManifestError: there is no model directory or no checkpoint, or a part is damaged.
        ExportError: another suffix, size or quantization; a fast_rcnn; the packages for ONNX are not installed.
        OSError: the disk is full, or no permission. Nothing is left then.

    Example:
        >>> import mrcnn_tf as m
        >>> str(m.export_file('runs/mine', 'served/mine.tflite'))    # doctest: +SKIP
        'served/mine.tflite'
    """
    path = pathlib.Path(output)
    if path.suffix not in formats.FORMATS:
        raise ExportError(f'{path}: the name of a file ends in {" or ".join(formats.FORMATS)}; rename it')
    if quantize not in fixed_size.QUANTIZED:
        raise ExportError(f'quantize is {quantize!r}; expected one of {", ".join(fixed_size.QUANTIZED)}')
    if path.suffix == '.onnx':
        onnx_format.converter()    # fails before the model is restored, which takes seconds
    model, config, categories = restore_model(model_dir, 'xla', checkpoint)
    warn_of_views(config.data, path)
    size = size or fixed_size.default_size(config.data)
    network = fixed_size.fixed_network(model, size, config.data.pad_multiple)
    description = {**describe(config, categories), 'size': size, 'resize': fixed_size.resize_rule(config.data)}
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(formats.FORMATS[path.suffix].convert(network, description, quantize))
    return path

"""`mrcnn export`."""
from __future__ import annotations

import enum
import pathlib
from typing import Annotated

import typer

from mrcnn_tf.cli.command import Checkpoint, command


class Format(str, enum.Enum):
    """The formats of `mrcnn export`."""
    saved_model = 'saved_model'
    tflite = 'tflite'
    onnx = 'onnx'


class Engine(str, enum.Enum):
    """The engines of RoIAlign and NMS."""
    op = 'op'
    xla = 'xla'


@command
def export(model_dir: Annotated[pathlib.Path, typer.Option(help='Model directory from `mrcnn train`.')],
           output: Annotated[pathlib.Path, typer.Option(
               help='Directory for all versions of the SavedModel; or the file to write, NAME.tflite or NAME.onnx.')],
           checkpoint: Checkpoint = 'best',
           format: Annotated[Format | None, typer.Option(
               help='saved_model: for TF Serving. tflite: LiteRT. onnx: needs the extra `onnx`. By default, the suffix '
                    'of --output decides.', show_default=False)] = None,
           size: Annotated[tuple[int, int] | None, typer.Option(
               metavar='H W', help='Files: height and width of the images, multiples of 32. By default a square that '
                                   'holds every image at its size of evaluation.', show_default=False)] = None,
           quantize: Annotated[str, typer.Option(
               help='Files: how weights are stored: none, float16 or int8.')] = 'none',
           masks: Annotated[str, typer.Option(
               help='SavedModel: form of the masks: float32, uint8, bits, png, rle or image_png.')] = 'float32',
           input_type: Annotated[str, typer.Option(
               help='SavedModel: input of the signature serving_default: image_bytes, image_tensor, tf_example.',
           )] = 'image_bytes',
           weights: Annotated[str, typer.Option(
               help='SavedModel: variables, or constants: faster on a CPU, but takes more memory.')] = 'variables',
           warmup: Annotated[str, typer.Option(
               help='SavedModel: signatures that a server asks when it starts: clients, those that clients of this '
                    'project and of the Object Detection API use; or all, which takes seconds for each.')] = 'clients',
           precision: Annotated[str, typer.Option(help='SavedModel: float32 or bfloat16.')] = 'float32',
           engine: Annotated[Engine | None, typer.Option(
               help="SavedModel: op: TensorFlow's kernels, the fastest on a CPU. xla: arithmetic of static shapes, for "
                    'servers that compile with XLA; takes twice as long on others. Files always have xla.',
               show_default='op')] = None) -> None:
    """Export a model as a SavedModel, a LiteRT file or an ONNX file.

    Writes a SavedModel to OUTPUT/1, OUTPUT/2, ... for TF Serving. It takes the bytes of JPEG and PNG files, pixels or
    tf.train.Examples, and needs neither this package nor its settings. A LiteRT or ONNX file has the network for
    images of one size. docs/serving.md lists the signatures and compares the forms of masks and the files.

    \b
    Example:
      mrcnn export --model-dir runs/nuclei --output saved_models/nuclei
      tensorflow_model_server --rest_api_port=8501 \\
        --model_name=nuclei --model_base_path=$PWD/saved_models/nuclei
      mrcnn export --model-dir runs/nuclei --output nuclei.tflite --size 512 512 --quantize float16
    """
    from mrcnn_tf.serving.export import ExportOptions
    from mrcnn_tf.serving.export import export as write
    from mrcnn_tf.serving.export_file import export_file
    from mrcnn_tf.serving.network import ExportError
    from mrcnn_tf.serving.server_kit import commands

    by_suffix = {f'.{each.value}': each for each in (Format.tflite, Format.onnx)}
    kind = format or by_suffix.get(output.suffix, Format.saved_model)
    options = ExportOptions(masks, input_type, weights, warmup)
    if kind is not by_suffix.get(output.suffix, Format.saved_model):
        expected = 'NAME of a directory' if kind is Format.saved_model else f'NAME.{kind.value}'
        raise ExportError(f'--output {output} does not fit --format {kind.value}; give --output {expected}')
    if kind is Format.saved_model:
        if size or quantize != 'none':
            raise ExportError('--size and --quantize are for files; give --output NAME.tflite or NAME.onnx')
        chosen = engine or Engine.op
        version = write(model_dir, output, checkpoint, options, precision, chosen.value)
        typer.echo(str(version))
        typer.echo(commands(version, chosen.value), err=True)
        return
    if engine is Engine.op:
        raise ExportError(f'--engine op has operations that a .{kind.value} file cannot hold; leave out --engine, or '
                          'give --output NAME of a directory for a SavedModel')
    if options != ExportOptions() or precision != 'float32':
        raise ExportError('--masks, --input-type, --weights, --warmup and --precision are for SavedModels; a file has '
                          'masks as float32, and --quantize makes it smaller')
    typer.echo(str(export_file(model_dir, output, checkpoint, size, quantize)))

"""`mrcnn predict`."""
from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mrcnn_tf.cli.command import Checkpoint, Precision, command
from mrcnn_tf.files.cores import one_operation_at_a_time
from mrcnn_tf.files.text import one_line

if TYPE_CHECKING:    # these import TensorFlow
    from mrcnn_tf.serving.coco_file import CocoFile
    from mrcnn_tf.serving.predictor import Predictor


@command
def predict(images: Annotated[list[pathlib.Path], typer.Argument(
                metavar='IMAGE', help="JPEG or PNG files, videos, directories of images, patterns such as "
                                      "'photos/**/*.jpg', or a .txt file with one path per line.")],
            output: Annotated[pathlib.Path, typer.Option(
                help="Directory for the results; or NAME.json, one file in COCO's format.")],
            model: Annotated[pathlib.Path | None, typer.Option(
                help='Model directory from `mrcnn train`, or SavedModel, .tflite or .onnx file from '
                     '`mrcnn export`.')] = None,
            server: Annotated[str | None, typer.Option(
                metavar='ADDRESS', help='Instead of --model: a model in TensorFlow Serving or `mrcnn serve`, '
                                        'grpc://HOST:8500/NAME or http://HOST:8501/NAME.')] = None,
            threshold: Annotated[float, typer.Option(min=0, max=1, help='Lowest score of a detection.')] = 0.5,
            checkpoint: Checkpoint = 'best',
            precision: Annotated[Precision | None, typer.Option(
                show_default=False, help='Of a model directory: precision of convolutions and matrix products. By '
                                         'default float32.')] = None,
            pictures: Annotated[pathlib.Path | None, typer.Option(
                help='With --output NAME.json: a directory for pictures.', show_default=False)] = None,
            batch_size: Annotated[int | None, typer.Option(
                min=1, show_default=False,
                help="With --output NAME.json: images of equal size that go through the network together. By default "
                     "1 on a CPU, the model's data.evaluation_batch_size on a GPU.")] = None) -> None:
    """Detect objects in images and videos.

    Writes for each image a picture, OUTPUT/NAME.png, and the detections, OUTPUT/NAME.json. Boxes and masks are in the
    pixels that image viewers show: photographs are rotated by their EXIF orientation, unless the model's data.exif says
    otherwise. Files that cannot be used do not stop the others; they are listed at the end, and the exit code is 1.

    Writes for each video OUTPUT/NAME.mp4, without sound, and OUTPUT/NAME.jsonl with a line for each frame. Videos need
    OpenCV, the extra `video`.

    For many images, --output NAME.json writes one file in COCO's format and no pictures. The same command continues an
    interrupted one, and skips the images that the file has. IMAGE may then be the manifest of a set.

    \b
    Example:
      mrcnn predict photos 'more/*.jpg' list.txt --model saved_models/nuclei --output predictions
      mrcnn predict clip.mp4 --model runs/nuclei --output predictions
      mrcnn predict photos --model runs/nuclei --output found.json --threshold 0.05
      mrcnn predict photos --server grpc://localhost:8500/nuclei --output predictions
    """
    from mrcnn_tf.files.progress import track
    from mrcnn_tf.serving import predict_files, predict_set
    from mrcnn_tf.serving.coco_file import CocoFile
    from mrcnn_tf.serving.sources import InferenceError

    if (model is None) == (server is None):
        raise InferenceError('give either --model or --server')
    one_operation_at_a_time()
    load = functools.partial(_predictor, model, server, checkpoint, precision)
    if output.suffix == '.json':
        load = functools.partial(load, several=True)
        name = f'{model or server}' + (' in bfloat16' if precision is Precision.bfloat16 else '')
        file = CocoFile(output, name, threshold, predict_set.manifest_of(images))
        _predict_set(images, file, pictures, batch_size, load)
        return
    if pictures or batch_size:
        raise InferenceError('--pictures and --batch-size are for --output NAME.json')
    paths = predict_files.find_images(images)
    report = predict_files.predict_to_directory(paths, load(), output, threshold,
                                                lambda paths: track(paths, len(paths), 'predicted'))
    if report.pictures or not report.videos:
        typer.echo(f'{len(report.pictures)} pictures and json files in {output}')
    for video in report.videos:
        typer.echo(f'{one_line(video)} and {one_line(video.stem)}.jsonl')
    if report.without_detections:
        best = f'{report.best_score_below:.3f}' if report.best_score_below else 'none'
        typer.echo(f'{len(report.without_detections)} of them without a detection of score {threshold} or more '
                   f'(best score: {best}), such as {one_line(report.without_detections[0])}')
    _list_failures(report.failed.values(), len(paths))


def _predictor(model: pathlib.Path | None, server: str | None, checkpoint: str, precision: Precision | None,
               several: bool = False) -> Predictor:
    """Return the predictor; with `several`, that of a model directory on all GPUs if there are two or more."""
    from mrcnn_tf.detectors.devices import several_gpus
    from mrcnn_tf.serving.client import ServedModel
    from mrcnn_tf.serving.predictor import load_predictor
    from mrcnn_tf.serving.sources import InferenceError

    if model:
        devices = several_gpus() if several and (model / 'config.yaml').is_file() else []
        return load_predictor(model, checkpoint, precision and precision.value, devices)
    if precision:
        raise InferenceError('--precision is for --model; a server has the precision of its export')
    return ServedModel(str(server))


def _predict_set(inputs: Sequence[pathlib.Path], output: CocoFile, pictures: pathlib.Path | None,
                 batch_size: int | None, load: Callable[[], Predictor]) -> None:
    from mrcnn_tf.files.progress import progress_bar
    from mrcnn_tf.serving import predict_set

    total, images = predict_set.find(inputs, pictures)
    with progress_bar('predicted', total, output.images) as update:
        report = predict_set.predict_set(images, load(), output, batch_size, update=update)
    before = f', {report.skipped} were done before' if report.skipped else ''
    typer.echo(f'{output.path}: {report.predicted} images{before}')
    _list_failures(report.failed.values(), total)


def _list_failures(reasons: Collection[str], total: int) -> None:
    """Print why files could not be used, and raise an error if there are any."""
    from mrcnn_tf.serving.sources import InferenceError

    for reason in reasons:
        typer.echo(f'mrcnn: {one_line(reason)}', err=True)
    if reasons:
        raise InferenceError(f'{len(reasons)} of {total} files could not be used, see above')

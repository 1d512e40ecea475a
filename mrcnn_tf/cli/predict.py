"""`mrcnn predict`."""
from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mrcnn_tf.cli.command import Checkpoint, command
from mrcnn_tf.files.text import one_line


@command
def predict(images: Annotated[list[pathlib.Path], typer.Argument(
                metavar='IMAGE', help="JPEG or PNG files, videos, directories of images, patterns such as "
                                      "'photos/**/*.jpg', or a .txt file with one path per line.")],
            output: Annotated[pathlib.Path, typer.Option(help='Directory for the results.')],
            model: Annotated[pathlib.Path | None, typer.Option(
                help='Model directory from `mrcnn train`, or SavedModel, .tflite or .onnx file from '
                     '`mrcnn export`.')] = None,
            server: Annotated[str | None, typer.Option(
                metavar='ADDRESS', help='Instead of --model: a model in TensorFlow Serving or `mrcnn serve`, '
                                        'grpc://HOST:8500/NAME or http://HOST:8501/NAME.')] = None,
            threshold: Annotated[float, typer.Option(min=0, max=1, help='Lowest score of a detection.')] = 0.5,
            checkpoint: Checkpoint = 'best') -> None:
    """Detect objects in images and videos.

    Writes for each image a picture, OUTPUT/NAME.png, and the detections, OUTPUT/NAME.json. Boxes and masks are in the
    pixels that image viewers show: photographs are rotated by their EXIF orientation, unless the model's data.exif says
    otherwise. Files that cannot be used do not stop the others; they are listed at the end, and the exit code is 1.

    Writes for each video OUTPUT/NAME.mp4, without sound, and OUTPUT/NAME.jsonl with a line for each frame. Videos need
    OpenCV, the extra `video`.

    \b
    Example:
      mrcnn predict photos 'more/*.jpg' list.txt --model saved_models/nuclei --output predictions
      mrcnn predict clip.mp4 --model runs/nuclei --output predictions
      mrcnn predict photos --server grpc://localhost:8500/nuclei --output predictions
    """
    from mrcnn_tf.files.progress import track
    from mrcnn_tf.serving import predict_files
    from mrcnn_tf.serving.client import ServedModel
    from mrcnn_tf.serving.predictor import load_predictor
    from mrcnn_tf.serving.sources import InferenceError

    if (model is None) == (server is None):
        raise InferenceError('give either --model or --server')
    paths = predict_files.find_images(images)
    predictor = load_predictor(model, checkpoint) if model else ServedModel(str(server))
    report = predict_files.predict_to_directory(paths, predictor, output, threshold,
                                                lambda paths: track(paths, len(paths), 'predicted'))
    if report.pictures or not report.videos:
        typer.echo(f'{len(report.pictures)} pictures and json files in {output}')
    for video in report.videos:
        typer.echo(f'{one_line(video)} and {one_line(video.stem)}.jsonl')
    if report.without_detections:
        best = f'{report.best_score_below:.3f}' if report.best_score_below else 'none'
        typer.echo(f'{len(report.without_detections)} of them without a detection of score {threshold} or more '
                   f'(best score: {best}), such as {one_line(report.without_detections[0])}')
    for reason in report.failed.values():
        typer.echo(f'mrcnn: {one_line(reason)}', err=True)
    if report.failed:
        raise InferenceError(f'{len(report.failed)} of {len(paths)} files could not be used, see above')

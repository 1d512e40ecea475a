"""`mrcnn benchmark`: the speed of each kind of work on this machine, as one JSON line."""
from __future__ import annotations

import enum
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrcnn_tf import config as configuration
from mrcnn_tf.cli.command import Checkpoint, Precision, command
from mrcnn_tf.config import ConfigError
from mrcnn_tf.files.cores import one_operation_at_a_time
from mrcnn_tf.files.extras import install

if TYPE_CHECKING:    # it imports TensorFlow
    from mrcnn_tf.cli.benchmark.networks import Work

benchmark_app = typer.Typer(no_args_is_help=True, help='Measure the speed of one kind of work on this machine.')

Overrides = Annotated[list[str] | None, typer.Argument(
    metavar='KEY=VALUE', help='Settings that override those of the config.')]
Settings = Annotated[str, typer.Argument(metavar='CONFIG', help='A YAML file or a packaged config.')]
Size = Annotated[tuple[int, int], typer.Option(metavar='H W', help='Height and width of the images in px.')]
Runs = Annotated[int, typer.Option(min=1, help='Repetitions that count.')]
Warmup = Annotated[int, typer.Option(min=1, help='Repetitions before them; the first one traces and compiles.')]
Patience = Annotated[float, typer.Option(
    min=0, help='Seconds for which to wait until other processes use less than 0.2 cores, and to repeat runs in which '
                'they used more.')]
OnRequest = Annotated[bool, typer.Option(
    '--on-request', help='Wait for a line on standard input before each repetition that counts, and print its seconds, '
                         'so that several programs can take turns. A further line, or the end of the input, ends it.')]
Json = Annotated[pathlib.Path, typer.Argument(metavar='ANNOTATIONS', help="COCO's instances json.")]


class Masks(str, enum.Enum):
    """What becomes of masks."""
    cells = 'cells'
    pasted = 'pasted'


@command
def inference(model: Annotated[str, typer.Argument(
                  metavar='MODEL', help='A model directory, an exported model, or a config, with random weights.')],
              overrides: Overrides = None, size: Size = (800, 1216),
              batch: Annotated[int, typer.Option(min=1, help='Images at once.')] = 1,
              masks: Annotated[Masks, typer.Option(
                  help='cells: 28 x 28 cells over each box. pasted: into the whole image.')] = Masks.cells,
              images: Annotated[list[pathlib.Path] | None, typer.Option(
                  help='Image files or directories instead of noise: from files to detections. Repeatable.')] = None,
              checkpoint: Checkpoint = 'best',
              precision: Annotated[Precision | None, typer.Option(
                  show_default=False, help='Of a model directory or config: precision of convolutions and matrix '
                                           'products. By default float32.')] = None,
              runs: Runs = 5, warmup: Warmup = 2, patience: Patience = 0., on_request: OnRequest = False) -> None:
    """Measure prediction: from uint8 images to boxes and masks.

    With random weights, every image has the largest number of detections, and images of noise are not resized.

    \b
    Example:
      mrcnn benchmark inference mask_rcnn_r50_fpn_1x
      mrcnn benchmark inference runs/nuclei --images photos --masks pasted
    """
    one_operation_at_a_time()
    from mrcnn_tf.cli.benchmark import networks
    from mrcnn_tf.serving.predict_files import find_images

    def work() -> Work:
        predictor = networks.load(model, overrides or [], size, checkpoint, precision and precision.value)
        paste = masks == Masks.pasted
        return networks.files(predictor, find_images(images), batch, paste) if images else networks.inference(
            predictor, size, batch, paste)

    _report('inference', work, runs, warmup, patience, on_request, model=model,
            **({'precision': precision.value} if precision else {}))


@command
def train(settings: Settings, overrides: Overrides = None, size: Size = (800, 1216),
          objects: Annotated[int, typer.Option(min=0, help='Objects in each image.')] = 8,
          runs: Runs = 5, warmup: Warmup = 2, patience: Patience = 0., on_request: OnRequest = False) -> None:
    """Measure a training step: losses, gradients and the update of the weights, on images of noise.

    On a CPU, masks are trained for positive RoIs only. A model with random weights has few of them; --objects 128 gives
    as many as a trained model has at most.

    \b
    Example:
      mrcnn benchmark train mask_rcnn_r50_fpn_1x data.batch_size=1 train.precision=mixed_bfloat16
    """
    config = configuration.load(settings, ['model.backbone.weights=none', *(overrides or [])])
    if any(side % 32 for side in size):
        raise ConfigError(f'--size {size[0]} {size[1]}: sides of canvases are multiples of 32')
    from mrcnn_tf.cli.benchmark import networks

    _report('train', lambda: networks.train(config, size, objects), runs, warmup, patience, on_request,
            model=settings)


@command
def input(settings: Settings, overrides: Overrides = None,    # noqa: A001    # the name of the command
          images: Annotated[int, typer.Option(min=1, help='Images of a run.')] = 200,
          runs: Runs = 3, warmup: Warmup = 1, patience: Patience = 0.) -> None:
    """Measure the input of training: from the shards of `data.train` to batches.

    \b
    Example:
      mrcnn benchmark input mask_rcnn_r50_fpn_1x data.train=data/coco/train.json
    """
    config = configuration.load(settings, overrides or [])
    if not config.data.train:
        raise ConfigError('data.train is not set; name the manifest of a set, data.train=data/coco/train.json')
    from mrcnn_tf.cli.benchmark import data

    _report('input', lambda: data.training_input(config, images), runs, warmup, patience, model=settings)


@command
def convert(annotations: Json, folder: Annotated[pathlib.Path, typer.Argument(
                metavar='IMAGES', help='The directory of its images.')],
            images: Annotated[int, typer.Option(min=1, help='Repeat the images until there are so many.')] = 400,
            workers: Annotated[int, typer.Option(min=1, help='Processes.')] = 1,
            runs: Runs = 3, warmup: Warmup = 1, patience: Patience = 0.) -> None:
    """Measure conversion: from a COCO json and its images to shards with masks.

    \b
    Example:
      mrcnn benchmark convert annotations/instances_val2017.json val2017 --workers 2
    """
    from mrcnn_tf.cli.benchmark import data

    with tempfile.TemporaryDirectory() as directory:
        _report('convert', lambda: data.conversion_of(annotations, folder, images, workers, pathlib.Path(directory)),
                runs, warmup, patience)


@command
def evaluate(annotations: Json, images: Annotated[int, typer.Option(min=1, help='Images of the set.')] = 500,
             workers: Annotated[int, typer.Option(min=1, help='Number of processes.')] = 1,
             runs: Runs = 1, warmup: Warmup = 1, patience: Patience = 0.) -> None:
    """Measure COCO's evaluation of boxes and masks, 100 made-up detections an image: from arrays to metrics and files.

    \b
    Example:
      mrcnn benchmark evaluate annotations/instances_val2017.json --images 5000
    """
    from mrcnn_tf.cli.benchmark import data

    with tempfile.TemporaryDirectory() as directory:
        _report('evaluate', lambda: data.metrics_of(annotations, images, pathlib.Path(directory), workers), runs,
                warmup, patience)


@command
def serve(directory: Annotated[str, typer.Argument(metavar='DIR', help='Exported model, as for `mrcnn serve`.')],
          images: Annotated[list[pathlib.Path], typer.Argument(metavar='IMAGE', help='Image files or directories.')],
          clients: Annotated[int, typer.Option(min=1, help='Clients that wait for answers at the same time.')] = 4,
          requests: Annotated[int, typer.Option(min=1, help='Requests of a run, one image each.')] = 24,
          batching: Annotated[bool, typer.Option(help='As for `mrcnn serve`.')] = False,
          runs: Runs = 3, warmup: Warmup = 1, patience: Patience = 0.) -> None:
    """Measure the development server: requests per second and latencies, over gRPC.

    \b
    Example:
      mrcnn benchmark serve saved_models/nuclei photos --clients 8 --batching
    """
    from mrcnn_tf.cli.benchmark import served, serving
    from mrcnn_tf.serving.predict_files import find_images

    paths = find_images(images)
    with served.served(directory, '--batching' if batching else '--no-batching') as server:
        _report('serve', lambda: serving.requests(server.address('grpc'), paths, requests, clients), runs, warmup,
                patience, model=directory, batching=batching)


def _report(what: str, work: Callable[[], Work], runs: int, warmup: int, patience: float, on_request: bool = False,
            **said: Any) -> None:
    """Make the work, measure it, and print the JSON line."""
    try:
        from mrcnn_tf.cli.benchmark import measuring
    except ImportError as error:
        raise ConfigError(f'mrcnn benchmark needs the package {error.name}: {install("benchmark")}') from None

    function, of_the_work = work()
    times = measuring.measure(function, runs, warmup, patience, on_request)
    rate = round(of_the_work['images'] / times['median_s'], 3)
    typer.echo(json.dumps({'what': what, **said, **of_the_work, 'images_per_s': rate, **times, **measuring.machine()}))


for each in (inference, train, input, convert, evaluate, serve):
    benchmark_app.command()(each)

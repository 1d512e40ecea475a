"""The `mrcnn` command: one sub-command a verb, each a few lines around a function that does the work.

TensorFlow takes seconds to import, so it is imported where it is needed: help and wrong settings answer at once.
"""
from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, NoReturn, ParamSpec

import typer

from mrcnn_tf import __version__, config

P = ParamSpec('P')

app = typer.Typer(
    name='mrcnn', no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 100})
convert_app = typer.Typer(no_args_is_help=True, help='Write annotations and images as TFRecord shards with a manifest.')
app.add_typer(convert_app, name='convert')

# What TensorFlow's C++ says of itself, whatever TF_CPP_MIN_LOG_LEVEL is: its informations and warnings, and errors
# about the graphics card of a machine that has none. Errors of the work at hand arrive as exceptions.
_NOISE = (r'^([IW]\d{4} \d\d:|\d{4}-\d\d-\d\d \d\d:[\d:.]+: [IW] |WARNING: All log messages before absl::Init'
          r'|.*(Unable to register cu|failed call to cuInit|Premature end of JPEG))')
_FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not noise.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


def main() -> None:
    """Runs the command line of this process."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('tensorflow', 'keras'))
        typer.echo(f'mrcnn-tf {__version__}, {versions}')
        raise typer.Exit


@app.callback()
def _mrcnn(version: Annotated[bool, typer.Option(
        '--version', callback=_print_version, is_eager=True, help='Print the versions and leave.')] = False) -> None:
    """Mask R-CNN for TensorFlow and Keras.

    The way goes: convert, train, evaluate, export, predict. Each command says more: mrcnn train --help
    """


def _command(function: Callable[P, None]) -> Callable[P, None]:
    """What the user can mend becomes one line and exit code 1, Ctrl-C a line and 130; a defect keeps its traceback."""
    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _quiet_tensorflow():
                function(*args, **kwargs)
        except KeyboardInterrupt:
            _leave('interrupted', 130)
        except (OSError, ValueError) as error:
            if not _mendable(error):
                raise
            _leave(f'error: {_one_line(error)}', 1)

    return run


@app.command()
@_command
def demo(output: Annotated[pathlib.Path, typer.Option(help='Directory for all that it makes.')] = pathlib.Path('demo'),
         minutes: Annotated[float, typer.Option(min=0.1, help='Time to train; all else takes about one more.')] = 4.0,
         ) -> None:
    """Draw a small set of shapes and go the whole way: convert, train, evaluate, export, predict.

    Leaves metrics.json, prediction.png (truth beside prediction) and saved_model/1/ in the output directory.

    \b
    Example:
      mrcnn demo --output demo --minutes 4
    """
    from mrcnn_tf.demo import run

    run(output, minutes)


@convert_app.command()
@_command
def coco(annotations: Annotated[pathlib.Path, typer.Option(help='instances json of COCO.')],
         images: Annotated[pathlib.Path, typer.Option(help='Directory of its images, JPEG or PNG.')],
         output: Annotated[pathlib.Path, typer.Option(help='Directory for the shards and the manifest.')],
         name: Annotated[str, typer.Option(help='Name of the set.')] = 'train',
         masks: Annotated[bool, typer.Option('--masks/--boxes', help='Masks and boxes, or boxes only.')] = True,
         images_per_shard: Annotated[int, typer.Option(min=1, help='At most, on average.')] = 1000,
         workers: Annotated[int, typer.Option(min=1, help='Processes; a shard is written by one.')] = 1) -> None:
    """Write OUTPUT/NAME-00000-of-0000N.tfrecord and the manifest OUTPUT/NAME.json.

    The manifest lists categories, counts, sizes and checksums of the shards, and what was dropped or repaired and why.

    \b
    Example:
      mrcnn convert coco --annotations annotations/instances_val2017.json \\
        --images val2017 --output data/coco --name val
    """
    from data_tools import coco, writer

    coco.convert(annotations, images, output, name, masks,
                 writer.Options(images_per_shard=images_per_shard, workers=workers))


@app.command()
@_command
def train(settings: Annotated[str, typer.Argument(
              metavar='CONFIG', help=f'A YAML file, or one that comes along: {", ".join(config.packaged())}.')],
          overrides: Annotated[list[str] | None, typer.Argument(
              metavar='KEY=VALUE', help='Settings that replace those of the file.')] = None,
          model_dir: Annotated[pathlib.Path | None, typer.Option(
              help='Directory of the model; runs/NAME of CONFIG if not given.')] = None) -> None:
    """Train a model, or go on from its newest checkpoint: the same command resumes.

    \b
    Example:
      mrcnn train nuclei_r18_fpn --model-dir runs/nuclei \\
        data.train=data/nuclei/train.json data.validation=data/nuclei/val.json solver.steps=1000
    Several machines, the same on each with its own TF_CONFIG:
      mrcnn train mask_rcnn_r50_fpn_1x --model-dir /shared/r50 train.strategy=multi_worker ...
    Watch the losses:
      tensorboard --logdir runs
    """
    loaded = config.load(settings, overrides or [])
    from mrcnn_tf.training import trainer

    trainer.train(loaded, model_dir or pathlib.Path('runs') / pathlib.Path(settings).stem)


@app.command()
@_command
def evaluate(model_dir: Annotated[pathlib.Path, typer.Option(help='What `mrcnn train` wrote.')],
             data: Annotated[pathlib.Path | None, typer.Option(
                 help='Manifest NAME.json of the set; data.validation of the model if not given.')] = None) -> None:
    """Print COCO's twelve numbers for boxes and masks; write metrics.json and detections.json beside the model.

    \b
    Example:
      mrcnn evaluate --model-dir runs/nuclei --data data/nuclei/val.json
    """
    from mrcnn_tf.evaluation import coco, run

    typer.echo(coco.table(run.evaluate(model_dir, data)))


@app.command()
@_command
def export(model_dir: Annotated[pathlib.Path, typer.Option(help='What `mrcnn train` wrote.')],
           output: Annotated[pathlib.Path, typer.Option(help='Directory of all versions of the SavedModel.')]) -> None:
    """Write the newest checkpoint as OUTPUT/1, OUTPUT/2, ...: a SavedModel for TF Serving.

    It takes the bytes of JPEG and PNG files, and needs neither this package nor its settings.

    \b
    Example:
      mrcnn export --model-dir runs/nuclei --output saved_models/nuclei
      tensorflow_model_server --rest_api_port=8501 \\
        --model_name=nuclei --model_base_path=$PWD/saved_models/nuclei
    """
    from mrcnn_tf.serving.export import export as write

    typer.echo(str(write(model_dir, output)))


@app.command()
@_command
def predict(images: Annotated[list[pathlib.Path], typer.Argument(metavar='IMAGE', help='JPEG or PNG files.')],
            model: Annotated[pathlib.Path, typer.Option(help='What `mrcnn train` or `mrcnn export` wrote.')],
            output: Annotated[pathlib.Path, typer.Option(help='Directory for the results.')],
            threshold: Annotated[float, typer.Option(min=0, max=1, help='Least score of what is kept.')] = 0.5) -> None:
    """Find the objects of images: OUTPUT/NAME.png, a picture with masks, and OUTPUT/NAME.json, the numbers.

    \b
    Example:
      mrcnn predict images/*.png --model saved_models/nuclei --output predictions
    """
    from mrcnn_tf import inference, visualize
    from mrcnn_tf.evaluation.run import tracked

    predictor = inference.load_predictor(model)
    visualize.predict_to_directory(images, predictor, output, threshold,
                                   lambda paths: tracked(paths, len(paths), 'predicted'))
    typer.echo(f'{len(images)} pictures and json files in {output}')


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Keeps what TensorFlow says of itself out of the way, unless the user has set TF_CPP_MIN_LOG_LEVEL."""
    logging.basicConfig(format='mrcnn: %(message)s')
    if 'TF_CPP_MIN_LOG_LEVEL' in os.environ:
        yield
        return
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
    logging.getLogger('tensorflow').setLevel(logging.ERROR)
    logging.getLogger('absl').setLevel(logging.ERROR)
    warnings.filterwarnings('ignore', r'\s*TensorFlow Addons \(TFA\) has ended development', UserWarning)
    with _filtered_stderr():
        yield


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Sends what C++ writes to stderr through a process that drops the noise; Python's goes on directly.

    A process, not a thread: what C++ says before it aborts still arrives.
    """
    direct = os.dup(2)
    python_stderr, sys.stderr = sys.stderr, os.fdopen(os.dup(2), 'w', buffering=1, errors='backslashreplace')
    with subprocess.Popen([sys.executable, '-I', '-S', '-c', _FILTER, _NOISE], stdin=subprocess.PIPE) as process:
        assert process.stdin
        os.dup2(process.stdin.fileno(), 2)
        process.stdin.close()
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(direct, 2)    # the last of the pipe's writing ends: the process reads to the end and leaves
            os.close(direct)
            sys.stderr = python_stderr


def _mendable(error: Exception) -> bool:
    """An error of the system, such as a full disk, or one of this package that says what to do."""
    return isinstance(error, OSError) or type(error).__module__.split('.')[0] in ('mrcnn_tf', 'data_tools')


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f'{error.filename}: {error.strerror}'
    return ' '.join(str(error).split())


def _leave(line: str, code: int) -> NoReturn:
    typer.echo(f'mrcnn: {line}', err=True)
    raise typer.Exit(code)

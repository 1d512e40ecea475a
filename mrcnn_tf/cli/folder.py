"""`mrcnn train FOLDER`: from images and annotations to a trained model; and `mrcnn split`.

TensorFlow takes seconds to import, so modules that need it are imported inside the functions.
"""
from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from data_tools.sharding import forkserver
from mrcnn_tf import config
from mrcnn_tf.cli import convert
from mrcnn_tf.cli.command import command
from mrcnn_tf.config import Config, ConfigError

if TYPE_CHECKING:
    from data_tools.prepare import Prepared

FINETUNE, FROM_SCRATCH = 'mask_rcnn_r50_fpn_finetune', 'mask_rcnn_r18_fpn_cpu_demo'

ValFraction = Annotated[float, typer.Option(
    min=0, max=0.9, help='FOLDER without a validation part: share of its images that is kept for validation; 0: none.')]
Weights = Annotated[str | None, typer.Option(
    metavar='DIR|FILE|NAME', help='FOLDER: weights to start from: a model directory, a file of torchvision (.pth) or '
                                  'Detectron2 (.pkl), a name of `mrcnn weights`, or none.')]
DataDir = Annotated[pathlib.Path | None, typer.Option(
    help='FOLDER: directory for its converted images; if not given, data/NAME with the name of FOLDER.')]
Exif = Annotated[convert.Exif, typer.Option(help='FOLDER: photographs with an EXIF orientation, as `mrcnn convert`.')]
AllowLoss = Annotated[bool, typer.Option(
    '--allow-loss', help='FOLDER: continue if more than half of the objects or images are lost.')]
Workers = Annotated[int, typer.Option(min=1, help='FOLDER: number of processes that convert.')]


@dataclass(frozen=True)
class FolderOptions:
    """The options of `mrcnn train` for a folder."""
    val_fraction: float = 0.2
    weights: str | None = None
    data_dir: pathlib.Path | None = None
    exif: str = 'error'
    allow_loss: bool = False
    workers: int = 1


def train(folder: pathlib.Path, overrides: Sequence[str], model_dir: pathlib.Path | None, allow_changes: bool,
          options: FolderOptions) -> None:
    """Convert the data set in a folder, choose a recipe and weights, and train or resume; print each decision."""
    if (folder / 'config.yaml').is_file():
        raise ConfigError(f'{folder} is a model directory; to resume its training, give {folder / "config.yaml"}')
    if config.changed(Config(), overrides).train.strategy == 'multi_worker':    # also checks the settings
        raise ConfigError(f'train.strategy=multi_worker trains on a converted set, so that workers do not convert '
                          f'{folder} at the same time; convert it first with `mrcnn convert`, and give the config')
    forkserver.start(options.workers)
    from data_tools import prepare
    from data_tools.examples import Rules
    from mrcnn_tf.training import derived, trainer

    name = folder.resolve().name
    data_dir, directory = options.data_dir or pathlib.Path('data') / name, model_dir or pathlib.Path('runs') / name
    rules = Rules(options.exif, allow_loss=options.allow_loss)
    prepared = prepare.prepare(folder, data_dir, prepare.Options(
        options.val_fraction, rules=rules, workers=options.workers), typer.echo)
    source, given = _settings(prepared, directory, overrides, options)
    loaded, lines = derived.derive(config.load(source, given), config.chosen(source, given), directory)
    typer.echo('\n'.join([*lines, 'to change a setting, add section.field=value, such as solver.steps=500']))
    trainer.train(loaded, directory, allow_changes)
    if prepared.validation:
        typer.echo(f'to see what it finds and misses: mrcnn evaluate --model-dir {directory} --report report.html')


def _settings(prepared: Prepared, directory: pathlib.Path, overrides: Sequence[str], options: FolderOptions,
              ) -> tuple[str, list[str]]:
    """Return a config and `key=value` settings on top; create the model directory if weights are imported."""
    data = [f'data.train={prepared.train}', f'data.validation={prepared.validation or "null"}',
            *([f'data.exif={options.exif}'] if options.exif != 'error' else [])]
    saved = directory / 'config.yaml'
    if saved.is_file():
        typer.echo(f'{directory}: has been trained before, so its settings are used')
        return str(saved), [*data, *overrides]
    from mrcnn_tf.input.manifest import Manifest

    manifest = Manifest.read(prepared.train)
    if weights := _weights(options.weights, manifest.any_masks):
        if _have_masks(weights) and not manifest.any_masks:
            raise ConfigError(f'--weights {weights} is a Mask R-CNN, and no object of {prepared.train} has a mask; '
                              'give weights of a Faster R-CNN, such as faster_rcnn_R_50_FPN_3x')
        typer.echo(f'recipe {FINETUNE}, from the weights {weights}')
        _import(weights, directory, prepared.train, [
            *config.own_settings(FINETUNE, ('data', 'solver', 'train')), *data, *overrides])
        source = str(saved)
    else:
        source = FROM_SCRATCH
        data += [] if manifest.any_masks else ['model.kind=faster_rcnn']
        typer.echo(f'recipe {source}, from random weights; to fine-tune published ones, '
                   'give --weights a name that `mrcnn weights` lists, and a new --model-dir')
        typer.echo('Mask R-CNN, because objects have masks' if manifest.any_masks else
                   'Faster R-CNN, because no object has a mask')
    from mrcnn_tf.training import derived

    settings = derived.adapt(config.load(source, [*data, *overrides]), config.chosen('base', overrides))
    typer.echo(f'derived from the data: {", ".join(settings)}')
    return source, [*data, *settings, *overrides]


def _weights(given: str | None, masks: bool) -> str | None:
    """Return the weights to start from: those that the user has given, or fetched ones of the right kind."""
    from mrcnn_tf.weights import catalogue

    if given == 'none':
        return None
    if given is not None:
        return given
    return catalogue.find_fetched('mask_rcnn' if masks else 'faster_rcnn')


def _have_masks(weights: str) -> bool:
    """Return whether weights are known to be of a Mask R-CNN; what a file holds is known when it is imported."""
    saved = pathlib.Path(weights) / 'config.yaml'
    return config.load(saved).model.kind == 'mask_rcnn' if saved.is_file() else pathlib.Path(weights).name.startswith(
        ('mask', 'cascade_mask'))


def _import(weights: str, directory: pathlib.Path, manifest: pathlib.Path, settings: Sequence[str]) -> None:
    """Create the model directory from weights: a model directory, a file, or a name of the catalogue."""
    from mrcnn_tf.weights import catalogue, importing

    path = pathlib.Path(weights)
    if path.is_dir():
        importing.import_model(path, directory, str(manifest), settings)
        return
    if path.suffix:
        framework, file = 'detectron2' if path.suffix == '.pkl' else 'torchvision', path
    else:
        checkpoint = catalogue.get(weights)
        framework, file = checkpoint.framework, catalogue.fetch(checkpoint)
    importing.import_file(framework, file, directory, str(manifest), settings)


@command
def split(source: Annotated[pathlib.Path, typer.Argument(help='Manifest NAME.json of a set, or a COCO json.')],
          output: Annotated[pathlib.Path, typer.Option(help='Directory for NAME_train.json and NAME_val.json.')],
          val_fraction: Annotated[float, typer.Option(
              help='Share of the images for validation, above 0 and below 1.')] = 0.2,
          seed: Annotated[int, typer.Option(min=0, help='The same seed gives the same split.')] = 0) -> None:
    """Split a set or an annotation file into training and validation.

    Splits by image, so that each class has about its share in both parts, and no image is in both. The source is not
    changed. A COCO json becomes two; the images stay where they are. A converted set becomes two with shards.

    \b
    Example:
      mrcnn split instances.json --output annotations --val-fraction 0.2
      mrcnn split data/mine/all.json --output data/mine
    """
    from data_tools import splitting

    parts = splitting.split(source, output, val_fraction, seed)
    typer.echo(splitting.table(parts))
    for part in parts:
        typer.echo(str(part.path))

"""`mrcnn train`, `mrcnn train-alternating` and `mrcnn demo`."""
from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mrcnn_tf import config
from mrcnn_tf.cli import convert, folder
from mrcnn_tf.cli.command import command
from mrcnn_tf.config import Config, ConfigError
from mrcnn_tf.training.clusters import cluster_of


@command
def train(settings: Annotated[str, typer.Argument(
              metavar='CONFIG|FOLDER', help='A YAML file, the name of a packaged config (`mrcnn configs` lists them), '
                                             'or a folder of images with annotations.')],
          overrides: Annotated[list[str] | None, typer.Argument(
              metavar='KEY=VALUE', help='Settings that override those of the config.')] = None,
          model_dir: Annotated[pathlib.Path | None, typer.Option(
              help='Model directory; if not given, runs/NAME with the name of CONFIG or FOLDER.')] = None,
          allow_changes: Annotated[bool, typer.Option(
              '--allow-changes', help='Resume even if settings changed that may not change in a run.',
          )] = False,
          val_fraction: folder.ValFraction = 0.2, weights: folder.Weights = None, data_dir: folder.DataDir = None,
          exif: folder.Exif = convert.Exif.error, allow_loss: folder.AllowLoss = False, workers: folder.Workers = 1,
          ) -> None:
    """Train a model, or resume its training.

    The same command resumes from the newest complete checkpoint. To lengthen a run, resume it with more solver.steps.
    The schedule, data.train (with the same categories), data.validation, test settings and intervals may change too;
    other changes need --allow-changes.

    Settings that follow from the data are derived, unless you set them: model.num_classes is the number of categories
    of data.train, and data.canvases are made large enough. Each is printed, and config.yaml has the resolved values.

    A folder of images with annotations of COCO, VOC, YOLO or labelme is converted, split if it has no validation part,
    and trained by a recipe for the weights that there are. A folder that has not changed is not converted again.

    \b
    Example:
      mrcnn train nuclei_r18_fpn --model-dir runs/nuclei \\
        data.train=data/nuclei/train.json data.validation=data/nuclei/val.json solver.steps=1000
    A folder of images and annotations:
      mrcnn train photographs --weights mask_rcnn_R_50_FPN_3x
    Several machines: run the same command on each, with its own TF_CONFIG, or by srun, or as an Indexed Job:
      mrcnn train mask_rcnn_r50_fpn_1x --model-dir /shared/r50 train.strategy=multi_worker ...
    Lengthen the run to 2000 steps:
      mrcnn train runs/nuclei/config.yaml --model-dir runs/nuclei solver.steps=2000
    Watch the losses:
      tensorboard --logdir runs
    """
    run(settings, model_dir, overrides or [], allow_changes, val_fraction=val_fraction, weights=weights,
        data_dir=data_dir, exif=exif.value, allow_loss=allow_loss, workers=workers)


def run(settings: str | os.PathLike[str] | Config, model_dir: str | os.PathLike[str] | None = None,
        overrides: Sequence[str] = (), allow_changes: bool = False, **folder_options: Any) -> pathlib.Path:
    """Train a model, or resume its training, as `mrcnn train` does.

    Args:
        settings: name of a packaged config, YAML file, or a folder of images with annotations; or a `Config`, which is
            used as it is.
        model_dir: the model directory; None: runs/NAME with the name of the config or folder.
        overrides: 'key=value' settings on top of a config or a recipe.
        allow_changes: resume even if settings changed that may not change in a run.
        folder_options: for a folder, the options of the command: val_fraction, weights, data_dir, exif, allow_loss,
            workers.

    Returns:
        The model directory.

    Raises:
        ValueError, OSError: see `trainer.train`; for a folder, also those of the conversion.

    Example:
        >>> import mrcnn_tf as m
        >>> config = m.load_config('mine.yaml', ['solver.steps=1', 'train.strategy=one_device'])
        >>> directory = m.train(config, 'runs/trained')
        device: ...
        runs/trained is trained: step 1 of 1...
    """
    if isinstance(settings, Config):
        return _run_config(settings, model_dir, overrides, allow_changes)
    source = pathlib.Path(settings)
    if source.is_dir():
        directory = pathlib.Path(model_dir or pathlib.Path('runs') / source.resolve().name)
        folder.train(source, overrides, directory, allow_changes, folder.FolderOptions(**folder_options))
        return directory
    loaded, chosen = config.load(source, overrides), config.chosen(source, overrides)    # an error needs no TensorFlow
    cluster_of(loaded.train)
    from mrcnn_tf.training import derived

    directory = pathlib.Path(model_dir or pathlib.Path('runs') / source.stem)
    loaded, lines = derived.derive(loaded, chosen, directory)
    for line in lines:
        typer.echo(line)
    return _run_config(loaded, directory, (), allow_changes)


def _run_config(loaded: Config, model_dir: str | os.PathLike[str] | None, overrides: Sequence[str], allow_changes: bool,
                ) -> pathlib.Path:
    from mrcnn_tf.training import trainer

    if model_dir is None or overrides:
        raise ConfigError('a Config needs a model_dir and takes no overrides; change the Config itself, or give a '
                          'config by its name or file')
    trainer.train(loaded, pathlib.Path(model_dir), allow_changes)
    return pathlib.Path(model_dir)


@command
def train_alternating(
        settings: Annotated[str, typer.Argument(metavar='CONFIG', help='A YAML file or a packaged config.')],
        overrides: Annotated[list[str] | None, typer.Argument(
            metavar='KEY=VALUE', help='Settings that override those of the config.')] = None,
        model_dir: Annotated[pathlib.Path | None, typer.Option(
            help='Directory for all steps; if not given, runs/NAME with the name of CONFIG.')] = None) -> None:
    """Train a Faster R-CNN in four steps.

    The steps of the paper: 1. train an RPN; 2. train a Fast R-CNN on its proposals; 3. train an RPN on the backbone of
    step 2, which is frozen; 4. train the Fast R-CNN again on the proposals of step 3. The same command resumes.

    The directory has a model directory for each step, and faster_rcnn, which joins them to one model. The section
    `alternating` of the config has the settings of each step. alternating.steps=2 stops before the models share a
    backbone. On several machines, run the same command on each, as with `mrcnn train`.

    \b
    Example:
      mrcnn train-alternating faster_rcnn_vgg16_alternating --model-dir runs/voc \\
        data.train=data/voc/train.json data.validation=data/voc/test.json
      mrcnn evaluate --model-dir runs/voc/faster_rcnn --metric voc2007
    """
    loaded = config.load(settings, overrides or [])
    cluster_of(loaded.train)      # an error needs no TensorFlow
    from mrcnn_tf.training import alternating

    alternating.train(loaded, model_dir or pathlib.Path('runs') / pathlib.Path(settings).stem)


@command
def demo(output: Annotated[pathlib.Path, typer.Option(help='Output directory.')] = pathlib.Path('demo'),
         steps: Annotated[int, typer.Option(min=20, help='Training steps of 4 images.')] = 1000) -> None:
    """Run the whole workflow on a small data set.

    Draws the data set, then converts, trains, evaluates, exports and predicts. Writes metrics.json, prediction.png
    (ground truth beside prediction) and saved_model/1/ to the output directory.

    \b
    Example:
      mrcnn demo --output demo --steps 300
    """
    from mrcnn_tf.cli.demo import run

    run(output, steps)

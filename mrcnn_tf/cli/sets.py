"""Commands on a converted set: `mrcnn verify`, `mrcnn inspect` and `mrcnn recall`."""
from __future__ import annotations

import contextlib
import pathlib
import sys
from typing import Annotated

import typer

from data_tools.sharding import forkserver
from mrcnn_tf import config
from mrcnn_tf.cli import convert
from mrcnn_tf.cli.command import command


@command
def verify(manifest: Annotated[pathlib.Path, typer.Argument(help='Manifest NAME.json of the set.')],
           sample: Annotated[int, typer.Option(min=0, help='Number of images to decode, with masks; 0: all.')] = 200,
           workers: Annotated[int, typer.Option(min=1, help='Number of processes.')] = 1,
           json: Annotated[bool, typer.Option('--json', help='Print a report as JSON.')] = False) -> None:
    """Check all shards of a set.

    Checks checksums, counts, labels and boxes, and decodes a sample of the images. Prints a line for each problem, with
    its shard and record. The exit code is 1 if there is a problem.

    \b
    Example:
      mrcnn verify data/coco/train.json --sample 0 --workers 8
    """
    forkserver.start(workers)
    from data_tools import verify as tool

    with contextlib.redirect_stdout(sys.stderr):     # the progress bar; stdout is for the report
        report = tool.verify(manifest, sample, workers)
    typer.echo(report.json() if json else report.text())
    if report.findings.problems:
        raise typer.Exit(1)


@command
def inspect(output: Annotated[pathlib.Path, typer.Option(help='The HTML file to write.')],
            manifest: Annotated[pathlib.Path | None, typer.Argument(
                help='Manifest NAME.json of the set; with --augmented, data.train if not given.')] = None,
            images: Annotated[int, typer.Option(min=0, help='Number of pictures on the page.')] = 24,
            max_pixels: convert.MaxPixels = config.DataConfig.max_pixels,
            anchors: Annotated[str | None, typer.Option(
                metavar='CONFIG', help='A config, whose anchors are compared with the boxes: how well they cover them '
                                       'after resizing, and which anchors would cover them better.')] = None,
            augmented: Annotated[str | None, typer.Option(
                metavar='CONFIG', help='Show the first images of a training with this config, as the model gets '
                                       'them: resized, flipped and augmented.')] = None,
            overrides: Annotated[list[str] | None, typer.Option(
                '--set', metavar='KEY=VALUE', help='With --augmented: a setting that overrides that of the config; '
                                                   'may be repeated.')] = None) -> None:
    """Write an HTML page about a converted set, or about augmented images.

    The page shows statistics, problems, and pictures of objects; with --augmented, the images that a training gets,
    with the settings that `mrcnn train` derives from the set. It is a single file that any browser opens without a
    server or a network.

    \b
    Example:
      mrcnn inspect data/coco/train.json --output train.html --images 24 --anchors mask_rcnn_r50_fpn_1x
      mrcnn inspect data/coco/train.json --output augmented.html --augmented mask_rcnn_r50_fpn_1x \\
        --set data.augment.rotation=15 --set data.augment.copy_paste=0.5
    """
    if augmented is not None:
        _inspect_augmented(augmented, [*(overrides or []), *([f'data.train={manifest}'] if manifest else [])],
                           output, images)
        return
    if manifest is None or overrides:
        raise config.ConfigError('give MANIFEST without --set, or --augmented CONFIG with it' if overrides else
                                 'give MANIFEST or --augmented CONFIG')
    settings = config.load(anchors) if anchors else None
    from data_tools import inspect_page

    fit = inspect_page.write(manifest, output, images, max_pixels, settings)
    typer.echo('\n'.join([*([fit.text()] if fit else []), str(output)]))


def _inspect_augmented(settings: str, overrides: list[str], output: pathlib.Path, images: int) -> None:
    loaded = config.load(settings, overrides)
    if loaded.data.train is None:
        raise config.ConfigError('data.train is null; give MANIFEST or --set data.train=NAME.json')
    from data_tools import augmented_page
    from mrcnn_tf.training import derived

    loaded, lines = derived.derive(loaded, config.chosen(settings, overrides))
    augmented_page.write(loaded, output, images)
    typer.echo('\n'.join([*lines, str(output)]))


@command
def recall(manifest: Annotated[pathlib.Path, typer.Argument(
        help='NAME.json of a set whose records have proposals.')]) -> None:
    """Print the recall of a set's proposals.

    The proposals are those in the records. Prints the recall of the best 50 to 2000 proposals at each IoU.

    \b
    Example:
      mrcnn recall data/voc/train_proposals.json
    """
    from mrcnn_tf.evaluation import recall
    from mrcnn_tf.evaluation.coco import read_manifest

    typer.echo(recall.table(recall.average_recall(read_manifest(manifest), recall.read_proposals(manifest))))

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
def inspect(manifest: Annotated[pathlib.Path, typer.Argument(help='Manifest NAME.json of the set.')],
            output: Annotated[pathlib.Path, typer.Option(help='The HTML file to write.')],
            images: Annotated[int, typer.Option(min=0, help='Number of pictures on the page.')] = 24,
            max_pixels: convert.MaxPixels = config.DataConfig.max_pixels,
            anchors: Annotated[str | None, typer.Option(
                metavar='CONFIG', help='A config, whose anchors are compared with the boxes: how well they cover them '
                                       'after resizing, and which anchors would cover them better.')] = None) -> None:
    """Write an HTML page about a converted set.

    The page shows statistics, problems, and pictures of objects. It is a single file that any browser opens without a
    server or a network.

    \b
    Example:
      mrcnn inspect data/coco/train.json --output train.html --images 24 --anchors mask_rcnn_r50_fpn_1x
    """
    settings = config.load(anchors) if anchors else None
    from data_tools import inspect_page

    fit = inspect_page.write(manifest, output, images, max_pixels, settings)
    typer.echo('\n'.join([*([fit.text()] if fit else []), str(output)]))


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

"""`mrcnn plan`: how long training takes on GPUs that are not here."""
from __future__ import annotations

import enum
from typing import Annotated

import typer

from mrcnn_tf import config
from mrcnn_tf.cli.command import command
from mrcnn_tf.config import ConfigError


class Kind(str, enum.Enum):
    """The GPUs whose peaks are known."""
    v100 = 'v100'
    a100 = 'a100'
    h100 = 'h100'
    h200 = 'h200'


@command
def plan(settings: Annotated[str, typer.Argument(metavar='CONFIG', help='A YAML file or a packaged config.')],
         overrides: Annotated[list[str] | None, typer.Argument(
             metavar='KEY=VALUE', help='Settings that override those of the config.')] = None,
         gpus: Annotated[int, typer.Option(min=1, help='Number of GPUs.')] = 8,
         gpu: Annotated[Kind, typer.Option(help='Their kind: V100 (32 GB), A100 or H100 (80 GB, SXM), or H200 '
                                                '(141 GB, SXM).')] = Kind.a100,
         network: Annotated[float | None, typer.Option(
             min=0.01, help='Gigabytes per second of the slowest link between two GPUs; if not given, that of GPUs in '
                            'one machine.')] = None) -> None:
    """Predict speed and memory of training.

    Counts the arithmetic and the memory traffic of a training step, and divides them by what the GPUs can do. Also
    prints what bounds the speed, and with data.train the CPU cores that the input needs, measured on this machine.
    Needs no GPU. docs/scaling.md has the formulas, and how far predictions are from published speeds.

    \b
    Example:
      mrcnn plan mask_rcnn_r50_fpn_1x --gpus 8 --gpu a100 train.precision=mixed_bfloat16 data.batch_size=32
    """
    loaded = config.load(settings, ['model.backbone.weights=none', *(overrides or [])])
    if loaded.data.batch_size % gpus:
        raise ConfigError(f'data.batch_size is {loaded.data.batch_size}: expected a multiple of the {gpus} GPUs')
    from mrcnn_tf.training import plan as planning

    height, width = max(loaded.data.canvases, key=lambda sides: sides[0] * sides[1])
    work, kind = planning.count(loaded, (height, width)), planning.GPUS[gpu.value]
    predicted = planning.predict(work, loaded, kind, gpus, network * 1e9 if network else None)
    seconds = planning.input_seconds(loaded) if loaded.data.train else None
    for line in planning.describe(predicted, work, kind, (height, width), seconds):
        typer.echo(line)

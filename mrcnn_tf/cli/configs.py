"""`mrcnn configs`: the packaged configs, a line each."""
from __future__ import annotations

from typing import Annotated

import typer

from mrcnn_tf import config
from mrcnn_tf.cli.command import command
from mrcnn_tf.config import ConfigError


@command
def configs(words: Annotated[list[str] | None, typer.Argument(
        metavar='WORD', help='List the configs whose line has all these words, in any case.')] = None) -> None:
    """List the packaged configs.

    Prints for each config its name, what it is, and the number that was published or measured for it. `mrcnn train`
    takes the name in place of a file.

    \b
    Example:
      mrcnn configs mask r50 coco
    """
    lines = [f'{each.name:<{_width()}}  {each}' for each in config.summaries()]
    found = [line for line in lines if all(word.lower() in line.lower() for word in words or [])]
    if not found:
        raise ConfigError(f'no packaged config has {" and ".join(map(repr, words or []))} in its line; '
                          '`mrcnn configs` without a word lists all')
    typer.echo('\n'.join(found))


def _width() -> int:
    return max(map(len, config.packaged()))

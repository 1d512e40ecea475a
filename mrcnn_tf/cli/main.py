"""The `mrcnn` command. Each subcommand is a thin wrapper of a function.

TensorFlow takes seconds to import, so commands import it only after their settings are checked.
"""
from __future__ import annotations

from typing import Annotated

import typer

from mrcnn_tf import __version__
from mrcnn_tf.cli import (
    benchmark,
    configs,
    convert,
    evaluate,
    export,
    folder,
    import_weights,
    input_server,
    launch,
    plan,
    predict,
    serve,
    sets,
    train,
)
from mrcnn_tf.files.cores import one_heap

app = typer.Typer(
    name='mrcnn', no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 100})
groups = {'convert': convert.convert_app, 'validate': convert.validate_app, 'import-weights': import_weights.import_app,
          'benchmark': benchmark.benchmark_app}
for name, group in groups.items():
    app.add_typer(group, name=name, short_help=str(group.info.help))
for each in (train.demo, sets.verify, sets.inspect, folder.split, configs.configs, import_weights.weights,
             train.train, train.train_alternating, launch.launch, input_server.input_server, plan.plan,
             evaluate.evaluate, sets.recall, evaluate.propose, export.export, predict.predict, serve.serve):
    app.command()(each)
for info in (info for each in (app, *groups.values()) for info in each.registered_commands):
    # A short_help is folded in a narrow terminal. The first line of a docstring would be cut.
    info.short_help = info.short_help or str(info.callback.__doc__).partition('\n')[0]


def main() -> None:
    """Run the command line of this process."""
    one_heap()
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('tensorflow', 'keras'))
        typer.echo(f'mrcnn-tf {__version__}, {versions}')
        raise typer.Exit


@app.callback()
def _mrcnn(version: Annotated[bool, typer.Option(
        '--version', callback=_print_version, is_eager=True, help='Print the versions and exit.')] = False) -> None:
    """Mask R-CNN for TensorFlow and Keras.

    Typical workflow: convert, train, evaluate, export, predict. Help for a command: mrcnn train --help.
    Packaged configs: mrcnn configs
    """


if __name__ == '__main__':
    main()

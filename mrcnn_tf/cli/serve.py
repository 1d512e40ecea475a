"""`mrcnn serve`."""
from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mrcnn_tf.cli.command import command, deferred_end
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.text import one_line


@command
def serve(directory: Annotated[pathlib.Path, typer.Argument(
              metavar='DIR', help='Exported model: the directory of its versions, from `mrcnn export --output`.')],
          name: Annotated[str, typer.Option(help='Name of the model in requests. Default: that of DIR.')] = '',
          host: Annotated[str, typer.Option(
              help='Address to listen on; 0.0.0.0: reachable from other machines.')] = '127.0.0.1',
          port: Annotated[int, typer.Option(min=0, max=65535, help='Port of gRPC; 0: a free one.')] = 8500,
          rest_port: Annotated[int, typer.Option(
              min=0, max=65535, help='Port of REST, the page and the metrics; 0: a free one.')] = 8501,
          batching: Annotated[bool, typer.Option(
              help='Send the images of waiting requests through the model together.')] = False,
          warmup: Annotated[bool, typer.Option(
              help="Run the export's recorded requests before the first client.")] = True,
          max_mib: Annotated[int, typer.Option(min=1, max=1024, help='Largest request in MiB.')] = 64) -> None:
    """Serve an exported model on this machine, for development.

    Answers TensorFlow Serving's gRPC and REST requests, and has a page in which to try images. A new version in DIR
    replaces the served one. SIGTERM and Ctrl-C stop the server after the open requests.

    It is a development server: no authentication, no encryption, one process. TensorFlow Serving is for production.

    \b
    Example:
      mrcnn serve saved_models/nuclei
      mrcnn predict photos --server grpc://localhost:8500/nuclei --output predictions
    """
    from mrcnn_tf.serving.sources import InferenceError

    try:
        from mrcnn_tf.serving.server import app
        from mrcnn_tf.serving.server.service import ServerOptions
    except ImportError as error:
        raise InferenceError(f'mrcnn serve needs the package {error.name}: {install("serving")}') from None

    options = ServerOptions(name, host, port, rest_port, batching, warmup, max_mib)
    with deferred_end() as wait, app.running(directory, options) as ports:
        model, version = ports.service.name, ports.service.versions.get().number
        typer.echo(f'{one_line(model)} version {version}, a development server; Ctrl-C stops it')
        typer.echo(f'page: http://{host}:{ports.rest}/')
        typer.echo(f'REST: http://{host}:{ports.rest}/v1/models/{one_line(model)}:predict')
        typer.echo(f'gRPC: grpc://{host}:{ports.grpc}/{one_line(model)}')
        wait()

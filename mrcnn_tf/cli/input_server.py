"""`mrcnn input-server`."""
from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from mrcnn_tf.cli.command import command, deferred_end


@command
def input_server(
        host: Annotated[str, typer.Option(
            help='Name or address by which trainings reach this machine. Default: its host name.')] = '',
        port: Annotated[int, typer.Option(
            min=0, max=65533, help='First of three ports in a row; 0: any free ones.')] = 5050) -> None:
    """Compute batches for trainings on other machines, whose CPUs are too slow for their GPUs.

    Start one on each machine that shall help, and give the trainings all addresses: train.input=service
    train.input_servers=[host1:5050,host2:5050]. The machines read the set under the same path, or a copy of it. A
    server can serve several trainings, and trainings of several workers. SIGTERM and Ctrl-C stop it.

    Anyone who reaches the ports can read files of this machine: use it in a network that you trust.

    \b
    Example:
      mrcnn input-server --port 5050
      mrcnn train mask_rcnn_r50_fpn_1x train.input=service train.input_servers=[host1:5050] data.train=...
    """
    os.environ['CUDA_VISIBLE_DEVICES'] = '-1'       # decoding needs no GPU
    from mrcnn_tf.input.tuning import PARALLEL
    from mrcnn_tf.training.input_server import running, versions
    from mrcnn_tf.training.strategies import end_at_once

    host = host or socket.gethostname()
    with deferred_end() as wait, running(host, port) as ports:
        installed = ', '.join(f'{name} {version}' for name, version in versions().items())
        typer.echo(f'input server {host}:{ports.greeting} (tf.data service on ports {ports.dispatcher} and '
                   f'{ports.worker}), {PARALLEL} cores, {installed}; Ctrl-C stops it')
        wait()
        end_at_once(0)      # a server may wait for the trainings that are connected

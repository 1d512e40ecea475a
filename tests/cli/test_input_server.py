"""`mrcnn input-server`: a port in use. tests/training/test_input_service.py starts one and ends it by SIGTERM."""
from __future__ import annotations

import socket

from tests.cli.runner import mrcnn


def test_a_port_in_use_is_one_line() -> None:
    """Also one of the two ports behind the first."""
    with socket.create_server(('', 0)) as used:
        port = used.getsockname()[1]
        result = mrcnn('input-server', '--port', port - 1)
    assert result.exit_code == 1 and result.stderr.startswith(
        f'mrcnn: error: the input server cannot listen on port {port}: Address already in use')
    assert result.stderr.endswith('; end the program that uses it, or give the server another port\n')

"""The page in a browser: each way to give it an image."""
from __future__ import annotations

import http.server
import io
import json
import pathlib
import re
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from mrcnn_tf.serving.server import page
from tests.browser import needs_chromium, open_page

_WAYS = ('drop', 'paste', 'file', 'camera')
_DRIVER = """<script>
(async () => {
  const log = document.createElement('pre');
  log.id = 'log';
  for (const way of %s) {
    $('result').hidden = true;
    const content = await (await fetch('/image.png')).blob(), transfer = new DataTransfer();
    transfer.items.add(new File([content], way + '.png', {type: 'image/png'}));
    if (way === 'drop') document.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, cancelable: true}));
    else if (way === 'paste') document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer}));
    else {
      $(way).files = transfer.files;
      $(way).dispatchEvent(new Event('change'));
    }
    for (let i = 0; i < 2000 && $('result').hidden && $('message').className !== 'error'; i++) {
      await fetch('/soon');     // Chromium's virtual time, which setTimeout waits for, may run ahead of an answer
    }
    log.textContent += `${way}|${$('message').textContent}|${$('shown').textContent}|${name}\\n`;
  }
  document.body.append(log);
})();
</script>"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page with a driver, an image, and made-up answers; keeps what it is asked to detect in."""
    image = b''
    given: list[bytes]

    def do_GET(self) -> None:    # noqa: N802    # named by the base class
        model = {'name': 'pets', 'version': 1, 'categories': [{'name': 'cat'}], 'exif': 'apply', 'max_bytes': 10 ** 6}
        driver = _DRIVER % json.dumps(_WAYS)
        if self.path == '/soon':
            time.sleep(.02)
        self._answer({'/': page.html() + driver.encode(), '/image.png': self.image}.get(
            self.path, json.dumps(model).encode()))

    def do_POST(self) -> None:    # noqa: N802
        self.given.append(self.rfile.read(int(self.headers['Content-Length'])))
        instances = [{'category': 'cat', 'score': score, 'bbox': [4, 4, 20, 10]} for score in (.9, .8, .1)]
        self._answer(json.dumps({'status': 'OK', 'width': 40, 'height': 30, 'milliseconds': 5,
                                 'instances': instances}).encode())

    def _answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header('Content-Length', str(len(content)))
        self.send_header('Content-Type', 'text/html; charset=utf-8' if self.path == '/' else 'application/json')
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a server with the page."""
    stream = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), 128, np.uint8)).save(stream, 'PNG')
    Handler.image, Handler.given = stream.getvalue(), []
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{server.server_address[1]}/'
        server.shutdown()
        thread.join()


@needs_chromium
def test_an_image_is_dropped_pasted_chosen_or_photographed(address: str, tmp_path: pathlib.Path) -> None:
    shown = open_page(address, tmp_path, '--dump-dom', '--virtual-time-budget=60000')
    log = re.search('<pre id="log">(.*?)</pre>', shown, re.DOTALL)
    assert log, shown[-500:]
    for way, line in zip(_WAYS, log[1].strip().splitlines(), strict=True):
        assert re.fullmatch(
            rf'{way}\|40 × 30 px. Server: 0.01 s, in all .* s.\|2 detections, 1 hidden\|{way}.png', line)
    assert Handler.given == [Handler.image] * len(_WAYS)

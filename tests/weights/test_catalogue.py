"""The catalogue of published weights, and fetching from a server of this machine."""
from __future__ import annotations

import functools
import hashlib
import http.server
import pathlib
import threading
from collections.abc import Iterator

import pytest

from mrcnn_tf.weights import catalogue
from mrcnn_tf.weights.catalogue import CatalogueError, Checkpoint
from tests.paths import ROOT

CONTENT = b'weights' * 1000


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a file on a server, with an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    (tmp_path / 'served').mkdir()
    (tmp_path / 'served' / 'a.pkl').write_bytes(CONTENT)
    handler = functools.partial(Quiet, directory=str(tmp_path / 'served'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/a.pkl'
        server.shutdown()


def checkpoint(url: str, digest: str | None = None) -> Checkpoint:
    published = digest or hashlib.md5(CONTENT).hexdigest()[:6]
    return Checkpoint('small', 'detectron2', url, 1., None, ('md5', published), None, 'MIT')


def test_a_file_is_fetched_once_and_checked(address: str, tmp_path: pathlib.Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    path = catalogue.fetch(checkpoint(address))
    assert path == tmp_path / 'cache' / 'mrcnn_tf' / 'a.pkl' and path.read_bytes() == CONTENT
    (tmp_path / 'served' / 'a.pkl').unlink()
    assert catalogue.fetch(checkpoint(address)) == path


def test_a_mirror_replaces_the_address(address: str) -> None:
    assert catalogue.fetch(checkpoint('http://127.0.0.1:1/a.pkl'), address).is_file()


def test_a_wrong_checksum_leaves_nothing(address: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(CatalogueError, match='its md5 begins with .* and that of small with 000000; .* fetch it again'):
        catalogue.fetch(checkpoint(address, '000000'))
    assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize('url', ['missing.pkl', 'http://127.0.0.1:1/a.pkl', 'no address'])
def test_without_the_file_the_error_says_what_to_do(address: str, url: str, tmp_path: pathlib.Path) -> None:
    given = address.replace('a.pkl', url) if url == 'missing.pkl' else url
    with pytest.raises(CatalogueError) as error:
        catalogue.fetch(checkpoint(address), given)
    message = str(error.value)
    assert f'cannot fetch {given}' in message and '\n' not in message
    assert all(word in message for word in ('https_proxy', '--url', str(tmp_path / 'cache' / 'mrcnn_tf' / 'a.pkl')))


def test_a_fetched_file_is_found_for_fine_tuning(address: str) -> None:
    assert catalogue.find_fetched('mask_rcnn') is None
    catalogue.cache().mkdir(parents=True)
    (catalogue.cache() / 'model_final_f10217.pkl').touch()
    assert catalogue.find_fetched('mask_rcnn') == 'mask_rcnn_R_50_FPN_3x'
    assert catalogue.find_fetched('faster_rcnn') is None


def test_an_unknown_name_suggests_a_similar_one() -> None:
    with pytest.raises(CatalogueError, match='no weights mask_rcnn_R50_FPN_3x; did you mean mask_rcnn_R_50_FPN_3x?'):
        catalogue.get('mask_rcnn_R50_FPN_3x')


def test_the_catalogue_agrees_with_the_table_of_published_ap() -> None:
    """docs/parity.md lists the same files with the same AP, except for the two RPNs and Fast R-CNN."""
    lines = (ROOT / 'docs' / 'parity.md').read_text().splitlines()
    rows = [[cell.strip(' `') for cell in line.split('|')[3:6]] for line in lines
            if line.startswith(('| torchvision |', '| Detectron2 |')) and ('.pth`' in line or '.pkl`' in line)]
    listed = {each.file: [f'{ap:.1f}' if ap else '-' for ap in (each.box_ap, each.mask_ap)]
              for each in catalogue.CHECKPOINTS if not each.name.startswith(('rpn', 'fast_'))}
    assert {file: aps for file, *aps in rows} == listed
    assert len({each.name for each in catalogue.CHECKPOINTS}) == len(catalogue.CHECKPOINTS)


def test_the_table_has_a_line_each() -> None:
    lines = catalogue.table().splitlines()
    assert len(lines) == 1 + len(catalogue.CHECKPOINTS)
    assert lines[3].split() == ['maskrcnn_resnet50_fpn', 'torchvision', '37.9', '34.6', '170', 'BSD-3-Clause', 'sha256',
                                'bf2d0c1e...', 'https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth']

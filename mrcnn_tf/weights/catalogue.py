"""Published checkpoints that can be imported: addresses, licenses, published AP; and fetching them.

A publisher gives the beginning of a checksum in the name of the file: torchvision of the sha256, Detectron2 of the md5.
AP is that of the publisher on COCO val2017. Sources: torchvision's weight entries, Detectron2's MODEL_ZOO.md. None of
them was measured with this code.
"""
from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import pathlib
import urllib.error
import urllib.request
from typing import NamedTuple

from mrcnn_tf import files
from mrcnn_tf.files.progress import progress_bar
from mrcnn_tf.files.text import error_line, one_line

_BLOCK = 2 ** 20
_TIMEOUT = 60                      # seconds without an answer
_TORCHVISION, _DETECTRON2 = 'https://download.pytorch.org/models', 'https://dl.fbaipublicfiles.com/detectron2'


class CatalogueError(ValueError):
    """No such weights, or they cannot be fetched; the message is one line with the remedy."""


class Checkpoint(NamedTuple):
    """A published file of weights.

    Attributes:
        name: by which `mrcnn import-weights NAME` knows it.
        framework: 'torchvision' or 'detectron2'.
        url: its address.
        box_ap, mask_ap: published; None: none.
        digest: algorithm and beginning of its checksum.
        megabytes: size of the file; None: not published.
        license: of the weights.
    """
    name: str
    framework: str
    url: str
    box_ap: float | None
    mask_ap: float | None
    digest: tuple[str, str]
    megabytes: int | None
    license: str

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.url.rpartition('/')[2]


def _torchvision(name: str, suffix: str, box_ap: float, mask_ap: float | None, megabytes: int | None) -> Checkpoint:
    return Checkpoint(name, 'torchvision', f'{_TORCHVISION}/{name}_coco-{suffix}.pth', box_ap, mask_ap,
                      ('sha256', suffix), megabytes, 'BSD-3-Clause')


def _detectron2(path: str, number: int, suffix: str, box_ap: float | None, mask_ap: float | None = None) -> Checkpoint:
    return Checkpoint(path.rpartition('/')[2], 'detectron2', f'{_DETECTRON2}/{path}/{number}/model_final_{suffix}.pkl',
                      box_ap, mask_ap, ('md5', suffix), None, 'CC-BY-SA-3.0')


CHECKPOINTS = (
    _torchvision('fasterrcnn_resnet50_fpn', '258fb6c6', 37.0, None, None),
    _torchvision('fasterrcnn_resnet50_fpn_v2', 'dd69338a', 46.7, None, 167),
    _torchvision('maskrcnn_resnet50_fpn', 'bf2d0c1e', 37.9, 34.6, 170),
    _torchvision('maskrcnn_resnet50_fpn_v2', '73cbd019', 47.4, 41.8, None),
    _detectron2('COCO-Detection/rpn_R_50_C4_1x', 137258005, '450694', None),
    _detectron2('COCO-Detection/rpn_R_50_FPN_1x', 137258492, '02ce48', None),
    _detectron2('COCO-Detection/fast_rcnn_R_50_FPN_1x', 137635226, 'e5f7ce', 37.8),
    _detectron2('COCO-Detection/faster_rcnn_R_50_C4_1x', 137257644, '721ade', 35.7),
    _detectron2('COCO-Detection/faster_rcnn_R_50_DC5_1x', 137847829, '51d356', 37.3),
    _detectron2('COCO-Detection/faster_rcnn_R_50_FPN_1x', 137257794, 'b275ba', 37.9),
    _detectron2('COCO-Detection/faster_rcnn_R_50_C4_3x', 137849393, 'f97cb7', 38.4),
    _detectron2('COCO-Detection/faster_rcnn_R_50_DC5_3x', 137849425, '68d202', 39.0),
    _detectron2('COCO-Detection/faster_rcnn_R_50_FPN_3x', 137849458, '280758', 40.2),
    _detectron2('COCO-Detection/faster_rcnn_R_101_C4_3x', 138204752, '298dad', 41.1),
    _detectron2('COCO-Detection/faster_rcnn_R_101_DC5_3x', 138204841, '3e0943', 40.6),
    _detectron2('COCO-Detection/faster_rcnn_R_101_FPN_3x', 137851257, 'f6e8b1', 42.0),
    _detectron2('COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x', 139173657, '68b088', 43.0),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x', 137259246, '9243eb', 36.8, 32.2),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x', 137260150, '4f86c3', 38.3, 34.2),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x', 137260431, 'a54504', 38.6, 35.2),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x', 137849525, '4ce675', 39.8, 34.4),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x', 137849551, '84107b', 40.0, 35.9),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x', 137849600, 'f10217', 41.0, 37.2),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x', 138363239, 'a2914c', 42.6, 36.7),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x', 138363294, '0464b7', 41.9, 37.3),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x', 138205316, 'a3ec72', 42.9, 38.6),
    _detectron2('COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x', 139653917, '2d9806', 44.3, 39.5),
    _detectron2('Misc/cascade_mask_rcnn_R_50_FPN_1x', 138602847, 'e9d89b', 42.1, 36.4),
    _detectron2('Misc/cascade_mask_rcnn_R_50_FPN_3x', 144998488, '480dd8', 44.3, 38.5))
# Weights for fine-tuning, the preferred first: a small network, which Detectron2's pickles need no PyTorch to read.
_TO_FINETUNE = {'mask_rcnn': ('mask_rcnn_R_50_FPN_3x', 'maskrcnn_resnet50_fpn'),
                'faster_rcnn': ('faster_rcnn_R_50_FPN_3x', 'fasterrcnn_resnet50_fpn')}


def get(name: str) -> Checkpoint:
    """Return the checkpoint of a name; raises CatalogueError if there is none."""
    found = next((each for each in CHECKPOINTS if each.name == name), None)
    if found is None:
        close = difflib.get_close_matches(name, [each.name for each in CHECKPOINTS], 1)
        hint = f'did you mean {close[0]}? ' if close else ''
        raise CatalogueError(f'no weights {one_line(name, 100)}; {hint}`mrcnn weights` lists all names')
    return found


def cache() -> pathlib.Path:
    """Return the directory of fetched files: ~/.cache/mrcnn_tf, or below XDG_CACHE_HOME."""
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'mrcnn_tf'


def find_fetched(kind: str) -> str | None:
    """Return the name of a fetched checkpoint to fine-tune, of a kind of detector, that can be read here; or None."""
    readable = ['.pkl', *(['.pth'] if importlib.util.find_spec('torch') else [])]
    return next((name for name in _TO_FINETUNE[kind]
                 if (cache() / (file := get(name).file)).is_file() and pathlib.Path(file).suffix in readable), None)


def fetch(checkpoint: Checkpoint, url: str | None = None) -> pathlib.Path:
    """Return the file of a checkpoint, after fetching it if it is not in the cache.

    Args:
        checkpoint: of the catalogue.
        url: address of a mirror; None: the publisher's.

    Raises:
        CatalogueError: the network does not reach it, or the file has another checksum. The message says what to do.
        OSError: the disk is full, permission is denied.
    """
    path = cache() / checkpoint.file
    if path.is_file():
        _check(checkpoint, path, path)
        return path
    address = url or checkpoint.url
    with files.atomic_path(path) as temporary:
        try:
            _download(address, temporary, checkpoint.name)
        except (urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()          # it is the answer of the server too
            raise CatalogueError(
                f'{checkpoint.name}: cannot fetch {address} ({error_line(error)}); where a proxy is needed, set '
                f'https_proxy; give a mirror by --url; or download the file on another machine and copy it to {path}'
            ) from None
        _check(checkpoint, temporary, address)
    return path


def _download(address: str, path: pathlib.Path, name: str) -> None:
    with urllib.request.urlopen(address, timeout=_TIMEOUT) as answer, path.open('wb') as file:    # noqa: S310
        total = int(answer.headers.get('Content-Length') or 0)
        with progress_bar(name, total // _BLOCK, unit='MiB') as update:
            while block := answer.read(_BLOCK):
                file.write(block)
                update(file.tell() // _BLOCK)
        if total and file.tell() != total:
            raise ConnectionError(f'it ended after {file.tell():,} of {total:,} bytes')


def _check(checkpoint: Checkpoint, path: pathlib.Path, origin: pathlib.Path | str) -> None:
    """Raise CatalogueError if the checksum of a file is not the published one."""
    algorithm, expected = checkpoint.digest
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with files.open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    if not found.startswith(expected):
        raise CatalogueError(
            f'{origin}: its {algorithm} begins with {found[:len(expected)]}, and that of {checkpoint.name} with '
            f'{expected}; the file is damaged or another one: remove it and fetch it again')


def table() -> str:
    """Return all checkpoints as a text table."""
    heading = ('name', 'framework', 'box AP', 'mask AP', 'MB', 'license', 'checksum', 'address')
    rows = [heading, *((each.name, each.framework, _cell(each.box_ap), _cell(each.mask_ap), _cell(each.megabytes),
                        each.license, f'{each.digest[0]} {each.digest[1]}...', each.url) for each in CHECKPOINTS)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def _cell(value: float | None) -> str:
    return '-' if value is None else str(value)

"""Read files of proposals: pickles of Detectron, .npz arrays, and .mat files of Selective Search.

m proposals of an image. Boxes are returned as float32 [y1, x1, y2, x2] in px of the image with continuous edges.
"""
from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from data_tools import selective_search
from data_tools.issues import ConversionError
from mrcnn_tf import files
from mrcnn_tf.files import restricted_pickle
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input.records import Proposals

_COLUMNS = {'yxyx': (0, 1, 2, 3), 'xyxy': (1, 0, 3, 2), 'xywh': (1, 0, 3, 2)}
_DETECTRON_MODES = {0: 'xyxy', 1: 'xywh'}     # BoxMode.XYXY_ABS, XYWH_ABS


def read(path: str | os.PathLike[str]) -> dict[str, Proposals]:
    """Return the proposals of a file by image id as text, in the order of the file.

    - `.pkl`: Detectron's and Detectron2's dict of ids (or indexes), boxes, scores (or objectness_logits) and bbox_mode
      (0: x1, y1, x2, y2, the default; 1: x1, y1, width, height).
    - `.npz`: ids [N], counts [N] (m of each image), boxes [sum of counts, 4], scores [sum of counts] (may be absent)
      and order, a text: 'yxyx' (the default), 'xyxy' or 'xywh'.
    - `.mat`: Selective Search as published for Fast R-CNN: cells boxes (y1, x1, y2, x2, pixels from 1 on, the last
      included) and images (names).

    Without scores, the first proposal gets the highest score.

    Raises:
        ConversionError: the file does not exist, is damaged, or holds something else.
        PickleError: the pickle needs more than arrays.
    """
    path = pathlib.Path(path)
    readers: Mapping[str, Callable[[pathlib.Path], Iterator[tuple[Any, Proposals]]]] = {
        '.pkl': _read_pickle, '.pickle': _read_pickle, '.npz': _read_arrays, '.mat': _read_mat}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConversionError(f'{path}: unknown file type; give a .pkl of Detectron, an .npz, or a .mat')
    if not path.is_file():
        raise ConversionError(f'{path}: no such file; give a .pkl of Detectron, an .npz, or a .mat')
    by_image: dict[str, Proposals] = {}
    for image_id, proposals in reader(path):
        key = _as_text(image_id)
        if key in by_image:
            raise ConversionError(f'{path}: image id {key} occurs twice; keep one')
        by_image[key] = proposals
    return by_image


def _read_pickle(path: pathlib.Path) -> Iterator[tuple[Any, Proposals]]:
    data = restricted_pickle.load(path)
    columns = [_first_of(data, path, *names) for names in (
        ('ids', 'indexes'), ('boxes',), ('scores', 'objectness_logits'))]
    ids, boxes, scores = map(len, columns)
    if not ids == boxes == scores:
        raise ConversionError(f'{path}: {ids} ids, {boxes} lists of boxes and {scores} lists of scores; expected as '
                              'many of each: copy it again')
    mode = data.get('bbox_mode', 0)
    order = _DETECTRON_MODES.get(int(mode)) if isinstance(mode, (int, np.integer)) else None
    if order is None:
        raise ConversionError(f'{path}: bbox_mode is {mode!r:.20}, expected 0 (x1, y1, x2, y2) or 1 (x, y, width, '
                              'height)')
    for image_id, of_image, scored in zip(*columns, strict=True):
        yield image_id, _proposals(of_image, scored, order, f'{path}: image {image_id!s:.40}')


def _first_of(data: Any, path: pathlib.Path, *names: str) -> Any:
    column = next((data[name] for name in names if name in data), None) if isinstance(data, dict) else None
    if not isinstance(column, (list, tuple)) and not (isinstance(column, np.ndarray) and column.ndim):
        raise ConversionError(f'{path}: no list {" or ".join(map(repr, names))}; give proposals of Detectron')
    return column


def _read_arrays(path: pathlib.Path) -> Iterator[tuple[Any, Proposals]]:
    try:
        with files.open_regular(path) as stream, np.load(stream, allow_pickle=False) as opened:
            arrays = {name: np.atleast_1d(opened[name]) for name in opened.files}
    except Exception as error:      # zip files and arrays fail in many ways
        raise ConversionError(f'{path}: cannot be read ({error_line(error)}); write it with numpy.savez') from None
    missing = {'ids', 'counts', 'boxes'} - set(arrays)
    if missing:
        raise ConversionError(f'{path}: no array {" or ".join(map(repr, sorted(missing)))}; see mrcnn convert '
                              'proposals --help')
    order = str(np.squeeze(arrays.get('order', 'yxyx')))
    if order not in _COLUMNS:
        raise ConversionError(f'{path}: order is {order!r:.20}, expected one of {", ".join(_COLUMNS)}')
    ids, counts = arrays['ids'].ravel(), arrays['counts'].ravel()
    if len(ids) != len(counts) or counts.dtype.kind not in 'iu' or (counts < 0).any() or counts.sum() != len(
            arrays['boxes']):
        raise ConversionError(f'{path}: {len(ids)} ids, {len(counts)} counts of {counts.sum()} boxes together, and '
                              f'{len(arrays["boxes"])} boxes; give one id and count per image, and counts that '
                              'add up to the boxes')
    edges = np.cumsum([0, *counts.tolist()])
    scores = arrays.get('scores')
    for image_id, first, last in zip(ids.tolist(), edges, edges[1:], strict=False):
        yield image_id, _proposals(arrays['boxes'][first:last], None if scores is None else scores[first:last], order,
                                   f'{path}: image {image_id!s:.40}')


def _read_mat(path: pathlib.Path) -> Iterator[tuple[Any, Proposals]]:
    try:
        from scipy import io
    except ImportError:
        raise ConversionError(f'{path}: reading .mat files needs scipy: {install("proposals")}') from None
    try:
        with files.open_regular(path) as stream:
            data = io.loadmat(stream, variable_names=['boxes', 'images'])
    except NotImplementedError:
        raise ConversionError(f'{path}: it has the format of MATLAB 7.3; save it in MATLAB with -v7') from None
    except Exception as error:      # as above
        raise ConversionError(f'{path}: not a .mat file, or cut off ({error_line(error)}); copy it again') from None
    cells = [data.get(name) for name in ('images', 'boxes')]
    if not all(isinstance(cell, np.ndarray) and cell.dtype == object for cell in cells) or len(
            {cell.size for cell in cells}) > 1:
        raise ConversionError(f'{path}: no cells "boxes" and "images" of one length; give a file of Selective Search '
                              'as published for Fast R-CNN')
    for name, boxes in zip(*(cell.ravel() for cell in cells), strict=True):
        # Pixels count from 1 and a box includes its last pixel, so only the first edges move.
        yield ''.join(np.ravel(name).tolist()), _proposals(
            boxes, None, 'yxyx', f'{path}: image {name!s:.40}', first_edges_from=1)


def _proposals(boxes: Any, scores: Any, order: str, origin: str, first_edges_from: float = 0) -> Proposals:
    """Return boxes [m, 4], given in this order of columns, and scores [m]; None: by order."""
    try:
        boxes = np.asarray(boxes, np.float32)
        boxes = boxes.reshape(len(boxes), 4)[:, _COLUMNS[order]]
        boxes[:, :2] -= first_edges_from
        scores = selective_search.rank_scores(len(boxes)) if scores is None else np.asarray(scores, np.float32).ravel()
    except (TypeError, ValueError) as error:
        raise ConversionError(f'{origin}: expected four numbers per box and one score ({error_line(error)})') from None
    if len(scores) != len(boxes):
        raise ConversionError(f'{origin}: {len(boxes)} boxes and {len(scores)} scores; give one score per box')
    if order == 'xywh':
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return Proposals(boxes, scores)


def _as_text(image_id: Any) -> str:
    """Return an id as records hold it: '139' for 139 and 139.0."""
    image_id = image_id.item() if isinstance(image_id, np.generic) else image_id
    if isinstance(image_id, float) and image_id.is_integer():
        image_id = int(image_id)
    return image_id.decode('utf-8', 'replace') if isinstance(image_id, bytes) else str(image_id)

"""Precomputed proposals beside existing records: a new set, its images joined with their proposals by source id.

N images, m proposals of one, T the most that are kept of one. Boxes are float32 [y1, x1, y2, x2] in px of the image,
continuous edges; files in other conventions are converted here. What is left out or clipped is counted in the manifest.
"""
from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools import selective_search
from data_tools.issues import ConversionError, Fault, Log, Unusable
from data_tools.sharding import writer
from mrcnn_tf import files
from mrcnn_tf.files import restricted_pickle
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.records import Proposals

_PER_BOX = 20      # bytes of a record: four floats and a score
_COLUMNS = {'yxyx': (0, 1, 2, 3), 'xyxy': (1, 0, 3, 2), 'xywh': (1, 0, 3, 2)}
_DETECTRON_MODES = {0: 'xyxy', 1: 'xywh'}     # BoxMode.XYXY_ABS, XYWH_ABS
_EXTRA = "pip install 'mrcnn-tf[proposals]'"


@dataclass(frozen=True)
class Item:
    """A record to be, by the one that it adds to."""
    place: record_reader.Place
    shard: str                    # sha256 of the file it lies in: of another one, this is another item
    image: str                    # source id, for messages
    given: Proposals | None       # as the file has them; None: it has none, or they are computed
    bytes: int                    # of the record, roughly


@dataclass(frozen=True)
class Context:
    """What is the same for all images of a set."""
    top: int                      # T
    mode: str | None              # of selective search; None: proposals are given


def attach(manifest: str | os.PathLike[str], proposals: str | os.PathLike[str] | None,
           output: str | os.PathLike[str], name: str, top: int = 2000, mode: str = 'fast',
           options: writer.Options = writer.DEFAULTS) -> Manifest:
    """Writes the records of a set with proposals as a set of another name or place, and prints a summary.

    Args:
        manifest: of the set that has none; it stays as it is.
        proposals: file of proposals (see `read`); None: they are computed by Selective Search.
        output: directory of the new set.
        name: of the new set.
        top: at most so many of an image are kept, those of the highest score.
        mode: 'fast' or 'quality', of Selective Search.

    Returns:
        The manifest that was written. An image without proposals is kept with none, and counted.

    Raises:
        ConversionError: `proposals` cannot be used or fits no image, the set would replace itself, OpenCV is missing.
        ManifestError, RecordError: the old set cannot be used.
        OSError: the disk is full or would be, no permission; nothing of the new set is left.
    """
    old = Manifest.read(manifest)
    _check_place(pathlib.Path(manifest), pathlib.Path(output), name)
    log = Log()
    log.extend(Log(old.dropped, old.repaired, old.kept))
    if proposals is None:
        selective_search.check(mode)
        items = [item for _, item in _items(manifest, top)]
        origin, context = f'selective search, {mode}', Context(top, mode)
    else:
        items = _matched(manifest, pathlib.Path(proposals), top, log)
        origin, context = str(proposals), Context(top, None)
    head = dataclasses.replace(old, name=name, dropped=log.dropped, repaired=log.repaired, kept=log.kept, shards=[],
                               has_proposals=True, proposals_from=origin)
    written = writer.write(items, functools.partial(_example, context), head, output, options)
    writer.summarize(written)
    return written


def read(path: str | os.PathLike[str]) -> dict[str, Proposals]:
    """Proposals by image id, as text, of a file; unsorted, as they are.

    - `.pkl`: Detectron's and Detectron2's dict of ids (or indexes), boxes, scores (or objectness_logits) and bbox_mode
      (0: x1, y1, x2, y2, the default; 1: x1, y1, width, height).
    - `.npz`: ids [N], counts [N] (m of each image), boxes [sum of counts, 4], scores [sum of counts] (may be absent)
      and order, a text: 'yxyx' (the default), 'xyxy' or 'xywh'.
    - `.mat`: Selective Search as published for Fast R-CNN: cells boxes (y1, x1, y2, x2, pixels from 1 on, the last
      included) and images (names).

    Without scores the order counts: the first has the highest.

    Raises:
        ConversionError: no such file, a damaged one, or one that holds something else.
        PickleError: a pickle that asks for more than arrays.
    """
    path = pathlib.Path(path)
    readers: Mapping[str, Callable[[pathlib.Path], Iterator[tuple[Any, Proposals]]]] = {
        '.pkl': _read_pickle, '.pickle': _read_pickle, '.npz': _read_arrays, '.mat': _read_mat}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConversionError(f'{path}: of no known kind; give a .pkl of Detectron, an .npz, or a .mat')
    if not path.is_file():
        raise ConversionError(f'{path}: no such file; give a .pkl of Detectron, an .npz, or a .mat')
    found: dict[str, Proposals] = {}
    for image_id, proposals in reader(path):
        key = _as_text(image_id)
        if key in found:
            raise ConversionError(f'{path}: image id {key} comes twice; keep one')
        found[key] = proposals
    return found


def _check_place(manifest: pathlib.Path, output: pathlib.Path, name: str) -> None:
    if (output / f'{name}.json').resolve() == manifest.resolve():
        raise ConversionError(f'{manifest}: the new set would replace it; choose another name or output')


def _items(manifest: str | os.PathLike[str], top: int) -> Iterator[tuple[tuple[str, str], Item]]:
    """Each record as an item without proposals, with the two names that a file may call its image by."""
    described = Manifest.read(manifest)
    sums = dict(zip(described.shard_paths(manifest), (shard.sha256 for shard in described.shards), strict=True))
    for place, serialized in record_reader.places(manifest):
        source_id, filename = record_reader.names(serialized, f'{place.file}: record {place.number}')
        yield (source_id, pathlib.PurePosixPath(filename).stem), Item(
            place, sums[place.file], source_id, None, place.length + _PER_BOX * top)


def _matched(manifest: str | os.PathLike[str], path: pathlib.Path, top: int, log: Log) -> list[Item]:
    given = read(path)
    items, used = [], set()
    for names, item in _items(manifest, top):
        key = next((each for each in names if each in given), None)
        if key is None:
            log.keep(Fault('no proposals for the image', 'kept with none'), item.image)
            items.append(dataclasses.replace(item, bytes=item.place.length))
            continue
        used.add(key)
        kept = min(top, len(given[key].scores))
        items.append(dataclasses.replace(item, given=given[key], bytes=item.place.length + _PER_BOX * kept))
    if not used:
        raise ConversionError(f'{path}: its image ids ({_some(list(given))}) are no source ids of {manifest} '
                              f'({_some([item.image for item in items])}); give the proposals of this set')
    for key in given:
        if key not in used:
            log.drop(Fault('proposals for a missing image', f'{len(given[key].scores)} boxes'), key)
    return items


def _some(names: Sequence[str]) -> str:
    return f'{", ".join(f"{name:.40}" for name in names[:3])}{", ..." if len(names) > 3 else ""}' if names else 'none'


def _example(context: Context, item: Item) -> tuple[records.Annotated | None, Log]:
    """The record with its proposals, and what was left out or clipped."""
    log = Log()
    example = record_reader.decode(record_reader.read(item.place), f'{item.place.file}: record {item.place.number}')
    given = item.given
    if context.mode is not None:
        try:
            given = selective_search.propose(example.encoded, context.mode)
        except Unusable as unusable:
            log.keep(Fault('no proposals for the image', unusable.fault.detail), item.image)
    if given is None:
        given = Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    example.proposals = _best(given, (example.height, example.width), context.top, item.image, log)
    return example, log


def _best(given: Proposals, size: tuple[int, int], top: int, image: str, log: Log) -> Proposals:
    """The T best that lie in the image, clipped to it, best first; of equal ones the first in the file."""
    finite = np.isfinite(given.boxes).all(axis=1) & np.isfinite(given.scores)
    _log_some(log.drop, 'non-finite proposals', ~finite, image)
    given = Proposals(given.boxes[finite], given.scores[finite])
    clipped = np.clip(given.boxes, 0, np.array(size * 2, np.float32))
    usable = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    _log_some(log.drop, 'proposals without area in the image', ~usable, image)
    beyond = usable & (np.abs(given.boxes - clipped) > 1e-3).any(axis=1)
    _log_some(log.repair, 'proposals clipped', beyond, image)
    order = np.argsort(-given.scores[usable], kind='stable')[:top]
    return Proposals(clipped[usable][order], given.scores[usable][order])


def _log_some(note: Callable[[Fault, Any], None], reason: str, some: np.ndarray, image: str) -> None:
    found, count = np.count_nonzero(some), len(some)
    if found:
        note(Fault(reason, f'{found} of {count}'), image)


def _read_pickle(path: pathlib.Path) -> Iterator[tuple[Any, Proposals]]:
    data = restricted_pickle.load(path)
    columns = [_first_of(data, path, *names) for names in (
        ('ids', 'indexes'), ('boxes',), ('scores', 'objectness_logits'))]
    ids, boxes, scores = map(len, columns)
    if not ids == boxes == scores:
        raise ConversionError(f'{path}: {ids} ids, {boxes} lists of boxes and {scores} of scores; copy it again')
    mode = data.get('bbox_mode', 0)
    order = _DETECTRON_MODES.get(int(mode)) if isinstance(mode, (int, np.integer)) else None
    if order is None:
        raise ConversionError(f'{path}: bbox_mode is {mode!r:.20}; 0 (x1, y1, x2, y2) and 1 (x, y, width, height) '
                              'are read')
    for image_id, of_image, scored in zip(*columns, strict=True):
        yield image_id, _proposals(of_image, scored, order, f'{path}: image {image_id!s:.40}')


def _first_of(data: Any, path: pathlib.Path, *names: str) -> Any:
    found = next((data[name] for name in names if name in data), None) if isinstance(data, dict) else None
    if not isinstance(found, (list, tuple)) and not (isinstance(found, np.ndarray) and found.ndim):
        raise ConversionError(f'{path}: no list {" or ".join(map(repr, names))}; give proposals of Detectron')
    return found


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
        raise ConversionError(f'{path}: order is {order!r:.20}; give one of {", ".join(_COLUMNS)}')
    ids, counts = arrays['ids'].ravel(), arrays['counts'].ravel()
    if len(ids) != len(counts) or counts.dtype.kind not in 'iu' or (counts < 0).any() or counts.sum() != len(
            arrays['boxes']):
        raise ConversionError(f'{path}: {len(ids)} ids, {len(counts)} counts of {counts.sum()} boxes together, and '
                              f'{len(arrays["boxes"])} boxes; they do not fit')
    edges = np.cumsum([0, *counts.tolist()])
    scores = arrays.get('scores')
    for image_id, first, last in zip(ids.tolist(), edges, edges[1:], strict=False):
        yield image_id, _proposals(arrays['boxes'][first:last], None if scores is None else scores[first:last], order,
                                   f'{path}: image {image_id!s:.40}')


def _read_mat(path: pathlib.Path) -> Iterator[tuple[Any, Proposals]]:
    try:
        from scipy import io
    except ImportError:
        raise ConversionError(f'{path}: .mat files are read by scipy; {_EXTRA}') from None
    try:
        with files.open_regular(path) as stream:
            data = io.loadmat(stream, variable_names=['boxes', 'images'])
    except NotImplementedError:
        raise ConversionError(f'{path}: of MATLAB 7.3; save it there with -v7') from None
    except Exception as error:      # as above
        raise ConversionError(f'{path}: no .mat file, or a cut one ({error_line(error)}); copy it again') from None
    cells = [data.get(name) for name in ('images', 'boxes')]
    if not all(isinstance(cell, np.ndarray) and cell.dtype == object for cell in cells) or len(
            {cell.size for cell in cells}) > 1:
        raise ConversionError(f'{path}: no cells "boxes" and "images" of one length; give a file of Selective Search '
                              'as published for Fast R-CNN')
    for name, boxes in zip(*(cell.ravel() for cell in cells), strict=True):
        # Pixels from 1 on, the last included: only the first edges move.
        yield ''.join(np.ravel(name).tolist()), _proposals(
            boxes, None, 'yxyx', f'{path}: image {name!s:.40}', first_edges_from=1)


def _proposals(boxes: Any, scores: Any, order: str, origin: str, first_edges_from: float = 0) -> Proposals:
    """Boxes [m, 4] in the given order of columns and scores [m] as numbers of ours."""
    try:
        boxes = np.asarray(boxes, np.float32)
        boxes = boxes.reshape(len(boxes), 4)[:, _COLUMNS[order]]
        boxes[:, :2] -= first_edges_from
        scores = selective_search.ranked(len(boxes)) if scores is None else np.asarray(scores, np.float32).ravel()
    except (TypeError, ValueError) as error:
        raise ConversionError(f'{origin}: boxes or scores are no numbers, or not four to a box ({error})') from None
    if len(scores) != len(boxes):
        raise ConversionError(f'{origin}: {len(boxes)} boxes and {len(scores)} scores')
    if order == 'xywh':
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return Proposals(boxes, scores)


def _as_text(image_id: Any) -> str:
    """Ids as records have them: 139 and 139.0 are '139'."""
    image_id = image_id.item() if isinstance(image_id, np.generic) else image_id
    if isinstance(image_id, float) and image_id.is_integer():
        image_id = int(image_id)
    return image_id.decode('utf-8', 'replace') if isinstance(image_id, bytes) else str(image_id)

"""Detections of many images as one file in COCO's format, written image by image.

Until it is complete, the images are in a journal beside it, `.NAME.journal`: a line of JSON with the model's name, the
threshold and the source, then a line for each image.
"""
from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from pycocotools import mask as coco_mask

from mrcnn_tf import files
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving.sources import InferenceError

Entry = dict[str, Any]    # an image: id or None, file_name, height, width, instances (COCO results)
_INFO = ('model', 'threshold', 'source')


class CocoFile:
    """A file of detections that an interrupted call leaves as a journal, and the next call continues.

    Use it as a context; `finish` writes the file.

    Args:
        path: of the file.
        model: name of the model.
        threshold: the lowest score.
        source: the manifest that the images come from, because ids of two sets may be equal; '' for image files.

    Attributes:
        images: number of images so far.
        known: their names and ids.

    Raises:
        InferenceError: the file or its journal has detections of another model, threshold or source, or is another kind
            of file.
    """

    def __init__(self, path: str | os.PathLike[str], model: str, threshold: float, source: str = ''
                 ) -> None:
        self.path, self.threshold = pathlib.Path(path), threshold
        self.journal = self.path.with_name(f'.{self.path.name}.journal')
        info = dict(zip(_INFO, (model, threshold, source), strict=True))
        held, *entries = self._lines() or self._finished() or [info]
        if entries and held != info:
            model, threshold, source = (held[name] for name in _INFO)
            raise InferenceError(f'{self.path}: has detections of {model} with threshold {threshold} in '
                                 f'{source or "image files"}; choose another --output, or remove it and '
                                 f'{self.journal.name}')
        self.images = len(entries)
        self.known = {entry[name] for entry in entries for name in ('id', 'file_name')}
        self._start = ''.join(map(_line, [info, *entries]))

    def __enter__(self) -> CocoFile:
        # Written again, without the part of a line that an interrupted call may have left.
        with files.atomic_path(self.journal) as temporary:
            temporary.write_text(self._start, encoding='utf-8')
        self._stream = open(self.journal, 'a', encoding='utf-8')
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def add(self, entry: Entry) -> None:
        """Add an image to the journal."""
        self._stream.write(_line(entry))
        self._stream.flush()

    def finish(self, categories: Sequence[Category]) -> None:
        """Write the file and remove the journal. Images without an id get the next ones."""
        info, *entries = self._lines()
        used = {entry['id'] for entry in entries}
        free = (number for number in itertools.count(1) if number not in used)
        numbered = [{**entry, 'id': next(free) if entry['id'] is None else entry['id']} for entry in entries]
        instances = [(entry['id'], each) for entry in numbered for each in entry['instances']]
        files.write_json(self.path, {
            'info': {'description': 'detections of mrcnn predict', **info},
            'images': [{name: value for name, value in entry.items() if name != 'instances'} for entry in numbered],
            'categories': [{'id': each.id, 'name': each.name} for each in categories],
            'annotations': [{'id': number, 'image_id': image, **each, 'area': _area(each), 'iscrowd': 0}
                            for number, (image, each) in enumerate(instances, 1)]}, indent=None)
        self.journal.unlink()

    def _lines(self) -> list[Any]:
        """Return the complete lines of the journal."""
        if not self.journal.exists():
            return []
        return [json.loads(line) for line in files.read_text(self.journal).split('\n')[:-1]]

    def _finished(self) -> list[Any]:
        """Return what the journal of the finished file would have."""
        if not self.path.exists():
            return []
        try:
            data = files.read_json(self.path)
            entries = {image['id']: {**image, 'instances': []} for image in data['images']}
            for each in data['annotations']:
                kept = {name: each[name] for name in ('category_id', 'bbox', 'score', 'segmentation') if name in each}
                entries[each['image_id']]['instances'].append(kept)
            return [{name: data['info'][name] for name in _INFO}, *entries.values()]
        except (ValueError, LookupError, TypeError):
            raise InferenceError(f'{self.path}: is no file of `mrcnn predict`; choose another --output') from None


def _line(value: Any) -> str:
    return json.dumps(value) + '\n'


def _area(result: dict[str, Any]) -> float:
    if 'segmentation' in result:
        return float(coco_mask.area(result['segmentation']))
    *_, width, height = result['bbox']
    return float(width * height)

"""Data sets of YOLO, as Ultralytics, Roboflow and CVAT write them, as COCO's json.

    data.yaml               names of the classes; folders of the images of train, val, test
    images/train/a.jpg      an image, in a folder `images`
    labels/train/a.txt      its objects, in the folder `labels` in place of `images`; without the file, it has none

A line is an object: the number of its class, from 0, then center x, center y, width and height, or the points of its
polygon, as fractions of the image. A line that is neither becomes an annotation that the conversion reports.
"""
from __future__ import annotations

import os
import pathlib
from typing import Any

import yaml

from data_tools.file_names import SUFFIXES
from data_tools.issues import ConversionError
from mrcnn_tf import files
from mrcnn_tf.files.text import error_line

BOX_FORMAT = 'normalized-cxcywh'
SPLITS = {'train': 'train', 'val': 'val', 'valid': 'val', 'test': 'test'}


def describes(path: pathlib.Path) -> bool:
    """Return whether a yaml file names classes and a folder of training images."""
    try:
        content = _read(path)
    except ConversionError:
        return False
    return 'names' in content and 'train' in content


def folders(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the folder of the images of each split; path: of data.yaml.

    Raises:
        ConversionError: a folder does not exist.
    """
    content, found = _read(path), dict[str, pathlib.Path]()
    for key, split in SPLITS.items():
        if isinstance(content.get(key), str):
            found[split] = _folder(path, str(content.get('path') or ''), content[key])
    if 'train' not in found:
        raise ConversionError(f'{path}: train is {content.get("train")!r:.100}; name one folder of images')
    return found


def to_coco(path: pathlib.Path, images: pathlib.Path) -> dict[str, Any]:
    """Return a COCO json of the images of one split, with boxes in `BOX_FORMAT`.

    Args:
        path: of data.yaml.
        images: folder of the images.
    """
    names = _read(path)['names']
    listed = names.items() if isinstance(names, dict) else enumerate(names)
    found = sorted(each for each in images.rglob('*') if each.suffix.lower() in SUFFIXES)
    return {'categories': [{'id': number, 'name': str(name)} for number, name in listed],
            'images': [{'id': number, 'file_name': str(image.relative_to(images))}
                       for number, image in enumerate(found, 1)],
            'annotations': [{**each, 'image_id': number} for number, image in enumerate(found, 1)
                            for each in _objects(_labels(image))]}


def _labels(image: pathlib.Path) -> pathlib.Path:
    """Return the file of the objects of an image: in `labels` in place of the last `images`, or beside it."""
    head, folder, tail = str(image.parent / image.stem).rpartition(f'{os.sep}images{os.sep}')
    return pathlib.Path(f'{head}{os.sep}labels{os.sep}{tail}.txt' if folder else f'{tail}.txt')


def _objects(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [_object(line.split()) for line in files.read_text(path).splitlines() if line.strip()]


def _object(words: list[str]) -> dict[str, Any]:
    try:
        kind, numbers = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return {'category_id': 0, 'bbox': ' '.join(words)[:100]}
    if len(numbers) < 6:
        return {'category_id': kind, 'bbox': numbers, 'segmentation': None}
    x, y = numbers[::2], numbers[1::2]
    box = [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
    return {'category_id': kind, 'bbox': box, 'segmentation': [numbers]}


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(files.read_text(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConversionError(f'{path}: {error_line(error)}; give a data.yaml of YOLO') from None
    return content if isinstance(content, dict) else {}


def _folder(path: pathlib.Path, base: str, stated: str) -> pathlib.Path:
    """Return the folder that data.yaml names: relative to its `path`, to the file, or without leading `..`."""
    below = stated
    while below.startswith('../'):
        below = below[3:]
    places = (path.parent / base / stated, path.parent / stated, path.parent / below)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise ConversionError(f'{path}: there is no folder {stated!r:.100}; correct the path in {path.name}')
    return found

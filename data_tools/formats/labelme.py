"""Data sets of labelme, a json beside each image, as COCO's json.

Polygons, rectangles and circles become objects. Shapes of one label and one `group_id` are one object. Points and lines
have no area; they become annotations without a box, which the conversion reports.
"""
from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mrcnn_tf import files

_CORNERS = 32         # of a polygon in place of a circle


def describes(path: pathlib.Path) -> bool:
    """Return whether a json is one of labelme."""
    return _content(path) is not None


def to_coco(folder: pathlib.Path) -> dict[str, Any]:
    """Return a COCO json of all images with a json of labelme in a folder and below it."""
    images, objects = [], []
    contents = [(path, content) for path in sorted(folder.rglob('*.json')) if (content := _content(path))]
    for number, (path, content) in enumerate(contents, 1):
        name = re.split(r'[\\/]', str(content['imagePath']))[-1]
        images.append({'id': number, 'file_name': str(path.relative_to(folder).parent / name),
                       'height': content.get('imageHeight'), 'width': content.get('imageWidth')})
        objects += [(number, label, _annotation(shapes)) for label, shapes in _objects(content['shapes'])]
    names = sorted({label for _, label, _ in objects})
    return {'categories': [{'id': number, 'name': name} for number, name in enumerate(names, 1)], 'images': images,
            'annotations': [{**annotation, 'image_id': image, 'category_id': 1 + names.index(label)}
                            for image, label, annotation in objects]}


def _objects(shapes: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the label and the shapes of each object, in the order of their first shapes."""
    groups = dict[Any, list[dict[str, Any]]]()
    for number, shape in enumerate(shapes):
        group = shape.get('group_id')
        key = ('shape', number) if group is None else (shape.get('label'), group)
        groups.setdefault(key, []).append(shape)
    for grouped in groups.values():
        yield str(grouped[0].get('label')), grouped


def _annotation(shapes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    polygons = [polygon for shape in shapes if (polygon := _polygon(shape))]
    if not polygons:
        return {'bbox': None, 'segmentation': None}
    x, y = ([value for polygon in polygons for value in polygon[axis::2]] for axis in (0, 1))
    return {'bbox': [min(x), min(y), max(x) - min(x), max(y) - min(y)],
            # a rectangle alone is a box, not a mask
            'segmentation': None if all(shape.get('shape_type') == 'rectangle' for shape in shapes) else polygons}


def _polygon(shape: dict[str, Any]) -> list[float]:
    """Return the corners x, y, x, y, ... of a shape; [] if it has no area."""
    kind, points = shape.get('shape_type') or 'polygon', shape.get('points') or []
    if kind == 'polygon' and len(points) > 2:
        return [float(value) for point in points for value in point]
    if kind == 'rectangle' and len(points) == 2:
        (x1, y1), (x2, y2) = points
        return [x1, y1, x2, y1, x2, y2, x1, y2]
    if kind == 'circle' and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = [2 * math.pi * corner / _CORNERS for corner in range(_CORNERS)]
        return [value for angle in angles for value in (x + radius * math.cos(angle), y + radius * math.sin(angle))]
    return []


def _content(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        content = files.read_json(path)
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and isinstance(content.get('shapes'), list) and 'imagePath' in content
    return content if known else None

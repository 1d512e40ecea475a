"""Maps from the classes of a data set to classes of published weights, for fine-tuning on other classes.

A map applies to the weights that depend on the class (scores, boxes, masks); all others are copied unchanged.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import yaml

from mrcnn_tf.files import read_text
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.weights.rules import ClassMap, WeightsError

# The COCO class whose weights initialize each instance class of Cityscapes. COCO annotates a rider as a person and a
# bicycle, so the weights of riders are initialized at random, as in Mask R-CNN (appendix A).
CITYSCAPES_FROM_COCO: dict[str, str | None] = {
    'person': 'person',
    'rider': None,
    'car': 'car',
    'truck': 'truck',
    'bus': 'bus',
    'train': 'train',
    'motorcycle': 'motorcycle',
    'bicycle': 'bicycle',
}
MAPS = {'cityscapes-from-coco': CITYSCAPES_FROM_COCO}


def read_map(name: str | os.PathLike[str]) -> dict[str, str | None]:
    """Return a map of classes: one of `MAPS` by name, or that of a YAML or JSON file.

    Returns:
        For each class of the data its class in the weights, or None.

    Raises:
        WeightsError: there is no such map or file, or the file does not contain a map.
    """
    if str(name) in MAPS:
        return MAPS[str(name)]
    try:
        names = yaml.safe_load(read_text(name))
    except OSError as error:
        raise WeightsError(f'{name}: {error.strerror or error}; give {", ".join(MAPS)} or a YAML file') from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f'{name}: not YAML ({error_line(error)})') from None
    if not isinstance(names, dict) or not all(
            isinstance(ours, str) and isinstance(theirs, str | None) for ours, theirs in names.items()):
        raise WeightsError(f'{name}: expected lines such as "rider: null" and "car: car", names in quotes where YAML '
                           'would read numbers')
    return names


def class_map(target: Sequence[Category], source: Sequence[Category], names: Mapping[str, str | None]) -> ClassMap:
    """Return the label and the description of each category; arguments and errors as in `source_labels`."""
    lines = (f'{each.name} as {names[each.name]}' if names.get(each.name) else f'{each.name} at random'
             for each in target)
    return ClassMap(tuple(source_labels(target, source, names)), ', '.join(lines))


def source_labels(target: Sequence[Category], source: Sequence[Category], names: Mapping[str, str | None],
                  ) -> list[int | None]:
    """Return, for each category of `target`, the label in `source` whose weights initialize it; None: at random.

    Args:
        names: map of names in `target` to names in `source` or None, such as CITYSCAPES_FROM_COCO.

    Raises:
        WeightsError: `names` lacks a category of `target`, or maps one to a name that `source` lacks.
    """
    labels = {category.name: category.label for category in source}
    for category in target:
        if category.name not in names:
            raise WeightsError(f'class {category.name!r} is not in the map of classes; map it to a class or to None')
        wanted = names[category.name]
        if wanted is not None and wanted not in labels:
            raise WeightsError(f'class {category.name!r} is mapped to {wanted!r}, which the weights do not have; '
                               'map it to one of their classes or to None')
    return [None if name is None else labels[name] for name in (names[category.name] for category in target)]

"""Which classes of a data set begin as classes that weights were trained on: for fine-tuning with other classes.

Only class-specific weights are concerned (scores, boxes, masks); all others are taken over as they are.
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import yaml

from mrcnn_tf.files import read_text
from mrcnn_tf.files.text import error_line
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.weights.rules import ClassMap, WeightsError

# Cityscapes' 8 instance classes and the COCO class that each begins as. COCO has no riders: a person on a bicycle is a
# person and a bicycle there, so a rider's weights begin at random (as the authors of Mask R-CNN report for their
# Cityscapes results with COCO pre-training).
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
    """One of `MAPS`, or a YAML or JSON file: the class of the weights, or null, by the class of the data.

    Raises:
        WeightsError: no such map or file, or it holds something else.
    """
    if str(name) in MAPS:
        return MAPS[str(name)]
    try:
        found = yaml.safe_load(read_text(name))
    except OSError as error:
        raise WeightsError(f'{name}: {error.strerror or error}; give {", ".join(MAPS)} or a YAML file') from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f'{name}: no YAML ({error_line(error)})') from None
    if not isinstance(found, dict) or not all(
            isinstance(ours, str) and isinstance(theirs, str | None) for ours, theirs in found.items()):
        raise WeightsError(f'{name}: expected lines such as "rider: null" and "car: car", names in quotes where YAML '
                           'would read numbers')
    return found


def class_map(target: Sequence[Category], source: Sequence[Category], names: Mapping[str, str | None]) -> ClassMap:
    """What each category of `target` begins as; arguments and errors as `source_labels`."""
    begins = (f'{each.name} as {names[each.name]}' if names.get(each.name) else f'{each.name} fresh' for each in target)
    return ClassMap(tuple(source_labels(target, source, names)), ', '.join(begins))


def source_labels(target: Sequence[Category], source: Sequence[Category], names: Mapping[str, str | None],
                  ) -> list[int | None]:
    """For each category of `target`, in order, the label of `source` that it begins as; None: at random.

    Args:
        names: name in `source`, or None, by name in `target`, such as CITYSCAPES_FROM_COCO.

    Raises:
        WeightsError: a target category that `names` lacks, a name that `source` lacks.
    """
    labels = {category.name: category.label for category in source}
    for category in target:
        if category.name not in names:
            raise WeightsError(f'class {category.name!r} is not in the map of classes; map it to a class or None')
        wanted = names[category.name]
        if wanted is not None and wanted not in labels:
            raise WeightsError(f'class {category.name!r} should begin as {wanted!r}, which the weights do not have; '
                               'map it to one of theirs or None')
    return [None if name is None else labels[name] for name in (names[category.name] for category in target)]

"""Which classes of a data set begin as classes that weights were trained on: for fine-tuning with other classes.

Only class-specific weights are concerned (scores, boxes, masks); all others are taken over as they are.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from mrcnn_tf.input.records import Category

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


def source_labels(target: Sequence[Category], source: Sequence[Category], names: Mapping[str, str | None],
                  ) -> list[int | None]:
    """For each category of `target`, in order, the label of `source` that it begins as; None: at random.

    Args:
        names: name in `source`, or None, by name in `target`, such as CITYSCAPES_FROM_COCO.

    Raises:
        ValueError: a target category that `names` lacks, a name that `source` lacks.
    """
    labels = {category.name: category.label for category in source}
    for category in target:
        if category.name not in names:
            raise ValueError(f'class {category.name!r} is not in the map of classes; map it to a class or None')
        wanted = names[category.name]
        if wanted is not None and wanted not in labels:
            raise ValueError(f'class {category.name!r} should begin as {wanted!r}, which the weights do not have; '
                             'map it to one of theirs or None')
    return [None if name is None else labels[name] for name in (names[category.name] for category in target)]

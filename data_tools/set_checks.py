"""Checks of a converted set as a whole: whether too much was dropped to write it, and warnings about all of it."""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from data_tools.issues import ConversionError, describe, describe_counts
from data_tools.objects import CLIPPED, DISAGREE, OUTSIDE
from mrcnn_tf.input.manifest import IssueEntry, Manifest

EMPTY = 'image without objects'
LEFT_OUT = 'category left out'
REQUESTED = (EMPTY, LEFT_OUT)      # reasons of what an option drops: this is no loss
_RESIZED = 'were the images resized after they were annotated?'
_ELSEWHERE = 'are the polygons y, x instead of x, y, or of other images? `mrcnn inspect` shows both'
# By reason: the likely cause if most of a set is dropped for it.
_CAUSES = {
    'missing image file': 'is {images} their directory?',
    'annotation for a missing image': 'are they the annotations of other images, such as another split?',
    'category not in the list': 'is the list of categories that of another set?',
    'size mismatch': 'were the images resized or rotated after they were annotated? If the boxes fit the images, '
                     'remove "width" and "height" from the annotations',
}


class Loss(NamedTuple):
    """Numbers of what was dropped without being requested."""
    images: int
    objects: int      # those of dropped images included


def count_loss(dropped: Mapping[str, list[IssueEntry]]) -> Loss:
    """Return the numbers of images and objects that were dropped without being requested."""
    entries = [entry for reason, of_reason in dropped.items() if reason not in REQUESTED for entry in of_reason]
    return Loss(sum(entry.annotation_id is None for entry in entries),
                sum(entry.annotations if entry.annotation_id is None else 1 for entry in entries))


def check_not_empty(manifest: Manifest) -> None:
    """Raise ConversionError if no image is left, or no object although there were annotations."""
    counts = manifest.counts
    if counts.objects or (counts.images and not count_loss(manifest.dropped).objects):
        return
    what = 'object' if counts.images else 'image'
    raise ConversionError(f'{manifest.source.annotations}: no {what} is left to write '
                          f'({describe_counts(manifest.dropped) or "it lists none"}); {_cause(manifest)}')


def check(manifest: Manifest, allow_loss: bool) -> None:
    """Raise ConversionError if nothing is left of a set, or less than half of it and `allow_loss` is false."""
    check_not_empty(manifest)
    loss = _large_loss(manifest)
    if loss and not allow_loss:
        raise ConversionError(f'{manifest.source.annotations}: {loss} ({describe_counts(manifest.dropped)}); '
                              f'{_cause(manifest)}; give --allow-loss to continue with the rest')


def warnings(manifest: Manifest) -> list[str]:
    """Return warnings about the set as a whole, one line each."""
    lines = [_not_trainable(manifest), _beyond_image(manifest), _masks_elsewhere(manifest), _large_loss(manifest)]
    return [line for line in lines if line]


def _not_trainable(manifest: Manifest) -> str:
    """Return why the set has no positive to train on; '' if it has one or is empty."""
    counts = manifest.counts
    if counts.images and not counts.objects:
        return 'the set has no objects: it can serve as a test set and cannot be trained on'
    if counts.objects and counts.objects == counts.crowds:
        return (f'all {counts.objects} objects are crowds, so none is a positive: the set cannot be trained on; if '
                'each is a single object, as brush tools write it, give convert coco --no-crowds')
    return ''


def _large_loss(manifest: Manifest) -> str:
    """Return '4 of 5 objects are lost' if more than half are; else ''."""
    loss, counts = count_loss(manifest.dropped), manifest.counts
    for name, count, left in (('objects', loss.objects, counts.objects), ('images', loss.images, counts.images)):
        if count > left:
            return f'{count} of {count + left} {name} are lost'
    return ''


def _beyond_image(manifest: Manifest) -> str:
    """Return '4 of 5 objects reach beyond their image' with the likely cause if more than half do; else ''."""
    beyond = {(entry.image_id, entry.annotation_id) for action in (manifest.dropped, manifest.repaired)
              for reason in (CLIPPED, OUTSIDE) for entry in action.get(reason, [])}
    total = manifest.counts.objects + count_loss(manifest.dropped).objects
    many = 2 * len(beyond) > total
    return f'{len(beyond)} of {total} objects reach beyond their image; {_RESIZED}' if many else ''


def _masks_elsewhere(manifest: Manifest) -> str:
    """Return '4 of 5 objects have a mask elsewhere than their box' and the likely cause if most do; else ''."""
    count, total = len(manifest.kept.get(DISAGREE, ())), manifest.counts.objects
    return f'{count} of {total} objects have a mask elsewhere than their box; {_ELSEWHERE}' if 2 * count > total else ''


def _cause(manifest: Manifest) -> str:
    """Return the likely cause of the reason that dropped most, and its first entry."""
    dropped = {reason: entries for reason, entries in manifest.dropped.items() if reason not in REQUESTED}
    if not dropped:
        return f'is {manifest.source.images} their directory?'
    reason, entries = max(dropped.items(), key=lambda item: sum(max(entry.annotations, 1) for entry in item[1]))
    cause = _beyond_image(manifest) or _CAUSES.get(reason, '').format(images=manifest.source.images)
    return f'{cause} (the first: {describe(entries[0])})' if cause else f'fix them, such as {describe(entries[0])}'

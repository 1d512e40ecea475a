"""What is left of a set as a whole: whether it may be written, and what no single problem shows."""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from data_tools.issues import ConversionError, describe
from data_tools.objects import CLIPPED, DISAGREE, OUTSIDE
from mrcnn_tf.files.text import one_line
from mrcnn_tf.input.manifest import Incident, Manifest

EMPTY = 'image without objects'
LEFT_OUT = 'category left out'
ASKED_FOR = (EMPTY, LEFT_OUT)      # what an option leaves out is not lost
_BEYOND = 'were the pictures resized after they were annotated?'
_ELSEWHERE = 'are the polygons y, x instead of x, y, or of other images? `mrcnn inspect` shows both'
# What a set most of which is dropped for a reason suffers from, probably.
_CAUSES = {
    'missing image file': 'is {images} their directory?',
    'annotation for a missing image': 'are they the annotations of other images, such as another split?',
    'category not in the list': 'is the list of categories that of another set?',
    'size mismatch': 'were the pictures resized or turned after they were annotated? If the boxes fit the pictures, '
                     'remove "width" and "height" from the annotations',
}


class Lost(NamedTuple):
    """What was dropped, and not on request."""
    images: int
    objects: int      # those of dropped images among them


def lost(dropped: Mapping[str, list[Incident]]) -> Lost:
    """Return the numbers of images and objects that were dropped."""
    found = [each for reason, incidents in dropped.items() if reason not in ASKED_FOR for each in incidents]
    return Lost(sum(each.annotation_id is None for each in found),
                sum(each.annotations if each.annotation_id is None else 1 for each in found))


def check_left(manifest: Manifest) -> None:
    """Raises ConversionError where nothing is left of a set: no image, or no object though there were annotations."""
    counts = manifest.counts
    if counts.objects or (counts.images and not lost(manifest.dropped).objects):
        return
    what = 'object' if counts.images else 'image'
    raise ConversionError(f'{manifest.source.annotations}: no {what} is left to write '
                          f'({describe(manifest.dropped) or "it lists none"}); {_cause(manifest)}')


def check(manifest: Manifest, allow_loss: bool) -> None:
    """Raises ConversionError where nothing is left of a set, or less than half and that is not allowed."""
    check_left(manifest)
    found = _most_lost(manifest)
    if found and not allow_loss:
        raise ConversionError(f'{manifest.source.annotations}: {found} ({describe(manifest.dropped)}); '
                              f'{_cause(manifest)}; --allow-loss goes on with the rest')


def notes(manifest: Manifest) -> list[str]:
    """Return what is to be said of the set as a whole, a line each."""
    counts, beyond, most_lost = manifest.counts, _beyond(manifest), _most_lost(manifest)
    found = []
    if counts.images and not counts.objects:
        found.append('the set has no objects: it can serve as a test set and cannot be trained on')
    elif counts.objects and counts.objects == counts.crowds:
        found.append(f'all {counts.objects} objects are crowds, so none is a positive: the set cannot be trained on; '
                     'where each is one object, as brush tools write it, convert coco --no-crowds takes it so')
    return [*found, *(note for note in (beyond, _elsewhere(manifest), most_lost) if note)]


def name(incident: Incident) -> str:
    """Return 'image 5, annotation 11: width is 0'."""
    ids = [f'{what} {value}' for what, value in
           (('image', incident.image_id), ('annotation', incident.annotation_id)) if value is not None]
    return one_line(': '.join([', '.join(ids) or incident.file, incident.detail]), 500)


def _most_lost(manifest: Manifest) -> str:
    """'4 of 5 objects are lost' if more than half are; ''."""
    gone, counts = lost(manifest.dropped), manifest.counts
    for what, count, left in (('objects', gone.objects, counts.objects), ('images', gone.images, counts.images)):
        if count > left:
            return f'{count} of {count + left} {what} are lost'
    return ''


def _beyond(manifest: Manifest) -> str:
    """'4 of 5 objects reach beyond their image' and the question why, if more than half do; ''."""
    found = {(each.image_id, each.annotation_id) for action in (manifest.dropped, manifest.repaired)
             for reason in (CLIPPED, OUTSIDE) for each in action.get(reason, [])}
    total = manifest.counts.objects + lost(manifest.dropped).objects
    return f'{len(found)} of {total} objects reach beyond their image; {_BEYOND}' if 2 * len(found) > total else ''


def _elsewhere(manifest: Manifest) -> str:
    """'4 of 5 objects have a mask elsewhere than their box' and what to look at, if more than half do; ''."""
    found, total = len(manifest.kept.get(DISAGREE, ())), manifest.counts.objects
    return f'{found} of {total} objects have a mask elsewhere than their box; {_ELSEWHERE}' if 2 * found > total else ''


def _cause(manifest: Manifest) -> str:
    """The likely cause of what was dropped most, and the first of it."""
    dropped = {reason: found for reason, found in manifest.dropped.items() if reason not in ASKED_FOR}
    if not dropped:
        return f'is {manifest.source.images} their directory?'
    reason, incidents = max(dropped.items(), key=lambda item: sum(max(each.annotations, 1) for each in item[1]))
    cause = _beyond(manifest) or _CAUSES.get(reason, '').format(images=manifest.source.images)
    return f'{cause} (the first: {name(incidents[0])})' if cause else f'mend them, such as {name(incidents[0])}'

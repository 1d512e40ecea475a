"""Split the images of a set, or of a COCO json, into two: for training and for validation.

The split is by image, stratified by class and determined by the seed. N images, K classes.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from data_tools.issues import ConversionError, IssueLog
from data_tools.sharding import writer
from mrcnn_tf import files
from mrcnn_tf.files.text import error_text
from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.manifest import IssueEntry, Manifest

PARTS = ('train', 'val')


class Part(NamedTuple):
    """One of the two results."""
    path: pathlib.Path
    images: int
    objects: Counter[str]      # by the name of the class


def split(source: str | os.PathLike[str], output: str | os.PathLike[str], fraction: float = .2, seed: int = 0,
          options: writer.Options = writer.DEFAULTS) -> list[Part]:
    """Write OUTPUT/NAME_train.json and OUTPUT/NAME_val.json, with shards if the source is a manifest.

    Args:
        source: NAME.json, a manifest or a COCO json; it is not changed.
        output: directory, made if missing.
        fraction: share of the images for validation, above 0 and below 1.
        seed: the same seed gives the same split.
        options: how the shards of a set are cut and written.

    Raises:
        ConversionError: not a manifest or a COCO json; fewer than two images.
        ManifestError, RecordError: the set cannot be used.
        OSError: the disk is full, permission is denied.
    """
    path = pathlib.Path(source)
    try:
        content = files.read_json(path)
    except (OSError, ValueError) as error:
        raise ConversionError(f'{path}: {error_text(error)}; give a manifest or a COCO json') from None
    targets = [pathlib.Path(output) / f'{path.stem}_{part}.json' for part in PARTS]
    if isinstance(content, dict) and content.get('format') == Manifest.FORMAT:
        return split_set(path, targets, fraction, seed, options)
    if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ('images', 'annotations')):
        return _split_coco(path, content, targets, fraction, seed)
    raise ConversionError(f'{path}: neither a manifest nor a COCO json with images and annotations; give one of these')


def stratified(classes: Sequence[Collection[Hashable]], fraction: float, seed: int) -> np.ndarray:
    """Return which images are for validation, bool [N], so that each class has about its share in both parts.

    Iterative stratification (Sechidis et al., 2011): the class with the fewest images left is distributed first, each
    image to the part that lacks most of that class.

    Args:
        classes: of the objects of each image.
        fraction: share of the images for validation.
        seed: of the order in which equal images are distributed.

    Example:
        >>> stratified([{'a'}, {'a'}, {'b'}, {'b'}], .5, seed=0).reshape(2, 2).sum(axis=1).tolist()
        [1, 1]
    """
    shares, order = np.array([1 - fraction, fraction]), np.random.default_rng(seed).permutation(len(classes)).tolist()
    images_of = defaultdict[Hashable, list[int]](list)
    for image in order:
        for each in set(classes[image]):
            images_of[each].append(image)
    wanted = {each: shares * len(images) for each, images in images_of.items()}
    total, part = shares * len(classes), np.full(len(classes), -1)

    def place(image: int, lack: np.ndarray) -> None:
        best = int(np.lexsort((total, lack))[-1])      # of equal ones, the part that lacks more images
        part[image] = best
        total[best] -= 1
        for each in set(classes[image]):
            wanted[each][best] -= 1

    while images_of:
        left = {each: [image for image in images if part[image] < 0] for each, images in images_of.items()}
        images_of = defaultdict(list, {each: images for each, images in left.items() if images})
        if images_of:
            rarest = min(images_of, key=lambda each: (len(images_of[each]), str(each)))
            for image in images_of[rarest]:
                place(image, wanted[rarest])
    for image in order:
        if part[image] < 0:
            place(image, total)
    return np.asarray(part == 1)


def split_set(manifest: str | os.PathLike[str], outputs: Sequence[pathlib.Path], fraction: float = .2, seed: int = 0,
              options: writer.Options = writer.DEFAULTS) -> list[Part]:
    """Write a set for training and one for validation, as `split`; outputs: their manifests NAME.json."""
    described = Manifest.read(manifest)
    names = {each.label: each.name for each in described.categories}
    items, groups = [], []
    sums = dict(zip(described.shard_paths(manifest), (shard.sha256 for shard in described.shards), strict=True))
    for place, serialized in record_reader.places(manifest):
        example = record_reader.decode(serialized, f'{place.file}: record {place.number}')
        items.append(_Item(place, sums[place.file], example.source_id, place.length))
        groups.append((example.filename or example.source_id, [names[each.label] for each in example.objects]))
    chosen = _by_file(groups, fraction, seed, str(manifest))
    parts = list[Part]()
    for output, inside in zip(outputs, (~chosen, chosen), strict=True):
        own = [item for item, mine in zip(items, inside, strict=True) if mine]
        head = _head(described, output.stem, {item.image for item in own}, first=not parts)
        written = writer.write(own, _record, head, output.parent, options)
        writer.summarize(written)
        parts.append(_part(output, groups, inside))
    return parts


@dataclass(frozen=True)
class _Item:
    """A record of a new set: its place in the old one."""
    place: record_reader.Place
    shard: str          # sha256: a changed shard makes another item
    image: str
    bytes: int


def _record(item: _Item) -> tuple[records.Annotated | None, IssueLog]:
    return record_reader.decode(record_reader.read(item.place), f'{item.place.file}: record {item.place.number}'), (
        IssueLog())


def _head(manifest: Manifest, name: str, images: set[str], first: bool) -> Manifest:
    """Return the head of a part: it has the issues of its images, and the first part those of images in no part too."""
    def issues(action: str) -> dict[str, list[IssueEntry]]:
        own = {reason: [each for each in entries if str(each.image_id) in images or (
            action == 'dropped' and first and each.annotation_id is None)]
               for reason, entries in getattr(manifest, action).items()}
        return {reason: entries for reason, entries in own.items() if entries}

    return replace(manifest, name=name, shards=[], dropped=issues('dropped'), repaired=issues('repaired'),
                   kept=issues('kept'))


def _split_coco(path: pathlib.Path, content: dict[str, Any], targets: Sequence[pathlib.Path], fraction: float,
                seed: int) -> list[Part]:
    names = {str(each.get('id')): str(each.get('name')) for each in content.get('categories') or ()}
    of_image = defaultdict[str, list[dict[str, Any]]](list)
    for annotation in content['annotations']:
        of_image[str(annotation.get('image_id'))].append(annotation)
    groups = [(str(image.get('file_name') or image.get('id')),
               [names.get(str(each.get('category_id')), '') for each in of_image[str(image.get('id'))]])
              for image in content['images']]
    chosen = _by_file(groups, fraction, seed, str(path))
    with contextlib.ExitStack() as stack:          # both are renamed after both are written
        temporary = [stack.enter_context(files.atomic_path(target)) for target in targets]
        for file, inside in zip(temporary, (~chosen, chosen), strict=True):
            own = [image for image, mine in zip(content['images'], inside, strict=True) if mine]
            ids = {str(image.get('id')) for image in own}
            files.write_json(file, {**content, 'images': own, 'annotations': [
                each for each in content['annotations'] if str(each.get('image_id')) in ids]}, indent=None)
    return [_part(target, groups, inside) for target, inside in zip(targets, (~chosen, chosen), strict=True)]


def _by_file(groups: Sequence[tuple[str, Sequence[str]]], fraction: float, seed: int, origin: str) -> np.ndarray:
    """Return which images are for validation, bool [N]; images of the same file are in the same part.

    Args:
        groups: file and classes of each image.
        origin: for messages.
    """
    if not 0 < fraction < 1:
        raise ConversionError(f'--val-fraction is {fraction:g}; give a number above 0 and below 1')
    classes: dict[str, set[str]] = {}
    for file, found in groups:
        classes.setdefault(file, set()).update(found)
    if len(classes) < 2:
        raise ConversionError(f'{origin}: it has {len(classes)} image, and a split needs at least 2')
    chosen = stratified(list(classes.values()), fraction, seed)
    if chosen.all() or not chosen.any():           # a fraction of few images
        chosen[0] = not chosen[0]
    validation = {file for file, mine in zip(classes, chosen, strict=True) if mine}
    return np.array([file in validation for file, _ in groups])


def _part(path: pathlib.Path, groups: Sequence[tuple[str, Sequence[str]]], inside: np.ndarray) -> Part:
    own = [found for (_, found), mine in zip(groups, inside, strict=True) if mine]
    return Part(path, len(own), Counter(name for found in own for name in found))


def table(parts: Sequence[Part], most: int = 25) -> str:
    """Return images and objects of the parts as text, by class; the classes with most objects first."""
    heads = [part.path.stem for part in parts]
    widths = [max(8, len(head)) for head in heads]
    every: Counter[str] = sum((part.objects for part in parts), Counter())
    rows = [('images', [part.images for part in parts]), ('objects', [part.objects.total() for part in parts]),
            *((name, [part.objects[name] for part in parts]) for name, _ in every.most_common(most))]
    named = max(len(name) for name, _ in rows)
    lines = [_line('', heads, named, widths), *(_line(name, counts, named, widths) for name, counts in rows)]
    missing = [name for name in every if not all(part.objects[name] for part in parts)]
    more = [f'and {len(every) - most} more classes'] if len(every) > most else []
    alone = [f'{len(missing)} of {len(every)} classes have objects in one part only, such as {missing[0]!r}: too few '
             'images'] if missing else []
    return '\n'.join([*lines, *more, *alone])


def _line(name: str, cells: Iterable[Any], named: int, widths: Sequence[int]) -> str:
    return f'{name:<{named}}  ' + '  '.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))

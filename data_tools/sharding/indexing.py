"""A manifest for TFRecord shards that another converter wrote, such as Model Garden's: the shards stay as they are.

Labels are taken as the records have them, 1..K; names are those that come with them. Model Garden keeps COCO's sparse
category ids as labels, so there K is 90, and labels that no object has get a name that says so.
"""
from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data_tools.issues import ConversionError
from data_tools.sharding import frames, writer
from data_tools.sharding.shards import sha256
from mrcnn_tf.files import open_regular
from mrcnn_tf.input import record_reader
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Shard, Source
from mrcnn_tf.input.records import Annotated, count

_MOST_LABELS = 100_000     # each label up to the largest has a line in the manifest


@dataclass
class _Found:
    """What the records hold together."""
    counts: Counts = field(default_factory=Counts)
    most_objects: int = 0
    most_proposals: int = 0
    has_proposals: bool = False
    names: dict[int, str] = field(default_factory=dict)     # by label
    masks: set[bool] = field(default_factory=set)           # whether an object has one


def adopt(shards: Sequence[str | os.PathLike[str]], name: str) -> Manifest:
    """Writes NAME.json beside TFRecord shards, which are all read once, and prints a summary.

    Args:
        shards: files of one directory, in their order; records with the keys of the TF Object Detection API.
        name: of the set.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: an unusable name, no shards, shards of several directories, a manifest of this name is there,
            a label has two names or is beyond all use, masks on some objects and not on others, no record.
        RecordError: a damaged shard, or a record that is none.
        OSError: no such file, no permission, the disk is full.
    """
    writer.check_name(name)
    paths = [pathlib.Path(shard) for shard in shards]
    if len({path.parent.resolve() for path in paths}) != 1:
        given = ', '.join(map(str, paths[:2])) or 'no files'
        raise ConversionError(f'{given}: give the shards of one set, all in one directory')
    target = paths[0].parent / f'{name}.json'
    if target.exists():
        raise ConversionError(f'{target}: exists; choose another name')
    found, described = _Found(), []
    for path in paths:
        before = found.counts.images
        for example in _examples(path):
            _add(found, example, path)
        described.append(Shard(
            path.name, found.counts.images - before, path.stat().st_size, sha256(path)))
    manifest = _manifest(found, described, name, paths[0].parent)
    manifest.write(target)
    writer.summarize(manifest)
    return manifest


def _examples(path: pathlib.Path) -> Iterator[Annotated]:
    """The records of a shard. TensorFlow's reader takes one cut within the head of a record for a whole one."""
    with open_regular(path) as stream:
        for frame in frames.frames(stream):
            origin = f'{path}: record {frame.number}'
            if frame.fault:
                raise record_reader.RecordError(
                    f'{origin}: {frame.fault}; copy the shard again or convert the data again')
            yield record_reader.decode(frame.data, origin)


def _add(found: _Found, example: Annotated, path: pathlib.Path) -> None:
    objects = example.objects
    found.counts += count(example)
    found.most_objects = max(found.most_objects, len(objects))
    if example.proposals is not None:
        found.has_proposals, found.most_proposals = True, max(found.most_proposals, len(example.proposals.scores))
    found.masks |= {each.mask is not None for each in objects}
    for each in objects:
        if not 1 <= each.label <= _MOST_LABELS:
            raise ConversionError(f'{path}: image {example.source_id} has an object of label {each.label}; '
                                  f'labels are 1..K, at most {_MOST_LABELS}, and 0 is background')
        if found.names.setdefault(each.label, each.name) != each.name:
            raise ConversionError(f'{path}: image {example.source_id}: label {each.label} is {each.name!r:.40} and, '
                                  f'before, {found.names[each.label]!r:.40}; give the shards of one set')


def _manifest(found: _Found, shards: list[Shard], name: str, directory: pathlib.Path) -> Manifest:
    if not found.counts.images:
        raise ConversionError(f'{directory}: the shards hold no record')
    if len(found.masks) > 1:
        raise ConversionError(f'{directory}: some objects have a mask and some have none; convert the data again')
    categories = [Category(label, label, found.names.get(label) or f'label {label}, of no object')
                  for label in range(1, max(found.names, default=0) + 1)]
    return Manifest(
        name=name, categories=categories, counts=found.counts, max_objects_per_image=found.most_objects, dropped={},
        repaired={}, shards=shards, has_masks=found.masks == {True},
        source=Source('tfrecord', str(directory), str(directory)), has_proposals=found.has_proposals,
        max_proposals_per_image=found.most_proposals)

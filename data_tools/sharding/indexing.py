"""A manifest for TFRecord shards that another converter wrote, such as Model Garden's; the shards are not changed.

Labels and names are those of the records. Model Garden uses COCO's sparse category ids as labels, so K is 90 there;
a label that no object has gets a name that says so.
"""
from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from data_tools.issues import ConversionError
from data_tools.sharding import frames, writer
from data_tools.sharding.shards import sha256
from data_tools.totals import Totals
from mrcnn_tf.files import open_regular
from mrcnn_tf.input import record_reader
from mrcnn_tf.input.manifest import Category, Manifest, Shard, Source
from mrcnn_tf.input.records import Annotated

_MAX_LABEL = 100_000     # the manifest has a line for each label up to the largest


@dataclass
class _Contents:
    """What the records of all shards hold."""
    totals: Totals = field(default_factory=Totals)
    has_proposals: bool = False
    names: dict[int, str] = field(default_factory=dict)     # by label
    masks: set[bool] = field(default_factory=set)           # whether an object has a mask

    def add(self, example: Annotated, path: pathlib.Path) -> None:
        """Add a record; raises ConversionError for a label beyond the limit or with two names."""
        self.totals.add_record(example)
        self.has_proposals |= example.proposals is not None
        self.masks |= {each.mask is not None for each in example.objects}
        for each in example.objects:
            if not 1 <= each.label <= _MAX_LABEL:
                raise ConversionError(f'{path}: image {example.source_id} has an object with label {each.label}; '
                                      f'labels must be 1..K, at most {_MAX_LABEL}; 0 is background')
            name = self.names.setdefault(each.label, each.name)
            if name != each.name:
                raise ConversionError(f'{path}: image {example.source_id}: label {each.label} is named '
                                      f'{each.name!r:.40}, but {name!r:.40} in records before; give the shards of one '
                                      'set')


def index(shards: Sequence[str | os.PathLike[str]], name: str) -> Manifest:
    """Write NAME.json beside existing TFRecord shards after reading each of them once, and print a summary.

    Args:
        shards: files of one directory, in order; the records have the keys of the TF Object Detection API.
        name: of the set.

    Returns:
        The manifest that was written.

    Raises:
        ConversionError: an unusable name; no shards or shards of several directories; a manifest of this name exists; a
            label has two names or is too large; only some objects have masks; there is no record.
        RecordError: a damaged shard or record.
        OSError: a file does not exist, permission is denied, the disk is full.
    """
    writer.check_name(name)
    paths = [pathlib.Path(shard) for shard in shards]
    if len({path.parent.resolve() for path in paths}) != 1:
        given = ', '.join(map(str, paths[:2])) or 'no files'
        raise ConversionError(f'{given}: give the shards of one set, all in one directory')
    target = paths[0].parent / f'{name}.json'
    if target.exists():
        raise ConversionError(f'{target}: exists; choose another name')
    contents, described = _Contents(), []
    for path in paths:
        before = contents.totals.counts.images
        for example in _examples(path):
            contents.add(example, path)
        described.append(Shard(
            path.name, contents.totals.counts.images - before, path.stat().st_size, sha256(path)))
    manifest = _manifest(contents, described, name, paths[0].parent)
    manifest.write(target)
    writer.summarize(manifest)
    return manifest


def _examples(path: pathlib.Path) -> Iterator[Annotated]:
    """Yield the records of a shard.

    TensorFlow's reader accepts a shard that is cut within the header of a record, so the frames are read here.
    """
    with open_regular(path) as stream:
        for frame in frames.frames(stream):
            origin = f'{path}: record {frame.number}'
            if frame.error:
                raise record_reader.RecordError(
                    f'{origin}: {frame.error}; copy the shard again or convert the data again')
            yield record_reader.decode(frame.data, origin)


def _manifest(contents: _Contents, shards: list[Shard], name: str, directory: pathlib.Path) -> Manifest:
    totals = contents.totals
    if not totals.counts.images:
        raise ConversionError(f'{directory}: the shards hold no record; give other shards')
    if len(contents.masks) > 1:
        raise ConversionError(f'{directory}: only some objects have a mask; convert the data again')
    categories = [Category(label, label, contents.names.get(label) or f'label {label}, of no object')
                  for label in range(1, max(contents.names, default=0) + 1)]
    return Manifest(
        name=name, categories=categories, counts=totals.counts, max_objects_per_image=totals.max_objects, dropped={},
        repaired={}, shards=shards, has_masks=contents.masks == {True},
        source=Source('tfrecord', str(directory), str(directory)), has_proposals=contents.has_proposals,
        max_proposals_per_image=totals.max_proposals)

"""Convert the data set in a folder to a set for training and one for validation, unless that was done already.

    DATA/train.json, DATA/val.json      manifests, beside their shards
    DATA/folder.json                    the folder, and a fingerprint of its files: equal ones are not converted again
"""
from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_tools import conversion, folders, splitting
from data_tools.examples import DEFAULTS, Rules
from data_tools.folders import Part
from data_tools.issues import ConversionError
from data_tools.sharding import shards, writer
from mrcnn_tf import files
from mrcnn_tf.input.manifest import Manifest, ManifestError

_MARK, _WHOLE = 'folder.json', 'all'


@dataclass(frozen=True)
class Options:
    """The user's choices.

    Attributes:
        val_fraction: share of the images for validation, where the folder has no such part; 0: no validation.
        seed: of the split.
        rules: about images and annotations.
        workers: processes.
    """
    val_fraction: float = .2
    seed: int = 0
    rules: Rules = DEFAULTS
    workers: int = 1


@dataclass(frozen=True)
class Prepared:
    """The manifests of the sets."""
    train: pathlib.Path
    validation: pathlib.Path | None


def prepare(folder: pathlib.Path, data: pathlib.Path, options: Options = Options(),
            say: Callable[[str], object] = print) -> Prepared:
    """Return the converted sets of a folder, after converting and splitting it if it is new or has changed.

    Args:
        folder: see `folders.recognise`.
        data: directory of the sets, made if missing.
        options: the user's choices.
        say: called with a line about each decision.

    Raises:
        ConversionError: nothing is recognised, or it cannot be converted; `data` holds another folder.
        OSError: the disk is full, permission is denied.
    """
    parts = folders.recognise(folder)
    for part in parts:
        say(f'{part}' + (', which is not used in training' if part.split == 'test' else ''))
    choices = options.val_fraction, options.seed, options.rules, shards.VERSIONS
    mark = {'folder': str(folder.resolve()), 'fingerprint': folders.fingerprint(
        folder, [data, pathlib.Path('runs')], *choices)}
    before = _read(data / _MARK)
    if before and before.get('folder') != mark['folder']:
        raise ConversionError(f'{data} holds the converted images of {before.get("folder")}; give another --data-dir')
    if before == mark and (done := _complete(data)):
        say(f'{data}: converted before, and the folder has not changed since')
        return done
    if before:
        say(f'{data}: {folder} or the options have changed, so it is converted again')
    files.remove(data / _MARK)
    _convert(parts, data, options, say)
    files.write_json(data / _MARK, mark)
    done = _complete(data)
    assert done
    return done


def _convert(parts: Sequence[Part], data: pathlib.Path, options: Options, say: Callable[[str], object]) -> None:
    by_split = {part.split: part for part in parts}
    train, validation = by_split.get('train', parts[0]), by_split.get('val')
    splits = validation is None and options.val_fraction > 0
    data.mkdir(parents=True, exist_ok=True)
    _remove_set(data, 'val')
    _write(parts, train, data, _WHOLE if splits else 'train', options)
    if validation is not None:
        _write(parts, validation, data, 'val', options)
    if splits:
        say(f'{data}: {options.val_fraction:.0%} of the images are kept for validation, seed {options.seed}')
        written = splitting.split_set(data / f'{_WHOLE}.json', [data / f'{name}.json' for name in splitting.PARTS],
                                      options.val_fraction, options.seed, writer.Options(workers=options.workers))
        say(splitting.table(written, 10))
        _remove_set(data, _WHOLE)


def _write(parts: Sequence[Part], part: Part, data: pathlib.Path, name: str, options: Options) -> None:
    writer.summarize(conversion.convert(folders.find(parts, part, data), data, name, options.rules,
                                        writer.Options(workers=options.workers)))


def _remove_set(data: pathlib.Path, name: str) -> None:
    """Remove a set that this module wrote, the manifest first."""
    path = data / f'{name}.json'
    if path.is_file():
        written = Manifest.read(path, shards=False).shard_paths(path)
        for each in (path, *map(pathlib.Path, written)):
            files.remove(each)


def _read(path: pathlib.Path) -> dict[str, str] | None:
    try:
        content = files.read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _complete(data: pathlib.Path) -> Prepared | None:
    """Return the sets if all their shards are there."""
    train, validation = data / 'train.json', data / 'val.json'
    try:
        for path in (train, *([validation] if validation.is_file() else [])):
            Manifest.read(path)
    except ManifestError:
        return None
    return Prepared(train, validation if validation.is_file() else None)

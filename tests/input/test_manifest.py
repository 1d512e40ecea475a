"""The manifest of a set, and categories."""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from mrcnn_tf.input.manifest import (
    Category,
    Counts,
    IssueEntry,
    Manifest,
    ManifestError,
    Shard,
    Source,
    read_categories,
    write_categories,
)


def manifest() -> Manifest:
    return Manifest(
        name='train', categories=[Category(1, 7, 'cat'), Category(2, 90, 'dog')],
        counts=Counts(images=3, images_without_objects=1, objects=4, crowds=1), max_objects_per_image=3,
        dropped={'zero area': [IssueEntry(5, 11, 'width 0')], 'missing image': [IssueEntry('a', None, '')]},
        repaired={}, shards=[Shard('train-00000-of-00002.tfrecord', 2, 4, 'ab'),
                             Shard('train-00001-of-00002.tfrecord', 1, 3, 'cd')],
        has_masks=True, source=Source('coco', 'a.json', 'images'),
        kept={'odd': [IssueEntry(5, 12, 'box', 'b.png')]})


def written(directory: pathlib.Path) -> pathlib.Path:
    directory.mkdir(exist_ok=True)
    (directory / 'train-00000-of-00002.tfrecord').write_bytes(b'1234')
    (directory / 'train-00001-of-00002.tfrecord').write_bytes(b'123')
    manifest().write(directory / 'train.json')
    return directory / 'train.json'


def test_manifest_reads_what_it_wrote(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path)
    assert Manifest.read(path) == manifest()
    assert Manifest.read(str(path)).shard_paths(path) == [
        str(tmp_path / 'train-00000-of-00002.tfrecord'), str(tmp_path / 'train-00001-of-00002.tfrecord')]


def test_manifest_file_has_the_keys_of_the_contract(tmp_path: pathlib.Path) -> None:
    data = json.loads(written(tmp_path).read_text())
    assert data['format'] == 'mrcnn_tf manifest' and data['version'] == 1
    assert set(data) == {'format', 'version', 'name', 'categories', 'counts', 'max_objects_per_image', 'dropped',
                         'repaired', 'kept', 'shards', 'has_masks', 'has_proposals', 'max_proposals_per_image',
                         'proposals_from', 'source', 'exif'}
    assert data['categories'][1] == {'label': 2, 'id': 90, 'name': 'dog'}
    assert data['counts'] == {
        'images': 3, 'images_without_objects': 1, 'objects': 4, 'crowds': 1, 'objects_without_mask': 0}
    assert data['dropped']['zero area'] == [{'image_id': 5, 'annotation_id': 11, 'detail': 'width 0', 'file': '',
                                          'annotations': 0}]
    assert data['kept'] == {'odd': [{'image_id': 5, 'annotation_id': 12, 'detail': 'box', 'file': 'b.png',
                                     'annotations': 0}]}
    assert data['shards'][0] == {'file': 'train-00000-of-00002.tfrecord', 'records': 2, 'bytes': 4, 'sha256': 'ab'}
    assert data['source'] == {'kind': 'coco', 'annotations': 'a.json', 'images': 'images'}


def edit(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        if value is None:
            del data[keys[-1]]
        else:
            data[keys[-1]] = value
    return change


@pytest.mark.parametrize(('change', 'message'), [
    (edit('format', value='other'), 'not a manifest'),
    (edit('version', value=2), 'version 2, this release reads 1'),
    (edit('name', value=None), 'name is missing'),
    (edit('extra', value=1), 'extra is unknown'),
    (edit('counts', 'images', value='3'), 'counts.images has a wrong type, str'),
    (edit('counts', 'images', value=True), 'counts.images has a wrong type, bool'),
    (edit('counts', 'images', value=4), 'counts.images is 4 and the shards hold 3'),
    (edit('shards', 1, 'bytes', value=None), r'shards\[1\].bytes is missing'),
    (edit('shards', value={}), 'shards has a wrong type, dict'),
    (edit('dropped', 'zero area', 0, 'detail', value=1), r'dropped.zero area\[0\].detail has a wrong type, int'),
    (edit('categories', 0, 'label', value=0), r'category labels are \[0, 2\], expected 1..K'),
    (edit('categories', value=[]), r'category labels are \[\]'),
], ids=['format', 'version', 'missing_field', 'unknown_field', 'text_for_int', 'bool_for_int', 'count', 'shard_size',
        'dict_for_list', 'int_for_text', 'label_0', 'no_categories'])
def test_an_invalid_manifest_is_refused_in_one_line(
        tmp_path: pathlib.Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = written(tmp_path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ManifestError, match=f'^{path}: .*{message}') as error:
        Manifest.read(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'{"format": ', b'[]', b'\xff\xfe\x00', b'1'],
                         ids=['empty', 'truncated', 'list', 'binary', 'number'])
def test_a_file_that_is_not_a_manifest_is_refused(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / 'train.json'
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=f'^{path}: not .*mrcnn convert') as error:
        Manifest.read(path)
    assert '\n' not in str(error.value)


def test_a_missing_manifest_and_a_directory_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ManifestError, match='none.json: no such file; give the NAME.json'):
        Manifest.read(tmp_path / 'none.json')
    with pytest.raises(ManifestError, match='Is a directory; give the NAME.json'):
        Manifest.read(tmp_path)


def test_a_set_without_objects_needs_no_categories(tmp_path: pathlib.Path) -> None:
    test_set = dataclasses.replace(manifest(), categories=[], counts=Counts(3, 3))
    written(tmp_path)
    test_set.write(tmp_path / 'train.json')
    assert Manifest.read(tmp_path / 'train.json') == test_set


def test_missing_and_truncated_shards_are_named(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path)
    shard = tmp_path / 'train-00001-of-00002.tfrecord'
    shard.write_bytes(b'12')
    with pytest.raises(ManifestError, match=f'its shard {shard} has 2 bytes, expected 3; copy it again'):
        Manifest.read(path)
    shard.unlink()
    with pytest.raises(ManifestError, match=f'its shard {shard} is missing; copy it there'):
        Manifest.read(path)


@pytest.mark.parametrize('file', [
    '../b.tfrecord', 'sub/../../b.tfrecord', '/etc/hostname', 'link.tfrecord', 'sub/b.tfrecord', './b.tfrecord', '..',
    'b\0'],
    ids=['parent', 'parent_of_a_child', 'absolute', 'link', 'child', 'dot', 'directory', 'null_byte'])
def test_a_shard_in_another_directory_is_refused(file: str, tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / 'set')
    (tmp_path / 'b.tfrecord').write_bytes(b'1234')
    (tmp_path / 'set' / 'link.tfrecord').symlink_to('../b.tfrecord')
    described = json.loads(path.read_text())
    described['shards'][0]['file'] = file
    path.write_text(json.dumps(described))
    for shards in (True, False):
        with pytest.raises(ManifestError, match='is not beside it; copy the shards into its directory'):
            Manifest.read(path, shards)


def test_a_linked_directory_and_links_within_it_are_read(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / 'set')
    (tmp_path / 'set' / 'train-00000-of-00002.tfrecord').rename(tmp_path / 'set' / 'x')
    (tmp_path / 'set' / 'train-00000-of-00002.tfrecord').symlink_to('x')
    (tmp_path / 'link').symlink_to('set')
    assert Manifest.read(tmp_path / 'link' / path.name) == manifest()


def test_a_shard_that_is_not_a_file_is_refused(tmp_path: pathlib.Path) -> None:
    path = written(tmp_path)
    (tmp_path / 'train-00000-of-00002.tfrecord').unlink()
    os.mkfifo(tmp_path / 'train-00000-of-00002.tfrecord')
    with pytest.raises(ManifestError, match='00000-of-00002.tfrecord is no file; copy it there'):
        Manifest.read(path)


def test_categories_of_a_model_directory(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'categories.json'
    write_categories(path, manifest().categories)
    assert json.loads(path.read_text())[0] == {'label': 1, 'id': 7, 'name': 'cat'}
    assert read_categories(path) == manifest().categories
    path.write_text('[{"label": 2, "id": 1, "name": "a"}]')
    with pytest.raises(ManifestError, match=r'categories.json: category labels are \[2\]'):
        read_categories(path)
    path.write_text('{}')
    with pytest.raises(ManifestError, match='the top has a wrong type, dict'):
        read_categories(path)
    with pytest.raises(ManifestError, match='none.json: no such file; give a directory'):
        read_categories(tmp_path / 'none.json')


def test_a_manifest_of_an_earlier_release_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'a.json'
    Manifest('a', [Category(1, 1, 'x')], Counts(), 0, {}, {}, [], False, Source('coco', '', '')).write(path)
    data = json.loads(path.read_text())
    assert data['has_proposals'] is False and data['max_proposals_per_image'] == 0
    del data['has_proposals'], data['max_proposals_per_image']
    path.write_text(json.dumps(data))
    assert Manifest.read(path).has_proposals is False

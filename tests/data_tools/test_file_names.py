"""File names as other systems write them: the file that is used, ambiguous names, and messages about missing ones."""
from __future__ import annotations

import os
import pathlib
import time
import unicodedata

import pytest

from data_tools.file_names import FileMatch, FileNames
from data_tools.issues import Issue

NFC, NFD = (unicodedata.normalize(form, 'Zelle_\u00fc.png') for form in ('NFC', 'NFD'))


def folder(path: pathlib.Path, *names: str) -> FileNames:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    return FileNames(path)


@pytest.mark.parametrize('stated, there, way', [
    ('images\\a.png', 'a.png', 'it has Windows separators'),
    ('C:\\Users\\x\\a.png', 'a.png', 'it has Windows separators'),
    ('..\\..\\upload\\a.png', 'sub/a.png', 'it has Windows separators'),
    ('/home/x/a.png', 'a.png', 'it is in another folder'),
    ('my%20a.png', 'my a.png', 'it is percent-encoded'),
    ('50%25.png', '50%.png', 'it is percent-encoded'),
    ('https://h.org/bucket/a.png?sig=0', 'a.png', 'it is a URL'),
    ('https://h.org/my%20a.png#x', 'sub/my a.png', 'it is a URL, it is percent-encoded'),
    ('s3://bucket/a.png', 'a.png', 'it is a URL'),
    ('/data/local-files/?d=x/a.png', 'x/a.png', 'it is a URL'),
    ('a.png?v=2', 'a.png', 'it is a URL'),
    (NFC, NFD, 'it has another Unicode form'),
    (NFD, NFC, 'it has another Unicode form'),
    ('A.PNG', 'a.png', 'it has other letter case'),
    ('Images/a.png', 'images/a.png', 'it is in another folder'),
    ('a.jpg', 'a.png', 'it has another suffix'),
    ('a', 'a.png', 'it has another suffix'),
    ('a.v1', 'a.v1.png', 'it has another suffix'),
    ('a.png', 'a.png.jpg', 'it has another suffix'),
    ('a.png', 'Train/Data/a.png', 'it is in another folder'),
    ('Data/a.png', 'Train/Data/a.png', 'it is in another folder'),
    ('train/a.png', 'a.png', 'it is in another folder'),
    (' a.png\n', 'a.png', 'it has spaces around it'),
    ('X\\A%20B.JPG', 'a b.png', 'it is percent-encoded, it has Windows separators, it has another suffix'),
])
def test_one_file_fits(tmp_path: pathlib.Path, stated: str, there: str, way: str) -> None:
    shown = stated.replace('\n', '\\n')
    match = folder(tmp_path, there, 'other.png', '.hidden/a.png', 'sub/._a.png').find(stated)
    assert match == FileMatch(there, Issue('file found under another name', f"'{shown}' is '{there}': {way}"))


@pytest.mark.parametrize('stated', ['a.png', './a.png', 'sub/b.png', 'my%20c.png', 'd', 'x\\e.png'])
def test_an_existing_name_is_no_repair(tmp_path: pathlib.Path, stated: str) -> None:
    names = folder(tmp_path, 'a.png', 'sub/b.png', 'my%20c.png', 'my c.png', 'd', 'd.png', 'x\\e.png', 'e.png')
    assert names.find(stated) == FileMatch(stated)
    assert '_listing' not in vars(names)      # the folder was not listed


@pytest.mark.parametrize('stated, there, taken', [
    ('sub\\IMG.png', ['sub/IMG.png', 'sub/img.png'], 'sub/IMG.png'),      # letter case decides
    ('a.PNG', ['a.png', 'a.jpg'], 'a.png'),                               # a suffix in other letters before another one
    ('/home/x/train/a.png', ['a.png', 'train/a.png', 'val/a.png'], 'train/a.png'),
    ('Data/a.png', ['x/Data/a.png', 'a.png'], 'x/Data/a.png'),
    ('https://h.org/val/a.png', ['train/a.png', 'val/a.png'], 'val/a.png'),
])
def test_the_closest_of_several(tmp_path: pathlib.Path, stated: str, there: list[str], taken: str) -> None:
    assert folder(tmp_path, *there).find(stated).name == taken


@pytest.mark.parametrize('stated, there, named', [
    ('a.png', ['x/a.png', 'y/a.png'], "'x/a.png', 'y/a.png'"),
    ('a.bmp', ['a.png', 'a.jpg'], "'a.jpg', 'a.png'"),
    ('A.png', ['a.PNG', 'x/a.png'], "'a.PNG', 'x/a.png'"),
    ('https://h.org/a.png', [f'{i}/a.png' for i in range(5)], "'0/a.png', '1/a.png', '2/a.png' and 2 more"),
])
def test_several_files_fit(tmp_path: pathlib.Path, stated: str, there: list[str], named: str) -> None:
    assert folder(tmp_path, *there).find(stated) == FileMatch(stated, missing=Issue(
        'ambiguous file name', f"'{stated}' may be {named}; add the folder of the right one to the name"))


@pytest.mark.parametrize('stated, there, nearest', [
    ('img_0O1.png', ['img_001.png', 'img_002.png'], 'img_001.png'),
    ('train/001.png', ['val/001.png', 'val/002.png'], 'val/001.png'),      # of another split, and no other name for it
    ('x\\y\\cell7.png', ['sub/cell_7.png', 'dog.png'], 'sub/cell_7.png'),
])
def test_a_missing_name_shows_the_nearest(tmp_path: pathlib.Path, stated: str, there: list[str], nearest: str) -> None:
    assert folder(tmp_path, *there).find(stated) == FileMatch(stated, missing=Issue(
        'missing image file', f"'{stated}' is not in {tmp_path}; the nearest name is '{nearest}'"))


def test_an_empty_or_missing_folder(tmp_path: pathlib.Path) -> None:
    for path, hint in ((tmp_path, 'it holds no image'), (tmp_path / 'no', 'there is no such directory')):
        assert FileNames(path).find('a.png').missing == Issue(
            'missing image file', f"'a.png' is not in {path}; {hint}")


def test_a_name_that_no_file_can_have(tmp_path: pathlib.Path) -> None:
    names = folder(tmp_path, 'a.png')
    for stated in ('\0', '', '.', '/', '..', 'x' * 100_000, '://', '?', '%', '%ff', 'a\nb'):
        match = names.find(stated)
        assert match.missing is not None and match.name == stated
        assert '\n' not in match.missing.detail and len(match.missing.detail) < 600


def test_a_folder_of_a_hundred_thousand_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = [f'{i % 100:02}/img_{i:06}.png' for i in range(100_000)]
    monkeypatch.setattr('data_tools.file_names._walk', lambda directory: iter(there))
    monkeypatch.setattr(FileNames, '_holds', lambda self, name: name in existing)
    existing, names, start = set(there), FileNames(tmp_path), time.process_time()
    assert [names.find(f'IMG_{i:06}.jpg').name for i in range(0, 100_000, 200)] == there[::200]
    missing = [names.find(f'img_{i:06}x.png').missing for i in range(0, 100_000, 200)]
    assert all(fault and repr(each) in fault.detail for each, fault in zip(there[::200], missing, strict=True))
    assert time.process_time() - start < 30      # with all names gone through for each it takes minutes


@pytest.mark.parametrize('stated', ['../secret.png', 'link.png', 'folder/secret.png'])
def test_a_file_outside_the_folder_is_read_on_request_only(stated: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'images').mkdir()
    (tmp_path / 'secret.png').touch()
    (tmp_path / 'images' / 'link.png').symlink_to('../secret.png')
    (tmp_path / 'images' / 'folder').symlink_to(tmp_path)
    match = FileNames(tmp_path / 'images').find(stated)
    assert match.missing and match.missing.reason == 'file outside of its directory'
    assert f'to {tmp_path}/secret.png; give --follow' in match.missing.detail
    assert FileNames(tmp_path / 'images', follow=True).find(stated) == (stated, None, None)


def test_only_regular_files_are_read(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / 'a.png')
    for follow in (False, True):
        missing = FileNames(tmp_path, follow=follow).find('a.png').missing
        assert missing and missing.detail == f"'a.png' in {tmp_path} is not a regular file"

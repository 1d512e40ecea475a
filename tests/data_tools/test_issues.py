"""Issues by action and reason: counted, described on one printable line, and listed."""
from __future__ import annotations

from typing import Any

import pytest

from data_tools import issues
from data_tools.issues import InvalidDataError, Issue, IssueLog
from mrcnn_tf.input.manifest import Counts, IssueEntry, Manifest, Source

CLIPPED = Issue('box clipped', 'by 2 px')


def manifest(log: IssueLog) -> Manifest:
    return Manifest('train', [], Counts(), 0, log.dropped, log.repaired, [], False, Source('coco', 'a.json', 'images'),
                    kept=log.kept)


def filled() -> IssueLog:
    """Return a log with one issue of each action, and a second dropped one."""
    log = IssueLog()
    log.drop(Issue('size mismatch', 'height 3'), 5, file='a.png', annotations=2)
    log.drop(Issue('empty mask', 'no pixel'), 5, 11, 'a.json')
    log.repair(CLIPPED, 6, 12)
    log.keep(Issue('size not stated', 'null'), 'b', file='b.xml')
    return log


def test_entries_by_action_and_reason() -> None:
    log = filled()
    assert log.dropped == {'size mismatch': [IssueEntry(5, None, 'height 3', 'a.png', 2)],
                           'empty mask': [IssueEntry(5, 11, 'no pixel', 'a.json')]}
    assert log.repaired == {'box clipped': [IssueEntry(6, 12, 'by 2 px')]}
    assert log.kept == {'size not stated': [IssueEntry('b', None, 'null', 'b.xml')]}


def test_a_log_extended_by_another_keeps_its_entries_first() -> None:
    log, other = IssueLog(), filled()
    log.repair(CLIPPED, 1)
    log.extend(other)
    assert [entry.image_id for entry in log.repaired['box clipped']] == [1, 6]
    assert (log.dropped, log.kept) == (other.dropped, other.kept)


def test_a_log_of_a_manifest_does_not_change_it() -> None:
    original = manifest(filled())
    log = IssueLog.of(original)
    assert log == filled()
    log.repair(CLIPPED, 7)
    log.drop(Issue('empty mask', ''), 7)
    assert original == manifest(filled())


@pytest.mark.parametrize(('image_id', 'stored'), [
    pytest.param(7, 7, id='int'), pytest.param('a', 'a', id='text'), pytest.param(None, None, id='none'),
    pytest.param(1.5, '1.5', id='float'), pytest.param(True, 'True', id='bool'), pytest.param([1], '[1]', id='list'),
    pytest.param('\ud800', '\\ud800', id='half a character')])
def test_ids_are_stored_as_int_or_text(image_id: Any, stored: int | str | None) -> None:
    log = IssueLog()
    log.keep(Issue('x', '\ud800'), image_id, file='\udfff')
    assert log.kept == {'x': [IssueEntry(stored, None, '\\ud800', '\\udfff')]}


def test_an_error_holds_its_issue() -> None:
    error = InvalidDataError('corrupt image', 'a.png', 3)
    assert (error.issue, error.annotations, str(error)) == (Issue('corrupt image', 'a.png'), 3, 'corrupt image: a.png')


def test_counts_begin_with_the_most_frequent_reason() -> None:
    entry = IssueEntry(1, None, 'x')
    assert issues.describe_counts({'b': [entry], 'c': [entry] * 3, 'a': [entry]}) == '3 c, 1 a, 1 b'
    assert issues.describe_counts({}) == ''


@pytest.mark.parametrize(('entry', 'text'), [
    pytest.param(IssueEntry(5, 11, 'width is 0', 'a.json'), 'image 5, annotation 11: width is 0', id='annotation'),
    pytest.param(IssueEntry(5, None, 'width is 0', 'a.json'), 'image 5: width is 0', id='image'),
    pytest.param(IssueEntry(None, 11, 'width is 0'), 'annotation 11: width is 0', id='annotation of no image'),
    pytest.param(IssueEntry(None, None, 'category 3', 'a.json'), 'a.json: category 3', id='file'),
    pytest.param(IssueEntry(None, None, 'category 3'), 'category 3', id='detail only')])
def test_descriptions(entry: IssueEntry, text: str) -> None:
    assert issues.describe(entry) == text


def test_issues_are_listed_by_action_and_reason() -> None:
    assert [issues.issue_line(*issue) for issue in issues.list_issues(manifest(filled()))] == [
        'a.json: image 5, annotation 11: dropped, empty mask: no pixel',
        'a.png: image 5: dropped, size mismatch: height 3',
        'image 6, annotation 12: repaired, box clipped: by 2 px',
        'b.xml: image b: kept, size not stated: null']


def test_a_line_is_printable_and_short() -> None:
    hostile = IssueEntry('a\nb', '\x1b[2J', 'is \u202ex\r' + 'y' * 10 ** 6, 'f\0.png')
    line = issues.issue_line('dropped', 'missing image file', hostile)
    assert line.startswith(r'f\x00.png: image a\nb, annotation \x1b[2J: dropped, missing image file: is \u202ex\ry')
    assert line.isprintable() and len(line) < 4000

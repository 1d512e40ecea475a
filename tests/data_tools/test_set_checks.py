"""Checks of a set as a whole: too much dropped, no positives, objects beyond their images."""
from __future__ import annotations

from dataclasses import replace

import pytest

from data_tools import set_checks
from data_tools.issues import ConversionError
from mrcnn_tf.input.manifest import Counts, IssueEntry, Manifest, Source

SPLIT = 'annotation for a missing image'
LARGER = '3 of 4 objects reach beyond their image; were the images resized after they were annotated?'


def of(counts: Counts, repaired: dict[str, list[IssueEntry]] | None = None, **dropped: list[IssueEntry]) -> Manifest:
    return Manifest('x', [], counts, 1, dropped, repaired or {}, [], False, Source('coco', 'a.json', 'pictures'))


def lost(*annotations: int, image: int = 1) -> list[IssueEntry]:
    return [IssueEntry(image, each, 'why') for each in annotations]


def test_objects_of_dropped_images_are_lost_too() -> None:
    dropped = {'corrupt image': [IssueEntry(1, None, 'x', annotations=3), IssueEntry(2, None, 'x')], SPLIT: lost(7, 8),
               'image without objects': [IssueEntry(3, None, 'x')], 'category left out': [IssueEntry(None, None, 'x')]}
    assert set_checks.count_loss(dropped) == set_checks.Loss(images=2, objects=5)


@pytest.mark.parametrize('counts, dropped, message', [
    (Counts(3, 2, 1), {SPLIT: lost(2, 3)},
     '2 of 3 objects are lost (2 annotation for a missing image); are they the annotations of other images, such as '
     'another split? (the first: image 1, annotation 2: why)'),
    (Counts(1, 0, 5), {'missing image file': [IssueEntry(1, None, 'b.png'), IssueEntry(2, None, 'c.png')]},
     '2 of 3 images are lost (2 missing image file); is pictures their directory? (the first: image 1: b.png)'),
    (Counts(9, 0, 2), {'corrupt image': [IssueEntry(1, None, 'b.png', annotations=3)], 'empty mask': lost(4)},
     '4 of 6 objects are lost (1 corrupt image, 1 empty mask); fix them, such as image 1: b.png')])
def test_a_set_of_which_most_is_lost(counts: Counts, dropped: dict[str, list[IssueEntry]], message: str) -> None:
    with pytest.raises(ConversionError) as error:
        set_checks.check(of(counts, **dropped), allow_loss=False)
    assert str(error.value) == f'a.json: {message}; give --allow-loss to continue with the rest'
    set_checks.check(of(counts, **dropped), allow_loss=True)
    assert set_checks.warnings(of(counts, **dropped)) == [message.partition(' (')[0]]


@pytest.mark.parametrize('dropped', [
    {SPLIT: lost(2)}, {'image without objects': [IssueEntry(i, None, 'x') for i in range(9)]},
    {'category left out': [IssueEntry(None, None, 'x')] * 9}])
def test_half_of_a_set_or_requested_drops_are_no_loss(dropped: dict[str, list[IssueEntry]]) -> None:
    set_checks.check(of(Counts(1, 0, 1), **dropped), allow_loss=False)


@pytest.mark.parametrize('counts, dropped, message', [
    (Counts(), {}, 'no image is left to write (it lists none); is pictures their directory?'),
    (Counts(2, 2), {SPLIT: lost(2)}, 'no object is left to write (1 annotation for a missing image); are they the ')])
def test_a_set_of_which_nothing_is_left(counts: Counts, dropped: dict[str, list[IssueEntry]], message: str) -> None:
    with pytest.raises(ConversionError) as error:
        set_checks.check(of(counts, **dropped), allow_loss=True)
    assert str(error.value).startswith(f'a.json: {message}')


@pytest.mark.parametrize('counts, note', [
    (Counts(2, 2), 'the set has no objects: it can serve as a test set and cannot be trained on'),
    (Counts(2, 0, 3, 3), 'all 3 objects are crowds, so none is a positive: the set cannot be trained on; if each is '
                         'a single object, as brush tools write it, give convert coco --no-crowds')])
def test_a_set_without_positives(counts: Counts, note: str) -> None:
    set_checks.check(of(counts), allow_loss=False)
    assert set_checks.warnings(of(counts)) == [note]


def test_objects_that_reach_beyond_their_image() -> None:
    clipped = {'box clipped': lost(1, 2)}
    outside = {'box outside the image': lost(1, image=2)}
    assert set_checks.warnings(of(Counts(2, 0, 3), clipped, **outside)) == [LARGER]
    assert set_checks.warnings(of(Counts(2, 0, 5), clipped, **outside)) == []
    assert set_checks.warnings(of(Counts(2, 0, 3, 1))) == []
    with pytest.raises(ConversionError) as error:
        set_checks.check(of(Counts(2, 0, 1), {'box clipped': lost(1)}, **{'box outside the image': lost(2, 3)}), False)
    assert '2 of 3 objects are lost (2 box outside the image); 3 of 3 objects reach beyond' in str(error.value)


def test_masks_elsewhere_than_their_boxes() -> None:
    def warnings(objects: int) -> list[str]:
        return set_checks.warnings(replace(of(Counts(2, 0, objects)), kept={'box and mask disagree': lost(1, 2)}))

    assert warnings(4) == []
    assert warnings(3) == ['2 of 3 objects have a mask elsewhere than their box; are the polygons y, x instead of '
                           'x, y, or of other images? `mrcnn inspect` shows both']

"""Proposals added to the records of a set."""
from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_tools import proposals
from data_tools.issues import ConversionError, IssueLog
from data_tools.selective_search import SelectiveSearch
from data_tools.sharding import writer
from mrcnn_tf.files.restricted_pickle import PickleError
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Source
from mrcnn_tf.input.records import Annotated

_HEIGHT, _WIDTH = 40, 60


class _Item:
    bytes = 1000

    def __init__(self, source_id: str) -> None:
        self.source_id = source_id


def _picture(seed: int) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 20, (_HEIGHT, _WIDTH, 3)).astype(np.uint8)
    pixels[5:25, 10:30] = 240, 20, 20
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'PNG')
    return stream.getvalue()


def _make(item: _Item) -> tuple[Annotated, IssueLog]:
    objects = [records.ObjectAnnotation((5.0, 10.0, 25.0, 30.0), 1, 'red', 400.0)]
    return Annotated(_picture(len(item.source_id)), 'png', f'{item.source_id}.png', item.source_id, 7, _HEIGHT, _WIDTH,
                     objects), IssueLog()


@pytest.fixture
def manifest(tmp_path: pathlib.Path) -> pathlib.Path:
    """A set of the images 139, 25 and img_7 of 40 x 60, two to a shard."""
    head = Manifest('set', [Category(1, 1, 'red')], Counts(), 0, {}, {}, [], False,
                    Source('coco', 'a.json', 'images'))
    writer.write([_Item('139'), _Item('25'), _Item('img_7')], _make, head, tmp_path / 'in',
                 writer.Options(images_per_shard=2))
    return tmp_path / 'in' / 'set.json'


def _parsed(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Records by source id."""
    shards = tf.data.TFRecordDataset(Manifest.read(path).shard_paths(path))
    parsed = [records.parse(each, False, with_proposals=True) for each in shards]
    return {each['source_id'].numpy().decode(): {k: v.numpy() for k, v in each.items()} for each in parsed}


def _pickled(directory: pathlib.Path, **data: Any) -> pathlib.Path:
    path = directory / 'rpn.pkl'
    path.write_bytes(pickle.dumps(data, 2))
    return path


# As Detectron2 reads them: x1, y1, x2, y2.
_BOXES = [np.array([[1, 2, 3, 4], [10, 5, 30, 25], [0, 0, 60, 40]], np.float32), np.zeros((0, 4), np.float32)]
_SCORES = [np.array([0.5, 2.5, -1], np.float32), np.zeros(0, np.float32)]


def test_detectron2(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=[139, 25], boxes=_BOXES, objectness_logits=_SCORES, bbox_mode=0)
    written = proposals.attach(manifest, path, tmp_path / 'out', 'set', top=2)
    images = _parsed(tmp_path / 'out' / 'set.json')
    np.testing.assert_array_equal(images['139']['proposals'], [[5, 10, 25, 30], [2, 1, 4, 3]])     # the two best
    np.testing.assert_array_equal(images['139']['proposal_scores'], [2.5, 0.5])
    assert images['25']['proposals'].shape == images['img_7']['proposals'].shape == (0, 4)
    assert written.has_proposals and written.max_proposals_per_image == 2 and written.proposals_from == str(path)
    assert [i.image_id for i in written.kept['no proposals for the image']] == ['img_7']
    assert written.dropped == {}


def test_everything_else_of_the_record_stays(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, indexes=[139], boxes=_BOXES[:1], scores=_SCORES[:1])     # Detectron's names
    before = manifest.read_bytes()
    proposals.attach(manifest, path, tmp_path / 'out', 'new', options=writer.Options(images_per_shard=2))
    assert manifest.read_bytes() == before
    read = [[tf.train.Example.FromString(each.numpy()) for each in tf.data.TFRecordDataset(
        Manifest.read(file).shard_paths(file))] for file in (manifest, tmp_path / 'out' / 'new.json')]
    for old, new in zip(*read, strict=True):
        del new.features.feature['image/proposal/box'], new.features.feature['image/proposal/score']
        assert new == old
    old, new = Manifest.read(manifest), Manifest.read(tmp_path / 'out' / 'new.json')
    assert (new.counts, new.categories, new.source) == (old.counts, old.categories, old.source)


def test_the_same_bytes_from_any_number_of_processes(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=['img_7', '139'], boxes=_BOXES[:1] * 2, scores=_SCORES[:1] * 2)
    one, two = (proposals.attach(manifest, path, tmp_path / str(workers), 'a',
                                 options=writer.Options(2, workers=workers)) for workers in (1, 2))
    assert len(one.shards) == 2 and one.shards == two.shards and one.kept == two.kept != {}


def test_dropped_and_clipped_proposals_are_counted(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    boxes = [[-5, 0, 10, 10], [1, 1, np.nan, 2], [3, 3, 3, 9], [70, 5, 80, 9], [1, 1, 2, 2], [4, 4, 5, 5]]
    scores = [1, 2, 3, 4, np.inf, 5]
    path = _pickled(tmp_path, ids=['139', 'unknown'], boxes=[np.array(boxes)] * 2, scores=[np.array(scores)] * 2)
    written = proposals.attach(manifest, path, tmp_path / 'out', 'set')
    image = _parsed(tmp_path / 'out' / 'set.json')['139']
    np.testing.assert_array_equal(image['proposals'], [[4, 4, 5, 5], [0, 0, 10, 10]])
    np.testing.assert_array_equal(image['proposal_scores'], [5, 1])
    issues = {reason: [(i.image_id, i.detail) for i in of]
            for reason, of in {**written.dropped, **written.repaired, **written.kept}.items()}
    assert issues == {
        'non-finite proposals': [('139', '2 of 6')],
        'proposals without area in the image': [('139', '2 of 4')],
        'proposals for a missing image': [('unknown', '6 boxes')],
        'proposals clipped': [('139', '1 of 4')],
        'no proposals for the image': [('25', 'kept with none'), ('img_7', 'kept with none')]}


def test_selective_search_as_published(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    scipy_io = pytest.importorskip('scipy.io', reason="no scipy; pip install -e '.[proposals]'")
    boxes, images = np.empty((1, 2), object), np.empty((2, 1), object)
    # y1, x1, y2, x2, pixels from 1 on, the last included: the first is the pixel of the corner, the second all.
    boxes[0, 0], boxes[0, 1] = np.array([[1, 1, 1, 1], [1, 1, 40, 60]], np.uint16), np.zeros((0, 4))
    images[0, 0], images[1, 0] = 'img_7', '25'
    scipy_io.savemat(tmp_path / 'ss.mat', {'boxes': boxes, 'images': images})
    written = proposals.attach(manifest, tmp_path / 'ss.mat', tmp_path / 'out', 'set')
    parsed = _parsed(tmp_path / 'out' / 'set.json')['img_7']
    np.testing.assert_array_equal(parsed['proposals'], [[0, 0, 1, 1], [0, 0, 40, 60]])
    np.testing.assert_array_equal(parsed['proposal_scores'], [1, 0.5])
    assert written.max_proposals_per_image == 2 and 'proposals clipped' not in written.repaired


def test_a_pickle_that_needs_more_than_arrays(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps({'ids': [os.system]}))
    with pytest.raises(PickleError, match='system'):
        proposals.attach(manifest, tmp_path / 'a.pkl', tmp_path / 'out', 'set')
    assert not (tmp_path / 'out').exists()


def test_proposals_of_another_set(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=[1], boxes=[[]], scores=[[]])
    with pytest.raises(ConversionError, match=r'its image ids \(1\) are not ids of images of .* \(139, 25, img_7\)'):
        proposals.attach(manifest, path, tmp_path / 'out', 'set')


def test_a_set_cannot_replace_itself(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = _pickled(tmp_path, ids=[139], boxes=_BOXES[:1], scores=_SCORES[:1])
    before = sorted(each.name for each in manifest.parent.iterdir())
    with pytest.raises(ConversionError, match='would replace it'):
        proposals.attach(manifest, path, manifest.parent, 'set')
    assert sorted(each.name for each in manifest.parent.iterdir()) == before
    proposals.attach(manifest, path, manifest.parent, 'other')      # beside it is fine
    assert Manifest.read(manifest).has_proposals is False
    assert json.loads((manifest.parent / 'other.json').read_text())['has_proposals'] is True


def test_selective_search_finds_the_object(manifest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    try:
        search = SelectiveSearch('fast')
    except ConversionError as error:
        pytest.skip(str(error))
    written = proposals.attach(manifest, search, tmp_path / 'out', 'set', top=50)
    images = _parsed(tmp_path / 'out' / 'set.json')
    assert written.proposals_from == 'selective search, fast' and 0 < written.max_proposals_per_image <= 50
    for record in images.values():
        boxes, scores = record['proposals'], record['proposal_scores']
        y1, x1, y2, x2 = boxes.T
        assert ((y1 >= 0) & (x1 >= 0) & (y2 > y1) & (x2 > x1) & (y2 <= _HEIGHT) & (x2 <= _WIDTH)).all()
        assert (np.diff(scores) < 0).all() and scores[0] == 1
        # The red square is at rows 5..24 and columns 10..29; OpenCV blurs before it segments.
        assert (np.abs(boxes - [5, 10, 25, 30]).max(axis=1) <= 2).any()

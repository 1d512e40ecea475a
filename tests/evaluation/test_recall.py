"""Recall of proposals, computed by hand and by pycocotools without categories."""
from __future__ import annotations

import contextlib
import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from mrcnn_tf.cli import main
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.evaluation import recall, run
from mrcnn_tf.evaluation.coco import EvaluationError, GroundTruth
from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.manifest import Manifest
from tests.training.tiny import tiny_config, write_data


def truth(*annotations: dict[str, Any], images: int = 1) -> GroundTruth:
    return GroundTruth('here', {i: (400, 400) for i in range(1, images + 1)}, [(1, 'cat'), (2, 'dog')],
                       list(annotations), False)


def thing(x: float, side: float = 10., image: int = 1, category: int = 1, **flags: Any) -> dict[str, Any]:
    """A square object at x, 0."""
    return {'image_id': image, 'category_id': category, 'bbox': [x, 0., side, side], 'area': side ** 2, 'iscrowd': 0,
            **flags}


def boxes(*edges: tuple[float, float]) -> np.ndarray:
    """Squares by x and side, as y1, x1, y2, x2."""
    return np.float32([[0, x, side, x + side] for x, side in edges]).reshape(-1, 4)


@pytest.mark.parametrize(('overlaps', 'expected'), [
    ([[.6, .55], [.9, 0]], [.9, .55]),          # the first proposal does not choose first
    ([[.9, .7], [.8, 0]], [.9, 0]),             # greedy: the other assignment would match both
    ([[.7], [.8], [.8]], [.8]),
    ([[.2, .6, .6]], [0, .6, 0])],
    ids=['largest IoU first', 'greedy', 'three proposals', 'three objects'])
def test_matching(overlaps, expected) -> None:
    given = np.array(overlaps)
    assert recall.match(given).tolist() == expected
    assert (given == overlaps).all()


def test_recall_at_limits_and_ious() -> None:
    """The 50th proposal matches the first object with IoU 1, the 51st the second with IoU 0.64; the third is missed."""
    objects = truth(thing(0.), thing(100., image=2), thing(300., side=40., image=2), images=3)
    elsewhere = [(200., 10.)]
    numbers = recall.average_recall(objects, [
        (1, boxes(*elsewhere * 49, (0., 10.))), (2, boxes(*elsewhere * 50, (100., 8.))), (3, boxes())])
    assert numbers['recall/R50@50'] == numbers['recall/R95@50'] == numbers['recall/AR@50'] == 1 / 3
    assert numbers['recall/R60@100'] == 2 / 3 and numbers['recall/R65@100'] == 1 / 3
    assert numbers['recall/AR@100'] == numbers['recall/AR@2000'] == pytest.approx((10 + 3) / 30)
    assert numbers['recall/ARs@300'] == pytest.approx(13 / 20)
    assert numbers['recall/ARm@300'] == 0 and numbers['recall/ARl@300'] is None


def test_crowds_and_difficult_objects_are_ignored() -> None:
    objects = truth(thing(0.), thing(50., iscrowd=1), thing(100., difficult=True))
    numbers = recall.average_recall(objects, [(1, boxes((100., 10.), (50., 10.)))])
    assert numbers['recall/AR@300'] == 0
    numbers = recall.average_recall(truth(thing(50., iscrowd=1)), [(1, boxes((50., 10.)))])
    assert set(numbers.values()) == {None}


def test_a_missing_image_is_an_error() -> None:
    with pytest.raises(EvaluationError, match='here: 1 of 2 images have no proposals, such as image 2; give'):
        recall.average_recall(truth(images=2), [(1, boxes())])


def test_recall_equals_that_of_pycocotools_if_no_proposal_overlaps_two_objects() -> None:
    """Sixteen objects per image, each in its own cell, of random class and size; proposals in random order."""
    rng = np.random.default_rng(0)
    objects, proposals = [], {}
    for image in (1, 2, 3):
        corners = np.stack(np.meshgrid(*[np.arange(4) * 250.] * 2), -1).reshape(-1, 2)
        sides = rng.uniform(20, 120, [16, 2])
        objects += [{'image_id': image, 'category_id': int(rng.integers(1, 3)), 'bbox': [*corner, *side],
                     'area': float(np.prod(side)), 'iscrowd': int(k == 5)} for k, (corner, side) in enumerate(
                         zip(corners, sides, strict=True))]
        chosen = rng.integers(0, 16, 120)
        low = corners[chosen] + sides[chosen] * rng.normal(0, .1, [120, 2])
        high = corners[chosen] + sides[chosen] * rng.normal(1, .1, [120, 2])
        proposals[image] = np.concatenate([low, high], 1)[:, [1, 0, 3, 2]].astype(np.float32)
    known = truth(*objects, images=3)
    ours = recall.average_recall(known, proposals.items())
    theirs = by_pycocotools(known, proposals)                                  # [T, A, M]
    assert .1 < ours['recall/AR@50'] < ours['recall/AR@100'] < ours['recall/AR@300'] < 1
    for m, limit in enumerate(recall.LIMITS):
        for t in range(10):
            assert ours[f'recall/R{50 + 5 * t}@{limit}'] == pytest.approx(theirs[t, 0, m])
        for a, name in enumerate(('', 's', 'm', 'l')):
            assert ours[f'recall/AR{name}@{limit}'] == pytest.approx(theirs[:, a, m].mean())


def by_pycocotools(known: GroundTruth, proposals: dict[int, np.ndarray]) -> np.ndarray:
    """Return the recall [T, A, M] with useCats = 0."""
    found = [{'image_id': image, 'category_id': 1, 'iscrowd': 0, 'score': 1 - k / 1000,
              'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1)}
             for image, each in proposals.items() for k, (y1, x1, y2, x2) in enumerate(each.astype(float).tolist())]
    indices = []
    for regions in (known.annotations, found):
        index = COCO()
        index.dataset = {'images': [{'id': i} for i in known.sizes], 'categories': [{'id': 1}, {'id': 2}],
                         'annotations': [{**each, 'id': i} for i, each in enumerate(regions, 1)]}
        with contextlib.redirect_stdout(io.StringIO()):
            index.createIndex()
        indices.append(index)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(*indices, 'bbox')
        evaluation.params.maxDets, evaluation.params.useCats = list(recall.LIMITS), 0
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval['recall'][:, 0]


@pytest.fixture(scope='module')
def with_proposals(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Write a set of 16 images whose proposals are their objects, except that the first image has none."""
    directory = tmp_path_factory.mktemp('recall')
    write_data(directory)
    shard, manifest = directory / 'train-0.tfrecord', Manifest.read(directory / 'train.json')
    examples = [record_reader.decode(each) for _, each in record_reader.records_of(str(shard))]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for number, example in enumerate(examples):
            found = np.float32([each.box for each in example.objects if number]).reshape(-1, 4)
            example.proposals = records.Proposals(found, np.ones(len(found), np.float32))
            writer.write(records.encode(example))
    shards = [dataclasses.replace(manifest.shards[0], bytes=shard.stat().st_size)]
    dataclasses.replace(manifest, shards=shards, has_proposals=True, max_proposals_per_image=2).write(
        directory / 'train.json')
    return directory / 'train.json'


def test_recall_of_the_proposals_in_records(with_proposals: pathlib.Path, tmp_path: pathlib.Path, monkeypatch) -> None:
    """All but one of 24 objects are recalled, by the command and for a fast_rcnn."""
    result = CliRunner().invoke(main.app, ['recall', str(with_proposals)])
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ['boxes', *(f'R{iou}' for iou in range(50, 100, 5)), 'AR', 'ARs', 'ARm', 'ARl']
    assert [line[0] for line in lines[1:]] == ['50', '100', '300', '1000', '2000']
    assert all(line[1:12] == ['0.958'] * 11 and line[-1] == '-' for line in lines[1:])
    config = tiny_config(with_proposals.parent, 'model.kind=fast_rcnn')
    monkeypatch.setattr(run, 'restore_checkpoint', lambda directory, **_: (
        build_detector(config.model), config, [], 1))
    assert run.evaluate(tmp_path, with_proposals, 'recall')['recall/AR@300'] == pytest.approx(23 / 24)
    assert (tmp_path / 'metrics.json').is_file()


def test_records_without_proposals_are_an_error(tmp_path: pathlib.Path) -> None:
    write_data(tmp_path)
    with pytest.raises(EvaluationError, match='train.json: its records have no proposals; attach some with `mrcnn'):
        next(recall.read_proposals(tmp_path / 'train.json'))

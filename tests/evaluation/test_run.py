"""Evaluation of a model directory: each image once, even in a last batch that is not full; data that cannot be used."""
from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.evaluation import export_proposals, results, run
from mrcnn_tf.evaluation.coco import EvaluationError, read_manifest
from mrcnn_tf.evaluation.report import read as read_report
from mrcnn_tf.evaluation.write_report import Report
from mrcnn_tf.input import record_reader, records
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.manifest import Counts, Manifest, Shard
from mrcnn_tf.training import checkpoints
from mrcnn_tf.weights import model_directory
from tests.training.tiny import tiny_config, write_data

pytestmark = pytest.mark.usefixtures('shallow_resnets')
LIMIT = 4


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """train.json of 16 images and `run`, a model of random weights that finds LIMIT objects in every image."""
    directory = tmp_path_factory.mktemp('evaluation')
    write_data(directory)
    config = tiny_config(directory, 'data.evaluation_batch_size=3', 'model.detections.score_threshold=0',
                         f'model.detections.max_detections={LIMIT}')
    model = build_detector(config.model)
    model.compile(keras.optimizers.SGD(0.1))
    model_directory.create(directory / 'run', config, Manifest.read(directory / 'train.json').categories)
    checkpoints.Checkpoints(directory / 'run', model, keep=1).save(1)
    return directory


def test_every_image_counts_once(trained: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = trained / 'report.html'
    metrics = run.evaluate(trained / 'run', trained / 'train.json', report=Report(page, pictures=2))
    assert len([name for name in metrics if name.startswith('segm/A') and 'AP/' not in name]) == 12
    written = json.loads((trained / 'run' / 'metrics.json').read_text())
    # 16 images in batches of 3; every other one has two objects
    assert (written['images'], written['objects'], written['detections']) == (16, 24, 16 * LIMIT)
    assert {name: written[name] for name in metrics} == metrics
    detections = json.loads((trained / 'run' / 'detections.json').read_text())
    ids, counts = np.unique([each['image_id'] for each in detections], return_counts=True)
    assert ids.tolist() == list(range(16)) and counts.tolist() == [LIMIT] * 16
    written_rows = (trained / 'run' / 'per_class.csv').read_text().splitlines()
    assert written_rows[0].startswith('category,id,images,objects,bbox/AP,bbox/AP50') and len(written_rows) == 1 + 2
    assert page.read_text().count('<figure>') == 2 and read_report(page)['detections'] == 16 * LIMIT
    assert list(read_report(page)['kinds']) == ['bbox', 'segm']
    assert read_report(page)['model'] == f'{trained / "run"}, step 1'
    assert re.search(r'^evaluated: 16 of 16 images, [\d.]+ images/s$', capsys.readouterr().out, re.MULTILINE)


DEVICES = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],
                                           [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})    # as in this process
from mrcnn_tf.detectors import augmentation
from mrcnn_tf.evaluation import export_proposals, run
from tests.conftest import shallow

used, make, detect = set(), augmentation.SingleView.__init__, augmentation.SingleView.__call__

def made(self, function, detector, *rest, **named):
    make(self, function, detector, *rest, **named)
    self.weights_on = tf.convert_to_tensor(detector.trainable_variables[0]).device[-5:]

def recorded(self, batches):
    detections = detect(self, batches)
    used.add(f"{detections['scores'].device[-5:]}={self.weights_on}")
    return detections

augmentation.SingleView.__init__, augmentation.SingleView.__call__ = made, recorded
model, data, output = sys.argv[1:]
with shallow():
    for work in (lambda: run.evaluate(model, data, devices=['CPU:1', 'CPU:0']),
                 lambda: export_proposals.propose(model, data, output, devices=['CPU:1', 'CPU:0'])):
        work()
        print(*sorted(used))
        used.clear()
"""


def test_several_processes_write_the_same(trained: pathlib.Path) -> None:
    expected = run.evaluate(trained / 'run', trained / 'train.json')
    detections = (trained / 'run' / 'detections.json').read_bytes()
    assert run.evaluate(trained / 'run', trained / 'train.json', workers=2) == expected
    assert (trained / 'run' / 'detections.json').read_bytes() == detections
    assert results.evaluate_results(trained / 'run' / 'detections.json', trained / 'train.json', workers=2) == expected


def test_two_devices_find_the_same_in_the_same_order(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = run.evaluate(trained / 'run', trained / 'train.json')
    detections = (trained / 'run' / 'detections.json').read_bytes()
    export_proposals.propose(trained / 'run', trained / 'train.json', tmp_path / 'one.npz')
    (trained / 'run' / 'detections.json').unlink()
    arguments = trained / 'run', trained / 'train.json', tmp_path / 'two.npz'
    done = subprocess.run([sys.executable, '-c', DEVICES, *arguments], text=True, capture_output=True, timeout=300,
                          env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)})
    assert [line for line in done.stdout.splitlines() if 'CPU' in line] == ['CPU:0=CPU:0 CPU:1=CPU:1'] * 2, done.stderr
    assert (trained / 'run' / 'detections.json').read_bytes() == detections
    metrics = json.loads((trained / 'run' / 'metrics.json').read_text())
    assert {name: metrics[name] for name in expected} == expected
    assert (tmp_path / 'two.npz').read_bytes() == (tmp_path / 'one.npz').read_bytes()


def test_no_set_is_named(trained: pathlib.Path) -> None:
    with pytest.raises(EvaluationError, match='config.yaml: data.validation is not set; say with --data'):
        run.evaluate(trained / 'run')


def test_a_damaged_record_is_named(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    write_data(tmp_path)
    manifest = Manifest.read(tmp_path / 'train.json')
    shard = tmp_path / 'train-0.tfrecord'
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
    at = records[5].index(b'IDAT') + 8    # the compressed pixels of a PNG
    records[5] = records[5][:at] + bytes(16) + records[5][at + 16:]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record)
    assert shard.stat().st_size == manifest.shards[0].bytes
    with pytest.raises(InputError, match=r'train-0.tfrecord: record 5 \(from 0\) = image 5: .*replace the image'):
        run.evaluate(trained / 'run', tmp_path / 'train.json')


def emptied(source: pathlib.Path, directory: pathlib.Path, crowds: bool) -> pathlib.Path:
    """The same images without an object, or with crowds alone."""
    manifest = Manifest.read(source / 'train.json')
    examples = [record_reader.decode(serialized, '') for _, serialized in record_reader.places(source / 'train.json')]
    with tf.io.TFRecordWriter(str(directory / 'train-0.tfrecord')) as writer:
        for example in examples:
            objects = [dataclasses.replace(each, crowd=True) for each in example.objects] if crowds else []
            writer.write(records.encode(dataclasses.replace(example, objects=objects)))
    size = (directory / 'train-0.tfrecord').stat().st_size
    counts = Counts(16, 0, 24, 24) if crowds else Counts(16, 16, 0, 0)
    dataclasses.replace(manifest, counts=counts, shards=[Shard('train-0.tfrecord', 16, size, '')]).write(
        directory / 'test.json')
    return directory / 'test.json'


@pytest.mark.slow
def test_a_set_without_ground_truth(trained: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
                                    ) -> None:
    """Detections are written, for a server that has the ground truth; recall has nothing to write."""
    path = emptied(trained, tmp_path, crowds=False)
    metrics = run.evaluate(trained / 'run', path)
    assert set(metrics.values()) == {None}
    assert f'{path}: no ground truth: it has no objects; metrics cannot be computed; `mrcnn evaluate` ' in caplog.text
    assert len(json.loads((trained / 'run' / 'detections.json').read_text())) == 16 * LIMIT


def test_a_set_of_crowds_has_no_ground_truth(trained: pathlib.Path, tmp_path: pathlib.Path,
                                             caplog: pytest.LogCaptureFixture) -> None:
    path = emptied(trained, tmp_path, crowds=True)
    run.warn_of_unreliable_metrics(read_manifest(path), LIMIT)
    assert f'{path}: no ground truth: all its objects are crowds; ' in caplog.text
    with pytest.raises(EvaluationError, match='no ground truth: it has no object that counts, so there is no recall'):
        run.evaluate(trained / 'run', path, 'recall')


def test_more_objects_than_detections(trained: pathlib.Path,
                                      caplog: pytest.LogCaptureFixture) -> None:
    truth = read_manifest(trained / 'train.json')
    run.warn_of_unreliable_metrics(truth, 2)
    assert not caplog.messages
    run.warn_of_unreliable_metrics(truth, 1)
    assert caplog.messages == [
        f'{trained}/train.json: 8 of 16 images have more than model.detections.max_detections=1 objects, up to 2; '
        'those beyond cannot be found: set it higher']


def test_recall_of_the_rpn(trained: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all 1023 anchors' boxes that suppression leaves, though the model itself would take the best three."""
    def restored(directory: pathlib.Path, **_: str) -> model_directory.Restored:
        found = model_directory.restore_checkpoint(directory)
        found.config.model.rpn.post_nms_test = 3
        return found

    monkeypatch.setattr(run, 'restore_checkpoint', restored)
    found = run.evaluate(trained / 'run', trained / 'train.json', 'recall')
    assert found['recall/AR@50'] <= found['recall/AR@300'] <= found['recall/AR@2000'] < 1
    assert found['recall/AR@50'] < found['recall/AR@2000'] and found['recall/R50@2000'] > found['recall/R75@2000']
    assert found['recall/ARl@300'] is None
    written = json.loads((trained / 'run' / 'metrics.json').read_text())
    assert written == {**found, 'images': 16, 'step': 1}


def test_an_rpn_has_no_categories_to_find(trained: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(trained, 'model.kind=rpn')
    model = build_detector(config.model)
    monkeypatch.setattr(run, 'restore_checkpoint', lambda directory, **_: (model, config, [], 1))
    with pytest.raises(EvaluationError, match='^an rpn does not tell categories apart; .*--metric recall'):
        run.evaluate(trained / 'run', trained / 'train.json')


def test_an_unknown_metric_is_refused(trained: pathlib.Path) -> None:
    with pytest.raises(EvaluationError, match="metric 'COCO': expected coco, voc2007, voc2012, cityscapes"):
        run.evaluate(trained / 'run', trained / 'train.json', 'COCO')


@pytest.mark.slow
def test_voc_writes_its_own_numbers(trained: pathlib.Path) -> None:
    found = run.evaluate(trained / 'run', trained / 'train.json', 'voc2012')
    names = [category.name for category in Manifest.read(trained / 'train.json').categories]
    assert list(found) == ['voc/mAP', *(f'voc/AP/{name}' for name in names)]
    written = json.loads((trained / 'run' / 'metrics.json').read_text())
    assert written['images'] == 16 and written['voc/mAP'] == found['voc/mAP']

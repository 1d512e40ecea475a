"""`mrcnn evaluate` and `mrcnn propose`: the arguments of the functions that they call, and the tables printed."""
from __future__ import annotations

import pathlib
import re

import pytest

from mrcnn_tf.evaluation.run import Evaluation
from mrcnn_tf.evaluation.write_report import Report
from tests.cli.runner import Recorder, mrcnn


def test_evaluate_by_coco(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
    numbers = {f'{kind}/{name}': i / 100 for kind in ('bbox', 'segm') for i, name in enumerate(names, 11)}
    row = {'category': 'a cat', 'id': 7, 'images': 2, 'objects': 3, 'bbox/AP': .25, 'bbox/AP50': .5, 'bbox/AP75': None}
    evaluate = Recorder(Evaluation(numbers, [row]))
    monkeypatch.setattr('mrcnn_tf.evaluation.run.evaluate_classes', evaluate)
    result = mrcnn('evaluate', '--model-dir', 'run', '--data', 'val.json')
    assert result.exit_code == 0 and evaluate.calls == [
        (pathlib.Path('run'), pathlib.Path('val.json'), 'coco', 'best', None, 'float32', [], 1)]
    rows = re.findall(r'@\[.*\] +([\d.]+) +([\d.]+)', result.stdout)
    assert rows == [(f'0.{i}0', f'0.{i}0') for i in range(11, 23)]
    assert result.stdout.splitlines()[-1].split() == ['a', 'cat', '2', '3', '0.250', '0.500', '-']


def test_evaluate_by_voc(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Recorder(Evaluation({'voc/mAP': .5, 'voc/AP/cat': .5}))
    monkeypatch.setattr('mrcnn_tf.evaluation.run.evaluate_classes', evaluate)
    result = mrcnn('evaluate', '--model-dir', 'run', '--metric', 'voc2007', '--checkpoint', '300',
                   '--precision', 'bfloat16')
    assert result.stdout.split() == ['mAP', '50.0', 'cat', '50.0']
    assert evaluate.calls[0][2:] == ('voc2007', '300', None, 'bfloat16', [], 1)


def test_evaluate_by_cityscapes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ('AP', 'AP50', 'AP/car', 'AP50/car')
    evaluate = Recorder(Evaluation({f'cityscapes/{name}': i / 10 for i, name in enumerate(names, 1)}))
    monkeypatch.setattr('mrcnn_tf.evaluation.run.evaluate_classes', evaluate)
    result = mrcnn('evaluate', '--model-dir', 'run', '--metric', 'cityscapes')
    assert result.stdout.split() == ['AP', 'AP50', 'car', '30.0', '40.0', 'mean', '10.0', '20.0']
    assert evaluate.calls[0][2] == 'cityscapes'


def test_evaluate_with_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Recorder(Evaluation({}))
    monkeypatch.setattr('mrcnn_tf.evaluation.run.evaluate_classes', evaluate)
    result = mrcnn('evaluate', '--model-dir', 'run', '--metric', 'recall', '--report', 'a.html', '--against', 'b.html',
                   '--images', '3')
    assert result.stdout.splitlines()[-1] == 'a.html'
    assert evaluate.calls[0][4] == Report(pathlib.Path('a.html'), pathlib.Path('b.html'), 3)
    alone = mrcnn('evaluate', '--model-dir', 'run', '--against', 'b.html')
    assert alone.exit_code == 1 and 'give --report too' in alone.stderr and len(evaluate.calls) == 1


def test_evaluate_the_detections_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Recorder(Evaluation({'voc/mAP': .5}))
    monkeypatch.setattr('mrcnn_tf.evaluation.results.evaluate_classes', evaluate)
    result = mrcnn('evaluate', '--detections', 'found.json', '--data', 'val.json', '--metric', 'voc2012')
    assert result.stdout.split() == ['mAP', '50.0']
    assert evaluate.calls == [(pathlib.Path('found.json'), pathlib.Path('val.json'), 'voc2012', None, 1)]


@pytest.mark.parametrize('given', [(), ('--detections', 'a.json'), (
    '--model-dir', 'run', '--detections', 'a.json', '--data', 'val.json')], ids=['nothing', 'no set', 'both'])
def test_a_model_or_detections_are_evaluated(given: tuple[str, ...]) -> None:
    result = mrcnn('evaluate', *given)
    assert result.exit_code == 1 and 'give either --model-dir, to evaluate a model, or --detections' in result.stderr


@pytest.mark.parametrize(('more', 'training'), [([], False), (['--for-training'], True)], ids=['inference', 'training'])
def test_propose(monkeypatch: pytest.MonkeyPatch, more: list[str], training: bool) -> None:
    propose = Recorder()
    monkeypatch.setattr('mrcnn_tf.evaluation.export_proposals.propose', propose)
    result = mrcnn('propose', '--model-dir', 'run', '--data', 'a.json', '--output', 'a.npz', *more)
    assert (result.exit_code, result.stdout) == (0, 'a.npz\n')
    assert propose.calls == [(*map(pathlib.Path, ('run', 'a.json', 'a.npz')), training, 'best', 'float32', [])]

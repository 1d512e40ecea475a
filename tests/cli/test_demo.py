"""The demo: the whole workflow with seconds of training, its comparison of export and model, and its directory."""
from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from mrcnn_tf.cli import demo
from mrcnn_tf.detectors.instances import Instances

pytestmark = pytest.mark.usefixtures('shallow_resnets')


@pytest.mark.slow
def test_the_demo_runs(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str],
                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, 'SETS', [('train', 24, 1), ('val', 8, 2)])
    metrics = demo.run(tmp_path / 'demo', steps=8)
    assert metrics['segm/AP50'] is not None and 'bbox/AP' in metrics
    written = json.loads((tmp_path / 'demo' / 'metrics.json').read_text())
    assert written['segm/AP50'] == metrics['segm/AP50'] and written['steps'] == 8 and written['seconds'] > 0
    assert (tmp_path / 'demo' / 'saved_model' / '1' / 'saved_model.pb').is_file()
    with Image.open(tmp_path / 'demo' / 'prediction.png') as picture:
        assert picture.width > 2000 and len(picture.getcolors(2 ** 24)) > 1000
    printed = capsys.readouterr().out
    assert [f'[{i}/6]' in printed for i in range(1, 7)] == [True] * 6
    assert 'detections in 8 images, equal to those of the model in this process' in printed


def instances() -> Instances:
    boxes = np.array([[0, 0, 9, 9], [5, 5, 20, 20], [1, 1, 2, 2]], np.float32)
    return Instances(boxes, np.array([.9, .8, .3], np.float32), np.array([1, 2, 1], np.int32))


def test_the_order_of_detections_does_not_matter() -> None:
    demo._check_same([instances()], [instances()[[1, 0, 2]]])
    demo._check_same([instances()[:2]], [instances()])    # detections below 0.5 are not compared
    demo._check_same([instances()[:0]], [instances()[:0]])


@pytest.mark.parametrize('change', [
    {'boxes': instances().boxes + [[0, 0, 0, .2]]}, {'scores': instances().scores - .002},
    {'labels': np.array([1, 1, 1])}], ids=lambda change: next(iter(change)))
def test_a_difference_is_an_error(change: dict[str, np.ndarray]) -> None:
    other = dataclasses.replace(instances(), **change)
    for pair in (([instances()], [other]), ([other], [instances()])):
        with pytest.raises(RuntimeError, match='detections of the SavedModel and the model in this process differ'):
            demo._check_same(*pair)
    with pytest.raises(RuntimeError, match='1 detections'):
        demo._check_same([instances()[:1]], [instances()])


def test_a_directory_with_other_files_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'data').mkdir()
    with pytest.raises(demo.DemoError, match='contains files that no demo wrote; choose another --output'):
        demo.run(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ['data']


def test_only_the_files_of_an_earlier_demo_are_replaced(tmp_path: pathlib.Path) -> None:
    demo._claim(tmp_path / 'demo')
    (tmp_path / 'demo' / 'model').mkdir()
    (tmp_path / 'demo' / 'model' / 'config.yaml').write_text('')
    (tmp_path / 'demo' / 'notes.txt').write_text('mine')
    demo._claim(tmp_path / 'demo')
    assert sorted(path.name for path in (tmp_path / 'demo').iterdir() if path.name[0] != '.') == ['notes.txt']

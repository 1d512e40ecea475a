"""Cityscapes' average precision, computed by hand and by the official script on the same files."""
from __future__ import annotations

import json
import pathlib
import sys
import types
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as official
from PIL import Image

from data_tools import conversion
from data_tools.formats import cityscapes as converter
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import cityscapes, run
from mrcnn_tf.evaluation.coco import EvaluationError, read_manifest
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.ops import paste

HEIGHT, WIDTH = 40, 80
ROAD, PERSON, CAR, BICYCLE = 7, 24, 26, 33
NAMES = ('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle')
BASE = 'aachen_000000_00000{}'
# Objects of 12 x 12 px, and one that is too small to be evaluated.
PIXELS = np.full([HEIGHT, WIDTH], ROAD, np.uint16)
PIXELS[0:12, 0:12], PIXELS[0:12, 20:32], PIXELS[0:12, 40:52] = 26000, 26001, CAR     # two cars and a group of cars
PIXELS[20:32, 0:12], PIXELS[20:32, 20:32], PIXELS[20:26, 40:46] = 0, 24000, 26002    # void, a person, a small car


def region(top: int, left: int, height: int = 12, width: int = 12) -> np.ndarray:
    mask = np.zeros([HEIGHT, WIDTH], bool)
    mask[top:top + height, left:left + width] = True
    return mask


def found(mask: np.ndarray, score: float, category: int = CAR, image: int = 1) -> dict[str, Any]:
    return {'image_id': image, 'category_id': category, 'score': score, 'segmentation': paste.encode(mask)}


def write(path: pathlib.Path, pixels: np.ndarray = PIXELS) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint16)).save(path)
    return path


def tree(root: pathlib.Path, *pixels: np.ndarray) -> pathlib.Path:
    """Convert a set of instance-id images and return its manifest; `root` has the official layout."""
    for number, each in enumerate(pixels or (PIXELS,), 1):
        picture = root / 'leftImg8bit' / 'val' / 'aachen' / f'{BASE.format(number)}_leftImg8bit.png'
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros([HEIGHT, WIDTH, 3], np.uint8)).save(picture)
        write(root / 'gtFine' / 'val' / 'aachen' / f'{BASE.format(number)}_gtFine_instanceIds.png', each)
    conversion.convert(converter.find(root, 'val'), root / 'out', 'val')
    return root / 'out' / 'val.json'


def test_average_precision_by_hand(tmp_path: pathlib.Path) -> None:
    """Cars: one found, a wrong one, one found with an IoU of 10 / 12; what lies on void, the group or the small car
    does not count. Up to 0.8 the curve goes through (recall, precision) 1/2, 1, then 1/2, 1/2, then 1, 2/3. The script
    weighs each of its points, and 0, 1 before them, by half of what recall rises from the one before it to the one
    behind it: 1/4 each. Above, the last is wrong too: 1/2, 1, and the point 0, 1, by 1/4 each. A person is missed.
    """
    detections = [found(region(0, 0), .9), found(region(20, 60), .8), found(region(0, 22, width=10), .7),
                  found(region(20, 0), .95), found(region(0, 40), .96), found(region(20, 40, 6, 6), .97)]
    metrics = cityscapes.average_precision({1: write(tmp_path / 'a.png')}, detections)
    half, strict = (2 / 3 + 1 / 2 + 1 + 1) / 4, (1 + 1) / 4
    car = (7 * half + 3 * strict) / 10
    assert metrics['AP/car'] == pytest.approx(car) and metrics['AP50/car'] == pytest.approx(half)
    assert metrics['AP/person'] == metrics['AP50/person'] == 0.
    assert metrics['AP'] == pytest.approx(car / 2) and metrics['AP50'] == pytest.approx(half / 2)
    others = {name: metrics[f'{kind}/{name}'] for kind in ('AP', 'AP50') for name in NAMES}
    assert {name for name, value in others.items() if value is not None} == {'car', 'person'}
    assert list(metrics) == ['AP', 'AP50', *(f'AP/{name}' for name in NAMES), *(f'AP50/{name}' for name in NAMES)]


def test_no_detections_and_no_instances(tmp_path: pathlib.Path) -> None:
    """Also if all detections are ignored, for which the official script fails."""
    truth = {1: write(tmp_path / 'a.png')}
    for detections in ([], [found(region(20, 0), .9)], [found(region(0, 0), .9, 29)]):     # 29: a caravan
        metrics = cityscapes.average_precision(truth, detections)
        assert (metrics['AP'], metrics['AP/car'], metrics['AP/bus']) == (0., 0., None)
    empty = {1: write(tmp_path / 'b.png', np.full([HEIGHT, WIDTH], ROAD))}
    assert set(cityscapes.average_precision(empty, [found(region(0, 0), .9)]).values()) == {None}


def scene(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[np.ndarray, float, int]]]:
    """Return overlapping objects of three classes, groups, void and caravans, and imperfect detections of them."""
    pixels, detections = np.full([HEIGHT, WIDTH], ROAD, np.uint16), []
    for number in range(14):
        category = int(rng.choice([PERSON, CAR, BICYCLE, 29, 0]))
        top, left, height, width = (int(rng.integers(low, high)) for low, high in ((0, 30), (0, 60), (5, 20), (8, 24)))
        pixels[top:top + height, left:left + width] = (
            category * 1000 + number if category and rng.uniform() < .8 else category)
        shift = rng.integers(-2, 3, 2)
        detections.append((region(max(top + shift[0], 0), max(left + shift[1], 0), height, width),
                           round(float(rng.uniform()), 2), category or CAR))
    return pixels, detections


def by_the_official_script(root: pathlib.Path, scenes: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the averages that the official script computes from files of the scenes."""
    monkeypatch.setattr(np, 'in1d', np.isin, raising=False)    # the script uses it, and NumPy 2.4 has removed it
    monkeypatch.setattr(official, 'writeDict2JSON', lambda *_: None)    # fails on numbers of NumPy
    (root / 'results').mkdir(parents=True)
    settings = official.CArgs()
    vars(settings).update(vars(official.args), predictionPath=str(root / 'results'), quiet=True, JSONOutput=False,
                          gtInstancesFile=str(root / 'instances.json'))
    truth, results = [], []
    for number, (pixels, detections) in enumerate(scenes, 1):
        truth.append(str(write(root / f'{BASE.format(number)}_gtFine_instanceIds.png', pixels)))
        lines = [f'{number}_{k}.png {category} {score}\n' for k, (_, score, category) in enumerate(detections)]
        for k, (mask, _, _) in enumerate(detections):
            Image.fromarray(255 * mask.astype(np.uint8)).save(root / 'results' / f'{number}_{k}.png')
        results.append(str(root / 'results' / f'{BASE.format(number)}.txt'))
        pathlib.Path(results[-1]).write_text(''.join(lines))
    return official.evaluateImgLists(results, truth, settings)['averages']


def test_equal_to_the_official_script(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    scenes = [scene(rng) for _ in range(5)]
    expected = by_the_official_script(tmp_path / 'official', scenes, monkeypatch)
    truth = {number: write(tmp_path / f'{number}.png', pixels) for number, (pixels, _) in enumerate(scenes, 1)}
    metrics = cityscapes.average_precision(truth, [
        found(mask, score, category, number) for number, (_, detections) in enumerate(scenes, 1)
        for mask, score, category in detections])
    assert 0 < metrics['AP'] < metrics['AP50'] < 1
    assert (metrics['AP'], metrics['AP50']) == pytest.approx((expected['allAp'], expected['allAp50%']))
    for name, row in expected['classes'].items():
        for key, theirs in (('AP', row['ap']), ('AP50', float(np.ravel(row['ap50%'])[0]))):
            ours = metrics[f'{key}/{name}']
            assert np.isnan(theirs) if ours is None else ours == pytest.approx(theirs)
    assert {name for name in NAMES if metrics[f'AP/{name}'] is not None} == {'person', 'car', 'bicycle'}


class Found:
    """Replaces `predictions`: returns the objects of PIXELS for each of two images."""

    def __call__(self, *_: Any) -> Any:
        masks = np.stack([number == PIXELS for number in (24000, 26000, 26001)])
        instances = Instances(np.zeros([3, 4], np.float32), np.float32([.9, .8, .7]), np.int32([1, 3, 3]), masks)
        yield from ((number, (HEIGHT, WIDTH), instances) for number in (1, 2))


def evaluate(manifest: pathlib.Path, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch,
             kind: str = 'mask_rcnn') -> dict[str, float | None]:
    config = Config()
    config.model.kind = kind
    outputs = {'boxes': None, **({'masks': None} if kind == 'mask_rcnn' else {})}
    model = types.SimpleNamespace(classifies=True, output_spec=lambda: outputs)
    categories = Manifest.read(manifest).categories
    monkeypatch.setattr(run, 'restore_checkpoint', lambda path, **_: (model, config, categories, 1))
    monkeypatch.setattr(run, 'detection_function', lambda *_, **__: None)
    monkeypatch.setattr(run, 'predictions', Found())
    return run.evaluate(directory, manifest, 'cityscapes')


def test_evaluation_of_a_model_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All detections are right on the first image and wrong on the second, which is only road."""
    manifest = tree(tmp_path, PIXELS, np.full([HEIGHT, WIDTH], ROAD))
    metrics = evaluate(manifest, tmp_path, monkeypatch)
    assert metrics['cityscapes/AP50/person'] == metrics['cityscapes/AP/person']
    written = json.loads((tmp_path / 'metrics.json').read_text())
    assert written['images'] == 2 and written['cityscapes/AP'] == metrics['cityscapes/AP']
    # A true and a false positive of equal score: precision 1/2 at recall 1, and the point 0, 1, weight 1/2 each.
    assert metrics['cityscapes/AP/person'] == pytest.approx((1 / 2 + 1) / 2)
    lines = cityscapes.table(metrics).splitlines()
    assert lines[0].split() == ['AP', 'AP50'] and lines[1].split() == ['person', '75.0', '75.0']
    assert lines[2].split() == ['rider', '-', '-'] and lines[-1].split()[0] == 'mean' and len(lines) == 10


def test_ground_truth_is_searched_where_the_official_scripts_search(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tree(tmp_path / 'here')
    truth = read_manifest(manifest)
    stated = tmp_path / 'here' / 'gtFine' / 'val' / 'aachen' / f'{BASE.format(1)}_gtFine_instanceIds.png'
    assert cityscapes.instance_files(manifest, truth) == {1: stated}
    (tmp_path / 'here' / 'gtFine').rename(tmp_path / 'gtFine')
    monkeypatch.delenv('CITYSCAPES_DATASET', raising=False)
    with pytest.raises(EvaluationError, match='gtFine/val does not exist; set CITYSCAPES_DATASET to the directory'):
        cityscapes.instance_files(manifest, truth)
    monkeypatch.setenv('CITYSCAPES_DATASET', str(tmp_path))
    moved = tmp_path / 'gtFine' / 'val' / 'aachen' / stated.name
    assert cityscapes.instance_files(manifest, truth) == {1: moved}
    moved.unlink()
    with pytest.raises(EvaluationError, match=r'val: no aachen_000000_000001_\*_instanceIds.png for 1 of 1 images'):
        cityscapes.instance_files(manifest, truth)


def test_a_set_that_cannot_be_evaluated_is_an_error_before_prediction(
        tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tree(tmp_path)
    with pytest.raises(EvaluationError, match='compares masks, and model.kind=faster_rcnn has no mask head'):
        evaluate(manifest, tmp_path, monkeypatch, 'faster_rcnn')
    described = Manifest.read(manifest)
    described.source.kind = 'coco'
    described.write(manifest)
    with pytest.raises(EvaluationError, match='its source is coco with annotations .*; use --metric coco or voc2012'):
        evaluate(manifest, tmp_path, monkeypatch)
    monkeypatch.setitem(sys.modules, 'cityscapesscripts.evaluation', types.ModuleType('empty'))
    with pytest.raises(EvaluationError, match=r"is not installed; pip install .*\[cityscapes\]'"):
        evaluate(manifest, tmp_path, monkeypatch)
    assert not (tmp_path / 'metrics.json').exists()


@pytest.mark.parametrize(('pixels', 'message'), [
    (np.zeros([WIDTH, HEIGHT]), 'is 80 x 40 px, and its detections are for 40 x 80 px; convert'),
    (None, 'cannot be read')], ids=['other size', 'no image'])
def test_instance_files_that_cannot_be_used_are_an_error(pixels: Any, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'a.png'
    path.write_bytes(b'text') if pixels is None else write(path, pixels)
    with pytest.raises(EvaluationError, match=message) as error:
        cityscapes.average_precision({1: path}, [found(region(0, 0), .9)])
    assert '\n' not in str(error.value)
    Image.fromarray(np.zeros([HEIGHT, WIDTH, 3], np.uint8)).save(path)
    with pytest.raises(EvaluationError, match='not a 16-bit grayscale image'):
        cityscapes.average_precision({1: path}, [])

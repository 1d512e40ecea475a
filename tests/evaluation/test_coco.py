"""COCO evaluation: metrics computed by hand, COCO's published table, and pycocotools on the written files."""
from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import coco
from mrcnn_tf.evaluation.coco import CocoEvaluator, EvaluationError
from mrcnn_tf.files.processes import Processes
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import Category, Counts, Manifest, Shard, Source
from tests.paths import SHARED

PARITY = SHARED / 'data' / 'cocoeval_parity'
CATEGORIES = [Category(1, 7, 'cat'), Category(2, 3, 'dog')]
SIDE = 160


def rectangle(x, y, width, height, number, image=1, category=7, **more):
    """Return a COCO annotation whose mask, a polygon, fills its box."""
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {'id': number, 'image_id': image, 'category_id': category, 'bbox': [x, y, width, height],
            'area': width * height, 'iscrowd': 0, 'segmentation': [corners], **more}


def write_coco(path, annotations, images=(1,)):
    path.write_text(json.dumps({
        'images': [{'id': i, 'height': SIDE, 'width': SIDE} for i in images], 'annotations': annotations,
        'categories': [{'id': c.id, 'name': c.name} for c in CATEGORIES]}))
    return path


def instances(boxes, scores, labels=None, filled=None):
    """Return instances from boxes [x, y, width, height]; masks fill the boxes or those of `filled`."""
    masks = np.zeros((len(boxes), SIDE, SIDE), bool)
    for mask, (x, y, width, height) in zip(masks, filled or boxes, strict=True):
        mask[y:y + height, x:x + width] = True
    x, y, width, height = np.array(boxes, np.float32).reshape(-1, 4).T
    return Instances(np.stack([y, x, y + height, x + width], 1), np.array(scores, np.float32),
                     np.array(labels or [1] * len(boxes), np.int32), masks)


@pytest.fixture
def evaluator(tmp_path):
    def build(annotations, images=(1,)):
        truth = coco.read_coco(write_coco(tmp_path / 'truth.json', annotations, images))
        return CocoEvaluator(truth, CATEGORIES, 'pixel_center')
    return build


def test_average_precision_by_hand(evaluator):
    it = evaluator([rectangle(10, 10, 40, 40, 1), rectangle(80, 80, 40, 40, 2)])
    it.add(1, instances([[10, 10, 40, 40], [10, 100, 40, 40], [80, 80, 40, 40]], [.9, .8, .7]))
    metrics = it.evaluate()
    # found, wrong, found: precision 1 up to recall 1/2 (51 of the 101 recalls), then 2/3; both objects are medium
    expected = (51 + 50 * 2 / 3) / 101
    for kind in ('bbox', 'segm'):
        for name in ('AP', 'AP50', 'AP75', 'APm', 'AP/cat'):
            assert metrics[f'{kind}/{name}'] == pytest.approx(expected, abs=1e-12)
        # the best one finds one of two, the best ten both
        assert [metrics[f'{kind}/{name}'] for name in ('AR1', 'AR10', 'AR100', 'ARm')] == [.5, 1, 1, 1]
        assert [metrics[f'{kind}/{name}'] for name in ('APs', 'APl', 'ARs', 'ARl', 'AP/dog')] == [None] * 5
    assert len(metrics) == 2 * (12 + 2)


def test_several_processes_give_the_same(evaluator):
    """The detections in order, and metrics to the last bit; on each image another one of two objects is found."""
    images, found = range(1, 13), []
    objects = [rectangle(10, 10 + 60 * k, 40, 40, 2 * image + k, image) for image in images for k in (0, 1)]
    some = [(image, instances([[10, 10 + 60 * (image % 2), 40, 30 + image % 9]], [1 / image])) for image in images]
    with Processes(2) as processes:
        for mapped in (map, processes.map):
            it = evaluator(objects, images)
            it.add_all(iter(some), mapped)
            found.append((it.evaluate(mapped=mapped), it.detections))
    assert found[0] == found[1]
    assert 0 < found[0][0]['segm/AP'] < 1 and [each['image_id'] for each in found[1][1]] == list(images)


def test_iou_thresholds_by_hand(evaluator):
    it = evaluator([rectangle(0, 0, 100, 100, 1)])
    it.add(1, instances([[0, 0, 100, 72]], [.9]))    # IoU 0.72 counts at 0.50, 0.55, 0.60, 0.65, 0.70
    metrics = it.evaluate()
    for kind in ('bbox', 'segm'):
        assert [metrics[f'{kind}/{name}'] for name in ('AP', 'AP50', 'AP75', 'AR100')] == pytest.approx([.5, 1, 0, .5])


def test_boxes_and_masks_are_evaluated_separately(evaluator):
    it = evaluator([rectangle(0, 0, 40, 40, 1)])
    it.add(1, instances([[0, 0, 40, 40]], [.9], filled=[[60, 60, 40, 40]]))
    metrics = it.evaluate()
    assert (metrics['bbox/AP'], metrics['segm/AP']) == (pytest.approx(1), 0)


def test_masks_are_small_or_large_by_their_own_area(evaluator):
    it = evaluator([rectangle(0, 0, 20, 20, 1)])
    # the wrong one has a small mask in a large box: it spoils APs; by the area of its box it would not count there
    it.add(1, instances([[60, 60, 90, 90], [0, 0, 20, 20]], [.9, .8], filled=[[60, 60, 10, 10], [0, 0, 20, 20]]))
    metrics = it.evaluate()
    assert metrics['segm/APs'] == pytest.approx(.5) and metrics['bbox/APs'] == pytest.approx(1)


def test_more_than_100_detections(evaluator):
    grid = [[12 * i, 12 * j, 10, 10] for i in range(13) for j in range(12)][:150]
    it = evaluator([rectangle(*box, number) for number, box in enumerate(grid, 1)])
    it.add(1, instances(grid, np.linspace(.99, .5, 150)))
    metrics = it.evaluate(200)
    # of 150 the best 100 are found: precision 1 at the recalls 0.00 .. 0.66, which are 67 of 101
    for kind in ('bbox', 'segm'):
        assert metrics[f'{kind}/AP'] == metrics[f'{kind}/AP50'] == pytest.approx(67 / 101)
        assert metrics[f'{kind}/AR100'] == pytest.approx(2 / 3) and metrics[f'{kind}/AR10'] == pytest.approx(1 / 15)
        assert [metrics[f'{kind}/{name}@200'] for name in ('AP', 'AP50', 'AP75', 'AR')] == pytest.approx([1] * 4)
    assert {k for k in it.evaluate() if '@' in k} == set()
    lines = coco.table(metrics).splitlines()
    assert len(lines) == 1 + 12 + 4 and lines[1].endswith('maxDets=100 ]    0.663  0.663')
    assert 'maxDets=200' in lines[13] and lines[13].split()[-2:] == ['1.000', '1.000']


def test_crowds_are_ignored(evaluator):
    it = evaluator([rectangle(0, 0, 40, 40, 1), rectangle(80, 80, 60, 60, 2, iscrowd=1)])
    it.add(1, instances([[90, 90, 20, 20], [110, 110, 20, 20], [0, 0, 40, 40]], [.9, .8, .7]))
    metrics = it.evaluate()
    assert metrics['bbox/AP'] == metrics['segm/AP'] == pytest.approx(1)


def test_categories_keep_their_ids(evaluator):
    it = evaluator([rectangle(0, 0, 40, 40, 1, category=3), rectangle(80, 0, 40, 40, 2, category=7)])
    it.add(1, instances([[0, 0, 40, 40], [80, 0, 40, 40]], [.9, .8], labels=[2, 2]))
    # both are called dogs, one is: a false dog below the true one costs nothing, the cat is missed
    metrics = it.evaluate()
    assert [metrics[f'bbox/{name}'] for name in ('AP/dog', 'AP/cat', 'AP')] == pytest.approx([1, 0, .5])
    assert [each['category_id'] for each in it.detections] == [3, 3]


def test_no_detections(evaluator):
    it = evaluator([rectangle(0, 0, 40, 40, 1)], images=(1, 2))
    it.add(1, instances([], []))
    it.add(2, instances([], []))
    metrics = it.evaluate()
    assert metrics['bbox/AP'] == metrics['segm/AP'] == metrics['segm/AR100'] == 0


def test_no_objects(evaluator, tmp_path):
    it = evaluator([])
    it.add(1, instances([[0, 0, 40, 40]], [.9]))
    metrics = it.evaluate(300)
    assert set(metrics.values()) == {None} and 'segm/AP@300' in metrics
    assert coco.table(metrics).splitlines()[1].split()[-2:] == ['-', '-']
    it.write(tmp_path, metrics)
    assert json.loads((tmp_path / 'metrics.json').read_text())['bbox/AP'] is None


def test_false_positives_on_images_without_objects(evaluator):
    it = evaluator([rectangle(0, 0, 40, 40, 1)], images=(1, 2))
    it.add(2, instances([[0, 0, 40, 40]], [.9]))
    it.add(1, instances([[0, 0, 40, 40]], [.8]))
    assert it.evaluate()['bbox/AP'] == pytest.approx(.5)


def test_annotation_ids_do_not_matter(evaluator):
    # pycocotools counts a match with an object of id 0 as wrong
    it = evaluator([rectangle(0, 0, 40, 40, 0), rectangle(80, 0, 40, 40, 0)])
    it.add(1, instances([[0, 0, 40, 40], [80, 0, 40, 40]], [.9, .8]))
    assert it.evaluate()['bbox/AP'] == pytest.approx(1)


def test_detections_without_masks(evaluator):
    it = evaluator([rectangle(0, 0, 40, 40, 1)])
    found = instances([[0, 0, 40, 40]], [.9])
    found.masks = None
    it.add(1, found)
    metrics = it.evaluate()
    assert metrics['bbox/AP'] == pytest.approx(1) and not any(key.startswith('segm') for key in metrics)
    assert coco.table(metrics).splitlines()[0].split() == ['bbox']


def test_each_image_must_be_added_once(evaluator):
    it = evaluator([rectangle(0, 0, 40, 40, 1)], images=(1, 2, 5))
    it.add(2, instances([], []))
    with pytest.raises(EvaluationError, match='truth.json: image 2 was added before'):
        it.add(2, instances([], []))
    with pytest.raises(EvaluationError, match='truth.json: has no image 3'):
        it.add(3, instances([], []))
    with pytest.raises(EvaluationError, match='2 of 3 images were not added, such as image 1'):
        it.evaluate()


@pytest.mark.parametrize(('categories', 'message'), [
    ([Category(1, 1, 'cat'), Category(2, 3, 'dog')], "category 7 is 'cat', and in the model it is missing"),
    ([Category(1, 7, 'dog'), Category(2, 3, 'cat')], "category 7 is 'cat', and in the model it is 'dog'"),
    (CATEGORIES[:1], "category 3 is 'dog', and in the model it is missing")],
    ids=['other id', 'exchanged names', 'fewer'])
def test_categories_that_the_model_does_not_have_are_an_error(tmp_path, categories, message):
    truth = coco.read_coco(write_coco(tmp_path / 'truth.json', []))
    with pytest.raises(EvaluationError, match=message):
        CocoEvaluator(truth, categories, 'pixel_center')


def test_pycocotools_computes_the_same_metrics_from_the_written_files(evaluator, tmp_path, capsys):
    boxes = [[10, 10, 40, 40], [90, 20, 41, 37], [30, 90, 33, 52]]
    it = evaluator([rectangle(*box, number) for number, box in enumerate(boxes, 1)])
    masks = np.random.default_rng(0).normal(.8, .3, (3, 28, 28)).clip(0, 1).astype(np.float32)
    shifted = np.array([[y + 3.3, x - 2.1, y + h + 1.7, x + w] for x, y, w, h in boxes], np.float32)
    it.add(1, Instances(shifted, np.array([.9, 1 / 3, .7], np.float32), np.ones(3, np.int32), masks))
    metrics = it.evaluate()
    it.write(tmp_path / 'out', metrics)
    assert capsys.readouterr().out == ''
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['detections.json', 'metrics.json']
    written = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    assert written == {**metrics, 'images': 1, 'objects': 3, 'crowds': 0, 'objects_without_mask': 0, 'detections': 3}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / 'truth.json'))
        for kind in ('bbox', 'segm'):
            reference = COCOeval(truth, truth.loadRes(str(tmp_path / 'out' / 'detections.json')), kind)
            reference.evaluate()
            reference.accumulate()
            reference.summarize()
            assert 0 < metrics[f'{kind}/AP'] < 1
            assert metrics[f'{kind}/AP'] == pytest.approx(reference.stats[0], abs=1e-12)
            assert metrics[f'{kind}/AR100'] == pytest.approx(reference.stats[8], abs=1e-12)


@pytest.mark.parametrize('missing', [[], None, ...], ids=('empty', 'null', 'absent'))
def test_mask_metrics_ignore_objects_with_only_a_box(tmp_path, caplog, missing):
    """Two objects, of which the second has no mask. Of masks: found or not found, it changes nothing, and what lies in
    its box is ignored; what lies elsewhere is wrong. Of boxes it is an object as any other."""
    bare = rectangle(100, 20, 40, 40, 2, segmentation=missing)
    if missing is ...:
        del bare['segmentation']
    path = write_coco(tmp_path / 'truth.json', [rectangle(10, 10, 40, 40, 1), bare])
    box, other, elsewhere = [10, 10, 40, 40], [100, 20, 40, 40], [60, 110, 40, 40]
    expected = {'nothing else': ([box], [.5], 1.), 'the other too': ([other, box], [.9, .5], 1.),
                'elsewhere, better': ([elsewhere, box], [.9, .5], .5)}
    for name, (boxes, scores, segm) in expected.items():
        it = CocoEvaluator(coco.read_coco(path), CATEGORIES, 'pixel_center')
        it.add(1, instances(boxes, scores))
        metrics = it.evaluate()
        assert metrics['segm/AP'] == pytest.approx(segm), name
        assert metrics['bbox/AR100'] == pytest.approx(1. if other in boxes else .5), name
    assert 'truth.json: 1 of 2 objects have a box and no mask: the segm metrics ignore them' in caplog.text
    it.write(tmp_path, metrics)
    assert json.loads((tmp_path / 'metrics.json').read_text())['objects_without_mask'] == 1


def manifest_of(folder, examples, has_masks=True):
    file = folder / 'val-00000-of-00001.tfrecord'
    with tf.io.TFRecordWriter(str(file)) as writer:
        for example in examples:
            writer.write(records.encode(example))
    counts = sum(map(records.count, examples), Counts())
    shard = Shard(file.name, len(examples), file.stat().st_size, '')
    Manifest('val', CATEGORIES, counts, 2, {}, {}, [shard], has_masks, Source('test', '', '')).write(
        folder / 'val.json')
    return folder / 'val.json'


def annotated(image_id, objects=()):
    return records.Annotated(b'encoded', 'png', f'{image_id}.png', str(image_id), image_id, SIDE, SIDE, list(objects))


def an_object(x, y, width, height, label, **more):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y:y + height, x:x + width - 1] = 1
    return records.ObjectAnnotation((y, x, y + height, x + width), label, '', width * height,
                                    mask=records.encode_mask(mask), **more)


def test_ground_truth_of_records(tmp_path):
    path = manifest_of(tmp_path, [annotated(5), annotated(9, [an_object(10, 20, 30, 40, 2),
                                                              an_object(80, 80, 50, 50, 1, crowd=True)])])
    truth = coco.read_manifest(path)
    assert truth.sizes == {5: (SIDE, SIDE), 9: (SIDE, SIDE)} and truth.has_masks
    assert truth.categories == [(7, 'cat'), (3, 'dog')]
    first, second = truth.annotations
    assert (first['image_id'], first['category_id'], first['bbox'], first['area'], first['iscrowd']) == (
        9, 3, [10, 20, 30, 40], 1200, 0)
    assert second['iscrowd'] == 1
    it = CocoEvaluator(truth, CATEGORIES, 'detectron')
    it.add(5, instances([], []))
    it.add(9, instances([[10, 20, 30, 40]], [.6], labels=[2], filled=[[10, 20, 29, 40]]))
    metrics = it.evaluate()
    assert [metrics['bbox/AP'], metrics['segm/AP']] == pytest.approx([1, 1]) and metrics['segm/AP/cat'] is None


def test_ground_truth_of_objects_with_only_a_box(tmp_path):
    empty = records.encode_mask(np.zeros((SIDE, SIDE)))
    bare = dataclasses.replace(an_object(10, 20, 30, 40, 2), mask=empty, has_mask=False)
    truth = coco.read_manifest(manifest_of(tmp_path, [annotated(9, [bare, an_object(80, 80, 50, 50, 1)])]))
    assert truth.has_masks and ['segmentation' in each for each in truth.annotations] == [False, True]
    assert not coco.read_manifest(manifest_of(tmp_path, [annotated(9, [bare])])).has_masks


def test_records_with_the_same_id_are_an_error(tmp_path):
    with pytest.raises(EvaluationError, match='val.json: image id 5 occurs twice'):
        coco.read_manifest(manifest_of(tmp_path, [annotated(5), annotated(5)], has_masks=False))


def test_polygons_and_both_rle_formats(tmp_path):
    uncompressed = {'size': [SIDE, SIDE], 'counts': [0, 10, SIDE * SIDE - 10]}    # the first ten of the first column
    code = coco_mask.frPyObjects(uncompressed, SIDE, SIDE)['counts'].decode()
    compressed = {'size': [SIDE, SIDE], 'counts': code}
    path = write_coco(tmp_path / 'truth.json', [
        rectangle(0, 0, 1, 10, 1), rectangle(0, 0, 1, 10, 2, segmentation=uncompressed),
        rectangle(0, 0, 1, 10, 3, segmentation=compressed)])
    for annotation in coco.read_coco(path).annotations:
        assert coco_mask.area(annotation['segmentation']) == 10


@pytest.mark.parametrize(('change', 'message'), [
    ({'segmentation': [[1, 1, 5, 5]]}, 'annotation 4: a polygon has fewer than three points'),
    ({'segmentation': [[1, 1, 5, 5, 1, 5, 3]]}, 'annotation 4: a polygon has fewer than three points'),
    ({'segmentation': [3, 4]}, 'annotation 4: a polygon has fewer than three points'),
    ({'segmentation': {'size': [3, 4], 'counts': '132'}}, 'annotation 4: its segmentation is not an RLE of 160 x 160'),
    ({'bbox': [1, 2, 3]}, 'annotation 4: image_id, category_id or bbox is missing'),
    ({'bbox': [1, 2, 3, 'wide']}, 'annotation 4: image_id, category_id or bbox is missing'),
    ({'image_id': 77}, 'annotation 4: no image 77'),
    ({'category_id': 77}, 'annotation 4: .* no category 77 in the file')])
def test_an_invalid_annotation_is_named(tmp_path, change, message):
    with pytest.raises(EvaluationError, match=f'truth.json: {message}') as error:
        coco.read_coco(write_coco(tmp_path / 'truth.json', [rectangle(1, 1, 9, 9, 4, **change)]))
    assert '\n' not in str(error.value) and 'mrcnn convert' in str(error.value)


@pytest.mark.parametrize('text', ['{', '[]', '{"images": []}', '{"images": [{"id": 1}]}', '3'],
                         ids=['no JSON', 'list', 'no categories', 'no size', 'number'])
def test_a_file_in_another_format_is_an_error(tmp_path, text):
    (tmp_path / 'truth.json').write_text(text)
    with pytest.raises(EvaluationError, match='truth.json: not COCO annotations'):
        coco.read_coco(tmp_path / 'truth.json')


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(EvaluationError, match='none.json: No such file'):
        coco.read_coco(tmp_path / 'none.json')


@pytest.mark.skipif(not PARITY.is_dir(), reason='needs the evaluation parity set in ../shared/data')
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_published_metrics(kind):
    names = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
    text = (PARITY / 'val2014_fake_eval_res.txt').read_text().split(f'type={kind}')[1]
    published = [float(value) for value in re.findall(r'= (0\.\d{3})$', text, re.MULTILINE)][:12]
    truth = coco.read_coco(PARITY / 'instances_val2014_100.json')
    results = json.loads((PARITY / f'instances_val2014_fake{kind}100_results.json').read_text())
    numbers = coco.average_precision(truth, results, kind)
    assert [round(numbers[name], 3) for name in names] == published
    assert sum(name.startswith('AP/') for name in numbers) == 80


@pytest.mark.skipif(not PARITY.is_dir(), reason='needs the evaluation parity set in ../shared/data')
def test_published_metrics_by_the_evaluator():
    data = json.loads((PARITY / 'instances_val2014_100.json').read_text())
    categories = [Category(k, c['id'], c['name']) for k, c in enumerate(data['categories'], 1)]
    labels = {c.id: c.label for c in categories}
    it = CocoEvaluator(coco.read_coco(PARITY / 'instances_val2014_100.json'), categories, 'pixel_center')
    results = json.loads((PARITY / 'instances_val2014_fakebbox100_results.json').read_text())
    for image in data['images']:
        mine = [each for each in results if each['image_id'] == image['id']]
        x, y, width, height = np.array([each['bbox'] for each in mine]).reshape(-1, 4).T
        it.add(image['id'], Instances(
            np.stack([y, x, y + height, x + width], 1).astype(np.float32), np.array([each['score'] for each in mine]),
            np.array([labels[each['category_id']] for each in mine], np.int32)))
    metrics = it.evaluate()
    assert [round(metrics[f'bbox/{name}'], 3) for name in ('AP', 'AP50', 'AP75', 'AR100')] == [.505, .697, .573, .595]

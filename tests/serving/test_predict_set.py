"""Prediction on many images: batches by size, images that cannot be used, continuing, manifests and pictures."""
from __future__ import annotations

import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from mrcnn_tf.serving import predict_set
from mrcnn_tf.serving.coco_file import CocoFile
from mrcnn_tf.serving.predict_set import NamedImage
from mrcnn_tf.serving.sources import InferenceError
from tests.serving.test_predict_files import FakePredictor, save
from tests.training.tiny import write_data


class Counting(FakePredictor):
    """Notes the sizes of batches."""

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size, self.batches = batch_size, []

    def detect(self, encoded):
        self.batches.append([pathlib.Path(each.name).name for each in encoded])
        return super().detect(encoded)


def run(folder: pathlib.Path, output: pathlib.Path, predictor: Counting, pictures: pathlib.Path | None = None
        ) -> predict_set.SetReport:
    total, images = predict_set.find([folder], pictures)
    counts = []
    file = CocoFile(output, 'm', .5)
    report = predict_set.predict_set(images, predictor, file, predictor.batch_size, threads=1, update=counts.append)
    assert not counts or counts[-1] == total
    return report


def test_images_of_one_size_go_together(tmp_path: pathlib.Path) -> None:
    for name, height in (('a', 20), ('b', 30), ('c', 20), ('d', 20), ('e', 30), ('f', 20)):
        save(tmp_path / 'in' / f'{name}.png', height)
    predictor = Counting(2)
    report = run(tmp_path / 'in', tmp_path / 'out.json', predictor)
    assert predictor.batches == [['a.png', 'c.png'], ['b.png', 'e.png'], ['d.png', 'f.png']]
    assert (report.predicted, report.skipped, report.failed) == (6, 0, {})
    found = json.loads((tmp_path / 'out.json').read_text())
    heights = {pathlib.Path(each['file_name']).name: each['height'] for each in found['images']}
    assert heights == {'a.png': 20, 'b.png': 30, 'c.png': 20, 'd.png': 20, 'e.png': 30, 'f.png': 20}
    assert [each['category_id'] for each in found['annotations']] == [3] * 6
    assert found['annotations'][0]['segmentation']['size'] == [20, 60]


def test_a_second_call_predicts_what_is_new_or_failed(tmp_path: pathlib.Path) -> None:
    save(tmp_path / 'in' / 'a.png')
    (tmp_path / 'in' / 'b.png').write_bytes(b'hello')
    first = run(tmp_path / 'in', tmp_path / 'out.json', Counting(2))
    bad = str(tmp_path / 'in' / 'b.png')
    assert first.failed == {bad: f'{bad}: neither a JPEG nor a PNG; convert it to one'}
    save(tmp_path / 'in' / 'b.png')
    save(tmp_path / 'in' / 'c.png')
    predictor = Counting(4)
    second = run(tmp_path / 'in', tmp_path / 'out.json', predictor)
    assert (second.predicted, second.skipped, predictor.batches) == (2, 1, [['b.png'], ['c.png']])


def test_an_interrupted_call_is_continued(tmp_path: pathlib.Path) -> None:
    for name in 'abc':
        save(tmp_path / 'in' / f'{name}.png')

    class Interrupted(Counting):
        def detect(self, encoded):
            if encoded[0].name.endswith('c.png'):
                raise KeyboardInterrupt
            return super().detect(encoded)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'in', tmp_path / 'out.json', Interrupted())
    assert not (tmp_path / 'out.json').exists()
    predictor = Counting()
    report = run(tmp_path / 'in', tmp_path / 'out.json', predictor)
    assert (report.predicted, report.skipped, predictor.batches) == (1, 2, [['c.png']])
    assert len(json.loads((tmp_path / 'out.json').read_text())['images']) == 3


def test_a_bad_image_does_not_fail_its_batch() -> None:
    good = Image.new('RGB', (20, 10))
    images = [NamedImage('a', png(good)), NamedImage('b', png(good)[:60]), NamedImage('c', png(good))]
    found = predict_set.predict_batch(Counting(), images, .5)
    assert [isinstance(entry, InferenceError) for _, entry in found] == [False, True, False]
    assert str(found[1][1]).startswith('b: the file is damaged')


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, 'PNG')
    return stream.getvalue()


def test_a_manifest(tmp_path: pathlib.Path) -> None:
    write_data(tmp_path)
    total, images = predict_set.find([tmp_path / 'train.json'], tmp_path / 'pictures')
    images = list(images)
    assert total == len(images) == 16
    assert [(each.name, each.id, each.picture) for each in images[:2]] == [
        ('0.png', 0, tmp_path / 'pictures' / '0.png'), ('1.png', 1, tmp_path / 'pictures' / '1.png')]
    assert predict_set._size(images[0].source) == (64, 64)


def test_pictures(tmp_path: pathlib.Path) -> None:
    save(tmp_path / 'in' / 'x' / 'a.png')
    save(tmp_path / 'in' / 'a.jpg')
    total, images = predict_set.find([tmp_path / 'in', tmp_path / 'in' / 'x'], tmp_path / 'out')
    predict_set.predict_set(images, Counting(), CocoFile(tmp_path / 'found.json', 'm', .5))
    assert total == 2 and sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a-2.png', 'a.png']
    with Image.open(tmp_path / 'out' / 'a.png') as picture:
        assert np.asarray(picture).std() > 0    # the box is drawn


def test_a_video(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InferenceError, match='clip.mp4: a file in COCO.s format has no place for a video; give a dir'):
        predict_set.find([tmp_path / 'clip.mp4'])

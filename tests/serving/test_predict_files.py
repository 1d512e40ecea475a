"""Finding image files, writing their predictions, and files that cannot be used."""
from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.input import decoding
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import predict_files, sources
from mrcnn_tf.serving.predictor import Predictor
from mrcnn_tf.serving.sources import InferenceError
from tests.paths import SHARED


class FakePredictor(Predictor):
    """Predicts a dog with score 0.75 in the left half of each image, and a cat with score 0.25."""

    categories = [Category(1, 7, 'cat'), Category(2, 3, 'dog')]
    paste = 'pixel_center'
    rule = decoding.DEFAULT

    def detect(self, encoded):
        return [self.detect_one(each) for each in encoded]

    def detect_one(self, encoded):
        height, width, _ = sources.decode(encoded, self.rule).shape
        boxes = np.array([[0, 0, height, width / 2], [0, 0, 2, 2]], np.float32)
        return Instances(boxes, np.array([.75, .25], np.float32), np.array([2, 1]),
                         np.ones((2, 28, 28), np.float32)), (height, width)


CASES = SHARED / 'cases'


@pytest.mark.skipif(not CASES.is_dir(), reason='needs ../shared/cases')
def test_the_shared_case_of_one_bad_image(tmp_path):
    paths = predict_files.find_images([CASES / 'predict-one-bad-image' / 'images'])
    report = predict_files.predict_to_directory(paths, FakePredictor(), tmp_path)
    assert [path.name for path in paths] == ['a.png', 'b.jpg', 'c.png']
    assert [path.name for path in report.pictures] == ['a.png', 'c.png']
    assert [path.name for path in report.failed] == ['b.jpg']


@pytest.mark.skipif(not CASES.is_dir(), reason='needs ../shared/cases')
def test_the_shared_case_of_a_rotated_photograph(tmp_path):
    photo = CASES / 'predict-turned-photo' / 'images' / 'turned.jpg'
    report = predict_files.predict_to_directory([photo], FakePredictor(), tmp_path)
    found = json.loads(report.pictures[0].with_suffix('.json').read_text())
    assert (found['height'], found['width'], found['instances'][0]['bbox']) == (96, 64, [0, 0, 32, 96])


def save(path, height=40, width=60):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.full((height, width, 3), 100, np.uint8)).save(path)
    return path


def test_a_picture_and_a_json_file_are_written(tmp_path):
    path = save(tmp_path / 'in' / 'a.b.png')
    pictures = predict_files.predict_to_directory([str(path)], FakePredictor(), tmp_path / 'out').pictures
    assert pictures == [tmp_path / 'out' / 'a.b.png']
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['a.b.json', 'a.b.png']
    with Image.open(pictures[0]) as picture:
        assert picture.size == (60, 40)
    found = json.loads((tmp_path / 'out' / 'a.b.json').read_text())
    assert (found['image'], found['height'], found['width']) == (str(path), 40, 60)
    only, = found['instances']
    assert (only['bbox'], only['score'], only['category_id'], only['category']) == ([0, 0, 30, 40], .75, 3, 'dog')
    assert coco_mask.decode(only['segmentation'])[20].tolist() == [1] * 30 + [0] * 30


def test_detections_below_the_threshold_are_omitted(tmp_path):
    path = save(tmp_path / 'a.png')
    for threshold, expected in ((.2, ['dog', 'cat']), (.8, [])):
        report = predict_files.predict_to_directory([path], FakePredictor(), tmp_path / 'out', threshold)
        assert (report.without_detections, report.best_score_below) == (([], None) if expected else ([path], .75))
        found = json.loads((tmp_path / 'out' / 'a.json').read_text())['instances']
        assert [each['category'] for each in found] == expected


def test_images_with_equal_names_have_different_outputs(tmp_path):
    paths = [save(tmp_path / name, height) for name, height in (
        ('x/a.png', 20), ('y/a.png', 30), ('y/A.jpg', 40), ('y/a-2.png', 50), ('z/b.png', 60))]
    seen = []
    report = predict_files.predict_to_directory(
        paths, FakePredictor(), tmp_path / 'out', track=lambda p: seen.extend(p) or p)
    pictures = report.pictures
    assert [p.name for p in pictures] == ['a.png', 'a-2.png', 'A-3.png', 'a-2-2.png', 'b.png'] and seen == paths
    heights = [json.loads(p.with_suffix('.json').read_text())['height'] for p in pictures]
    assert heights == [20, 30, 40, 50, 60]


def test_files_that_cannot_be_used_do_not_stop_the_others(tmp_path):
    first, cut, last = save(tmp_path / 'a.png'), tmp_path / 'b.png', save(tmp_path / 'c.png')
    cut.write_bytes(first.read_bytes()[:60])
    (tmp_path / 'd.jpg').write_text('hello')
    (tmp_path / 'e.jpg').write_bytes(b'')
    paths = [first, cut, tmp_path / 'none.png', tmp_path / 'd.jpg', tmp_path / 'e.jpg', last]
    report = predict_files.predict_to_directory(paths, FakePredictor(), tmp_path / 'out')
    assert report.failed == {
        cut: f'{cut}: the file is damaged or cut; copy it again, or save the image anew',
        paths[2]: f'{paths[2]}: No such file or directory; give an image file that can be read',
        paths[3]: f'{paths[3]}: neither a JPEG nor a PNG; convert it to one',
        paths[4]: f'{paths[4]}: the file is empty; copy it again'}
    assert [path.name for path in report.pictures] == ['a.png', 'c.png']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.json', 'a.png', 'c.json', 'c.png']


def test_a_rotated_photograph_is_drawn_and_written_upright(tmp_path):
    made = Image.Exif()
    made[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1300, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=made)
    report = predict_files.predict_to_directory([tmp_path / 'a.png'], FakePredictor(), tmp_path / 'out')
    found = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert (found['height'], found['width'], found['instances'][0]['bbox']) == (1300, 700, [0, 0, 350, 1300])
    with Image.open(report.pictures[0]) as picture:
        assert (np.asarray(picture)[:, 400:] == np.rot90(pixels, -1)[:, 400:]).all()


def test_a_picture_never_replaces_an_image(tmp_path):
    path = save(tmp_path / 'a.png')
    before = path.read_bytes()
    with pytest.raises(InferenceError, match='a.png: would replace an input file; choose another output'):
        predict_files.predict_to_directory([path], FakePredictor(), tmp_path)
    assert path.read_bytes() == before


def test_a_name_that_is_not_utf_8(tmp_path):
    save(tmp_path / 'a.png').rename(tmp_path / os.fsdecode(b'caf\xe9.png'))
    paths = predict_files.find_images([tmp_path])
    report = predict_files.predict_to_directory(paths, FakePredictor(), tmp_path / 'out')
    assert report.failed == {} and [os.fsencode(path.name) for path in report.pictures] == [b'caf\xe9.png']
    found = json.loads((tmp_path / 'out' / os.fsdecode(b'caf\xe9.json')).read_bytes())
    assert os.fsencode(found['image']) == os.fsencode(tmp_path) + b'/caf\xe9.png'


def names(inputs, folder):
    return [path.relative_to(folder).as_posix() for path in predict_files.find_images(inputs)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ('in/b.JPG', 'in/a.png', 'in/c.tif', 'in/notes.md', 'in/.a.png', 'in/deep/d.jpeg', 'in/[1].png',
                 'e.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('inputs, expected', [
    (['e.png'], ['e.png']), (['none.png'], ['none.png']), (['in/notes.md'], ['in/notes.md']),
    (['in'], ['in/[1].png', 'in/a.png', 'in/b.JPG', 'in/c.tif']),
    (['in/*.png'], ['in/[1].png', 'in/a.png']), (['in/[1].png'], ['in/[1].png']),
    (['**/*.jp*g'], ['in/deep/d.jpeg']), (['in/dee*'], ['in/deep/d.jpeg']),
    (['e.png', 'in/a.png', 'in', './e.png'], ['e.png', 'in/a.png', 'in/[1].png', 'in/b.JPG', 'in/c.tif'])],
    ids=['a file', 'a missing file', 'a file of another type', 'a folder', 'a pattern', 'a name like a pattern',
         'a deep pattern', 'a pattern of folders', 'twice'])
def test_inputs_are_expanded(folder, inputs, expected):
    assert names([folder / each for each in inputs], folder) == expected


def test_files_of_a_folder_that_are_images_only_by_content_or_only_by_name(folder):
    save(folder / 'mixed' / 'image.png').rename(folder / 'mixed' / 'image')
    (folder / 'mixed' / 'data').write_bytes(b'0123456789')
    (folder / 'mixed' / 'broken.png').symlink_to('nowhere.png')
    (folder / 'mixed' / 'folder.png').mkdir()
    os.mkfifo(folder / 'mixed' / 'fifo.jpg')
    os.mkfifo(folder / 'mixed' / 'fifo')
    assert names([folder / 'mixed'], folder) == ['mixed/broken.png', 'mixed/fifo.jpg', 'mixed/image']


def test_a_list_of_paths(folder):
    (folder / 'in' / 'list.txt').write_bytes('\ufeff# mine\r\ne.png\r\n\r\n  a.png \r\nnone.png\r\n'.encode())
    # Relative to the working directory, otherwise to the list, otherwise unchanged.
    assert list(map(str, predict_files.find_images(['in/list.txt']))) == ['e.png', 'in/a.png', 'none.png']


@pytest.mark.parametrize('name, content, message', [
    ('list.txt', b'\n# none\n', 'list.txt: lists no images; give a list of paths'),
    ('list.txt', b'\xff\xfe', 'list.txt: cannot be read as text; give a list of paths in UTF-8'),
    ('*.bmp', None, r'\*.bmp: no file matches this pattern')], ids=['empty list', 'not text', 'no match'])
def test_inputs_without_images_are_an_error(folder, name, content, message):
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InferenceError, match=message):
        predict_files.find_images([name])


def test_the_error_about_a_folder_without_images_suggests_a_pattern(folder):
    (folder / 'in' / 'deep').rename(folder / 'other')
    (folder / 'outer').mkdir()
    (folder / 'other').rename(folder / 'outer' / 'inner')
    with pytest.raises(InferenceError, match=r"outer: has no image files; .* such as 'outer/\*\*/\*.jpg'"):
        predict_files.find_images(['outer'])


class Meeting(FakePredictor):
    """Two images are predicted at once: each waits for the other. A file named stop ends the run."""

    concurrency = 2

    def __init__(self):
        self.barrier = threading.Barrier(2, timeout=10)

    def detect_one(self, encoded):
        self.barrier.wait()
        if 'stop' in encoded.name:
            self.barrier.abort()
            raise OSError('the server is gone')
        return super().detect_one(encoded)


def test_images_are_predicted_at_once_and_reported_in_order(tmp_path):
    paths = [tmp_path / name for name in ('a.png', 'b.png', 'c.png', 'd.png')]
    for path in paths:
        Image.new('RGB', (8, 8)).save(path)
    (tmp_path / 'b.png').write_bytes(b'damaged')
    report = predict_files.predict_to_directory(paths, Meeting(), tmp_path / 'out')
    assert [path.name for path in report.pictures] == ['a.png', 'c.png', 'd.png'] and list(report.failed) == [paths[1]]
    paths = [tmp_path / 'stop.png', *paths * 50]
    Image.new('RGB', (8, 8)).save(paths[0])
    with pytest.raises(OSError, match='the server is gone'):
        predict_files.predict_to_directory(paths, Meeting(), tmp_path / 'other')

"""Videos of a moving square: read again by OpenCV, and files that cannot be used."""
from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.input import decoding
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import predict_files, sources, video
from mrcnn_tf.serving.predictor import Found, Predictor
from mrcnn_tf.serving.sources import Encoded, InferenceError

cv2 = pytest.importorskip('cv2')

FRAMES, SIDE = 6, 20


class FindsRed(Predictor):
    """Finds the red pixels of each frame with a score of 0.75, and the corner with one of 0.25."""

    categories = [Category(1, 7, 'square')]
    paste = 'pixel_center'
    rule = decoding.DEFAULT

    def detect(self, encoded: Sequence[Encoded]) -> list[Found]:
        return [self.detect_one(sources.decode(each, self.rule).numpy()) for each in encoded]

    def detect_one(self, image: np.ndarray) -> Found:
        rows, columns = np.nonzero((image[..., 0] > 150) & (image[..., 2] < 100))
        red = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        boxes = np.array([red, [0, 0, 2, 2]], np.float32)
        return Instances(boxes, np.float32([.75, .25]), np.int32([1, 1])), image.shape[:2]


@pytest.fixture
def clip(tmp_path):
    """A red square that moves to the right by 10 px a frame, at 10 frames a second."""
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 10., (120, 80))
    for number in range(FRAMES):
        frame = np.full((80, 120, 3), 120, np.uint8)
        frame[30:30 + SIDE, 10 * number:10 * number + SIDE] = 20, 20, 230     # BGR
        writer.write(frame)
    writer.release()
    return path


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        read, frame = capture.read()
        if not read:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1].astype(int))


def test_a_video_and_json_lines_are_written(clip, tmp_path, capsys):
    report = predict_files.predict_to_directory([clip], FindsRed(), tmp_path / 'out')
    assert report.videos == [tmp_path / 'out' / 'clip.mp4'] and not report.failed and not report.pictures
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['clip.jsonl', 'clip.mp4']
    assert f'predicted: {FRAMES} of {FRAMES} frames' in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / 'out' / 'clip.jsonl').read_text().splitlines()]
    assert [(line['frame'], line['seconds']) for line in lines] == [(i, i / 10) for i in range(FRAMES)]
    assert lines[0].keys() == {'video', 'frame', 'seconds', 'height', 'width', 'instances'}
    for number, line in enumerate(lines):
        (only,) = line['instances']                # the other is below the threshold
        assert (only['category'], only['category_id'], only['score']) == ('square', 7, .75)
        np.testing.assert_allclose(only['bbox'], [10 * number, 30, SIDE, SIDE], atol=2)    # JPEG blurs the edges
    pictures, rate = frames_of(report.videos[0])
    assert len(pictures) == FRAMES and rate == 10 and pictures[0].shape == (80, 120, 3)
    before, _ = frames_of(clip)
    assert all((abs(drawn - plain) > 40).any() for drawn, plain in zip(pictures, before, strict=True))
    assert abs(pictures[5][60:] - before[5][60:]).max() < 40       # below the box nothing is drawn


def test_images_and_videos_together(clip, tmp_path):
    frame = frames_of(clip)[0][0].astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'clip.png'), frame[..., ::-1])
    report = predict_files.predict_to_directory([clip, tmp_path / 'clip.png'], FindsRed(), tmp_path / 'out')
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'clip.json', 'clip.jsonl', 'clip.mp4', 'clip.png']
    assert [path.name for path in (*report.pictures, *report.videos)] == ['clip.png', 'clip.mp4']


@pytest.mark.parametrize('content, message', [
    (b'hello', 'a.mp4: no video, damaged, or of an unknown codec; give a video that OpenCV can read, or convert it'),
    (b'', 'a.mp4: no video, damaged'), (None, 'a.mp4: No such file or directory; give a video file that can be read')],
    ids=['text', 'empty', 'missing'])
def test_a_video_that_cannot_be_read_is_one_line(tmp_path, content, message):
    path = tmp_path / 'a.mp4'
    if content is not None:
        path.write_bytes(content)
    report = predict_files.predict_to_directory([path], FindsRed(), tmp_path / 'out')
    assert message in report.failed[path] and '\n' not in report.failed[path] and not report.videos
    assert not (tmp_path / 'out').exists()


def test_a_frame_that_the_rule_refuses_leaves_nothing_behind(clip, tmp_path):
    predictor = FindsRed()
    predictor.rule = decoding.Rule(max_pixels=100)
    predictor.detect = lambda encoded: [sources.decode(each, predictor.rule) for each in encoded]
    with pytest.raises(InferenceError, match=r'clip.avi: images\[0\]: 120 px wide and 80 px high'):
        video.predict_video(clip, predictor, tmp_path / 'out' / 'clip')
    assert not (tmp_path / 'out').exists()


def test_a_video_that_is_cut_says_so(clip, tmp_path, caplog):
    content = clip.read_bytes()
    _, *frames = (match.start() for match in re.finditer(b'00dc', content))    # in the header, then of each frame
    clip.write_bytes(content[:frames[3]])
    with caplog.at_level(logging.WARNING):
        written = video.predict_video(clip, FindsRed(), tmp_path / 'clip')
    assert len(frames_of(written)[0]) == 3
    assert f'clip.avi: 3 of {FRAMES} frames could be read; the rest is damaged or missing' in caplog.text


def test_a_full_disk_leaves_nothing_behind(clip, tmp_path, monkeypatch):
    class Full:
        """A writer that drops all frames, as OpenCV's does without a word."""
        def __init__(self, path, *_):
            open(path, 'wb').close()

        def isOpened(self):    # noqa: N802
            return True

        def write(self, frame):
            pass

        def release(self):
            pass

    monkeypatch.setattr(cv2, 'VideoWriter', Full)
    with pytest.raises(OSError, match='clip.mp4: cannot be written completely; make room there'):
        video.predict_video(clip, FindsRed(), tmp_path / 'out' / 'clip')
    assert not (tmp_path / 'out').exists()


def test_without_opencv(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(InferenceError, match=r"clip.avi: videos need OpenCV: pip install .*\[video\]'$"):
        video.predict_video(clip, FindsRed(), tmp_path / 'clip')


def test_a_video_never_replaces_itself(clip, tmp_path):
    clip = clip.rename(tmp_path / 'clip.mp4')
    with pytest.raises(InferenceError, match='clip.mp4: would replace an input file; choose another output'):
        predict_files.predict_to_directory([clip], FindsRed(), tmp_path)

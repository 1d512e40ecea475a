"""Prediction on video files by OpenCV, which the extra `video` installs: an annotated video and a JSON line per frame.

H, W: size of a frame in px. Frames are uint8 [H, W, 3], RGB. OpenCV rotates them by the video's orientation.
"""
from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np

from mrcnn_tf import files
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.files.extras import install
from mrcnn_tf.files.progress import track
from mrcnn_tf.serving.prediction import Prediction
from mrcnn_tf.serving.predictor import Predictor
from mrcnn_tf.serving.sources import InferenceError

_log = logging.getLogger(__name__)

_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')
_CODEC = 'mp4v'         # MPEG-4; the wheels of OpenCV have no encoder for H.264
_FRAME_RATE = 25.       # of a video that states none
_REMEDY = 'give a video that OpenCV can read, or convert it, for example by ffmpeg -i IN OUT.mp4'


def is_video(path: pathlib.Path) -> bool:
    """Return whether a file is a video by its suffix."""
    return path.suffix.lower() in _SUFFIXES


def predict_video(path: pathlib.Path, predictor: Predictor, stem: pathlib.Path, threshold: float = 0.5) -> pathlib.Path:
    """Write STEM.mp4, the frames with their detections and without sound, and STEM.jsonl; show the progress.

    A line of the JSON file holds video, frame (0 and up), seconds, height, width (px) and instances, best first, in the
    form of `predict_to_directory`. Files of an earlier call are replaced. Each file is written completely or not at
    all.

    Args:
        path: of a video file.
        predictor: frames share batches by its `batch_size`.
        stem: path of the output files without suffix.
        threshold: instances with a lower score are omitted.

    Returns:
        The path of the annotated video.

    Raises:
        InferenceError: OpenCV is not installed; the file cannot be read; OpenCV cannot write the video.
        OSError: the disk is full or not writable.
    """
    written = stem.with_name(f'{stem.name}.mp4')
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(_opened(path))
        picture = stack.enter_context(files.atomic_path(written))
        lines = stack.enter_context(files.atomic_path(stem.with_name(f'{stem.name}.jsonl')))
        expected = int(_property(capture, 'CAP_PROP_FRAME_COUNT'))
        frames = track(_frames(capture), expected, 'predicted', 'frames')
        rate = _property(capture, 'CAP_PROP_FPS') or _FRAME_RATE
        with open(lines, 'w', encoding='utf-8', errors='backslashreplace') as stream:
            count = _annotate(path, frames, predictor, threshold, (picture, rate, stream))
        _check_written(picture, written, count)
    if count < expected - 1:    # the number that a file states may be one too high
        _log.warning('%s: %d of %d frames could be read; the rest is damaged or missing', path, count, expected)
    return written


def _cv2() -> Any:
    """Return OpenCV, which then prints no messages of its own."""
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')    # read when the first video is opened
    import cv2

    if hasattr(cv2, 'setLogLevel'):    # OpenCV 4
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """Yield the cv2.VideoCapture of a file."""
    try:
        cv2 = _cv2()
    except ImportError:
        raise InferenceError(f'{path}: videos need OpenCV: {install("video")}') from None
    try:
        files.open_regular(path).close()
    except OSError as error:
        raise InferenceError(f'{path}: {error.strerror}; give a video file that can be read') from None
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)    # absolute: no protocol, and no pattern
    try:
        if not capture.isOpened():
            raise InferenceError(f'{path}: no video, damaged, or of an unknown codec; {_REMEDY}')
        yield capture
    finally:
        capture.release()


def _property(capture: Any, name: str) -> float:
    """Return a property of the video, 0 if it is not known."""
    value = capture.get(getattr(_cv2(), name))
    return value if math.isfinite(value) and value > 0 else 0.


def _frames(capture: Any) -> Iterator[np.ndarray]:
    """Yield the frames up to the end, or to the first that is damaged."""
    while True:
        read, frame = capture.read()
        if not read:
            return
        yield np.ascontiguousarray(frame[..., ::-1])


def _annotate(path: pathlib.Path, frames: Iterator[np.ndarray], predictor: Predictor, threshold: float,
              output: tuple[pathlib.Path, float, TextIO]) -> int:
    """Write annotated frames and JSON lines, and return how many.

    Args:
        output: path of the video, frames per second, stream of the JSON lines.
    """
    first = next(frames, None)
    if first is None:
        raise InferenceError(f'{path}: no frame can be decoded; {_REMEDY}')
    picture, rate, stream = output
    count = 0
    with _writer(picture, rate, first.shape[1::-1]) as write:
        for count, candidates in enumerate(_predictions(path, itertools.chain([first], frames), predictor), 1):
            found = candidates[candidates.scores >= threshold]
            write(_draw(found))
            head = {'video': str(path), 'frame': count - 1, 'seconds': round((count - 1) / rate, 3)}
            stream.write(json.dumps({**head, 'height': found.size[0], 'width': found.size[1],
                                     'instances': found.to_coco()}, allow_nan=False, ensure_ascii=False) + '\n')
    return count


def _predictions(path: pathlib.Path, frames: Iterator[np.ndarray], predictor: Predictor) -> Iterator[Prediction]:
    try:
        yield from predictor.stream(frames)
    except InferenceError as error:
        raise InferenceError(f'{path}: {error}') from None


def _draw(found: Prediction) -> np.ndarray:
    """Return the picture of a frame. `found.draw` would encode and decode the frame once more."""
    names = [category.name for category in found.categories]
    assert isinstance(found.source, np.ndarray)
    return visualize.draw_at_size(found.source, found.instances, names, 0., found.paste)


@contextlib.contextmanager
def _writer(path: pathlib.Path, rate: float, size: tuple[int, int]) -> Iterator[Any]:
    """Yield a function that appends a frame to a new video of `size` (width, height)."""
    cv2 = _cv2()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*_CODEC), rate, size)
    try:
        if not writer.isOpened():
            raise InferenceError(f'{path.parent}: OpenCV cannot write MP4 videos of {size[0]} x {size[1]} px there '
                                 f'(codec {_CODEC}); make room, or install another build of OpenCV')
        yield lambda frame: writer.write(np.ascontiguousarray(frame[..., ::-1]))
    finally:
        writer.release()


def _check_written(picture: pathlib.Path, written: pathlib.Path, count: int) -> None:
    """Raise OSError if the video lacks frames: OpenCV does not report a full disk."""
    with contextlib.suppress(InferenceError), _opened(picture) as capture:
        if _property(capture, 'CAP_PROP_FRAME_COUNT') == count:
            return
    raise OSError(f'{written}: cannot be written completely; make room there or give another --output')

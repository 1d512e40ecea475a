"""Prediction on files, for `mrcnn predict`: find the files, and write a picture and a JSON file for each image.

A file that cannot be used does not stop the others; it is reported with the reason.
"""
from __future__ import annotations

import concurrent.futures
import glob
import mimetypes
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from mrcnn_tf import files
from mrcnn_tf.input import decoding
from mrcnn_tf.serving import video
from mrcnn_tf.serving.predictor import Predictor
from mrcnn_tf.serving.sources import InferenceError

_LISTS = ('.txt', '.lst')    # suffixes of files that list images, one per line

Paths = Iterable[str | os.PathLike[str]]
T = TypeVar('T')


@dataclass
class PredictionReport:
    """The result of `predict_to_directory`.

    Attributes:
        pictures: paths of the pictures, in order.
        failed: the reason for each file that could not be used: one line that starts with the path.
        without_detections: images without a detection that reaches the threshold.
        best_score_below: the best score on these images, None if they have no detections at all.
        videos: paths of the annotated videos, in order.
    """
    pictures: list[pathlib.Path] = field(default_factory=list)
    failed: dict[pathlib.Path, str] = field(default_factory=dict)
    without_detections: list[pathlib.Path] = field(default_factory=list)
    best_score_below: float | None = None
    videos: list[pathlib.Path] = field(default_factory=list)


def find_images(inputs: Paths) -> list[pathlib.Path]:
    """Return the image files of the inputs without duplicates, in the order of the inputs.

    Args:
        inputs: image files; directories, whose images (by suffix, or by content if there is no known suffix) are
            returned by name, without those in subdirectories; patterns such as 'photos/**/*.jpg'; text files (.txt,
            .lst) with one path per line, relative to the working directory or to the text file. Image files that do
            not exist are returned too.

    Raises:
        InferenceError: a directory has no images, a pattern has no match, or a list cannot be read or is empty.
    """
    paths = (path for each in inputs for path in _expand(os.fspath(each)))
    return list({os.path.abspath(path): path for path in paths}.values())


def predict_to_directory(images: Paths, predictor: Predictor, output: str | os.PathLike[str], threshold: float = 0.5,
                         track: Callable[[list[pathlib.Path]], Iterable[pathlib.Path]] = iter) -> PredictionReport:
    """Write for each image NAME.* the files NAME.png (a picture of its size) and NAME.json to a directory.

    For each video, NAME.mp4 and NAME.jsonl, see `video.predict_video`; videos come after the images.

    The JSON file holds image, height, width (px) and instances, best first: COCO results (category_id, bbox [x, y,
    width, height] in px, score, segmentation as compressed RLE) with the category name. If the model's data.exif
    rotates a photograph, picture and instances are in the pixels of the rotated image. Later images with the same name
    are written as NAME-2, NAME-3, ... Files of an earlier call are replaced. Each file is written completely or not at
    all.

    Args:
        images: paths of image and video files.
        predictor: see `load_predictor`.
        output: the directory; created if it does not exist.
        threshold: instances with a lower score are omitted.
        track: wraps the iteration over the paths of images, for example with a progress bar. Each video shows its own.

    Returns:
        Which files were written, and which images could not be used.

    Raises:
        InferenceError: a picture would replace an image, or a video a video; nothing is written.
        OSError: the disk is full or not writable.
    """
    paths, report = [pathlib.Path(path) for path in images], PredictionReport()
    pictures = [path for path in paths if not video.is_video(path)]
    videos = [path for path in paths if video.is_video(path)]
    picture_stems = stems(pictures, pathlib.Path(output), '.png')
    video_stems = stems(videos, pathlib.Path(output), '.mp4')
    results = _concurrently(lambda path, stem: _predict_one(path, stem, predictor, threshold), predictor.concurrency,
                            pictures, picture_stems)
    for path, result in zip(track(pictures), results, strict=True):
        _add(report, path, result)
    for path, stem in zip(videos, video_stems, strict=True):
        try:
            report.videos.append(video.predict_video(path, predictor, stem, threshold))
        except InferenceError as error:
            report.failed[path] = str(error)
    return report


def _expand(text: str) -> Iterable[pathlib.Path]:
    """Return the image files of one input."""
    path = pathlib.Path(text)
    if path.is_dir():
        return _images_in(path)
    if path.is_file() and path.suffix.lower() in _LISTS:
        return _listed_in(path)
    if glob.has_magic(text) and not path.exists():
        matches = [pathlib.Path(each) for each in sorted(glob.glob(text, recursive=True))]
        if not matches:
            raise InferenceError(f'{text}: no file matches this pattern; give image files, directories or a list')
        return [image for each in matches for image in (_images_in(each, required=False) if each.is_dir() else [each])]
    return [path]


def _images_in(folder: pathlib.Path, required: bool = True) -> list[pathlib.Path]:
    """Return images of any format by name. Those that cannot be opened or decoded are reported later."""
    images = [path for path in sorted(folder.iterdir())
             if not path.name.startswith('.') and not path.is_dir() and _is_image(path)]
    if required and not images:
        raise InferenceError(f'{folder}: has no image files; for images in its subdirectories give a pattern such as '
                             f"'{folder}/**/*.jpg'")
    return images


def _is_image(path: pathlib.Path) -> bool:
    """Return whether a file is an image by its suffix or, if that is unknown, by its content."""
    kind = mimetypes.guess_type(path.name)[0]
    if kind is not None:
        return kind.startswith('image/')
    try:
        with files.open_regular(path) as stream:
            return stream.read(len(decoding.PNG)).startswith((decoding.JPEG, decoding.PNG))
    except OSError:
        return False


def _listed_in(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the paths in a text file."""
    try:
        lines = [line.strip() for line in files.read_text(path, 'utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError):
        raise InferenceError(f'{path}: cannot be read as text; give a list of paths in UTF-8, one per line') from None
    paths = [pathlib.Path(line) for line in lines if line and not line.startswith('#')]
    if not paths:
        raise InferenceError(f'{path}: lists no images; give a list of paths, one per line')
    for each in paths:
        beside = path.parent / each
        yield beside if not each.exists() and beside.exists() else each


def stems(paths: Sequence[pathlib.Path], output: pathlib.Path, suffix: str) -> list[pathlib.Path]:
    """Return for each file the path of its output files without suffix, all different.

    Raises:
        InferenceError: one of the outputs with this suffix would replace a file.
    """
    inputs, made, taken = {path.resolve() for path in paths}, [], set()
    for path in paths:
        name, count = path.stem, 1
        while name.casefold() in taken:    # some file systems do not distinguish upper and lower case
            count += 1
            name = f'{path.stem}-{count}'
        taken.add(name.casefold())
        made.append(output / name)
        if (output / f'{name}{suffix}').resolve() in inputs:
            raise InferenceError(f'{output / name}{suffix}: would replace an input file; choose another output')
    return made


def _concurrently(function: Callable[..., T], threads: int, *arguments: Iterable[Any]) -> Iterator[T]:
    """Yield what a function returns for each item, in order. After an error, calls that have not begun are dropped."""
    if threads == 1:
        yield from map(function, *arguments)
        return
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(function, *arguments)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Result(NamedTuple):
    """A written picture, the number of detections that reach the threshold, and the best score of all."""
    picture: pathlib.Path
    detections: int
    best: float | None


def _predict_one(path: pathlib.Path, stem: pathlib.Path, predictor: Predictor, threshold: float
                 ) -> _Result | InferenceError:
    """Predict one image, and write its files."""
    picture = stem.with_name(f'{stem.name}.png')
    try:
        candidates = predictor(path)
        found = candidates[candidates.scores >= threshold]
        with files.atomic_path(picture) as temporary:
            found.draw(threshold).save(temporary)
    except InferenceError as error:    # draw reads the file again
        return error
    height, width = found.size
    files.write_json(stem.with_name(f'{stem.name}.json'),
                     {'image': str(path), 'height': height, 'width': width, 'instances': found.to_coco()})
    return _Result(picture, len(found), float(candidates.scores.max()) if len(candidates) else None)


def _add(report: PredictionReport, path: pathlib.Path, result: _Result | InferenceError) -> None:
    """Add the result of an image to the report."""
    if isinstance(result, InferenceError):
        report.failed[path] = str(result)
        return
    report.pictures.append(result.picture)
    if not result.detections:
        report.without_detections.append(path)
        if result.best is not None:
            report.best_score_below = max(report.best_score_below or 0., result.best)

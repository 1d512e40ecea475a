"""`mrcnn predict`: from folders, patterns and lists to image files, and for each one a picture and a json file.

A file that cannot be predicted on does not stop the others: it is kept with its reason.
"""
from __future__ import annotations

import glob
import mimetypes
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mrcnn_tf import files
from mrcnn_tf.detectors.instances import to_coco
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.input import decoding
from mrcnn_tf.serving.predictor import InferenceError, Predictor, read_image

_LISTS = ('.txt', '.lst')    # suffixes of files that name images, one a line

Paths = Iterable[str | os.PathLike[str]]


@dataclass
class Predicted:
    """What became of the image files.

    Attributes:
        pictures: paths of the pictures, in order.
        failed: path of each file that could not be used, with its reason in one line that begins with the path.
        without: images on which nothing reached the threshold.
        best_below: the best score on these, None where nothing at all was found.
    """
    pictures: list[pathlib.Path] = field(default_factory=list)
    failed: dict[pathlib.Path, str] = field(default_factory=dict)
    without: list[pathlib.Path] = field(default_factory=list)
    best_below: float | None = None


def find_images(inputs: Paths) -> list[pathlib.Path]:
    """Return the image files that inputs mean, each once, in the order given; the files of a folder by name.

    Args:
        inputs: an image file; a folder, of which all images are meant, by their suffix or without one by their
            content, those of its folders not; a pattern such as
            'photos/**/*.jpg'; or a text file (.txt, .lst) with a path in each line, relative to the working directory
            or else to the text file. Images that are named but not there are returned too.

    Raises:
        InferenceError: a folder without images, a pattern that nothing fits, a list that is none.
    """
    found = (path for each in inputs for path in _meant(os.fspath(each)))
    return list({os.path.abspath(path): path for path in found}.values())


def predict_to_directory(images: Paths, predictor: Predictor, output: str | os.PathLike[str], threshold: float = 0.5,
                         track: Callable[[list[pathlib.Path]], Iterable[pathlib.Path]] = iter) -> Predicted:
    """Write NAME.png, the picture, and NAME.json of every image NAME.* to a directory, each file whole or not at all.

    The json holds image, height, width (px) and instances, best first: as COCO's results (category_id, bbox [x, y,
    width, height] in px, score, segmentation as compressed RLE) with the name of the category. Of a photograph that the
    model's rule turns these are in the pixels that viewers show, as the picture is. Of images with equal names the
    later ones become NAME-2, NAME-3, ...; files of an earlier call are replaced.

    Args:
        images: paths of files.
        predictor: see `load_predictor`.
        output: directory, made where it is missing.
        threshold: instances with a lower score are left out of both.
        track: wraps the paths as they are worked through, such as a progress bar does.

    Returns:
        What was written, and which files could not be used.

    Raises:
        InferenceError: a picture would replace an image; then nothing is written.
        OSError: the disk is full, no permission to write.
    """
    paths = [pathlib.Path(path) for path in images]
    done = Predicted()
    for path, stem in zip(track(paths), _stems(paths, pathlib.Path(output)), strict=True):
        try:
            _predict_one(path, stem, predictor, threshold, done)
        except InferenceError as error:
            done.failed[path] = str(error)
    return done


def _meant(text: str) -> Iterable[pathlib.Path]:
    path = pathlib.Path(text)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file() and path.suffix.lower() in _LISTS:
        return _of_list(path)
    if glob.has_magic(text) and not path.exists():
        fitting = [pathlib.Path(each) for each in sorted(glob.glob(text, recursive=True))]
        if not fitting:
            raise InferenceError(f'{text}: no file fits this pattern; give image files, folders or a list of paths')
        return [image for each in fitting for image in (_of_folder(each, needed=False) if each.is_dir() else [each])]
    return [path]


def _of_folder(folder: pathlib.Path, needed: bool = True) -> list[pathlib.Path]:
    """Images of any format: those that cannot be decoded or opened shall be named, not passed over."""
    found = [path for path in sorted(folder.iterdir())
             if not path.name.startswith('.') and not path.is_dir() and _is_image(path)]
    if needed and not found:
        raise InferenceError(f'{folder}: no image files in this folder; for those of its folders give a pattern such '
                             f"as '{folder}/**/*.jpg'")
    return found


def _is_image(path: pathlib.Path) -> bool:
    """Whether a file is an image by its name, or by its content where its suffix says nothing."""
    kind = mimetypes.guess_type(path.name)[0]
    if kind is not None:
        return kind.startswith('image/')
    try:
        with files.open_regular(path) as stream:
            return stream.read(len(decoding.PNG)).startswith((decoding.JPEG, decoding.PNG))
    except OSError:
        return False


def _of_list(path: pathlib.Path) -> Iterator[pathlib.Path]:
    try:
        lines = [line.strip() for line in files.read_text(path, 'utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError):
        raise InferenceError(f'{path}: cannot be read as text; give a list of paths in UTF-8, one a line') from None
    named = [pathlib.Path(line) for line in lines if line and not line.startswith('#')]
    if not named:
        raise InferenceError(f'{path}: names no images; give a list of paths, one a line')
    for each in named:
        beside = path.parent / each
        yield beside if not each.exists() and beside.exists() else each


def _stems(paths: Sequence[pathlib.Path], output: pathlib.Path) -> list[pathlib.Path]:
    """For each image the path that its files get, without .png and .json; different ones."""
    inputs, stems, taken = {path.resolve() for path in paths}, [], set()
    for path in paths:
        name, count = path.stem, 1
        while name.casefold() in taken:    # there are file systems without a difference between a and A
            count += 1
            name = f'{path.stem}-{count}'
        taken.add(name.casefold())
        stems.append(output / name)
        if (output / f'{name}.png').resolve() in inputs:
            raise InferenceError(f'{output / name}.png: the picture would replace an image; choose another output')
    return stems


def _predict_one(path: pathlib.Path, stem: pathlib.Path, predictor: Predictor, threshold: float,
                 done: Predicted) -> None:
    image = read_image(path, predictor.rule)
    every = predictor([path])[0]
    found = every[every.scores >= threshold]
    size, names = (image.shape[0], image.shape[1]), [category.name for category in predictor.categories]
    results: list[dict[str, Any]] = [
        {**result, 'category': names[label - 1]} for label, result in
        zip(found.labels.tolist(), to_coco(found, size, predictor.categories, predictor.paste), strict=True)]
    picture = stem.with_name(f'{stem.name}.png')
    with files.atomic_path(picture) as temporary:
        Image.fromarray(visualize.draw(image, found, names, threshold, predictor.paste)).save(temporary)
    files.write_json(stem.with_name(f'{stem.name}.json'),
                     {'image': str(path), 'height': size[0], 'width': size[1], 'instances': results})
    done.pictures.append(picture)
    if not len(found):
        done.without.append(path)
        if len(every):
            done.best_below = max(done.best_below or 0., float(every.scores.max()))

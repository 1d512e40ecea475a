"""Prediction on many images, as one file in COCO's format: in batches, several at a time, resumable."""
from __future__ import annotations

import io
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import tensorflow as tf
from PIL import Image

from mrcnn_tf import files
from mrcnn_tf.detectors.devices import in_threads
from mrcnn_tf.files.progress import Update
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.tuning import untuned
from mrcnn_tf.serving import predict_files, video
from mrcnn_tf.serving.coco_file import CocoFile, Entry
from mrcnn_tf.serving.prediction import Prediction
from mrcnn_tf.serving.predictor import Predictor
from mrcnn_tf.serving.sources import InferenceError

_WAITING = 256    # images at most that wait for others of their size
_FEATURES = {'image/encoded': tf.io.FixedLenFeature([], tf.string), 'image/id': tf.io.FixedLenFeature([], tf.int64),
             'image/filename': tf.io.FixedLenFeature([], tf.string, '')}


class NamedImage(NamedTuple):
    """An image of a set.

    name: in the file of detections.
    source: path or bytes of a file.
    id: in the file of detections; None: the next one.
    picture: where it is drawn; None: not at all.
    """
    name: str
    source: pathlib.Path | bytes
    id: int | None = None
    picture: pathlib.Path | None = None


Done = list[tuple[NamedImage, Entry | InferenceError]]


@dataclass
class SetReport:
    """The result of `predict_set`: images done now, images done before, and why the others could not be used."""
    predicted: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def manifest_of(inputs: Sequence[str | os.PathLike[str]]) -> str:
    """Return the manifest that the inputs are, '' for image files."""
    return os.fspath(inputs[0]) if len(inputs) == 1 and pathlib.Path(inputs[0]).suffix == '.json' else ''


def find(inputs: Sequence[str | os.PathLike[str]], pictures: pathlib.Path | None = None
         ) -> tuple[int, Iterable[NamedImage]]:
    """Return the number of images of the inputs, and the images.

    Args:
        inputs: as for `predict_files.find_images`; or one manifest of a set, whose images have the data set's own ids.
        pictures: directory for pictures; None: none are drawn.

    Raises:
        InferenceError: as `find_images`; an input is a video; a picture would replace an image.
        ManifestError: there is no such manifest, or a shard is missing.
    """
    if manifest := manifest_of(inputs):
        return _images_of_manifest(manifest, pictures)
    paths = predict_files.find_images(inputs)
    for path in paths:
        if video.is_video(path):
            raise InferenceError(f'{path}: a file in COCO\'s format has no place for a video; give a directory as '
                                 '--output')
    stems = predict_files.stems(paths, pictures, '.png') if pictures else [None] * len(paths)
    return len(paths), [NamedImage(str(path), path, None, stem and stem.with_name(f'{stem.name}.png'))
                        for path, stem in zip(paths, stems, strict=True)]


def _images_of_manifest(path: str | os.PathLike[str], pictures: pathlib.Path | None
                        ) -> tuple[int, Iterator[NamedImage]]:
    manifest = Manifest.read(path)
    records = untuned(tf.data.TFRecordDataset(manifest.shard_paths(path)).map(
        lambda record: tf.io.parse_single_example(record, _FEATURES))).as_numpy_iterator()
    return manifest.counts.images, (
        NamedImage(os.fsdecode(each['image/filename']) or str(each['image/id']), each['image/encoded'],
                   int(each['image/id']), pictures and pictures / f'{each["image/id"]}.png') for each in records)


def predict_set(images: Iterable[NamedImage], predictor: Predictor, output: CocoFile, batch_size: int | None = None,
                threads: int | None = None, update: Update = lambda done: None) -> SetReport:
    """Write the detections of images to one file. Images that the file has already are skipped.

    Args:
        images: whose ids differ, or their names where they have none.
        predictor: see `load_predictor`.
        output: the file; it has the threshold too.
        batch_size: images of equal size that go through the network together; None: on a GPU the model's
            `data.evaluation_batch_size`, on a CPU 1, which is faster there.
        threads: batches that are decoded, predicted and encoded at a time; None: the predictor's `concurrency`.
        update: called with the number of images that are done, skipped or failed.

    Returns:
        What was done. Images that cannot be used are not in the file, so the next call tries them again.

    Raises:
        OSError: the disk is full or not writable.
    """
    report = SetReport()
    on_gpu = bool(tf.config.list_physical_devices('GPU'))

    def remaining() -> Iterator[NamedImage]:
        for image in images:
            if (image.name if image.id is None else image.id) in output.known:
                report.skipped += 1
            else:
                yield image

    with output:
        done = in_threads(lambda batch: predict_batch(predictor, batch, output.threshold),
                          _batches(remaining(), batch_size or (predictor.batch_size if on_gpu else 1)),
                          threads or predictor.concurrency)
        for image, entry in itertools.chain.from_iterable(done):
            if isinstance(entry, InferenceError):
                report.failed[image.name] = str(entry)
            else:
                output.add(entry)
                report.predicted += 1
            update(report.predicted + report.skipped + len(report.failed))
        output.finish(predictor.categories)
    return report


def _batches(images: Iterable[NamedImage], batch_size: int) -> Iterator[list[NamedImage]]:
    """Yield batches of images of one size; those that find no others of their size come alone."""
    waiting: dict[Any, list[NamedImage]] = {}
    for image in images:
        size = _size(image.source) if batch_size > 1 else None
        waiting.setdefault(size, []).append(image)
        if len(waiting[size]) == batch_size:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) > _WAITING:
            yield from ([each] for each in waiting.pop(next(iter(waiting))))
    yield from ([each] for each in itertools.chain.from_iterable(waiting.values()))


def _size(source: pathlib.Path | bytes) -> Any:
    """Return the size of an image file by its header, None if Pillow cannot read it."""
    try:
        with Image.open(io.BytesIO(source if isinstance(source, bytes) else files.read_bytes(source))) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None    # the predictor says why


def predict_batch(predictor: Predictor, batch: list[NamedImage], threshold: float) -> Done:
    """Return the entry of each image, or why it cannot be used."""
    try:
        predictions = predictor.predictions([(image.name, image.source) for image in batch], len(batch))
        return [(image, _entry(image, found[found.scores >= threshold]))
                for image, found in zip(batch, predictions, strict=True)]
    except InferenceError as error:
        if len(batch) == 1:
            return [(batch[0], error)]
        return [each for image in batch for each in predict_batch(predictor, [image], threshold)]


def _entry(image: NamedImage, found: Prediction) -> Entry:
    """Return an image with its detections for the file; draw it if it has a place for a picture."""
    if image.picture:
        with files.atomic_path(image.picture) as temporary:
            found.draw(0.).save(temporary)
    height, width = found.size
    results = [{name: value for name, value in each.items() if name != 'category'} for each in found.to_coco()]
    return {'id': image.id, 'file_name': image.name, 'height': height, 'width': width, 'instances': results}

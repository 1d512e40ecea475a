"""Detection as a transform of Apache Beam, for sets that outgrow a machine (extra `beam`).

Each worker process loads the model once, when it gets its first image.
"""
from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mrcnn_tf.files.extras import install
from mrcnn_tf.serving.coco_file import Entry
from mrcnn_tf.serving.predict_set import NamedImage, predict_batch
from mrcnn_tf.serving.predictor import Predictor, load_predictor
from mrcnn_tf.serving.sources import InferenceError


def detect(model: str | os.PathLike[str], threshold: float = 0.5, checkpoint: str | int = 'best', batch_size: int = 8
           ) -> Any:
    """Return a transform from (name, bytes of a JPEG or PNG file) to the detections of each image.

    Args:
        model: as for `load_predictor`; the workers must see this path.
        threshold: instances with a lower score are omitted.
        checkpoint: of a model directory, as `restore_model`.
        batch_size: images that a worker takes at a time, at most.

    Returns:
        A `PTransform`. Its elements are dicts: `file_name`, `height`, `width` and `instances` (COCO results); or
        `file_name` and `error`, why an image cannot be used.

    Raises:
        InferenceError: Beam is not installed.
    """
    beam = _apache_beam()
    return (beam.BatchElements(min_batch_size=1, max_batch_size=batch_size)
            | beam.FlatMap(_Detect(os.fspath(model), threshold, checkpoint)))


@dataclass(frozen=True)
class _Detect:
    """A function of a batch, which workers get as a pickle."""
    model: str
    threshold: float
    checkpoint: str | int

    def __call__(self, batch: list[tuple[str, bytes]]) -> Iterator[Entry]:
        predictor = _load(self.model, self.checkpoint)
        images = [NamedImage(name, content) for name, content in batch]
        for image, entry in predict_batch(predictor, images, self.threshold):
            if isinstance(entry, InferenceError):
                yield {'file_name': image.name, 'error': str(entry)}
            else:
                yield {name: value for name, value in entry.items() if name != 'id'}


@functools.cache
def _load(model: str, checkpoint: str | int) -> Predictor:
    return load_predictor(model, checkpoint)


def _apache_beam() -> Any:
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)      # it warns that libraries of Google Cloud are missing
    try:
        import apache_beam
    except ImportError:
        raise InferenceError(f'detection in a pipeline needs Apache Beam: {install("beam")}') from None
    finally:
        logging.root.setLevel(level)
    return apache_beam

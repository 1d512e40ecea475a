"""The page of the development server: one file without a link to anything else, and what it asks."""
from __future__ import annotations

import functools
import json
import pathlib
import time

import numpy as np

from mrcnn_tf import files
from mrcnn_tf.detectors import instances
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving.light_client import STATUS
from mrcnn_tf.serving.predictor import exported_instances
from mrcnn_tf.serving.server.service import Service
from mrcnn_tf.serving.signatures import DETECT

# The page may run its own script and style, ask this server, and show the images that it was given: nothing else.
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


@functools.cache
def html() -> bytes:
    """Return the page."""
    return files.read_bytes(pathlib.Path(__file__).with_name('page.html'))


def model(service: Service) -> bytes:
    """Return what the page shows of the model, as JSON: its name, version, categories, `exif` and the size limit."""
    version = service.versions.get()
    described = {key: version.description[key] for key in ('categories', 'exif')}
    return json.dumps({'name': service.name, 'version': version.number, **described,
                       'max_bytes': service.options.max_bytes}).encode()


def detect(service: Service, content: bytes, start: float) -> bytes:
    """Return the detections of an image file as JSON, as `mrcnn predict` writes them, with status and time.

    Args:
        service: answers the request.
        content: of the file.
        start: `time.perf_counter` when the request came.
    """
    version = service.versions.get()
    outputs = service.predict('page', version, DETECT, {'image_bytes': np.array([content], object)})
    columns = {name: value[0] for name, value in outputs.items()}
    height, width = columns['sizes'].tolist()
    categories = [Category(**each) for each in version.description['categories']]
    found = exported_instances(columns, version.description['masks'])
    results = instances.to_coco(found, (height, width), categories, version.description['paste'])
    named = [{**result, 'category': categories[label - 1].name}
             for result, label in zip(results, found.labels.tolist(), strict=True)]
    return json.dumps({'status': STATUS[int(columns['status'])], 'height': height, 'width': width, 'instances': named,
                       'milliseconds': round(1000 * (time.perf_counter() - start), 1)}).encode()

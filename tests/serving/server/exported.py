"""An exported model whose network finds the whole image and its upper left quarter."""
from __future__ import annotations

import json
import pathlib

import numpy as np
import tensorflow as tf

from mrcnn_tf import files
from mrcnn_tf.config import Config
from mrcnn_tf.serving import server_kit, signatures
from tests.serving.test_signatures import FILES, SPEC, find

DESCRIPTION = {
    'categories': [{'label': 1, 'id': 70, 'name': 'cat'}, {'label': 2, 'id': 3, 'name': 'dog'}],
    'paste': 'pixel_center', 'masks': 'uint8', 'score_threshold': 0., 'model': 'mask_rcnn', 'exif': 'apply',
    'max_pixels': 2500}


def write_export(version: pathlib.Path) -> None:
    """Write a version of a SavedModel as `mrcnn export` does, with two of its signatures."""
    data = Config().data
    data.test_short_side, data.test_long_side, data.max_pixels = 32, 64, DESCRIPTION['max_pixels']
    network = signatures.Network(tf.function(find, autograph=False), SPEC, DESCRIPTION['paste'])
    answers = signatures.Answers(network, data, [70, 3], DESCRIPTION['masks'])
    detect = tf.function(lambda image_bytes: signatures.plain(answers.of_bytes(image_bytes)),
                         [tf.TensorSpec([None], tf.string, 'image_bytes')], autograph=False)
    describe = signatures.description_signature(json.dumps(DESCRIPTION))
    tf.saved_model.save(tf.Module(), str(version), {'detect': detect.get_concrete_function(), 'describe': describe})
    server_kit.write_warmup(version, version.parent.name, [('detect', {'image_bytes': np.array(FILES[:1], object)})])
    files.write_json(version / 'assets.extra' / 'mrcnn.json', DESCRIPTION)

"""LiteRT files of a small network. `test_converted_detectors.py` has a real detector, `python -m
benchmarks.exported_files` a trained one.
"""
from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.serving import litert
from mrcnn_tf.serving.fixed_size import FixedNetwork
from tests.serving import fixed_networks


@pytest.mark.parametrize('quantize, tolerance', [('none', 1e-6), ('float16', 1e-3), ('int8', 1e-2)])
def test_a_file_answers_like_the_network(quantize: str, tolerance: float) -> None:
    network = fixed_networks.network()
    content = litert.convert(network, {'names': ['cat']}, quantize)
    description, run = litert.load(content)
    assert description == {'names': ['cat']}
    fixed_networks.check(run, network, tolerance)


@pytest.mark.filterwarnings('ignore:.*tf.lite.Interpreter is deprecated')
@pytest.mark.parametrize('quantize', ['none', 'float16'])
def test_large_constants_of_zeros_are_left_out(quantize: str) -> None:
    """Here the initial values of a loop, 64 or 32 kB; small ones stay."""
    def count(images: tf.Tensor) -> dict[str, tf.Tensor]:
        start = 0, tf.zeros([64, 256]), tf.zeros([2])
        _, large, small = tf.while_loop(lambda i, *_: i < 3, lambda i, large, small: (
            i + 1, large + images[0, 0], small + 1.), start)
        return {'large': large, 'small': small}

    specs = [tf.TensorSpec([1, 2], name='images')]
    network = FixedNetwork(tf.function(count, specs, autograph=False), specs, [])
    content = litert.convert(network, {}, quantize)
    assert 0 < len(content) < 16384
    interpreter = tf.lite.Interpreter(model_content=content)
    found = interpreter.get_signature_runner()(images=np.float32([[2, 0]]))
    np.testing.assert_array_equal(found['large'], np.full([64, 256], 6.))
    assert found['small'].tolist() == [3, 3]


def test_another_file() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        archive.writestr('mrcnn.json', json.dumps({}))
    with pytest.raises(ValueError, match='not a valid|Model provided has'):
        litert.load(stream.getvalue())
    with pytest.raises(zipfile.BadZipFile):
        litert.load(b'TFL3')

"""LiteRT files of a small network; `python -m benchmarks.exported_files` compares those of a trained model."""
from __future__ import annotations

import io
import json
import zipfile

import pytest

from mrcnn_tf.serving import litert
from tests.serving import fixed_networks


@pytest.mark.parametrize('quantize, tolerance', [('none', 1e-6), ('float16', 1e-3), ('int8', 1e-2)])
def test_a_file_answers_like_the_network(quantize: str, tolerance: float) -> None:
    network = fixed_networks.network()
    content = litert.convert(network, {'names': ['cat']}, quantize)
    description, run = litert.load(content)
    assert description == {'names': ['cat']}
    fixed_networks.check(run, network, tolerance)


def test_another_file() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        archive.writestr('mrcnn.json', json.dumps({}))
    with pytest.raises(ValueError, match='not a valid|Model provided has'):
        litert.load(stream.getvalue())
    with pytest.raises(zipfile.BadZipFile):
        litert.load(b'TFL3')

"""The transform of Apache Beam on its local runner, and what the workers run."""
from __future__ import annotations

import json
import pathlib
import pickle
import sys

import pytest

from mrcnn_tf.serving import beam
from mrcnn_tf.serving.sources import InferenceError
from tests.serving.test_predict_files import FakePredictor, save


@pytest.fixture
def images(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    monkeypatch.setattr(beam, '_load', lambda model, checkpoint: {('m', 'best'): FakePredictor()}[model, checkpoint])
    return [('a', save(tmp_path / 'a.png').read_bytes()), ('b', b'hello'),
            ('c', save(tmp_path / 'c.png', 20, 30).read_bytes())]


def check(found: list[dict[str, object]]) -> None:
    by_name = {each.pop('file_name'): each for each in found}
    assert by_name['b'] == {'error': 'b: neither a JPEG nor a PNG; convert it to one'}
    assert {name: (by_name[name]['height'], by_name[name]['width']) for name in 'ac'} == {'a': (40, 60), 'c': (20, 30)}
    (only,) = by_name['c']['instances']
    assert (only['bbox'], only['score'], only['category_id']) == ([0, 0, 15, 20], .75, 3)
    json.dumps(found)


def test_a_worker(images: list[tuple[str, bytes]]) -> None:
    check(list(pickle.loads(pickle.dumps(beam._Detect('m', .5, 'best')))(images)))


def test_a_pipeline(images: list[tuple[str, bytes]]) -> None:
    apache_beam = pytest.importorskip('apache_beam')
    from apache_beam.testing.util import assert_that

    with apache_beam.Pipeline('DirectRunner') as pipeline:
        assert_that(pipeline | apache_beam.Create(images) | beam.detect('m', batch_size=2), check)


def test_without_beam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'apache_beam', None)
    with pytest.raises(InferenceError, match=r'detection in a pipeline needs Apache Beam: pip install .*beam]'):
        beam.detect('m')

"""The script that runs a SavedModel without this package; test_export.py runs it on an exported detector."""
from __future__ import annotations

import pathlib
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.serving import run_saved_model


class Lengths(tf.Module):
    """Returns the number of bytes of each image."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, 'image_bytes')])
    def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {'lengths': tf.strings.length(image_bytes)}


def test_the_outputs_of_one_request_are_written(tmp_path: pathlib.Path) -> None:
    module = Lengths()
    tf.saved_model.save(module, str(tmp_path / 'model'), signatures={'detect': module.serve})
    paths = [tmp_path / 'a.png', tmp_path / 'b.png']
    for path, content in zip(paths, (b'abc', b'12345'), strict=True):
        path.write_bytes(content)
    with mock.patch.dict(sys.modules):
        run_saved_model.main(str(tmp_path / 'model'), str(tmp_path / 'out.npz'), *map(str, paths))
        with pytest.raises(ImportError):
            import mrcnn_tf  # noqa: F401
    with np.load(tmp_path / 'out.npz') as found:
        assert {name: value.tolist() for name, value in found.items()} == {'lengths': [3, 5]}

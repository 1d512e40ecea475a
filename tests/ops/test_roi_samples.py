"""The adaptive number of samples of RoIAlign, by hand."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.ops.roi_samples import samples_per_bin
from tests.modes import MODES


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('size', [7, 14, 28])
def test_samples_of_a_bin_by_hand(mode, size) -> None:
    """Sides of whole bins, for which a multiplication by 1 / size gives one sample too many, and a bit more or less."""
    whole = np.arange(0, 60, dtype=np.float32)
    for change, expected in ((0., whole), (.01, whole + 1), (-.01, whole)):
        found = MODES[mode](lambda sides: samples_per_bin(sides, size))(tf.constant(whole * size + np.float32(change)))
        np.testing.assert_array_equal(found, expected)


def test_a_box_without_area_has_no_samples() -> None:
    assert samples_per_bin(tf.constant([0., -1., .1]), 7).numpy().tolist() == [0, 0, 1]

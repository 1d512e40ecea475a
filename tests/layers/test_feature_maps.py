"""Feature maps that a layer is called with: alone, in a list, and unsuitable ones. The cells around a cell."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.layers.feature_maps import as_list, windows
from tests.modes import MODES

MAP = np.zeros([1, 4, 6, 8])


@pytest.mark.parametrize(('features', 'expected'), [(MAP, 1), ([MAP], 1), ((MAP, MAP), 2), ([], 0)],
                         ids=['alone', 'list', 'tuple', 'empty'])
def test_feature_maps_become_a_list(features: object, expected: int) -> None:
    found = as_list('RoIAlign', features)
    assert isinstance(found, list) and len(found) == expected and all(each is MAP for each in found)
    assert as_list('RoIAlign', features, expected) == found


def test_another_number_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match='^RoIAlign: got 1 feature maps; expected 4, one for each level$'):
        as_list('RoIAlign', MAP, 4)


def test_a_tensor_that_is_no_feature_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r'^RPNHead: a feature map has the shape \(4, 6, 8\); expected '):
        as_list('RPNHead', [MAP, MAP[0]])


@pytest.mark.parametrize('mode', MODES)
def test_windows_by_hand(mode: str) -> None:
    """The first cell of a map of 2 x 3 cells, and the only one of the next level, whose number is 6."""
    maps = [tf.reshape(tf.range(1., 7.), [1, 2, 3, 1]), tf.constant([[[[9.]]]])]
    found, inside = MODES[mode](lambda *levels: windows(levels, tf.constant([[0, 6]]), 1))(*maps)
    assert found[..., 0].numpy().tolist() == [[[0, 0, 0], [0, 1, 2], [0, 4, 5]], [[0, 0, 0], [0, 9, 0], [0, 0, 0]]]
    np.testing.assert_array_equal(inside, found > 0)

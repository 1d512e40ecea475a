"""Feature maps that a layer is called with: alone, in a list, and unsuitable ones."""
from __future__ import annotations

import numpy as np
import pytest

from mrcnn_tf.layers.feature_maps import as_list

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

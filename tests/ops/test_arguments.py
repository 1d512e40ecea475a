"""Checks of arguments: what passes, and the line that names what does not."""
from __future__ import annotations

import re

import numpy as np
import pytest

from mrcnn_tf.ops.arguments import (
    check_choice,
    check_counts,
    check_fraction,
    check_list,
    check_positive,
    check_shape,
)


def test_what_is_expected_passes() -> None:
    check_choice('nms', 'engine', 'op', ('op', 'xla'))
    check_counts('RoIAlign', size=7, channels=np.int64(1))
    check_counts('BoxHead', least=0, convolutions=0)
    check_positive('RoIAlign', canonical_size=.5)
    check_list('RoIAlign', 'strides', (4, 8.))
    check_list('RoIAlign', 'size', [7, 14], length=2)
    check_fraction('BoxHead', dropout=0, rate=1.)
    check_shape('RoIAlign', 'boxes', np.zeros([1, 2, 4]), '[B, N, 4]')


@pytest.mark.parametrize(('check', 'message'), [
    (lambda: check_choice('nms', 'engine', 'gpu', ('op', 'xla')), "nms: engine is 'gpu'; expected one of 'op', 'xla'"),
    (lambda: check_counts('A', size=0), 'A: size is 0; expected a whole number of at least 1'),
    (lambda: check_counts('A', size=7.), 'A: size is 7.0; expected a whole number of at least 1'),
    (lambda: check_counts('A', least=0, size=-1), 'A: size is -1; expected a whole number of at least 0'),
    (lambda: check_positive('A', side='7'), "A: side is '7'; expected a number above 0"),
    (lambda: check_positive('A', side=float('nan')), 'A: side is nan; expected a number above 0'),
    (lambda: check_list('A', 'strides', 4), 'A: strides is 4; expected a list of one or more numbers above 0'),
    (lambda: check_list('A', 'size', [4, 0]), 'A: size is [4, 0]; expected a list of one or more numbers above 0'),
    (lambda: check_list('A', 'size', [7], length=2), 'A: size is [7]; expected a list of 2 numbers above 0'),
    (lambda: check_fraction('A', rate=1.1), 'A: rate is 1.1; expected a number from 0 to 1'),
    (lambda: check_shape('A', 'boxes', np.zeros([2, 4]), '[B, N, 4]'),
     'A: boxes has the shape (2, 4); expected [B, N, 4]'),
    (lambda: check_shape('A', 'boxes', np.zeros([1, 2, 5]), '[B, N, 4]'),
     'A: boxes has the shape (1, 2, 5); expected [B, N, 4]')],
    ids=['choice', 'count_0', 'float_count', 'negative', 'text', 'nan', 'no_list', 'list_with_0', 'length', 'fraction',
         'axes', 'axis'])
def test_what_is_wrong_is_named(check, message) -> None:
    with pytest.raises(ValueError, match=f'^{re.escape(message)}$'):
        check()

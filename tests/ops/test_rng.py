"""Random numbers by position and seed: the published hash, in every mode."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.ops import rng
from tests.modes import MODES


def murmur_finaliser(h: int) -> int:
    for shift, factor in ((16, 0x85ebca6b), (13, 0xc2b2ae35)):
        h = (h ^ h >> shift) * factor % 2 ** 32
    return h ^ h >> 16


def by_hand(position: int, *words: int) -> float:
    """In Python's integers, of which the upper 24 bits count."""
    mixed = murmur_finaliser(position + 1)
    for word in words:
        mixed = murmur_finaliser(mixed ^ word % 2 ** 32)
    return (mixed >> 8) / 2 ** 24


@pytest.mark.parametrize('mode', MODES)
def test_numbers_by_hand(mode) -> None:
    """Also where the seed is a constant, which TensorFlow computes ahead."""
    expected = [[by_hand(3 * row + column, 7, -3) for column in range(3)] for row in range(2)]
    given = MODES[mode](lambda seed: rng.uniform((2, 3), seed))(tf.constant([7, -3]))
    fixed = MODES[mode](lambda: rng.uniform((2, 3), tf.constant([7, -3])))()
    assert given.dtype == tf.float32 and given.numpy().tolist() == fixed.numpy().tolist() == expected


@pytest.mark.parametrize('mode', MODES)
def test_numbers_of_an_image_depend_on_its_id_and_not_on_its_place(mode) -> None:
    """Ids may need more than 32 bits."""
    ids = [5, 2 ** 33 + 5, 9]
    expected = [[by_hand(column, 7, -3, number % 2 ** 32, number >> 32) for column in range(2)] for number in ids]
    seeds = tf.constant([7, -3])
    given = MODES[mode](lambda ids: rng.uniform((3, 2), rng.of_images(seeds, ids)))(tf.constant(ids, tf.int64))
    assert given.numpy().tolist() == expected


def test_one_more_word_is_another_stream() -> None:
    """That has nothing to do with the first: correlation of 4096 numbers, whose deviation is 1 / 64."""
    seed = tf.constant([7, -3])
    assert rng.substream(seed, 5).numpy().tolist() == [7, -3, 5]
    streams = [rng.uniform((4096,), s).numpy() for s in (seed, rng.substream(seed, 0), rng.substream(seed, 1))]
    assert streams[1][0] == by_hand(0, 7, -3, 0)
    correlations = np.corrcoef(streams)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < .07 and all(abs(stream.mean() - .5) < .02 for stream in streams)

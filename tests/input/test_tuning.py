"""No pipeline of the package has tf.data's tuning thread."""
from __future__ import annotations

import tensorflow as tf

from mrcnn_tf.input.tuning import PARALLEL, untuned
from tests.paths import ROOT


def test_the_thread_is_off_and_the_elements_stay() -> None:
    dataset = untuned(tf.data.Dataset.range(5).map(lambda x: 2 * x, num_parallel_calls=PARALLEL, deterministic=True))
    assert dataset.options().autotune.enabled is False
    assert list(dataset.as_numpy_iterator()) == [0, 2, 4, 6, 8]


def test_nothing_asks_to_be_tuned() -> None:
    sources = [*ROOT.glob('mrcnn_tf/**/*.py'), *ROOT.glob('data_tools/**/*.py')]
    assert sources
    named = [str(path.relative_to(ROOT)) for path in sources if 'num_parallel_calls=tf.data.AUTOTUNE' in
             path.read_text()]
    assert named == []

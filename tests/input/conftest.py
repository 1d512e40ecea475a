"""Fixtures of several tests in this directory."""
from __future__ import annotations

import pytest

from tests.input.small_sets import example, write_set


@pytest.fixture(scope='module')
def ten_images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images 1 to 10 of 8 x 16 px with one object each, in three shards of 4, 3, 3 records."""
    return write_set(tmp_path_factory.mktemp('ten'), [example(number) for number in range(1, 11)])

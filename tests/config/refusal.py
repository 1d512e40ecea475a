"""Helpers of the tests of configs: YAML files, and the error message of a config that is refused."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf import config as settings
from mrcnn_tf.config import ConfigError


def write_yaml(folder: pathlib.Path, **files: str) -> pathlib.Path:
    """Write NAME.yaml for each keyword; return the path of the first."""
    for name, text in files.items():
        (folder / f'{name}.yaml').write_text(text)
    return folder / f'{next(iter(files))}.yaml'


def refusal(source: str | pathlib.Path, *overrides: str) -> str:
    """Return the one-line message with which `load` refuses a config."""
    with pytest.raises(ConfigError) as caught:
        settings.load(source, overrides)
    message = str(caught.value)
    assert '\n' not in message
    return message

"""setup.cfg says by hand what is installed: held against the source tree."""
from __future__ import annotations

import configparser
import importlib

import pytest

from tests.paths import ROOT


@pytest.fixture(scope='module')
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'setup.cfg')
    return parser


def test_every_package_is_installed(setup: configparser.ConfigParser) -> None:
    sources = [path.relative_to(ROOT) for top in ('mrcnn_tf', 'data_tools') for path in (ROOT / top).rglob('*.py')]
    expected = {'.'.join(path.parent.parts) for path in sources} | {'mrcnn_tf.configs'}
    assert set(setup['options']['packages'].split()) == expected


def test_the_command_leads_to_a_function(setup: configparser.ConfigParser) -> None:
    name, target = setup['options.entry_points']['console_scripts'].strip().split(' = ')
    module, function = target.split(':')
    assert name == 'mrcnn' and callable(getattr(importlib.import_module(module), function))

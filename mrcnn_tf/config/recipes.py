"""The packaged configs: their names, and the summary that the header of each file gives."""
from __future__ import annotations

import itertools
import pathlib
import re
from typing import NamedTuple

from mrcnn_tf import files

# The end of a sentence: "eq. 1" and "vs. class-agnostic" are none.
_END = re.compile(r'\.\s+(?=[A-Z])|\.$')
_RESULT = re.compile(r'(Published|Measured)\b.*\d')


class Summary(NamedTuple):
    """What the header of a config says."""
    name: str
    title: str        # what it is: the first sentence
    result: str       # the published or measured number with its source: the first sentence that begins so; or ''

    def __str__(self) -> str:
        return f'{self.title}. {self.result}' if self.result else self.title


def packaged() -> list[str]:
    """Return the names of the packaged configs."""
    return sorted(path.stem for path in folder().glob('*.yaml'))


def folder() -> pathlib.Path:
    """Return `mrcnn_tf/configs` of an installation, or `configs` of a source tree."""
    package = pathlib.Path(__file__).resolve().parents[1]
    return package / 'configs' if (package / 'configs').is_dir() else package.parent / 'configs'


def summaries() -> list[Summary]:
    """Return the summary of each packaged config."""
    return [summary(name) for name in packaged()]


def summary(name: str) -> Summary:
    """Return the summary of a packaged config, from the prose of its header: commands in it are indented."""
    lines = files.read_text(folder() / f'{name}.yaml').splitlines()
    header = [line[1:] for line in itertools.takewhile(lambda line: line.startswith('#'), lines)]
    prose = ' '.join(line.strip() for line in header if not line.startswith('   ') and line.strip())
    sentences = [each for each in _END.split(prose) if each]
    return Summary(name, sentences[0], next(filter(_RESULT.match, sentences), ''))

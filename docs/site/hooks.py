"""What mkdocs does for this site besides its own work: the paths of pages, and the parts of pages that are generated.

Nothing here imports TensorFlow: settings are read from the schema, and mkdocstrings reads the sources without importing
them.
"""
from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import mrcnn_tf
from mrcnn_tf.config import recipes, reference

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PATTERNS = ('*.md', 'LICENSE', 'docs/**/*.md', 'docs/pictures/**/*.*', 'docs/notebooks/*.ipynb',
             'docs/site/*.css')
_MARK = re.compile(r'^<!-- generated: (\w+) -->$', re.MULTILINE)

# A list after a line of text: git hosts show it, and Python-Markdown needs a blank line between them.
_LIST = re.compile(r'^([A-Z][^\n]*:)\n(?=- )', re.MULTILINE)

# A setting in a page, with or without a value, that is not a link already.
_NAMES = sorted((setting.name for section in reference.sections() for setting in section.settings), reverse=True)
_SETTING = re.compile(rf'<code>({"|".join(map(re.escape, _NAMES))})(?:=[^< ]*)?</code>(?!</a>)')

# The headings of the API reference, by the package that defines a name.
_GROUPS = {'config': 'Settings', 'input': 'Data', 'layers': 'Layers', 'ops': 'Functions of tensors and arrays',
           'detectors': 'Detectors', 'cli': 'Training', 'weights': 'Model directories', 'evaluation': 'Evaluation',
           'serving': 'Export and prediction'}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the pages under their paths in the repository, so that links work here as on a git host."""
    paths = sorted({path.relative_to(_ROOT).as_posix() for pattern in _PATTERNS for path in _ROOT.glob(pattern)})
    config.nav = [*(config.nav or []), *_more(paths, set(_leaves(config.nav)))]
    own = [File(path, str(_ROOT), config.site_dir, config.use_directory_urls) for path in paths]
    return Files([*own, *(file for file in files if file.src_dir != config.docs_dir)])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with blank lines before lists, and each `<!-- generated: NAME -->` replaced by what it names."""
    return _MARK.sub(lambda mark: _generated(mark[1]), _LIST.sub(r'\1\n\n', markdown))


def on_page_content(html: str, page: Page, files: Files, **_: Any) -> str:
    """Return the page with each setting in its text, such as `data.batch_size=2`, linked to its description."""
    table = files.get_file_from_path('docs/configuration.md')
    if table is None or page.file is table:
        return html
    target = table.url_relative_to(page.file)
    return _SETTING.sub(lambda code: f'<a href="{target}#{code[1]}">{code[0]}</a>', html)


def _more(paths: list[str], listed: set[str]) -> list[dict[str, list[str]]]:
    """Return a section of the navigation with the pages that mkdocs.yml does not list, if there are any."""
    others = [path for path in paths if path.endswith('.md') and path not in listed]
    return [{'More': others}] if others else []


def _leaves(nav: Any) -> Iterator[str]:
    """Yield the paths of a navigation."""
    if isinstance(nav, str):
        yield nav
    for each in (nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()):
        yield from _leaves(each)


def _generated(name: str) -> str:
    parts = {'settings': _settings, 'recipes': _recipes, 'api': _api}
    if name not in parts:
        raise PluginError(f'<!-- generated: {name} -->: expected one of {", ".join(parts)}')
    return parts[name]()


def _settings() -> str:
    """Return the tables of all settings, one per section of the config."""
    lines = [f'*Abbreviations:* {reference.legend()}']
    for section in reference.sections():
        lines += ['', f'## `{section.name}`', '', _html(section.description), '',
                  '| setting | values | default | meaning |', '|---|---|---|---|']
        lines += [f'| `{each.name}`{{#{each.name}}} | {_values(each)} | `{_yaml(each.default)}` | '
                  f'{_cell(each.description)} |' for each in section.settings]
    return '\n'.join(lines)


def _recipes() -> str:
    """Return the table of all packaged configs."""
    lines = [f'| `{each.name}` | {_cell(each.title)} | {_cell(each.result)} |' for each in recipes.summaries()]
    return '\n'.join(['| config | what it is | result |', '|---|---|---|', *lines])


def _api() -> str:
    """Return mkdocstrings' directive for each public name, in groups."""
    lines, unknown = [], {path.split('.')[0] for path in mrcnn_tf._EXPORTS.values()} - set(_GROUPS)
    if unknown:
        raise PluginError(f'mrcnn_tf exports names of {", ".join(unknown)}; give each a heading in _GROUPS')
    for package, title in _GROUPS.items():
        lines += ['', f'## {title}']
        for name, path in mrcnn_tf._EXPORTS.items():
            if path.split('.')[0] == package:
                settings = path.startswith('config.') and name[0].isupper()      # listed in docs/configuration.md
                lines += ['', f'::: mrcnn_tf.{path}', '    options:', f'      heading: {name}',
                          f'      toc_label: {name}', *(['      members: false'] if settings else [])]
    return '\n'.join(lines)


def _values(setting: reference.Setting) -> str:
    """Return the type and permitted values of a setting; choices need no type."""
    choices = setting.type == 'str' and setting.values
    return _cell(setting.values if choices else ', '.join(filter(None, (
        setting.type.replace('None', 'null'), setting.values))))


def _yaml(value: Any) -> str:
    """Return a value as it is written in a config."""
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return _html(text).replace('|', '&#124;').replace('\n', ' ')


def _html(text: str) -> str:
    """Return prose with the characters that Markdown would interpret escaped, except backticks."""
    return re.sub(r'([\\*_\[\]<>])', r'\\\1', text)

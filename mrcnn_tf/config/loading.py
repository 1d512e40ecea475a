"""Loading of configs from YAML files and `key=value` overrides, and saving. Errors name the file and the field.

A layer is what one file or one override sets: nested dicts of keys. Its origin names it in error messages.
"""
from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import io
import json
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from mrcnn_tf import files
from mrcnn_tf.config import recipes
from mrcnn_tf.config.checking import validate
from mrcnn_tf.config.fields import ConfigError
from mrcnn_tf.config.schema import Config, ModelConfig
from mrcnn_tf.files.text import error_line, one_line

_NO_KEYS = 'expected keys such as "solver:" at the top'
_REFERENCE = re.compile(r'\$\{[\w.\[\]]+\}')     # a reference to another key, such as ${data.train}


def load(source: str | pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """Return the validated config of a YAML file on top of its `base` files, with `key=value` overrides on top.

    Args:
        source: a path, or the name of a packaged config, such as 'nuclei_r18_fpn'.
        overrides: such as 'solver.steps=1000', with lists as in 'data.short_sides=[384]'.

    Raises:
        ConfigError: a file is missing or unreadable, a key is unknown, a value has the wrong type or is out of range.

    Example:
        >>> import mrcnn_tf as m
        >>> m.load_config('nuclei_r18_fpn', ['data.batch_size=2']).data.batch_size
        2
    """
    merged = copy.deepcopy(_defaults())
    layers, changes = _layers(_find(source)), [*map(_override, overrides)]
    for origin, layer in layers:
        _apply(merged, layer, Config, '', origin)
        _choose_length(merged, [(origin, layer)])
    # A file without a base may be a saved config, which sets all keys.
    _check_masks(_checked_kind(merged, source), layers[1:][-1:])
    for origin, layer in changes:
        _apply(merged, layer, Config, '', origin)
    _choose_length(merged, changes)
    config = _checked(merged, source)
    _check_masks(config.model.kind, changes)
    for each in filter(None, (config.alternating.rpn, config.alternating.fast_rcnn)):
        changed(config, each)
    return config


@functools.cache
def _defaults() -> DictConfig:
    """Return the default config. Copy it: a copy takes a fifth of the time of making it from the dataclasses."""
    return OmegaConf.structured(Config)


def _checked_kind(merged: DictConfig, source: str | pathlib.Path) -> str:
    try:
        return str(merged.model.kind)
    except OmegaConfBaseException as error:                 # a reference to a key of another type
        raise ConfigError(f'{source}: {error.full_key}: {one_line(_reason(error), 300)}') from None


def chosen(source: str | pathlib.Path, overrides: Sequence[str] = ()) -> set[str]:
    """Return the dotted names of the settings that a user's files and overrides set, not a packaged config.

    Args:
        source, overrides: as for `load`, which has accepted them.
    """
    packaged = recipes.folder().resolve()
    own = [layer for origin, layer in _layers(_find(source)) if pathlib.Path(origin).resolve().parent != packaged]
    layers = [*own, *(layer for _, layer in map(_override, overrides))]
    return {name for layer in layers for name, _ in _leaves(layer, '')}


def own_settings(name: str, sections: Collection[str]) -> list[str]:
    """Return the `key=value` settings that the file of a packaged config itself has in some sections."""
    layer = _layers(_find(name))[-1][1]
    return [f'{key}={json.dumps(value)}' for section in sections if section in layer
            for key, value in _leaves(layer[section], f'{section}.')]


def _leaves(layer: dict[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in layer.items():
        yield from _leaves(value, f'{prefix}{key}.') if isinstance(value, dict) else [(f'{prefix}{key}', value)]


def changed(config: Config, overrides: Sequence[str]) -> Config:
    """Return a validated copy of a config with `key=value` overrides on top.

    Raises:
        ConfigError: as `load`.
    """
    merged, changes = OmegaConf.structured(config), [*map(_override, overrides)]
    for origin, layer in changes:
        _apply(merged, layer, Config, '', origin)
    _choose_length(merged, changes)
    return _checked(merged, 'overrides')


def model_config(values: dict[str, Any]) -> ModelConfig:
    """Return a `model` section from nested plain values, such as `dataclasses.asdict` gives."""
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), values)
    section = OmegaConf.to_object(merged)
    assert isinstance(section, ModelConfig)
    return section


def save(config: Config, path: str | pathlib.Path) -> None:
    """Write a config atomically as YAML that sets every key; `load` returns an equal config."""
    with files.atomic_path(path) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding='utf-8')


def _checked(merged: DictConfig, source: str | pathlib.Path) -> Config:
    try:
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:                 # a reference, ${...}, to a missing key
        raise ConfigError(f'{source}: {error.full_key}: {_reason(error)}') from None
    validate(config)
    return config


def _find(source: str | pathlib.Path, folder: pathlib.Path | None = None) -> pathlib.Path:
    """Return the path of `source`, which is relative to `folder` or else the name of a packaged config."""
    path = (folder or pathlib.Path()) / source
    if os.path.isfile(path):          # not Path.is_file, which raises for a name that is too long
        return path
    named = recipes.folder() / f'{pathlib.Path(source).name.removesuffix(".yaml")}.yaml'
    if len(pathlib.Path(source).parts) == 1 and os.path.isfile(named):
        return named
    close = difflib.get_close_matches(str(source), recipes.packaged(), 1, 0.6)
    hint = f'did you mean {close[0]}?' if close else 'give a YAML file or a name that `mrcnn configs` lists'
    raise ConfigError(f'no config {one_line(str(source), 200)}; {hint}')


def _layers(path: pathlib.Path, seen: Sequence[pathlib.Path] = ()) -> list[tuple[str, dict[Any, Any]]]:
    """Return (origin, layer) of each file, from the last `base` to `path` itself.

    A `base` is relative to the file that names it. `seen` are the files that led to this one.
    """
    if path.resolve() in seen:
        raise ConfigError(f'{path}: its base files form a circle; remove one of their "base:" lines')
    layer = _read(path)
    base = layer.pop('base', None)
    if base is None:
        return [(str(path), layer)]
    try:
        base_path = _find(str(base), path.parent)
    except ConfigError as error:
        raise ConfigError(f'{path}: base: {error}') from None
    return [*_layers(base_path, (*seen, path.resolve())), (str(path), layer)]


def _read(path: pathlib.Path) -> dict[Any, Any]:
    try:
        layer = OmegaConf.to_container(OmegaConf.load(io.StringIO(files.read_text(path))))
        repr(layer)      # raises ValueError for an int of thousands of digits, which no message could show
    except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f'{path}: {_reason(error)}') from None
    if not isinstance(layer, dict):
        raise ConfigError(f'{path}: {_NO_KEYS}')
    _check_references(layer, str(path))
    return layer


def _check_references(value: Any, origin: str) -> None:
    """Raise ConfigError for an OmegaConf resolver, such as ${oc.env:NAME}: environment variables may hold secrets."""
    for text in _texts(value):
        if '${' in _REFERENCE.sub('', text):
            raise ConfigError(f'{origin}: "{one_line(text, 100)}" is not a reference to another key, such as '
                              '${data.train}; write the value itself, or give it on the command line: '
                              'data.train=$HOME/train.json')


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts(each)


def _override(text: str) -> tuple[str, dict[Any, Any]]:
    """Return (origin, layer) of an override such as 'solver.steps=1000'."""
    origin = f'override {one_line(repr(text), 200)}'
    key, equals, value = text.partition('=')
    parts = key.split('.')
    if not equals or not all(part.isidentifier() for part in parts):
        raise ConfigError(f'{origin}: expected key=value, such as solver.steps=1000')
    try:
        layer = cast(dict[Any, Any], OmegaConf.to_container(OmegaConf.from_dotlist([f'{parts[-1]}={value}'])))
        repr(layer)      # as above
    except (ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f'{origin}: {_reason(error)}') from None
    _check_references(layer, origin)
    for part in reversed(parts[:-1]):
        layer = {part: layer}
    return origin, layer


def _apply(config: DictConfig, layer: dict[Any, Any], schema: Any, prefix: str, origin: str) -> None:
    """Merge `layer` into `config`, a section whose dataclass is `schema`."""
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key, value in layer.items():
        if key not in fields:
            raise ConfigError(f'{origin}: unknown key {prefix}{one_line(key, 60)}; '
                              f'{_nearest(str(key)[:60], list(fields), prefix)}')
        inner: Any = fields[key].default_factory
        if not dataclasses.is_dataclass(inner):
            _set(config, fields[key], value, prefix, origin)
        elif isinstance(value, dict):
            _apply(config[key], value, inner, f'{prefix}{key}.', origin)
        else:
            raise ConfigError(f'{origin}: {prefix}{key} is {one_line(repr(value), 200)}: expected a section of keys')


def _choose_length(config: DictConfig, layers: Sequence[tuple[str, dict[Any, Any]]]) -> None:
    """Let solver.steps or solver.epochs apply, whichever the layers give that were merged into `config` together."""
    given: dict[str, Any] = {}
    for origin, layer in layers:
        given.update((key, value) for key, value in (layer.get('solver') or {}).items() if value is not None)
        if 'steps' in given and 'epochs' in given:
            raise ConfigError(f'{origin}: solver.steps and solver.epochs are both given; give one of them')
    if 'steps' in given:
        config.solver.epochs = None
    elif 'epochs' in given and 'milestones' in given:
        config.solver.steps = config.solver.epochs    # milestones are in the unit of `steps`, here epochs


def _check_masks(kind: str, layers: Sequence[tuple[str, dict[Any, Any]]]) -> None:
    """Raise ConfigError for a layer that sets model.mask_head although the model has no mask head."""
    for origin, layer in layers:
        if kind != 'mask_rcnn' and 'mask_head' in layer.get('model', {}):
            raise ConfigError(f'{origin}: model.mask_head is set and model.kind is {kind}, which has no mask head; '
                              'set model.kind=mask_rcnn or remove model.mask_head')


def _set(config: DictConfig, known: dataclasses.Field[Any], value: Any, prefix: str, origin: str) -> None:
    if 'on' in known.metadata.get('choices', ()) and isinstance(value, bool):
        value = 'on' if value else 'off'                    # YAML reads on and off as booleans
    # OmegaConf accepts a list within a flat list, and fails later.
    fits = 'list[list' in str(known.type) or not _nests(value)
    try:
        OmegaConf.update(config, known.name, value)
    except OmegaConfBaseException:
        fits = False
    if not fits:
        raise ConfigError(f'{origin}: {prefix}{known.name} is {one_line(repr(value), 200)}: expected {known.type}')


def _nests(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, list | dict) for each in value)


def _nearest(key: str, names: Sequence[str], prefix: str) -> str:
    """Return a hint for an unknown key: the same name in another section, a similar or else all names in this one."""
    close = _elsewhere(key) or [prefix + name for name in difflib.get_close_matches(key, names, 1, 0.5)]
    return f'did you mean {" or ".join(close)}?' if close else f'valid: {", ".join(prefix + name for name in names)}'


def _elsewhere(name: str, schema: Any = Config, prefix: str = '') -> list[str]:
    """Return the dotted names of all fields called `name` in the schema."""
    names = []
    for f in dataclasses.fields(schema):
        inner: Any = f.default_factory
        if f.name == name:
            names.append(prefix + name)
        if dataclasses.is_dataclass(inner):
            names += _elsewhere(name, inner, f'{prefix}{f.name}.')
    return names


def _reason(error: BaseException) -> str:
    """Return the reason of an error as one line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f'line {error.problem_mark.line + 1}: {error.problem}'
    if isinstance(error, OSError):
        return error.strerror or _NO_KEYS        # OmegaConf raises an OSError without strerror for a bare number
    return error_line(error)

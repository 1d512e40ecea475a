"""Weights that others published, or an own model's -> a model directory that is one like any of ours."""
from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence

from mrcnn_tf import config as configuration
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.files.text import one_line
from mrcnn_tf.input.manifest import Category, Manifest
from mrcnn_tf.weights import coco, detectron2, files, keras_applications, rules, torchvision
from mrcnn_tf.weights.classes import class_map, read_map
from mrcnn_tf.weights.model_directory import restore_model, save_imported
from mrcnn_tf.weights.rules import ClassMap, Line, Rule, WeightsError

FRAMEWORKS = {'torchvision': torchvision, 'detectron2': detectron2}
PathLike = str | os.PathLike[str]


def import_file(framework: str, path: PathLike, output: PathLike, classes: PathLike | None = None,
                overrides: Sequence[str] = (), names: PathLike | None = None,
                note: Callable[[str], object] = lambda line: None) -> list[Line]:
    """Makes a model directory of a file with the weights of a Faster or Mask R-CNN, in the dialect of its framework.

    Args:
        framework: 'torchvision' or 'detectron2'.
        path: .pth, .safetensors, .npz or .pkl.
        output: the directory, which must not exist.
        classes: a manifest or a number: the predictors get these classes and start fresh.
        overrides: 'key=value' on top of the config that the weights call for.
        names: a map of classes, as `read_map` takes it: those of `classes` that begin as classes of the weights.
        note: called with a line where the file does not say a setting and `overrides` do not either.

    Returns:
        The report, a line for each variable of the model.

    Raises:
        WeightsError, PickleError, ManifestError: the file, or the weights beside the classes, cannot be used.
        OSError: the directory exists, the disk is full. Nothing is written then.
    """
    state = files.read(path)
    try:
        source, found = FRAMEWORKS[framework].settings(state)
        epsilon = configuration.load(source, [*found, *overrides]).model.backbone.norm_epsilon
        if vanishing := rules.vanishing_variance(state, epsilon):
            remedy = 'set it to 1e-5' if epsilon < 1e-5 else 'the file is damaged'
            raise WeightsError(f'with model.backbone.norm_epsilon={epsilon:g}, {vanishing}; {remedy}')
        model, config, categories = _model(source, [*found, *overrides], classes)
        published = configuration.load(source, found).model
        if config.model.kind != published.kind:
            raise WeightsError(f'model.kind is {config.model.kind}: expected {published.kind}, which the file has the '
                               'weights of')
        known = coco.categories(published.num_classes)
        report = FRAMEWORKS[framework].load_state_dict(model, state, _beginnings(categories, known, classes, names))
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}') from None
    save_imported(pathlib.Path(output), model, config, categories)
    chosen = any(each.startswith('model.backbone.norm_epsilon=') for each in overrides)
    if framework == 'torchvision' and not chosen and (line := torchvision.epsilon_note(state)):
        note(line)
    return report


def import_model(directory: PathLike, output: PathLike, classes: PathLike | None = None,
                 overrides: Sequence[str] = (), names: PathLike | None = None) -> list[Line]:
    """Makes a model directory of the newest weights of another, to be trained on other classes.

    Args:
        directory: what `mrcnn train` wrote.
        output, classes, overrides, names: as `import_file`.

    Raises:
        CheckpointError, ConfigError, ManifestError, WeightsError: the directory, or it beside the classes, cannot be
            used.
        OSError: the directory exists, the disk is full. Nothing is written then.
    """
    trained, _, known = restore_model(directory)
    state = {rules.variable_path(weight): rules.variable_value(weight) for weight in trained.weights}
    model, config, categories = _model(pathlib.Path(directory) / 'config.yaml',
                                       ['model.backbone.weights=none', *overrides], classes, known)
    filled = [Rule(weight, rules.variable_path(weight), rules.SAME) for weight in model.weights]
    try:
        report = rules.fill_detector(model, filled, state, _beginnings(categories, known, classes, names))
    except WeightsError as error:
        raise WeightsError(f'{directory}: {error}') from None
    save_imported(pathlib.Path(output), model, config, categories)
    return report


def import_imagenet(name: str, output: PathLike, classes: PathLike | None = None,
                    overrides: Sequence[str] = ()) -> list[Line]:
    """Makes a model directory whose backbone has the ImageNet weights of keras.applications; the rest starts fresh.

    Args:
        name: of the backbone: resnet50, resnet101, vgg16, inception_resnet_v2.
        output, classes, overrides: as `import_file`.

    Raises:
        WeightsError, ManifestError: no such weights, or they cannot be fetched.
        OSError: the directory exists, the disk is full. Nothing is written then.
    """
    source, found = keras_applications.settings(name)
    model, config, categories = _model(source, [*found, *overrides], classes)
    report = keras_applications.load_imagenet(model)
    save_imported(pathlib.Path(output), model, config, categories)
    return report


def _model(source: str | pathlib.Path, overrides: Sequence[str], classes: PathLike | None,
           known: Sequence[Category] | None = None) -> tuple[Detector, Config, list[Category]]:
    config = configuration.load(source, overrides)
    if classes is not None:
        categories = _categories(classes)
    else:
        categories = coco.categories(config.model.num_classes) if known is None else list(known)
    config.model.num_classes = len(categories)
    configuration.validate(config)
    return build_detector(config.model), config, categories


def _categories(classes: PathLike) -> list[Category]:
    if str(classes).isdecimal():
        return coco.categories(int(str(classes)))
    return list(Manifest.read(classes).categories)


def _beginnings(categories: Sequence[Category], known: Sequence[Category], classes: PathLike | None,
                names: PathLike | None) -> ClassMap | None:
    if classes is None and names is not None:
        raise WeightsError(f'the map of classes {names} needs classes to map; give --classes NAME.json too')
    if names is not None:
        return class_map(categories, known, read_map(names))
    return None if classes is None else ClassMap((None,) * len(categories), '')


def table(report: Sequence[Line]) -> str:
    """The report as text: of each variable theirs, ours, shape, smallest, largest, L2 norm and what was changed."""
    rows = [(line.source or '-', line.ours, 'x'.join(map(str, line.shape)) or 'scalar', f'{line.least:.4g}',
             f'{line.largest:.4g}', f'{line.norm:.5g}', line.change) for line in report]
    heading = ('theirs', 'ours', 'shape', 'min', 'max', 'norm', 'changed')
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading) - 1)]
    lines = ['  '.join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
             for row in [heading, *rows]]
    fresh = [line.ours for line in report if not line.source]
    filled = f'{len(report) - len(fresh)} of {len(report)} variables filled'
    return '\n'.join([*map(one_line, lines), f'{filled}; fresh: {", ".join(fresh)}' if fresh else filled])

"""Import of published weights, or those of an own model, into a new model directory."""
from __future__ import annotations

import logging
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

_log = logging.getLogger(__name__)

FRAMEWORKS = {'torchvision': torchvision, 'detectron2': detectron2}
PathLike = str | os.PathLike[str]


def import_file(framework: str, path: PathLike, output: PathLike, classes: PathLike | None = None,
                overrides: Sequence[str] = (), names: PathLike | None = None,
                note: Callable[[str], object] = lambda line: None) -> list[Line]:
    """Import a weight file of a Faster or Mask R-CNN, with the dialect of its framework, and return the report.

    Args:
        framework: 'torchvision' or 'detectron2'.
        path: .pth, .safetensors, .npz or .pkl.
        output: the directory, which must not exist.
        classes: a manifest, or a number of classes: the predictors are initialized at random for these classes.
        overrides: 'key=value' settings on top of the config of the weights.
        names: a map of classes, as for `read_map`: the classes of `classes` that are initialized from the weights.
        note: called with one line if neither the file nor `overrides` determine a setting.

    Returns:
        One line for each variable of the model.

    Raises:
        WeightsError, PickleError, ManifestError: the file or the classes cannot be used, or do not fit each other.
        OSError: the directory exists or the disk is full. Nothing is written.

    Example:
        >>> import mrcnn_tf as m
        >>> report = m.import_weights('torchvision', 'weights.npz', 'runs/imported',
        ...                           overrides=['model.box_head.width=16'])
        >>> report[0].source, report[0].shape
        ('backbone.body.conv1.weight', (7, 7, 3, 64))
    """
    state = files.read(path)
    try:
        source, settings = FRAMEWORKS[framework].settings(state)
        epsilon = configuration.load(source, [*settings, *overrides]).model.backbone.norm_epsilon
        if vanishing := rules.vanishing_variance(state, epsilon):
            remedy = 'set it to 1e-5' if epsilon < 1e-5 else 'the file is damaged'
            raise WeightsError(f'with model.backbone.norm_epsilon={epsilon:g}, {vanishing}; {remedy}')
        model, config, categories = _model(source, [*settings, *overrides], classes)
        published = configuration.load(source, settings).model
        if config.model.kind != published.kind:
            raise WeightsError(f'model.kind is {config.model.kind}: expected {published.kind}, the model of the '
                               'file')
        known = coco.categories(published.num_classes)
        report = FRAMEWORKS[framework].load_state_dict(model, state, _class_map(categories, known, classes, names))
    except WeightsError as error:
        raise WeightsError(f'{path}: {error}') from None
    _warn_of_zeros(path, report)
    save_imported(pathlib.Path(output), model, config, categories)
    chosen = any(each.startswith('model.backbone.norm_epsilon=') for each in overrides)
    if framework == 'torchvision' and not chosen and (line := torchvision.epsilon_note(state)):
        note(line)
    return report


def import_model(directory: PathLike, output: PathLike, classes: PathLike | None = None,
                 overrides: Sequence[str] = (), names: PathLike | None = None) -> list[Line]:
    """Import the weights of a model directory, for training on other classes, and return the report.

    Args:
        directory: a model directory of `mrcnn train`; its best checkpoint is used, see `restore_model`.
        output, classes, overrides, names: as `import_file`.

    Raises:
        CheckpointError, ConfigError, ManifestError, WeightsError: the directory or the classes cannot be used.
        OSError: the output directory exists or the disk is full. Nothing is written.
    """
    trained, _, known = restore_model(directory)
    state = {rules.variable_path(weight): rules.variable_value(weight) for weight in trained.weights}
    model, config, categories = _model(pathlib.Path(directory) / 'config.yaml',
                                       ['model.backbone.weights=none', *overrides], classes, known)
    filled = [Rule(weight, rules.variable_path(weight), rules.SAME) for weight in model.weights]
    try:
        report = rules.fill_detector(model, filled, state, _class_map(categories, known, classes, names))
    except WeightsError as error:
        raise WeightsError(f'{directory}: {error}') from None
    _warn_of_zeros(directory, report)
    save_imported(pathlib.Path(output), model, config, categories)
    return report


def import_imagenet(name: str, output: PathLike, classes: PathLike | None = None,
                    overrides: Sequence[str] = ()) -> list[Line]:
    """Make a model directory with the ImageNet weights of a backbone, and return the report.

    All other weights are initialized at random.

    Args:
        name: the backbone: resnet50, resnet101, vgg16, inception_resnet_v2.
        output, classes, overrides: as `import_file`.

    Raises:
        WeightsError, ManifestError: there are no such weights, or the download failed.
        OSError: the directory exists or the disk is full. Nothing is written.
    """
    source, settings = keras_applications.settings(name)
    model, config, categories = _model(source, [*settings, *overrides], classes)
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


def _class_map(categories: Sequence[Category], known: Sequence[Category], classes: PathLike | None,
                names: PathLike | None) -> ClassMap | None:
    if classes is None and names is not None:
        raise WeightsError(f'the map of classes {names} needs the classes of the data; give --classes NAME.json too')
    if names is not None:
        return class_map(categories, known, read_map(names))
    return None if classes is None else ClassMap((None,) * len(categories), '')


def _warn_of_zeros(path: PathLike, report: Sequence[Line]) -> None:
    """Log a warning if imported kernels hold only zeros, as those of a file that was never filled do."""
    kernels = [line for line in report if line.source and len(line.shape) > 1]
    zeros = [line.source for line in kernels if line.least == line.largest == 0]
    if zeros:
        _log.warning('%s: %d of %d kernels hold only zeros, such as %s; give the weights as trained', path, len(zeros),
                     len(kernels), zeros[0])


def table(report: Sequence[Line]) -> str:
    """Return the report as a text table: parameter, variable, shape, minimum, maximum, L2 norm and conversion."""
    rows = [(line.source or '-', line.ours, 'x'.join(map(str, line.shape)) or 'scalar', f'{line.least:.4g}',
             f'{line.largest:.4g}', f'{line.norm:.5g}', line.change) for line in report]
    heading = ('theirs', 'ours', 'shape', 'min', 'max', 'norm', 'changed')
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading) - 1)]
    lines = ['  '.join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
             for row in [heading, *rows]]
    fresh = [line.ours for line in report if not line.source]
    filled = f'{len(report) - len(fresh)} of {len(report)} variables filled'
    summary = f'{filled}; initialized at random: {", ".join(fresh)}' if fresh else filled
    return '\n'.join([*map(one_line, lines), summary])

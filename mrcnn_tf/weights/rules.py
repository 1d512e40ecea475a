"""Rules that map the parameters of published weights to the variables of our models, and the import report.

A rule names a variable, the parameter that fills it, and the conversion between their layouts. h, w: height and width
of a kernel. "Theirs" is the framework of the weights.
"""
from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from mrcnn_tf.detectors.detector import Detector
from mrcnn_tf.layers.normalization import ConvNorm

State = Mapping[str, np.ndarray]


class WeightsError(ValueError):
    """Weights that do not fit the model; the message is one line that names the file or the parameter."""


class Convert(NamedTuple):
    """A conversion of a parameter to our layout."""
    change: str      # its description in the report
    apply: Callable[[np.ndarray], np.ndarray]

    def __call__(self, value: np.ndarray) -> np.ndarray:
        return self.apply(value)

    def then(self, following: Convert) -> Convert:
        """Return the conversion that applies this one first, then `following`."""
        changes = [change for change in (self.change, following.change) if change]
        return Convert('; '.join(changes), lambda value: following(self(value)))


class Rule(NamedTuple):
    """A variable of ours, the name of the parameter that fills it, and the conversion."""
    variable: Any
    name: str
    convert: Convert


class ClassMap(NamedTuple):
    """The classes of the weights whose predictors initialize the classes of the model."""
    labels: tuple[int | None, ...]      # by class of the model; None: initialized at random
    change: str                         # its description in the report


class Line(NamedTuple):
    """One variable in the report."""
    source: str      # name of the parameter; empty if the variable is initialized at random
    ours: str        # path of the variable
    shape: tuple[int, ...]
    change: str
    least: float
    largest: float
    norm: float      # L2


SAME = Convert('', lambda value: value)
# From [out, in, h, w]. For a transposed convolution, from [in, out, h, w] to Keras' [h, w, out, in].
KERNEL = Convert('transposed to h, w, in, out', lambda weight: weight.transpose(2, 3, 1, 0))
DENSE = Convert('transposed to in, out', np.transpose)
# Groups of four rows, dx, dy, dw, dh, become dy, dx, dh, dw.
YX = Convert('y before x', lambda rows: rows.reshape(-1, 4, *rows.shape[1:])[:, [1, 0, 3, 2]].reshape(rows.shape))


def channels_last(side: int) -> Convert:
    """Return the conversion of a dense layer after a feature map that is flattened channel first.

    [out, channels * side * side] -> [side * side * channels, out].
    """
    def convert(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(len(weight), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(weight))

    return Convert('flattened row, column, channel; transposed to in, out', convert)


def biased(layer: Any, name: str, kernel: Convert, bias: Convert = SAME) -> Iterator[Rule]:
    """Yield the rules of a convolution or dense layer with a bias, whose parameters have PyTorch's names."""
    yield Rule(layer.kernel, f'{name}.weight', kernel)
    yield Rule(layer.bias, f'{name}.bias', bias)


def conv_norm(layer: ConvNorm, conv: str, norm: str) -> Iterator[Rule]:
    """Yield the rules of a convolution and its normalization, or its bias if there is none, with PyTorch's names."""
    if layer.norm is None:
        yield from biased(layer.conv, conv, KERNEL)
        return
    yield Rule(layer.conv.kernel, f'{conv}.weight', KERNEL)
    fields = ('gamma', 'weight'), ('beta', 'bias'), ('moving_mean', 'running_mean'), ('moving_variance', 'running_var')
    for ours, theirs in fields:
        if hasattr(layer.norm, ours):                  # group normalization has no statistics
            yield Rule(getattr(layer.norm, ours), f'{norm}.{theirs}', SAME)


def predictors(model: Detector) -> list[Any]:
    """Return the variables whose shapes depend on the number of classes."""
    layers = [layer for head in model.box.heads for layer in (head.classes, head.deltas)]
    layers += [branch.head.masks for branch in model.branches]
    return [variable for layer in layers for variable in layer.weights]


def fill_detector(model: Detector, rules: Sequence[Rule], state: State, classes: ClassMap | None = None,
                  unused: str = r'$^') -> list[Line]:
    """Fill a model as `fill` does. With `classes`, the predictors take the columns of the mapped classes only."""
    if classes is not None and any(classes.labels) and not model.classifies:
        raise WeightsError('an RPN does not predict classes; remove the map of classes')
    if classes is None or not model.classifies:
        return fill(rules, state, unused=unused)
    if not any(classes.labels):
        return fill(rules, state, predictors(model), unused)
    columns = _columns(model, classes.labels)
    return fill([_by_class(rule, columns, classes.change) for rule in rules], state, unused=unused)


def _columns(model: Detector, labels: Sequence[int | None]) -> dict[int, np.ndarray]:
    """Return the column of the weights for each column of a predictor, by the variable's id; -1: none."""
    scores = np.array([0, *(label or -1 for label in labels)])                   # column 0 is the background
    objects = np.where(scores[1:] < 0, -1, scores[1:] - 1)
    boxes = np.where(objects[:, None] < 0, -1, 4 * objects[:, None] + np.arange(4)).ravel()
    chosen = [(head.classes, scores) for head in model.box.heads]
    if not model.settings.box_head.class_agnostic:
        chosen += [(head.deltas, boxes) for head in model.box.heads]
    if not model.settings.mask_head.class_agnostic:
        mask_columns = scores if model.settings.mask_head.classifier == 'softmax' else objects
        chosen += [(branch.head.masks, mask_columns) for branch in model.branches]
    return {id(variable): columns for layer, columns in chosen for variable in layer.weights}


def _by_class(rule: Rule, columns: Mapping[int, np.ndarray], change: str) -> Rule:
    chosen = columns.get(id(rule.variable))
    if chosen is None:
        return rule

    def take(value: np.ndarray) -> np.ndarray:
        taken = value[..., chosen]
        taken[..., chosen < 0] = variable_value(rule.variable)[..., chosen < 0]
        return taken

    return rule._replace(convert=rule.convert.then(Convert(change, take)))


def fill(rules: Sequence[Rule], state: State, fresh: Collection[Any] = (), unused: str = r'$^') -> list[Line]:
    """Assign the parameters to the variables of the rules, and return the report, one line per rule.

    Args:
        fresh: variables that keep their values.
        unused: pattern of the names of parameters that no model needs.

    Raises:
        WeightsError: a parameter is missing, unused, of another shape or not finite. No variable has changed.
    """
    kept = {id(variable) for variable in fresh}
    values = [variable_value(rule.variable) if id(rule.variable) in kept else _converted(rule, state) for rule in rules]
    known = {rule.name for rule in rules}
    left = [name for name in state if name not in known and not re.search(unused, name)]
    if left:
        raise WeightsError(f'the model does not use {len(left)} parameters, such as {left[0]}')
    lines = []
    for rule, value in zip(rules, values, strict=True):
        if id(rule.variable) not in kept:
            rule.variable.assign(value)
        lines.append(_line(rule, value, id(rule.variable) in kept))
    return lines


def vanishing_variance(state: State, epsilon: float) -> str:
    """Return a message about the first running variance that is 0 in float32 with this epsilon, or ''."""
    smallest = np.finfo(np.float32).tiny              # TensorFlow's kernels flush smaller numbers to 0
    for name, value in state.items():
        vanish = int((np.asarray(value, np.float32) + np.float32(epsilon) < smallest).sum()) if name.endswith(
            'running_var') else 0
        if vanish:
            return f'{vanish} of {np.size(value)} channels of {name} would be divided by 0'
    return ''


def _converted(rule: Rule, state: State) -> np.ndarray:
    if rule.name not in state:
        near = difflib.get_close_matches(rule.name, list(state), 1, 0)
        raise WeightsError(f'no parameter {rule.name}' + (f'; the nearest name is {near[0]}' if near else ''))
    if not _is_floating(state[rule.name]):
        raise WeightsError(f'{rule.name} contains {np.asarray(state[rule.name]).dtype}, not floating-point numbers; '
                           'give the weights as trained, not quantized')
    given, shape = np.asarray(state[rule.name], np.float32), tuple(rule.variable.shape)
    try:
        value = rule.convert(given)
    except (ValueError, IndexError):                   # the parameter has fewer axes or rows than the conversion needs
        value = None
    if value is None or tuple(value.shape) != shape:
        change = f', {rule.convert.change},' if rule.convert.change else ''
        raise WeightsError(f'{rule.name} has the shape {list(given.shape)}, which{change} does not fit {list(shape)} '
                           f'of {variable_path(rule.variable)}')
    if not np.isfinite(value).all():
        raise WeightsError(f'{rule.name} contains values that are not finite')
    return value


def _is_floating(value: np.ndarray) -> bool:
    dtype = np.asarray(value).dtype
    return dtype.kind == 'f' or dtype.name == 'bfloat16'      # numpy does not know bfloat16 as a float


def _line(rule: Rule, value: np.ndarray, fresh: bool) -> Line:
    source, change = ('', 'initialized at random') if fresh else (rule.name, rule.convert.change)
    flat = value.ravel()
    square = np.einsum('i,i', flat, flat, dtype=np.float64)      # without a float64 copy of the parameter
    return Line(source, variable_path(rule.variable), tuple(value.shape), change, float(flat.min()), float(flat.max()),
                float(np.sqrt(square)))


def variable_path(variable: Any) -> str:
    """Return the path of a variable, such as 'backbone/fpn/lateral2/conv/kernel', on Keras 2 and 3."""
    return str(variable.path) if hasattr(keras, 'Variable') else variable.name.split(':')[0]


def variable_value(variable: Any) -> np.ndarray:
    """Return the value of a variable as float32."""
    return np.asarray(variable.numpy(), np.float32)

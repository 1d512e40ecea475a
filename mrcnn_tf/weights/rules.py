"""What all importers share: which foreign parameter fills which variable of ours, and the report of what was done.

h, w height and width of a kernel; K classes without background.
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
    """Weights that do not fit the model; one line that names the file or the parameter."""


class Convert(NamedTuple):
    """What turns a parameter of theirs into ours, and how the report calls it."""
    change: str
    apply: Callable[[np.ndarray], np.ndarray]

    def __call__(self, value: np.ndarray) -> np.ndarray:
        return self.apply(value)

    def then(self, following: Convert) -> Convert:
        """This, then the other."""
        changes = [change for change in (self.change, following.change) if change]
        return Convert('; '.join(changes), lambda value: following(self(value)))


class Rule(NamedTuple):
    """A variable of ours, their name for it, and what turns theirs into ours."""
    variable: Any
    name: str
    convert: Convert


class ClassMap(NamedTuple):
    """For each class of a model the label of the weights' class that it begins as, None at random; and how the report
    calls that."""
    labels: tuple[int | None, ...]
    change: str


class Line(NamedTuple):
    """One variable in the report; `source` is empty where it starts fresh."""
    source: str
    ours: str
    shape: tuple[int, ...]
    change: str
    least: float
    largest: float
    norm: float      # L2


SAME = Convert('', lambda value: value)
# [out, in, h, w]; also [in, out, h, w] of a transposed convolution, which ours keeps as [h, w, out, in].
KERNEL = Convert('transposed to h, w, in, out', lambda weight: weight.transpose(2, 3, 1, 0))
DENSE = Convert('transposed to in, out', np.transpose)
# Rows in fours, dx, dy, dw, dh, become dy, dx, dh, dw.
YX = Convert('y before x', lambda rows: rows.reshape(-1, 4, *rows.shape[1:])[:, [1, 0, 3, 2]].reshape(rows.shape))


def channels_last(side: int) -> Convert:
    """A dense layer that reads a map flattened channel first: [out, channels * side * side] -> [in, out]."""
    def convert(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(len(weight), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(weight))

    return Convert('flattened row, column, channel; transposed to in, out', convert)


def biased(layer: Any, name: str, kernel: Convert, bias: Convert = SAME) -> Iterator[Rule]:
    """A convolution or dense layer with a bias; torch's names."""
    yield Rule(layer.kernel, f'{name}.weight', kernel)
    yield Rule(layer.bias, f'{name}.bias', bias)


def conv_norm(layer: ConvNorm, conv: str, norm: str) -> Iterator[Rule]:
    """A convolution and the normalisation behind it, or the bias where there is none; torch's names."""
    if layer.norm is None:
        yield from biased(layer.conv, conv, KERNEL)
        return
    yield Rule(layer.conv.kernel, f'{conv}.weight', KERNEL)
    fields = ('gamma', 'weight'), ('beta', 'bias'), ('moving_mean', 'running_mean'), ('moving_variance', 'running_var')
    for ours, theirs in fields:
        if hasattr(layer.norm, ours):                  # group normalisation keeps no statistics
            yield Rule(getattr(layer.norm, ours), f'{norm}.{theirs}', SAME)


def predictors(model: Detector) -> list[Any]:
    """The variables whose shape depends on the classes."""
    layers = [layer for head in model.box.heads for layer in (head.classes, head.deltas)]
    layers += [branch.head.masks for branch in model.branches]
    return [variable for layer in layers for variable in layer.weights]


def fill_detector(model: Detector, rules: Sequence[Rule], state: State, classes: ClassMap | None = None,
                  unused: str = r'$^') -> list[Line]:
    """`fill` by the rules of a whole model, whose classes are those of the weights, or begin as `classes` says."""
    if classes is not None and any(classes.labels) and not model.classifies:
        raise WeightsError('an RPN tells no classes apart; leave out the map of classes')
    if classes is None or not model.classifies:
        return fill(rules, state, unused=unused)
    if not any(classes.labels):
        return fill(rules, state, predictors(model), unused)
    columns = _columns(model, classes.labels)
    return fill([_by_class(rule, columns, classes.change) for rule in rules], state, unused=unused)


def _columns(model: Detector, labels: Sequence[int | None]) -> dict[int, np.ndarray]:
    """By the id of a variable of the predictors, which of their columns each of its own begins as; -1: none."""
    scores = np.array([0, *(label or -1 for label in labels)])                   # the background's comes first
    objects = np.where(scores[1:] < 0, -1, scores[1:] - 1)
    boxes = np.where(objects[:, None] < 0, -1, 4 * objects[:, None] + np.arange(4)).ravel()
    found = [(head.classes, scores) for head in model.box.heads]
    if not model.settings.box_head.class_agnostic:
        found += [(head.deltas, boxes) for head in model.box.heads]
    if not model.settings.mask_head.class_agnostic:
        mask_columns = scores if model.settings.mask_head.classifier == 'softmax' else objects
        found += [(branch.head.masks, mask_columns) for branch in model.branches]
    return {id(variable): columns for layer, columns in found for variable in layer.weights}


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
    """Assigns to every variable of the rules what the state has for it.

    Args:
        fresh: variables that keep what they have.
        unused: pattern of parameters that no model needs.

    Returns:
        The report, a line for each rule.

    Raises:
        WeightsError: a parameter is missing, left over, of another shape or not finite; no variable has changed then.
    """
    kept = {id(variable) for variable in fresh}
    values = [variable_value(rule.variable) if id(rule.variable) in kept else _converted(rule, state) for rule in rules]
    known = {rule.name for rule in rules}
    left = [name for name in state if name not in known and not re.search(unused, name)]
    if left:
        raise WeightsError(f'{len(left)} parameters have no place in the model, such as {left[0]}')
    lines = []
    for rule, value in zip(rules, values, strict=True):
        if id(rule.variable) not in kept:
            rule.variable.assign(value)
        lines.append(_line(rule, value, id(rule.variable) in kept))
    return lines


def vanishing_variance(state: State, epsilon: float) -> str:
    """Return which running variance with this epsilon has no inverse square root in float32, '' where all have one."""
    smallest = np.finfo(np.float32).tiny              # what is smaller counts as 0 in TensorFlow's kernels
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
        raise WeightsError(f'{rule.name} holds {np.asarray(state[rule.name]).dtype} and no floating-point numbers; '
                           'give the weights as they were trained, not quantized')
    given, shape = np.asarray(state[rule.name], np.float32), tuple(rule.variable.shape)
    try:
        value = rule.convert(given)
    except (ValueError, IndexError):                   # an axis or a class too few, rows that do not divide
        value = None
    if value is None or tuple(value.shape) != shape:
        raise WeightsError(f'{rule.name} is {list(given.shape)}, which does not give the {list(shape)} of '
                           f'{variable_path(rule.variable)}')
    if not np.isfinite(value).all():
        raise WeightsError(f'{rule.name} holds values that are not finite')
    return value


def _is_floating(value: np.ndarray) -> bool:
    dtype = np.asarray(value).dtype
    return dtype.kind == 'f' or dtype.name == 'bfloat16'      # for numpy bfloat16 is no kind of float


def _line(rule: Rule, value: np.ndarray, fresh: bool) -> Line:
    exact = value.astype(np.float64)
    return Line('' if fresh else rule.name, variable_path(rule.variable), tuple(value.shape),
                'starts fresh' if fresh else rule.convert.change, exact.min(), exact.max(), np.sqrt((exact ** 2).sum()))


def variable_path(variable: Any) -> str:
    """Keras 3 and 2 keep it in different places."""
    return str(variable.path) if hasattr(keras, 'Variable') else variable.name.split(':')[0]


def variable_value(variable: Any) -> np.ndarray:
    """As float32."""
    return np.asarray(variable.numpy(), np.float32)

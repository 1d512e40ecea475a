"""Comparison of the settings of a run with those with which it is resumed."""
from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mrcnn_tf.config import Config
from mrcnn_tf.weights.checkpoint_files import CheckpointError, steps_in
from mrcnn_tf.weights.model_directory import read

# Settings that do not affect the weights: execution, evaluation, intervals. A section stands for all its fields.
_EXECUTION = (
    'train.strategy', 'train.cluster', 'train.timeout', 'train.input', 'train.input_servers', 'train.jit_compile',
    'train.deterministic', 'train.accumulation_steps', 'train.recompute', 'train.checkpoint_every',
    'train.keep_checkpoints', 'train.log_every', 'train.loggers', 'train.evaluate_every', 'train.evaluate_images',
    'train.best_metric', 'train.patience', 'train.stop_without_positives', 'data.validation',
    'data.evaluation_batch_size', 'data.test_short_side', 'data.test_long_side', 'data.test_scales', 'data.test_flip',
    'data.pad_multiple', 'data.max_pixels', 'model.detections', 'model.rpn.pre_nms_test', 'model.rpn.post_nms_test')
# Settings that affect only the steps after the resume: weights and optimizer slots keep their meaning.
_SCHEDULE = (
    'data.train', 'solver.steps', 'solver.schedule', 'solver.learning_rate', 'solver.milestones', 'solver.gamma',
    'solver.warmup_steps', 'solver.warmup_factor', 'solver.clip_norm')
CHANGEABLE = (*_EXECUTION, *_SCHEDULE)


class Difference(NamedTuple):
    """A setting that differs: its dotted name, its value in config.yaml, and its new value."""
    name: str
    before: Any
    now: Any

    def is_one_of(self, names: Sequence[str]) -> bool:
        """Return whether the dotted names of settings and sections include this setting."""
        return any(self.name == each or self.name.startswith(f'{each}.') for each in names)


def check(model_dir: pathlib.Path, config: Config, allow_changes: bool = False, has_dependents: bool = False
          ) -> list[Difference]:
    """Return the settings that differ from those of the run in a model directory; [] if it has no checkpoints.

    If the checkpoint is an imported model that was not trained yet, only the section `model` is compared.

    Args:
        model_dir: the model directory.
        config: the settings to resume with.
        allow_changes: accept all differences.
        has_dependents: other models were built on the weights of this run, so only settings that do not affect the
            weights may change.

    Raises:
        CheckpointError: settings differ that may not change; the message lists all differences.
        ConfigError, ManifestError: config.yaml or categories.json is damaged.
    """
    steps = steps_in(model_dir / 'checkpoints')
    if not steps:
        return []
    before, now = dataclasses.asdict(read(model_dir)[0]), dataclasses.asdict(config)
    changes = [*(_differences(before['model'], now['model'], 'model.') if steps == [0] else _differences(before, now))]
    names = _EXECUTION if has_dependents else CHANGEABLE
    refused = [change for change in changes if not change.is_one_of(names)]
    if refused and not allow_changes:
        _refuse(model_dir, refused, [change for change in changes if change.is_one_of(names)], has_dependents)
    return changes


def describe(differences: Sequence[Difference]) -> str:
    """Return the differences on one line: 'solver.steps 6 -> 12, train.log_every 20 -> 5'."""
    return ', '.join(f'{each.name} {each.before} -> {each.now}' for each in differences)


def _refuse(model_dir: pathlib.Path, refused: Sequence[Difference], allowed: Sequence[Difference],
            has_dependents: bool) -> None:
    """Raise CheckpointError that lists the differences and the ways to resume."""
    also = f'; these may change: {describe(allowed)}' if allowed else ''
    same = f'resume with {model_dir / "config.yaml"} as the config, or give another --model-dir'
    remedy = f'later steps depend on its weights; {same}' if has_dependents else (
        f'add --allow-changes to resume with all changes, {same}')
    raise CheckpointError(f'{model_dir}: settings of its run may not change when it is resumed: {describe(refused)}'
                          f'{also}; {remedy}')


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = '') -> Iterator[Difference]:
    for key, value in before.items():
        if isinstance(value, dict):
            yield from _differences(value, now[key], f'{prefix}{key}.')
        elif value != now[key]:
            yield Difference(f'{prefix}{key}', value, now[key])

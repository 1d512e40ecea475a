"""Which settings of a run may change when it is resumed, and what is said of those that do."""
from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mrcnn_tf.config import Config
from mrcnn_tf.weights.checkpoint_files import CheckpointError, steps_in
from mrcnn_tf.weights.model_directory import read

# How steps are run and what is done with the weights: not what is learnt. A section stands for all that is in it.
_RUNNING = (
    'train.strategy', 'train.jit_compile', 'train.deterministic', 'train.checkpoint_every', 'train.keep_checkpoints',
    'train.log_every', 'train.stop_without_positives', 'data.validation', 'data.evaluation_batch_size',
    'data.test_short_side', 'data.test_long_side', 'data.test_scales', 'data.test_flip', 'data.pad_multiple',
    'data.max_pixels', 'model.detections', 'model.rpn.pre_nms_test', 'model.rpn.post_nms_test')
# What is learnt from here on; the weights and the optimizer's slots stay what they are.
_LEARNING = (
    'data.train', 'solver.steps', 'solver.schedule', 'solver.learning_rate', 'solver.milestones', 'solver.gamma',
    'solver.warmup_steps', 'solver.warmup_factor', 'solver.clip_norm')
FREE = (*_RUNNING, *_LEARNING)


class Difference(NamedTuple):
    """A setting of a run that is resumed: its dotted name, and its values in config.yaml and now."""
    name: str
    before: Any
    now: Any

    def is_one_of(self, names: Sequence[str]) -> bool:
        """Whether these dotted names, of settings or whole sections, include the setting."""
        return any(self.name == each or self.name.startswith(f'{each}.') for each in names)


def check(model_dir: pathlib.Path, config: Config, allow_changes: bool = False, learnt: bool = False
          ) -> list[Difference]:
    """Return the settings that change where a run is resumed; none in a directory without checkpoints.

    Of a model that is imported and not trained yet only the section `model` is compared.

    Args:
        allow_changes: accept every difference.
        learnt: others were built on what this run has learnt, so that only how its steps are run may change.

    Raises:
        CheckpointError: settings differ that may not; names all differences.
        ConfigError, ManifestError: config.yaml or categories.json is damaged.
    """
    steps = steps_in(model_dir / 'checkpoints')
    if not steps:
        return []
    before, now = dataclasses.asdict(read(model_dir)[0]), dataclasses.asdict(config)
    found = [*(_differences(before['model'], now['model'], 'model.') if steps == [0] else _differences(before, now))]
    names = _RUNNING if learnt else FREE
    refused = [each for each in found if not each.is_one_of(names)]
    if refused and not allow_changes:
        _refuse(model_dir, refused, [each for each in found if each.is_one_of(names)], learnt)
    return found


def described(differences: Sequence[Difference]) -> str:
    """Return the changes on one line: 'solver.steps 6 -> 12, train.log_every 20 -> 5'."""
    return ', '.join(f'{each.name} {each.before} -> {each.now}' for each in differences)


def _refuse(model_dir: pathlib.Path, refused: Sequence[Difference], allowed: Sequence[Difference], learnt: bool
            ) -> None:
    also = f'; these may change: {described(allowed)}' if allowed else ''
    same = f'resume with {model_dir / "config.yaml"} as the config, or give another --model-dir'
    remedy = f'later steps were built on it; {same}' if learnt else (
        f'add --allow-changes to resume with all of them, {same}')
    raise CheckpointError(f'{model_dir} holds a run with settings that may not change: {described(refused)}{also}; '
                          f'{remedy}')


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = '') -> Iterator[Difference]:
    for key, value in before.items():
        if isinstance(value, dict):
            yield from _differences(value, now[key], f'{prefix}{key}.')
        elif value != now[key]:
            yield Difference(f'{prefix}{key}', value, now[key])

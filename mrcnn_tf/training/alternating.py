"""Faster R-CNN by four-step alternating training (1506.01497, section 3.2): each step is a model directory of its own.

The directory of a run holds, in the order in which they are made:

    step1_rpn/          an RPN, from ImageNet's or random weights
    proposals/          step1_rpn.npz: what it proposes for the training set; step1_rpn.json: the set with that
    step2_fast_rcnn/    a Fast R-CNN with a backbone of its own, trained on these
    step3_rpn/          an RPN on the backbone of step 2, which stays as it is from here on
    proposals/          step3_rpn.*: what that one proposes
    step4_fast_rcnn/    the Fast R-CNN of step 2 goes on, its backbone frozen, on these
    faster_rcnn/        the backbone, the RPN of step 3 and the heads of step 4, joined

What is there is whole, so a run that was stopped goes on by being run again.
"""
from __future__ import annotations

import dataclasses
import gc
import os
import pathlib
from typing import Any

import keras

from data_tools import proposals
from mrcnn_tf import config as configuration
from mrcnn_tf.config import AlternatingConfig, Config, ConfigError, ModelConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.evaluation.export_proposals import propose
from mrcnn_tf.training import trainer
from mrcnn_tf.weights.model_directory import restore_model, save_imported
from mrcnn_tf.weights.rules import variable_path

STEPS = ('step1_rpn', 'step2_fast_rcnn', 'step3_rpn', 'step4_fast_rcnn')
JOINED = 'faster_rcnn'


def train(config: Config, model_dir: str | os.PathLike[str]) -> None:
    """Trains all steps to their end, each on what the one before has left; those that are done are not done again.

    Args:
        config: of the Faster R-CNN. Its `alternating` section says what differs in the steps, and after which to stop:
            after the second there are two networks that share nothing (RPN* of table 6).
        model_dir: directory of all steps; with all four, `faster_rcnn` in it is the model.

    Raises:
        ConfigError: settings that four steps cannot follow.
        As `trainer.train`, `proposing.propose` and `data_tools.proposals.attach`.
    """
    directory = pathlib.Path(model_dir)
    count, settings = config.alternating.steps, _settings(config, directory)
    for index in range(count):
        print(f'step {index + 1} of {count}: {directory / STEPS[index]}', flush=True)
        if settings[index].model.kind == 'fast_rcnn':
            _attach(config, directory / STEPS[index - 1], pathlib.Path(str(settings[index].data.train)))
        if index >= 2:
            _begin(directory / STEPS[index], settings[index], directory / STEPS[1])
        trainer.train(settings[index], directory / STEPS[index], learnt=_is_built_on(directory, index))
        gc.collect()    # a model refers to itself, and to much memory of a GPU
    if count == len(STEPS):
        _begin(directory / JOINED, config, directory / STEPS[2], directory / STEPS[3])
        print(f'{directory / JOINED} is the model', flush=True)


def _is_built_on(directory: pathlib.Path, index: int) -> bool:
    """Whether a later step, or its proposals, came of this one."""
    following = (directory / (*STEPS, JOINED)[index + 1], directory / 'proposals' / f'{STEPS[index]}.npz')
    return any(path.exists() for path in following)


def _settings(config: Config, directory: pathlib.Path) -> list[Config]:
    """Of each step."""
    if config.model.kind != 'faster_rcnn':
        raise ConfigError(f'model.kind is {config.model.kind}: expected faster_rcnn, which the steps come to')
    if config.train.strategy == 'multi_worker':
        raise ConfigError('train.strategy is multi_worker: expected one machine for alternating training')
    made = []
    for index, name in enumerate(STEPS):
        kind = name.partition('_')[2]
        step = configuration.changed(config, [
            f'model.kind={kind}', f'model.backbone.frozen={index >= 2}', *getattr(config.alternating, kind)])
        if step.model.kind != kind or _shared(step.model, config.model) != config.model:
            raise ConfigError(f'alternating.{kind} changes a model that the steps share: expected of it keys of '
                              'roi, and of rpn but convolutions and classifier; set others in their own section')
        step.alternating = AlternatingConfig()
        if kind == 'fast_rcnn':
            step.data.train = str(directory / 'proposals' / f'{STEPS[index - 1]}.json')
            step.data.validation = None    # it has no proposals, so that a fast_rcnn cannot be evaluated on it
        made.append(step)
    return made


def _shared(step: ModelConfig, whole: ModelConfig) -> ModelConfig:
    """The settings of a step's model, but for those that may be its own: as in the whole."""
    rpn = dataclasses.replace(whole.rpn, convolutions=step.rpn.convolutions, classifier=step.rpn.classifier)
    backbone = dataclasses.replace(step.backbone, frozen=whole.backbone.frozen)
    return dataclasses.replace(step, kind=whole.kind, backbone=backbone, rpn=rpn, roi=whole.roi)


def _attach(config: Config, model_dir: pathlib.Path, output: pathlib.Path) -> None:
    """Makes the manifest `output`: the training set with the proposals of an RPN."""
    if output.is_file():
        return
    found = output.with_suffix('.npz')
    if not found.is_file():
        propose(model_dir, str(config.data.train), found, training=True)
    proposals.attach(str(config.data.train), found, output.parent, output.stem, config.model.rpn.post_nms_train)


def _begin(directory: pathlib.Path, config: Config, *sources: pathlib.Path) -> None:
    """A model directory with all that those of the sources have of its model; what is of none starts random."""
    if directory.exists():
        return
    keras.utils.set_random_seed(config.train.seed)
    model, variables = build_detector(config.model), {}
    for source in sources:
        trained, _, categories = restore_model(source)
        variables.update(_by_path(trained))
    for path, variable in _by_path(model).items():
        if path in variables:
            variable.assign(variables[path])
    save_imported(directory, model, config, categories)


def _by_path(model: Detector) -> dict[str, Any]:
    return {variable_path(variable): variable for variable in model.weights}

"""Four-step alternating training of Faster R-CNN (1506.01497, section 3.2). Each step has its own model directory.

The output directory holds, in the order of their creation:

    step1_rpn/          an RPN, initialized with ImageNet or random weights
    proposals/          step1_rpn.npz: its proposals for the training set; step1_rpn.json: the set with the proposals
    step2_fast_rcnn/    a Fast R-CNN with its own backbone, trained on these proposals
    step3_rpn/          an RPN on the backbone of step 2, which is frozen from here on
    proposals/          step3_rpn.*: the same files for step 3
    step4_fast_rcnn/    the Fast R-CNN of step 2, trained further with a frozen backbone on the proposals of step 3
    faster_rcnn/        the backbone, the RPN of step 3 and the heads of step 4 in one model

A file or directory gets its name once it is complete, so the same call resumes an interrupted run. With
train.strategy=multi_worker, each worker trains each step in a new process, and worker 0 does what lies between the
steps.
"""
from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras

from data_tools import proposals
from mrcnn_tf import config as configuration
from mrcnn_tf.config import AlternatingConfig, Config, ConfigError, ModelConfig
from mrcnn_tf.detectors.detector import Detector, build_detector
from mrcnn_tf.evaluation.export_proposals import propose
from mrcnn_tf.training import isolated, trainer
from mrcnn_tf.training.callbacks import StoppedBySignal
from mrcnn_tf.training.clusters import Cluster, cluster_of
from mrcnn_tf.training.peers import Peers
from mrcnn_tf.training.strategies import join
from mrcnn_tf.weights.model_directory import restore_model, save_imported
from mrcnn_tf.weights.rules import variable_path

STEPS = ('step1_rpn', 'step2_fast_rcnn', 'step3_rpn', 'step4_fast_rcnn')
JOINED = 'faster_rcnn'


def train(config: Config, model_dir: str | os.PathLike[str]) -> None:
    """Train all steps. Steps that are complete are not repeated.

    Args:
        config: of the Faster R-CNN. Its section `alternating` holds the settings of each step and the number of steps.
            After two steps the RPN and the Fast R-CNN share no layers (RPN* in table 6).
        model_dir: directory for all steps. After four steps, its subdirectory `faster_rcnn` is the model.

    Raises:
        ConfigError: settings that alternating training does not support.
        ClusterError, PeerError: as `trainer.train`; another worker failed between two steps.
        StoppedBySignal, ProcessError: a signal, to this process or to that of a step; the same call resumes.
        As `trainer.train`, `export_proposals.propose` and `data_tools.proposals.attach`.
    """
    directory = pathlib.Path(model_dir)
    count, configs, cluster = config.alternating.steps, _step_configs(config, directory), cluster_of(config.train)
    several = config.train.strategy == 'multi_worker'
    call = isolated.call if several else _call
    with _stopping_at_once(directory), join(cluster, config.train.timeout) as peers:
        for index in range(count):
            if cluster.worker.is_chief:
                print(f'step {index + 1} of {count}: {directory / STEPS[index]}', flush=True)
            with _first_on_chief(peers, cluster, f'files of step {index + 1}') as is_chief:
                if is_chief and index:
                    call(f'prepares {directory / STEPS[index]}', _prepare, config, configs[index], directory, index)
            call(f'trains {directory / STEPS[index]}', _train_step, configs[index], directory, index)
        if count == len(STEPS):
            with _first_on_chief(peers, cluster, 'joined model') as is_chief:
                if is_chief:
                    call(f'writes {directory / JOINED}', _initialize, directory / JOINED, config,
                         directory / STEPS[2], directory / STEPS[3])
                    print(f'{directory / JOINED} is the model', flush=True)


def _call(_: str, function: Callable[..., None], *arguments: Any) -> None:
    function(*arguments)
    gc.collect()    # a model is a reference cycle that holds much GPU memory


@contextlib.contextmanager
def _stopping_at_once(directory: pathlib.Path) -> Iterator[None]:
    """A context in which SIGTERM raises StoppedBySignal, except where training waits for the end of a step to save."""
    def stop(number: int, frame: Any) -> None:
        raise StoppedBySignal(f'{directory}: stopped by SIGTERM; resume with the same command')

    if threading.current_thread() is not threading.main_thread():    # Python allows handlers only there
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _first_on_chief(peers: Peers, cluster: Cluster, topic: str) -> Iterator[bool]:
    """A context for what worker 0 does, while the others wait at its end; gives whether this is worker 0."""
    if cluster.worker.is_chief:
        with peers.pause():
            yield True
    else:
        yield False
    peers.agree(topic, {}, '')


def _prepare(config: Config, step: Config, directory: pathlib.Path, index: int) -> None:
    """Write what a step begins with: proposals of the step before, weights of the second step."""
    if 'proposals' in step.model.needs:
        _attach_proposals(config, directory / STEPS[index - 1], pathlib.Path(str(step.data.train)))
    if index >= 2:
        _initialize(directory / STEPS[index], step, directory / STEPS[1])


def _train_step(step: Config, directory: pathlib.Path, index: int) -> None:
    trainer.train(step, directory / STEPS[index], has_dependents=_has_dependents(directory, index))


def _has_dependents(directory: pathlib.Path, index: int) -> bool:
    """Return whether the step's proposals or a later step exist."""
    later = (directory / (*STEPS, JOINED)[index + 1], directory / 'proposals' / f'{STEPS[index]}.npz')
    return any(path.exists() for path in later)


def _step_configs(config: Config, directory: pathlib.Path) -> list[Config]:
    """Return the config of each step."""
    if config.model.kind != 'faster_rcnn':
        raise ConfigError(f'model.kind is {config.model.kind}: expected faster_rcnn for alternating training')
    configs = []
    for index, name in enumerate(STEPS):
        kind = name.partition('_')[2]
        step = configuration.changed(config, [
            f'model.kind={kind}', f'model.backbone.frozen={index >= 2}', *getattr(config.alternating, kind)])
        if step.model.kind != kind or _without_step_settings(step.model, config.model) != config.model:
            raise ConfigError(f'alternating.{kind} changes a part of the model that all steps share: expected of '
                              'model.* only keys of model.roi, and of model.rpn except convolutions and classifier; '
                              'set others in the section model')
        step.alternating = AlternatingConfig()
        step.train.evaluate_every = 0    # each step continues with the last weights
        if kind == 'fast_rcnn':
            step.data.train = str(directory / 'proposals' / f'{STEPS[index - 1]}.json')
            step.data.validation = None    # its records have no proposals for a fast_rcnn
        configs.append(step)
    return configs


def _without_step_settings(step: ModelConfig, whole: ModelConfig) -> ModelConfig:
    """Return the model settings of a step, with those that may differ between steps replaced by the whole model's."""
    rpn = dataclasses.replace(whole.rpn, convolutions=step.rpn.convolutions, classifier=step.rpn.classifier)
    backbone = dataclasses.replace(step.backbone, frozen=whole.backbone.frozen)
    return dataclasses.replace(step, kind=whole.kind, backbone=backbone, rpn=rpn, roi=whole.roi)


def _attach_proposals(config: Config, model_dir: pathlib.Path, output: pathlib.Path) -> None:
    """Write the manifest `output`: the training set with the proposals of an RPN."""
    if output.is_file():
        return
    file = output.with_suffix('.npz')
    if not file.is_file():
        propose(model_dir, str(config.data.train), file, training=True, checkpoint='last')
    proposals.attach(str(config.data.train), file, output.parent, output.stem, config.model.rpn.post_nms_train)


def _initialize(directory: pathlib.Path, config: Config, *sources: pathlib.Path) -> None:
    """Create a model directory with the weights of other model directories; later sources take precedence.

    Weights that no source has are initialized at random.
    """
    if directory.exists():
        return
    keras.utils.set_random_seed(config.train.seed)
    model, variables = build_detector(config.model), {}
    for source in sources:
        trained, _, categories = restore_model(source, checkpoint='last')
        variables.update(_by_path(trained))
    for path, variable in _by_path(model).items():
        if path in variables:
            variable.assign(variables[path])
    save_imported(directory, model, config, categories)


def _by_path(model: Detector) -> dict[str, Any]:
    return {variable_path(variable): variable for variable in model.weights}

"""Training against the reference: five losses, gradients and three SGD steps on one batch."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import SolverConfig
from mrcnn_tf.model import LOSSES
from mrcnn_tf.training.optimizers import build_optimizer
from mrcnn_tf.weights.torchvision import correspondence
from tests.parity.reference import Case

CASES = ['train_maskrcnn_resnet18_fpn_0', 'train_maskrcnn_resnet18_fpn_1']
SEED = tf.constant([0, 0])


def common_entries(case, state, rules):
    """For each parameter the columns of the kit's samples that exist in ours, and their flat positions in ours.

    The background's box and mask have no counterpart.
    """
    entries = []
    for name, positions in zip(case['param_names'], case['param_index'], strict=True):
        numbered = np.arange(state[str(name)].size, dtype=np.float64).reshape(state[str(name)].shape)
        places = np.asarray(rules[str(name)][1](numbered)).ravel().astype(np.int64)
        order = np.argsort(places)
        rank = np.minimum(np.searchsorted(places[order], positions), len(places) - 1)
        columns = np.flatnonzero(places[order[rank]] == positions)
        entries.append((columns, order[rank[columns]]))
    return entries


def compare_samples(expected, values, entries, allowed, what):
    """Our values at the kit's positions; allowed: largest difference for each parameter."""
    for k, (columns, places) in enumerate(entries):
        difference = np.abs(np.asarray(values[k], np.float64).ravel()[places] - expected[k][columns])
        assert difference.max(initial=0.) <= allowed[k], f'{what} {k} differs by {difference.max():.3g}'


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_training_case(parity_dir, name):
    """Losses to 5e-5, gradients, then losses and parameters after each step, with the kit's limits."""
    case = Case(parity_dir / f'{name}.npz')
    model, batch = case.model('op'), case.batch()
    state = case.state_dict()
    rules = {theirs: (variable, convert) for variable, theirs, convert in correspondence(model)}
    names = [str(n) for n in case['param_names']]
    variables = [rules[n][0] for n in names]
    assert {id(v) for v in variables} == {id(v) for v in model.trainable_variables}

    @tf.function(autograph=False)
    def differentiate():
        with tf.GradientTape() as tape:
            losses = model.losses_of(batch, SEED)
            total = tf.add_n(list(losses.values()))
        return losses, tape.gradient(total, variables)

    recipe = case.config['optimiser']
    optimizer = build_optimizer(SolverConfig(
        optimizer='sgd', learning_rate=recipe['lr'], momentum=recipe['momentum'], weight_decay=recipe['weight_decay'],
        decay_biases=True), recipe['lr'], model)
    entries = common_entries(case, state, rules)
    start = [v.numpy() for v in variables]
    for step in range(4):
        losses, gradients = differentiate()
        ours = np.array([losses[k] for k in LOSSES])
        np.testing.assert_allclose(ours, case['losses'][step], rtol=5e-3 if step else 5e-5, err_msg=f'step {step}')
        if step == 0:
            norms = [np.sqrt((g.numpy().astype(np.float64) ** 2).sum()) for g in gradients]
            np.testing.assert_allclose(norms, case['grad_norm'], rtol=5e-3)
            scale = case['grad_norm'] / np.sqrt([state[n].size for n in names])
            compare_samples(case['grad_samples'], gradients, entries, 1e-1 * scale, 'gradient')
        moved = np.abs(case['param_samples'][3] - case['param_samples'][0]).max(1)
        rounding = 2. ** -22 * np.abs(case['param_samples'][0]).max(1)
        compare_samples(case['param_samples'][step], [v.numpy() for v in variables], entries, 5e-2 * moved + rounding,
                        f'after step {step} parameter')
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    assert any(np.abs(v.numpy() - s).max() > 0 for v, s in zip(variables, start, strict=True))

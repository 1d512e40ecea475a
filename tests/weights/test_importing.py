"""Import of weights into a model directory; a refused import leaves no files."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from data_tools.formats import coco, shapes
from mrcnn_tf import config as configuration
from mrcnn_tf.cli import main
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.training import trainer
from mrcnn_tf.weights import importing
from mrcnn_tf.weights.checkpoint_files import find_newest
from mrcnn_tf.weights.model_directory import restore_model
from mrcnn_tf.weights.rules import WeightsError
from tests.weights import small


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / 'small.npz'
    np.savez(path, **small.state())
    return path


@pytest.fixture(scope='module')
def imported(weights, tmp_path_factory):
    output = tmp_path_factory.mktemp('imported') / 'model'
    report = importing.import_file('torchvision', weights, output, overrides=small.OVERRIDES)
    return output, report


def test_an_imported_directory_is_a_model_directory(imported) -> None:
    """The dialect is torchvision's, classes without names are numbered, and the values are those of the file."""
    directory, report = imported
    model, config, categories = restore_model(directory)
    assert (config.model.backbone.name, config.model.num_classes, config.model.kind) == ('resnet18', 3, 'mask_rcnn')
    assert config.model.anchors.rounded and not config.model.roi.aligned and config.model.channel_order == 'rgb'
    assert [c.name for c in categories] == ['class 1', 'class 2', 'class 3']
    state = small.state()
    np.testing.assert_array_equal(model.backbone.body.stem.conv.kernel,
                                  state['backbone.body.conv1.weight'].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(model.box.heads[0].classes.bias, state['roi_heads.box_predictor.cls_score.bias'])
    np.testing.assert_array_equal(model.branches[0].head.masks.bias,
                                  state['roi_heads.mask_predictor.mask_fcn_logits.bias'][1:])
    assert len(report) == len(model.variables) == len(state)


def test_table_lists_shape_range_and_norm(imported) -> None:
    lines = importing.table(imported[1]).splitlines()
    stem = small.state()['backbone.body.conv1.weight']
    row = next(line for line in lines if line.startswith('backbone.body.conv1.weight'))
    assert '7x7x3x64' in row and f'{stem.min():.4g}' in row and f'{stem.max():.4g}' in row
    assert f'{np.linalg.norm(stem.astype(np.float64)):.5g}' in row and row.endswith('transposed to h, w, in, out')
    assert lines[-1] == f'{len(lines) - 2} of {len(lines) - 2} variables filled'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Return the manifest of converted images of three kinds of shapes."""
    folder = tmp_path_factory.mktemp('data')
    shapes.draw(folder / 'shapes', 4, seed=0)
    coco.convert(folder / 'shapes' / 'annotations.json', folder / 'shapes' / 'images', folder)
    return folder / 'train.json'


def tiny(data, *overrides) -> list[str]:
    return [f'data.train={data}', 'data.batch_size=2', 'data.short_sides=[64]', 'data.long_side=64',
            'data.test_short_side=64', 'data.test_long_side=64', 'data.canvases=[[64,64]]', 'solver.steps=2',
            'solver.scale_with_batch=false', 'model.rpn.post_nms_train=20', 'model.roi.batch_per_image=8', *overrides]


@pytest.mark.slow
def test_an_imported_model_trains_on_new_classes(weights, data, tmp_path) -> None:
    """All weights but those of the predictors come from the file, and two training steps start from them."""
    output = tmp_path / 'mine'
    settings = [*small.OVERRIDES, 'model.rpn.post_nms_train=20', 'model.roi.batch_per_image=8']
    report = importing.import_file('torchvision', weights, output, data, settings)
    fresh = sorted('/'.join(line.ours.split('/')[-3:]) for line in report if not line.source)
    assert fresh == ['box_head/classes/bias', 'box_head/classes/kernel', 'box_head/deltas/bias',
                     'box_head/deltas/kernel', 'mask_head/masks/bias', 'mask_head/masks/kernel']
    assert 'initialized at random: ' in importing.table(report).splitlines()[-1]
    before, config, categories = restore_model(output)
    assert categories == Manifest.read(data).categories
    trainer.train(configuration.load(output / 'config.yaml', tiny(data, 'solver.learning_rate=1e-9')), output)
    after = restore_model(output)[0]
    assert find_newest(output / 'checkpoints').name == 'step-2'
    for old, new in zip(before.variables, after.variables, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)


@pytest.mark.parametrize('source', ['file', pytest.param('model', marks=pytest.mark.slow)])
def test_predictors_of_mapped_classes_are_copied(source, weights, imported, data, tmp_path) -> None:
    """Circle gets the weights of class 3, triangle those of class 1, background those of background."""
    names = [category.name for category in Manifest.read(data).categories]
    (tmp_path / 'map.yaml').write_text(f'{names[0]}: class 3\n{names[1]}: null\n{names[2]}: class 1\n')
    rest = tmp_path / 'mine', data, small.OVERRIDES, tmp_path / 'map.yaml'
    report = (importing.import_model(imported[0], *rest) if source == 'model' else
              importing.import_file('torchvision', weights, *rest))
    old, (new, config, categories) = restore_model(imported[0])[0], restore_model(tmp_path / 'mine')
    assert [category.name for category in categories] == names and config.model.backbone.weights == 'none'
    np.testing.assert_array_equal(new.backbone.body.stem.conv.kernel, old.backbone.body.stem.conv.kernel)
    np.testing.assert_array_equal(new.box.heads[0].classes.kernel.numpy()[:, [0, 1, 3]],
                                  old.box.heads[0].classes.kernel.numpy()[:, [0, 3, 1]])
    np.testing.assert_array_equal(new.box.heads[0].deltas.kernel.numpy()[:, [0, 11]],
                                  old.box.heads[0].deltas.kernel.numpy()[:, [8, 3]])
    np.testing.assert_array_equal(new.branches[0].head.masks.kernel.numpy()[..., [0, 2]],
                                  old.branches[0].head.masks.kernel.numpy()[..., [2, 0]])
    assert not np.isin(new.branches[0].head.masks.kernel.numpy()[..., 1],
                       old.branches[0].head.masks.kernel.numpy()).any()
    assert all(line.source for line in report) and len(report) == len(new.weights)
    change = f'{names[0]} as class 3, {names[1]} at random, {names[2]} as class 1'
    assert sum(line.change.endswith(change) for line in report) == 6


def test_a_map_of_classes_needs_classes(imported, tmp_path) -> None:
    with pytest.raises(WeightsError, match=f'^{imported[0]}: .* give --classes NAME.json too$'):
        importing.import_model(imported[0], tmp_path / 'out', names='cityscapes-from-coco')
    assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_an_imported_model_trains_on_data_with_fewer_classes(weights, data, tmp_path) -> None:
    """Labels follow the ids of the data set, as COCO's 80 classes in torchvision's 90."""
    output = tmp_path / 'more'
    importing.import_file('torchvision', weights, output, 5, [*small.OVERRIDES, 'model.rpn.post_nms_train=20',
                                                                   'model.roi.batch_per_image=8'])
    manifest = Manifest.read(data)
    manifest = dataclasses.replace(manifest, categories=[
        dataclasses.replace(c, id=number, name=f'class {number}')
        for c, number in zip(manifest.categories, (2, 3, 5), strict=True)])
    manifest.write(data.with_name('renamed.json'))
    trainer.train(configuration.load(output / 'config.yaml', tiny(data.with_name('renamed.json'))), output)
    assert find_newest(output / 'checkpoints').name == 'step-2'
    with pytest.raises(trainer.TrainingError, match=f"category 1 is 'circle', and in {output} it is 'class 1'"):
        trainer.train(configuration.load(output / 'config.yaml', tiny(data)), output)


def broken(kind: str) -> dict[str, np.ndarray]:
    state = small.state()
    if kind == 'NaN':
        state['backbone.body.bn1.weight'][3] = np.nan
    elif kind == 'missing':
        del state['roi_heads.box_head.fc7.bias']
    elif kind == 'left over':
        state['extra.weight'] = np.zeros(1)
    else:
        state['rpn.head.cls_logits.weight'] = np.zeros([9, 256, 1, 1], np.float32)
    return state


@pytest.mark.parametrize(('kind', 'message'), [
    ('NaN', 'backbone.body.bn1.weight contains values that are not finite'),
    ('missing', 'no parameter roi_heads.box_head.fc7.bias'), ('left over', 'such as extra.weight'),
    ('shape', 'rpn.head.cls_logits.weight')])
def test_weights_that_do_not_fit_are_refused(tmp_path, kind, message) -> None:
    path = tmp_path / 'weights.npz'
    np.savez(path, **broken(kind))
    with pytest.raises(WeightsError, match=f'^{path}: .*{message}') as error:
        importing.import_file('torchvision', path, tmp_path / 'out', overrides=small.OVERRIDES)
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


def test_another_framework_or_class_count_is_refused(weights, tmp_path) -> None:
    with pytest.raises(WeightsError, match='Detectron2'):
        importing.import_file('detectron2', weights, tmp_path / 'out')
    with pytest.raises(WeightsError, match='cls_score'):
        importing.import_file('torchvision', weights, tmp_path / 'out',
                                   overrides=[*small.OVERRIDES, 'model.num_classes=7'])
    assert not (tmp_path / 'out').exists()


def test_another_kind_of_model_is_refused(weights, tmp_path) -> None:
    with pytest.raises(WeightsError, match=f'^{weights}: model.kind is rpn: expected mask_rcnn, the model of'):
        importing.import_file('torchvision', weights, tmp_path / 'out', overrides=[*small.OVERRIDES,
                                                                                        'model.kind=rpn'])


def test_an_existing_directory_is_not_overwritten(imported, weights) -> None:
    before = (imported[0] / 'config.yaml').read_bytes()
    with pytest.raises(FileExistsError, match='a directory of this name exists'):
        importing.import_file('torchvision', weights, imported[0], overrides=small.OVERRIDES)
    assert (imported[0] / 'config.yaml').read_bytes() == before


def test_a_failed_write_leaves_no_files(weights, tmp_path, monkeypatch) -> None:
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, 'no space left on device')

    monkeypatch.setattr(tf.train.Checkpoint, 'write', full)
    with pytest.raises(OSError, match='no space left'):
        importing.import_file('torchvision', weights, tmp_path / 'out', overrides=small.OVERRIDES)
    assert not list(tmp_path.iterdir())


def test_kernels_of_zeros_are_named_in_a_warning(tmp_path, caplog) -> None:
    """Biases may be 0; that the box head's are does not matter."""
    state = small.state()
    for name in ('fc6.weight', 'fc6.bias'):
        state[f'roi_heads.box_head.{name}'] *= 0
    np.savez(tmp_path / 'weights.npz', **state)
    importing.import_file('torchvision', tmp_path / 'weights.npz', tmp_path / 'out', overrides=small.OVERRIDES)
    kernels = sum(value.ndim > 1 for value in state.values())
    assert caplog.messages == [f'{tmp_path}/weights.npz: 1 of {kernels} kernels hold only zeros, such as '
                               'roi_heads.box_head.fc6.weight; give the weights as trained']


VARIANCE = 'backbone.body.bn1.running_var'


@pytest.mark.parametrize(('options', 'epsilon', 'note'), [
    ([], 0., True), (['--norm-epsilon', '1e-5'], 1e-5, False)], ids=['not given', 'given'])
def test_norm_epsilon_is_chosen_or_given(tmp_path, options, epsilon, note) -> None:
    """With a variance of 1e-5, the scale is the weight / sqrt(1e-5), or weight / sqrt(2e-5)."""
    state = small.state()
    state[VARIANCE] = np.full_like(state[VARIANCE], 1e-5)
    np.savez(tmp_path / 'weights.npz', **state)
    result = CliRunner().invoke(main.app, ['import-weights', 'torchvision', str(tmp_path / 'weights.npz'), '--output',
                                          str(tmp_path / 'out'), *options, *small.OVERRIDES])
    assert result.exit_code == 0
    assert ('does not contain the epsilon' in result.stdout.splitlines()[-1]) == note
    model, config, _ = restore_model(tmp_path / 'out')
    assert config.model.backbone.norm_epsilon == epsilon
    scale = state['backbone.body.bn1.weight'] / np.sqrt(1e-5 + epsilon)
    mean, shift = state['backbone.body.bn1.running_mean'], state['backbone.body.bn1.bias']
    normalized = model.backbone.body.stem.norm(tf.ones([1, 64]))[0]
    np.testing.assert_allclose(normalized, (1 - mean) * scale + shift, rtol=1e-4)


@pytest.mark.parametrize(('value', 'epsilon', 'remedy'), [(0., '0', 'set it to 1e-5'), (-1., '1e-5', 'is damaged')])
def test_an_epsilon_that_divides_by_zero_is_refused(tmp_path, value, epsilon, remedy) -> None:
    state = small.state()
    state[VARIANCE][:2] = value
    path = tmp_path / 'weights.npz'
    np.savez(path, **state)
    with pytest.raises(WeightsError, match=f'^{path}: with .*=(0|1e-05), 2 of 64 channels of {VARIANCE} .*{remedy}$'):
        importing.import_file('torchvision', path, tmp_path / 'out', overrides=[
            *small.OVERRIDES, f'model.backbone.norm_epsilon={epsilon}'])
    assert not (tmp_path / 'out').exists()

"""The kit is the one intended, and a kit that is not is named."""
from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from mrcnn_tf.weights import files
from tests.parity.kit import DEFAULTS, FACTOR, Kit, KitError


def test_every_file_is_the_one_intended(each_kit) -> None:
    """As the kit's own check: each array's type, shape and checksum."""
    others = [name for name in ('ops', 'images') if (each_kit.folder / f'{name}.npz').exists()]
    names = [*each_kit.cases('infer'), *each_kit.cases('train'), *others]
    assert len(names) > len(others)
    for name in names:
        assert each_kit.arrays(name)


def test_every_weight_is_the_one_intended(kit) -> None:
    """Each weight's checksum; of Detectron2's kit each case checks its own."""
    architectures = {json.loads(str(kit.arrays(name)['config']))['arch'] for name in
                     [*kit.cases('infer'), *kit.cases('train')]}
    assert architectures and (not kit.manifest or architectures <= set(kit.manifest['weights']))
    for arch in architectures:
        assert kit.state_dict(arch)


def test_a_pickle_of_the_model_zoo_is_read_as_the_weights_that_it_holds(each_kit, tmp_path) -> None:
    """As Detectron2's kit writes it. The cases load the weights themselves, which takes half as long."""
    if each_kit.framework != 'detectron2':
        pytest.skip('torchvision has no pickles')
    each_kit.module.save_pickle('rpn_r50_fpn', tmp_path / 'model.pkl')
    read, expected = files.read(tmp_path / 'model.pkl'), each_kit.state_dict('rpn_r50_fpn')
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(read[name], value)


def copy(kit: Kit, folder: pathlib.Path) -> pathlib.Path:
    """The tables of a kit and its first case, to be spoilt."""
    cases = kit.cases('infer')
    if not cases or not kit.manifest:
        pytest.skip('needs a kit with a manifest and an inference case')
    for path in [*kit.folder.glob('*.json'), *kit.folder.glob('*.py'), kit.folder / f'{cases[0]}.npz']:
        shutil.copyfile(path, folder / path.name)
    shutil.copytree(kit.folder / 'specs', folder / 'specs', copy_function=shutil.copyfile)
    return folder


@pytest.fixture
def copied(kit, tmp_path) -> pathlib.Path:
    return copy(kit, tmp_path)


def test_a_spoilt_array_is_named(each_kit, tmp_path) -> None:
    kit = Kit(copy(each_kit, tmp_path))
    (name,) = kit.cases('infer')
    arrays = kit.arrays(name)
    key = next(key for key, value in arrays.items() if value.dtype.kind == 'f')
    np.savez(tmp_path / f'{name}.npz', **{**arrays, key: arrays[key] + 1})
    with pytest.raises(KitError, match=f'{name}.npz: {key} is not what the manifest says'):
        kit.arrays(name)
    np.savez(tmp_path / f'{name}.npz', **{other: value for other, value in arrays.items() if other != key})
    with pytest.raises(KitError, match=f'{key} is in the file or in the manifest, but not in both'):
        kit.arrays(name)
    (tmp_path / f'{name}.npz').write_bytes(b'PK nothing')
    with pytest.raises(KitError, match=f'{name}.npz: '):
        kit.arrays(name)
    np.savez(tmp_path / 'infer_other.npz', **arrays)
    with pytest.raises(KitError, match='infer_other.npz: not in the manifest'):
        kit.arrays('infer_other')
    (tmp_path / 'manifest.json').unlink()
    assert len(Kit(tmp_path).arrays('infer_other')) == len(arrays)


def test_other_weights_are_named(copied) -> None:
    kit = Kit(copied)
    arch = json.loads(str(kit.arrays(kit.cases('infer')[0])['config']))['arch']
    spec = json.loads((copied / 'specs' / f'{arch}.json').read_text())
    (copied / 'specs' / f'{arch}.json').write_text(json.dumps({**spec, 'salt': spec['salt'] + 'x'}))
    drawn = next(entry['name'] for entry in spec['tensors'] if entry['kind'] == 'draw')
    with pytest.raises(KitError, match=f'{arch}: {drawn} has other values than intended'):
        kit.state_dict(arch)
    with pytest.raises(KitError, match='no_such_arch: '):
        kit.state_dict('no_such_arch')


def test_layers_are_scaled(kit) -> None:
    arch = json.loads(str(kit.arrays((kit.cases('infer') or kit.cases('train') or pytest.skip('no case'))[0])['config']
                          ))['arch']
    layer = 'roi_heads.box_predictor.cls_score'
    plain, scaled = kit.state_dict(arch), kit.state_dict(arch, {layer: .25})
    np.testing.assert_array_equal(scaled[f'{layer}.weight'], plain[f'{layer}.weight'] / 4)
    for name in plain:
        assert layer in name or (scaled[name] == plain[name]).all(), name
    with pytest.raises(KitError, match='scale names nothing, which is no layer'):
        kit.state_dict(arch, {'nothing': 2.})


def test_no_kit(tmp_path) -> None:
    with pytest.raises(KitError, match='no parity kit, it lacks weights.py'):
        Kit(tmp_path)
    (tmp_path / 'weights.py').write_text('')
    (tmp_path / 'tolerances.json').write_text('{')
    with pytest.raises(KitError, match='tolerances.json: '):
        Kit(tmp_path)


def test_limits(tmp_path) -> None:
    """What is recommended; else FACTOR times the case's own measurement, then that of all; else the default."""
    (tmp_path / 'weights.py').write_text('')
    runs = {'plain': {'worst': {'body': 3e-5, 'fpn': 1e-5}}, 'other': {'worst': {'body': 4e-5}}}
    (tmp_path / 'tolerances.json').write_text(json.dumps({
        'summary': {'stem': {'measured': 1., 'recommended': 7.}, 'fc7': {'measured': 2e-4}},
        'cases': {'infer_x': {'float32': runs, 'forced': {'cls': 5e-6}},
                  'train_x': {'float32': {'plain': {'grad_norm_relative': 1e-3}}}}}))
    kit = Kit(tmp_path)
    assert kit.limit('stem', 'infer_x') == 7.
    assert kit.limit('body', 'infer_x') == FACTOR * 4e-5 and kit.limit('fpn', 'infer_x') == FACTOR * 1e-5
    assert kit.limit('stored cls', 'infer_x') == FACTOR * 5e-6 and kit.limit('cls', 'infer_x') == DEFAULTS['cls']
    assert kit.limit('grad_norm_relative', 'train_x') == FACTOR * 1e-3
    assert kit.limit('fc7', 'infer_x') == FACTOR * 2e-4
    assert kit.limit('body', 'infer_y') == DEFAULTS['body']
    (tmp_path / 'weights.py').write_text('def save_pickle(): pass')
    (tmp_path / 'tolerances.json').write_text(json.dumps({
        'infer_x': {'noise': {'body': 3e-5}},
        'train_x': {'grad_noise_relative': 2e-4, 'loss_noise': {'loss_cls': 1e-6}}}))
    kit = Kit(tmp_path)
    assert kit.framework == 'detectron2' and kit.limit('body', 'infer_x') == FACTOR * 3e-5
    assert kit.limit('loss_cls', 'train_x') == FACTOR * 1e-6
    assert kit.limit('grad_norm_relative', 'train_x') == FACTOR * 2e-4
    (tmp_path / 'tolerances.json').unlink()
    assert {key: Kit(tmp_path).limit(key, 'infer_x') for key in DEFAULTS} == DEFAULTS


def test_the_defaults_are_the_limits_of_the_kit(kit) -> None:
    """Where the kit has some."""
    for key, entry in kit.tolerances.get('summary', {}).items():
        assert key in DEFAULTS and entry['recommended'] > entry['measured']

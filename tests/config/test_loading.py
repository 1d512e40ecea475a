"""Loading, merging, overriding and saving of configs; every refusal is one line that names the file and the key."""
from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from mrcnn_tf import config as settings
from mrcnn_tf.config import Config, ConfigError
from tests.config.refusal import refusal, write_yaml
from tests.paths import ROOT


def test_an_empty_file_gives_the_defaults(tmp_path: pathlib.Path) -> None:
    assert settings.load(write_yaml(tmp_path, empty='')) == Config()


def test_a_file_overrides_its_bases_and_overrides_come_last(tmp_path: pathlib.Path) -> None:
    top = write_yaml(
        tmp_path,
        top='base: middle.yaml\nsolver: {steps: 3}',
        middle='base: bottom.yaml\nsolver: {steps: 2, gamma: 0.5}\ndata: {short_sides: [64, 96]}',
        bottom='solver: {steps: 1, gamma: 0.25, momentum: 0.8}\ndata: {short_sides: [32]}')
    config = settings.load(top, ['solver.momentum=0.7', 'solver.momentum=0.6'])
    assert (config.solver.steps, config.solver.gamma, config.solver.momentum) == (3, 0.5, 0.6)
    assert config.data.short_sides == [64, 96]          # a list replaces a list


@pytest.mark.parametrize(('top', 'overrides', 'steps', 'epochs'), [
    ('epochs: 4', [], 90, 4), ('steps: 50', [], 50, None), ('epochs: 4', ['solver.steps=7'], 7, None),
    ('steps: 50', ['solver.epochs=2'], 50, 2), ('epochs: 4', ['solver.epochs=null'], 90, None),
    ('momentum: 0.8', ['solver.epochs=12', 'solver.milestones=[8,11]'], 12, 12),
    ('{epochs: 12, milestones: [8, 11]}', ['solver.epochs=6'], 12, 6)],
    ids=['epochs', 'steps', 'steps over epochs', 'epochs over steps', 'no epochs', 'milestones in epochs',
         'a shorter schedule of epochs'])
def test_the_last_length_of_the_schedule_applies(
        tmp_path: pathlib.Path, top: str, overrides: list[str], steps: int, epochs: int | None) -> None:
    path = write_yaml(tmp_path, top=f'base: below.yaml\nsolver: {top if "{" in top else "{" + top + "}"}',
                      below='solver: {steps: 90, epochs: null, milestones: [60, 80]}')
    solver = settings.load(path, overrides).solver
    assert (solver.steps, solver.epochs) == (steps, epochs)


@pytest.mark.parametrize('overrides', [['solver.steps=5', 'solver.epochs=2'], ['solver.epochs=2', 'solver.steps=5']],
                         ids=['steps first', 'epochs first'])
def test_steps_and_epochs_together_are_refused(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match='^override .*: solver.steps and solver.epochs are both given; '):
        settings.load('base', overrides)


def test_base_is_a_path_beside_the_file_or_a_packaged_config(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'below').mkdir()
    write_yaml(tmp_path, common='solver: {steps: 7}')
    assert settings.load(write_yaml(tmp_path / 'below', mine='base: ../common.yaml')).solver.steps == 7
    for base in ('nuclei_r18_fpn', 'nuclei_r18_fpn.yaml'):
        assert settings.load(write_yaml(tmp_path, mine=f'base: {base}')) == settings.load('nuclei_r18_fpn')


def test_circular_bases_are_refused(tmp_path: pathlib.Path) -> None:
    top = write_yaml(tmp_path, a='base: b.yaml', b=f'base: ../{tmp_path.name}/a.yaml')
    assert re.search(r'a\.yaml: its base files form a circle', refusal(top))
    assert 'circle' in refusal(write_yaml(tmp_path, self='base: self.yaml'))


def test_a_missing_base_names_both_files(tmp_path: pathlib.Path) -> None:
    top = write_yaml(tmp_path, a='base: nowhere.yaml')
    assert refusal(top).startswith(f'{top}: base: no config nowhere.yaml')


def test_a_missing_config_suggests_a_similar_name() -> None:
    assert refusal('nuclei_r18_fnp') == 'no config nuclei_r18_fnp; did you mean nuclei_r18_fpn?'
    assert refusal('zzz.yaml').endswith('give a YAML file or a name that `mrcnn configs` lists')


@pytest.mark.parametrize(('override', 'expected'), [
    ('solver.step=3', 'unknown key solver.step; did you mean solver.steps?'),
    ('sovler.steps=3', 'unknown key sovler; did you mean solver?'),
    ('learning_rate=3', 'unknown key learning_rate; did you mean solver.learning_rate?'),
    ('solver.batch_size=3', 'unknown key solver.batch_size; did you mean data.batch_size?'),
    ('model.aligned=true', 'unknown key model.aligned; did you mean model.roi.aligned?'),
    ('model.batch_per_image=8', 'did you mean model.rpn.batch_per_image or model.roi.batch_per_image?'),
    ('alternating.zzz=3', 'unknown key alternating.zzz; valid: alternating.steps, alternating.rpn, '
                          'alternating.fast_rcnn'),
    ('solver=3', 'solver is 3: expected a section of keys'),
    ('solver.steps.more=3', "solver.steps is {'more': 3}: expected int"),
])
def test_an_unknown_key_suggests_a_similar_key(override: str, expected: str) -> None:
    message = refusal('base', override)
    assert message.startswith(f'override {override!r}: ') and message.endswith(expected)


@pytest.mark.parametrize(('override', 'expected'), [
    ('solver.steps=many', "solver.steps is 'many': expected int"),
    ('solver.steps=2.5', 'solver.steps is 2.5: expected int'),
    ('solver.steps=true', 'solver.steps is True: expected int'),
    ('solver.steps=', 'solver.steps is None: expected int'),
    ('solver.learning_rate=fast', "solver.learning_rate is 'fast': expected float"),
    ('solver.learning_rate=null', 'solver.learning_rate is None: expected float'),
    ('solver.clip_norm=tight', "solver.clip_norm is 'tight': expected float | None"),
    ('model.anchors.rounded=maybe', "model.anchors.rounded is 'maybe': expected bool"),
    ('data.short_sides=384', 'data.short_sides is 384: expected list[int]'),
    ('data.short_sides=[384.5]', 'data.short_sides is [384.5]: expected list[int]'),
    ('data.short_sides=[null]', 'data.short_sides is [None]: expected list[int]'),
    ('data.short_sides=[[384]]', 'data.short_sides is [[384]]: expected list[int]'),
    ('solver.milestones=[[]]', 'solver.milestones is [[]]: expected list[int]'),
    ('model.anchors.sizes=[[[8]]]', 'model.anchors.sizes is [[[8]]]: expected list[list[float]]'),
    ('alternating.rpn=[{solver.steps: 3}]', "alternating.rpn is [{'solver.steps': 3}]: expected list[str]"),
    ('data.canvases=[384,384]', 'data.canvases is [384, 384]: expected list[list[int]]'),
    ('model.pixel_mean=null', 'model.pixel_mean is None: expected list[float]'),
    ('model.kind=[mask_rcnn]', "model.kind is ['mask_rcnn']: expected str"),
])
def test_a_wrong_type_names_the_expected_type(override: str, expected: str) -> None:
    assert refusal('base', override) == f'override {override!r}: {expected}'


def test_a_wrong_type_in_a_file_names_the_file(tmp_path: pathlib.Path) -> None:
    top = write_yaml(tmp_path, mine='data:\n  batch_size: four')
    assert refusal(top) == f"{top}: data.batch_size is 'four': expected int"


def test_ints_become_floats_and_null_is_none() -> None:
    config = settings.load('base', ['solver.learning_rate=1', 'solver.gamma=1e-3', 'solver.clip_norm=10',
                                    'data.train=null', 'model.pixel_std=[1,2,3]'])
    assert (config.solver.learning_rate, config.solver.gamma, config.solver.clip_norm) == (1.0, 0.001, 10.0)
    assert isinstance(config.solver.learning_rate, float)
    assert config.data.train is None and config.model.pixel_std == [1.0, 2.0, 3.0]
    assert settings.load('nuclei_r18_fpn', ['solver.clip_norm=null']).solver.clip_norm is None


def test_a_value_may_contain_an_equals_sign() -> None:
    assert settings.load('base', ['data.train=/data/fold=3/train.json']).data.train == '/data/fold=3/train.json'


@pytest.mark.parametrize('override', ['solver.steps', '', '=3', 'solver..steps=3', 'solver.=3', 'solver[steps]=3'])
def test_an_override_needs_a_key_and_a_value(override: str) -> None:
    assert refusal('base', override) == f'override {override!r}: expected key=value, such as solver.steps=1000'


def test_an_override_with_invalid_yaml_is_refused() -> None:
    assert refusal('base', 'data.short_sides=[384').startswith("override 'data.short_sides=[384': line ")


@pytest.mark.parametrize('text', ['on', 'off', 'auto'])
def test_on_and_off_stay_strings(text: str, tmp_path: pathlib.Path) -> None:
    assert settings.load('base', [f'train.jit_compile={text}']).train.jit_compile == text
    assert settings.load(write_yaml(tmp_path, mine=f'train: {{jit_compile: {text}}}')).train.jit_compile == text


@pytest.mark.parametrize(('text', 'expected'), [
    ('solver: {steps: 1', 'line '),
    ('solver: {steps: 1}\nsolver: {steps: 2}', 'line 2: '),
    ('- solver', 'expected keys such as "solver:" at the top'),
    ('just words', 'unknown key just words; valid: data, model, solver, train, alternating'),
    ('3', 'expected keys such as "solver:" at the top'),
    ('1: 2', 'unknown key 1; valid: data, model, solver, train, alternating'),
    ('solver:', 'solver is None: expected a section of keys'),
    ('solver: {steps: "${"}', ''),
])
def test_a_file_that_is_not_a_config_is_refused(text: str, expected: str, tmp_path: pathlib.Path) -> None:
    path = write_yaml(tmp_path, mine=text)
    assert refusal(path).startswith(f'{path}: {expected}')


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_bytes(b'solver: {steps: \xff}')
    assert refusal(path).startswith(f'{path}: ')


def test_a_reference_to_another_key_is_resolved(tmp_path: pathlib.Path) -> None:
    path = write_yaml(tmp_path, mine='data: {train: "a/${data.validation}", validation: b.json}')
    assert settings.load(path).data.train == 'a/b.json'
    assert settings.load('base', ['data.train=${data.validation}', 'data.validation=c.json']).data.train == 'c.json'
    assert 'solver.steps' in refusal('base', 'solver.steps=${data.nothing}')
    assert 'solver.steps' in refusal('base', 'solver.steps=???')


@pytest.mark.parametrize('text', [
    '${oc.env:SECRET}', 'a/${oc.env:SECRET}/b', '${oc.env:SECRET,x}', '${oc.decode:x}', '${oc.create:{}}',
    '${${data.validation}:SECRET}', '$${data.validation}{oc.env:SECRET}', '${ oc.env : SECRET }', '\\${oc.env:SECRET}'])
def test_resolvers_are_refused(
        text: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('SECRET', 'not to be read')
    for content in (f"data: {{train: '{text}', validation: oc.env}}", f"'{text}': 1", f"base: '{text}'",
                    f"model: {{rpn: {{scales: ['{text}']}}}}"):
        path = write_yaml(tmp_path, mine=content)
        refused = refusal(path)
        assert refused.startswith(f'{path}: "') and 'write the value itself' in refused
    assert 'write the value itself' in refusal('base', f'data.train={text}')


@pytest.mark.parametrize('text', [
    'a: &a [1]\n' + ''.join(f'{b}: &{b} [{f"*{a}, " * 9}]\n' for a, b in zip('abcdef', 'bcdefg', strict=True)),
    'a: &a [*a]', 'a: ' + '[' * 100_000, '[' * 1000, 'a: {' * 1000, f'solver: {{steps: {"9" * 5000}}}',
    f'data: {{train: 0x{"f" * 5000}}}', 'x' * 10 ** 7], ids=[
        'aliases', 'alias of itself', 'lists', 'lists at the top', 'maps', 'digits', 'hexadecimal', 'a long key'])
def test_a_malicious_file_is_refused_with_a_short_message(text: str, tmp_path: pathlib.Path) -> None:
    assert len(refusal(write_yaml(tmp_path, mine=text))) < 1000


def test_only_regular_files_are_read(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / 'a.yaml')
    assert 'a.yaml' in refusal(tmp_path / 'a.yaml')


def test_mask_settings_need_a_mask_head(tmp_path: pathlib.Path) -> None:
    """Mask settings of a `base`, or of a saved config, are ignored."""
    asked = 'model.mask_head.classifier=softmax'
    remedy = 'has no mask head; set model.kind=mask_rcnn or remove model.mask_head'
    assert refusal('faster_rcnn_vgg16', asked) == (
        f'override {asked!r}: model.mask_head is set and model.kind is faster_rcnn, which {remedy}')
    text = 'base: mask_rcnn_r50_fpn_1x\nmodel: {kind: faster_rcnn, mask_head: {classifier: softmax}}'
    top = write_yaml(tmp_path, mine=text)
    assert refusal(top).startswith(f'{top}: model.mask_head is set') and refusal(top).endswith(remedy)
    mask_rcnn = settings.load(write_yaml(tmp_path, mine=text.replace('faster', 'mask')))
    assert mask_rcnn.model.mask_head.classifier == 'softmax'
    detector = settings.load('mask_rcnn_r50_c4_softmax', ['model.kind=faster_rcnn'])
    settings.save(detector, tmp_path / 'config.yaml')
    assert settings.load(tmp_path / 'config.yaml') == detector


def test_changed_returns_a_validated_copy() -> None:
    config = settings.load('base')
    made = settings.changed(config, ['solver.steps=7', 'model.backbone.frozen=True'])
    assert (made.solver.steps, made.model.backbone.frozen) == (7, True) and made.solver.gamma == config.solver.gamma
    assert config == settings.load('base')
    with pytest.raises(ConfigError, match='solver.steps is 0: expected at least 1'):
        settings.changed(config, ['solver.steps=0'])


@pytest.mark.parametrize(('section', 'expected'), [
    ('alternating.rpn=[solver.stepz=3]', "override 'solver.stepz=3': unknown key solver.stepz; did you mean"),
    ('alternating.fast_rcnn=[solver.steps=0]', 'solver.steps is 0: expected at least 1'),
    ('alternating.rpn=[steps]', "override 'steps': expected key=value"),
    ('alternating.steps=5', 'alternating.steps is 5: expected at least 1 and at most 4')])
def test_alternating_overrides_are_checked_when_the_config_is_loaded(section: str, expected: str) -> None:
    assert refusal('base', section).startswith(expected)


@pytest.mark.parametrize('name', settings.packaged())
def test_every_packaged_config_loads_and_saves(name: str, tmp_path: pathlib.Path) -> None:
    config = settings.load(name, ['data.train=a b#c/d.json', 'train.jit_compile=off'])
    settings.save(config, tmp_path / 'config.yaml')
    assert settings.load(tmp_path / 'config.yaml') == config
    assert [path.name for path in tmp_path.iterdir()] == ['config.yaml']


@pytest.mark.slow
def test_packaged_configs_are_the_files_of_the_repository() -> None:
    folder = ROOT / 'configs'
    assert settings.packaged() == sorted(path.stem for path in folder.glob('*.yaml'))
    for path in folder.glob('*.yaml'):
        assert settings.load(path) == settings.load(path.stem)


def test_a_packaged_config_loads_from_any_directory(tmp_path: pathlib.Path) -> None:
    package = pathlib.Path(settings.__file__).parents[2]
    code = f'import sys; sys.path.insert(0, {str(package)!r}); from mrcnn_tf import config; ' \
           'print(config.load("nuclei_r18_fpn.yaml").model.box_head.width)'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '256'

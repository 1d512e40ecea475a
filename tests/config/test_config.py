"""Settings: what is read, merged, refused. Every refusal is one line that names the field."""
from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest

from mrcnn_tf import config as settings
from mrcnn_tf.config import Config, ConfigError, ModelConfig
from tests.paths import ROOT


def _write(folder: pathlib.Path, **files: str) -> pathlib.Path:
    """Writes NAME.yaml for each keyword; returns the first."""
    for name, text in files.items():
        (folder / f'{name}.yaml').write_text(text)
    return folder / f'{next(iter(files))}.yaml'


def _refusal(source: str | pathlib.Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings.load(source, overrides)
    message = str(caught.value)
    assert '\n' not in message
    return message


def test_a_file_without_keys_gives_the_defaults(tmp_path: pathlib.Path) -> None:
    assert settings.load(_write(tmp_path, empty='')) == Config()


def test_the_top_file_wins_over_its_bases_and_an_override_over_all(tmp_path: pathlib.Path) -> None:
    top = _write(
        tmp_path,
        top='base: middle.yaml\nsolver: {steps: 3}',
        middle='base: bottom.yaml\nsolver: {steps: 2, gamma: 0.5}\ndata: {short_sides: [64, 96]}',
        bottom='solver: {steps: 1, gamma: 0.25, momentum: 0.8}\ndata: {short_sides: [32]}')
    config = settings.load(top, ['solver.momentum=0.7', 'solver.momentum=0.6'])
    assert (config.solver.steps, config.solver.gamma, config.solver.momentum) == (3, 0.5, 0.6)
    assert config.data.short_sides == [64, 96]          # a list replaces a list


def test_a_base_lies_beside_its_file_or_comes_with_the_package(tmp_path: pathlib.Path) -> None:
    (tmp_path / 'below').mkdir()
    _write(tmp_path, common='solver: {steps: 7}')
    assert settings.load(_write(tmp_path / 'below', mine='base: ../common.yaml')).solver.steps == 7
    for base in ('nuclei_r18_fpn', 'nuclei_r18_fpn.yaml'):
        assert settings.load(_write(tmp_path, mine=f'base: {base}')) == settings.load('nuclei_r18_fpn')


def test_a_circle_of_bases_is_named(tmp_path: pathlib.Path) -> None:
    top = _write(tmp_path, a='base: b.yaml', b=f'base: ../{tmp_path.name}/a.yaml')
    assert re.search(r'a\.yaml: its base files form a circle', _refusal(top))
    assert 'circle' in _refusal(_write(tmp_path, self='base: self.yaml'))


def test_a_missing_base_names_both_files(tmp_path: pathlib.Path) -> None:
    top = _write(tmp_path, a='base: nowhere.yaml')
    assert _refusal(top).startswith(f'{top}: base: no config nowhere.yaml')


def test_a_missing_config_names_the_nearest() -> None:
    assert _refusal('nuclei_r18_fnp') == 'no config nuclei_r18_fnp; did you mean nuclei_r18_fpn?'
    assert 'give a YAML file or one of base, ' in _refusal('zzz.yaml')


@pytest.mark.parametrize(('override', 'expected'), [
    ('solver.step=3', 'unknown key solver.step; did you mean solver.steps?'),
    ('sovler.steps=3', 'unknown key sovler; did you mean solver?'),
    ('learning_rate=3', 'unknown key learning_rate; did you mean solver.learning_rate?'),
    ('solver.batch_size=3', 'unknown key solver.batch_size; did you mean data.batch_size?'),
    ('model.aligned=true', 'unknown key model.aligned; did you mean model.roi.aligned?'),
    ('model.batch_per_image=8', 'did you mean model.rpn.batch_per_image or model.roi.batch_per_image?'),
    ('alternating.zzz=3', 'unknown key alternating.zzz; valid: alternating.steps, alternating.rpn, '
                          'alternating.fast_rcnn'),
    ('solver=3', 'solver is 3: expected keys below it'),
    ('solver.steps.more=3', "solver.steps is {'more': 3}: expected int"),
])
def test_an_unknown_key_names_the_nearest(override: str, expected: str) -> None:
    message = _refusal('base', override)
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
def test_a_wrong_type_names_the_right_one(override: str, expected: str) -> None:
    assert _refusal('base', override) == f'override {override!r}: {expected}'


def test_a_wrong_type_in_a_file_names_the_file(tmp_path: pathlib.Path) -> None:
    top = _write(tmp_path, mine='data:\n  batch_size: four')
    assert _refusal(top) == f"{top}: data.batch_size is 'four': expected int"


def test_what_may_stand_for_a_number_or_nothing() -> None:
    config = settings.load('base', ['solver.learning_rate=1', 'solver.gamma=1e-3', 'solver.clip_norm=10',
                                    'data.train=null', 'model.pixel_std=[1,2,3]'])
    assert (config.solver.learning_rate, config.solver.gamma, config.solver.clip_norm) == (1.0, 0.001, 10.0)
    assert isinstance(config.solver.learning_rate, float)
    assert config.data.train is None and config.model.pixel_std == [1.0, 2.0, 3.0]
    assert settings.load('nuclei_r18_fpn', ['solver.clip_norm=null']).solver.clip_norm is None


def test_a_value_may_hold_an_equals_sign() -> None:
    assert settings.load('base', ['data.train=/data/fold=3/train.json']).data.train == '/data/fold=3/train.json'


@pytest.mark.parametrize('override', ['solver.steps', '', '=3', 'solver..steps=3', 'solver.=3', 'solver[steps]=3'])
def test_an_override_without_key_or_value(override: str) -> None:
    assert _refusal('base', override) == f'override {override!r}: expected key=value, such as solver.steps=1000'


def test_an_override_that_is_no_yaml() -> None:
    assert _refusal('base', 'data.short_sides=[384').startswith("override 'data.short_sides=[384': line ")


@pytest.mark.parametrize(('override', 'expected'), [
    ('solver.schedule=cosin', "solver.schedule is 'cosin'; did you mean cosine?"),
    ('solver.optimizer=zzz', "solver.optimizer is 'zzz'; expected one of sgd, adamw"),
    ('model.backbone.name=resnet', "model.backbone.name is 'resnet'; did you mean resnet"),
    ('model.rpn.loss_normalizer=3', "model.rpn.loss_normalizer is '3'; expected one of batch, sampled"),
])
def test_a_choice_outside_its_options(override: str, expected: str) -> None:
    assert _refusal('base', override).startswith(expected)


@pytest.mark.parametrize('text', ['on', 'off', 'auto'])
def test_on_and_off_stay_words_though_yaml_reads_booleans(text: str, tmp_path: pathlib.Path) -> None:
    assert settings.load('base', [f'train.jit_compile={text}']).train.jit_compile == text
    assert settings.load(_write(tmp_path, mine=f'train: {{jit_compile: {text}}}')).train.jit_compile == text


@pytest.mark.parametrize(('text', 'expected'), [
    ('solver: {steps: 1', 'line '),
    ('solver: {steps: 1}\nsolver: {steps: 2}', 'line 2: found duplicate key solver'),
    ('- solver', 'expected keys such as "solver:" at the top'),
    ('just words', 'unknown key just words; valid: data, model, solver, train, alternating'),
    ('3', 'Invalid loaded object type: int'),
    ('1: 2', 'unknown key 1; valid: data, model, solver, train, alternating'),
    ('solver:', 'solver is None: expected keys below it'),
    ('solver: {steps: "${"}', ''),
])
def test_a_file_that_is_no_config(text: str, expected: str, tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, mine=text)
    assert _refusal(path).startswith(f'{path}: {expected}')


def test_bytes_that_are_no_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_bytes(b'solver: {steps: \xff}')
    assert _refusal(path).startswith(f'{path}: ')


def test_a_reference_to_another_key(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, mine='data: {train: "a/${data.validation}", validation: b.json}')
    assert settings.load(path).data.train == 'a/b.json'
    assert settings.load('base', ['data.train=${data.validation}', 'data.validation=c.json']).data.train == 'c.json'
    assert 'solver.steps' in _refusal('base', 'solver.steps=${data.nothing}')
    assert 'solver.steps' in _refusal('base', 'solver.steps=???')


@pytest.mark.parametrize('text', [
    '${oc.env:SECRET}', 'a/${oc.env:SECRET}/b', '${oc.env:SECRET,x}', '${oc.decode:x}', '${oc.create:{}}',
    '${${data.validation}:SECRET}', '$${data.validation}{oc.env:SECRET}', '${ oc.env : SECRET }', '\\${oc.env:SECRET}'])
def test_anything_else_that_is_computed_is_refused(
        text: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('SECRET', 'not to be read')
    for content in (f"data: {{train: '{text}', validation: oc.env}}", f"'{text}': 1", f"base: '{text}'",
                    f"model: {{rpn: {{scales: ['{text}']}}}}"):
        path = _write(tmp_path, mine=content)
        refused = _refusal(path)
        assert refused.startswith(f'{path}: "') and 'write the value itself' in refused
    assert 'write the value itself' in _refusal('base', f'data.train={text}')


@pytest.mark.parametrize('text', [
    'a: &a [1]\n' + ''.join(f'{b}: &{b} [{f"*{a}, " * 9}]\n' for a, b in zip('abcdef', 'bcdefg', strict=True)),
    'a: &a [*a]', 'a: ' + '[' * 100_000, '[' * 1000, 'a: {' * 1000, f'solver: {{steps: {"9" * 5000}}}',
    f'data: {{train: 0x{"f" * 5000}}}', 'x' * 10 ** 7], ids=[
        'aliases', 'alias of itself', 'lists', 'lists at the top', 'maps', 'digits', 'hexadecimal', 'a long key'])
def test_a_hostile_file_is_refused_in_one_short_line(text: str, tmp_path: pathlib.Path) -> None:
    assert len(_refusal(_write(tmp_path, mine=text))) < 1000


def test_only_regular_files_are_read(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / 'a.yaml')
    assert 'a.yaml' in _refusal(tmp_path / 'a.yaml')


def _numeric(schema: Any, prefix: str = '') -> dict[str, str]:
    """Dotted name and declared type of every field that holds numbers."""
    found = {}
    for f in dataclasses.fields(schema):
        inner: Any = f.default_factory
        if dataclasses.is_dataclass(inner):
            found.update(_numeric(inner, f'{prefix}{f.name}.'))
        elif 'int' in str(f.type) or 'float' in str(f.type):
            found[prefix + f.name] = str(f.type)
    return found


def _out_of_range(value: str, kind: str) -> str:
    depth = kind.count('list')
    return '[' * depth + value + ']' * depth


_NUMERIC = _numeric(Config)
_MAY_BE_NEGATIVE = ('model.pixel_mean', 'model.anchors.offset')


def test_the_schema_has_numbers_of_every_depth() -> None:
    assert {'solver.steps': 'int', 'solver.clip_norm': 'float | None', 'model.anchors.sizes': 'list[list[float]]'
            }.items() <= _NUMERIC.items()


@pytest.mark.parametrize('name', [name for name in _NUMERIC if name not in _MAY_BE_NEGATIVE])
def test_every_number_has_a_limit(name: str) -> None:
    text = _out_of_range('-1', _NUMERIC[name])
    assert re.match(rf'{re.escape(name)} is \[*-1(\.0)?\]*: expected ', _refusal('base', f'{name}={text}'))


@pytest.mark.parametrize('name', [name for name, kind in _NUMERIC.items() if 'float' in kind])
@pytest.mark.parametrize('text', ['.nan', '.inf'])
def test_every_float_is_finite(name: str, text: str) -> None:
    assert _refusal('base', f'{name}={_out_of_range(text, _NUMERIC[name])}').startswith(f'{name} is ')


@pytest.mark.parametrize(('override', 'expected'), [
    ('data.short_sides=[]', 'at least one side'),
    ('data.canvases=[]', '[height, width] pairs that 32 divides'),
    ('data.canvases=[[384]]', '[height, width] pairs that 32 divides'),
    ('data.canvases=[[384,400]]', '[height, width] pairs that 32 divides'),
    ('data.canvases=[[384,0]]', 'at least 1'),
    ('data.test_scales=[400,0]', 'at least 1'),
    ('data.test_scales=[400,800,400]', 'short sides that differ'),
    ('data.flip_horizontal=1.5', '0 to 1'),
    ('model.pixel_mean=[0,0]', 'three numbers'),
    ('model.pixel_std=[1,0,1]', 'above 0'),
    ('model.pixel_std=[1]', 'three numbers'),
    ('model.backbone.frozen_stages=6', '0 to 5'),
    ('model.backbone.tdm_stride=16', '4 or 8'),
    ('model.anchors.sizes=[[8],[16],[32],[64]]', 'one list of sizes for each of P2..P6'),
    ('model.anchors.sizes=[[8],[16],[32],[64],[128,256]]', 'all of one length'),
    ('model.anchors.sizes=[[],[],[],[],[]]', 'one list of sizes for each of P2..P6'),
    ('model.anchors.ratios=[]', 'at least one ratio'),
    ('model.rpn.negative_iou=0.8', 'at most model.rpn.positive_iou'),
    ('model.rpn.positive_fraction=0', 'at least 1 / model.rpn.batch_per_image'),
    ('model.roi.positive_fraction=0.001', 'at least 1 / model.roi.batch_per_image'),
    ('model.roi.background_iou=0.6', 'at most the IoU below which RoIs are negative'),
    ('model.box_head.dropout=1', '0 or more and below 1'),
    ('model.roi.canonical_level=6', 'one of the levels 2 to 5'),
    ('model.box_head.box_weights=[1,1]', 'four numbers'),
    ('solver.milestones=[8,4]', 'steps in ascending order'),
    ('solver.milestones=[4,4]', 'steps in ascending order'),
])
def test_an_impossible_value(override: str, expected: str) -> None:
    message = _refusal('base', override)
    assert message.startswith(f'{override.split("=")[0]} is ') and expected in message


@pytest.mark.parametrize(('source', 'overrides', 'expected'), [
    ('base', ['model.backbone.name=vgg16'], 'model.backbone.maps is fpn: expected tdm or c5 with .*vgg16'),
    ('base', ['model.backbone.name=inception_resnet_v2', 'model.backbone.norm=group'], 'model.backbone.norm is group'),
    ('base', ['model.backbone.maps=c4', 'model.anchors.sizes=[[8]]', 'model.mask_head.pool_size=7'],
     'model.box_head.pool_size is 7: expected an even number'),
    ('base', ['model.backbone.maps=tdm'], 'model.anchors.sizes is .* one list of all sizes'),
    ('base', ['data.test_scales=[400,800]', 'data.evaluation_batch_size=2'], 'evaluation_batch_size is 2: expected 1'),
    ('base', ['model.backbone.maps=c4'], 'model.anchors.sizes is .* one list of all sizes'),
    ('mask_rcnn_r50_c4_1x', ['model.backbone.fpn_norm=group'], 'model.backbone.fpn_norm is group: expected none with'),
    ('base', ['model.roi.layer=pool', 'model.roi.sampling_ratio=1'], 'model.roi.aggregate is average: expected max'),
    ('base', ['model.roi.layer=pool', 'model.roi.aggregate=max'], 'model.roi.sampling_ratio is 0: expected 1 with'),
    ('base', ['model.cascade.positive_iou=[0.6]'], r'cascade.box_weights is \[\]: expected four numbers for each'),
    ('cascade_mask_rcnn_r50_fpn_1x', ['model.cascade.box_weights=[[1,1,1,1],[1]]'], 'expected four numbers for each'),
    ('cascade_mask_rcnn_r50_fpn_1x', ['model.box_head.class_agnostic=false'], 'is False: expected true with model.cas'),
    ('mask_rcnn_r50_c4_1x', ['model.box_head.dropout=0.5'], 'model.box_head.dropout is 0.5: expected 0 with'),
    ('mask_rcnn_r50_c4_1x', ['model.mask_head.pool_size=7'], 'model.mask_head.pool_size is 7: expected model.box_head'),
    ('mask_rcnn_r50_c4_softmax', ['model.mask_head.class_agnostic=true'], 'class_agnostic is True: expected false')])
def test_settings_that_do_not_go_together(source: str, overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as error:
        settings.load(source, overrides)
    assert '\n' not in str(error.value)


def test_masks_are_not_asked_for_without_a_mask_head(tmp_path: pathlib.Path) -> None:
    """By name: those of a base, or of a resolved file, are of no account."""
    asked = 'model.mask_head.classifier=softmax'
    remedy = 'has no mask head; set model.kind=mask_rcnn or leave model.mask_head out'
    assert _refusal('faster_rcnn_vgg16', asked) == (
        f'override {asked!r}: model.mask_head is set and model.kind is faster_rcnn, which {remedy}')
    text = 'base: mask_rcnn_r50_fpn_1x\nmodel: {kind: faster_rcnn, mask_head: {classifier: softmax}}'
    top = _write(tmp_path, mine=text)
    assert _refusal(top).startswith(f'{top}: model.mask_head is set') and _refusal(top).endswith(remedy)
    assert settings.load(_write(tmp_path, mine=text.replace('faster', 'mask'))).model.mask_head.classifier == 'softmax'
    detector = settings.load('mask_rcnn_r50_c4_softmax', ['model.kind=faster_rcnn'])
    settings.save(detector, tmp_path / 'config.yaml')
    assert settings.load(tmp_path / 'config.yaml') == detector


def test_a_changed_copy() -> None:
    config = settings.load('base')
    made = settings.changed(config, ['solver.steps=7', 'model.backbone.frozen=True'])
    assert (made.solver.steps, made.model.backbone.frozen) == (7, True) and made.solver.gamma == config.solver.gamma
    assert config == settings.load('base')
    with pytest.raises(ConfigError, match="override 'solver.steps=0'|solver.steps is 0: expected at least 1"):
        settings.changed(config, ['solver.steps=0'])


@pytest.mark.parametrize(('section', 'expected'), [
    ('alternating.rpn=[solver.stepz=3]', "override 'solver.stepz=3': unknown key solver.stepz; did you mean"),
    ('alternating.fast_rcnn=[solver.steps=0]', 'solver.steps is 0: expected at least 1'),
    ('alternating.rpn=[steps]', "override 'steps': expected key=value"),
    ('alternating.steps=5', 'alternating.steps is 5: expected 1 to 4')])
def test_what_differs_in_steps_is_checked_when_it_is_read(section: str, expected: str) -> None:
    assert _refusal('base', section).startswith(expected)


@pytest.mark.parametrize('name', settings.packaged())
def test_every_packaged_config_loads_and_survives_saving(name: str, tmp_path: pathlib.Path) -> None:
    config = settings.load(name, ['data.train=a b#c/d.json', 'train.jit_compile=off'])
    settings.save(config, tmp_path / 'config.yaml')
    assert settings.load(tmp_path / 'config.yaml') == config
    assert [path.name for path in tmp_path.iterdir()] == ['config.yaml']


@pytest.mark.slow
def test_the_packaged_configs_are_the_files_of_the_repository() -> None:
    folder = ROOT / 'configs'
    assert settings.packaged() == sorted(path.stem for path in folder.glob('*.yaml'))
    for path in folder.glob('*.yaml'):
        assert settings.load(path) == settings.load(path.stem)


def test_a_packaged_config_is_found_from_any_folder(tmp_path: pathlib.Path) -> None:
    package = pathlib.Path(settings.__file__).parents[2]
    code = f'import sys; sys.path.insert(0, {str(package)!r}); from mrcnn_tf import config; ' \
           'print(config.load("nuclei_r18_fpn.yaml").model.box_head.width)'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '256'


def test_the_published_recipe_is_detectron2s() -> None:
    """Numbers of Detectron2's Base-RCNN-FPN.yaml and mask_rcnn_R_50_FPN_1x.yaml."""
    config = settings.load('mask_rcnn_r50_fpn_1x')
    solver, model, data = config.solver, config.model, config.data
    assert (solver.optimizer, solver.learning_rate, solver.momentum, solver.weight_decay) == ('sgd', 0.02, 0.9, 1e-4)
    assert (solver.steps, solver.milestones, solver.gamma, solver.schedule) == (90000, [60000, 80000], 0.1, 'step')
    assert (solver.warmup_steps, solver.warmup_factor, solver.reference_batch) == (1000, 0.001, 16)
    assert solver.decay_biases and solver.clip_norm is None
    assert (model.rpn.pre_nms_train, model.rpn.pre_nms_test) == (2000, 1000)
    assert (model.rpn.post_nms_train, model.rpn.post_nms_test, model.rpn.smooth_l1_beta) == (1000, 1000, 0.0)
    assert (model.roi.batch_per_image, model.roi.aligned, model.roi.sampling_ratio) == (512, True, 0)
    assert (model.backbone.frozen_stages, model.backbone.norm, model.backbone.weights) == (2, 'frozen', 'imagenet')
    assert (data.short_sides, data.long_side) == ([640, 672, 704, 736, 768, 800], 1333)


def test_the_published_recipes_canvases_hold_every_aspect() -> None:
    """Sides of an 800/1333 resize: the short one at most 800, the long one at most 1333, either way round."""
    canvases = settings.load('mask_rcnn_r50_fpn_1x').data.canvases
    for height, width in [(800, 1333), (1333, 800), (800, 800), (800, 1067), (1067, 800), (444, 1333)]:
        assert any(canvas[0] >= height and canvas[1] >= width for canvas in canvases)


@pytest.mark.parametrize(('kind', 'needs'), [
    ('mask_rcnn', ('masks',)), ('fast_rcnn', ('proposals',)), ('faster_rcnn', ()), ('rpn', ())])
def test_what_a_model_needs_of_a_training_batch(kind: str, needs: tuple[str, ...]) -> None:
    assert ModelConfig(kind=kind).needs == needs

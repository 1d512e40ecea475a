"""A stage broken on purpose is named as the first that differs, whatever comes after it."""
from __future__ import annotations

import dataclasses

import pytest

from tests.parity import bisect, inference_stages
from tests.parity.reference import Case, Difference


@pytest.fixture(scope='module')
def case(kit) -> str:
    """The smallest inference case."""
    names = kit.cases('infer')
    if not names:
        pytest.skip(f'{kit.folder} has no infer_*.npz')
    return names[0]


def setter(name: str, value: object):
    def change(config) -> None:
        *path, field = name.split('.')
        for part in path:
            config = getattr(config, part)
        assert getattr(config, field) != value
        setattr(config, field, value)
    return change


@pytest.mark.slow
def test_the_first_stage_that_differs(kit, case, capsys) -> None:
    """Of the whole network."""
    first = bisect.report(bisect.stages(kit, case, 'op', False, setter('roi.aligned', True)))
    assert first is not None and not first.held and first.stage == 'stored roi_pooled_0'
    printed = capsys.readouterr().out.splitlines()
    marked = [line for line in printed if line.endswith('DIFFERS')]
    assert marked[0].startswith('stored roi_pooled_0') and len(printed) > len(marked) + 10


@pytest.mark.parametrize(('field', 'value', 'culprit'), [
    ('anchors.offset', .5, 'anchors'), ('rpn.nms_iou', .3, 'stored proposals'),
    ('roi.canonical_level', 5, 'stored proposal_levels'), ('detections.nms_iou', .1, 'stored det_boxes'),
    ('detections.paste', 'pixel_center', 'stored det_pasted')])
def test_the_first_piece_that_differs(kit, case, field, value, culprit) -> None:
    """Fed with stored numbers, a broken piece spoils none that comes after it."""
    loaded = Case(kit, case)
    settings = loaded.settings()
    setter(field, value)(settings)
    found = list(inference_stages.pieces(loaded, settings, 'op', False))
    if culprit not in {d.stage.rstrip('_0123456789') for d in found}:
        pytest.skip(f'{case} does not store what {culprit} is made of')
    wrong = list(dict.fromkeys(d.stage.rstrip('_0123456789') for d in found if not d.held))
    assert wrong and wrong[0] == culprit and set(wrong) <= {culprit, ALONG.get(culprit)}


# What is read off the same call, or by the same rule.
ALONG = {'stored proposals': 'stored proposal_scores', 'stored det_boxes': 'stored det_scores',
         'stored proposal_levels': 'stored det_levels'}


def test_report_names_the_first_and_how_far(capsys) -> None:
    stages = [Difference('a', .1, .2), Difference('b', float('nan'), .2), Difference('c', float('inf'), 9.)]
    first = bisect.report(iter(stages))
    assert first is stages[1] and str(first) == 'b differs by nan, at most 0.2 is allowed'
    assert [line[:1] for line in capsys.readouterr().out.splitlines()[1:] if line.endswith('DIFFERS')] == ['b', 'c']
    assert bisect.report([dataclasses.replace(stages[0], size=.2)]) is None


def test_command_line(kit, case, capsys, monkeypatch, tmp_path) -> None:
    held, apart = [Difference('a', 0., 0.)], [Difference('a', 0., 0.), Difference('b', 1., .5)]
    for stages, status, last in ((held, 0, 'all stages hold'),
                                 (apart, 1, 'first stage that differs: b differs by 1, at most 0.5 is allowed')):
        asked = []
        monkeypatch.setattr(bisect, 'stages', lambda *args, found=stages, asked=asked: asked.append(args) or found)
        assert bisect.main([case, '--kit', str(kit.folder), '--engine', 'xla', '--jit']) == status
        assert capsys.readouterr().out.splitlines()[-1] == last
        assert asked[0][0].folder == kit.folder and asked[0][1:] == (case, 'xla', True)
    assert bisect.main([case, '--kit', str(tmp_path)]) == 2
    assert capsys.readouterr().err == f'{tmp_path}: no parity kit, it lacks weights.py\n'
    with pytest.raises(SystemExit):
        bisect.main([case, '--jit'])
    assert '--jit takes --engine xla' in capsys.readouterr().err


def test_the_kit_of_a_case(tmp_path, monkeypatch) -> None:
    folders = [tmp_path / 'one', tmp_path / 'two']
    for folder, name in zip(folders, 'ab', strict=True):
        folder.mkdir()
        (folder / f'infer_{name}.npz').touch()
    monkeypatch.setattr(bisect, 'DEFAULT_KITS', folders)
    assert [bisect.kit_of(case) for case in ('infer_b', 'infer_a', 'infer_c')] == [folders[1], folders[0], folders[0]]


def test_an_unknown_case_is_named(kit, capsys) -> None:
    assert bisect.main(['infer_nothing', '--kit', str(kit.folder)]) == 2
    assert 'infer_nothing.npz' in capsys.readouterr().err

"""The table of differences, from lines worked by hand."""
from __future__ import annotations

import json
import pathlib

import pytest

from tests.parity import table

NEW, OLD = 'TF 2.21.0, Keras 3.15.1', 'TF 2.15.1, Keras 2.15.0'


def line(stage: str, size: float, limit: float = .5, stack: str = NEW, mode: str = 'op graph', case: str = 'a') -> str:
    engine, _, mode = mode.partition(' ')
    return json.dumps({'stack': stack, 'case': case, 'engine': engine, 'mode': mode, 'stage': stage, 'size': size,
                       'limit': limit})


LINES = [
    line('anchors', 9.), line('fpn_0', .125), line('fpn_pool', .25), line('fpn_0', .375, stack=OLD),
    line('fpn_1', .0625, mode='xla jit'), line('loss_mask 0', 1e-5), line('loss_mask 2', 3e-4),
    line('loss_mask 3', 2e-4),
    line('chain det_pasted_0', 3, 5.), line('chain det_pasted_1', 7, 65.25), line('bfloat16 x', 1., mode='op bfloat16'),
    line('bfloat16 x', .5, mode='op bfloat16', case='b'),
    line('bfloat16 x', .25, stack=OLD, mode='op bfloat16', case='b'),
    line('SavedModel boxes', .25, mode='op SavedModel'), line('SavedModel boxes', .1, stack=OLD, mode='op SavedModel'),
    line('nms_keep_30', 0, 0, mode='op eager', case='ops'), line('roi_align_7x7_aligned_ratio2_grad', 1e-5, 4e-5, OLD,
                                                                  'op graph', 'ops'),
    line('anchors', 0., 0.)]      # run again: this counts, at this place
EXPECTED = """\
| stage | limit | TF 2.21 op | TF 2.21 xla | TF 2.21 xla jit | TF 2.15 op | TF 2.15 xla | TF 2.15 xla jit |
|---|---|---|---|---|---|---|---|
| fpn | 0.5 | 0.25 |  | 0.062 | 0.38 |  |  |
| loss_mask, before the first step | 0.5 | 1e-05 |  |  |  |  |  |
| loss_mask, after steps | 0.5 | 0.0003 |  |  |  |  |  |
| chain det_pasted | 5 to 65 | 7 |  |  |  |  |  |
| anchors | 0 | 0 |  |  |  |  |  |

| operators | TF 2.21 | TF 2.15 |
|---|---|---|
| nms_keep | 0 |  |
| roi_align_grad |  | 0.25 |

| case | bfloat16 x |
|---|---|
| a | 1 |
| b | 0.5 |

| | limit | TF 2.21 | TF 2.15 |
|---|---|---|---|
| SavedModel boxes | 0.5 | 0.25 | 0.1 |"""


def test_tables() -> None:
    assert table.tables(table.rows(LINES)) == EXPECTED


def test_the_document_keeps_the_rest(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    differences, document = tmp_path / 'd.jsonl', tmp_path / 'd.md'
    differences.write_text('\n'.join(LINES))
    document.write_text(f'# Head\n{table.BEGIN}\nold\n{table.END}\nfoot\n')
    for _ in range(2):
        assert table.main([str(differences), str(document)]) == 0
    assert document.read_text() == f'# Head\n{table.BEGIN}\n\n{EXPECTED}\n\n{table.END}\nfoot\n'
    assert table.main([str(differences)]) == 0 and capsys.readouterr().out == EXPECTED + '\n'


def test_bad_input(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    differences, document = tmp_path / 'd.jsonl', tmp_path / 'd.md'
    document.write_text('no place')
    for text, message in (('[]', 'line 1 is not'), (LINES[0] + '\n{"stack": 1}', 'line 2 is not')):
        differences.write_text(text)
        assert table.main([str(differences), str(document)]) == 1 and message in capsys.readouterr().err
    differences.write_text(LINES[0])
    assert table.main([str(differences), str(document)]) == 1
    assert 'no place for the table' in capsys.readouterr().err and document.read_text() == 'no place'
    assert table.main([str(tmp_path / 'none')]) == 1

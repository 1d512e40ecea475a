"""What benchmarks/xla_report.py counts in a compiled program, on programs small enough to count by hand."""
from __future__ import annotations

import numpy as np
import pytest

from benchmarks import xla_report

PROGRAM = """HloModule small

%gathered (param_0.1: f32[1000,4], param_1.1: s32[8,1]) -> f32[8,4] {
  %param_0.1 = f32[1000,4]{1,0} parameter(0)
  %bitcast.1 = f32[1000,4]{1,0} bitcast(%param_0.1)
  %param_1.1 = s32[8,1]{1,0} parameter(1)
  %gather.1 = f32[8,4]{1,0} gather(%bitcast.1, %param_1.1), offset_dims={1}
  ROOT %add.1 = f32[8,4]{1,0} add(%gather.1, %gather.1)
}

%body (state: (s32[], f32[1000,4])) -> (s32[], f32[1000,4]) {
  %state = (s32[], f32[1000,4]{1,0}) parameter(0)
  %table = f32[1000,4]{1,0} get-tuple-element(%state), index=1
  %rows = s32[8,1]{1,0} constant({...})
  %updates = f32[8,4]{1,0} constant({...})
  %scatter.1 = f32[1000,4]{1,0} scatter(%table, %rows, %updates), to_apply=%sum
  ROOT %next = (s32[], f32[1000,4]{1,0}) tuple(%state, %scatter.1)
}

ENTRY %main (a: f32[2,3], b: f32[3,5], t: f32[1000,4], i: s32[8,1]) -> f32[2,5] {
  %a = f32[2,3]{1,0} parameter(0)
  %b = f32[3,5]{1,0} parameter(1)
  %t = f32[1000,4]{1,0} parameter(2)
  %i = s32[8,1]{1,0} parameter(3)
  %start = (s32[], f32[1000,4]{1,0}) tuple(%i, %t)
  %few = f32[8,4]{1,0} fusion(%t, %i), kind=kLoop, calls=%gathered
  %loop = (s32[], f32[1000,4]{1,0}) while(%start), condition=%c, body=%body, metadata={op_name="adds"}KNOWN
  ROOT %dot.1 = f32[2,5]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
FUSION = 4 * (8 * 4 + 8 + 8 * 4)          # gathered rows, their numbers, the result; not the whole table
SCATTER = 4 * (2 * 8 * 4 + 8 + 8 * 4)     # rows read and written, their numbers, the updates
DOT = 4 * (2 * 3 + 3 * 5 + 2 * 5)


@pytest.mark.parametrize(('known', 'times'), [
    pytest.param(', backend_config={"known_trip_count":{"n":"3"}}', 3, id='known'), pytest.param('', 1, id='unknown')])
def test_operations_bytes_and_loops_of_a_program(known: str, times: int) -> None:
    program = xla_report.Program(PROGRAM.replace('KNOWN', known))
    assert program.cost(program.entry) == {'flops': 2 * 2 * 3 * 5, 'bytes': FUSION + times * SCATTER + DOT}
    assert program.loops == [{'iterations': times if known else None, 'op': 'adds'}]


def test_the_least_time_on_a_gpu() -> None:
    """H100: 494 TFLOP/s and 3.35 TB/s take 1 s each; two images of half the bytes, 0.5 s in half precision."""
    found = xla_report.ceilings(494e12, 3.35e12, 2)['h100, float32']
    assert found == {'arithmetic_ms': 1000., 'memory_ms': 1000., 'images_per_second_at_most': 2,
                     'images_per_second_without_overlap': 1}
    assert xla_report.ceilings(494e12, 3.35e12, 2)['h100, half']['memory_ms'] == 500.


def test_inputs_are_listed_or_described() -> None:
    assert xla_report.describe(np.array([[True, False]])) == {'shape': [1, 2], 'type': 'i1', 'values': [True, False]}
    many = np.tile(np.float32([-1, 3]), 4096)
    found = xla_report.describe(many)     # the mean is 1 and the deviation 2, which is that of 1 +- 2 sqrt(3)
    assert (found['shape'], found['type']) == ([8192], 'f32')
    assert (found['lowest'], found['highest']) == pytest.approx((-2.4641016, 4.4641016))
    assert xla_report.describe(np.abs(many)) == {'shape': [8192], 'type': 'f32', 'lowest': 1., 'highest': 3.}

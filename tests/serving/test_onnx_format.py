"""ONNX files of a small network, where the extra `onnx` is installed, and the error without it.

`test_converted_detectors.py` has a real detector, `python -m benchmarks.exported_files` a trained one.
"""
from __future__ import annotations

import sys

import numpy as np
import pytest

from mrcnn_tf.serving import onnx_format
from mrcnn_tf.serving.network import ExportError
from mrcnn_tf.serving.sources import InferenceError
from tests.serving import fixed_networks


@pytest.mark.parametrize('quantize, tolerance', [('none', 1e-6), ('float16', 1e-3), ('int8', 1e-2)])
def test_a_file_answers_like_the_network(quantize: str, tolerance: float) -> None:
    pytest.importorskip('tf2onnx')
    network = fixed_networks.network()
    content = onnx_format.convert(network, {'names': ['cat']}, quantize)
    description, run = onnx_format.load(content)
    assert description == {'names': ['cat']}
    fixed_networks.check(run, network, tolerance)


def test_kernels_are_stored_in_fewer_bits() -> None:
    pytest.importorskip('tf2onnx')
    sizes = {each: len(onnx_format.convert(fixed_networks.network(), {}, each)) for each in ('none', 'float16', 'int8')}
    kernel = 3 * 3 * 3 * 64
    assert sizes['none'] - sizes['float16'] > 1.8 * kernel and sizes['none'] - sizes['int8'] > 2.6 * kernel


def test_constants_of_zeros_are_computed() -> None:
    onnx, runtime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    arrays = {'zeros': np.zeros([100, 100], np.float32), 'others': np.eye(100, dtype=np.float32)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Add', list(arrays), ['sum'])], 'sum', [],
        [onnx.helper.make_tensor_value_info('sum', onnx.TensorProto.FLOAT, [100, 100])],
        [onnx.numpy_helper.from_array(value, name) for name, value in arrays.items()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', onnx_format.OPSET)])
    onnx_format.leave_out_zeros(model.graph)
    onnx.checker.check_model(model)
    assert {each.name for each in model.graph.initializer} == {'others', 'zeros:shape'}
    (total,) = runtime.InferenceSession(model.SerializeToString()).run(None, {})
    np.testing.assert_array_equal(total, np.eye(100))


def test_the_extra_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('tf2onnx', 'onnxruntime'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExportError, match='export to ONNX needs the packages of the extra `onnx`: pip install .*onnx]'):
        onnx_format.convert(fixed_networks.network(), {})
    with pytest.raises(InferenceError, match='a model in ONNX needs the packages'):
        onnx_format.load(b'')

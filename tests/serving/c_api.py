"""A SavedModel run by TensorFlow's C API through ctypes: the graph alone, as a server in C++ runs it."""
from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

_STRING = tf.string.as_datatype_enum
_POINTER, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t


class _Output(ctypes.Structure):
    _fields_ = [('operation', _POINTER), ('index', _INT)]


class _String(ctypes.Structure):
    _fields_ = [('content', ctypes.c_byte * 24)]


def _library() -> ctypes.CDLL:
    path, = pathlib.Path(tf.__file__).parent.glob('libtensorflow_cc.so.*')
    library = ctypes.CDLL(str(path))
    for name in ('NewStatus', 'NewGraph', 'NewSessionOptions', 'LoadSessionFromSavedModel', 'GraphOperationByName',
                 'AllocateTensor', 'TensorData'):
        getattr(library, f'TF_{name}').restype = _POINTER
    library.TF_Message.restype, library.TF_Dim.restype = ctypes.c_char_p, ctypes.c_int64
    return library


class Session:
    """A session of a SavedModel.

    Args:
        directory: of the version.
        optimize: let TensorFlow rewrite the graph before its first run, as a server does; this takes seconds.

    Raises:
        RuntimeError: the C API reports an error.
    """

    def __init__(self, directory: pathlib.Path, optimize: bool = True) -> None:
        self._c = _library()
        self._status, self._graph = _POINTER(self._c.TF_NewStatus()), _POINTER(self._c.TF_NewGraph())
        options, config = _POINTER(self._c.TF_NewSessionOptions()), tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = not optimize
        serialized = config.SerializeToString()
        self._c.TF_SetConfig(options, serialized, _SIZE(len(serialized)), self._status)
        tags = (ctypes.c_char_p * 1)(b'serve')
        self._session = _POINTER(self._c.TF_LoadSessionFromSavedModel(
            options, None, str(directory).encode(), tags, 1, self._graph, None,
            self._status))
        self._check()
        model = saved_model_pb2.SavedModel.FromString((directory / 'saved_model.pb').read_bytes())
        self._signatures = model.meta_graphs[0].signature_def

    def run(self, signature: str, name: str, strings: Sequence[bytes]) -> Mapping[str, np.ndarray]:
        """Return the numeric outputs of a signature with one input of strings."""
        info = self._signatures[signature]
        outputs = {key: each for key, each in info.outputs.items() if each.dtype != _STRING}
        fetched = (_POINTER * len(outputs))()
        self._c.TF_SessionRun(
            self._session, None, (_Output * 1)(self._output(info.inputs[name].name)),
            (_POINTER * 1)(self._tensor(strings)), 1,
            (_Output * len(outputs))(*(self._output(each.name) for each in outputs.values())), fetched, len(outputs),
            None, 0, None, self._status)
        self._check()
        return {key: self._array(_POINTER(tensor), tf.as_dtype(each.dtype).as_numpy_dtype)
                for (key, each), tensor in zip(outputs.items(), fetched, strict=True)}

    def _check(self) -> None:
        if self._c.TF_GetCode(self._status):
            raise RuntimeError(self._c.TF_Message(self._status).decode())

    def _output(self, name: str) -> _Output:
        operation, _, index = name.partition(':')
        return _Output(self._c.TF_GraphOperationByName(self._graph, operation.encode()), int(index))

    def _tensor(self, strings: Sequence[bytes]) -> int:
        tensor = self._c.TF_AllocateTensor(_STRING, (ctypes.c_int64 * 1)(len(strings)), 1,
                                           _SIZE(len(strings) * ctypes.sizeof(_String)))
        place = self._c.TF_TensorData(_POINTER(tensor))
        for i, text in enumerate(strings):
            each = _POINTER(place + i * ctypes.sizeof(_String))
            self._c.TF_StringInit(each)
            self._c.TF_StringCopy(each, text, _SIZE(len(text)))
        return tensor

    def _array(self, tensor: ctypes.c_void_p, dtype: type) -> np.ndarray:
        shape = [self._c.TF_Dim(tensor, i) for i in range(self._c.TF_NumDims(tensor))]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(ctypes.string_at(self._c.TF_TensorData(tensor), size), dtype).reshape(shape)

"""TensorFlow Serving's gRPC services: Predict and GetModelMetadata, and GetModelStatus."""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import wrappers_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from mrcnn_tf.files.text import error_line
from mrcnn_tf.serving.server.service import Service
from mrcnn_tf.serving.server.versions import RequestError, ServeError, Version
from mrcnn_tf.serving.signatures import DEFAULT

_log = logging.getLogger(__name__)

_THREADS = 64    # requests that may be open at once: one thread for each, most of which wait
_GRACE = 10      # seconds for the open requests when the server stops


def start(service: Service) -> tuple[grpc.Server, int]:
    """Start to answer gRPC, and return the server and its port.

    Raises:
        ServeError: the port is in use.
    """
    logging.getLogger('grpc._common').setLevel(logging.CRITICAL)    # a traceback for each damaged message
    options = service.options
    server = grpc.server(futures.ThreadPoolExecutor(_THREADS), maximum_concurrent_rpcs=2 * _THREADS, options=[
        ('grpc.so_reuseport', 0), ('grpc.max_receive_message_length', options.max_bytes),
        ('grpc.max_send_message_length', -1)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(service), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(service), server)
    try:
        port = server.add_insecure_port(f'{options.host}:{options.port}')
    except RuntimeError:
        port = 0
    if not port:
        raise ServeError(f'cannot listen on {options.host}:{options.port}; give another --port or --host')
    server.start()
    return server, port


def stop(server: grpc.Server) -> None:
    """Let the open requests finish, and stop."""
    server.stop(_GRACE).wait()


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the other methods answer that they are not implemented."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:    # noqa: N802    # the name in the protocol
        """Return the outputs of a signature."""
        with _errors(context):
            spec = request.model_spec
            version = self._service.version(spec.name, _number(spec))
            signature = spec.signature_name or DEFAULT
            inputs = {name: _array(name, value, self._service.options.max_bytes)
                      for name, value in request.inputs.items()}
            outputs = self._service.predict('grpc', version, signature, inputs, list(request.output_filter))
            response = predict_pb2.PredictResponse()
            _fill(response.model_spec, self._service.name, version, signature)
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:    # noqa: N802    # as above
        """Return the signatures of the model."""
        with _errors(context):
            version = self._service.version(request.model_spec.name, _number(request.model_spec))
            if list(request.metadata_field) != ['signature_def']:
                raise RequestError('INVALID_ARGUMENT', 'metadata_field: expected signature_def')
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            _fill(response.model_spec, self._service.name, version)
            response.metadata['signature_def'].Pack(signature_defs(version))
            return response


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; HandleReloadConfigRequest answers that it is not implemented."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:    # noqa: N802    # as above
        """Return the states of the versions."""
        with _errors(context):
            self._service.check_name(request.model_spec.name)
            return status(self._service, _number(request.model_spec))


def status(service: Service, number: int | None = None) -> Any:
    """Return the `GetModelStatusResponse` of all versions, or of one.

    Raises:
        RequestError: there is no such version.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    for each in service.versions.states(number):
        state = get_model_status_pb2.ModelVersionStatus.State.Value(each.state)
        added = response.model_version_status.add(version=each.number, state=state)
        added.status.error_code, added.status.error_message = (2 if each.error else 0), each.error    # 2: UNKNOWN
    return response


def signature_defs(version: Version) -> Any:
    """Return the `SignatureDefMap` of a version."""
    found = get_model_metadata_pb2.SignatureDefMap()
    for name, function in version.signatures.items():
        made = found.signature_def[name]
        made.method_name = 'tensorflow/serving/predict'
        for specs, target in ((version.inputs(name), made.inputs), (function.structured_outputs, made.outputs)):
            for each, spec in specs.items():
                target[each].CopyFrom(meta_graph_pb2.TensorInfo(
                    name=each, dtype=spec.dtype.as_datatype_enum, tensor_shape=spec.shape.as_proto()))
    return found


@contextlib.contextmanager
def _errors(context: grpc.ServicerContext) -> Iterator[None]:
    """Answer an error with its status and one line."""
    try:
        yield
    except RequestError as error:
        context.abort(getattr(grpc.StatusCode, error.code), str(error))
    except (tf.errors.OpError, MemoryError) as error:
        _log.exception('a request failed')
        context.abort(grpc.StatusCode.INTERNAL, error_line(error))


def _number(spec: Any) -> int | None:
    return spec.version.value if spec.HasField('version') else None


def _fill(spec: Any, name: str, version: Version, signature: str = '') -> None:
    spec.name, spec.signature_name = name, signature
    spec.version.CopyFrom(wrappers_pb2.Int64Value(value=version.number))


def _array(name: str, tensor: Any, max_bytes: int) -> np.ndarray:
    """Return a tensor of a request. A small message may announce a large tensor, so its shape is checked first.

    Raises:
        RequestError: the tensor is damaged or too large.
    """
    sides = [side.size for side in tensor.tensor_shape.dim]
    if min(sides, default=0) < 0 or np.prod(sides, dtype=float) > max_bytes:
        raise RequestError('INVALID_ARGUMENT', f'input {name[:100]}: the shape {sides[:8]} is negative or too large')
    try:
        return tf.make_ndarray(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise RequestError('INVALID_ARGUMENT', f'input {name[:100]}: damaged ({error_line(error)})') from None

"""A running server, asked by TensorFlow Serving's own protos, by its REST paths and by the clients of this project."""
from __future__ import annotations

import base64
import concurrent.futures
import json
import pathlib
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from mrcnn_tf.files.text import one_line
from mrcnn_tf.serving import light_client
from mrcnn_tf.serving.client import ServedModel
from mrcnn_tf.serving.light_client import RemoteError
from mrcnn_tf.serving.predictor import Predictor, load_predictor
from mrcnn_tf.serving.server.app import Ports, running
from mrcnn_tf.serving.server.service import ServerOptions
from mrcnn_tf.serving.server.versions import ServeError
from mrcnn_tf.serving.sources import InferenceError
from tests.cli.runner import mrcnn
from tests.serving.server.exported import DESCRIPTION, write_export
from tests.serving.test_signatures import FILES, TALL, WIDE, encoded

LARGE = encoded(np.zeros((51, 50, 3), np.uint8))


@pytest.fixture(scope='module')
def directory(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp('export') / 'pets'
    write_export(directory / '4')
    return directory


@pytest.fixture(scope='module')
def ports(directory: pathlib.Path) -> Iterator[Ports]:
    with running(directory, ServerOptions(port=0, rest_port=0, batching=True, max_mib=1, max_images=4)) as ports:
        yield ports


@pytest.fixture(scope='module')
def channel(ports: Ports) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f'127.0.0.1:{ports.grpc}') as channel:
        yield channel


@pytest.fixture(scope='module')
def local(directory: pathlib.Path, ports: Ports) -> Iterator[Predictor]:
    """The predictor of the SavedModel, which is not loaded twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.saved_model, 'load', {str(directory / '4'): ports.service.versions.get()._loaded}.__getitem__)
        yield load_predictor(directory)


@pytest.fixture(params=['grpc', 'http'])
def address(request: pytest.FixtureRequest, ports: Ports) -> str:
    return f'{request.param}://127.0.0.1:{ports.grpc if request.param == "grpc" else ports.rest}/pets'


def predict_request(images: Any, **spec: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = spec.pop('name', 'pets'), 'detect'
    if 'version' in spec:
        request.model_spec.version.value = spec['version']
    request.inputs['image_bytes'].CopyFrom(tf.make_tensor_proto(images))
    return request


def get(ports: Ports, path: str, body: Any = None) -> tuple[int, bytes]:
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f'http://127.0.0.1:{ports.rest}{path}', content)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


# gRPC

def test_predict_by_the_protos_of_tensorflow_serving(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_request([FILES[0], b'no image', FILES[1]], version=4)
    answer = stub.Predict(request)
    assert (answer.model_spec.name, answer.model_spec.version.value, answer.model_spec.signature_name) == (
        'pets', 4, 'detect')
    found = {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
    assert found['status'].tolist() == [0, 1, 0] and found['sizes'].tolist() == [[20, 40], [0, 0], [64, 32]]
    np.testing.assert_allclose(found['boxes'][0], [[0, 0, 20, 40], [0, 0, 10, 20], [0, 0, 0, 0]])
    request.output_filter.append('scores')
    assert list(stub.Predict(request).outputs) == ['scores']


def test_metadata_and_status_over_grpc(channel: grpc.Channel) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=['signature_def'])
    request.model_spec.name = 'pets'
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata['signature_def'].Unpack(signatures)
    detect = signatures.signature_def['detect']
    assert detect.inputs['image_bytes'].dtype == tf.string.as_datatype_enum
    assert [side.size for side in detect.outputs['boxes'].tensor_shape.dim] == [-1, 3, 4]
    asked = get_model_status_pb2.GetModelStatusRequest(model_spec=request.model_spec)
    state, = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(asked).model_version_status
    assert state.version == 4 and state.state == state.AVAILABLE and state.status.error_code == 0


def broken(**changes: Any) -> Any:
    """A request whose tensor has other fields."""
    request = predict_request([b'x'])
    tensor = request.inputs['image_bytes']
    tensor.tensor_shape.dim[0].size = changes.get('size', 1)
    tensor.dtype = changes.get('dtype', tensor.dtype)
    return request


@pytest.mark.parametrize('request_, code, message', [
    (predict_request([b'x'], name='dogs'), 'NOT_FOUND', 'Servable not found .*this server has pets'),
    (predict_request([b'x'], version=3), 'NOT_FOUND', 'version 3 is not served, 4 is'),
    (predict_request(b'x'), 'INVALID_ARGUMENT', r'got string of shape \[\]; expected string \(None,\)'),
    (predict_request([1.]), 'INVALID_ARGUMENT', 'got float32'),
    (predict_request([b''] * 5), 'INVALID_ARGUMENT', '5 images; send at most 4'),
    (broken(size=10 ** 12), 'INVALID_ARGUMENT', 'too large'), (broken(size=-1), 'INVALID_ARGUMENT', 'negative'),
    (broken(dtype=200), 'INVALID_ARGUMENT', 'damaged'),
    (predict_request([bytes(2 ** 20)]), 'RESOURCE_EXHAUSTED', 'larger than max')],
    ids=['model', 'version', 'rank', 'type', 'images', 'shape', 'negative', 'dtype', 'size'])
def test_refused_requests(channel: grpc.Channel, request_: Any, code: str, message: str) -> None:
    with pytest.raises(grpc.RpcError, match=message) as error:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request_)
    assert error.value.code() == getattr(grpc.StatusCode, code)


# REST

def b64(content: bytes) -> dict[str, str]:
    return {'b64': base64.b64encode(content).decode()}


def test_predict_over_rest(ports: Ports) -> None:
    body = {'signature_name': 'detect', 'instances': [b64(FILES[0]), {'image_bytes': b64(FILES[1])}]}
    code, answer = get(ports, '/v1/models/pets:predict', body)
    rows = json.loads(answer)['predictions']
    assert code == 200 and [row['sizes'] for row in rows] == [[20, 40], [64, 32]]
    columns = {'signature_name': 'detect', 'inputs': {'image_bytes': [b64(FILES[0]), b64(FILES[1])]}}
    code, answer = get(ports, '/v1/models/pets/versions/4:predict', columns)
    outputs = json.loads(answer)['outputs']
    assert code == 200 and outputs == {name: [row[name] for row in rows] for name in outputs}
    described = get(ports, '/v1/models/pets:predict', {'signature_name': 'describe', 'instances': [0]})[1]
    assert json.loads(json.loads(described)['predictions'][0]) == DESCRIPTION    # the only output has no name


def test_status_and_metadata_over_rest(ports: Ports) -> None:
    status = {'version': '4', 'state': 'AVAILABLE', 'status': {'error_code': 'OK', 'error_message': ''}}
    for path in ('/v1/models/pets', '/v1/models/pets/versions/4'):
        assert json.loads(get(ports, path)[1]) == {'model_version_status': [status]}
    metadata = json.loads(get(ports, '/v1/models/pets/metadata')[1])
    assert metadata['model_spec'] == {'name': 'pets', 'signature_name': '', 'version': '4'}
    signatures = metadata['metadata']['signature_def']['signature_def']
    assert signatures['detect']['inputs']['image_bytes']['dtype'] == 'DT_STRING'


@pytest.mark.parametrize('path, body, code, message', [
    ('/nothing', None, 404, 'Malformed request: GET /nothing'), ('/v1/models/dogs', None, 404, 'this server has pets'),
    ('/v1/models/pets/versions/9', None, 404, 'no version 9'),
    ('/v1/models/pets:predict', b'{', 400, 'JSON Parse Error'),
    ('/v1/models/pets:predict', {'instances': []}, 400, '"serving_default" not found'),
    ('/page/detect', bytes(2 ** 20 + 1), 400, 'the limit is 1048576')],
    ids=['path', 'model', 'version', 'json', 'signature', 'size'])
def test_refused_requests_over_rest(ports: Ports, path: str, body: Any, code: int, message: str) -> None:
    found, answer = get(ports, path, body)
    assert found == code and message in json.loads(answer)['error']


def test_health_and_metrics(ports: Ports) -> None:
    assert get(ports, '/healthz') == (200, b'ok\n')
    get(ports, '/page/detect', b'no image')
    lines = get(ports, '/metrics')[1].decode().splitlines()
    counts = dict(line.rsplit(' ', 1) for line in lines if not line.startswith('#'))
    assert float(counts['mrcnn_images_total{status="1"}']) >= 1 and float(counts['mrcnn_model_version']) == 4
    assert float(counts['mrcnn_requests_total{code="OK",protocol="page",signature="detect"}']) >= 1


# The page

def test_the_page_loads_nothing_from_elsewhere(ports: Ports) -> None:
    with urllib.request.urlopen(f'http://127.0.0.1:{ports.rest}/') as answer:
        text = answer.read().decode()
        assert "default-src 'none'" in answer.headers['Content-Security-Policy']
    assert 'src=' not in text and 'http://' not in text and 'https://' not in text and '@import' not in text


def test_what_the_page_asks(ports: Ports, local: Predictor) -> None:
    described = json.loads(get(ports, '/page/model')[1])
    assert (described['name'], described['version'], described['exif']) == ('pets', 4, 'apply')
    answer = json.loads(get(ports, '/page/detect', FILES[1])[1])
    assert (answer['status'], answer['height'], answer['width']) == ('OK', 64, 32) and answer['milliseconds'] > 0
    assert answer['instances'] == local(FILES[1]).to_coco()
    damaged = json.loads(get(ports, '/page/detect', FILES[1][:200])[1])
    assert damaged['status'] == 'damaged' and damaged['instances'] == []


# The clients

def test_a_served_model_predicts_as_a_local_one(address: str, local: Predictor) -> None:
    served = ServedModel(address)
    assert served.categories == local.categories and served.rule == local.rule
    for found, expected in zip(served([WIDE, TALL], progress=False), local([WIDE, TALL], progress=False), strict=True):
        assert found.size == expected.size and found.names == expected.names == ['dog', 'cat']
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.masks, expected.masks)


def test_images_that_are_not_sent_or_cannot_be_used(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served = ServedModel(address)
    with pytest.raises(InferenceError, match='image: .*damaged'):
        served(FILES[0][:-40] + bytes(40))
    monkeypatch.setattr(light_client.Model, 'predict', lambda *_: pytest.fail('it was sent'))
    with pytest.raises(InferenceError, match='2550 pixels'):
        served(LARGE)
    monkeypatch.setattr(light_client, 'MAX_BYTES', 10)
    with pytest.raises(InferenceError, match='a request may have 10'):
        served(FILES[0])


def test_the_light_client(address: str, local: Predictor) -> None:
    model = light_client.Model(address)
    wide, bad, tall = model.detect([FILES[0], b'x', FILES[1]])
    assert bad['status'] == 1 and bad['names'] == [] and list(model.masks(bad)) == [] and model.detect([]) == []
    for found, expected in ((wide, local(FILES[0])), (tall, local(FILES[1]))):
        assert found['status'] == 0 and found['names'] == expected.names and found['size'] == expected.size
        np.testing.assert_array_equal(found['boxes'], expected.boxes)
        np.testing.assert_array_equal(list(model.masks(found)), expected.masks)


def test_the_light_client_as_a_script_without_tensorflow_and_this_package(address: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'a.png').write_bytes(FILES[0])
    block = ('import runpy, sys; sys.modules.update(dict.fromkeys(["tensorflow", "mrcnn_tf"])); '
             'runpy.run_path(sys.argv.pop(1), run_name="__main__")')
    done = subprocess.run([sys.executable, '-I', '-c', block, light_client.__file__, address, 'a.png'], cwd=tmp_path,
                          capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert (found['image'], found['status']) == ('a.png', 'OK'), done.stderr
    assert [(each['name'], each['box']) for each in found['detections']] == [
        ('dog', [0, 0, 20, 40]), ('cat', [0, 0, 10, 20])]


def test_a_name_that_the_server_does_not_have(address: str) -> None:
    with pytest.raises(RemoteError, match='/dogs: .*this server has pets') as error:
        ServedModel(address.replace('/pets', '/dogs'))
    assert one_line(error.value) == str(error.value)


@pytest.mark.parametrize('protocol', ['grpc', 'http'])
def test_the_port_of_the_other_protocol(ports: Ports, protocol: str) -> None:
    port = ports.rest if protocol == 'grpc' else ports.grpc
    with pytest.raises(RemoteError, match='is this its port'):
        light_client.Model(f'{protocol}://127.0.0.1:{port}/pets', retries=0).describe()


def test_a_batch_of_many_clients(ports: Ports) -> None:
    model = light_client.Model(f'grpc://127.0.0.1:{ports.grpc}/pets')
    model.describe()
    images = [FILES[0], b'x', FILES[1], LARGE] * 8
    alone = {image: model.detect([image])[0] for image in images[:4]}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for image, (found,) in zip(images, pool.map(lambda image: model.detect([image]), images), strict=True):
            assert found['status'] == alone[image]['status']
            np.testing.assert_array_equal(found['scores'], alone[image]['scores'])
            np.testing.assert_array_equal(found['masks'], alone[image]['masks'])


def test_predict_on_a_server_by_the_command_line(address: str, tmp_path: pathlib.Path) -> None:
    for name, content in (('a.png', FILES[0]), ('b.png', b'x'), ('c.png', FILES[1])):
        (tmp_path / name).write_bytes(content)
    result = mrcnn('predict', tmp_path, '--server', address, '--output', tmp_path / 'out', '--threshold', .05)
    assert result.exit_code == 1 and '2 pictures and json files' in result.stdout
    assert 'b.png: ' in result.stderr and '1 of 3 files could not be used' in result.stderr
    found = json.loads((tmp_path / 'out' / 'a.json').read_text())
    assert [each['category'] for each in found['instances']] == ['dog', 'cat']


# Starting

def test_a_port_in_use(ports: Ports, directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mrcnn_tf.serving.server.service.Versions', lambda *_: ports.service.versions)
    for option, number in (('port', ports.grpc), ('rest_port', ports.rest)):
        options = ServerOptions(**{'port': 0, 'rest_port': 0, option: number})
        with pytest.raises(ServeError, match=f'cannot listen on 127.0.0.1:{number}'), running(directory, options):
            pass


def test_an_unreachable_server(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'grpc://127.0.0.1:{free.getsockname()[1]}/pets'
        with pytest.raises(RemoteError, match='is the server running there') as error:
            light_client.Model(address, timeout=.5).describe()
    assert error.value.temporary and str(error.value).startswith(address)

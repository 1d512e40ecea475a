"""saved_models/: the files for servers are well-formed and name the same model, ports and paths. None is run here."""
from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tests.paths import ROOT

FOLDER = ROOT / 'saved_models'
MODEL = 'nuclei'
# The flags of tensorflow_model_server that the files use, from its main.cc.
FLAGS = {'model_config_file', 'model_config_file_poll_wait_seconds', 'monitoring_config_file', 'enable_batching',
         'batching_parameters_file'}
ARGUMENTS = ['--model_config_file=/models/models.config', '--model_config_file_poll_wait_seconds=60',
             '--monitoring_config_file=/models/monitoring.config', '--enable_batching=true',
             '--batching_parameters_file=/models/batching_params.pbtxt']


def read(name: str) -> str:
    return (FOLDER / name).read_text(encoding='utf-8')


def message(fields: dict[str, dict[str, int]]) -> Any:
    """Return an empty message with messages as fields, by name and the types of their fields by name."""
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='test.proto', package='test')
    outer = file.message_type.add(name='Outer')
    for number, (name, inner) in enumerate(fields.items(), 1):
        outer.field.add(name=name, number=number, label=types.LABEL_OPTIONAL, type=types.TYPE_MESSAGE,
                        type_name=f'.test.{name}')
        of_field = file.message_type.add(name=name)
        for each, (key, kind) in enumerate(inner.items(), 1):
            of_field.field.add(name=key, number=each, label=types.LABEL_OPTIONAL, type=kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('test.Outer'))()


def test_the_models() -> None:
    configs = pytest.importorskip('tensorflow_serving.config.model_server_config_pb2')
    parsed = text_format.Parse(read('models.config'), configs.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == (MODEL, f'/models/{MODEL}', 'tensorflow')
    assert model.model_version_policy.latest.num_versions == 1


def test_the_batching() -> None:
    """Fields and types are those of BatchingParameters in session_bundle_config.proto."""
    types = descriptor_pb2.FieldDescriptorProto
    names = ('max_batch_size', 'batch_timeout_micros', 'max_enqueued_batches', 'num_batch_threads')
    fields = dict.fromkeys(names, {'value': types.TYPE_INT64})
    parsed = text_format.Parse(read('batching_params.pbtxt'), message(fields))
    assert all(getattr(parsed, name).value > 0 for name in names)


def test_the_monitoring() -> None:
    """Fields and types are those of MonitoringConfig in monitoring_config.proto."""
    types = descriptor_pb2.FieldDescriptorProto
    fields = {'prometheus_config': {'enable': types.TYPE_BOOL, 'path': types.TYPE_STRING}}
    parsed = text_format.Parse(read('monitoring.config'), message(fields)).prometheus_config
    annotations = kubernetes()['Deployment']['spec']['template']['metadata']['annotations']
    assert parsed.enable and parsed.path == annotations['prometheus.io/path']


def kubernetes() -> dict[str, Any]:
    return {each['kind']: each for each in yaml.safe_load_all(read('kubernetes.yaml'))}


def check_arguments(arguments: list[str]) -> None:
    """Check the flags of a server, and that the files which they name are in the directory."""
    assert arguments == ARGUMENTS
    flags = dict(argument.removeprefix('--').split('=') for argument in arguments)
    assert flags.keys() <= FLAGS
    for value in flags.values():
        if value.startswith('/models/'):
            assert (FOLDER / value.removeprefix('/models/')).is_file()


def test_docker_compose() -> None:
    services = yaml.safe_load(read('compose.yaml'))['services']
    assert {name: (each['profiles'], each['image']) for name, each in services.items()} == {
        'cpu': (['cpu'], 'tensorflow/serving:latest'), 'gpu': (['gpu'], 'tensorflow/serving:latest-gpu')}
    for each in services.values():
        check_arguments(each['command'])
        assert each['volumes'] == ['.:/models:ro'] and each['ports'] == [
            '127.0.0.1:8500:8500', '127.0.0.1:8501:8501']
        assert f'GET /v1/models/{MODEL} ' in each['healthcheck']['test'][-1]
    (device,) = services['gpu']['deploy']['resources']['reservations']['devices']
    assert device == {'driver': 'nvidia', 'count': 1, 'capabilities': ['gpu']}


def test_kubernetes() -> None:
    found = kubernetes()
    deployment, service = found['Deployment'], found['Service']
    assert (deployment['apiVersion'], service['apiVersion']) == ('apps/v1', 'v1')
    labels = deployment['spec']['selector']['matchLabels']
    pod = deployment['spec']['template']
    assert labels == pod['metadata']['labels'] == service['spec']['selector']
    (container,) = pod['spec']['containers']
    check_arguments(container['args'])
    ports = {each['name']: each['containerPort'] for each in container['ports']}
    assert ports == {'grpc': 8500, 'http': 8501}
    assert {each['name']: each['port'] for each in service['spec']['ports']} == ports
    assert {each['targetPort'] for each in service['spec']['ports']} == set(ports)
    for probe in ('startupProbe', 'readinessProbe'):
        assert container[probe]['httpGet'] == {'path': f'/v1/models/{MODEL}', 'port': 'http'}
    assert [each['name'] for each in container['volumeMounts']] == [each['name'] for each in pod['spec']['volumes']]


def test_kserve() -> None:
    found = yaml.safe_load(read('kserve.yaml'))
    assert (found['apiVersion'], found['kind']) == ('serving.kserve.io/v1beta1', 'InferenceService')
    model = found['spec']['predictor']['model']
    assert model['modelFormat'] == {'name': 'tensorflow'} and model['storageUri'].endswith(f'/{MODEL}')
    assert model['readinessProbe']['httpGet'] == {'path': f'/v1/models/{MODEL}', 'port': 8080}


def test_the_readme_lists_each_file_and_renames_all_of_them() -> None:
    names = {path.name for path in FOLDER.iterdir() if path.is_file() and path.name != 'README.md'}
    assert set(re.findall(r'^\| `([^`]+)` \|', read('README.md'), re.MULTILINE)) == names
    with_model = {name for name in names if MODEL in read(name)}
    assert with_model == {name for name in names if name == 'models.config' or pathlib.Path(name).suffix == '.yaml'}

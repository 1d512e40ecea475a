"""deploy/: the files are well-formed, and what they set gives a cluster and a valid config. None is run here."""
from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml

from mrcnn_tf import config
from mrcnn_tf.training.clusters import find_cluster
from tests.paths import ROOT

DEPLOY = ROOT / 'deploy'


def check_command(arguments: list[str], cluster: str) -> None:
    """Check the arguments of `mrcnn`: a packaged config with valid settings, a shared directory, and the cluster."""
    command, name, *rest = arguments
    settings = [each for each in rest if re.match(r'[a-z_.]+=', each)]
    loaded = config.load(name, settings)
    assert command == 'train' and (loaded.train.strategy, loaded.train.cluster) == ('multi_worker', cluster)
    assert [each for each in rest if each not in settings and not each.startswith('/')] in (
        ['--model-dir'], ['--model-dir=/shared/runs/r50'])


def manifests(name: str) -> dict[str, dict[str, Any]]:
    """Return the documents of a file by kind."""
    return {each['kind']: each for each in yaml.safe_load_all((DEPLOY / name).read_text(encoding='utf-8'))}


def test_the_batch_script() -> None:
    script = (DEPLOY / 'train.sbatch').read_text(encoding='utf-8')
    subprocess.run(['bash', '-n', '-'], input=script, text=True, check=True)
    options = dict(re.findall(r'^#SBATCH --([a-z-]+)=?(.*)$', script, re.MULTILINE))
    assert options['ntasks-per-node'] == '1' and options['signal'] == 'TERM@120' and 'requeue' in options
    words = shlex.split(script[script.index('srun'):script.index('code=$?')].replace('\\\n', ' '))
    assert '--distribution=block' in words
    check_command(words[words.index('mrcnn') + 1:], 'slurm')


@pytest.mark.parametrize('name, host, service', [
    ('indexed_job.yaml', 'mask-rcnn', 'mask-rcnn-workers'),
    # JobSet: NAME-REPLICATED_JOB-NUMBER_OF_JOB, in the domain of the JobSet's own service.
    ('jobset.yaml', 'mask-rcnn-workers-0', 'mask-rcnn')])
def test_the_manifests(name: str, host: str, service: str) -> None:
    """The fields without which Kubernetes gives the pods no index or no name, and the cluster that the pods see."""
    found = manifests(name)
    if name == 'jobset.yaml':
        (job,) = found['JobSet']['spec']['replicatedJobs']
        assert found['JobSet']['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
        assert host == f'{found["JobSet"]["metadata"]["name"]}-{job["name"]}-0'
        assert service == found['JobSet']['metadata']['name'] and job['replicas'] == 1
        spec = job['template']['spec']
    else:
        spec, of_service = found['Job']['spec'], found['Service']['spec']
        assert (found['Job']['apiVersion'], found['Service']['apiVersion']) == ('batch/v1', 'v1')
        assert of_service['clusterIP'] == 'None' and of_service['selector'] == {'job-name': host}
        assert spec['template']['spec']['subdomain'] == found['Service']['metadata']['name'] == service
        assert spec['podFailurePolicy']['rules'][0]['onExitCodes'] == {
            'containerName': 'train', 'operator': 'In', 'values': [75]}
    pod = spec['template']['spec']
    assert spec['completionMode'] == 'Indexed' and spec['completions'] == spec['parallelism'] == 2
    assert pod['restartPolicy'] == 'Never' and pod['terminationGracePeriodSeconds'] >= 60
    (container,) = pod['containers']
    assert {each['name'] for each in container['volumeMounts']} == {each['name'] for each in pod['volumes']}
    assert container['ports'] == [{'containerPort': 2222}]
    check_command(container['args'], 'kubernetes')
    environment = {each['name']: each['value'] for each in container['env']}
    cluster = find_cluster('auto', {**environment, 'JOB_COMPLETION_INDEX': '1', 'HOSTNAME': f'{host}-1'})
    assert cluster.addresses == (f'{host}-0.{service}:2222', f'{host}-1.{service}:2222') and cluster.index == 1


def test_the_input_servers() -> None:
    """The names of the pods are those that the servers give to the training, and the head of the file lists them."""
    found = manifests('input_servers.yaml')
    spec, service = found['StatefulSet']['spec'], found['Service']
    (container,) = spec['template']['spec']['containers']
    name = service['metadata']['name']
    assert service['spec']['clusterIP'] == 'None' and spec['serviceName'] == name
    assert spec['selector']['matchLabels'] == spec['template']['metadata']['labels'] == service['spec']['selector']
    assert container['args'] == ['input-server', f'--host=$(POD).{name}', '--port=5050']
    assert [each['containerPort'] for each in container['ports']] == [5050, 5051, 5052]
    pods = [f'{found["StatefulSet"]["metadata"]["name"]}-{number}.{name}:5050' for number in range(spec['replicas'])]
    setting = f'train.input_servers=[{",".join(pods)}]'
    assert setting in (DEPLOY / 'input_servers.yaml').read_text(encoding='utf-8')
    assert config.load('base', ['train.input=service', setting]).train.input_servers == pods


@pytest.mark.parametrize('name', ['Dockerfile.cpu', 'Dockerfile.gpu'])
def test_the_docker_files(name: str) -> None:
    """Each line is a known instruction, what is copied exists, and everything that setup.cfg reads is copied."""
    lines = [line for line in (DEPLOY / name).read_text(encoding='utf-8').splitlines() if line and line[0] != '#']
    assert {line.split()[0] for line in lines} <= {'FROM', 'WORKDIR', 'COPY', 'RUN', 'ENV', 'USER', 'ENTRYPOINT'}
    copied = [path for line in lines if line.startswith('COPY') for path in line.split()[1:-1]]
    assert all((ROOT / path).exists() for path in copied)
    assert {'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE', 'NOTICE', 'configs', 'data_tools', 'mrcnn_tf'} == {
        *copied}

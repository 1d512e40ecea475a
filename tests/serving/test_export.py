"""The exported SavedModel against the model that it came from, in this process and where the package is missing."""
from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import types
import zlib
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.tools import saved_model_cli

from mrcnn_tf import __version__
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.input import decoding
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving import export as exporting
from mrcnn_tf.serving import predictor, run_saved_model, signatures
from mrcnn_tf.training import checkpoints
from mrcnn_tf.weights import model_directory
from mrcnn_tf.weights.rules import variable_path
from tests.serving import c_api

pytestmark = pytest.mark.usefixtures('shallow_resnets')
CATEGORIES = [Category(1, 7, 'cat'), Category(2, 3, 'dog')]
LIMIT = 6
SEED = 10    # of weights that find something in every picture
Outputs = dict[str, np.ndarray]


def tiny_config(kind: str = 'mask_rcnn') -> Config:
    config = Config()
    data, model = config.data, config.model
    data.short_sides, data.test_short_side, data.canvases = [32], 32, [[32, 64], [64, 32]]
    data.long_side = data.test_long_side = 64
    model.kind, model.num_classes, model.backbone.name, model.backbone.fpn_channels = kind, 2, 'resnet18', 8
    model.anchors.sizes = [[8.], [16.], [32.], [64.], [128.]]
    model.roi.sampling_ratio, model.box_head.width, model.mask_head.width = 2, 8, 8
    model.rpn.pre_nms_test = model.rpn.post_nms_test = 20
    model.detections.max_detections, model.detections.score_threshold = LIMIT, 0.
    return config


def write_model(directory: pathlib.Path, config: Config, categories: list[Category] = CATEGORIES) -> pathlib.Path:
    """A model directory with one checkpoint, of weights large enough for scores that lie apart."""
    model = build_detector(config.model)
    for variable in model.variables:
        if len(variable.shape) > 1:                        # kernels, the frozen ones too, which are random otherwise
            # By name, not by order, so that both versions of Keras, and models made in another order, get the same.
            name = '/'.join(variable_path(variable).split('/')[-4:])
            rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
            variable.assign(rng.normal(0, 1 / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
    model_directory.create(directory, config, categories)
    model.compile(keras.optimizers.SGD(0.1))
    checkpoints.Checkpoints(directory, model, keep=1).save(3)
    return directory


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_model(tmp_path_factory.mktemp('run') / 'model', tiny_config())


@pytest.fixture(scope='module')
def saved(model_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    with mock.patch.object(exporting.server_kit, 'replay') as replay:    # seconds, as the tests of the answers
        version = exporting.export(model_dir, tmp_path_factory.mktemp('saved') / 'pets')
    (_, requests), _ = replay.call_args
    assert [(signature, *inputs) for signature, inputs in requests] == [
        ('serving_default', 'image_bytes'), ('detect', 'image_bytes')] * 2
    return version


@pytest.fixture(scope='module')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Wide, tall, square, tiny; of 8 and 16 bit; colour and grey: both canvases are needed."""
    folder, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (50, 90, 3), np.uint8)).save(folder / 'wide.png')
    Image.fromarray(rng.integers(0, 256, (90, 51, 3), np.uint8)).save(folder / 'tall.jpg', quality=90)
    Image.fromarray(rng.integers(0, 65536, (40, 40), np.uint16)).save(folder / 'grey16.png')
    Image.fromarray(rng.integers(0, 256, (7, 9), np.uint8)).save(folder / 'tiny.jpg')
    return sorted(folder.iterdir())


@pytest.fixture(scope='module')
def loaded(saved: pathlib.Path) -> Any:
    return tf.saved_model.load(str(saved))


def predict(loaded: Any, requests: list[bytes]) -> Outputs:
    found = loaded.signatures['detect'](image_bytes=tf.constant(requests, tf.string))
    return {name: value.numpy() for name, value in found.items()}


def contents(paths: list[pathlib.Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


@pytest.fixture(scope='module')
def served(loaded: Any, pictures: list[pathlib.Path]) -> Outputs:
    """All pictures in one request."""
    return predict(loaded, contents(pictures))


def test_the_signatures(loaded: Any) -> None:
    """tests/serving/test_signatures.py tests what they read and answer."""
    assert set(loaded.signatures) == {'serving_default', 'detect', 'detect_pixels', 'detect_examples', 'model_garden',
                                      'describe'}
    outputs = {name: spec.shape.as_list() for name, spec in loaded.signatures['detect'].structured_outputs.items()}
    assert outputs['boxes'] == [None, LIMIT, 4] and outputs['masks'] == [None, LIMIT, 28, 28]


def test_images_of_all_kinds_in_one_request(
        model_dir: pathlib.Path, served: Outputs, pictures: list[pathlib.Path]) -> None:
    assert served['sizes'].tolist() == [[40, 40], [90, 51], [7, 9], [50, 90]]    # by name
    for i, expected in enumerate(predictor.load_predictor(model_dir)(pictures)):
        valid = served['valid'][i]
        assert valid.sum() == len(expected) > 0
        assert served['labels'][i][valid].tolist() == expected.labels.tolist()
        assert served['category_ids'][i][valid].tolist() == [{1: 7, 2: 3}[label] for label in expected.labels.tolist()]
        np.testing.assert_allclose(served['boxes'][i][valid], expected.boxes, atol=1e-2)
        np.testing.assert_allclose(served['scores'][i][valid], expected.scores, atol=1e-4)
        np.testing.assert_allclose(served['masks'][i][valid], expected.instances.masks, atol=1e-3)
        for name in ('boxes', 'scores', 'labels', 'category_ids', 'masks'):
            assert not served[name][i][~valid].any()


def test_an_image_is_answered_alike_whatever_else_is_in_the_request(
        loaded: Any, served: Outputs, pictures: list[pathlib.Path]) -> None:
    for name, value in predict(loaded, contents(pictures[1:2])).items():
        np.testing.assert_array_equal(value[0], served[name][1], name)


def test_a_request_without_images(loaded: Any) -> None:
    nothing = predict(loaded, [])
    assert nothing['boxes'].shape == (0, LIMIT, 4) and nothing['masks'].shape == (0, LIMIT, 28, 28)


def test_neighbors_of_a_damaged_image(loaded: Any, served: Outputs, pictures: list[pathlib.Path]) -> None:
    whole = contents(pictures)
    found = predict(loaded, [b'hello', whole[0], whole[3][:3000], whole[1][:2000], whole[1]])
    assert found['status'].tolist() == [decoding.NOT_AN_IMAGE, 0, decoding.DAMAGED, decoding.DAMAGED, 0]
    for name, value in served.items():
        np.testing.assert_array_equal(found[name][[1, 4]], value[:2], name)


@pytest.mark.slow
def test_a_photograph_to_be_turned_is_answered_as_it_is_shown(
        loaded: Any, model_dir: pathlib.Path, pictures: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    with Image.open(pictures[3]) as image:
        image.save(tmp_path / 'turned.png', exif=exif(6))
    with Image.open(tmp_path / 'turned.png') as image:
        ImageOps.exif_transpose(image).save(tmp_path / 'upright.png', exif=b'')
    paths = [tmp_path / 'turned.png', tmp_path / 'upright.png']
    served = predict(loaded, contents(paths))
    assert served['sizes'].tolist() == [[90, 50]] * 2
    for name, found in served.items():
        np.testing.assert_array_equal(found[0], found[1], name)
    turned, upright = predictor.load_predictor(model_dir)(paths)
    np.testing.assert_array_equal(turned.boxes, upright.boxes)
    assert len(turned) > 0


def exif(value: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = value
    return made


def test_the_rule_of_the_model_is_that_of_its_signature(
        model_dir: pathlib.Path, pictures: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    config = tiny_config('rpn')
    config.data.canvases, config.data.exif, config.data.max_pixels = [[64, 64]], 'error', 4500
    serve = answers(config)
    with Image.open(pictures[3]) as image:
        image.save(tmp_path / 'turned.png', exif=exif(6))
    found = serve(tf.constant(contents([pictures[3], tmp_path / 'turned.png', pictures[1]])))
    assert found['sizes'].numpy().tolist() == [[50, 90], [0, 0], [0, 0]]    # 4500 pixels
    assert found['status'].numpy().tolist() == [decoding.OK, decoding.TO_BE_TURNED, decoding.TOO_LARGE]


def answers(config: Config) -> Any:
    network = exporting.network(build_detector(config.model), 'pixel_center')
    return signatures.Answers(network, config.data, [1]).of_bytes


def test_it_needs_neither_this_package_nor_keras(
        saved: pathlib.Path, served: Outputs, pictures: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    assert {'mrcnn_tf', 'data_tools'} <= set(run_saved_model.BLOCKED)
    environment = {name: value for name, value in os.environ.items() if not name.startswith('PYTHON')}
    arguments = [str(saved), str(tmp_path / 'found.npz'), *map(str, pictures)]
    subprocess.run([sys.executable, '-I', run_saved_model.__file__, *arguments], check=True, cwd=tmp_path,
                   env=environment, timeout=300)
    with np.load(tmp_path / 'found.npz') as found:
        for name, value in served.items():
            np.testing.assert_array_equal(found[name], value, name)


def test_the_c_api_gives_the_same_answers(saved: pathlib.Path, served: Outputs, pictures: list[pathlib.Path]) -> None:
    found = c_api.Session(saved).run('detect', 'image_bytes', [b'no image', *contents(pictures)])
    assert found['status'].tolist() == [decoding.NOT_AN_IMAGE, 0, 0, 0, 0] and found.keys() == served.keys()
    for name, value in served.items():
        np.testing.assert_array_equal(found[name][1:], value, name)


def test_the_tool_of_tensorflow_shows_it(saved: pathlib.Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['saved_model_cli', 'show', '--dir', str(saved), '--tag_set', 'serve',
                                      '--signature_def', 'detect'])
    with pytest.raises(SystemExit) as ended:
        saved_model_cli.main()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "inputs['image_bytes'] tensor_info:\n      dtype: DT_STRING\n      shape: (-1)" in shown
    assert f"outputs['boxes'] tensor_info:\n      dtype: DT_FLOAT\n      shape: (-1, {LIMIT}, 4)" in shown


def test_it_names_no_path_of_the_machine_that_wrote_it(saved: pathlib.Path) -> None:
    paths = [str(saved.parent.parent), str(pathlib.Path.home()), str(pathlib.Path(exporting.__file__).parents[2])]
    content = b''.join(path.read_bytes() for path in saved.rglob('*') if path.is_file())
    assert len(content) > 10 ** 6 and not [path for path in paths if os.fsencode(path) in content]


def test_nothing_in_it_is_of_keras_or_for_xla_only(saved: pathlib.Path) -> None:
    graph = saved_model_pb2.SavedModel.FromString((saved / 'saved_model.pb').read_bytes()).meta_graphs[0]
    users = [node.user_object.identifier for node in graph.object_graph_def.nodes if node.HasField('user_object')]
    assert users and not [identifier for identifier in users if 'keras' in identifier]
    assert not [name for name in graph_operations(saved) if name.startswith('Xla') or 'PyFunc' in name]


def graph_operations(version: pathlib.Path) -> set[str]:
    """Return the operations of a SavedModel, of which no function must be compiled by XLA."""
    graph = saved_model_pb2.SavedModel.FromString((version / 'saved_model.pb').read_bytes()).meta_graphs[0]
    functions = graph.graph_def.library.function
    assert functions and not [f.signature.name for f in functions if f.attr['_XlaMustCompile'].b]
    return {node.op for f in functions for node in f.node_def}


def test_what_stands_beside_it(saved: pathlib.Path, loaded: Any) -> None:
    assert saved.name == '1' and [path.name for path in saved.parent.iterdir()] == ['1']
    warmup = saved / 'assets.extra' / 'tf_serving_warmup_requests'
    assert len(list(tf.data.TFRecordDataset(str(warmup)).as_numpy_iterator())) == 4
    description = json.loads((saved / 'assets.extra' / 'mrcnn.json').read_text())
    texts = loaded.signatures['describe'](index=tf.constant([5, 0]))['description'].numpy().tolist()
    assert [json.loads(text) for text in texts] == [description] * 2
    assert description == {
        'categories': [{'label': 1, 'id': 7, 'name': 'cat'}, {'label': 2, 'id': 3, 'name': 'dog'}],
        'paste': 'pixel_center', 'masks': 'float32', 'engine': 'op', 'score_threshold': 0., 'model': 'mask_rcnn',
        'exif': 'apply', 'max_pixels': 50_000_000, 'mrcnn_tf_version': __version__}


def test_it_is_a_predictor(loaded: Any, saved: pathlib.Path, served: Outputs, pictures: list[pathlib.Path],
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.saved_model, 'load', {str(saved): loaded}.__getitem__)
    from_file = predictor.load_predictor(saved.parent)
    assert list(from_file.categories) == CATEGORIES
    found, = from_file(pictures[:1])
    np.testing.assert_array_equal(found.boxes, served['boxes'][0][served['valid'][0]])


@pytest.fixture
def only_detect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the other signatures, whose graphs take seconds."""
    traced = signatures._traced
    monkeypatch.setattr(exporting, 'signatures', lambda answers, _: dict.fromkeys(['serving_default', 'detect'], traced(
        answers.of_bytes, signatures.plain, image_bytes=tf.TensorSpec([None], tf.string))))


@pytest.mark.slow
@pytest.mark.usefixtures('only_detect')
def test_the_xla_engine_by_the_c_api(model_dir: pathlib.Path, tmp_path: pathlib.Path, served: Outputs,
                                     pictures: list[pathlib.Path]) -> None:
    with mock.patch.object(exporting.server_kit, 'replay') as replay:
        version = exporting.export(model_dir, tmp_path / 'pets', engine='xla')
    (_, requests), _ = replay.call_args
    shown = [tf.io.decode_png(inputs['image_bytes'][0]).shape[:2] for _, inputs in requests]
    assert shown == [[32, 64]] * 2 + [[64, 32]] * 2    # the canvases
    assert json.loads((version / 'assets.extra' / 'mrcnn.json').read_text())['engine'] == 'xla'
    operations = graph_operations(version)
    assert not [name for name in operations if 'NonMaxSuppression' in name or name == 'CropAndResize']
    session = c_api.Session(version, optimize=False)
    found = session.run('detect', 'image_bytes', [b'no image', *contents(pictures)])
    assert found['status'].tolist() == [decoding.NOT_AN_IMAGE, 0, 0, 0, 0]
    for name, tolerance in (('labels', 0), ('valid', 0), ('boxes', 1e-2), ('scores', 1e-4), ('masks', 1e-3)):
        # The first picture is square; on the canvas that holds it, its detections differ, as in evaluation.
        np.testing.assert_allclose(found[name][2:], served[name][1:], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.slow
def test_a_warm_up_of_all_signatures(model_dir: pathlib.Path, tmp_path: pathlib.Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The export replays them: each signature gets inputs that it takes."""
    monkeypatch.setattr(exporting, '_shapes', lambda *_: [(48, 64)])
    with mock.patch.object(exporting.server_kit, 'replay', wraps=exporting.server_kit.replay) as replay:
        exporting.export(model_dir, tmp_path / 'pets', options=exporting.ExportOptions(warmup='all'))
    (_, requests), _ = replay.call_args
    assert [(signature, *inputs) for signature, inputs in requests] == [
        ('serving_default', 'image_bytes'), ('detect', 'image_bytes'), ('detect_pixels', 'images', 'sizes'),
        ('detect_examples', 'tf_example'), ('model_garden', 'inputs'), ('describe', 'index')]


def test_weights_that_xla_would_copy() -> None:
    detector, options = types.SimpleNamespace(engine='xla'), exporting.ExportOptions(weights='constants')
    with pytest.raises(exporting.ExportError, match="'constants', which the engine 'xla' would copy for each canvas"):
        exporting.export_detector(detector, tiny_config(), CATEGORIES, 'x', options)


@pytest.mark.slow
@pytest.mark.usefixtures('only_detect')
def test_faster_rcnn_trained_in_bfloat16(tmp_path: pathlib.Path, pictures: list[pathlib.Path]) -> None:
    config = tiny_config('faster_rcnn')
    config.train.precision, config.data.canvases = 'mixed_bfloat16', [[64, 64]]
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy('mixed_bfloat16')
    try:
        write_model(tmp_path / 'run', config)
    finally:
        keras.mixed_precision.set_global_policy(before)
    with mock.patch.object(exporting.server_kit, 'replay'):
        version = exporting.export(tmp_path / 'run', tmp_path / 'saved')
    served = predict(tf.saved_model.load(str(version)), contents(pictures[:1]))
    assert 'masks' not in served and served['boxes'].dtype == np.float32
    expected, = predictor.load_predictor(tmp_path / 'run')(pictures[:1])
    np.testing.assert_allclose(served['boxes'][0][served['valid'][0]], expected.boxes, atol=1e-2)


def test_an_rpn(pictures: list[pathlib.Path]) -> None:
    """Its proposals, as many as there are."""
    config = tiny_config('rpn')
    config.data.canvases, config.model.rpn.post_nms_test = [[64, 64]], 12
    served = answers(config)(tf.constant(contents(pictures[:1])))
    assert served['boxes'].shape == [1, 12, 4] and served['valid'].numpy().any()
    assert (served['category_ids'].numpy() == served['valid'].numpy()).all()


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved does not matter: a file in place of the SavedModel."""
    def save(module: tf.Module, path: str, functions: dict[str, object], options: object) -> None:
        pathlib.Path(path).mkdir()
        (pathlib.Path(path) / 'saved_model.pb').write_bytes(b'')

    monkeypatch.setattr(tf.saved_model, 'save', save)
    monkeypatch.setattr(exporting.server_kit, 'replay', lambda *_: None)
    monkeypatch.setattr(exporting, 'network', lambda *_: signatures.Network(None, {}, 'pixel_center'))
    monkeypatch.setattr(exporting, 'signatures', lambda *_: {})


@pytest.mark.usefixtures('light')
def test_versions_are_counted_on(model_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert exporting.export(model_dir, tmp_path / 'm').name == '1'
    assert exporting.export(model_dir, tmp_path / 'm').name == '2'
    (tmp_path / 'm' / '9').mkdir()
    (tmp_path / 'm' / 'notes.txt').write_text('')
    assert exporting.export(model_dir, tmp_path / 'm').name == '10'


@pytest.mark.usefixtures('light')
def test_it_looks_at_an_image_once_and_says_so(
        model_dir: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(model_dir, tmp_path / 'run')
    settings = tmp_path / 'run' / 'config.yaml'
    settings.write_text(settings.read_text().replace('test_flip: false', 'test_flip: true'))
    exporting.export(tmp_path / 'run', tmp_path / 'm')
    assert caplog.messages[-1:] == [    # after the name of the checkpoint
        f'{tmp_path / "m"}: an exported model has one view of each image, at data.test_short_side: data.test_scales '
        'and data.test_flip are left out']


@pytest.mark.usefixtures('light')
def test_an_export_that_fails_leaves_nothing(
        model_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fail(path: pathlib.Path, obj: object) -> None:
        seen.extend(path.name for path in (tmp_path / 'm').iterdir())
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(exporting.files, 'write_json', fail)
    with pytest.raises(OSError, match='No space left'):
        exporting.export(model_dir, tmp_path / 'm')
    assert seen and not [name for name in seen if name.isdecimal()]    # TF Serving loads what has a number for a name
    assert not (tmp_path / 'm').exists()


def test_a_category_id_beyond_int32(tmp_path: pathlib.Path) -> None:
    directory = write_model(tmp_path / 'run', tiny_config(), [CATEGORIES[0], Category(2, 2 ** 31, 'dog')])
    with pytest.raises(exporting.ExportError, match="category 'dog' has the id 2147483648"):
        exporting.export(directory, tmp_path / 'saved')
    assert not (tmp_path / 'saved').exists()


@pytest.mark.parametrize('options, message', [
    ({'masks': 'bmp'}, "masks is 'bmp'; expected one of float32, uint8, bits, png, rle, image_png"),
    ({'input_type': 'png'}, "input_type is 'png'; expected one of image_bytes, image_tensor, tf_example"),
    ({'weights': 'hdf5'}, "weights is 'hdf5'; expected one of variables, constants"),
    ({'warmup': 'none'}, "warmup is 'none'; expected one of clients, all")],
    ids=['masks', 'input', 'weights', 'warm-up'])
def test_an_option_that_does_not_exist(options: dict[str, str], message: str) -> None:
    with pytest.raises(exporting.ExportError, match=message):
        exporting.ExportOptions(**options)


def test_the_precision_is_that_of_the_restored_model(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def restore(*arguments: object) -> None:
        assert arguments == (tmp_path, 'op', 'last', 'bfloat16')
        raise KeyError

    monkeypatch.setattr(exporting, 'restore_model', restore)
    with pytest.raises(KeyError):
        exporting.export(tmp_path, tmp_path, 'last', precision='bfloat16')


def test_no_model(tmp_path: pathlib.Path) -> None:
    with pytest.raises(checkpoints.CheckpointError, match='has no config.yaml; give a model directory'):
        exporting.export(tmp_path, tmp_path / 'saved')


@pytest.mark.usefixtures('light')
def test_a_full_disk_is_named_with_the_version(
        model_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: tf.Module, path: str, *_: object) -> None:      # as TensorFlow does on a small tmpfs
        raise tf.errors.ResourceExhaustedError(None, None, f'{path}/variables/a; No space left on device [Op:SaveV2]')

    monkeypatch.setattr(tf.saved_model, 'save', fail)
    with pytest.raises(OSError) as caught:
        exporting.export(model_dir, tmp_path / 'm')
    assert str(caught.value) == f'{tmp_path}/m/1: No space left on device; make room there or give another --output'
    assert not (tmp_path / 'm').exists()

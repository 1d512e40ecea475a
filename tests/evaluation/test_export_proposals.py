"""Proposals of a model for a set: what is written is what the model says, and what a set is given."""
from __future__ import annotations

import pathlib

import keras
import numpy as np
import pytest

from data_tools import proposal_files, proposals
from mrcnn_tf.detectors.augmentation import SingleView
from mrcnn_tf.detectors.detector import build_detector
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import export_proposals
from mrcnn_tf.evaluation.proposal_file import ProposalFile
from mrcnn_tf.input.dataset import evaluation_dataset
from mrcnn_tf.input.ground_truth import ground_truth
from mrcnn_tf.weights.model_directory import restore_model, save_imported
from tests.training.tiny import CATEGORIES, tiny_config, write_data


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """train.json of 16 images, and `rpn`, a model of random weights that takes 5 boxes, and 8 in training."""
    directory = tmp_path_factory.mktemp('proposing')
    write_data(directory)
    config = tiny_config(directory, 'model.kind=rpn', 'model.backbone.maps=c4', 'model.anchors.sizes=[[8,16]]',
                         'model.rpn.post_nms_test=5', 'model.rpn.post_nms_train=8', 'data.evaluation_batch_size=3')
    keras.utils.set_random_seed(0)
    save_imported(directory / 'rpn', build_detector(config.model), config, CATEGORIES)
    return directory


def test_a_set_gets_what_the_model_proposes(trained, tmp_path) -> None:
    export_proposals.propose(trained / 'rpn', trained / 'train.json', tmp_path / 'found.npz', training=True)
    model, config, categories = restore_model(trained / 'rpn')
    assert [category.name for category in categories] == ['object']      # whatever those of the data are
    first = next(iter(evaluation_dataset(trained / 'train.json', config, 1)))
    expected = model.propose(first, training=True)
    assert model(first)['boxes'].shape == [1, 5, 4]
    given = proposal_files.read(tmp_path / 'found.npz')
    assert list(given) == [str(number) for number in range(16)]
    assert {len(each.scores) for each in given.values()} == {8}
    np.testing.assert_allclose(given['0'].boxes, expected['boxes'][0], atol=1e-3)      # 64 px images on 64 px
    np.testing.assert_allclose(given['0'].scores, expected['scores'][0], atol=1e-5)
    written = proposals.attach(trained / 'train.json', tmp_path / 'found.npz', tmp_path, 'with')
    assert written.max_proposals_per_image == 8 and written.has_proposals
    record = next(iter(ground_truth(tmp_path / 'with.json')))
    np.testing.assert_array_equal(record['proposals'], given['0'].boxes)


def test_an_interrupted_call_is_continued(trained, tmp_path, monkeypatch) -> None:
    """Killed in the middle of writing an image: what is complete is kept, and the file is the same in all bytes."""
    rpn, manifest, calls = trained / 'rpn', trained / 'train.json', []
    detect = SingleView.__call__
    monkeypatch.setattr(SingleView, '__call__', lambda self, batches: calls.append(1) or detect(self, batches))
    export_proposals.propose(rpn, manifest, tmp_path / 'whole.npz')
    assert len(calls) == 6                                     # batches of 16 images
    add = ProposalFile.add

    def killed(self: ProposalFile, image_id: str, proposals: Instances) -> None:
        if len(self.ids) == 7:
            self._rows.write(b'half a row')
            self._journal.write('["half a l')
            raise KeyboardInterrupt
        add(self, image_id, proposals)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ProposalFile, 'add', killed)
        export_proposals.propose(rpn, manifest, tmp_path / 'found.npz')
    assert {path.name for path in tmp_path.iterdir()} == {'whole.npz', '.found.npz.journal', '.found.npz.rows'}
    calls.clear()
    export_proposals.propose(rpn, manifest, tmp_path / 'found.npz')
    assert len(calls) == 4                                     # two of six batches were complete
    assert {path.name for path in tmp_path.iterdir()} == {'whole.npz', 'found.npz'}
    assert (tmp_path / 'found.npz').read_bytes() == (tmp_path / 'whole.npz').read_bytes()


@pytest.mark.parametrize('damage', [
    lambda journal, rows: journal.write_text('another\n'), lambda journal, rows: journal.write_text(''),
    lambda journal, rows: journal.write_text('same\n[1,\n'), lambda journal, rows: rows.write_bytes(b'')],
    ids=['other model', 'empty', 'damaged', 'rows missing'])
def test_an_unfinished_file_that_does_not_fit_is_begun_again(tmp_path, damage) -> None:
    one = Instances(np.ones((2, 4), np.float32), np.ones(2, np.float32), np.ones(2, np.int32))
    with ProposalFile(tmp_path / 'found.npz', 'same') as written:
        written.add('a', one)
    assert ProposalFile(tmp_path / 'found.npz', 'same').ids == ['a']
    damage(tmp_path / '.found.npz.journal', tmp_path / '.found.npz.rows')
    with ProposalFile(tmp_path / 'found.npz', 'same') as written:
        assert written.ids == []
        written.add('b', one)
        written.finish()
    assert {key: len(value.boxes) for key, value in proposal_files.read(tmp_path / 'found.npz').items()} == {'b': 2}


def test_a_model_without_an_rpn_is_an_error(trained, tmp_path, monkeypatch) -> None:
    config = tiny_config(trained, 'model.kind=fast_rcnn')
    monkeypatch.setattr(export_proposals, 'restore_checkpoint',
                        lambda directory, **_: (build_detector(config.model), config, [], 1))
    with pytest.raises(export_proposals.ProposalError, match='run: a fast_rcnn has no RPN; give an rpn, '):
        export_proposals.propose('run', trained / 'train.json', tmp_path / 'found.npz')


def test_another_file_format_is_an_error(trained, tmp_path) -> None:
    with pytest.raises(export_proposals.ProposalError, match='found.pkl: expected a name that ends in .npz'):
        export_proposals.propose(trained / 'rpn', trained / 'train.json', tmp_path / 'found.pkl')
    assert not list(tmp_path.iterdir())

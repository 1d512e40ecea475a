"""What training leaves out of a set is counted and logged."""
from __future__ import annotations

import dataclasses
import pathlib

import pytest

from mrcnn_tf.input import record_table
from mrcnn_tf.input.damage import InputError
from mrcnn_tf.input.dataset import training_dataset
from mrcnn_tf.input.manifest import Manifest
from mrcnn_tf.input.records import ObjectAnnotation
from mrcnn_tf.input.survey import Survey, survey
from tests.input.small_sets import config, example, ids, take, thing, write_set

count = record_table._count


def test_images_without_objects_are_left_out_and_counted(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = [example(1), example(2, []), example(3, [thing(crowd=True)]), example(4, [thing(), thing(crowd=True)])]
    path = write_set(tmp_path, examples)
    assert survey(path, config()) == Survey(images=4, usable=2, cut_images=0, cut_objects=0)
    assert set(ids(take(training_dataset(path, config(), start_step=1), 4))) == {1, 4}
    assert caplog.messages == [
        f'{path}: 2 of 4 images have no object and are left out (data.keep_empty=true trains on them)']


@pytest.mark.parametrize('objects', [[], [thing(crowd=True)]], ids=['none', 'crowds'])
def test_a_set_without_any_object_is_refused(tmp_path: pathlib.Path, objects: list[ObjectAnnotation]) -> None:
    path = write_set(tmp_path, [example(1, objects)])
    with pytest.raises(InputError, match=f'^{path}: no image has an object to train on; annotate objects that'):
        training_dataset(path, config())


@pytest.mark.parametrize('keep_empty', [False, True], ids=['drop_empty', 'keep_empty'])
def test_a_class_that_has_only_crowds_is_named(
        tmp_path: pathlib.Path, keep_empty: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = write_set(tmp_path, [example(1, [thing(), thing(label=2, crowd=True)]), example(2, [thing(crowd=True)])])
    training_dataset(path, config(keep_empty=keep_empty))
    name = Manifest.read(path).categories[1].name
    expected = f'{path}: all objects of {name!r} are crowds, so the model does not learn to detect that class'
    assert expected in caplog.messages


def test_the_largest_objects_are_kept_and_the_rest_counted(
        tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    widths = [3, 9, 4, 16, 6]
    objects = [thing((0, 0, 4, width), label=1 + (width == 16), crowd=width == 16) for width in widths]
    path = write_set(tmp_path, [example(1, objects), example(2, objects[:2]), example(3, objects[1:])])
    kept = {int(batch['image_ids'][0]): batch for batch in take(training_dataset(path, config(batch_size=1)), 3)}
    # The largest three that are not crowds, in the order of the record; a crowd only if a slot is left.
    assert [(kept[i]['boxes'][0, :, 3] / 2).tolist() for i in (1, 2, 3)] == [[9, 4, 6], [3, 9, 0], [9, 4, 6]]
    assert f'{path}: 3 objects beyond data.max_objects=3 in 2 images are left out, the smallest ones' in caplog.messages
    assert survey(path, config()) == Survey(images=3, usable=3, cut_images=2, cut_objects=3, crowds_only=(2,))


def test_a_set_is_counted_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later starts read `.set.table`, not the records, unless the manifest has changed or the file is another one."""
    examples = [example(1), example(2, []), example(3, [thing(crowd=True)]), example(4, [thing()] * 5)]
    path = write_set(tmp_path, examples, 1)
    expected = Survey(images=4, usable=2, cut_images=1, cut_objects=2)
    kept = tmp_path / '.set.table'
    assert survey(path, config()) == expected and kept.is_file()
    passes: list[str] = []
    monkeypatch.setattr(record_table, '_count', lambda manifest, described: passes.append(manifest) or count(
        manifest, described))
    assert survey(path, config()) == expected and not passes
    assert survey(path, config(keep_empty=True)).usable == 4 and not passes
    whole = kept.read_bytes()
    for content in (whole[:-1], whole.replace(whole[:1], b'?', 1)):
        kept.write_bytes(content)
        assert survey(path, config()) == expected and passes and kept.read_bytes() == whole
        passes.clear()
    dataclasses.replace(Manifest.read(path), name='other').write(path)
    assert survey(path, config()) == expected and passes and kept.read_bytes() != whole


def test_a_set_that_cannot_be_written_is_counted_each_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
                                                          ) -> None:
    path = write_set(tmp_path, [example(1), example(2, [thing(crowd=True)])])

    def refuse(final: pathlib.Path) -> None:
        raise PermissionError(13, 'Permission denied', str(final))

    monkeypatch.setattr(record_table.files, 'atomic_path', refuse)
    assert survey(path, config()) == Survey(images=2, usable=1, cut_images=0, cut_objects=0)
    assert not (tmp_path / '.set.table').exists()

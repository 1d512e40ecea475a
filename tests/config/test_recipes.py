"""The packaged configs: the summary in the header of each."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.config import recipes
from tests.paths import ROOT

WITHOUT_RESULT = ('base', 'shapes_r18_fpn', 'faster_rcnn_r50_fpn_small', 'mask_rcnn_r50_fpn_finetune',
                  'mask_rcnn_r18_fpn_cpu_demo')


@pytest.mark.parametrize('name', recipes.packaged())
def test_every_config_has_a_summary(name: str) -> None:
    summary = recipes.summary(name)
    assert summary.title[0].isupper() or summary.title.startswith('mask_rcnn')
    assert 10 < len(summary.title) < 160 and len(str(summary)) < 300
    # Recipes without a result of their own say what their weights or a larger recipe have.
    assert summary.result or name in WITHOUT_RESULT


def test_a_summary_is_the_first_sentence_and_result(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a.yaml').write_text(
        '# A detector, by eq. 1 (fig. 2) of\n# its paper. More about it. Published by us: 1.5 AP (table 2).\n#\n'
        '#   mrcnn train a. Published: 9 AP\n# Measured: 2 AP.\nbase: base  # Published: 3 AP.\n')
    monkeypatch.setattr(recipes, 'folder', lambda: tmp_path)
    assert recipes.summaries() == [
        recipes.Summary('a', 'A detector, by eq. 1 (fig. 2) of its paper', 'Published by us: 1.5 AP (table 2)')]
    (tmp_path / 'a.yaml').write_text('# Defaults.\n{}\n')
    assert str(recipes.summary('a')) == 'Defaults'


def test_the_folder_is_that_of_the_source_tree() -> None:
    assert recipes.folder() == ROOT / 'configs'

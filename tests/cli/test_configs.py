"""`mrcnn configs`: what it lists."""
from __future__ import annotations

from mrcnn_tf import config
from tests.cli.runner import mrcnn


def test_all_configs_are_listed_on_a_line_each() -> None:
    result = mrcnn('configs')
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == config.packaged()


def test_words_choose_the_lines() -> None:
    line, = mrcnn('configs', 'MASK_RCNN', 'roipool').stdout.splitlines()
    assert line.split(maxsplit=1) == [
        'mask_rcnn_r50_c4_roipool', "Mask R-CNN, ResNet-50-C4, with RoIPool. Published: 26.9 mask AP on COCO minival "
                                    "with the paper's schedule (table 2c of Mask R-CNN; RoIAlign: 30.3)"]


def test_a_word_in_no_line_is_an_error() -> None:
    result = mrcnn('configs', 'mask', 'nothing')
    assert result.exit_code == 1
    assert result.stderr == ("mrcnn: error: no packaged config has 'mask' and 'nothing' in its line; "
                             '`mrcnn configs` without a word lists all\n')

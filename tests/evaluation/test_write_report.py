"""What is refused before an evaluation starts. `test_run.py` writes a report."""
from __future__ import annotations

import pathlib

import pytest

from mrcnn_tf.evaluation.coco import EvaluationError
from mrcnn_tf.evaluation.write_report import Report, check


def test_what_would_fail_is_refused_before_the_evaluation(tmp_path: pathlib.Path) -> None:
    with pytest.raises(EvaluationError, match='--report explains COCO.s metrics, and --metric is recall'):
        check(Report(tmp_path / 'a.html'), 'recall')
    with pytest.raises(EvaluationError, match=': is a directory; give the name of the HTML file'):
        check(Report(tmp_path), 'coco')
    with pytest.raises(FileNotFoundError, match='old.html'):
        check(Report(tmp_path / 'a.html', tmp_path / 'old.html'), 'coco')
    check(Report(tmp_path / 'a.html'), 'coco')

"""The numbers of a report, their way through a page and back, the page's text, and what changed between two reports."""
from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest

from mrcnn_tf.evaluation import report, report_changes, report_page
from mrcnn_tf.evaluation.coco import CocoEvaluator, EvaluationError
from mrcnn_tf.evaluation.report import Numbers
from mrcnn_tf.input.manifest import Category
from tests.evaluation.arrays import NAMES, instances_of, truth_of

EVIL = '</template></title><script>document.title="taken over"</script><img src="http://example.org/x">&amp;\'"'
A, B, C = [0, 0, 100, 100], [200, 0, 100, 100], [0, 200, 100, 100]
CAT, DOG, COW = 1, 2, 3


def numbers_of(detections: list[tuple[int, int, list[int], float]], name: str = 'cat') -> tuple[Numbers, CocoEvaluator]:
    """Return the report of two images, one with a cat, a dog and a crowd of cats, the other with a cat; no cows."""
    truth = truth_of([(1, CAT, A), (1, DOG, B), (1, CAT, C, True), (2, CAT, A)], images=2)
    truth.categories[0] = (1, name)
    evaluator = CocoEvaluator(truth, [Category(1, 1, name), Category(2, 2, 'dog'), Category(3, 3, 'cow')], '')
    for image in truth.sizes:
        mine = [each for each in detections if each[0] == image]
        evaluator.add(image, instances_of([each[2] for each in mine], [each[3] for each in mine],
                                          [each[1] for each in mine]))
    metrics = evaluator.evaluate()
    return report.numbers(evaluator, metrics, report.analyses(evaluator), f'runs/{name}'), evaluator


@pytest.fixture(scope='module')
def numbers() -> Numbers:
    """A cat and the dog are found, the other cat is taken for a dog."""
    return numbers_of([(1, CAT, A, .9), (1, DOG, B, .8), (2, DOG, A, .7)])[0]


@pytest.fixture(scope='module')
def better() -> Numbers:
    return numbers_of([(1, CAT, A, .9), (1, DOG, B, .8), (2, CAT, A, .7)])[0]


def test_numbers_by_hand(numbers: Numbers) -> None:
    assert [numbers[name] for name in ('images', 'objects', 'crowds', 'detections')] == [2, 3, 1, 3]
    assert numbers['metrics']['bbox/AP50'] == pytest.approx((51 / 101 + 1) / 2) and len(numbers['metrics']) == 12
    boxes = numbers['kinds']['bbox']
    cat, dog, cow = boxes['categories']
    assert (cat['category'], cat['id'], cat['images'], cat['objects']) == ('cat', 1, 2, 2)
    assert (cat['AP50'], dog['AP50'], cow['AP50']) == (pytest.approx(51 / 101), pytest.approx(1), None)
    # Corrected, the third detection finds the second cat: all are found.
    assert boxes['errors']['classification'] == {'count': 1, 'cost': pytest.approx(1 - (51 / 101 + 1) / 2)}
    assert boxes['errors']['missed'] == {'count': 0, 'cost': 0} and boxes['errors']['false positives']['count'] is None
    assert dog['errors']['classification'] == {'count': 1, 'cost': 0}
    assert cat['errors']['classification']['cost'] is not None and cow['errors']['missed']['cost'] is None
    # F1 of all: 2 * 1 / (1 + 3), 2 * 2 / (2 + 3), 2 * 2 / (3 + 3)
    assert boxes['threshold'] == pytest.approx({'score': .8, 'precision': 1, 'recall': 2 / 3, 'f1': .8})
    assert boxes['confusion'] == [[0, 0, 1], [0, 3, 1], [1, 1, 1]]     # the one of score 0.7 is below the threshold
    assert boxes['image_counts'] == [[1, 2, 0, 0], [2, 0, 0, 1]]
    curve = boxes['curves']['0.50']
    assert curve['categories'][0] == [1.] * 51 + [0.] * 50 and curve['categories'][2] is None
    assert curve['mean'] == [1.] * 51 + [.5] * 50


def test_a_report_is_read_back_from_its_page(numbers: Numbers, tmp_path: pathlib.Path) -> None:
    (tmp_path / 'page.html').write_text(report_page.page(numbers))
    (tmp_path / 'page.json').write_text(json.dumps(numbers))
    assert report.read(tmp_path / 'page.html') == report.read(tmp_path / 'page.json') == numbers


@pytest.mark.parametrize(('text', 'message'), [
    ('<p>page</p>', 'not a report'), ('{"bbox/AP": 1}', 'not a report'), ('[1]', 'not a report'),
    ('<template id="numbers">{</template>', 'not a report'), (b'\xff', 'not a report'),
    ('{"format": "mrcnn_tf report", "version": 1, "kinds": {}}', 'not a report'),
    ('{"format": "mrcnn_tf report", "version": 2}', "format 'mrcnn_tf report' version 2, expected .* version 1")],
    ids=['other page', 'metrics', 'list', 'damaged', 'no text', 'incomplete', 'other version'])
def test_another_file_is_refused(tmp_path: pathlib.Path, text: Any, message: str) -> None:
    (tmp_path / 'old.html').write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EvaluationError, match=f'old.html: {message}') as error:
        report.read(tmp_path / 'old.html')
    assert '\n' not in str(error.value)


def test_the_page_shows_the_numbers(numbers: Numbers) -> None:
    page = report_page.page(numbers)
    for text in ('<b>0.752</b>AP50 of boxes', '<b>1</b>crowds', '<th>classification</th>', '+0.248 (1)',
                 'the lowest AP first; precision, recall and F1 at the threshold with the best F1, IoU 0.5; 1 more '
                 'without objects', 'IoU 0.50:0.95', 'dog: AP50 1.000'):
        assert text in page, text
    assert page.count('<svg') == 3 and 'Masks' not in page and 'Worst images</h2>' not in page
    assert re.search(r'<th>cat</th><td class="n">2</td><td class="n">2</td>.*?classification \+0.495', page)


def test_text_of_the_data_is_escaped_and_nothing_is_loaded(tmp_path: pathlib.Path) -> None:
    hostile = numbers_of([(1, CAT, A, .9), (2, DOG, A, .8)], EVIL)[0]
    page = report_page.page(hostile, other={**hostile, 'model': EVIL, 'data': EVIL})
    assert '<script' not in page and page.count('&lt;script&gt;') >= 4 and page.count('</template>') == 1
    assert re.findall(r'<[^>]*\b(?:src|href)=(?!#)', page) == [] and 'url(' not in page
    assert "default-src 'none'" in page
    (tmp_path / 'page.html').write_text(page)
    assert report.read(tmp_path / 'page.html') == hostile


def test_what_changed(numbers: Numbers, better: Numbers) -> None:
    section = ''.join(report_changes.sections(better, numbers))
    assert 'Changes against runs/cat' in section and 'another set' not in section
    for row in (('bbox/AP50', '0.752', '1.000', '+0.248'), ('classification', '0.248', '0.000', '-0.248'),
                ('cat', '0.505', '1.000', '+0.495'), ('id 2', '0.000', '1.000', '+1.000')):
        assert f'<th>{row[0]}</th>' + ''.join(f'<td class="n">{each}</td>' for each in row[1:]) in section
    same = ''.join(report_changes.sections(numbers, numbers))
    assert same.count('no changes') == 2 and '+' not in same
    assert 'another set</b>: other.json' in ''.join(report_changes.sections(numbers, {**numbers, 'data': 'other.json'}))


def test_a_set_without_objects_or_detections_has_a_page() -> None:
    truth = truth_of([], images=1)
    evaluator = CocoEvaluator(truth, [Category(k, k, name) for k, name in enumerate(NAMES, 1)], '')
    evaluator.add(1, instances_of([], [], []))
    empty = report.numbers(evaluator, evaluator.evaluate(), report.analyses(evaluator), 'run')
    page = report_page.page(empty, other=empty)
    assert '<b>-</b>AP of boxes' in page and '3 more without objects' in page

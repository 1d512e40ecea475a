"""Write an HTML page about a converted set: its statistics, its issues, and a sample of its images.

See `mrcnn_tf/files/html.py` for what all pages have in common.
"""
from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from data_tools import anchor_fit
from data_tools import statistics as stats
from data_tools.anchor_fit import Fit
from data_tools.issues import ACTIONS, describe
from data_tools.statistics import ClassCounts, Statistics
from mrcnn_tf.config import Config
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.files.html import bar_chart, document, escape, figure, number, tiles, write_page
from mrcnn_tf.input import decoding, record_reader
from mrcnn_tf.input.manifest import Category, IssueEntry, Manifest
from mrcnn_tf.input.records import Annotated

_SIDE = 1000         # px: the longer side of an image on the page
_NAMED = 40          # objects: with more on an image, their names would hide it
_ISSUES = 10         # of a reason
_SIZES = 12


def write(manifest: str | os.PathLike[str], output: str | os.PathLike[str], sample: int = 24,
          max_pixels: int | None = decoding.DEFAULT.max_pixels, config: Config | None = None) -> Fit | None:
    """Write the page of a set; it is the same for the same set.

    Args:
        manifest: of the set.
        output: the HTML file; an existing one is replaced.
        sample: number of images shown; their ids decide which.
        max_pixels: of an image that is shown; None: no limit.
        config: of a model, whose anchors are compared with the boxes.

    Returns:
        How well the anchors cover the boxes, as on the page; None without a config or boxes.

    Raises:
        ManifestError: the manifest cannot be used.
        RecordError: a shard is damaged, or a record or image of the sample cannot be decoded.
        OSError: the disk is full, permission is denied.
    """
    described, statistics = Manifest.read(manifest), stats.compute(manifest, sample)
    boxes = np.asarray(statistics.boxes).reshape(-1, 6)
    fit = anchor_fit.fit(boxes[:, :4], boxes[:, 4:], config) if config else None
    write_page(output, page(described, statistics, decoding.Rule(max_pixels=max_pixels), fit))
    return fit


def page(manifest: Manifest, statistics: Statistics, rule: decoding.Rule = decoding.AS_STORED, fit: Fit | None = None,
         ) -> str:
    """Return the HTML; rule: which images are decoded; fit: of the anchors of a config."""
    return document(manifest.name, (
        *_source(manifest), _tiles(manifest), '<h2>Distributions</h2>', '<div class="charts">',
        *_charts(manifest, statistics), '</div>', *(_anchors(fit) if fit else ()),
        '<h2>Issues</h2>', *_issues(manifest),
        f'<h2>{len(statistics.sample)} of {manifest.counts.images} images</h2>',
        *_pictures(manifest, statistics.sample, rule)))


def _source(manifest: Manifest) -> Iterable[str]:
    source = manifest.source
    yield f'<p>{escape(source.kind)}: annotations {escape(source.annotations)}, images {escape(source.images)}</p>'
    if manifest.has_proposals:
        yield (f'<p>Proposals: at most {manifest.max_proposals_per_image} per image, from '
               f'{escape(manifest.proposals_from or "the records")}</p>')


def _tiles(manifest: Manifest) -> str:
    counts, size = manifest.counts, sum(shard.bytes for shard in manifest.shards)
    return tiles((
        (number(counts.images), 'images'), (number(counts.images_without_objects), 'of them without objects'),
        (number(counts.objects), 'objects'), (number(counts.crowds), 'of them crowds'),
        (number(manifest.max_objects_per_image), 'objects at most per image'),
        (number(len(manifest.categories)), 'categories'), ('yes' if manifest.has_masks else 'no', 'masks'),
        *([(number(counts.objects_without_mask), 'objects with a box only')] if counts.objects_without_mask else ()),
        (f'{size / 2 ** 20:,.1f}', f'MiB in {len(manifest.shards)} shards')))


def _charts(manifest: Manifest, statistics: Statistics) -> Iterable[str]:
    yield bar_chart('Objects by category', _classes(manifest.categories, statistics), 'objects (images)')
    yield bar_chart('Objects by size: square root of the area, px', _bins(stats.SIDES, statistics.sides), 'objects')
    yield bar_chart('Images by number of objects', _bins(stats.OBJECTS, statistics.per_image, whole=True), 'images')
    yield bar_chart('Boxes by height / width', _ratios(statistics.box_ratios), 'objects')
    yield bar_chart('Images by height / width', _ratios(statistics.image_ratios), 'images')
    sizes = [(f'{height} x {width}', count, '') for (height, width), count in sorted(
        statistics.sizes.items(), key=lambda item: (-item[1], item[0]))]
    yield bar_chart('Images by height x width, px', sizes, 'images', _SIZES)


def _anchors(fit: Fit) -> Iterable[str]:
    yield (f'<h2>Anchors</h2><p>The best IoU of each box with an anchor: sizes {escape(fit.anchors.sizes)}, ratios '
           f'{escape(fit.anchors.ratios)}. {escape(fit.advice())}</p><div class="charts">')
    edges = [low / 10 for low in range(10)]
    yield bar_chart('Boxes by their best IoU', _bins(edges, stats.histogram(fit.best.tolist(), edges)), 'boxes')
    for column, iou in enumerate((*anchor_fit.IOUS, fit.limit)):
        yield bar_chart(f'Boxes with an anchor of IoU {iou:g} or more', [
            (name, round(100 * shares[column]), f' % of {number(count)}') for name, count, _, shares in fit.rows()],
            'by root of the area after resizing')
    yield '</div>'


def _classes(categories: Sequence[Category], statistics: Statistics) -> list[tuple[str, int, str]]:
    rows = []
    for category in categories:
        of_class = statistics.classes.get(category.label, ClassCounts())
        crowds = f', {number(of_class.crowds)} crowd{"s" * (of_class.crowds > 1)}' if of_class.crowds else ''
        rows.append((category.name, of_class.objects, f' ({number(of_class.images)}{crowds})'))
    return sorted(rows, key=lambda row: -row[1])


def _bins(edges: Sequence[float], counts: Sequence[int], whole: bool = False) -> list[tuple[str, int, str]]:
    names = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        last = high - 1 if high is not None and whole else high
        names.append(f'{low:g} and more' if last is None else f'{low:g}' if last == low else f'{low:g} to {last:g}')
    return [(name, count, '') for name, count in zip(names, counts, strict=True)]


def _ratios(counts: Sequence[int]) -> list[tuple[str, int, str]]:
    names = ('1/8', '1/4', '1/2', '0.71', '1.41', '2', '4', '8')
    return [(name, count, '') for name, count in zip(
        [f'below {names[0]}', *(f'{low} to {high}' for low, high in zip(names, names[1:], strict=False)),
         f'{names[-1]} and more'], counts, strict=True)]


def _issues(manifest: Manifest) -> Iterable[str]:
    rows = [_issue(action, reason, entries) for action in ACTIONS
            for reason, entries in sorted(getattr(manifest, action).items())]
    if not rows:
        yield '<p>None: all annotations are used as they are.</p>'
        return
    yield '<div class="card"><table class="list"><tr><th></th><th>reason</th><th class="n">count</th><th></th></tr>'
    yield from rows
    yield '</table></div>'


def _issue(action: str, reason: str, entries: Sequence[IssueEntry]) -> str:
    lines = ''.join(f'<div>{escape(describe(each))}</div>' for each in entries[:_ISSUES])
    left = f'<div>and {number(len(entries) - _ISSUES)} more, in the manifest</div>' if len(
        entries) > _ISSUES else ''
    return (f'<tr><td>{"kept as it is" if action == "kept" else action}</td><td>{escape(reason)}</td>'
            f'<td class="n">{number(len(entries))}</td>'
            f'<td><details><summary>the first</summary>{lines}{left}</details></td></tr>')


def _pictures(manifest: Manifest, sample: Sequence[Annotated], rule: decoding.Rule) -> Iterable[str]:
    names = [category.name for category in manifest.categories]
    yield '<div class="pictures">'
    for example in sample:
        count = len(example.objects)
        yield figure(_picture(example, names, rule), example.filename or example.source_id,
                          f'id {example.source_id}, {example.height} x {example.width}, '
                          f'{count} object{"" if count == 1 else "s"}')
    yield '</div>'


def _picture(example: Annotated, names: Sequence[str], rule: decoding.Rule) -> bytes:
    """Return a JPEG of an image with its objects, the smallest on top."""
    pixels = record_reader.pixels(example, rule)
    objects = sorted(example.objects, key=lambda each: each.area)
    small, scale = reduced(pixels)
    size = small.shape[1], small.shape[0]
    masks = [_resized(each.mask, size) for each in objects if each.mask is not None]
    instances = Instances(
        boxes=np.array([each.box for each in objects], np.float32).reshape(-1, 4) * scale,
        scores=np.ones(len(objects), np.float32),
        labels=np.array([each.label + len(names) * (each.crowd + 2 * (not each.has_mask)) for each in objects],
                        np.int32),
        masks=np.stack(masks) if masks else None)
    texts = [name + more for more in ('', ' (crowd)', ' (box only)', ' (crowd, box only)') for name in names]
    return drawn_jpeg(small, instances, texts)


def reduced(pixels: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return an image, uint8 [height, width, 3], no larger than pages show it, and its scale."""
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)), np.float32(scale)


def drawn_jpeg(pixels: np.ndarray, instances: Instances, names: Sequence[str]) -> bytes:
    """Return a JPEG of an image with its objects, the first one on top; names by label - 1, left out if too many."""
    stream = io.BytesIO()
    drawn = visualize.draw(pixels, instances, names if len(instances) <= _NAMED else [''] * len(names),
                           confidence=False)
    Image.fromarray(drawn).save(stream, 'JPEG', quality=82)
    return stream.getvalue()


def _resized(png: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as mask:
        return np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0

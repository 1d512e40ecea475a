"""Write an HTML page about a converted set: its statistics, its issues, and a sample of its images.

The page has no script and loads nothing, which its Content-Security-Policy enforces, and text of the data is escaped.
Its colors follow the browser's light or dark mode. A click on an image fills the window with it.
"""
from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape as escape_html
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from data_tools import statistics as stats
from data_tools.issues import ACTIONS, describe
from data_tools.statistics import ClassCounts, Statistics
from mrcnn_tf import files
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.files.text import error_line, one_line
from mrcnn_tf.input import decoding, record_reader
from mrcnn_tf.input.manifest import Category, IssueEntry, Manifest
from mrcnn_tf.input.records import Annotated

_SIDE = 1000         # px: the longer side of an image on the page
_NAMED = 40          # objects: with more on an image, their names would hide it
_CLASSES = 25        # rows before the rest is folded
_ISSUES = 10         # of a reason
_SIZES = 12

_STYLE = """
:root { color-scheme: light dark; --page: #fafaf8; --card: #fff; --ink: #1c1e21; --soft: #62676e; --line: #dedfdb;
  --bar: #3b74c4; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --card: #1e2125; --ink: #e8e8e6; --soft: #9ba1a8;
  --line: #33373c; --bar: #6c9fe6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 90rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.8rem; } h2 { margin: 2.5rem 0 .75rem; font-size: 1.25rem; }
h3 { margin: 0 0 .6rem; font-size: 1rem; } p { margin: .25rem 0; color: var(--soft); }
.tiles, .pictures { display: grid; gap: 1rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); margin-top: 1.25rem; }
.charts { columns: 26rem; column-gap: 1rem; } .charts .card { break-inside: avoid; margin-bottom: 1rem; }
.pictures { grid-template-columns: repeat(auto-fill, minmax(min(34rem, 100%), 1fr)); align-items: start; }
.card, figure { margin: 0; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.tile b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; } .tile { color: var(--soft); }
.tile b { color: var(--ink); }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th { text-align: left; font-weight: normal; } td, th { padding: .1rem .4rem .1rem 0; vertical-align: top; }
.bars th { min-width: 9.5rem; } .bars td { width: 100%; }
.bars td.n { width: auto; text-align: right; padding-right: 0; font-variant-numeric: tabular-nums; white-space: nowrap;
  color: var(--soft); }
.bar { display: block; height: .8rem; margin-top: .3rem; min-width: 1px; border-radius: 2px; background: var(--bar); }
.none .bar { visibility: hidden; }
.list td, .list th { border-top: 1px solid var(--line); padding: .35rem .6rem .35rem 0; }
.list .n { text-align: right; font-variant-numeric: tabular-nums; }
.list { overflow-wrap: normal; } details { margin-top: .4rem; }
.list details { margin-top: 0; overflow-wrap: anywhere; } summary { cursor: pointer; color: var(--soft); }
figure { padding: .6rem; } figure img { display: block; width: 100%; height: auto; border-radius: .3rem; }
figure input { position: absolute; opacity: 0; } figure img { cursor: zoom-in; }
figure :focus-visible + img { outline: 3px solid var(--bar); }
figure :checked + img { position: fixed; z-index: 1; inset: 0; height: 100%; object-fit: contain; cursor: zoom-out;
  border-radius: 0; background: var(--page); }
figcaption { margin-top: .4rem; font-size: .85rem; color: var(--soft); } figcaption b { color: var(--ink); }
""".strip()


def write(manifest: str | os.PathLike[str], output: str | os.PathLike[str], sample: int = 24,
          max_pixels: int | None = decoding.DEFAULT.max_pixels) -> None:
    """Write the page of a set; it is the same for the same set.

    Args:
        manifest: of the set.
        output: the HTML file; an existing one is replaced.
        sample: number of images shown; their ids decide which.
        max_pixels: of an image that is shown; None: no limit.

    Raises:
        ManifestError: the manifest cannot be used.
        RecordError: a shard is damaged, or a record or image of the sample cannot be decoded.
        OSError: the disk is full, permission is denied.
    """
    described = Manifest.read(manifest)
    text = page(described, stats.compute(manifest, sample), decoding.Rule(max_pixels=max_pixels))
    with files.atomic_path(output) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def page(manifest: Manifest, statistics: Statistics, rule: decoding.Rule = decoding.AS_STORED) -> str:
    """Return the HTML; rule: which images are decoded."""
    name = escape(manifest.name)
    return '\n'.join((
        '<!DOCTYPE html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" '
        'content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">', f'<title>{name}</title>',
        f'<style>{_STYLE}</style>', '</head>', '<body>', f'<h1>{name}</h1>', *_source(manifest), *_tiles(manifest),
        '<h2>Distributions</h2>', '<div class="charts">', *_charts(manifest, statistics), '</div>',
        '<h2>Issues</h2>', *_issues(manifest),
        f'<h2>{len(statistics.sample)} of {manifest.counts.images} images</h2>',
        *_pictures(manifest, statistics.sample, rule),
        '</body>', '</html>', ''))


def _source(manifest: Manifest) -> Iterable[str]:
    source = manifest.source
    yield f'<p>{escape(source.kind)}: annotations {escape(source.annotations)}, images {escape(source.images)}</p>'
    if manifest.has_proposals:
        yield (f'<p>Proposals: at most {manifest.max_proposals_per_image} per image, from '
               f'{escape(manifest.proposals_from or "the records")}</p>')


def _tiles(manifest: Manifest) -> Iterable[str]:
    counts, size = manifest.counts, sum(shard.bytes for shard in manifest.shards)
    tiles = (
        (_number(counts.images), 'images'), (_number(counts.images_without_objects), 'of them without objects'),
        (_number(counts.objects), 'objects'), (_number(counts.crowds), 'of them crowds'),
        (_number(manifest.max_objects_per_image), 'objects at most per image'),
        (_number(len(manifest.categories)), 'categories'), ('yes' if manifest.has_masks else 'no', 'masks'),
        *([(_number(counts.objects_without_mask), 'objects with a box only')] if counts.objects_without_mask else ()),
        (f'{size / 2 ** 20:,.1f}', f'MiB in {len(manifest.shards)} shards'))
    yield '<div class="tiles">'
    yield from (f'<div class="card tile"><b>{value}</b>{what}</div>' for value, what in tiles)
    yield '</div>'


def _charts(manifest: Manifest, statistics: Statistics) -> Iterable[str]:
    yield _chart('Objects by category', _classes(manifest.categories, statistics), 'objects (images)')
    yield _chart('Objects by size: square root of the area, px', _bins(stats.SIDES, statistics.sides), 'objects')
    yield _chart('Images by number of objects', _bins(stats.OBJECTS, statistics.per_image, whole=True), 'images')
    yield _chart('Boxes by height / width', _ratios(statistics.box_ratios), 'objects')
    yield _chart('Images by height / width', _ratios(statistics.image_ratios), 'images')
    sizes = [(f'{height} x {width}', count, '') for (height, width), count in sorted(
        statistics.sizes.items(), key=lambda item: (-item[1], item[0]))]
    yield _chart('Images by height x width, px', sizes, 'images', _SIZES)


def _classes(categories: Sequence[Category], statistics: Statistics) -> list[tuple[str, int, str]]:
    rows = []
    for category in categories:
        of_class = statistics.classes.get(category.label, ClassCounts())
        crowds = f', {_number(of_class.crowds)} crowd{"s" * (of_class.crowds > 1)}' if of_class.crowds else ''
        rows.append((category.name, of_class.objects, f' ({_number(of_class.images)}{crowds})'))
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


def _chart(title: str, rows: Sequence[tuple[str, int, str]], unit: str, shown: int = _CLASSES) -> str:
    """Return a bar chart of (name, count, text behind the count); rows beyond `shown` are folded."""
    largest = max((count for _, count, _ in rows), default=0) or 1
    bars = [f'<tr class="{"some" if count else "none"}"><th>{escape(name)}</th><td><span class="bar" '
            f'style="width:{100 * count / largest:.1f}%"></span></td><td class="n">{_number(count)}{escape(more)}</td>'
            '</tr>' for name, count, more in rows]
    parts = [f'<div class="card"><h3>{escape(title)}</h3>', f'<p>{escape(unit)}</p>', _table(bars[:shown])]
    if len(bars) > shown:
        parts.append(f'<details><summary>{len(bars) - shown} more</summary>{_table(bars[shown:])}</details>')
    return ''.join((*parts, '</div>'))


def _table(rows: Iterable[str]) -> str:
    return f'<table class="bars">{"".join(rows)}</table>'


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
    left = f'<div>and {_number(len(entries) - _ISSUES)} more, in the manifest</div>' if len(
        entries) > _ISSUES else ''
    return (f'<tr><td>{"kept as it is" if action == "kept" else action}</td><td>{escape(reason)}</td>'
            f'<td class="n">{_number(len(entries))}</td>'
            f'<td><details><summary>the first</summary>{lines}{left}</details></td></tr>')


def _pictures(manifest: Manifest, sample: Sequence[Annotated], rule: decoding.Rule) -> Iterable[str]:
    names = [category.name for category in manifest.categories]
    yield '<div class="pictures">'
    for example in sample:
        content = base64.b64encode(_picture(example, names, rule)).decode()
        shown = example.filename or example.source_id
        count = len(example.objects)
        yield (f'<figure><label><input type="checkbox"><img alt="{escape(shown)}" '
               f'src="data:image/jpeg;base64,{content}"></label><figcaption><b>{escape(shown)}</b> '
               f'id {escape(example.source_id)}, {example.height} x {example.width}, '
               f'{count} object{"" if count == 1 else "s"}</figcaption></figure>')
    yield '</div>'


def _picture(example: Annotated, names: Sequence[str], rule: decoding.Rule) -> bytes:
    """Return a JPEG of an image with its objects, the smallest on top."""
    pixels = _pixels(example, rule)
    objects = sorted(example.objects, key=lambda each: each.area)
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    masks = [_resized(each.mask, size) for each in objects if each.mask is not None]
    instances = Instances(
        boxes=np.array([each.box for each in objects], np.float32).reshape(-1, 4) * np.float32(scale),
        scores=np.ones(len(objects), np.float32),
        labels=np.array([each.label + len(names) * (each.crowd + 2 * (not each.has_mask)) for each in objects],
                        np.int32),
        masks=np.stack(masks) if masks else None)
    texts = [name + more for more in ('', ' (crowd)', ' (box only)', ' (crowd, box only)') for name in names]
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    stream = io.BytesIO()
    drawn = visualize.draw(small, instances, texts if len(objects) <= _NAMED else [''] * len(texts), confidence=False)
    Image.fromarray(drawn).save(stream, 'JPEG', quality=82)
    return stream.getvalue()


def _pixels(example: Annotated, rule: decoding.Rule) -> np.ndarray:
    """Return the image uint8 [height, width, 3], as training decodes it."""
    try:
        reason = decoding.refusal(example.encoded, rule).numpy().decode()
        if reason:
            raise record_reader.RecordError(f'image {example.source_id}: {reason}')
        decoded = decoding.decode(example.encoded, then=lambda pixels: pixels)
    except tf.errors.OpError as error:
        raise record_reader.RecordError(f'image {example.source_id}: cannot be decoded '
                                        f'({error_line(error)}); convert the data again') from None
    return np.clip(np.asarray(decoded), 0, 255).astype(np.uint8)


def _resized(png: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as mask:
        return np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0


def escape(text: Any) -> str:
    """Return text of the data for the page: without markup and controls, at most 500 characters."""
    return escape_html(one_line(text, 500))


def _number(value: int) -> str:
    return f'{value:,}'

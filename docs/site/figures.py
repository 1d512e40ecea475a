"""Draw the figures of docs/how_it_works: the functions of this package compute every box, point and mask in them.

    python docs/site/figures.py            # writes docs/pictures/how_it_works/*.svg

The pictures below the boxes are images of the demo's generated data set.
"""
from __future__ import annotations

import base64
import io
import os
import pathlib
from collections.abc import Iterable, Sequence

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import tensorflow as tf
from PIL import Image

from data_tools.formats import shapes
from mrcnn_tf.layers.anchors import AnchorGenerator
from mrcnn_tf.layers.roi import assign_levels, pooling_plan, sampling_plan
from mrcnn_tf.ops import paste, targets

OUTPUT = pathlib.Path(__file__).resolve().parents[1] / 'pictures' / 'how_it_works'
GREEN, RED, BLUE, ORANGE, GRAY = '#00e676', '#ff1744', '#2979ff', '#ffab00', '#b8bcc4'
SEED = tf.constant([0, 7])
SIZE = 256, 384            # of the images, px
MAP, STRIDE = (8, 8), 16   # of the feature map of the RoI layers: cells, px


def main() -> None:
    """Write all figures."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    image, masks = picture(23, SIZE)
    boxes = np.stack([box_of(mask) for mask in masks])
    write('anchors', [anchors_of_one_cell(image)])
    write('anchor_matching', matched_anchors(image, boxes))
    write('sampled_rois', sampled_rois(image, boxes))
    write('levels', [levels()])
    write('roi_layers', roi_layers())
    write('mask', mask_of_one_object(image, masks, boxes))


# What is shown

def anchors_of_one_cell(image: np.ndarray) -> Panel:
    """Return an image with the cells of stride 32 and the nine anchors of one of them."""
    sizes, ratios = [64., 128., 192.], [.5, 1., 2.]
    grid = tf.zeros([1, SIZE[0] // 32, SIZE[1] // 32, 1])
    anchors = AnchorGenerator([sizes], ratios, strides=[32], offset=.5)(grid).numpy().reshape(*grid.shape[1:3], 3, 3, 4)
    cell = anchors[4, 5]                                                # [ratio, size, 4]
    shapes_ = [rectangle(box, color, 2) for size, color in enumerate((GREEN, ORANGE, BLUE)) for box in cell[:, size]]
    center = dot(*(cell[0, 0, :2] + cell[0, 0, 2:]) / 2, 4, 'white')
    return Panel('', image, [*lines(SIZE, 32), *shapes_, center])


def matched_anchors(image: np.ndarray, boxes: np.ndarray) -> list[Panel]:
    """Return two panels: the anchors that are positive, and the negatives that are sampled beside them."""
    feature_maps = [tf.zeros([1, SIZE[0] // stride, SIZE[1] // stride, 1]) for stride in (8, 16, 32)]
    anchors = AnchorGenerator([[32.], [64.], [128.]], strides=[8, 16, 32])(feature_maps)
    matches, samples = match_and_sample(anchors, boxes, .7, .3, True, (64, .5))
    label, chosen = matches.label[0].numpy(), samples.index[0].numpy()[samples.valid[0].numpy()]
    counts = [int((label == value).sum()) for value in (1, -1, 0)]
    truth = [rectangle(box, 'white', 3) for box in boxes]
    return [Panel(f'{counts[0]} positive of {len(label)} anchors', image,
                  [*truth, *(rectangle(anchors[i], GREEN, 2) for i in np.flatnonzero(label == 1))]),
            Panel(f'{(label[chosen] == 0).sum()} of {counts[2]} negatives are sampled, {counts[1]} anchors are ignored',
                  image, [*truth, *(rectangle(anchors[i], RED, 1.2) for i in chosen if label[i] == 0)])]


def sampled_rois(image: np.ndarray, boxes: np.ndarray) -> list[Panel]:
    """Return two panels: 200 proposals, made by moving boxes at random, and the 32 RoIs that are sampled of them."""
    rng = np.random.default_rng(0)
    near = np.repeat(boxes, 30, axis=0) + rng.normal(0, 14, (len(boxes) * 30, 4))
    corner = rng.uniform(0, [SIZE[0] - 40, SIZE[1] - 40], (200 - len(near), 2))
    far = np.concatenate([corner, corner + rng.uniform(30, 120, corner.shape)], axis=1)
    proposals = np.clip(np.concatenate([near, far]), 0, [*SIZE, *SIZE]).astype(np.float32)
    rois = np.concatenate([proposals, boxes])
    matches, samples = match_and_sample(rois, boxes, .5, .5, False, (32, .25))
    chosen = samples.index[0].numpy()[samples.valid[0].numpy()]
    label = matches.label[0].numpy()
    return [Panel(f'{len(proposals)} proposals and the {len(boxes)} objects (white)', image,
                  [*(rectangle(box, GRAY) for box in proposals), *(rectangle(box, 'white', 3) for box in boxes)]),
            Panel(f'32 sampled RoIs: {(label[chosen] == 1).sum()} positive (green), '
                  f'{(label[chosen] == 0).sum()} negative (red)', image,
                  [rectangle(rois[i], GREEN if label[i] else RED, 2) for i in sorted(chosen, key=lambda i: label[i])])]


def levels() -> Panel:
    """Return an image of 512 x 768 px whose boxes have the color of their level, P2 to P4."""
    image, masks = picture(19, (512, 768))
    boxes = np.stack([box_of(mask) for mask in masks])
    index = assign_levels(tf.constant(boxes), 4).numpy()
    drawn = [part for box, level in zip(boxes, index, strict=True) for part in (
        rectangle(box, (BLUE, GREEN, ORANGE, RED)[level], 4),
        text(box[0] + 30, box[1] + 8, f'P{level + 2}: {np.sqrt(area(box)):.0f} px', 24))]
    return Panel('', image, drawn, zoom=.75)


def roi_layers() -> list[Panel]:
    """Return three panels: the cells that RoIPool reads, and where RoIWarp and RoIAlign sample."""
    roi = np.array([22., 25., 100., 108.], np.float32)
    drawn = {'RoIPool: maximum of whole cells': pooled_cells(roi),
             'RoIWarp: samples of a rounded box': sampled_points(roi, quantized=True),
             'RoIAlign: samples of the box itself': sampled_points(roi, quantized=False)}
    return [Panel(title, None, [*grid_of(MAP, STRIDE), *parts, outline(roi)], (MAP[0] * STRIDE, MAP[1] * STRIDE), 3)
            for title, parts in drawn.items()]


def pooled_cells(roi: np.ndarray) -> list[str]:
    """Return the cells that RoIPool reads for the four bins of a box."""
    plan = pooling_plan(tf.constant(roi[None, None]), tf.zeros([1, 1], tf.int32), [STRIDE], [tf.zeros([1, *MAP, 1])],
                        (2, 2))
    first, last = (np.stack([axis[0].numpy() for axis in axes]) * STRIDE for axes in (plan.first, plan.last))
    return [rectangle((first[0, i], first[1, j], last[0, i], last[1, j]), color, 1, .35)
            for (i, j), color in zip(np.ndindex(2, 2), (BLUE, GREEN, ORANGE, RED), strict=True)]


def sampled_points(roi: np.ndarray, quantized: bool) -> list[str]:
    """Return the four bins of a box, and four samples in each."""
    plan = sampling_plan(tf.constant(roi[None, None]), tf.zeros([1, 1], tf.int32), [STRIDE], (2, 2), 2, True, quantized)
    start, side = (plan.start[0].numpy() + .5) * STRIDE, plan.bin[0].numpy() * STRIDE
    bins = [rectangle((*(start + side * cell), *(start + side * (np.array(cell) + 1))), BLUE, .7)
            for cell in np.ndindex(2, 2)]
    points = [plan.points(s, (2, 2))[:2] for s in range(4)]
    return [*bins, *(dot((float(y) + .5) * STRIDE, (float(x) + .5) * STRIDE, 1.6, RED)
                     for ys, xs in points for y in ys[0] for x in xs[0])]


def mask_of_one_object(image: np.ndarray, masks: Sequence[np.ndarray], boxes: np.ndarray) -> list[Panel]:
    """Return three panels: an object and its box, the 28 x 28 target inside the box, and that target pasted back."""
    number = int(np.argmax([area(box) for box in boxes]))
    box, mask = boxes[number], masks[number]
    whole = np.array([[0, 0, *SIZE]], np.float32)
    target = targets.mask_targets(tf.constant(box[None]), tf.constant(mask[None], tf.float32), tf.constant(whole), 28,
                                  True, True).numpy()
    pasted = next(iter(paste.paste(target, box[None], *SIZE, 'pixel_center'))).astype(bool)
    low, high = np.floor(box[:2]).astype(int) - 8, np.ceil(box[2:]).astype(int) + 8
    view = tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))
    moved = box - np.tile([view[0].start, view[1].start], 2)
    crop, zoom = image[view], 260 / max(image[view].shape[:2])
    cells = np.kron(target[0], np.ones((8, 8)))[..., None] * 225 + 25
    side = crop.shape[0]
    return [Panel('the object and its box', crop, [rectangle(moved, GREEN, 2)], zoom=zoom),
            Panel('target of 28 x 28 cells', np.repeat(cells, 3, 2).astype(np.uint8), lines((224, 224), 8, .25),
                  zoom=side * zoom / 224),
            Panel('pasted into the image', tint(crop, pasted[view]), [rectangle(moved, GREEN, 2)], zoom=zoom)]


# How it is computed

def picture(number: int, size: tuple[int, int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return a generated image and the masks of its objects."""
    image, _, masks = shapes.draw_one(np.random.default_rng([0, number]), size)
    return image, masks


def box_of(mask: np.ndarray) -> np.ndarray:
    """Return the box of a mask, float32 [4]."""
    y, x = mask.nonzero()
    return np.array([y.min(), x.min(), y.max() + 1, x.max() + 1], np.float32)


def area(box: np.ndarray) -> float:
    """Return the area of a box, px^2."""
    return float((box[2] - box[0]) * (box[3] - box[1]))


def match_and_sample(candidates: np.ndarray | tf.Tensor, boxes: np.ndarray, positive_iou: float, negative_iou: float,
                     low_quality: bool, limits: tuple[int, float]) -> tuple[targets.Matches, targets.Samples]:
    """Return the matches of candidates with objects, and samples of them: at most limits[0], positives limits[1]."""
    objects = tf.ones([1, len(boxes)], tf.bool)
    matches = targets.match(tf.constant(candidates), tf.constant(boxes[None]), objects, ~objects, positive_iou,
                            negative_iou, low_quality, 1.)
    return matches, targets.sample(matches.label, *limits, SEED)[0]


# How it is drawn

class Panel:
    """A part of a figure: a title, an image or none, what is drawn over it in its pixels, and a scale."""

    def __init__(self, title: str, image: np.ndarray | None, drawn: Iterable[str], size: tuple[int, int] | None = None,
                 zoom: float = 1.5) -> None:
        self.title, self.drawn, self.zoom = title, list(drawn), zoom
        self.image, self.size = image, image.shape[:2] if image is not None else size or (0, 0)

    @property
    def sides(self) -> tuple[float, float]:
        """Height and width in the figure."""
        return self.size[0] * self.zoom, self.size[1] * self.zoom

    def svg(self, left: float, top: float) -> str:
        """Return the panel with its upper left corner at a point."""
        height, width = self.sides
        head = f'<text x="{left + width / 2:.0f}" y="16" class="title">{self.title}</text>' if self.title else ''
        below = f'<image width="{self.size[1]}" height="{self.size[0]}" href="{data_url(self.image)}"/>' if (
            self.image is not None) else ''
        return (f'{head}<svg x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" '
                f'viewBox="0 0 {self.size[1]} {self.size[0]}">{below}{"".join(self.drawn)}</svg>')


def write(name: str, panels: Sequence[Panel]) -> None:
    """Write panels side by side as NAME.svg."""
    gap, top = 16, 24 if any(panel.title for panel in panels) else 0
    lefts = np.cumsum([0, *(panel.sides[1] + gap for panel in panels)])
    height, width = top + max(panel.sides[0] for panel in panels), lefts[-1] - gap
    body = ''.join(panel.svg(left, top) for panel, left in zip(panels, lefts, strict=False))
    (OUTPUT / f'{name}.svg').write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}"><style>.title {{font: 14px sans-serif; text-anchor: middle}}</style>'
        f'<rect width="100%" height="100%" fill="white"/>{body}</svg>\n', encoding='utf-8')


def data_url(image: np.ndarray) -> str:
    """Return an image as a JPEG inside a URL."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, 'JPEG', quality=80)
    return f'data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}'


def rectangle(box: Sequence[float] | np.ndarray | tf.Tensor, color: str, width: float = 1, fill: float = 0) -> str:
    """Return a box, y1, x1, y2, x2."""
    y1, x1, y2, x2 = (float(edge) for edge in box)
    return (f'<rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" stroke="{color}" '
            f'stroke-width="{width}" fill="{color}" fill-opacity="{fill}"/>')


def outline(box: np.ndarray) -> str:
    """Return a box as a dashed line."""
    return rectangle(box, 'black', 1).replace('/>', ' stroke-dasharray="4 2"/>')


def dot(y: float, x: float, radius: float, color: str) -> str:
    """Return a filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}"/>'


def text(y: float, x: float, words: str, size: int) -> str:
    """Return white words with a dark edge, which can be read over any image."""
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-family="sans-serif" font-size="{size}" font-weight="bold" '
            f'fill="white" stroke="black" stroke-width="4" paint-order="stroke">{words}</text>')


def lines(size: tuple[int, int], stride: int, opacity: float = .5) -> list[str]:
    """Return the borders of cells over an image."""
    path = ''.join([*(f'M0 {y}H{size[1]}' for y in range(stride, size[0], stride)),
                    *(f'M{x} 0V{size[0]}' for x in range(stride, size[1], stride))])
    return [f'<path d="{path}" stroke="white" stroke-width="1" opacity="{opacity}"/>']


def grid_of(cells: tuple[int, int], stride: int) -> list[str]:
    """Return the borders of the cells of a feature map without an image."""
    sides = cells[0] * stride, cells[1] * stride
    return [rectangle((0, 0, *sides), GRAY), *(line.replace('white', GRAY) for line in lines(sides, stride, 1))]


def tint(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image whose pixels in the mask are mixed with green."""
    mixed = image * .45 + np.array([0, 166, 81]) * .55
    return np.where(mask[..., None], mixed, image).astype(np.uint8)


if __name__ == '__main__':
    main()

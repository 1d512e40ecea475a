"""How well the anchors of a config cover the resized boxes of a set, and sizes and ratios that cover them better.

n boxes, A anchors of a cell. Boxes and anchors are in px of the resized image. A box is covered if an anchor has at
least `model.rpn.positive_iou` with it; the RPN gets few positives for a box that no anchor covers.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mrcnn_tf.config import AnchorConfig, Config
from mrcnn_tf.input import images

# Root of the area, px, as COCO separates small, medium and large objects.
SIZES = (('small, below 32 px', 0, 32), ('medium, 32 to 96 px', 32, 96), ('large, from 96 px', 96, np.inf),
         ('all', 0, np.inf))
IOUS = (.3, .5)
_FACTORS = 2. ** (np.arange(-20, 9) / 4)         # of the sizes that are tried
_BETTER = .02                                    # share of the boxes that a proposal must cover in addition
_MOST = 20_000                                   # boxes


@dataclass(frozen=True)
class Fit:
    """The best IoU of each box with an anchor, and better anchors.

    Attributes:
        best: float [n].
        roots: float [n], square roots of the areas, px.
        limit: model.rpn.positive_iou.
        proposed: None if no other anchors cover clearly more.
        proposed_best: `best` of the proposed anchors.
    """
    anchors: AnchorConfig
    best: np.ndarray
    roots: np.ndarray
    limit: float
    proposed: AnchorConfig | None
    proposed_best: np.ndarray

    def rows(self) -> Iterator[tuple[str, int, float, list[float]]]:
        """Yield for each group of sizes its name, its boxes, their mean best IoU, and the share at each IoU."""
        for name, low, high in SIZES:
            best = self.best[(self.roots >= low) & (self.roots < high)]
            if len(best):
                yield name, len(best), float(best.mean()), [_share(best, iou) for iou in (*IOUS, self.limit)]

    def advice(self) -> str:
        """Return the proposal as settings, or that the anchors fit."""
        covered = f'anchors cover {_share(self.best, self.limit):.0%} of the boxes at IoU {self.limit:g}'
        if self.proposed is None:
            return f'The {covered}, and no others of the same number cover clearly more.'
        sizes, ratios = (str(each).replace(' ', '') for each in (self.proposed.sizes, self.proposed.ratios))
        return (f"The {covered}. 'model.anchors.sizes={sizes}' 'model.anchors.ratios={ratios}' would cover "
                f'{_share(self.proposed_best, self.limit):.0%}. Imported weights were trained with the anchors of '
                'their config, and adapt to others in fine-tuning.')

    def text(self) -> str:
        """Return the fit as a table for the terminal."""
        names = [f'IoU >= {iou:g}' for iou in (*IOUS, self.limit)]
        heading = f'{"boxes, after resizing":<24}{"boxes":>8}{"mean IoU":>10}'
        lines = [heading + ''.join(f'{each:>11}' for each in names)]
        lines += [f'{name:<24}{count:>8}{mean:>10.2f}' + ''.join(f'{share:>11.0%}' for share in shares)
                  for name, count, mean, shares in self.rows()]
        return '\n'.join([*lines, self.advice()])


def fit(boxes: np.ndarray, sizes: np.ndarray, config: Config) -> Fit | None:
    """Return how well the anchors of a config cover boxes; None without boxes.

    Args:
        boxes: float [n, 4], y1, x1, y2, x2 in px of the original images.
        sizes: int [n, 2], height and width of the image of each box.
        config: the function reads `data` (test size) and `model`.
    """
    step = -(-len(boxes) // _MOST) or 1           # an even sample
    boxes, sizes = np.asarray(boxes, np.float64)[::step], np.asarray(sizes)[::step]
    if not len(boxes):
        return None
    heights, widths = sizes.T
    shapes = np.asarray(images.resized_shape(
        heights, widths, config.data.test_short_side, config.data.test_long_side, config.data.round_sides)).T
    boxes = boxes * np.tile(shapes / sizes, 2)
    anchors, limit, steps = config.model.anchors, config.model.rpn.positive_iou, strides(config)
    best = best_ious(boxes, anchors, steps)
    proposed, proposed_best = _better(boxes, anchors, steps, limit)
    better = _share(proposed_best, limit) > _share(best, limit) + _BETTER
    sides = boxes[:, 2:] - boxes[:, :2]
    return Fit(anchors, best, np.sqrt(sides.prod(axis=1)), limit, proposed if better else None, proposed_best)


def strides(config: Config) -> tuple[int, ...]:
    """Return px between neighboring anchors for each level."""
    backbone = config.model.backbone
    return {'fpn': (4, 8, 16, 32, 64), 'tdm': (backbone.tdm_stride,)}.get(backbone.maps, (16,))


def best_ious(boxes: np.ndarray, anchors: AnchorConfig, steps: Sequence[int]) -> np.ndarray:
    """Return the largest IoU of each box with an anchor, float [n].

    Of the anchors of one shape, the one with the nearest center has the largest IoU.
    """
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    best = np.zeros(len(boxes))
    for step, sizes in zip(steps, anchors.sizes, strict=True):
        nearest = np.maximum(np.round(centers / step - anchors.offset), 0) + anchors.offset
        offsets = np.abs(centers - nearest * step)
        for shape in _shapes(sizes, anchors.ratios):
            common = np.clip(np.minimum(np.minimum(sides, shape), (sides + shape) / 2 - offsets), 0, None).prod(axis=1)
            best = np.maximum(best, common / (sides.prod(axis=1) + shape.prod() - common))
    return best


def _shapes(sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Return height and width of the anchors of a cell, float [A, 2]."""
    roots = np.sqrt(np.asarray(ratios))[:, None]
    return np.stack([roots * sizes, np.asarray(sizes) / roots], axis=-1).reshape(-1, 2)


def _better(boxes: np.ndarray, anchors: AnchorConfig, steps: Sequence[int], limit: float,
            ) -> tuple[AnchorConfig, np.ndarray]:
    """Return the best of all anchors of the same number that have scaled sizes and the same or the boxes' ratios."""
    def tried() -> Iterator[tuple[AnchorConfig, np.ndarray]]:
        for ratios in (anchors.ratios, _ratios(boxes, len(anchors.ratios))):
            for factor in _FACTORS:
                sizes = [[float(max(1, round(size * factor))) for size in level] for level in anchors.sizes]
                changed = dataclasses.replace(anchors, sizes=sizes, ratios=ratios)
                yield changed, best_ious(boxes, changed, steps)

    return max(tried(), key=lambda each: (_share(each[1], limit), each[1].mean()))


def _ratios(boxes: np.ndarray, count: int) -> list[float]:
    """Return `count` ratios height / width: evenly spread quantiles of those of the boxes."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
    quantiles = np.quantile(sides[:, 0] / sides[:, 1], (np.arange(count) + .5) / count)
    return [float(f'{ratio:.2g}') for ratio in quantiles]


def _share(best: np.ndarray, iou: float) -> float:
    return float((best >= iou).mean())

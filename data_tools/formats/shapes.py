"""Draw a small data set in COCO's format for the demo and for tests: overlapping shapes on textured backgrounds.

Only the outline of a shape depends on its class, not its color or texture. Later shapes hide earlier ones, and masks
are exactly the visible pixels. Each image depends on the seed and its number only. Points are (y, x) in px, with pixel
centers at halves.
"""
from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_tf import files

CLASSES = ('circle', 'rectangle', 'triangle')
MIN_VISIBLE = 0.4    # fraction of its pixels; a shape with fewer is not drawn


class DrawnSet(NamedTuple):
    """Paths of a drawn data set, as `coco.convert` takes them."""
    annotations: pathlib.Path
    images: pathlib.Path


def draw(output: str | os.PathLike[str], images: int, seed: int, size: tuple[int, int] = (128, 128)) -> DrawnSet:
    """Draw images with 1 to 6 shapes each, an eighth to a half of the image's shorter side in size.

    Args:
        output: directory for `images/*.png` and, written last, `annotations.json`; a data set there is replaced.
        images: number of images, at least 1.
        seed: of the random numbers, 0 or more.
        size: height and width of the images, px, at least 32.

    Raises:
        ValueError: there are no images, they are too small, or the seed is negative.
        OSError: the disk is full, permission is denied.
    """
    if images < 1 or min(size) < 32 or seed < 0:
        raise ValueError(f'cannot draw {images} images of {size[0]} x {size[1]} px from seed {seed}; '
                         'give at least 1 image of 32 x 32 px and a seed of 0 or more')
    drawn = DrawnSet(pathlib.Path(output) / 'annotations.json', pathlib.Path(output) / 'images')
    drawn.annotations.unlink(missing_ok=True)
    listed, annotations = [], []
    for number in range(1, images + 1):
        picture, labels, masks = draw_one(np.random.default_rng([seed, number]), size)
        name = f'{number:06d}.png'
        with files.atomic_path(drawn.images / name) as temporary:
            Image.fromarray(picture).save(temporary)
        listed.append({'id': number, 'file_name': name, 'height': size[0], 'width': size[1]})
        annotations += [_annotation(number, label, mask) for label, mask in zip(labels, masks, strict=True)]
    files.write_json(drawn.annotations, {
        'info': {'description': 'drawn shapes', 'seed': seed}, 'images': listed,
        'annotations': [{'id': i, **annotation} for i, annotation in enumerate(annotations, 1)],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)]}, indent=None)
    return drawn


def draw_one(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[int], list[np.ndarray]]:
    """Return an image, and the labels (1..3) and visible masks of its shapes from the lowest up.

    Returns:
        The image uint8 [height, width, 3], the labels, and the masks bool [height, width].
    """
    picture = _background(rng, size)
    labels = [int(label) for label in rng.integers(1, len(CLASSES) + 1, rng.integers(1, 7))]
    whole = [_outline(rng, label, size) for label in labels]
    visible = keep_visible(whole)
    for mask, seen in zip(whole, visible, strict=True):
        if seen is not None:
            _paint(rng, picture, mask)
    kept = [(label, seen) for label, seen in zip(labels, visible, strict=True) if seen is not None]
    return picture.round().astype(np.uint8), [label for label, _ in kept], [seen for _, seen in kept]


def keep_visible(whole: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """Return the visible pixels of shapes drawn over each other, the last on top; None for a shape to leave out.

    A shape is left out if those above it hide most of it; then it hides nothing.
    """
    visible: list[np.ndarray | None] = []
    covered = np.zeros_like(whole[0])
    for mask in reversed(whole):
        seen = mask & ~covered
        stays = seen.sum() >= MIN_VISIBLE * mask.sum()
        visible.append(seen if stays else None)
        covered = covered | mask if stays else covered
    return visible[::-1]


def _annotation(image_id: int, label: int, mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {'image_id': image_id, 'category_id': label, 'iscrowd': 0, 'area': int(mask.sum()),
            'bbox': coco_mask.toBbox(rle).tolist(),
            'segmentation': {'size': list(mask.shape), 'counts': rle['counts'].decode()}}


def _outline(rng: np.random.Generator, label: int, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of a random shape whose center is within the image, bool [height, width]."""
    radius = rng.uniform(1 / 16, 1 / 4) * min(size)
    center = rng.uniform(0.6 * radius, np.array(size) - 0.6 * radius)
    y, x = np.mgrid[:size[0], :size[1]] + 0.5 - center[:, None, None]
    turn = rng.uniform(0, 2 * np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    if label == 1:
        return np.asarray(u ** 2 + v ** 2 <= radius ** 2)
    if label == 2:
        return np.asarray((abs(u) <= radius * 0.9) & (abs(v) <= radius * rng.uniform(0.6, 0.9)))
    return _triangle(u, v, radius * 1.1 * np.exp(2j * np.pi * (np.arange(3) + rng.uniform(-0.12, 0.12, 3)) / 3))


def _triangle(u: np.ndarray, v: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return which points are within a triangle; corners: complex numbers u + iv, in order around it."""
    inside = np.ones(u.shape, bool)
    for corner, following in zip(corners, np.roll(corners, -1), strict=True):
        edge = following - corner
        inside &= edge.real * (v - corner.imag) - edge.imag * (u - corner.real) >= 0
    return inside


def _background(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return clouds of two colors with ripples and noise: float64 [height, width, 3], 0..255."""
    low, high = rng.uniform(30, 225, (2, 3))
    clouds = 0.7 * _clouds(rng, size, 4) + 0.3 * _clouds(rng, size, 12)
    picture = low + (high - low) * clouds[..., None]
    picture += rng.uniform(0, 18) * _ripples(rng, size)[..., None]
    return np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255)


def _paint(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray) -> None:
    """Fill the mask with a color that differs from what it covers, with shade, ripples, noise and a darker edge."""
    candidates = rng.uniform(20, 235, (4, 3))
    color = candidates[np.linalg.norm(candidates - picture[mask].mean(axis=0), axis=1).argmax()]
    box = tuple(slice(where.min(), where.max() + 1) for where in mask.nonzero())
    inside, inner = mask[box], _inner(mask)[box]
    shade = 1 + 0.25 * (_clouds(rng, inside.shape, 3) - 0.5)
    fill = color * shade[..., None] + rng.uniform(0, 14) * _ripples(rng, inside.shape)[..., None]
    fill[~inner] *= 0.6
    picture[box][inside] = np.clip(fill + rng.normal(0, 6, fill.shape), 0, 255)[inside]


def _inner(mask: np.ndarray) -> np.ndarray:
    """Return the pixels whose four neighbors belong to the mask; the mask continues beyond the image."""
    padded = np.pad(mask, 1, mode='edge')
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _clouds(rng: np.random.Generator, size: Sequence[int], cells: int) -> np.ndarray:
    """Return smooth noise, [height, width], 0..1, with about `cells` bumps along a side."""
    grid = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
    return np.asarray(grid.resize((size[1], size[0]), Image.Resampling.BICUBIC)) / 255


def _ripples(rng: np.random.Generator, size: Sequence[int]) -> np.ndarray:
    """Return a plane wave, [height, width], -1..1, with a length of 5 to 16 px."""
    wave = 2 * np.pi / rng.uniform(5, 16)
    turn, phase = rng.uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:size[0], :size[1]]
    return np.asarray(np.sin(wave * (np.cos(turn) * x + np.sin(turn) * y) + phase))

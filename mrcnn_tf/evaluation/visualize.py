"""Drawing of instances on images: masks with contours, boxes, category names and scores.

n: instances; H, W: image size in px; f: the integer factor by which a small image is enlarged so that text is legible.
Images are uint8 [H, W, 3], RGB.
"""
from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.files.text import one_line

_LEGIBLE = 1280         # px, the maximum of the longer side of an enlarged image
_ALPHA = 0.45           # opacity of a mask
_GOLDEN = 0.618034      # consecutive multiples of the golden ratio are hues that differ much
_PAPER, _INK = (255, 255, 255), (20, 20, 20)

Rectangle = tuple[float, float, float, float]    # left, top, right, bottom


def draw(image: np.ndarray, instances: Instances, names: Sequence[str], threshold: float = 0.5,
         dialect: str = 'pixel_center', confidence: bool = True) -> np.ndarray:
    """Draw instances on an image, the best on top. A small image is enlarged by an integer factor.

    Args:
        image: uint8 [H, W, 3].
        instances: the instances, in px of the image.
        names: of the categories, by label - 1. A label without a name is written as a number.
        threshold: instances with a lower score are not drawn.
        dialect: of mask pasting, `model.detections.paste`.
        confidence: whether to write the score after the name; False for ground truth.

    Returns:
        uint8 [f H, f W, 3].

    Raises:
        ValueError: the image has another type or shape.
    """
    _check(image)
    height, width = image.shape[:2]
    factor = max(1, _LEGIBLE // max(height, width))
    pixels = np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BILINEAR))
    drawn = _drawn(instances, threshold)
    masks = (mask.repeat(factor, 0).repeat(factor, 1) for mask in drawn.image_masks(height, width, dialect))
    return paint(pixels, masks, drawn.boxes * factor, _texts(drawn, names, confidence), _colors(len(drawn))[::-1])


def draw_at_size(image: np.ndarray, instances: Instances, names: Sequence[str], threshold: float = 0.5,
                 dialect: str = 'pixel_center', confidence: bool = True) -> np.ndarray:
    """Draw instances on an image and keep its size. Arguments and errors are those of `draw`.

    Returns:
        uint8 [H, W, 3].
    """
    _check(image)
    drawn, (height, width) = _drawn(instances, threshold), image.shape[:2]
    masks = drawn.image_masks(height, width, dialect)
    return paint(image.copy(), masks, drawn.boxes, _texts(drawn, names, confidence), _colors(len(drawn))[::-1])


def paint(pixels: np.ndarray, masks: Iterable[np.ndarray], boxes: np.ndarray, texts: Sequence[str],
          colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Draw masks, boxes and texts in given colors on an image, which is changed in place. The last ones are on top.

    Args:
        pixels: uint8 [H, W, 3].
        masks: none, or one for each box: uint8 or bool [H, W].
        boxes: [n, 4], px of the image.
        texts: of the boxes; '' for none.
        colors: of the boxes and their masks.

    Returns:
        uint8 [H, W, 3].
    """
    line = max(1, round(max(pixels.shape[:2]) / 400))    # px
    for mask, color in zip(masks, colors, strict=False):
        _tint(pixels, mask, color, line)
    picture = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_font_size(max(picture.size)))
    corners = [(x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)) for y1, x1, y2, x2 in boxes.tolist()]
    for box, color in zip(corners, colors, strict=True):
        pen.rectangle(box, outline=color, width=line)
    taken: list[Rectangle] = []
    named = [each for each in zip(corners, texts, colors, strict=True) if each[1]]
    for box, text, color in reversed(named):    # texts of the best first
        taken.append(_place(box, pen.textbbox((0, 0), text, font), picture.size, taken))
        pen.rectangle(taken[-1], fill=color)
        pen.text((taken[-1][0] + 2, taken[-1][1] + 1), text, _contrast(color), font)
    return np.array(picture)


def side_by_side(pictures: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Return pictures (uint8 [h, w, 3]) in a row, each under its caption, such as ground truth and prediction.

    Raises:
        ValueError: the number of captions differs from the number of pictures.
    """
    if len(pictures) != len(captions):
        raise ValueError(f'{len(captions)} captions for {len(pictures)} pictures; give one for each')
    size = _font_size(max(max(p.shape[:2]) for p in pictures)) * 3 // 2
    font, gap, head = ImageFont.load_default(size), size // 2, 2 * size
    width = sum(p.shape[1] for p in pictures) + gap * (len(pictures) + 1)
    sheet = Image.new('RGB', (width, max(p.shape[0] for p in pictures) + head + gap), _PAPER)
    pen, left = ImageDraw.Draw(sheet), gap
    for picture, caption in zip(pictures, captions, strict=True):
        pen.text((left, head / 2), caption, _INK, font, anchor='lm')
        sheet.paste(Image.fromarray(picture), (left, head))
        left += picture.shape[1] + gap
    return np.array(sheet)


def _check(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'image {image.dtype} {image.shape}: expected uint8 [height, width, 3]')


def _drawn(instances: Instances, threshold: float) -> Instances:
    """Return the instances to draw, the best last."""
    return instances[np.flatnonzero(instances.scores >= threshold)[::-1]]


def _texts(drawn: Instances, names: Sequence[str], confidence: bool) -> list[str]:
    return [_name(names, label) + (f' {score:.2f}' if confidence else '')
            for label, score in zip(drawn.labels.tolist(), drawn.scores.tolist(), strict=True)]


def _colors(count: int) -> list[tuple[int, int, int]]:
    """Return distinct bright colors."""
    hsv = [(i * _GOLDEN % 1, (0.95, 0.6)[i // 7 % 2], (1.0, 0.85)[i // 14 % 2]) for i in range(count)]
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(*each)) for each in hsv]    # type: ignore[misc]


def _tint(pixels: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], line: int) -> None:
    """Color a mask [H, W] in place: half transparent inside, solid on its contour of `line` px.

    A thicker contour has a black or white inner edge, so that it is seen on an object of its own color.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return
    part = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    inside = mask[part] > 0
    within = _shrunk(inside, line)
    region = pixels[part]
    region[inside] = (1 - _ALPHA) * region[inside] + _ALPHA * np.array(color)
    region[inside & ~within] = color
    region[within & ~_shrunk(within, line // 2)] = _contrast(color)


def _shrunk(mask: np.ndarray, steps: int) -> np.ndarray:
    """Return the pixels of a mask, bool [h, w], that are further than a number of px from its edge."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _place(box: Rectangle, text: Rectangle, size: tuple[int, int], taken: Sequence[Rectangle]) -> Rectangle:
    """Return a rectangle for the text above, below or in the box, free of other texts if possible."""
    width, height = text[2] + 4, text[3] + 3
    x1, y1, x2, y2 = box
    places = [(x, y) for x in (x1, x2 - width) for y in (y1 - height, y2, y1, y2 - height)]
    rectangles = [_shift_inside((x, y, x + width, y + height), size) for x, y in places]
    return next((r for r in rectangles if not any(_overlap(r, other) for other in taken)), rectangles[0])


def _shift_inside(rectangle: Rectangle, size: tuple[int, int]) -> Rectangle:
    """Move a rectangle into the image; one that is larger starts at 0."""
    left, top, right, bottom = rectangle
    dx = max(0, -left) - max(0, right - size[0] + 1) if right - left < size[0] else -left
    dy = max(0, -top) - max(0, bottom - size[1] + 1) if bottom - top < size[1] else -top
    return left + dx, top + dy, right + dx, bottom + dy


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _contrast(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black for light colors and white for dark ones (luma of ITU-R BT.601)."""
    return _INK if np.dot(color, (0.299, 0.587, 0.114)) > 130 else _PAPER


def _font_size(side: int) -> int:
    return min(max(13, side // 60), 40)


def _name(names: Sequence[str], label: int) -> str:
    return one_line(names[label - 1], 60) if 1 <= label <= len(names) else str(label)

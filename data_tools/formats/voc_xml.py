"""Read the xml files of PASCAL VOC: sizes, boxes and flags.

VOC counts pixels from 1 and a box includes its last pixel: xmin = 1, xmax = 10 are ten pixels, 0..10 with continuous
edges. So 1 is subtracted from the minima only. Most annotation tools write continuous edges; then nothing is
subtracted.
"""
from __future__ import annotations

import pathlib
import re
from typing import TYPE_CHECKING

from defusedxml import ElementTree

from data_tools import objects
from data_tools.issues import InvalidDataError, Issue
from mrcnn_tf import files
from mrcnn_tf.files.text import error_line

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SIDES = ('ymin', 'xmin', 'ymax', 'xmax')
_UNSTATED = 'Unspecified'        # VOC's own word


def parse(path: pathlib.Path) -> Element:
    """Return the root element of an xml file; raises InvalidDataError if it cannot be read."""
    try:
        root = ElementTree.fromstring(files.read_bytes(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InvalidDataError('missing annotation file', str(path)) from None
    except OSError as error:
        raise InvalidDataError('unreadable annotation file', f'{path}: {error.strerror}') from None
    except (SyntaxError, ValueError, LookupError) as error:      # syntax, forbidden entities, unknown encoding
        raise InvalidDataError('malformed xml', f'{path}: {error_line(error)}') from None
    if root.tag != 'annotation':
        raise InvalidDataError('malformed xml', f'{path}: its root is {root.tag!r:.40}, expected annotation')
    return root


def image_size(root: Element) -> tuple[tuple[int, int] | None, list[Issue]]:
    """Return height and width as stated, None with an issue if they are not stated."""
    height, width = number(root, 'size/height'), number(root, 'size/width')
    if height and width:
        return (height, width), []
    return None, [Issue('size not stated', f'height {text(root, "size/height")!r:.20}, '
                                           f'width {text(root, "size/width")!r:.20}')]


def other_file_name(root: Element, file_name: str) -> list[Issue]:
    """Return an issue if the xml names another image than this file."""
    stated = re.split(r'[\\/]', text(root, 'filename'))[-1]
    file = pathlib.PurePath(file_name)
    same = not stated or stated in (file.name, file.stem) or pathlib.PurePath(stated).stem == file.stem
    return [] if same else [Issue('file name differs', f'filename is {stated!r:.80}')]


def box(element: Element, size: tuple[int, int], first: int) -> tuple[objects.Box, list[Issue]]:
    """Return the box of an object within its image, and its repairs.

    Args:
        element: the object.
        size: height and width of the image, px.
        first: number of the first row and column.

    Raises:
        InvalidDataError: the box is malformed, rotated, or outside the image.
    """
    texts = [text(element, f'bndbox/{side}') for side in _SIDES]
    shown = ', '.join(f'{side} {value!r:.20}' for side, value in zip(_SIDES, texts, strict=True))
    if element.find('robndbox') is not None:
        raise InvalidDataError('rotated box', 'robndbox is rotated by an angle; export upright boxes')
    try:
        top, left, bottom, right = objects.finite([float(value) for value in texts], shown)
    except ValueError:
        raise InvalidDataError('malformed box', shown) from None
    if 0 <= min(top, left) < max(bottom, right) <= 1 and any(side % 1 for side in (top, left, bottom, right)):
        raise InvalidDataError('normalised box', f'{shown} are fractions of the image, VOC has pixels; export pixels')
    clipped, repairs = objects.clip((top - first, left - first, bottom, right), size, shown)
    if first and min(top, left) == 0:
        repairs = [issue._replace(detail=f'{issue.detail}; if the set counts from 0, give --first-pixel 0')
                   for issue in repairs]
    return clipped, repairs


def thin_box(element: Element) -> list[Issue]:
    """Return an issue if the first and the last pixel are equal: often a click that was meant to be a box."""
    texts = [text(element, f'bndbox/{side}') for side in _SIDES]
    same = texts[0] == texts[2] or texts[1] == texts[3]
    return [Issue('box one pixel wide or high', f'{", ".join(texts)} ({", ".join(_SIDES)})')] if same else []


def unread_parts(element: Element) -> list[Issue]:
    """Return an issue for each part of an object that has a meaning and is not read."""
    issues = []
    if element.find('polygon') is not None:
        issues.append(Issue('polygon not read', 'VOC has masks in SegmentationObject; export COCO for masks'))
    if (boxes := len(element.findall('bndbox'))) > 1:
        issues.append(Issue('object of several boxes', f'the first of {boxes} is read; give each box its own object'))
    for name in ('difficult', 'truncated'):
        if (stated := text(element, name)) not in ('', _UNSTATED) and flag(element, name) is None:
            issues.append(Issue('flag neither 0 nor 1', f'{name} is {stated!r:.40}, and counts as not stated'))
    return issues


def text(element: Element, path: str) -> str:
    """Return the text of an element below another; '' if there is none."""
    return (element.findtext(path) or '').strip()


def number(element: Element, path: str) -> int | None:
    """Return the integer in an element below another; None if it holds none."""
    digits = text(element, path)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None


def flag(element: Element, name: str) -> bool | None:
    """Return a flag; None, not stated, if it is neither 0 nor 1."""
    return {'0': False, '1': True}.get(text(element, name))

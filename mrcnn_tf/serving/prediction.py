"""The detections of one image, as a notebook wants them: arrays, full-size masks, pictures, other tools' types.

n: detections; H, W: the image's size in px. If `data.exif` rotates a photograph, all are those of the rotated image.
"""
from __future__ import annotations

import base64
import collections
import functools
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from mrcnn_tf.detectors import instances as instances_module
from mrcnn_tf.detectors.instances import Instances
from mrcnn_tf.evaluation import visualize
from mrcnn_tf.files.text import one_line
from mrcnn_tf.input import decoding
from mrcnn_tf.input.manifest import Category
from mrcnn_tf.serving.sources import InferenceError, Source, read_image

_SHOWN = 0.5           # lowest score of a detection in a picture
_NOTEBOOK_SIDE = 1280  # px, the maximum of the longer side of a picture in a notebook
_NOTEBOOK_ROWS = 20    # of the table in a notebook


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The detections of one image, best first.

    A subset is a `Prediction` too: `found[found.scores > .7]`, `found[:3]`, `found[0]`.

    Attributes:
        instances: boxes, scores, labels, masks over boxes and predictions of further branches, as arrays.
        size: height and width of the image, px.
        categories: of the labels 1..K, in order.
        paste: the dialect of pasting masks, `model.detections.paste`.
        source: the image that was given. `image` reads it again, so a file must still exist then.
        rule: by which it is read.

    Example:
        >>> import numpy as np
        >>> import mrcnn_tf as m
        >>> from mrcnn_tf.input.manifest import Category
        >>> instances = m.Instances(np.float32([[0, 0, 4, 4], [1, 1, 3, 3]]), np.float32([.9, .3]), np.int32([1, 2]))
        >>> categories = [Category(1, 7, 'cat'), Category(2, 3, 'dog')]
        >>> found = m.Prediction(instances, (8, 8), categories, 'pixel_center', 'photo.jpg')
        >>> found.names, found[found.scores > .5].names
        (['cat', 'dog'], ['cat'])
    """
    instances: Instances
    size: tuple[int, int]
    categories: Sequence[Category]
    paste: str
    source: Source
    rule: decoding.Rule = field(default=decoding.DEFAULT)

    @property
    def boxes(self) -> np.ndarray:
        """The boxes, float32 [n, 4]: y1, x1, y2, x2 in px of the image."""
        return self.instances.boxes

    @property
    def scores(self) -> np.ndarray:
        """The scores, float32 [n], 0..1, in descending order."""
        return self.instances.scores

    @property
    def labels(self) -> np.ndarray:
        """The labels, int32 [n], 1..K."""
        return self.instances.labels

    @property
    def names(self) -> list[str]:
        """The category name of each detection."""
        return [self.categories[label - 1].name for label in self.labels.tolist()]

    @functools.cached_property
    def masks(self) -> np.ndarray | None:
        """The masks of the whole image, bool [n, H, W], computed on first use; None if the model has no masks.

        They take one byte a pixel and detection. `instances.image_masks` yields them one at a time.
        """
        return self.instances.all_image_masks(*self.size, self.paste)

    @property
    def further(self) -> Mapping[str, np.ndarray]:
        """The predictions of branches of your own, [n, ...] by name, relative to the boxes."""
        return self.instances.further

    @property
    def image(self) -> np.ndarray:
        """The image as the model sees it before resizing, RGB uint8 [H, W, 3].

        Raises:
            InferenceError: the file of the image cannot be read any more.
        """
        return read_image(self.source, self.rule)

    def __len__(self) -> int:
        return len(self.instances)

    def __getitem__(self, chosen: int | slice | Sequence[int] | np.ndarray) -> Prediction:
        """Return the chosen detections, by number, slice, indices or bool [n]."""
        if isinstance(chosen, int | np.integer):
            if not -len(self) <= chosen < len(self):
                raise IndexError(f'detection {chosen}: the image has {len(self)}')
            chosen = [int(chosen)]
        return replace(self, instances=self.instances[chosen if isinstance(chosen, slice) else np.asarray(chosen)])

    def __iter__(self) -> Iterator[Prediction]:
        """Yield each detection as a `Prediction` of one."""
        return (self[number] for number in range(len(self)))

    def draw(self, threshold: float = _SHOWN, enlarge: bool = False) -> Image.Image:
        """Return a picture of the image with masks, boxes, names and scores.

        Args:
            threshold: detections with a lower score are not drawn.
            enlarge: enlarge a small image by an integer factor, so that the texts are legible; False: keep its size.

        Raises:
            InferenceError: the file of the image cannot be read any more.
        """
        paint = visualize.draw if enlarge else visualize.draw_at_size
        names = [category.name for category in self.categories]
        return Image.fromarray(paint(self.image, self.instances, names, threshold, self.paste))

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """Return the detections as COCO results, ready for JSON, each with the name of its category as `category`.

        Args:
            image_id: of the image in an annotation file; None: the results have no `image_id`.
        """
        image = {} if image_id is None else {'image_id': image_id}
        results = instances_module.to_coco(self.instances, self.size, self.categories, self.paste)
        return [{**image, **result, 'category': name} for result, name in zip(results, self.names, strict=True)]

    def to_supervision(self) -> Any:
        """Return the detections as `supervision.Detections`: `class_id` is the label - 1.

        `data['class_name']` has the names. Boxes and masks are in px of the image, as above.

        Raises:
            InferenceError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise InferenceError('to_supervision needs the package supervision: pip install supervision') from None
        return supervision.Detections(
            xyxy=self.boxes[:, [1, 0, 3, 2]], mask=self.masks, confidence=self.scores,
            class_id=self.labels.astype(int) - 1, data={'class_name': np.array(self.names, dtype=str)})

    def __repr__(self) -> str:
        height, width = self.size
        counts = collections.Counter(self.names)
        listed = ', '.join(f'{count} {one_line(name, 60)}' for name, count in counts.most_common())
        return f'<Prediction: {width} x {height} px, {len(self)} detections{": " if listed else ""}{listed}>'

    def _repr_png_(self) -> bytes:
        """Return the picture that a notebook shows."""
        picture, stream = self.draw(enlarge=True), io.BytesIO()
        picture.thumbnail((_NOTEBOOK_SIDE, _NOTEBOOK_SIDE))
        picture.save(stream, 'PNG')
        return stream.getvalue()

    def _repr_html_(self) -> str:
        """Return the picture and a table of the detections for a notebook."""
        rows = [f'<tr><td>{i}</td><td>{html.escape(one_line(name, 60))}</td><td>{score:.3f}</td>'
                f'<td>{", ".join(f"{edge:.1f}" for edge in box)}</td></tr>' for i, (name, score, box) in
                enumerate(zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True))]
        more = [f'<tr><td colspan="4">and {len(rows) - _NOTEBOOK_ROWS} more</td></tr>'] * (len(rows) > _NOTEBOOK_ROWS)
        picture = base64.b64encode(self._repr_png_()).decode('ascii')
        return (f'<p>{html.escape(repr(self)[1:-1])}; drawn: {int((self.scores >= _SHOWN).sum())} with a score of '
                f'{_SHOWN} or more</p><img src="data:image/png;base64,{picture}" style="max-width: 100%">'
                '<table><tr><th></th><th>name</th><th>score</th><th>y1, x1, y2, x2</th></tr>'
                f'{"".join(rows[:_NOTEBOOK_ROWS] + more)}</table>')

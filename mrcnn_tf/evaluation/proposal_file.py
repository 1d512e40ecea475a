"""A file of proposals that an interrupted call leaves unfinished, and the same call continues.

Until it is complete, its content is in two files beside it: `.NAME.rows`, y1, x1, y2, x2, score of all proposals as
float32, and `.NAME.journal`, a line with a fingerprint, then a line of JSON for each image: its id and how many
proposals it has. A line is written after the rows that it counts.
"""
from __future__ import annotations

import json
import os
import pathlib
from typing import IO

import numpy as np

from mrcnn_tf import files
from mrcnn_tf.detectors.instances import Instances

_ROW = 20    # bytes


class ProposalFile:
    """Proposals of images, added one by one; `finish` writes the .npz file. Use it as a context.

    Args:
        path: of the .npz file.
        fingerprint: one line that stands for all that determines the content. An unfinished file with another one is
            begun again.

    Attributes:
        ids: of the images so far.
        counts: their numbers of proposals.
    """

    def __init__(self, path: pathlib.Path, fingerprint: str) -> None:
        self.path, self._fingerprint = path, fingerprint
        self._journal_path, self._rows_path = (path.with_name(f'.{path.name}.{kind}') for kind in ('journal', 'rows'))
        images = self._unfinished()
        self.ids, self.counts = [each[0] for each in images], [each[1] for each in images]

    def __enter__(self) -> ProposalFile:
        # Written again, without the part of a line and the rows that an interrupted call may have left.
        lines = [self._fingerprint, *map(json.dumps, zip(self.ids, self.counts, strict=True))]
        with files.atomic_path(self._journal_path) as temporary:
            temporary.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
        self._rows: IO[bytes] = open(self._rows_path, 'ab')
        self._rows.truncate(_ROW * sum(self.counts))
        self._journal = open(self._journal_path, 'a', encoding='utf-8')
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.close()
        self._rows.close()

    def add(self, image_id: str, proposals: Instances) -> None:
        """Add an image."""
        self._rows.write(np.column_stack([proposals.boxes, proposals.scores]).astype(np.float32).tobytes())
        self._rows.flush()
        self._journal.write(f'{json.dumps([image_id, len(proposals)])}\n')
        self._journal.flush()
        self.ids.append(image_id)
        self.counts.append(len(proposals))

    def finish(self) -> None:
        """Write the .npz file, and remove the two files."""
        count = sum(self.counts)
        stored = np.memmap(self._rows_path, np.float32, 'r', shape=(count, 5)) if count else (
            np.zeros((0, 5), np.float32))
        with files.atomic_path(self.path) as temporary:
            np.savez(temporary, ids=self.ids, counts=self.counts, boxes=stored[:, :4], scores=stored[:, 4])
        self._journal_path.unlink()
        self._rows_path.unlink()

    def _unfinished(self) -> list[tuple[str, int]]:
        """Return id and count of each image of an unfinished file with this fingerprint."""
        try:
            first, *lines = files.read_text(self._journal_path).split('\n')[:-1]
            images = [json.loads(line) for line in lines]
            count = sum(each[1] for each in images)
            if first == self._fingerprint and os.path.getsize(self._rows_path) >= _ROW * count:
                return images
        except (OSError, ValueError):       # none, or damaged
            pass
        return []

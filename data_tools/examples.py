"""From one item of a data set to its record, with what was dropped, repaired or kept on the way."""
from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any

from data_tools import images
from data_tools.data_set import ImageAnnotations, Item, Source, check_object_count
from data_tools.issues import ConversionError, InvalidDataError, Issue, IssueLog
from mrcnn_tf.config import DataConfig
from mrcnn_tf.input import records
from mrcnn_tf.input.manifest import EXIF_APPLIED, EXIF_IGNORED

EXIF = ('error', 'apply', 'ignore')
ROTATED = 'EXIF orientation'
TRANSCODED = 'image transcoded to PNG'


@dataclass(frozen=True)
class Rules:
    """The user's choices about images and annotations."""
    exif: str = EXIF[0]          # photographs with an EXIF orientation: stop, rotate the pixels, use them as stored
    keep_empty: bool = True      # images without objects
    strict: bool = False         # stop if something would be dropped or repaired
    max_pixels: int = DataConfig.max_pixels      # larger images are dropped before they are decoded
    transcode: bool = False      # store formats other than JPEG and PNG as PNG
    allow_loss: bool = False     # continue if more than half of the objects or images are lost

    def __post_init__(self) -> None:
        if self.exif not in EXIF:
            raise ConversionError(f'exif is {self.exif!r}, expected one of {", ".join(EXIF)}')


DEFAULTS = Rules()


def make_example(source: Source, rules: Rules, item: Item) -> tuple[records.Annotated | None, IssueLog]:
    """Return the record of an image and its issues; None in place of the record if the image cannot be used."""
    log, count = IssueLog(), 0
    try:
        _check_utf_8(item)
        annotations = source.read(item)
        check_object_count(len(annotations.objects))
        count = len(annotations.objects)
        file = _image(source.path(item), item, annotations, rules, log)
    except InvalidDataError as error:
        log = IssueLog()
        more = f' (and its {count} annotations)' if count else ''
        log.drop(Issue(error.issue.reason, error.issue.detail + more), item.id, file=item.file_name,
                 annotations=count or error.annotations)
        return None, log
    for warning in annotations.warnings:
        log.keep(warning, item.id, file=annotations.file)
    objects = [_object(source, item, each, file, annotations.file, log) for each in annotations.objects]
    return records.Annotated(
        encoded=file.data, format=file.format, filename=item.file_name, source_id=str(item.id), image_id=item.number,
        height=file.height, width=file.width, objects=[each for each in objects if each is not None],
        channels=file.channels, dtype=file.dtype, split=item.split, city=item.city), log


def _check_utf_8(item: Item) -> None:
    """Raise InvalidDataError if the name of a file holds bytes that no record can hold as text."""
    try:
        f'{item.id}{item.file_name}'.encode()
    except UnicodeEncodeError:
        raise InvalidDataError('file name not in UTF-8', f'{item.file_name!r:.200}; rename the file') from None


def _image(path: pathlib.Path, item: Item, annotations: ImageAnnotations, rules: Rules, log: IssueLog,
           ) -> images.ImageFile:
    """Return the image as the record holds it; raises InvalidDataError if it does not fit its annotations."""
    stored = file = images.read(path, rules.max_pixels, rules.transcode)
    if stored.orientation != 1 and rules.exif == 'error':
        raise InvalidDataError(ROTATED, f'orientation {stored.orientation}: give exif apply if the annotations are for '
                                        'the rotated image, ignore if they are for the pixels as stored'
                                        f'{_exif_hint(stored, annotations)}')
    if stored.orientation != 1 and rules.exif == 'apply':
        file = images.turn(stored, item.file_name)
    _check_size(file, item, annotations)
    _log_issues(item, annotations, stored, rules, log)
    return file


def _exif_hint(file: images.ImageFile, annotations: ImageAnnotations) -> str:
    """Return which choice the annotated size fits; '' if it fits both or none."""
    stored, rotated = (file.height, file.width), file.turned_size()
    choice = {rotated: 'apply', stored: 'ignore'}.get(annotations.size or (0, 0))
    return f'; the annotated size is that of exif {choice}' if choice and rotated != stored else ''


def _check_size(file: images.ImageFile, item: Item, annotations: ImageAnnotations) -> None:
    size = annotations.size
    if size is None or size == (file.height, file.width):
        return
    rotated = f', with EXIF orientation {file.orientation}' if file.orientation != 1 else ''
    exchanged = ': exchanged' if size == (file.width, file.height) else ''
    raise InvalidDataError('size mismatch', f'{item.file_name}: height {file.height}, width {file.width}{rotated}; the '
                                            f'annotations say height {size[0]}, width {size[1]}{exchanged}')


def _log_issues(item: Item, annotations: ImageAnnotations, file: images.ImageFile, rules: Rules, log: IssueLog) -> None:
    """Log the issues of an image that are no reason to drop it."""
    if file.orientation != 1:
        detail = f'orientation {file.orientation}'
        if rules.exif == 'apply':
            log.repair(Issue(EXIF_APPLIED, detail), item.id, file=item.file_name)
        else:
            log.keep(Issue(EXIF_IGNORED, detail), item.id, file=item.file_name)
    if file.other_orientation != 1:
        log.keep(Issue('orientation outside of EXIF', f'XMP or a text gives orientation {file.other_orientation}; the '
                                                      'image is used as stored, as browsers show it'),
                 item.id, file=item.file_name)
    if file.pictures > 1:
        log.keep(Issue('several images in a file', f'the first of {file.pictures} is used'), item.id,
                 file=item.file_name)
    if file.transcoded:
        log.repair(Issue(TRANSCODED, file.transcoded), item.id, file=item.file_name)
    if annotations.channels is not None and annotations.channels != file.channels:
        log.keep(Issue('channels differ', f'the file has {file.channels}, the annotations say {annotations.channels}'),
                 item.id, file=annotations.file)


def _object(source: Source, item: Item, annotation: tuple[Any, Any], file: images.ImageFile, name: str, log: IssueLog,
            ) -> records.ObjectAnnotation | None:
    """Return one object, None if it is dropped; `name` is that of the annotation file."""
    annotation_id, value = annotation
    try:
        converted, repairs, warnings = source.convert_object(item, value, file)
    except InvalidDataError as error:
        log.drop(error.issue, item.id, annotation_id, name)
        return None
    for repair in repairs:
        log.repair(repair, item.id, annotation_id, name)
    for warning in warnings:
        log.keep(warning, item.id, annotation_id, name)
    return converted

"""`mrcnn convert FORMAT` and `mrcnn validate FORMAT`: one function per format of annotations defines both commands.

TensorFlow takes seconds to import, so modules that need it are imported inside the functions.
"""
from __future__ import annotations

import contextlib
import enum
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from data_tools.sharding import forkserver
from mrcnn_tf.cli.command import command
from mrcnn_tf.config import DataConfig

DataSet = Any     # data_tools.data_set.DataSet, whose import would import TensorFlow

convert_app = typer.Typer(no_args_is_help=True, help='Convert a data set to TFRecord shards.')
validate_app = typer.Typer(no_args_is_help=True, help='List the problems of a data set.')


class CityscapesAnnotations(str, enum.Enum):
    """The kinds of annotations in Cityscapes."""
    fine = 'fine'
    coarse = 'coarse'
    none = 'none'


class Runner(str, enum.Enum):
    """What writes the shards."""
    local = 'local'
    beam = 'beam'


class Exif(str, enum.Enum):
    """What is done with photographs that have an EXIF orientation."""
    error = 'error'
    apply = 'apply'
    ignore = 'ignore'


class BoxFormat(str, enum.Enum):
    """The formats of the four numbers of a box."""
    xywh = 'xywh'
    xyxy = 'xyxy'
    cxcywh = 'cxcywh'
    yxyx = 'yxyx'
    normalized_xywh = 'normalized-xywh'
    normalized_xyxy = 'normalized-xyxy'
    normalized_cxcywh = 'normalized-cxcywh'
    normalized_yxyx = 'normalized-yxyx'
    percent_xywh = 'percent-xywh'
    percent_xyxy = 'percent-xyxy'
    percent_cxcywh = 'percent-cxcywh'
    percent_yxyx = 'percent-yxyx'


ImagesPerShard = Annotated[int, typer.Option(min=1, help='Most images per shard, on average.')]
ShardSize = Annotated[int, typer.Option(min=1, help='Largest size of a shard in MiB, on average and roughly.')]
MaxPixels = Annotated[int, typer.Option(min=1, help='Most pixels of an image; larger ones are not decoded.')]
_Runner = Annotated[Runner, typer.Option(help='Write with processes of this machine, or with Apache Beam.')]
_BeamOptions = Annotated[list[str] | None, typer.Option(
    '--beam-option', help='An option for Beam, such as --beam-option=--runner=FlinkRunner; may be repeated.')]
_Workers = Annotated[int, typer.Option(min=1, help='Number of processes.')]
_Exif = Annotated[Exif, typer.Option(help='Photographs with an EXIF orientation: stop, rotate the pixels, or use them '
                                          'as stored.')]
_Follow = Annotated[bool, typer.Option(
    '--follow', help='Also read files that names or symlinks place outside the given directory.')]
_Transcode = Annotated[bool, typer.Option('--transcode', help='Store TIFF, BMP, WebP and GIF as PNG, without loss.')]
_Strict = Annotated[bool, typer.Option('--strict', help='Stop at the first dropped or repaired image or annotation.')]
_AllowLoss = Annotated[bool, typer.Option('--allow-loss', help='Continue if more than half of the objects or images '
                                                               'are lost.')]
_Json = Annotated[bool, typer.Option('--json', help='Print a JSON report with every problem.')]


def _format(find: Callable[..., DataSet]) -> Callable[..., DataSet]:
    """Register a function that returns a data set as `convert FORMAT` and `validate FORMAT`.

    Each command has the options of the function, followed by those of `_convert` or `_validate`.
    """
    for app, verb, follow in ((convert_app, 'convert', _convert), (validate_app, 'validate', _validate)):
        app.command(name=find.__name__, help=_help(find, verb), short_help=(find.__doc__ or '').splitlines()[0])(
            command(_joined(find, follow)))
    return find


def _joined(find: Callable[..., DataSet], follow: Callable[..., None]) -> Callable[..., None]:
    """Return a function with the options of both: it calls `find`, then `follow` with the data set."""
    own = inspect.signature(find, eval_str=True).parameters
    others = dict(list(inspect.signature(follow, eval_str=True).parameters.items())[1:])

    def run(**given: Any) -> None:
        forkserver.start(given['workers'])      # the fork server imports while this process does
        follow(find(**{name: given[name] for name in own}), **{name: given[name] for name in others})

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own.values(), *others.values())]
    run.__signature__ = inspect.Signature(parameters)      # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _help(find: Callable[..., DataSet], verb: str) -> str:
    text = inspect.cleandoc(find.__doc__ or '').replace('mrcnn VERB', f'mrcnn {verb}')
    does, more = {
        'convert': ('Write OUTPUT/NAME-00000-of-0000N.tfrecord and the manifest OUTPUT/NAME.json from ',
                    ' \\\n    --output data/mine --name train'),
        'validate': ('List what would be dropped, repaired, or kept with a warning, in ', '')}[verb]
    return does + text + more


def _convert(data_set: DataSet,
             output: Annotated[pathlib.Path, typer.Option(help='Directory for the shards and the manifest.')],
             name: Annotated[str, typer.Option(help='Name of the set.')] = 'train',
             images_per_shard: ImagesPerShard = 1000, shard_size: ShardSize = 256, workers: _Workers = 1,
             exif: _Exif = Exif.error, max_pixels: MaxPixels = DataConfig.max_pixels, transcode: _Transcode = False,
             empty: Annotated[bool, typer.Option('--keep-empty/--drop-empty', help='Images without objects.')] = True,
             dry_run: Annotated[bool, typer.Option('--dry-run', help='Read everything, but write nothing.')] = False,
             json: _Json = False, strict: _Strict = False, allow_loss: _AllowLoss = False,
             runner: _Runner = Runner.local, beam_option: _BeamOptions = None) -> None:
    from data_tools import conversion
    from data_tools.examples import Rules
    from data_tools.issues import ConversionError
    from data_tools.sharding import writer

    if beam_option and runner != Runner.beam:
        raise ConversionError(f'--beam-option={beam_option[0]} needs --runner beam; --runner is local')
    rules = Rules(exif.value, empty, strict, max_pixels, transcode, allow_loss)
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():     # the progress bar
        if dry_run:
            manifest = conversion.check(data_set, rules, workers, name)
        else:
            beam = tuple(beam_option or ()) if runner == Runner.beam else None
            options = writer.Options(images_per_shard, shard_size * 2 ** 20, workers, beam)
            manifest = conversion.convert(data_set, output, name, rules, options)
    if json:
        typer.echo(conversion.report(manifest))
    else:
        writer.summarize(manifest)
    if dry_run:
        conversion.check_convertible(manifest, rules)


def _validate(data_set: DataSet, workers: _Workers = 1, exif: _Exif = Exif.error,
              max_pixels: MaxPixels = DataConfig.max_pixels, transcode: _Transcode = False, json: _Json = False,
              strict: _Strict = False, allow_loss: _AllowLoss = False) -> None:
    from data_tools import conversion
    from data_tools.examples import Rules
    from data_tools.issues import issue_line, list_issues
    from data_tools.sharding import writer

    rules = Rules(exif.value, strict=strict, max_pixels=max_pixels, transcode=transcode,
                             allow_loss=allow_loss)
    manifest = conversion.check(data_set, rules, workers)
    if json:
        typer.echo(conversion.report(manifest))
    else:
        for issue in list_issues(manifest):
            typer.echo(issue_line(*issue))
        writer.summarize(manifest)
    conversion.check_convertible(manifest, rules)


@_format
def coco(annotations: Annotated[pathlib.Path, typer.Option(help='instances json; a test set has no annotations.')],
         images: Annotated[pathlib.Path, typer.Option(help='Directory of its images, JPEG or PNG.')],
         masks: Annotated[bool, typer.Option('--masks/--boxes', help='Store masks and boxes, or boxes only.')] = True,
         box_format: Annotated[BoxFormat | None, typer.Option(
             show_default=False, help="Format of bbox: COCO's x, y, width, height; corners; or center (c), width, "
                                      'height; in px, or as fractions or percentages of the image. If not given, xywh; '
                                      'then the command stops if the boxes look like another format.')] = None,
         categories: Annotated[pathlib.Path | None, typer.Option(
             help='File with the categories to keep, a name or an id per line; if not given, all.')] = None,
         drop_unused_categories: Annotated[bool, typer.Option(
             '--drop-unused-categories', help='Drop categories without annotations.')] = False,
         crowds: Annotated[bool, typer.Option(
             '--crowds/--no-crowds', help='What iscrowd 1 means: a group of objects, which is not trained on, as in '
                                          'COCO; or a single object painted with a brush, as in some tools.')] = True,
         follow: _Follow = False) -> DataSet:
    """COCO's json: of COCO itself, LVIS, Objects365, or any tool that writes this format.

    \b
    Example:
      mrcnn VERB coco --annotations annotations/instances_val2017.json --images val2017
    """
    from data_tools.formats import coco as source

    return source.find(annotations, images, source.Options(
        masks, box_format.value if box_format else None, categories, drop_unused_categories, crowds, follow))


@_format
def cityscapes(root: Annotated[pathlib.Path, typer.Option(help='Directory of leftImg8bit and gtFine or gtCoarse.')],
               split: Annotated[str, typer.Option(help='train, val, test or train_extra.')],
               annotations: Annotated[CityscapesAnnotations, typer.Option(
                   help='The annotations to use; none for a test set.')] = CityscapesAnnotations.fine,
               masks: Annotated[bool, typer.Option('--masks/--boxes', help='Masks and boxes, or boxes only.')] = True,
               follow: _Follow = False) -> DataSet:
    """Cityscapes' folders: the 8 classes with instances; groups become crowds (needs the extra `cityscapes`).

    \b
    Example:
      mrcnn VERB cityscapes --root cityscapes --split train
    """
    from data_tools.formats import cityscapes as source

    return source.find(root, split, annotations.value, masks, follow)


@_format
def voc(root: Annotated[list[pathlib.Path], typer.Option(
            help='Directory of Annotations, ImageSets and JPEGImages, or of images with an xml file beside each. '
                 'Repeat it to join several.')],
        split: Annotated[str | None, typer.Option(
            help='A list in ImageSets/Main, or e.g. Segmentation/train. Without lists, all xml files are one set.',
        )] = None,
        year: Annotated[list[str] | None, typer.Option(
            help='Year to use, if the root holds VOC2007, VOC2012, ...; may be repeated.')] = None,
        classes: Annotated[pathlib.Path | None, typer.Option(
            help="File with one class name per line; if not given, VOC's 20 classes.")] = None,
        masks: Annotated[bool | None, typer.Option(
            '--masks/--boxes', show_default=False,
            help='Masks and only images that have them, or boxes only. If not given, masks if every image has them.',
        )] = None,
        first_pixel: Annotated[int, typer.Option(
            min=0, max=1, help='Number of the first row and column: 1 as in VOC; 0 for boxes of labelImg, CVAT, Label '
                               'Studio and most other tools.')] = 1,
        follow: _Follow = False) -> DataSet:
    """PASCAL VOC's directories: boxes, masks from SegmentationObject, and the flags difficult and truncated.

    \b
    Example:
      mrcnn VERB voc --root VOCdevkit --year 2007 --year 2012 --split trainval
      mrcnn VERB voc --root labelled --classes classes.txt --first-pixel 0
    """
    from data_tools.formats import voc as source

    return source.find(root, split, year or [], source.Options(classes, masks, first_pixel, follow))


@convert_app.command()
@command
def tfrecord(shards: Annotated[list[pathlib.Path], typer.Argument(help='Shards of one set, in one directory.')],
             name: Annotated[str, typer.Option(help='Name of the set.')]) -> None:
    """Write a manifest for existing shards.

    Writes NAME.json beside shards of another converter, such as Model Garden's. The shards are not changed.

    \b
    Example:
      mrcnn convert tfrecord data/garden/train-*.tfrecord --name train
    """
    from data_tools.sharding import indexing

    indexing.index(shards, name)


@convert_app.command()
@command
def proposals(manifest: Annotated[pathlib.Path, typer.Argument(help='Manifest NAME.json of the set.')],
              output: Annotated[pathlib.Path, typer.Option(help='Directory for the new shards and their manifest.')],
              name: Annotated[str, typer.Option(help='Name of the new set.')],
              proposals: Annotated[pathlib.Path | None, typer.Option(
                  help='Proposals: .pkl of Detectron or Detectron2, .npz, or .mat of Selective Search. If not given, '
                       "OpenCV's Selective Search computes them.")] = None,
              mode: Annotated[str, typer.Option(help='Mode of Selective Search: fast or quality.')] = 'fast',
              top: Annotated[int, typer.Option(min=1, help='Number of best proposals to keep per image.')] = 2000,
              images_per_shard: ImagesPerShard = 1000, shard_size: ShardSize = 256,
              workers: Annotated[int, typer.Option(min=1, help='Number of processes.')] = 1) -> None:
    """Attach proposals to a converted set.

    Writes a new set. Proposals are joined to images by source id. An .npz holds ids [N], counts [N], scores, and boxes
    [sum of counts, 4] as y1, x1, y2, x2 in px (or order='xyxy' or 'xywh'). Reading a .mat and computing proposals
    need the extra `proposals`.

    \b
    Example:
      mrcnn convert proposals data/voc/train.json --proposals voc_2007_trainval.mat \\
        --output data/voc --name train_proposals
    """
    forkserver.start(workers)
    from data_tools import proposals as tool
    from data_tools.selective_search import SelectiveSearch
    from data_tools.sharding import writer

    tool.attach(manifest, proposals or SelectiveSearch(mode), output, name, top,
                writer.Options(images_per_shard, shard_size * 2 ** 20, workers))

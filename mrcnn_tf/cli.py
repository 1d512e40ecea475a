"""The `mrcnn` command: one sub-command a verb, each a few lines around a function that does the work.

TensorFlow takes seconds to import, so it is imported where it is needed: help and wrong settings answer at once.
"""
from __future__ import annotations

import contextlib
import enum
import pathlib
import sys
from typing import Annotated

import typer

from data_tools import starting
from mrcnn_tf import __version__, cli_convert, cli_import, config
from mrcnn_tf.command import command
from mrcnn_tf.text import one_line

app = typer.Typer(
    name='mrcnn', no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={'help_option_names': ['-h', '--help'], 'max_content_width': 100})
app.add_typer(cli_convert.convert_app, name='convert')
app.add_typer(cli_convert.validate_app, name='validate')
app.add_typer(cli_import.import_app, name='import-weights')


def main() -> None:
    """Runs the command line of this process."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('tensorflow', 'keras'))
        typer.echo(f'mrcnn-tf {__version__}, {versions}')
        raise typer.Exit


@app.callback()
def _mrcnn(version: Annotated[bool, typer.Option(
        '--version', callback=_print_version, is_eager=True, help='Print the versions and leave.')] = False) -> None:
    """Mask R-CNN for TensorFlow and Keras.

    The way goes: convert, train, evaluate, export, predict. Each command says more: mrcnn train --help
    """


@app.command()
@command
def demo(output: Annotated[pathlib.Path, typer.Option(help='Directory for all that it makes.')] = pathlib.Path('demo'),
         minutes: Annotated[float, typer.Option(min=0.1, help='Time to train; all else takes about one more.')] = 3.5,
         ) -> None:
    """Draw a small set of shapes and go the whole way: convert, train, evaluate, export, predict.

    Leaves metrics.json, prediction.png (truth beside prediction) and saved_model/1/ in the output directory.

    \b
    Example:
      mrcnn demo --output demo --minutes 3.5
    """
    from mrcnn_tf.demo import run

    run(output, minutes)


@cli_convert.convert_app.command()
@command
def tfrecord(shards: Annotated[list[pathlib.Path], typer.Argument(help='Shards of one set, all in one directory.')],
             name: Annotated[str, typer.Option(help='Name of the set.')]) -> None:
    """Write NAME.json beside shards of another converter, such as Model Garden's; they stay as they are.

    \b
    Example:
      mrcnn convert tfrecord data/garden/train-*.tfrecord --name train
    """
    from data_tools import adopt

    adopt.adopt(shards, name)


@cli_convert.convert_app.command()
@command
def proposals(manifest: Annotated[pathlib.Path, typer.Argument(help='NAME.json of a converted set.')],
              output: Annotated[pathlib.Path, typer.Option(help='Directory for the new shards and their manifest.')],
              name: Annotated[str, typer.Option(help='Name of the new set.')],
              proposals: Annotated[pathlib.Path | None, typer.Option(
                  help='.pkl of Detectron or Detectron2, .npz, or .mat of Selective Search; without it they are '
                       "computed by OpenCV's Selective Search.")] = None,
              mode: Annotated[str, typer.Option(help='fast or quality, of Selective Search.')] = 'fast',
              top: Annotated[int, typer.Option(min=1, help='Keep so many of an image, the best.')] = 2000,
              images_per_shard: cli_convert.ImagesPerShard = 1000, shard_size: cli_convert.ShardSize = 256,
              workers: Annotated[int, typer.Option(min=1, help='Processes; a shard is written by one.')] = 1) -> None:
    """Write a converted set anew with proposals found beforehand, joined to its images by source id.

    An .npz holds ids [N], counts [N], boxes [sum of counts, 4] as y1, x1, y2, x2 in px (or order='xyxy' or 'xywh') and
    scores. A .mat, and computing them, need: pip install 'mrcnn-tf[proposals]'

    \b
    Example:
      mrcnn convert proposals data/voc/train.json --proposals voc_2007_trainval.mat \\
        --output data/voc --name train_proposals
    """
    starting.start(workers)
    from data_tools import proposals as tool
    from data_tools import writer

    tool.attach(manifest, proposals, output, name, top, mode,
                writer.Options(images_per_shard, shard_size * 2 ** 20, workers))


@app.command()
@command
def verify(manifest: Annotated[pathlib.Path, typer.Argument(help='NAME.json of a converted set.')],
           sample: Annotated[int, typer.Option(min=0, help='Images that are decoded, with their masks; 0: all.')] = 200,
           workers: Annotated[int, typer.Option(min=1, help='Processes; a shard is read by one.')] = 1,
           json: Annotated[bool, typer.Option('--json', help='Print a report as JSON.')] = False) -> None:
    """Read all shards of a set again: checksums, counts, labels, boxes; and decode a sample.

    Prints a line for each problem with its shard and record, and exits with 1 if there is one.

    \b
    Example:
      mrcnn verify data/coco/train.json --sample 0 --workers 8
    """
    starting.start(workers)
    from data_tools import verify as tool

    with contextlib.redirect_stdout(sys.stderr):     # of progress
        report = tool.verify(manifest, sample, workers)
    typer.echo(report.json() if json else report.text())
    if report.tally.problems:
        raise typer.Exit(1)


@app.command()
@command
def inspect(manifest: Annotated[pathlib.Path, typer.Argument(help='NAME.json of a converted set.')],
            output: Annotated[pathlib.Path, typer.Option(help='The HTML file.')],
            images: Annotated[int, typer.Option(min=0, help='Pictures on the page.')] = 24,
            max_pixels: cli_convert.MaxPixels = config.DataConfig.max_pixels) -> None:
    """Look at a converted set: one HTML page with its numbers, its problems, and pictures of its objects.

    The page is a single file that any browser opens, without a server or a network.

    \b
    Example:
      mrcnn inspect data/coco/train.json --output train.html --images 24
    """
    from data_tools import inspect_page

    inspect_page.write(manifest, output, images, max_pixels)
    typer.echo(str(output))


@app.command()
@command
def train(settings: Annotated[str, typer.Argument(
              metavar='CONFIG', help=f'A YAML file, or one that comes along: {", ".join(config.packaged())}.')],
          overrides: Annotated[list[str] | None, typer.Argument(
              metavar='KEY=VALUE', help='Settings that replace those of the file.')] = None,
          model_dir: Annotated[pathlib.Path | None, typer.Option(
              help='Directory of the model; runs/NAME of CONFIG if not given.')] = None,
          allow_changes: Annotated[bool, typer.Option(
              '--allow-changes', help='Resume with settings that differ from those of the run, whatever they are.',
          )] = False) -> None:
    """Train a model, or resume from its newest whole checkpoint: the same command resumes.

    To lengthen a run, resume it with more solver.steps. The schedule, data.train (of the same categories),
    data.validation, test settings and intervals may change too; other settings need --allow-changes.

    \b
    Example:
      mrcnn train nuclei_r18_fpn --model-dir runs/nuclei \\
        data.train=data/nuclei/train.json data.validation=data/nuclei/val.json solver.steps=1000
    Several machines, the same on each with its own TF_CONFIG:
      mrcnn train mask_rcnn_r50_fpn_1x --model-dir /shared/r50 train.strategy=multi_worker ...
    Twice as long:
      mrcnn train runs/nuclei/config.yaml --model-dir runs/nuclei solver.steps=2000
    Watch the losses:
      tensorboard --logdir runs
    """
    loaded = config.load(settings, overrides or [])
    from mrcnn_tf.training import trainer

    trainer.train(loaded, model_dir or pathlib.Path('runs') / pathlib.Path(settings).stem, allow_changes)


@app.command()
@command
def train_alternating(
        settings: Annotated[str, typer.Argument(metavar='CONFIG', help='A YAML file, or one that comes along.')],
        overrides: Annotated[list[str] | None, typer.Argument(
            metavar='KEY=VALUE', help='Settings that replace those of the file.')] = None,
        model_dir: Annotated[pathlib.Path | None, typer.Option(
            help='Directory of all steps; runs/NAME of CONFIG if not given.')] = None) -> None:
    """Train a Faster R-CNN in the four steps of its paper, or go on where they were stopped: the same command resumes.

    RPN; Fast R-CNN on its proposals; RPN on the trunk of that, which is frozen; the Fast R-CNN once more on these.
    Each is a model directory below --model-dir, and all together are the model --model-dir/faster_rcnn.
    What differs between them is in the section `alternating`; alternating.steps=2 stops before they share a trunk.

    \b
    Example:
      mrcnn train-alternating faster_rcnn_vgg16_alternating --model-dir runs/voc \\
        data.train=data/voc/train.json data.validation=data/voc/test.json
      mrcnn evaluate --model-dir runs/voc/faster_rcnn --metric voc2007
    """
    loaded = config.load(settings, overrides or [])
    from mrcnn_tf import alternating

    alternating.train(loaded, model_dir or pathlib.Path('runs') / pathlib.Path(settings).stem)


class Metric(str, enum.Enum):
    """What tells how good a detector is."""
    coco = 'coco'
    voc2007 = 'voc2007'
    voc2012 = 'voc2012'
    cityscapes = 'cityscapes'
    recall = 'recall'


@app.command()
@command
def evaluate(model_dir: Annotated[pathlib.Path, typer.Option(help='What `mrcnn train` wrote.')],
             data: Annotated[pathlib.Path | None, typer.Option(
                 help='Manifest NAME.json of the set; data.validation of the model if not given.')] = None,
             metric: Annotated[Metric, typer.Option(
                 help="COCO's numbers; VOC's mean average precision, of eleven points or the area; Cityscapes' AP of "
                      'masks (extra `cityscapes`); or the recall of proposals.')] = Metric.coco,
             ) -> None:
    """Print COCO's twelve numbers for boxes and masks; write metrics.json and detections.json beside the model.

    With --metric recall, how many objects the best 50 to 2000 proposals of its RPN cover, at each IoU; of a fast_rcnn,
    those of the records.

    \b
    Example:
      mrcnn evaluate --model-dir runs/nuclei --data data/nuclei/val.json
      mrcnn evaluate --model-dir runs/voc --data data/voc/test.json --metric voc2007
      mrcnn evaluate --model-dir runs/cityscapes --data data/cityscapes/val.json --metric cityscapes
    """
    from mrcnn_tf.evaluation import cityscapes, coco, recall, run, voc

    tables = {Metric.coco: coco.table, Metric.cityscapes: cityscapes.table, Metric.recall: recall.table}
    typer.echo(tables.get(metric, voc.table)(run.evaluate(model_dir, data, metric.value)))


@app.command()
@command
def recall(manifest: Annotated[pathlib.Path, typer.Argument(
        help='NAME.json of a set whose records have proposals.')]) -> None:
    """Print the recall of the proposals that lie in the records of a set, at 50 to 2000 boxes and each IoU.

    \b
    Example:
      mrcnn recall data/voc/train_proposals.json
    """
    from mrcnn_tf.evaluation import recall
    from mrcnn_tf.evaluation.coco import read_manifest

    typer.echo(recall.table(recall.average_recall(read_manifest(manifest), recall.stored(manifest))))


@app.command()
@command
def propose(model_dir: Annotated[pathlib.Path, typer.Option(help='Of an rpn, or of a detector that has one.')],
            data: Annotated[pathlib.Path, typer.Option(help='Manifest NAME.json of the set.')],
            output: Annotated[pathlib.Path, typer.Option(help='The .npz file.')],
            for_training: Annotated[bool, typer.Option(
                '--for-training', help='As many as rpn.post_nms_train says, not rpn.post_nms_test.')] = False) -> None:
    """Write the proposals of a model's RPN for a set, as a file for `mrcnn convert proposals`.

    \b
    Example:
      mrcnn propose --model-dir runs/rpn --data data/voc/test.json --output data/voc/rpn.npz
      mrcnn convert proposals data/voc/test.json --proposals data/voc/rpn.npz --output data/voc --name test_rpn
    """
    from mrcnn_tf import proposing

    proposing.propose(model_dir, data, output, for_training)
    typer.echo(str(output))


@app.command()
@command
def export(model_dir: Annotated[pathlib.Path, typer.Option(help='What `mrcnn train` wrote.')],
           output: Annotated[pathlib.Path, typer.Option(help='Directory of all versions of the SavedModel.')]) -> None:
    """Write the newest checkpoint as OUTPUT/1, OUTPUT/2, ...: a SavedModel for TF Serving.

    It takes the bytes of JPEG and PNG files, and needs neither this package nor its settings.

    \b
    Example:
      mrcnn export --model-dir runs/nuclei --output saved_models/nuclei
      tensorflow_model_server --rest_api_port=8501 \\
        --model_name=nuclei --model_base_path=$PWD/saved_models/nuclei
    """
    from mrcnn_tf.serving.export import export as write

    typer.echo(str(write(model_dir, output)))


@app.command()
@command
def predict(images: Annotated[list[pathlib.Path], typer.Argument(
                metavar='IMAGE', help="JPEG or PNG files, folders, patterns such as 'photos/**/*.jpg', or a .txt of "
                                      'paths, one a line.')],
            model: Annotated[pathlib.Path, typer.Option(help='What `mrcnn train` or `mrcnn export` wrote.')],
            output: Annotated[pathlib.Path, typer.Option(help='Directory for the results.')],
            threshold: Annotated[float, typer.Option(min=0, max=1, help='Least score of what is kept.')] = 0.5) -> None:
    """Find the objects of images: OUTPUT/NAME.png, a picture with masks, and OUTPUT/NAME.json, the numbers.

    Boxes and masks are in the pixels that viewers show: a photograph whose EXIF says to turn it is turned, unless the
    model's data.exif says otherwise. Files that cannot be used do not stop the others; they are listed at the end, and
    the exit code is 1.

    \b
    Example:
      mrcnn predict photos 'more/*.jpg' list.txt --model saved_models/nuclei --output predictions
    """
    from mrcnn_tf import inference, predict_files
    from mrcnn_tf.evaluation.run import tracked

    paths = predict_files.find_images(images)
    done = predict_files.predict_to_directory(paths, inference.load_predictor(model), output, threshold,
                                              lambda paths: tracked(paths, len(paths), 'predicted'))
    typer.echo(f'{len(done.pictures)} pictures and json files in {output}')
    if done.without:
        best = f'the best score is {done.best_below:.3f}' if done.best_below else 'the model finds nothing there'
        typer.echo(f'on {len(done.without)} of them nothing reaches the threshold of {threshold}, such as on '
                   f'{one_line(done.without[0])}: {best}')
    for reason in done.failed.values():
        typer.echo(f'mrcnn: {one_line(reason)}', err=True)
    if done.failed:
        raise inference.InferenceError(f'{len(done.failed)} of {len(paths)} files could not be used, listed above')


if __name__ == '__main__':
    main()

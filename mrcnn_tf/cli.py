"""The `mrcnn` command. Each sub-command is a few lines around a function that does the work.

TensorFlow takes seconds to import, so each command imports it when needed: help and wrong settings answer at once.
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
    """Run the command line of this process."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('tensorflow', 'keras'))
        typer.echo(f'mrcnn-tf {__version__}, {versions}')
        raise typer.Exit


@app.callback()
def _mrcnn(version: Annotated[bool, typer.Option(
        '--version', callback=_print_version, is_eager=True, help='Print the versions and exit.')] = False) -> None:
    """Mask R-CNN for TensorFlow and Keras.

    Typical workflow: convert, train, evaluate, export, predict. Help for a command: mrcnn train --help
    """


@app.command()
@command
def demo(output: Annotated[pathlib.Path, typer.Option(help='Output directory.')] = pathlib.Path('demo'),
         minutes: Annotated[float, typer.Option(min=0.1, help='Minutes of training; the rest takes about one.')] = 3.5,
         ) -> None:
    """Run the whole workflow on a small data set.

    Draws the data set, then converts, trains, evaluates, exports and predicts. Writes metrics.json, prediction.png
    (ground truth beside prediction) and saved_model/1/ to the output directory.

    \b
    Example:
      mrcnn demo --output demo --minutes 3.5
    """
    from mrcnn_tf.demo import run

    run(output, minutes)


@cli_convert.convert_app.command()
@command
def tfrecord(shards: Annotated[list[pathlib.Path], typer.Argument(help='Shards of one set, in one directory.')],
             name: Annotated[str, typer.Option(help='Name of the set.')]) -> None:
    """Write a manifest for existing shards.

    Writes NAME.json beside shards of another converter, such as Model Garden's. The shards are not changed.

    \b
    Example:
      mrcnn convert tfrecord data/garden/train-*.tfrecord --name train
    """
    from data_tools import adopt

    adopt.adopt(shards, name)


@cli_convert.convert_app.command()
@command
def proposals(manifest: Annotated[pathlib.Path, typer.Argument(help='Manifest NAME.json of the set.')],
              output: Annotated[pathlib.Path, typer.Option(help='Directory for the new shards and their manifest.')],
              name: Annotated[str, typer.Option(help='Name of the new set.')],
              proposals: Annotated[pathlib.Path | None, typer.Option(
                  help='Proposals: .pkl of Detectron or Detectron2, .npz, or .mat of Selective Search. If not given, '
                       "OpenCV's Selective Search computes them.")] = None,
              mode: Annotated[str, typer.Option(help='Mode of Selective Search: fast or quality.')] = 'fast',
              top: Annotated[int, typer.Option(min=1, help='Number of best proposals to keep per image.')] = 2000,
              images_per_shard: cli_convert.ImagesPerShard = 1000, shard_size: cli_convert.ShardSize = 256,
              workers: Annotated[int, typer.Option(min=1, help='Number of processes.')] = 1) -> None:
    """Attach proposals to a converted set.

    Writes a new set. Proposals are joined to images by source id. An .npz holds ids [N], counts [N], scores, and boxes
    [sum of counts, 4] as y1, x1, y2, x2 in px (or order='xyxy' or 'xywh'). Reading a .mat and computing proposals
    need: pip install 'mrcnn-tf[proposals]'

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
def verify(manifest: Annotated[pathlib.Path, typer.Argument(help='Manifest NAME.json of the set.')],
           sample: Annotated[int, typer.Option(min=0, help='Number of images to decode, with masks; 0: all.')] = 200,
           workers: Annotated[int, typer.Option(min=1, help='Number of processes.')] = 1,
           json: Annotated[bool, typer.Option('--json', help='Print a report as JSON.')] = False) -> None:
    """Check all shards of a set.

    Checks checksums, counts, labels and boxes, and decodes a sample of the images. Prints a line for each problem, with
    its shard and record. The exit code is 1 if there is a problem.

    \b
    Example:
      mrcnn verify data/coco/train.json --sample 0 --workers 8
    """
    starting.start(workers)
    from data_tools import verify as tool

    with contextlib.redirect_stdout(sys.stderr):     # the progress bar; stdout is for the report
        report = tool.verify(manifest, sample, workers)
    typer.echo(report.json() if json else report.text())
    if report.tally.problems:
        raise typer.Exit(1)


@app.command()
@command
def inspect(manifest: Annotated[pathlib.Path, typer.Argument(help='Manifest NAME.json of the set.')],
            output: Annotated[pathlib.Path, typer.Option(help='The HTML file to write.')],
            images: Annotated[int, typer.Option(min=0, help='Number of pictures on the page.')] = 24,
            max_pixels: cli_convert.MaxPixels = config.DataConfig.max_pixels) -> None:
    """Write an HTML page about a converted set.

    The page shows statistics, problems, and pictures of objects. It is a single file that any browser opens without a
    server or a network.

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
              metavar='CONFIG', help=f'A YAML file, or the name of a bundled config: {", ".join(config.packaged())}.')],
          overrides: Annotated[list[str] | None, typer.Argument(
              metavar='KEY=VALUE', help='Settings that override those of the config.')] = None,
          model_dir: Annotated[pathlib.Path | None, typer.Option(
              help='Model directory; if not given, runs/NAME with the name of CONFIG.')] = None,
          allow_changes: Annotated[bool, typer.Option(
              '--allow-changes', help='Resume even if settings changed that may not change in a run.',
          )] = False) -> None:
    """Train a model, or resume its training.

    The same command resumes from the newest complete checkpoint. To lengthen a run, resume it with more solver.steps.
    The schedule, data.train (with the same categories), data.validation, test settings and intervals may change too;
    other changes need --allow-changes.

    \b
    Example:
      mrcnn train nuclei_r18_fpn --model-dir runs/nuclei \\
        data.train=data/nuclei/train.json data.validation=data/nuclei/val.json solver.steps=1000
    Several machines: run the same command on each, with its own TF_CONFIG:
      mrcnn train mask_rcnn_r50_fpn_1x --model-dir /shared/r50 train.strategy=multi_worker ...
    Lengthen the run to 2000 steps:
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
        settings: Annotated[str, typer.Argument(metavar='CONFIG', help='A YAML file, or the name of a bundled one.')],
        overrides: Annotated[list[str] | None, typer.Argument(
            metavar='KEY=VALUE', help='Settings that override those of the config.')] = None,
        model_dir: Annotated[pathlib.Path | None, typer.Option(
            help='Directory for all steps; if not given, runs/NAME with the name of CONFIG.')] = None) -> None:
    """Train a Faster R-CNN in four steps.

    The steps of the paper: 1. train an RPN; 2. train a Fast R-CNN on its proposals; 3. train an RPN on the backbone of
    step 2, which is frozen; 4. train the Fast R-CNN again on the proposals of step 3. The same command resumes.

    The directory has a model directory for each step, and faster_rcnn, which joins them to one model. The section
    `alternating` of the config has the settings of each step. alternating.steps=2 stops before the models share a
    backbone.

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
    """The metrics of `mrcnn evaluate`."""
    coco = 'coco'
    voc2007 = 'voc2007'
    voc2012 = 'voc2012'
    cityscapes = 'cityscapes'
    recall = 'recall'


@app.command()
@command
def evaluate(model_dir: Annotated[pathlib.Path, typer.Option(help='Model directory from `mrcnn train`.')],
             data: Annotated[pathlib.Path | None, typer.Option(
                 help="Manifest NAME.json of the set; if not given, the model's data.validation.")] = None,
             metric: Annotated[Metric, typer.Option(
                 help="coco: COCO's metrics. voc2007, voc2012: VOC's mean average precision, by eleven points or by "
                      "the area. cityscapes: Cityscapes' mask AP (extra `cityscapes`). recall: that of proposals.",
             )] = Metric.coco,
             ) -> None:
    """Evaluate a model on a set.

    Prints COCO's twelve metrics for boxes and masks, or the metric that --metric names. Writes metrics.json and, except
    for recall, detections.json to the model directory. --metric recall prints the fraction of objects that the best 50
    to 2000 proposals cover at each IoU; a fast_rcnn is evaluated on the proposals in the records, other models on those
    of their RPN.

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
    """Print the recall of a set's proposals.

    The proposals are those in the records; their recall is given at 50 to 2000 boxes and each IoU.

    \b
    Example:
      mrcnn recall data/voc/train_proposals.json
    """
    from mrcnn_tf.evaluation import recall
    from mrcnn_tf.evaluation.coco import read_manifest

    typer.echo(recall.table(recall.average_recall(read_manifest(manifest), recall.stored(manifest))))


@app.command()
@command
def propose(model_dir: Annotated[pathlib.Path, typer.Option(help='Model directory of a model with an RPN.')],
            data: Annotated[pathlib.Path, typer.Option(help='Manifest NAME.json of the set.')],
            output: Annotated[pathlib.Path, typer.Option(help='The .npz file to write.')],
            for_training: Annotated[bool, typer.Option(
                '--for-training', help='Write rpn.post_nms_train proposals per image instead of post_nms_test.',
            )] = False) -> None:
    """Write the proposals of a model's RPN.

    Writes the proposals for all images of a set to a file that `mrcnn convert proposals` reads.

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
def export(model_dir: Annotated[pathlib.Path, typer.Option(help='Model directory from `mrcnn train`.')],
           output: Annotated[pathlib.Path, typer.Option(help='Directory for all versions of the SavedModel.')]) -> None:
    """Export a model as a SavedModel.

    Writes the newest checkpoint to OUTPUT/1, OUTPUT/2, ... for TF Serving. The SavedModel takes the bytes of JPEG and
    PNG files. It needs neither this package nor its settings.

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
                metavar='IMAGE', help="JPEG or PNG files, directories, patterns such as 'photos/**/*.jpg', or a .txt "
                                      'file with one path per line.')],
            model: Annotated[pathlib.Path, typer.Option(
                help='Model directory from `mrcnn train`, or SavedModel from `mrcnn export`.')],
            output: Annotated[pathlib.Path, typer.Option(help='Directory for the results.')],
            threshold: Annotated[float, typer.Option(min=0, max=1, help='Lowest score of a detection.')] = 0.5) -> None:
    """Detect objects in images.

    Writes for each image a picture, OUTPUT/NAME.png, and the detections, OUTPUT/NAME.json. Boxes and masks are in the
    pixels that image viewers show: photographs are rotated by their EXIF orientation, unless the model's data.exif says
    otherwise. Files that cannot be used do not stop the others; they are listed at the end, and the exit code is 1.

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

"""`mrcnn evaluate` and `mrcnn propose`."""
from __future__ import annotations

import enum
import pathlib
from typing import Annotated

import typer

from mrcnn_tf.cli.command import Checkpoint, Precision, command
from mrcnn_tf.config import ConfigError
from mrcnn_tf.files.cores import one_operation_at_a_time


class Metric(str, enum.Enum):
    """The metrics of `mrcnn evaluate`."""
    coco = 'coco'
    voc2007 = 'voc2007'
    voc2012 = 'voc2012'
    cityscapes = 'cityscapes'
    recall = 'recall'


@command
def evaluate(model_dir: Annotated[pathlib.Path | None, typer.Option(help='Model directory from `mrcnn train`.')] = None,
             data: Annotated[pathlib.Path | None, typer.Option(
                 help="Manifest NAME.json of the set; if not given, the model's data.validation.")] = None,
             metric: Annotated[Metric, typer.Option(
                 help="coco: COCO's metrics. voc2007, voc2012: VOC's mean average precision, over eleven points or "
                      "as the area. cityscapes: Cityscapes' mask AP (extra `cityscapes`). recall: recall of proposals.",
             )] = Metric.coco,
             checkpoint: Checkpoint = 'best',
             report: Annotated[pathlib.Path | None, typer.Option(
                 help='HTML file to write: a page that explains the metrics and shows the worst images.')] = None,
             against: Annotated[pathlib.Path | None, typer.Option(
                 help='Another report (HTML, or its JSON) to compare with on the page.')] = None,
             images: Annotated[int, typer.Option(min=0, help='Number of worst images on the page.')] = 12,
             detections: Annotated[pathlib.Path | None, typer.Option(
                 help="Evaluate the detections of a file in COCO's results format instead of a model; needs --data.",
             )] = None,
             precision: Annotated[Precision, typer.Option(
                 help='Of convolutions and matrix products.')] = Precision.float32,
             workers: Annotated[int, typer.Option(
                 min=1, help='Processes that encode masks and match objects (coco), beside the network; worth it with '
                             'GPUs, or for thousands of images.')] = 1) -> None:
    """Evaluate a model on a set.

    Prints COCO's twelve metrics for boxes and masks and the AP of each category, or the metric that --metric names.
    Writes metrics.json and, except for recall, detections.json to the model directory; with COCO's metrics also
    per_class.csv. --metric recall prints the fraction of objects that the best 50 to 2000 proposals cover at each IoU;
    a fast_rcnn is evaluated on the proposals in the records, other models on those of their RPN.

    --report writes one self-contained page: precision-recall curves, the errors by kind and the AP that each kind
    costs, the confusion matrix, AP by size and crowding, calibration, the best threshold of each category, and the
    worst images with ground truth and detections side by side. With --against, the page also shows what changed.

    --detections takes the place of --model-dir: the detections.json of an earlier evaluation, for example to write a
    report without detecting again, or the results of another program. Only the report is written.

    \b
    Example:
      mrcnn evaluate --model-dir runs/nuclei --data data/nuclei/val.json
      mrcnn evaluate --model-dir runs/nuclei --report new.html --against old.html
      mrcnn evaluate --detections runs/nuclei/detections.json --data data/nuclei/val.json --report report.html
      mrcnn evaluate --model-dir runs/voc --data data/voc/test.json --metric voc2007
      mrcnn evaluate --model-dir runs/cityscapes --data data/cityscapes/val.json --metric cityscapes
    """
    if against and not report:
        raise ConfigError('--against shows changes on the page of --report; give --report too')
    if bool(model_dir) == bool(detections) or detections and not data:
        raise ConfigError('give either --model-dir, to evaluate a model, or --detections and --data, to evaluate the '
                          'detections of a file')
    one_operation_at_a_time()
    from mrcnn_tf.detectors.devices import several_gpus
    from mrcnn_tf.evaluation import cityscapes, coco, per_class, recall, results, run, voc
    from mrcnn_tf.evaluation.write_report import Report

    wanted = Report(report, against, images) if report else None
    tables = {Metric.coco: coco.table, Metric.cityscapes: cityscapes.table, Metric.recall: recall.table}
    if model_dir:
        evaluation = run.evaluate_classes(model_dir, data, metric.value, checkpoint, wanted, precision.value,
                                          several_gpus(), workers)
    else:
        assert detections and data
        evaluation = results.evaluate_classes(detections, data, metric.value, wanted, workers)
    typer.echo(tables.get(metric, voc.table)(evaluation.metrics))
    if evaluation.classes:
        typer.echo(f'\n{per_class.table(evaluation.classes)}')
    if report:
        typer.echo(str(report))


@command
def propose(model_dir: Annotated[pathlib.Path, typer.Option(help='Model directory of a model with an RPN.')],
            data: Annotated[pathlib.Path, typer.Option(help='Manifest NAME.json of the set.')],
            output: Annotated[pathlib.Path, typer.Option(help='The .npz file to write.')],
            for_training: Annotated[bool, typer.Option(
                '--for-training', help='Write rpn.post_nms_train proposals per image instead of post_nms_test.',
            )] = False,
            checkpoint: Checkpoint = 'best',
            precision: Annotated[Precision, typer.Option(
                help='Of convolutions and matrix products.')] = Precision.float32) -> None:
    """Write the proposals of a model's RPN.

    Writes the proposals for all images of a set to a file that `mrcnn convert proposals` reads. The same command
    continues after an interruption.

    \b
    Example:
      mrcnn propose --model-dir runs/rpn --data data/voc/test.json --output data/voc/rpn.npz
      mrcnn convert proposals data/voc/test.json --proposals data/voc/rpn.npz --output data/voc --name test_rpn
    """
    one_operation_at_a_time()
    from mrcnn_tf.detectors.devices import several_gpus
    from mrcnn_tf.evaluation import export_proposals

    export_proposals.propose(model_dir, data, output, for_training, checkpoint, precision.value, several_gpus())
    typer.echo(str(output))

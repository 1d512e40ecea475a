"""`mrcnn import-weights FRAMEWORK`: weights that others published become a model directory.

TensorFlow takes seconds to import, so what needs it is imported inside of the functions.
"""
from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from mrcnn_tf.command import command

import_app = typer.Typer(no_args_is_help=True, help='Make a model directory of weights that others published.')

_Output = Annotated[pathlib.Path, typer.Option(help='Directory of the model; must not exist.')]
_Classes = Annotated[str | None, typer.Option(
    help='Manifest NAME.json, or a number: the predictors start fresh with its classes, for fine-tuning.')]
_Overrides = Annotated[list[str] | None, typer.Argument(
    metavar='KEY=VALUE', help='Settings that replace those that the weights call for.')]


@import_app.command()
@command
def torchvision(file: Annotated[pathlib.Path, typer.Argument(help='.pth (needs torch), .safetensors or .npz.')],
                output: _Output, classes: _Classes = None, overrides: _Overrides = None) -> None:
    """Faster and Mask R-CNN with ResNet and FPN, torchvision's first and second recipe.

    Prints for each variable where it comes from, its shape, smallest, largest, norm, and what was changed.

    \b
    Example:
      mrcnn import-weights torchvision maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --output runs/coco
      mrcnn evaluate --model-dir runs/coco --data data/coco/val.json
    Fine-tune on your own classes:
      mrcnn import-weights torchvision maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth \\
        --output runs/mine --classes data/mine/train.json
      mrcnn train runs/mine/config.yaml --model-dir runs/mine data.train=data/mine/train.json
    Weights that you trained with torchvision, whose normalisation has its epsilon:
      mrcnn import-weights torchvision mine.pth --output runs/mine model.backbone.norm_epsilon=1e-5
    """
    from mrcnn_tf import import_weights

    typer.echo(import_weights.table(import_weights.import_file('torchvision', file, output, classes, overrides or [])))


@import_app.command()
@command
def detectron2(file: Annotated[pathlib.Path, typer.Argument(help='.pkl of the model zoo, .pth, .safetensors or .npz.')],
               output: _Output, classes: _Classes = None, overrides: _Overrides = None) -> None:
    """Faster and Mask R-CNN with ResNet-50, ResNet-101 and ResNeXt-101, with FPN, C4 and DC5.

    A pickle may hold numpy arrays and nothing else; one that asks for anything else is refused.

    \b
    Example:
      mrcnn import-weights detectron2 model_final_a54504.pkl --output runs/coco
      mrcnn evaluate --model-dir runs/coco --data data/coco/val.json
    """
    from mrcnn_tf import import_weights

    typer.echo(import_weights.table(import_weights.import_file('detectron2', file, output, classes, overrides or [])))


@import_app.command('keras-applications')
@command
def keras_applications(name: Annotated[str, typer.Argument(help='resnet50, resnet101 or vgg16.')],
                       output: _Output, classes: _Classes = None, overrides: _Overrides = None) -> None:
    """ImageNet weights for the trunk, and for the hidden layers of VGG-16's box head; the rest starts fresh.

    \b
    Example:
      mrcnn import-weights keras-applications vgg16 --output runs/vgg16 --classes data/voc/train.json
      mrcnn train runs/vgg16/config.yaml --model-dir runs/vgg16 data.train=data/voc/train.json
    """
    from mrcnn_tf import import_weights

    typer.echo(import_weights.table(import_weights.import_imagenet(name, output, classes, overrides or [])))

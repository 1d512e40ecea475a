"""`mrcnn import-weights FRAMEWORK`: create a model directory from published weights or from a trained model.

TensorFlow takes seconds to import, so modules that need it are imported inside the functions.
"""
from __future__ import annotations

import pathlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mrcnn_tf.cli.command import command


class _Names(TyperGroup):
    """Takes `import-weights NAME`, with a name that is no command, as a name of the catalogue."""

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        given = args[:1] if args and (args[0] in self.commands or args[0].startswith('-')) else [_NAMED, *args[:1]]
        return super().resolve_command(context, [*given, *args[1:]])


import_app = typer.Typer(no_args_is_help=True, help='Create a model directory from published weights.', cls=_Names)
_NAMED = 'NAME'

_Output = Annotated[pathlib.Path, typer.Option(help='Model directory to create; it must not exist.')]
_Classes = Annotated[str | None, typer.Option(
    help='Manifest NAME.json, or a number of classes. The predictors get these classes and are initialized at random, '
         'for fine-tuning.')]
_ClassMap = Annotated[str | None, typer.Option(
    help='For each of --classes, the class of the weights whose predictors it is initialized with: '
         'cityscapes-from-coco, or a YAML file with lines such as "car: car" and "rider: null".')]
_NormEpsilon = Annotated[float | None, typer.Option(
    min=0, help='Epsilon of batch normalization, which files of the first recipe do not store: 0 for the published '
                'weights and models fine-tuned from them, 1e-5 for a model trained from an ImageNet backbone.')]
_Overrides = Annotated[list[str] | None, typer.Argument(
    metavar='KEY=VALUE', help='Settings that override those of the weights.')]


@import_app.command(_NAMED)
@command
def named(name: Annotated[str, typer.Argument(help='A name that `mrcnn weights` lists.')],
          output: _Output, classes: _Classes = None, class_map: _ClassMap = None,
          url: Annotated[str | None, typer.Option(help="Address of a mirror, instead of the publisher's.")] = None,
          overrides: _Overrides = None) -> None:
    """Fetch published weights by name, and import them.

    The file is checked against the published checksum and kept in ~/.cache/mrcnn_tf (or below XDG_CACHE_HOME), so that
    it is fetched once. A proxy is that of the environment variable https_proxy. Without a network, copy the file there.

    \b
    Example:
      mrcnn import-weights maskrcnn_resnet50_fpn --output runs/coco
      mrcnn import-weights mask_rcnn_R_50_FPN_3x --output runs/mine --classes data/mine/train.json
    """
    from mrcnn_tf.weights import catalogue

    checkpoint = catalogue.get(name)
    file = catalogue.fetch(checkpoint, url)
    from mrcnn_tf.weights import importing

    report = importing.import_file(checkpoint.framework, file, output, classes, overrides or [], class_map)
    typer.echo(importing.table(report))


@import_app.command()
@command
def torchvision(file: Annotated[pathlib.Path, typer.Argument(help='.pth (needs torch), .safetensors or .npz.')],
                output: _Output, classes: _Classes = None, class_map: _ClassMap = None,
                norm_epsilon: _NormEpsilon = None, overrides: _Overrides = None) -> None:
    """Import weights of torchvision.

    Takes Faster and Mask R-CNN with ResNet and FPN, by torchvision's first and second recipe. Prints for each variable
    its source, shape, minimum, maximum and norm, and what was changed.

    \b
    Example:
      mrcnn import-weights torchvision maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --output runs/coco
      mrcnn evaluate --model-dir runs/coco --data data/coco/val.json
    Fine-tune on your own classes:
      mrcnn import-weights torchvision maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth \\
        --output runs/mine --classes data/mine/train.json
      mrcnn train runs/mine/config.yaml --model-dir runs/mine data.train=data/mine/train.json
    Weights that you trained with torchvision from an ImageNet backbone:
      mrcnn import-weights torchvision mine.pth --output runs/mine --norm-epsilon 1e-5
    """
    from mrcnn_tf.weights import importing

    settings, notes = list(overrides or []), list[str]()
    if norm_epsilon is not None:
        settings.append(f'model.backbone.norm_epsilon={norm_epsilon}')
    report = importing.import_file('torchvision', file, output, classes, settings, class_map, notes.append)
    typer.echo('\n'.join([importing.table(report), *notes]))


@import_app.command()
@command
def detectron2(file: Annotated[pathlib.Path, typer.Argument(help='.pkl of the model zoo, .pth, .safetensors or .npz.')],
               output: _Output, classes: _Classes = None, class_map: _ClassMap = None, overrides: _Overrides = None,
               ) -> None:
    """Import weights of Detectron2.

    Takes RPN, Fast, Faster, Mask and Cascade R-CNN with ResNet-50, ResNet-101 and ResNeXt-101, and FPN, C4 or DC5. A
    pickle may hold only numpy arrays and plain values; any other is refused.

    \b
    Example:
      mrcnn import-weights detectron2 model_final_a54504.pkl --output runs/coco
      mrcnn evaluate --model-dir runs/coco --data data/coco/val.json
    For Cityscapes, with the predictors of COCO's person, car, ...:
      mrcnn import-weights detectron2 model_final_a54504.pkl --output runs/cityscapes \\
        --classes data/cityscapes/train.json --class-map cityscapes-from-coco
    """
    from mrcnn_tf.weights import importing

    report = importing.import_file('detectron2', file, output, classes, overrides or [], class_map)
    typer.echo(importing.table(report))


@import_app.command()
@command
def model(directory: Annotated[pathlib.Path, typer.Argument(help='Model directory that `mrcnn train` wrote.')],
          output: _Output, classes: _Classes = None, class_map: _ClassMap = None, overrides: _Overrides = None) -> None:
    """Import a model that `mrcnn train` has trained.

    The new model directory has the weights of the model, for training with other classes.

    \b
    Example:
      mrcnn import-weights model runs/coco --output runs/cityscapes \\
        --classes data/cityscapes/train.json --class-map cityscapes-from-coco
      mrcnn train runs/cityscapes/config.yaml --model-dir runs/cityscapes data.train=data/cityscapes/train.json
    """
    from mrcnn_tf.weights import importing

    report = importing.import_model(directory, output, classes, overrides or [], class_map)
    typer.echo(importing.table(report))


@import_app.command('keras-applications')
@command
def keras_applications(name: Annotated[str, typer.Argument(help='resnet50, resnet101, vgg16 or inception_resnet_v2.')],
                       output: _Output, classes: _Classes = None, overrides: _Overrides = None) -> None:
    """Import ImageNet weights for the backbone.

    With vgg16, the hidden layers of the box head are imported too. All other layers are initialized at random.

    \b
    Example:
      mrcnn import-weights keras-applications vgg16 --output runs/vgg16 --classes data/voc/train.json
      mrcnn train runs/vgg16/config.yaml --model-dir runs/vgg16 data.train=data/voc/train.json
    """
    from mrcnn_tf.weights import importing

    typer.echo(importing.table(importing.import_imagenet(name, output, classes, overrides or [])))


@command
def weights(words: Annotated[list[str] | None, typer.Argument(
        metavar='WORD', help='List the weights whose line has all these words, in any case.')] = None) -> None:
    """List published weights that can be imported.

    Prints for each its name, the AP that its publisher states on COCO val2017, the size of the file where it is known,
    its license, the published beginning of its checksum, and its address. None of the AP was measured with this code.
    ImageNet weights of backbones: mrcnn import-weights keras-applications --help

    \b
    Example:
      mrcnn weights mask FPN
    """
    from mrcnn_tf.weights import catalogue

    heading, *lines = catalogue.table().splitlines()
    found = [line for line in lines if all(word.lower() in line.lower() for word in words or [])]
    typer.echo('\n'.join([heading, *found]))

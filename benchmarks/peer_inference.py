"""Times torchvision's Mask R-CNN R50-FPN, as it is, compiled or in OpenVINO, on noise or on image files.

    python -m benchmarks.peer_inference openvino --precision bfloat16
    python -m benchmarks.peer_inference torchvision --images photos

Needs torch, torchvision and psutil, OpenVINO for `openvino`, and a C++ compiler for `compiled`. Weights are random. As
in `mrcnn benchmark inference`, every image has 100 detections: each proposal is an object of class 1, and boxes are
anchors. Noise goes in as uint8 [3, H, W]. A file is decoded by Pillow, and resized by the model to 800 px with at most
1333. `--paste` pastes the masks into the whole image, as torchvision does by default. Prints one JSON line like that of
`mrcnn benchmark`.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'mrcnn_tf/cli/benchmark'))

from measuring import measure

Detect = Callable[[torch.Tensor], Any]    # of an image float32 [3, H, W], 0..1


def options() -> argparse.ArgumentParser:
    """Return the parent of the parsers of this program and of `peer_training`: the options of both."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1216])
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--patience', type=float, default=0.)
    parser.add_argument('--on-request', action='store_true', help='as for `mrcnn benchmark`')
    return parser


def random_backbone() -> BackboneWithFPN:
    """Return ResNet-50 with FPN, frozen as published, whose random weights keep activations of a trained size."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name='resnet50', weights=None, norm_layer=FrozenBatchNorm2d,
                                   trainable_layers=3)
    for name, module in backbone.named_modules():
        if name.endswith('bn3'):
            module.weight.fill_(.2)    # frozen statistics do not normalize: sums over 16 blocks would grow
    return backbone


def autocast(precision: str) -> torch.autocast:
    """Return the context in which torchvision computes in this precision."""
    return torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16')


def network(paste: bool) -> MaskRCNN:
    """Return the published architecture, which finds 100 objects in any image."""
    model = MaskRCNN(random_backbone(), 91, box_score_thresh=.05).eval()
    if not paste:
        model.transform.postprocess = lambda result, *_: result
    box = model.roi_heads.box_predictor
    for layer in (box.cls_score, box.bbox_pred, model.rpn.head.cls_logits, model.rpn.head.bbox_pred):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        box.cls_score.bias[1] = 5.    # a score of 0.6, and of the other classes less than 0.01
    return model


def torchvision(model: MaskRCNN, precision: str) -> Detect:
    """Return the network in its fastest layout."""
    model = model.to(memory_format=torch.channels_last)

    def detect(image: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.inference_mode(), autocast(precision):
            return model([image.contiguous()])[0]

    return detect


def compiled(model: MaskRCNN, precision: str) -> Detect:
    """Return the network with its dense parts compiled by torch.compile."""
    heads = model.roi_heads
    for owner, name in ((model, 'backbone'), (model.rpn, 'head'), (heads, 'box_head'), (heads, 'mask_head'),
                        (heads, 'mask_predictor')):
        setattr(owner, name, torch.compile(getattr(owner, name)))
    return torchvision(model, precision)


def openvino(model: MaskRCNN, precision: str) -> Detect:
    """Return the network converted to OpenVINO, for images of any size."""
    import openvino as ov

    converted = ov.convert_model(Traced(model), example_input=torch.rand(1, 3, 800, 1216))
    compiled = ov.Core().compile_model(converted, 'CPU', {
        'INFERENCE_PRECISION_HINT': 'bf16' if precision == 'bfloat16' else 'f32', 'PERFORMANCE_HINT': 'LATENCY'})
    request = compiled.create_infer_request()
    return lambda image: request.infer([image[None].numpy()])


class Traced(torch.nn.Module):
    """The network as a function of tensors: image [1, 3, H, W] to boxes, labels, scores and masks."""

    def __init__(self, model: MaskRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model([images[0]])[0]
        return found['boxes'], found['labels'], found['scores'], found['masks']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     parents=[options()])
    parser.add_argument('engine', choices=['torchvision', 'compiled', 'openvino'])
    parser.add_argument('--images', type=pathlib.Path, help='a directory of image files instead of noise')
    parser.add_argument('--paste', action='store_true')
    given = parser.parse_args()
    detect = globals()[given.engine](network(given.paste), given.precision)
    detections: list[int] = []

    def count(found: Any) -> None:
        detections.append(len(found['scores']) if isinstance(found, dict) else len(found[2]))

    if given.images:
        paths = sorted(path for path in given.images.iterdir() if path.suffix in ('.jpg', '.png'))

        def work() -> None:
            for path in paths:
                with Image.open(path) as image:
                    count(detect(torch.from_numpy(np.array(image.convert('RGB'))).permute(2, 0, 1) / 255))
    else:
        paths, noise = [None], torch.randint(0, 256, [3, *given.size], dtype=torch.uint8)

        def work() -> None:
            count(detect(noise / 255))

    times = measure(work, given.runs, 2 - bool(given.images), given.patience, given.on_request)
    print(json.dumps({'what': 'inference', 'engine': given.engine, 'precision': given.precision, 'images': len(paths),
                      'masks': 'pasted' if given.paste else 'cells', 'detections': sum(detections[-len(paths):]),
                      'images_per_s': round(len(paths) / times['median_s'], 3), **times}))


if __name__ == '__main__':
    main()

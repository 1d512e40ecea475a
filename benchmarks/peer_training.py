"""Times a training step of torchvision's Mask R-CNN R50-FPN on an image of noise.

    python -m benchmarks.peer_training --precision bfloat16

Needs torch, torchvision and psutil. A step is the losses, their gradients, and SGD's update with momentum and weight
decay. Stem and first stage of the backbone are frozen, as published. Weights are random, and so few of the 2000
proposals overlap the 8 objects well: a proposal is positive from an IoU of 0.02 on, so that 128 of the 512 sampled RoIs
are positive and train masks, as many as in a trained model at most. `rois` and `mask_rois` are the numbers reached.
More --objects need more time and memory: torchvision keeps their masks in the size of the image. Prints one JSON line
like that of `mrcnn benchmark`.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import sys

import torch
from torchvision.models.detection import MaskRCNN

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from peer_inference import autocast, measure, options, random_backbone

POSITIVE = .02    # IoU


def objects_of(height: int, width: int, count: int) -> dict[str, torch.Tensor]:
    """Return boxes of 0.1 to 0.5 of the image's sides at random places, and masks that fill them."""
    sides = torch.tensor([width, height])
    size = (.1 + .4 * torch.rand(count, 2)) * sides
    start = torch.rand(count, 2) * (sides - size)
    boxes = torch.cat([start, start + size], 1).round()
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {'boxes': boxes, 'labels': torch.randint(1, 91, [count]), 'masks': masks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     parents=[options()])
    parser.add_argument('--objects', type=int, default=8)
    given = parser.parse_args()
    height, width = given.size
    model = MaskRCNN(random_backbone(), 91, min_size=height, max_size=max(height, width), box_fg_iou_thresh=POSITIVE,
                     box_bg_iou_thresh=POSITIVE).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD([weights for weights in model.parameters() if weights.requires_grad], lr=1e-6,
                                momentum=.9, weight_decay=1e-4)
    images, targets = [torch.rand(3, height, width)], [objects_of(height, width, given.objects)]
    said = {'what': 'train', 'engine': 'torchvision', 'precision': given.precision, 'height': height, 'width': width,
            'images': 1, 'objects': given.objects}
    heads = model.roi_heads
    heads.box_head.register_forward_pre_hook(lambda _, inputs: said.update(rois=len(inputs[0])))
    heads.mask_head.register_forward_pre_hook(lambda _, inputs: said.update(mask_rois=len(inputs[0])))

    def step() -> None:
        with autocast(given.precision):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        said['loss'] = round(loss.item(), 3)

    times = measure(step, given.runs, 2, given.patience, given.on_request)
    print(json.dumps({**said, 'images_per_s': round(1 / times['median_s'], 3), **times}))


if __name__ == '__main__':
    main()

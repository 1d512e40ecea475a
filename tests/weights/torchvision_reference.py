"""Expected outputs of torchvision's second recipe with weights from a seeded random number generator.

`python tests/weights/torchvision_reference.py` writes torchvision_reference.npz beside this file, with the outputs and
the names and shapes of all parameters. It needs torch and torchvision, and nothing of this project. Boxes are
x1, y1, x2, y2. `found_*` are the detections of the complete inference, in px of the image.
"""
from __future__ import annotations

import pathlib
import zlib

import numpy as np

PATH = pathlib.Path(__file__).with_name('torchvision_reference.npz')
CLASSES = 3
IMAGE = np.random.default_rng(5).integers(0, 256, (64, 96, 3)).astype(np.float32)      # RGB
SHORT_SIDE = 136      # of the complete inference: 136 x 204 px on a canvas of 160 x 224, so P6 has 3 x 4 cells
ROIS = np.float32([[3.3, 5.1, 60.7, 50.2], [20., 8., 90.5, 63.], [0., 0., 96., 64.]])


def sample(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the value of the parameter `name`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    if name.endswith('running_var'):
        return rng.uniform(.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        normalised = name.rsplit('.', 1)[0].endswith(('.1', 'bn1', 'bn2', 'bn3'))
        return (rng.uniform(.3, .6, shape) if normalised and name.endswith('weight') else
                rng.normal(0, .1, shape)).astype(np.float32)
    return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)


def state(expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all parameters of the model that computed `expected`."""
    return {name: sample(name, tuple(int(side) for side in shape.split('x') if side))
            for name, shape in zip(expected['names'].tolist(), expected['shapes'].tolist(), strict=True)}


def _compute() -> dict[str, np.ndarray]:
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    names = list(model.state_dict())
    shapes = [tuple(value.shape) for value in model.state_dict().values()]
    sampled = {name: torch.from_numpy(sample(name, shape)) for name, shape in zip(names, shapes, strict=True)}
    model.load_state_dict(sampled)
    model = model.double()
    x = torch.from_numpy(IMAGE).double().permute(2, 0, 1) / 255
    x = (x - torch.tensor([.485, .456, .406])[:, None, None]) / torch.tensor([.229, .224, .225])[:, None, None]
    with torch.no_grad():
        features = model.backbone(x[None])
        logits, deltas = model.rpn.head(list(features.values()))
        rois, sizes = [torch.from_numpy(ROIS).double()], [(64, 96)]
        heads = model.roi_heads
        classes, boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, rois, sizes)))
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, rois, sizes)))
    outputs = {f'feature_{k}': value[:, ::16] for k, value in enumerate(features.values())}
    outputs['logits'] = torch.cat([m.permute(0, 2, 3, 1).reshape(-1) for m in logits])
    outputs['deltas'] = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, 4) for m in deltas])
    outputs.update(classes=classes, boxes=boxes.reshape(len(ROIS), CLASSES + 1, 4), masks=masks[:1])
    model.transform.min_size = (SHORT_SIDE,)
    with torch.no_grad():
        (detected,) = model([torch.from_numpy(IMAGE).double().permute(2, 0, 1) / 255])
    outputs.update({f'found_{name}': detected[name] for name in ('boxes', 'scores', 'labels')})
    return {'names': np.array(names), 'shapes': np.array(['x'.join(map(str, shape)) for shape in shapes]),
            **{name: value.numpy().astype(np.float32) for name, value in outputs.items()}}


if __name__ == '__main__':
    np.savez_compressed(PATH, **_compute())
    print(PATH, PATH.stat().st_size)

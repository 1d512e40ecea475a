"""Parameters of a small Mask R-CNN with torchvision's names: ResNet-18-FPN, 3 classes, hidden layers of 16 units."""
from __future__ import annotations

import numpy as np

CLASSES, WIDTH = 3, 16
OVERRIDES = (f'model.box_head.width={WIDTH}',)


def state(seed: int = 0) -> dict[str, np.ndarray]:
    """Return random parameters; variances are positive."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(.5, 1., shape).astype(np.float32) if name.endswith('running_var') else
            rng.normal(0, .05, shape).astype(np.float32) for name, shape in _shapes().items()}


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        shapes.update({f'{name}.{field}': (channels,) for field in ('weight', 'bias', 'running_mean', 'running_var')})

    def layer(name: str, *shape: int, bias: int | None = None) -> None:
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = shape, (bias or shape[0],)

    shapes['backbone.body.conv1.weight'] = (64, 3, 7, 7)
    norm('backbone.body.bn1', 64)
    for stage in range(4):
        width = 64 * 2 ** stage
        for block in range(2):
            name, inputs = f'backbone.body.layer{stage + 1}.{block}', width if block or not stage else width // 2
            shapes[f'{name}.conv1.weight'], shapes[f'{name}.conv2.weight'] = (width, inputs, 3, 3), (width, width, 3, 3)
            norm(f'{name}.bn1', width)
            norm(f'{name}.bn2', width)
            if inputs != width:
                shapes[f'{name}.downsample.0.weight'] = (width, inputs, 1, 1)
                norm(f'{name}.downsample.1', width)
        layer(f'backbone.fpn.inner_blocks.{stage}.0', 256, width, 1, 1)
        layer(f'backbone.fpn.layer_blocks.{stage}.0', 256, 256, 3, 3)
    layer('rpn.head.conv.0.0', 256, 256, 3, 3)
    layer('rpn.head.cls_logits', 3, 256, 1, 1)
    layer('rpn.head.bbox_pred', 12, 256, 1, 1)
    layer('roi_heads.box_head.fc6', WIDTH, 256 * 49)
    layer('roi_heads.box_head.fc7', WIDTH, WIDTH)
    layer('roi_heads.box_predictor.cls_score', CLASSES + 1, WIDTH)
    layer('roi_heads.box_predictor.bbox_pred', 4 * (CLASSES + 1), WIDTH)
    for index in range(4):
        layer(f'roi_heads.mask_head.{index}.0', 256, 256, 3, 3)
    layer('roi_heads.mask_predictor.conv5_mask', 256, 256, 2, 2)
    layer('roi_heads.mask_predictor.mask_fcn_logits', CLASSES + 1, 256, 1, 1)
    return shapes

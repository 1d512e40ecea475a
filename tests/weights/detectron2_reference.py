"""Detectron2's architectures in plain torch, for expected values: weights drawn by a formula, outputs kept in an .npz.

`python tests/weights/detectron2_reference.py` (needs torch and torchvision, nothing of this project) writes
detectron2_reference.npz beside this file. Detectron2's files were read for it (modeling/backbone/resnet.py and fpn.py,
modeling/roi_heads, modeling/proposal_generator/rpn.py): where strides and dilations stand, how weights are called,
where the background goes. Boxes are x1, y1, x2, y2 as theirs; maps [N, C, H, W].
"""
from __future__ import annotations

import pathlib
import zlib

import numpy as np

PATH = pathlib.Path(__file__).with_name('detectron2_reference.npz')
CLASSES, WIDTH = 3, 16                                       # of the box head's hidden layers
CASES = {'c4': ('c4', 50), 'dc5': ('dc5', 50), 'x101': ('fpn', 101)}
IMAGE = np.random.default_rng(5).integers(0, 256, (64, 96, 3)).astype(np.float32)      # RGB
ROIS = np.float32([[3.3, 5.1, 60.7, 50.2], [20., 8., 90.5, 63.], [0., 0., 96., 64.]])  # x1, y1, x2, y2


def state(case: str) -> dict[str, np.ndarray]:
    """Weights under Detectron2's names."""
    return {name: _draw(f'{case}/{name}', shape) for name, shape in _shapes(*CASES[case]).items()}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith('running_var'):
        return rng.uniform(.5, 1.5, shape).astype(np.float32)
    if name.endswith('norm.weight'):
        return rng.uniform(.3, .6, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.normal(0, .1, shape).astype(np.float32)
    return rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)


def _shapes(maps: str, depth: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int, norm: bool = True) -> None:
        found[f'{name}.weight'] = (outputs, inputs, kernel, kernel)
        if norm:
            found.update({f'{name}.norm.{field}': (outputs,) for field in (
                'weight', 'bias', 'running_mean', 'running_var')})
        else:
            found[f'{name}.bias'] = (outputs,)

    def stage(prefix: str, index: int, blocks: int) -> None:
        width = (256 if depth == 101 else 64) * 2 ** index
        outputs = 256 * 2 ** index
        for block in range(blocks):
            inputs = outputs if block else (64 if index == 0 else outputs // 2)
            if not block:
                conv(f'{prefix}.0.shortcut', outputs, inputs, 1)
            conv(f'{prefix}.{block}.conv1', width, inputs, 1)
            conv(f'{prefix}.{block}.conv2', width, width // (32 if depth == 101 else 1), 3)
            conv(f'{prefix}.{block}.conv3', outputs, width, 1)

    def dense(name: str, outputs: int, inputs: int) -> None:
        found[f'{name}.weight'], found[f'{name}.bias'] = (outputs, inputs), (outputs,)

    trunk = 'backbone.bottom_up.' if maps == 'fpn' else 'backbone.'
    conv(f'{trunk}stem.conv1', 64, 3, 7)
    for index, blocks in enumerate((3, 4, 23 if depth == 101 else 6, 3)):
        stage('roi_heads.res5' if maps == 'c4' and index == 3 else f'{trunk}res{index + 2}', index, blocks)
    channels = {'fpn': 256, 'c4': 1024, 'dc5': 2048}[maps]
    for level in range(2, 6) if maps == 'fpn' else ():
        conv(f'backbone.fpn_lateral{level}', 256, 64 * 2 ** level, 1, norm=False)
        conv(f'backbone.fpn_output{level}', 256, 256, 3, norm=False)
    anchors = 3 if maps == 'fpn' else 15
    conv('proposal_generator.rpn_head.conv', channels, channels, 3, norm=False)
    conv('proposal_generator.rpn_head.objectness_logits', anchors, channels, 1, norm=False)
    conv('proposal_generator.rpn_head.anchor_deltas', 4 * anchors, channels, 1, norm=False)
    if maps != 'c4':
        dense('roi_heads.box_head.fc1', WIDTH, 49 * channels)
        dense('roi_heads.box_head.fc2', WIDTH, WIDTH)
        for index in range(1, 5):
            conv(f'roi_heads.mask_head.mask_fcn{index}', 256, channels if index == 1 else 256, 3, norm=False)
    read = 2048 if maps == 'c4' else WIDTH
    dense('roi_heads.box_predictor.cls_score', CLASSES + 1, read)
    dense('roi_heads.box_predictor.bbox_pred', 4 * CLASSES, read)
    found['roi_heads.mask_head.deconv.weight'] = (2048 if maps == 'c4' else 256, 256, 2, 2)
    found['roi_heads.mask_head.deconv.bias'] = (256,)
    conv('roi_heads.mask_head.predictor', CLASSES, 256, 1, norm=False)
    return found


def _compute(case: str) -> dict[str, np.ndarray]:
    import torch
    from torch.nn import functional as F  # noqa: N812
    from torchvision.ops import roi_align

    maps, depth = CASES[case]
    weights = {name: torch.from_numpy(value).double() for name, value in state(case).items()}

    def conv(x, name, stride=1, dilation=1, relu=False):
        kernel = weights[f'{name}.weight']
        x = F.conv2d(x, kernel, weights.get(f'{name}.bias'), stride, dilation * (kernel.shape[2] // 2), dilation,
                     x.shape[1] // kernel.shape[1])
        if f'{name}.norm.weight' in weights:
            scale, shift, mean, variance = (weights[f'{name}.norm.{field}'] for field in (
                'weight', 'bias', 'running_mean', 'running_var'))
            x = F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)
        return F.relu(x) if relu else x

    def stage(x, prefix, stride, dilation=1):
        block = 0
        while f'{prefix}.{block}.conv1.weight' in weights:
            name, first = f'{prefix}.{block}', stride if block == 0 else 1
            outer, inner = (1, first) if depth == 101 else (first, 1)
            shortcut = conv(x, f'{name}.shortcut', first) if block == 0 else x
            out = conv(x, f'{name}.conv1', outer, relu=True)
            out = conv(out, f'{name}.conv2', inner, dilation, relu=True)
            x = F.relu(conv(out, f'{name}.conv3') + shortcut)
            block += 1
        return x

    deviation = torch.tensor([57.375, 57.12, 58.395] if depth == 101 else [1., 1., 1.]).double()
    mean = torch.tensor([103.53, 116.28, 123.675]).double()
    x = (torch.from_numpy(IMAGE[..., ::-1].copy()).double() - mean) / deviation
    trunk = 'backbone.bottom_up.' if maps == 'fpn' else 'backbone.'
    x = conv(x.permute(2, 0, 1)[None], f'{trunk}stem.conv1', 2, relu=True)
    x = F.max_pool2d(x, 3, 2, 1)
    res = []
    for index in range(4 if maps != 'c4' else 3):
        dilated = maps == 'dc5' and index == 3
        x = stage(x, f'{trunk}res{index + 2}', 1 if index == 0 or dilated else 2, 2 if dilated else 1)
        res.append(x)
    if maps == 'fpn':
        merged = [conv(res[3], 'backbone.fpn_lateral5')]
        for index in (2, 1, 0):
            merged.insert(0, conv(res[index], f'backbone.fpn_lateral{index + 2}')
                          + F.interpolate(merged[0], scale_factor=2., mode='nearest'))
        features = [conv(m, f'backbone.fpn_output{index + 2}') for index, m in enumerate(merged)]
        features.append(F.max_pool2d(features[-1], 1, 2, 0))
    else:
        features = [x]
    head = 'proposal_generator.rpn_head'
    hidden = [conv(f, f'{head}.conv', relu=True) for f in features]
    found = {f'feature_{k}': f for k, f in enumerate(features)}
    # One number for each anchor in the order row, column, anchor; four for its deltas.
    found['logits'] = torch.cat([conv(h, f'{head}.objectness_logits').permute(0, 2, 3, 1).reshape(-1) for h in hidden])
    found['deltas'] = torch.cat([conv(h, f'{head}.anchor_deltas').permute(0, 2, 3, 1).reshape(-1, 4) for h in hidden])

    rois = torch.from_numpy(ROIS).double()

    def pooled(size):
        if maps == 'fpn':                                    # the RoIs' sides are from 51 to 78 px: all go to P2
            return roi_align(features[0], [rois], size, 1 / 4, 0, True)
        return roi_align(features[0], [rois], size, 1 / 16, 0, True)

    def dense(x, name):
        return F.linear(x, weights[f'{name}.weight'], weights[f'{name}.bias'])

    if maps == 'c4':
        shared = stage(pooled(14), 'roi_heads.res5', 2)
        read, masks = shared.mean(dim=[2, 3]), shared
    else:
        read = F.relu(dense(pooled(7).flatten(1), 'roi_heads.box_head.fc1'))
        read, masks = F.relu(dense(read, 'roi_heads.box_head.fc2')), pooled(14)
        for index in range(1, 5):
            masks = conv(masks, f'roi_heads.mask_head.mask_fcn{index}', relu=True)
    found['classes'] = dense(read, 'roi_heads.box_predictor.cls_score')          # background last
    found['boxes'] = dense(read, 'roi_heads.box_predictor.bbox_pred').reshape(len(rois), CLASSES, 4)
    masks = F.relu(F.conv_transpose2d(masks, weights['roi_heads.mask_head.deconv.weight'],
                                      weights['roi_heads.mask_head.deconv.bias'], 2))
    found['masks'] = conv(masks, 'roi_heads.mask_head.predictor')
    found = {name: value.numpy() for name, value in found.items()}
    for name in [name for name in found if name.startswith('feature')]:
        found[name] = found[name][:, ::16]                   # one channel of sixteen
    found['masks'] = found['masks'][:1]
    return {f'{case}/{name}': value.astype(np.float32) for name, value in found.items()}


if __name__ == '__main__':
    np.savez_compressed(PATH, **{name: value for case in CASES for name, value in _compute(case).items()})
    print(PATH, PATH.stat().st_size)

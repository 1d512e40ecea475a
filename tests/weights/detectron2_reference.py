"""Expected outputs of Detectron2's architectures, in plain PyTorch, with weights from a seeded random number generator.

`python tests/weights/detectron2_reference.py` writes detectron2_reference.npz beside this file. It needs torch and
torchvision, and nothing of this project. Strides, dilations, names of weights and the position of the background
follow Detectron2's modeling/backbone/resnet.py and fpn.py, modeling/roi_heads and modeling/proposal_generator/rpn.py.
Boxes are x1, y1, x2, y2; feature maps are [N, C, H, W].
"""
from __future__ import annotations

import itertools
import pathlib
import zlib

import numpy as np

PATH = pathlib.Path(__file__).with_name('detectron2_reference.npz')
CLASSES, WIDTH = 3, 16                                       # of the box head's hidden layers
# Feature maps, depth, and suffixes of the names of the box heads: several in a cascade, with class-agnostic boxes.
CASES = {'c4': ('c4', 50, ['']), 'dc5': ('dc5', 50, ['']), 'x101': ('fpn', 101, ['']),
         'cascade': ('fpn', 50, ['.0', '.1', '.2'])}
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


def _shapes(maps: str, depth: int, heads: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int, norm: bool = True) -> None:
        shapes[f'{name}.weight'] = (outputs, inputs, kernel, kernel)
        if norm:
            shapes.update({f'{name}.norm.{field}': (outputs,) for field in (
                'weight', 'bias', 'running_mean', 'running_var')})
        else:
            shapes[f'{name}.bias'] = (outputs,)

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
        shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (outputs, inputs), (outputs,)

    bottom_up = 'backbone.bottom_up.' if maps == 'fpn' else 'backbone.'
    conv(f'{bottom_up}stem.conv1', 64, 3, 7)
    for index, blocks in enumerate((3, 4, 23 if depth == 101 else 6, 3)):
        stage('roi_heads.res5' if maps == 'c4' and index == 3 else f'{bottom_up}res{index + 2}', index, blocks)
    channels = {'fpn': 256, 'c4': 1024, 'dc5': 2048}[maps]
    for level in range(2, 6) if maps == 'fpn' else ():
        conv(f'backbone.fpn_lateral{level}', 256, 64 * 2 ** level, 1, norm=False)
        conv(f'backbone.fpn_output{level}', 256, 256, 3, norm=False)
    anchors = 3 if maps == 'fpn' else 15
    conv('proposal_generator.rpn_head.conv', channels, channels, 3, norm=False)
    conv('proposal_generator.rpn_head.objectness_logits', anchors, channels, 1, norm=False)
    conv('proposal_generator.rpn_head.anchor_deltas', 4 * anchors, channels, 1, norm=False)
    if maps != 'c4':
        for head in heads:
            dense(f'roi_heads.box_head{head}.fc1', WIDTH, 49 * channels)
            dense(f'roi_heads.box_head{head}.fc2', WIDTH, WIDTH)
        for index in range(1, 5):
            conv(f'roi_heads.mask_head.mask_fcn{index}', 256, channels if index == 1 else 256, 3, norm=False)
    read = 2048 if maps == 'c4' else WIDTH
    for head in heads:
        dense(f'roi_heads.box_predictor{head}.cls_score', CLASSES + 1, read)
        dense(f'roi_heads.box_predictor{head}.bbox_pred', 4 * CLASSES if head == '' else 4, read)
    shapes['roi_heads.mask_head.deconv.weight'] = (2048 if maps == 'c4' else 256, 256, 2, 2)
    shapes['roi_heads.mask_head.deconv.bias'] = (256,)
    conv('roi_heads.mask_head.predictor', CLASSES, 256, 1, norm=False)
    return shapes


class _Network:
    """The layers of a case in torch, float64, with the weights of `state`."""

    def __init__(self, case: str) -> None:
        import torch
        from torch.nn import functional

        self.torch, self.functional = torch, functional
        self.maps, self.depth, self.box_heads = CASES[case]
        self.weights = {name: torch.from_numpy(value).double() for name, value in state(case).items()}

    def conv(self, x, name, stride=1, dilation=1, relu=False):
        kernel = self.weights[f'{name}.weight']
        x = self.functional.conv2d(x, kernel, self.weights.get(f'{name}.bias'), stride,
                                   dilation * (kernel.shape[2] // 2), dilation, x.shape[1] // kernel.shape[1])
        if f'{name}.norm.weight' in self.weights:
            scale, shift, mean, variance = (self.weights[f'{name}.norm.{field}'] for field in (
                'weight', 'bias', 'running_mean', 'running_var'))
            x = self.functional.batch_norm(x, mean, variance, scale, shift, eps=1e-5)
        return self.functional.relu(x) if relu else x

    def dense(self, x, name):
        return self.functional.linear(x, self.weights[f'{name}.weight'], self.weights[f'{name}.bias'])

    def stage(self, x, prefix, stride, dilation=1):
        block = 0
        while f'{prefix}.{block}.conv1.weight' in self.weights:
            name, first = f'{prefix}.{block}', stride if block == 0 else 1
            outer, inner = (1, first) if self.depth == 101 else (first, 1)
            shortcut = self.conv(x, f'{name}.shortcut', first) if block == 0 else x
            out = self.conv(x, f'{name}.conv1', outer, relu=True)
            out = self.conv(out, f'{name}.conv2', inner, dilation, relu=True)
            x = self.functional.relu(self.conv(out, f'{name}.conv3') + shortcut)
            block += 1
        return x

    def image(self):
        """Return the image, BGR and normalized: [1, 3, H, W]."""
        deviation = self.torch.tensor([57.375, 57.12, 58.395] if self.depth == 101 else [1., 1., 1.]).double()
        mean = self.torch.tensor([103.53, 116.28, 123.675]).double()
        return ((self.torch.from_numpy(IMAGE[..., ::-1].copy()).double() - mean) / deviation).permute(2, 0, 1)[None]

    def bottom_up(self, x):
        """Return the feature maps of res2 to res5; to res4 with C4, where the heads apply res5."""
        prefix = 'backbone.bottom_up.' if self.maps == 'fpn' else 'backbone.'
        x = self.functional.max_pool2d(self.conv(x, f'{prefix}stem.conv1', 2, relu=True), 3, 2, 1)
        features = []
        for index in range(4 if self.maps != 'c4' else 3):
            dilated = self.maps == 'dc5' and index == 3
            x = self.stage(x, f'{prefix}res{index + 2}', 1 if index == 0 or dilated else 2, 2 if dilated else 1)
            features.append(x)
        return features

    def features(self):
        res = self.bottom_up(self.image())
        if self.maps != 'fpn':
            return res[-1:]
        merged = [self.conv(res[3], 'backbone.fpn_lateral5')]
        for index in (2, 1, 0):
            merged.insert(0, self.conv(res[index], f'backbone.fpn_lateral{index + 2}')
                          + self.functional.interpolate(merged[0], scale_factor=2., mode='nearest'))
        pyramid = [self.conv(m, f'backbone.fpn_output{index + 2}') for index, m in enumerate(merged)]
        return [*pyramid, self.functional.max_pool2d(pyramid[-1], 1, 2, 0)]

    def proposals(self, features):
        """Return a logit and four deltas per anchor, ordered by row, column, anchor."""
        head = 'proposal_generator.rpn_head'
        hidden = [self.conv(f, f'{head}.conv', relu=True) for f in features]
        logits, deltas = ([self.conv(h, f'{head}.{name}').permute(0, 2, 3, 1) for h in hidden]
                          for name in ('objectness_logits', 'anchor_deltas'))
        return {'logits': self.torch.cat([x.reshape(-1) for x in logits]),
                'deltas': self.torch.cat([x.reshape(-1, 4) for x in deltas])}

    def pooled(self, features, size):
        from torchvision.ops import roi_align

        # With FPN, all RoIs are pooled from P2: their sides are 51 to 78 px.
        scale = 1 / 4 if self.maps == 'fpn' else 1 / 16
        return roi_align(features[0], [self.torch.from_numpy(ROIS).double()], size, scale, 0, True)

    def heads(self, features):
        """Return classes, background last, and boxes of the RoIs, head by head, and the masks of the first RoI."""
        if self.maps == 'c4':
            masks = self.stage(self.pooled(features, 14), 'roi_heads.res5', 2)
            read = {'': masks.mean(dim=[2, 3])}
        else:
            read = {head: self.pooled(features, 7).flatten(1) for head in self.box_heads}
            for head, index in itertools.product(read, (1, 2)):
                read[head] = self.functional.relu(self.dense(read[head], f'roi_heads.box_head{head}.fc{index}'))
            masks = self.pooled(features, 14)
            for index in range(1, 5):
                masks = self.conv(masks, f'roi_heads.mask_head.mask_fcn{index}', relu=True)
        deconv = (self.weights[f'roi_heads.mask_head.deconv.{field}'] for field in ('weight', 'bias'))
        masks = self.functional.relu(self.functional.conv_transpose2d(masks, *deconv, 2))
        classes, boxes = (self.torch.cat([self.dense(read[head], f'roi_heads.box_predictor{head}.{layer}')
                                          for head in read]) for layer in ('cls_score', 'bbox_pred'))
        return {'classes': classes, 'boxes': boxes.reshape(len(classes), -1, 4),
                'masks': self.conv(masks, 'roi_heads.mask_head.predictor')[:1]}


def _compute(case: str) -> dict[str, np.ndarray]:
    network = _Network(case)
    features = network.features()
    outputs = {f'feature_{k}': f[:, ::16] for k, f in enumerate(features)}                # one channel of sixteen
    outputs.update(**network.proposals(features), **network.heads(features))
    return {f'{case}/{name}': value.numpy().astype(np.float32) for name, value in outputs.items()}


if __name__ == '__main__':
    np.savez_compressed(PATH, **{name: value for case in CASES for name, value in _compute(case).items()})
    print(PATH, PATH.stat().st_size)

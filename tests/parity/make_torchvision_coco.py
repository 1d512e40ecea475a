"""Detections of torchvision's Mask R-CNN on the COCO images of ../shared/data, stored for `test_torchvision_coco.py`.

    pip install torch==2.14.1 torchvision==0.29.1 pillow
    python -m tests.parity.make_torchvision_coco OUTPUT.npz

From the file to the detection at torchvision's own settings (800 / 1333), with the weights of ../shared/parity. It runs
where torch is installed and imports nothing of this project. Then each image is run again with noise of `NOISE` grey
levels on every pixel: a detection that moves then (`stable` False) depends on the last bits of float32.

The file holds, of all images one after another: `names`, `sizes` (height, width), `counts` (detections of each image),
`boxes` float32 [D, 4] x1, y1, x2, y2 in px of the file, `scores` float32, `labels` uint8, `stable` bool; and of each
image `checked` bool: it was run twice. Masks are left out: the kit compares them, and they take a third of the time.
"""
from __future__ import annotations

import importlib.util
import pathlib
import sys
import time

import numpy as np
import torch
import torchvision
from PIL import Image

SHARED = pathlib.Path(__file__).resolve().parents[3] / 'shared'
NOISE = 5e-4                     # grey levels, uniform: what two bilinear resizes in float32 may differ by
BOX, SCORE = 2e-2, 2e-4          # px and score by which a stable detection may move


def build() -> torch.nn.Module:
    """Return torchvision's model with the weights of the kit, ready for inference."""
    spec = importlib.util.spec_from_file_location('kit_weights', SHARED / 'parity' / 'weights.py')
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    state = {name: torch.from_numpy(np.array(value)) for name, value in
             kit.state_dict('maskrcnn_resnet50_fpn').items()}
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    lacking = model.load_state_dict(state, strict=False)
    assert not lacking.unexpected_keys and all(key.endswith('num_batches_tracked') for key in lacking.missing_keys)
    model.roi_heads.mask_predictor = None            # no masks
    model.roi_heads.mask_roi_pool = None
    return model.eval().to(memory_format=torch.channels_last)


def detect(model: torch.nn.Module, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the detections of one image, float32 [h, w, 3] of 0..255."""
    with torch.inference_mode():
        (found,) = model([torch.from_numpy(image / np.float32(255)).permute(2, 0, 1).contiguous()])
    return {'boxes': found['boxes'].numpy(), 'scores': found['scores'].numpy(),
            'labels': found['labels'].numpy().astype(np.uint8)}


def stable(found: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> np.ndarray:
    """Return which detections the second run has too: bool [D]."""
    apart = np.abs(found['boxes'][:, None] - other['boxes'][None]).max(-1, initial=0.)
    scores = np.abs(found['scores'][:, None] - other['scores'][None])
    same = found['labels'][:, None] == other['labels'][None]
    return (same & (apart <= BOX) & (scores <= SCORE)).any(1)


def main(output: str) -> None:
    """Write the detections of all images, then which of them are stable; save after each image, so that a run that was
    stopped goes on where it was."""
    model, random = build(), np.random.default_rng(0)
    folder = SHARED / 'data' / 'coco_permissive'
    paths = sorted(folder.glob('*2017/*.jpg'), key=lambda path: (path.stem, path))
    names = [path.relative_to(folder).as_posix() for path in paths]
    results = load(output) if pathlib.Path(output).exists() else []
    for second in (False, True):
        for i, path in enumerate(paths):
            if i < len(results) and (not second or results[i]['checked'].all()):
                continue
            start = time.time()
            image = np.asarray(Image.open(path).convert('RGB'), np.float32)
            if second:
                noise = random.uniform(-NOISE, NOISE, image.shape).astype(np.float32)
                results[i].update(stable=stable(results[i], detect(model, image + noise)), checked=np.array([True]))
            else:
                found = detect(model, image)
                results.append({**found, 'stable': np.ones(len(found['boxes']), bool), 'checked': np.array([False]),
                                'sizes': np.array([image.shape[:2]], np.int32),
                                'counts': np.array([len(found['boxes'])], np.int32)})
            np.savez_compressed(output, names=np.array(names[:len(results)]),
                                **{key: np.concatenate([each[key] for each in results]) for key in results[0]})
            print(f'{names[i]}: {len(results[i]["boxes"])} detections, {results[i]["stable"].sum()} stable, '
                  f'{time.time() - start:.1f} s', flush=True)


def load(path: str) -> list[dict[str, np.ndarray]]:
    """Return what an earlier run stored, one dict for each image."""
    with np.load(path) as stored:
        arrays = dict(stored)
    ends = np.cumsum(arrays['counts'])
    return [{**{key: arrays[key][end - count:end] for key in ('boxes', 'scores', 'labels', 'stable')},
             **{key: arrays[key][i:i + 1] for key in ('checked', 'sizes', 'counts')}}
            for i, (count, end) in enumerate(zip(arrays['counts'], ends, strict=True))]


if __name__ == '__main__':
    main(sys.argv[1])

"""Detections of torchvision's Mask R-CNN on the COCO images of ../shared/data, stored for `test_torchvision_coco.py`.

    pip install torch==2.14.1 torchvision==0.29.1 pillow
    python -m tests.parity.make_torchvision_coco OUTPUT.npz [PART_OF_A_NAME ...]

From the file to the detection at torchvision's own settings (800 / 1333), with the weights of ../shared/parity. It runs
where torch is installed and imports nothing of this project. Images whose names contain one of the parts given are run
again in float64, and with pixels a millionth apart: a detection that moves in one of these runs (`stable` False)
depends on the last bits of float32 in torchvision itself. Its proposal ties with another for the last place, or is so
flat at the edge that a sample of torchvision's RoIAlign lies on the edge itself, beyond which it counts as zero.

The file holds, of all images one after another: `names`, `sizes` (height, width), `counts` (detections of each image),
`boxes` float32 [D, 4] x1, y1, x2, y2 in px of the file, `scores` float32, `labels` uint8, `stable` bool; and of each
image `checked` bool: it was run again. Masks are left out: the kit compares them, and they take a third of
the time.
"""
from __future__ import annotations

import importlib.util
import pathlib
import sys

import numpy as np
import torch
import torchvision
from PIL import Image

from tests.paths import SHARED

BOX, SCORE = 2e-2, 2e-4          # px and score by which a stable detection may move
NOISE, SEEDS = 1e-6, range(4)    # of the pixels, relative: moves a proposal as much as float32's rounding does


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
    """Return the detections of one image, float32 [h, w, 3] of 0..255, in the precision of the model."""
    pixels = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1).contiguous()
    with torch.inference_mode():
        (found,) = model([pixels.to(next(model.parameters()).dtype)])
    return {'boxes': found['boxes'].numpy().astype(np.float32), 'scores': found['scores'].numpy().astype(np.float32),
            'labels': found['labels'].numpy().astype(np.uint8)}


def stable(found: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> np.ndarray:
    """Return which detections the second run has too: bool [D]."""
    apart = np.abs(found['boxes'][:, None] - other['boxes'][None]).max(-1, initial=0.)
    scores = np.abs(found['scores'][:, None] - other['scores'][None])
    same = found['labels'][:, None] == other['labels'][None]
    return (same & (apart <= BOX) & (scores <= SCORE)).any(1)


def main(output: str, again: list[str]) -> None:
    """Write the detections of all images, then which of those of the images named are stable.

    Saves after each image, so that a run that was stopped resumes.
    """
    model = build()
    folder = SHARED / 'data' / 'coco_permissive'
    paths = sorted(folder.glob('*2017/*.jpg'), key=lambda path: (path.stem, path))
    names = [path.relative_to(folder).as_posix() for path in paths]
    results = load(output) if pathlib.Path(output).exists() else []
    for i, path in enumerate(paths[len(results):], len(results)):
        image = read(path)
        found = detect(model, image)
        results.append({**found, 'stable': np.ones(len(found['boxes']), bool), 'checked': np.array([False]),
                        'sizes': np.array([image.shape[:2]], np.int32),
                        'counts': np.array([len(found['boxes'])], np.int32)})
        save(output, names, results)
        print(f'{names[i]}: {len(found["boxes"])} detections', flush=True)
    exact = build().double()
    for i, path in enumerate(paths):
        if any(part in names[i] for part in again):
            image = read(path)
            others = [detect(exact, image), *(detect(model, disturbed(image, seed)) for seed in SEEDS)]
            results[i].update(stable=np.all([stable(results[i], each) for each in others], axis=0),
                              checked=np.array([True]))
            save(output, names, results)
            print(f'{names[i]}: {results[i]["stable"].sum()} of {len(results[i]["boxes"])} stable', flush=True)


def disturbed(image: np.ndarray, seed: int) -> np.ndarray:
    """Return an image whose pixels differ by NOISE of their value, float32 [h, w, 3]."""
    noise = np.random.default_rng(seed).standard_normal(image.shape)
    return (image * (1 + NOISE * noise)).astype(np.float32)


def read(path: pathlib.Path) -> np.ndarray:
    """Return the pixels of an image, float32 [h, w, 3] of 0..255."""
    return np.asarray(Image.open(path).convert('RGB'), np.float32)


def save(output: str, names: list[str], results: list[dict[str, np.ndarray]]) -> None:
    """Write the results of the images so far."""
    np.savez_compressed(output, names=np.array(names[:len(results)]),
                        **{key: np.concatenate([each[key] for each in results]) for key in results[0]})


def load(path: str) -> list[dict[str, np.ndarray]]:
    """Return what an earlier run stored, one dict for each image."""
    with np.load(path) as stored:
        arrays = dict(stored)
    ends = np.cumsum(arrays['counts'])
    return [{**{key: arrays[key][end - count:end] for key in ('boxes', 'scores', 'labels', 'stable')},
             **{key: arrays[key][i:i + 1] for key in ('checked', 'sizes', 'counts')}}
            for i, (count, end) in enumerate(zip(arrays['counts'], ends, strict=True))]


if __name__ == '__main__':
    main(sys.argv[1], sys.argv[2:])

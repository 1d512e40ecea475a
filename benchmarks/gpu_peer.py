r"""Times torchvision's Mask R-CNN R50-FPN on a GPU: the work of the programs that `xla_report.py --program` writes.

    python -m benchmarks.xla_report train train.precision=mixed_bfloat16 --config torchvision_mask_rcnn_r50_fpn \
        --program step.pb
    python -m benchmarks.run_hlo step.pb --device cuda
    python -m benchmarks.gpu_peer train --peers ../shared/bench --batch 2 --size 832 1344

Needs PyTorch, torchvision and the folder of peers. Its `torchvision_step.py` builds the model and moves thresholds, so
that random weights leave as much work as a trained model's. Prints one JSON line: the median and the minimum of the
milliseconds of the losses and their gradient (train; `step_ms` with the update by SGD) or of the detections with masks
of 28 x 28 (infer), and the peak of PyTorch's memory. float32 may use TF32, as XLA does by default. Images and objects
are on the GPU beforehand.
"""
from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def detection(model: Any, images: list[Any], autocast: Any) -> Callable[[], None]:
    """Return a function that detects objects, with as many candidates before NMS as a trained model has."""
    torch, kept = importlib.import_module('torch'), []
    model.eval()
    model.transform.postprocess = lambda result, *_: result
    hook = model.roi_heads.box_predictor.register_forward_hook(
        lambda _, x, y: kept.append(y[0].float().softmax(1)[:, 1:]))

    def detect() -> None:
        with torch.inference_mode(), autocast:
            model(images)

    model.roi_heads.score_thresh = 2.
    detect()
    hook.remove()
    model.roi_heads.score_thresh = kept[0].flatten().topk(1000 * len(images)).values[-1].item()
    return detect


def training(model: Any, images: list[Any], targets: list[Any], autocast: Any
             ) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a function that computes the gradient of the losses, and one that updates the weights too."""
    torch = importlib.import_module('torch')
    model.train()
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=.9, weight_decay=1e-4)

    def gradient() -> None:
        with autocast:
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()

    def step() -> None:
        gradient()
        optimizer.step()

    return gradient, step


def milliseconds(run: Callable[[], None], wait: Callable[[], None], repetitions: int) -> list[float]:
    """Return the times of runs until the GPU has finished, after five that do not count."""
    times = []
    for _ in range(repetitions + 5):
        begun = time.perf_counter()
        run()
        wait()
        times.append(1e3 * (time.perf_counter() - begun))
    return times[5:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['train', 'infer'])
    parser.add_argument('--peers', type=pathlib.Path, required=True, metavar='FOLDER')
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='bfloat16')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, nargs=2, default=[832, 1344])
    parser.add_argument('--repetitions', type=int, default=20)
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--device', default='cuda')
    given = parser.parse_args()
    sys.path.insert(0, str(given.peers))
    torch, peer, bench = (importlib.import_module(name) for name in ('torch', 'torchvision_step', '_bench'))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model, more = peer.build(*given.size).to(given.device), {}
    model.roi_heads.mask_head.register_forward_pre_hook(lambda _, inputs: more.update(mask_rois=len(inputs[0])))
    if given.channels_last:
        model = model.to(memory_format=torch.channels_last)
    images = [torch.rand(3, *given.size, device=given.device) for _ in range(given.batch)]
    autocast = torch.autocast(given.device, dtype=torch.bfloat16, enabled=given.precision == 'bfloat16')
    wait = torch.cuda.synchronize if given.device == 'cuda' else lambda: None
    if given.what == 'infer':
        times = milliseconds(detection(model, images, autocast), wait, given.repetitions)
    else:
        objects = [torch.from_numpy(each).to(given.device) for each in bench.ground_truth(*given.size)]
        targets = [dict(zip(('boxes', 'labels', 'masks'), objects, strict=True))] * given.batch
        gradient, step = training(model, images, targets, autocast)
        times = milliseconds(gradient, wait, given.repetitions)
        more['step_ms'] = round(statistics.median(milliseconds(step, wait, given.repetitions)), 2)
    if given.device == 'cuda':
        more |= {'device': torch.cuda.get_device_name(), 'peak_bytes': torch.cuda.max_memory_allocated()}
    print(json.dumps({
        'peer': 'torchvision', 'version': importlib.import_module('torchvision').__version__,
        'torch': torch.__version__, 'what': given.what, 'precision': given.precision, 'batch': given.batch,
        'size': given.size, 'channels_last': given.channels_last, 'repetitions': len(times),
        'median_ms': round(statistics.median(times), 2), 'minimum_ms': round(min(times), 2), **more}))


if __name__ == '__main__':
    main()

r"""Times torchvision's Mask R-CNN R50-FPN on a GPU: the work of the programs that `xla_report.py --program` writes.

    python benchmarks/xla_report.py train train.precision=mixed_bfloat16 --config torchvision_mask_rcnn_r50_fpn \
        --program step.pb
    python benchmarks/run_hlo.py step.pb --device cuda
    python benchmarks/gpu_peer.py train --peers ../shared/bench --batch 2 --size 832 1344

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['train', 'infer'])
    parser.add_argument('--peers', type=pathlib.Path, required=True, metavar='FOLDER')
    parser.add_argument('--precision', choices=['float32', 'bfloat16'], default='bfloat16')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, nargs=2, default=[832, 1344])
    parser.add_argument('--repetitions', type=int, default=20)
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--compile', action='store_true', help='torch.compile the backbone and the heads')
    parser.add_argument('--device', default='cuda')
    given = parser.parse_args()
    sys.path.insert(0, str(given.peers))
    torch, peer, bench = (importlib.import_module(name) for name in ('torch', 'torchvision_step', '_bench'))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = peer.build(*given.size).to(given.device)
    roi, counts = model.roi_heads, {}
    roi.mask_head.register_forward_pre_hook(lambda _, inputs: counts.update(mask_rois=len(inputs[0])))
    if given.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if given.compile:
        model.backbone, model.rpn.head = torch.compile(model.backbone), torch.compile(model.rpn.head)
        roi.box_head, roi.mask_head = torch.compile(roi.box_head), torch.compile(roi.mask_head, dynamic=True)
    images = [torch.rand(3, *given.size, device=given.device) for _ in range(given.batch)]
    autocast = torch.autocast(given.device, dtype=torch.bfloat16, enabled=given.precision == 'bfloat16')

    def measured(run: Callable[[], Any]) -> list[float]:
        times = []
        for number in range(given.repetitions + 5):
            begun = time.perf_counter()
            run()
            if given.device == 'cuda':
                torch.cuda.synchronize()
            if number >= 5:
                times.append(1e3 * (time.perf_counter() - begun))
        return times

    if given.what == 'infer':
        model.eval()
        model.transform.postprocess = lambda result, *_: result
        kept: list[Any] = []
        hook = roi.box_predictor.register_forward_hook(lambda _, x, y: kept.append(y[0].float().softmax(1)[:, 1:]))
        with torch.inference_mode(), autocast:
            roi.score_thresh = 2.
            model(images)
            hook.remove()
            roi.score_thresh = kept[0].flatten().topk(1000 * given.batch).values[-1].item()
            times = measured(lambda: model(images))
        more: dict[str, Any] = {}
    else:
        model.train()
        parameters = [each for each in model.parameters() if each.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=.9, weight_decay=1e-4)
        objects = [torch.from_numpy(each).to(given.device) for each in bench.ground_truth(*given.size)]
        targets = [dict(zip(('boxes', 'labels', 'masks'), objects, strict=True))] * given.batch

        def gradient() -> None:
            with autocast:
                loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()

        def step() -> None:
            gradient()
            optimizer.step()

        times = measured(gradient)
        more = {'step_ms': round(statistics.median(measured(step)), 2)}
    if given.device == 'cuda':
        more |= {'device': torch.cuda.get_device_name(), 'peak_bytes': torch.cuda.max_memory_allocated()}
    print(json.dumps({
        'peer': 'torchvision', 'version': importlib.import_module('torchvision').__version__,
        'torch': torch.__version__,
        'what': given.what, 'precision': given.precision, 'batch': given.batch, 'size': given.size,
        'channels_last': given.channels_last, 'compile': given.compile, 'repetitions': len(times),
        'median_ms': round(statistics.median(times), 2), 'minimum_ms': round(min(times), 2), **more, **counts}))


if __name__ == '__main__':
    main()

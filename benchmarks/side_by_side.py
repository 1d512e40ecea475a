"""Runs our detector and its peers in turn on the same work, and prints how much faster or slower ours is.

    python -m benchmarks.side_by_side inference --torch torch/bin/python
    python -m benchmarks.side_by_side train --torch torch/bin/python --garden garden/bin/python --precision bfloat16
    python -m benchmarks.side_by_side files photos --torch torch/bin/python
    python -m benchmarks.side_by_side input instances.json photos --torch torch/bin/python

A shared machine drifts from minute to minute, so only ratios within a round count. The work is Mask R-CNN R50-FPN in
torchvision's dialect, the network that OpenVINO runs too, on one image of 800 x 1216 px: `inference` with masks of 28 x
28 cells, `pasted` with masks pasted into the image, `train` a training step with 128 positive RoIs, `files` from a
directory of image files to pasted masks, and `input` the input of training with masks at 800/1333 px, from a COCO json
and its images, ours after its conversion. Its peer makes one pass in each round, whatever --runs and --patience are.

Peers are programs in environments of their own: torchvision and OpenVINO in that of --torch, Model Garden in that of
--garden. Those that come with the project's data are found by --peers. Prints one JSON line for each run, then for each
peer the ratios of the rounds, ours divided by the peer's: of times and the largest memory, or of images/s of `input`.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

OURS = [sys.executable, '-m', 'mrcnn_tf.cli.main', 'benchmark']
CONFIG = 'torchvision_mask_rcnn_r50_fpn'
SHORT = {'float32': 'fp32', 'bfloat16': 'bf16'}
POLICY = {'float32': 'float32', 'bfloat16': 'mixed_bfloat16'}


def commands(given: argparse.Namespace, scratch: str) -> dict[str, list[str]]:
    """Return the command of each program by its name; ours is the first. `scratch` is an empty directory."""
    if given.what == 'input':
        return input_commands(given, scratch)
    runs, own = ['--runs', str(given.runs)], str(pathlib.Path(__file__).with_name('peer_inference.py'))
    patience = ['--patience', str(given.patience)]
    here = pathlib.Path(given.peers)
    if given.what == 'train':
        # Random weights propose few positive RoIs, so the objects themselves are those that the peers train masks of.
        found = {'ours': [*OURS, 'train', CONFIG, 'data.batch_size=1', f'train.precision={POLICY[given.precision]}',
                          '--objects', '128', *runs, *patience]}
        if given.torch:
            found['torchvision'] = [given.torch, str(here / 'torchvision_step.py'), 'train', SHORT[given.precision],
                                    '--channels-last', *runs]
        if given.garden:
            found['Model Garden'] = [given.garden, str(here / 'garden_step.py'), 'train', SHORT[given.precision],
                                     'plain', '--box-head', '2fc', *runs]
        return found
    files = ['--images', *given.files] if given.what == 'files' else []
    masks = ['--masks', 'cells' if given.what == 'inference' else 'pasted']
    found = {'ours': [*OURS, 'inference', CONFIG, '--precision', given.precision, *files, *masks, *runs, *patience]}
    paste = [] if given.what == 'inference' else ['--paste']
    if given.torch:
        for engine in ('torchvision', 'openvino'):
            found[engine] = [given.torch, own, engine, '--precision', given.precision, *files, *paste, *runs, *patience]
    if given.garden and given.what == 'inference':
        found['Model Garden'] = [given.garden, str(here / 'garden_step.py'), 'infer', SHORT[given.precision], 'plain',
                                 '--box-head', '2fc', *runs]
    return found


def input_commands(given: argparse.Namespace, scratch: str) -> dict[str, list[str]]:
    """Return the commands of `input`, after converting the set into `scratch`."""
    annotations, images = given.files
    subprocess.run([*OURS[:-1], 'convert', 'coco', '--annotations', annotations, '--images', images, '--name', 'train',
                    '--output', scratch], check=True, stdout=subprocess.DEVNULL)
    count = ['--images', '200']
    found = {'ours': [*OURS, 'input', CONFIG, f'data.train={scratch}/train.json',
                      'data.batch_size=16', *count, '--runs', str(given.runs), '--patience', str(given.patience)]}
    if given.torch:
        found['torchvision'] = [given.torch, str(pathlib.Path(given.peers) / 'torchvision_input.py'),
                                f'{annotations}:{images}', *count]
    return found


def run(command: list[str], patience: float) -> dict[str, Any]:
    """Return the last JSON line with a median or images/s that a command prints."""
    done = subprocess.run(command, text=True, capture_output=True, env={
        **os.environ, 'BENCH_PATIENCE': str(patience), 'TF_CPP_MIN_LOG_LEVEL': '3'})
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    if done.returncode or not (found := [line for line in lines if {'median_s', 'images_per_s'} & set(line)]):
        raise SystemExit(f'{" ".join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}')
    return found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['inference', 'pasted', 'files', 'train', 'input'])
    parser.add_argument('files', nargs='*', help='for `files`: a directory; for `input`: a COCO json and its directory')
    parser.add_argument('--torch', help='Python with torch, torchvision, openvino and psutil')
    parser.add_argument('--garden', help='Python with tf-models-official')
    parser.add_argument('--peers', default=str(pathlib.Path(__file__).parents[2] / 'shared/bench'))
    parser.add_argument('--precision', choices=list(SHORT), default='float32')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--patience', type=float, default=0.)
    given = parser.parse_args()
    if len(given.files) != (expected := {'files': 1, 'input': 2}.get(given.what, 0)):
        parser.error(f'{given.what} takes {expected} files or directories, not {len(given.files)}')
    with tempfile.TemporaryDirectory() as scratch:
        compare(commands(given, scratch), given.rounds, given.patience,
                ['images_per_s'] if given.what == 'input' else ['median_s', 'peak_rss_mb'])


def compare(programs: dict[str, list[str]], rounds: int, patience: float, keys: list[str]) -> None:
    """Run all programs in each round, and print what each prints and the ratios of the values of `keys`."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in programs}
    for number in range(1, rounds + 1):
        for name, command in programs.items():
            results[name].append(run(command, patience))
            print(json.dumps({'round': number, 'program': name, **results[name][-1]}), flush=True)
    ours = results.pop('ours')
    for name, theirs in results.items():
        for key in keys:
            ratios = [mine[key] / other[key] for mine, other in zip(ours, theirs, strict=True)]
            print(json.dumps({'ratio': f'ours / {name}', 'of': key, 'median': round(statistics.median(ratios), 3),
                              'min': round(min(ratios), 3), 'max': round(max(ratios), 3)}), flush=True)


if __name__ == '__main__':
    main()

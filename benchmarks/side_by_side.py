"""Runs our detector and its peers in turn on the same work, and prints how much faster or slower ours is.

    python -m benchmarks.side_by_side inference --torch torch/bin/python
    python -m benchmarks.side_by_side train --torch torch/bin/python --garden garden/bin/python --precision bfloat16
    python -m benchmarks.side_by_side train --torch torch/bin/python --by-turns --runs 25
    python -m benchmarks.side_by_side pasted --torch torch/bin/python --by-turns --compiled
    python -m benchmarks.side_by_side files photos --torch torch/bin/python
    python -m benchmarks.side_by_side input instances.json photos --torch torch/bin/python

A shared machine drifts from minute to minute, so only ratios within a round count. With --by-turns, programs change
after each run, not after each round: every program is loaded and warmed up once, and then waits for its turn before
each of its --runs. The order alternates. `inference`, `pasted` and `train` beside torchvision and OpenVINO can do that.

The work is Mask R-CNN R50-FPN in torchvision's dialect, the network that OpenVINO runs too, on one image of 800 x 1216
px: `inference` with masks of 28 x 28 cells, `pasted` with masks pasted into the image, `train` a training step with 128
positive RoIs, `files` from a directory of image files to pasted masks, and `input` the input of training with masks at
800/1333 px, from a COCO json and its images, ours after its conversion. Its peer makes one pass in each round, whatever
--runs and --patience are.

Peers are programs in environments of their own: torchvision and OpenVINO in that of --torch, Model Garden in that of
--garden. Those that come with the project's data are found by --peers. Prints one JSON line for each run or turn, then
for each peer the ratios of the rounds or turns, ours divided by the peer's: of times and the largest memory, or of
images/s of `input`. --by-turns adds the ratios of the medians and of the fastest runs of all turns.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

HERE = pathlib.Path(__file__).parent
OURS = [sys.executable, '-m', 'mrcnn_tf.cli.main', 'benchmark']
CONFIG = 'torchvision_mask_rcnn_r50_fpn'
SHORT = {'float32': 'fp32', 'bfloat16': 'bf16'}
POLICY = {'float32': 'float32', 'bfloat16': 'mixed_bfloat16'}
ENVIRONMENT = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'}


def commands(given: argparse.Namespace, scratch: str) -> dict[str, list[str]]:
    """Return the command of each program by its name; ours is the first. `scratch` is an empty directory."""
    if given.what == 'input':
        return input_commands(given, scratch)
    runs = ['--runs', str(given.runs)]
    pace = [*runs, *(['--on-request'] if given.by_turns else ['--patience', str(given.patience)])]
    garden = str(pathlib.Path(given.peers) / 'garden_step.py')
    if given.what == 'train':
        # Random weights propose few positive RoIs, so the objects themselves are those that the peers train masks of.
        found = {'ours': [*OURS, 'train', CONFIG, 'data.batch_size=1', f'train.precision={POLICY[given.precision]}',
                          '--objects', '128', *pace]}
        if given.torch:
            found['torchvision'] = [given.torch, str(HERE / 'peer_training.py'), '--precision', given.precision, *pace]
        if given.garden:
            found['Model Garden'] = [given.garden, garden, 'train', SHORT[given.precision], 'plain', '--box-head',
                                     '2fc', *runs]
        return found
    files = ['--images', *given.files] if given.what == 'files' else []
    masks = ['--masks', 'cells' if given.what == 'inference' else 'pasted']
    found = {'ours': [*OURS, 'inference', CONFIG, '--precision', given.precision, *files, *masks, *pace]}
    paste = [] if given.what == 'inference' else ['--paste']
    if given.torch:
        for engine in ('torchvision', 'openvino', *(['compiled'] if given.compiled else [])):
            found[engine] = [given.torch, str(HERE / 'peer_inference.py'), engine, '--precision', given.precision,
                             *files, *paste, *pace]
    if given.garden and given.what == 'inference':
        found['Model Garden'] = [given.garden, garden, 'infer', SHORT[given.precision], 'plain', '--box-head', '2fc',
                                 *runs]
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
    done = subprocess.run(command, text=True, capture_output=True,
                          env={**ENVIRONMENT, 'BENCH_PATIENCE': str(patience)})
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    if done.returncode or not (found := [line for line in lines if {'median_s', 'images_per_s'} & set(line)]):
        raise failure(command, done.returncode, done.stderr)
    return found[-1]


def failure(command: list[str], code: int, errors: str) -> SystemExit:
    """Return the exception of a program that ended early: its exit code and its last messages."""
    return SystemExit(f'{" ".join(command)}: exit code {code}\n{errors[-2000:]}')


class Program:
    """A program that waits for its turn before each run; a context that ends it.

    Args:
        command: calls `measuring.measure` with `on_request`, and then prints its result.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        # A file, because nobody reads its messages while it runs: a full pipe would stop it.
        self._errors = tempfile.TemporaryFile('w+', errors='replace')    # noqa: SIM115    # __exit__ closes it
        self._process = subprocess.Popen(command, text=True, env=ENVIRONMENT, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=self._errors)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._errors, self._process:
            pass

    def run(self) -> float:
        """Let it make one run, and return the seconds of the run."""
        with contextlib.suppress(BrokenPipeError):    # of a program that has ended: `read` says why
            os.write(self._process.stdin.fileno(), b'\n')
        return self.read('seconds')['seconds']

    def result(self) -> dict[str, Any]:
        """Let it end after its last run, and return its result."""
        self._process.stdin.close()
        return self.read('median_s')

    def read(self, key: str) -> dict[str, Any]:
        """Return its next JSON line with this key."""
        for line in self._process.stdout:
            if line.startswith('{') and key in (found := json.loads(line)):
                return found
        code = self._process.wait()
        self._errors.seek(0)
        raise failure(self._command, code, self._errors.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['inference', 'pasted', 'files', 'train', 'input'])
    parser.add_argument('files', nargs='*', help='for `files`: a directory; for `input`: a COCO json and its directory')
    parser.add_argument('--torch', help='Python with torch, torchvision, openvino and psutil')
    parser.add_argument('--garden', help='Python with tf-models-official')
    parser.add_argument('--compiled', action='store_true',
                        help='of inference, pasted and files: torchvision with torch.compile too')
    parser.add_argument('--peers', default=str(pathlib.Path(__file__).parents[2] / 'shared/bench'))
    parser.add_argument('--precision', choices=list(SHORT), default='float32')
    unit = parser.add_mutually_exclusive_group()
    unit.add_argument('--rounds', type=int, default=3)
    unit.add_argument('--by-turns', action='store_true', help='load each program once, and change after each run')
    parser.add_argument('--runs', type=int, default=3, help='in each round, or the number of turns')
    parser.add_argument('--patience', type=float, default=0.)
    given = parser.parse_args()
    if len(given.files) != (expected := {'files': 1, 'input': 2}.get(given.what, 0)):
        parser.error(f'{given.what} takes {expected} files or directories, not {len(given.files)}')
    if given.compiled and (given.what in ('train', 'input') or not given.torch):
        parser.error('--compiled is for inference, pasted and files, with --torch')
    if given.by_turns and given.files:
        parser.error(f'--by-turns is for inference, pasted and train, not for {given.what}')
    if given.by_turns and given.garden:
        parser.error('--by-turns: Model Garden cannot wait; leave out --garden')
    if given.by_turns and given.patience:
        parser.error('--by-turns makes each run once; leave out --patience, which repeats runs')
    with tempfile.TemporaryDirectory() as scratch:
        if given.by_turns:
            return by_turns(commands(given, scratch), given.runs)
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
            print_ratios(name, key, [mine[key] for mine in ours], [other[key] for other in theirs])


def take_turns(programs: dict[str, list[str]], turns: int) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Load each program once, let each make one run in every turn, and print the times of each turn.

    Returns:
        By the names of the programs: the seconds of their runs, and the results that they print.
    """
    with contextlib.ExitStack() as stack:
        loaded = {}
        for name, command in programs.items():
            loaded[name] = stack.enter_context(Program(command))
            loaded[name].read('ready')    # one program warms up at a time
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for number in range(turns):
            for name in list(programs)[::-1 if number % 2 else 1]:
                seconds[name].append(loaded[name].run())
            print(json.dumps({'turn': number + 1, **{name: times[-1] for name, times in seconds.items()}}), flush=True)
        return seconds, {name: program.result() for name, program in loaded.items()}


def by_turns(programs: dict[str, list[str]], turns: int) -> None:
    """Let the programs take turns, and print their results and ratios."""
    seconds, results = take_turns(programs, turns)
    for name, result in results.items():
        print(json.dumps({'program': name, **result}), flush=True)
    ours = seconds['ours']
    for name, theirs in seconds.items():
        if name != 'ours':
            print_ratios(name, 'seconds', ours, theirs, of_fastest=round(min(ours) / min(theirs), 3),
                         of_medians=round(statistics.median(ours) / statistics.median(theirs), 3))
            print_ratios(name, 'peak_rss_mb', [results['ours']['peak_rss_mb']], [results[name]['peak_rss_mb']])


def print_ratios(name: str, key: str, ours: Sequence[float], theirs: Sequence[float], **more: float) -> None:
    """Print the ratios of a peer's values, those of one round or turn with each other."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(json.dumps({'ratio': f'ours / {name}', 'of': key, 'median': round(statistics.median(ratios), 3),
                      'min': round(min(ratios), 3), 'max': round(max(ratios), 3), **more}), flush=True)


if __name__ == '__main__':
    main()

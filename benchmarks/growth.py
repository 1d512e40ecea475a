"""How time and memory grow with the size of images, batches, proposals and objects: tables of `mrcnn benchmark`.

    python -m benchmarks.growth --runs 2 --patience 60

Prints a table for each of them: seconds, seconds divided by those of the first row, and the largest resident memory.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import NamedTuple

CONFIG = 'mask_rcnn_r50_fpn_1x'
COMMAND = [sys.executable, '-m', 'mrcnn_tf.cli.main', 'benchmark']


class Table(NamedTuple):
    """What grows, its values, and the arguments of `mrcnn benchmark` for a value."""
    title: str
    values: list[int]
    arguments: str


TABLES = [
    Table('inference: short side, px', [416, 608, 800, 1216, 1600], 'inference {config} --size {value} {value}'),
    Table('inference: images of 416 x 416 px in a batch', [1, 2, 4],
          'inference {config} --size 416 416 --batch {value}'),
    Table('inference: proposals', [100, 300, 1000, 2000],
          'inference {config} model.rpn.pre_nms_test=2000 model.rpn.post_nms_test={value} --size 608 608'),
    Table('training: objects in an image', [1, 10, 100, 300],
          'train {config} data.batch_size=1 data.max_objects=300 --objects {value} --size 416 416'),
    Table('training: images of 416 x 416 px in a batch', [1, 2, 4],
          'train {config} data.batch_size={value} --size 416 416'),
]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', default='2')
    parser.add_argument('--patience', default='0')
    given = parser.parse_args()
    for table in TABLES:
        print(f'\n| {table.title} | s | of the first row | memory, MB | others, cores |')
        print('|---|---|---|---|---|', flush=True)
        first = None
        for value in table.values:
            arguments = table.arguments.format(config=CONFIG, value=value).split()
            done = subprocess.run([*COMMAND, *arguments, '--runs', given.runs, '--patience', given.patience],
                                  text=True, capture_output=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            first = first or found['median_s']
            print(f'| {value} | {found["median_s"]:.2f} | {found["median_s"] / first:.2f} | {found["peak_rss_mb"]} | '
                  f'{found["others_cores"]} |', flush=True)


if __name__ == '__main__':
    main()

"""How time and memory grow with the size of images, batches, proposals and objects: tables of `mrcnn benchmark`.

    python -m benchmarks.growth --runs 5
    python -m benchmarks.growth --runs 5 --only batch

The values of a table take turns, since a machine's speed changes from minute to minute: all of them are in memory
together, up to 15 GB. Prints the seconds of each turn, and then the table: the median, the median of the turns' ratios
to the first value, the largest resident memory, and how many cores other programs used at most.
"""
from __future__ import annotations

import argparse
import statistics
from typing import NamedTuple

from benchmarks.side_by_side import OURS, take_turns

CONFIG = 'mask_rcnn_r50_fpn_1x'


class Table(NamedTuple):
    """What grows, its values, and the arguments of `mrcnn benchmark` for a value."""
    title: str
    values: list[int]
    arguments: str


SIDES, BATCHES = [416, 608, 800, 1216, 1600], [1, 2, 4]
TABLES = [
    Table('inference: side of a square image, px', SIDES, 'inference {config} --size {value} {value}'),
    Table('inference: images of 416 x 416 px in a batch', BATCHES,
          'inference {config} --size 416 416 --batch {value}'),
    Table('inference: proposals, 608 x 608 px', [100, 300, 1000, 2000],
          'inference {config} model.rpn.pre_nms_test=2000 model.rpn.post_nms_test={value} --size 608 608'),
    Table('training: side of a square image, px', SIDES,
          'train {config} data.batch_size=1 --size {value} {value}'),
    Table('training: images of 416 x 416 px in a batch', BATCHES,
          'train {config} data.batch_size={value} --size 416 416'),
    Table('training: objects in an image of 416 x 416 px', [1, 10, 100, 300],
          'train {config} data.batch_size=1 data.max_objects=300 --objects {value} --size 416 416'),
]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=3)
    parser.add_argument('--only', default='', help='part of the title of the tables to print')
    given = parser.parse_args()
    tables = [table for table in TABLES if given.only in table.title]
    if not tables:
        parser.error(f'--only {given.only}: no title has this part; the titles are: '
                     f'{"; ".join(table.title for table in TABLES)}')
    for table in tables:
        programs = {str(value): [*OURS, *table.arguments.format(config=CONFIG, value=value).split(),
                                 '--runs', str(given.runs), '--on-request'] for value in table.values}
        seconds, results = take_turns(programs, given.runs)
        first = seconds[str(table.values[0])]
        print(f'\n| {table.title} | s | of the first row | memory, MB | others, cores |')
        print('|---|---|---|---|---|')
        for value, times in seconds.items():
            ratio = statistics.median(mine / one for mine, one in zip(times, first, strict=True))
            print(f'| {value} | {statistics.median(times):.2f} | {ratio:.2f} | {results[value]["peak_rss_mb"]} | '
                  f'{results[value]["others_cores"]} |')
        print(flush=True)


if __name__ == '__main__':
    main()

"""Hostile files by the thousand: each must end within seconds, in a line or in a result, and reach nothing else.

    python -m tests.fuzz_hostile --cases 10000 --seed 1

A case is one file that somebody might send: a pickle made of random opcodes, a YAML config, an instances json with
names that lead elsewhere or hold escape sequences, a manifest, an .npz of weights. What is asked of each: no exception
but the project's own, of one line; no control characters in what is printed; nothing of a secret file, a secret
variable of the environment or a program in a pickle takes effect; no more than some seconds. A case is repeated with
--seed and --only. Damaged annotations and images are the matter of `tests/data_tools/fuzz.py`.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import pathlib
import pickle
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from data_tools import conversion, inspect_page, verify
from data_tools.formats import coco
from data_tools.issues import ConversionError, issue_line, list_issues
from data_tools.sharding import writer
from mrcnn_tf import config
from mrcnn_tf.config import ConfigError
from mrcnn_tf.files import restricted_pickle
from mrcnn_tf.files.restricted_pickle import PickleError
from mrcnn_tf.files.text import one_line
from mrcnn_tf.input.manifest import Manifest, ManifestError
from mrcnn_tf.input.record_reader import RecordError
from mrcnn_tf.weights import files as weights
from mrcnn_tf.weights.rules import WeightsError
from tests.data_tools import fuzz

SECONDS = 20
SECRET = 'the secret that nobody should see'
REFUSED = (ConversionError, ConfigError, ManifestError, RecordError, PickleError, WeightsError)
NAMES = (
    '../secret.png', 'sub/../../secret.png', 'out.png', 'out/secret.png', 'fifo.png', 'loop.png', '/dev/zero',
    '/proc/self/environ', 'a\0b.png', '\x1b[2J\x1b]0;x\x07.png', 'a\nb.png', '\u202egnp.a', '', '.', '..', '/',
    '~/x.png', 'x' * 300 + '.png', 'sub', '//a.png', 'C:\\secret.png', 'file:///etc/passwd', '%2e%2e/secret.png')
TEXTS = (
    'cat', '\x1b[31mred', 'a\nb', '\r', '\x9b2J', '\u2028', '\u202e', '<script>alert(1)</script>', '"', "'", '&',
    '${oc.env:HOSTILE_SECRET}', 'x' * 999, 'x' * 100_000, '{{x}}', '[bold]x[/bold]', '[/]', '\\', '%s', '{0}')


def main() -> None:
    """Runs the cases of the command line and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', type=int, help='the number of the case to repeat')
    arguments = parser.parse_args()
    numbers = range(arguments.cases) if arguments.only is None else [arguments.only]
    ends, failures = run(numbers, arguments.seed)
    for (kind, end), count in sorted(ends.items()):
        print(f'{kind:12}{end:20}{count:6}')
    for number, failure in failures.items():
        print(f'--- case {number} of seed {arguments.seed}\n{failure}')
    print(f'{sum(ends.values())} cases, {len(failures)} failures')
    sys.exit(bool(failures))


def run(numbers: Any, seed: int) -> tuple[collections.Counter[tuple[str, str]], dict[int, str]]:
    """How the cases ended, and what was wrong with those that ended otherwise than they may."""
    ends: collections.Counter[tuple[str, str]] = collections.Counter()
    failures: dict[int, str] = {}
    os.environ['HOSTILE_SECRET'] = SECRET
    for number in numbers:
        kind = KINDS[number % len(KINDS)]
        name = kind.__name__.strip('_')
        try:
            with tempfile.TemporaryDirectory() as directory, _limited():
                ends[name, _end(kind, random.Random(f'{seed}/{number}'), pathlib.Path(directory))] += 1
        except Exception:
            ends[name, 'FAILURE'] += 1
            failures[number] = f'{name}\n{traceback.format_exc()}'
    return ends, failures


def _end(kind: Callable[[random.Random, pathlib.Path], str], rng: random.Random, root: pathlib.Path) -> str:
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            shown = kind(rng, root)
        shown += printed.getvalue()
        end = 'a result'
    except REFUSED as error:
        shown, end = str(error), 'one clear line'
        assert '\n' not in shown and len(shown) > 15, f'not one clear line: {shown!r:.300}'
        shown = one_line(shown)      # as `mrcnn` prints it
    for line in shown.split('\n'):
        assert line == one_line(line, len(line)), f'controls reach the terminal: {line!r:.300}'
    assert SECRET not in shown, f'the secret is shown: {shown!r:.300}'
    assert not (root / 'mark').exists(), 'a program of the file was run'
    return end


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raises TimeoutError in what hangs."""
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f'it took over {SECONDS} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _pickle(rng: random.Random, root: pathlib.Path) -> str:
    mark = str(root / 'mark').encode()
    parts = (
        b'(', b']', b'}', b')', b'\x8f', b'N', b'K\1', b'\x88', b'U\1a', b'X\1\0\0\0a', b'C\2ab', b'a', b'e',
        b's', b'u', b't', b'\x85', b'\x86', b'\x87', b'l', b'd', b'\x90', b'\x91', b'0', b'1', b'2', b'q\0',
        b'q\1', b'h\0', b'h\1', b'\x94', b'r\xff\xff\xff\xff', b'R', b'b', b'\x81', b'o', b'.', b'\x95' + b'\0' * 8,
        b'\x8e' + (2 ** 40).to_bytes(8, 'little'),
        b'cos\nsystem\n', b'(S"touch ' + mark + b'"\nios\nsystem\n', b'S"touch ' + mark + b'"\n\x85R',
        b'cnumpy\ndtype\n', b'cnumpy\nndarray\n', b'cnumpy.core.multiarray\n_reconstruct\n', b'c_codecs\nencode\n',
        b'ccollections\nOrderedDict\n', b'c__builtin__\nset\n', b'cbuiltins\neval\n', b'U\2f4', b'P1\n', b'I99999\n',
        pickle.dumps(np.zeros(3), 2)[2:-1], pickle.dumps({'a': [1, (2, 'x')]}, 4)[2:-1],
        b'c_codecs\nencode\nX\1\0\0\0aU\6latin1\x86R')
    program = b''.join(rng.choice(parts) * rng.choice((*(1,) * 12, 3, 50, 3000))
                       for _ in range(rng.choice((3, 10, 40))))
    (root / 'a.pkl').write_bytes(b'\x80\4' * (rng.random() < .5) + program + b'.' * (rng.random() < .9))
    value = restricted_pickle.load(root / 'a.pkl')
    return one_line(repr(value))      # endless where the value has too many paths


def _config(rng: random.Random, root: pathlib.Path) -> str:
    plain = ('1', '-1', '0', '1e400', '.nan', 'true', '~', '9' * 5000, '0x' + 'f' * 5000, '*a', '&a [x]', '&a [*a]',
             '!!python/object/apply:os.system [x]', '!!binary aGk=', '2020-01-01', '"\\e[31m\\n"', '[' * 5, '[' * 5000)
    computed = ('${oc.env:HOSTILE_SECRET}', '${oc.decode:x}', '${data.train}', '${${data.train}:HOSTILE_SECRET}', '${',
                '\\\\${oc.env:HOSTILE_SECRET}', '${oc.select:data.train}', '${.train}', '${..data}')
    keys = ('data: {train: ', 'data: {validation: ', 'data: {batch_size: ', 'solver: {steps: ', 'model: {kind: ',
            'base: ', 'data: ', 'model: {anchors: {sizes: ', json.dumps(rng.choice(TEXTS)) + ': ')

    def value(depth: int = 0) -> str:
        if depth < 4 and rng.random() < .3:
            return rng.choice((f'[{value(depth + 1)}, {value(depth + 1)}]', f'{{a: {value(depth + 1)}}}'))
        return rng.choice((rng.choice(plain), json.dumps(rng.choice((*TEXTS, *NAMES))), f'"{rng.choice(computed)}"'))

    (root / 'a.yaml').write_text('\n'.join(key + value() + '}' * key.count('{') for key in rng.sample(keys, rng.choice(
        (1, 2, 3)))))
    loaded = config.load(root / 'a.yaml', [f'data.train={value()}'] if rng.random() < .3 else [])
    assert SECRET not in repr(loaded)
    return one_line(repr(loaded.data.train))


def _names(rng: random.Random, root: pathlib.Path) -> str:
    (root / 'images' / 'sub').mkdir(parents=True)
    pixels = np.random.default_rng(rng.randrange(9)).integers(0, 255, (8, 9, 3), np.uint8)
    for name in ('images/a.png', 'images/b.png', 'images/sub/c.png'):
        Image.fromarray(pixels).save(root / name)
    Image.fromarray(255 - pixels).save(root / 'secret.png')
    (root / 'images' / 'out.png').symlink_to('../secret.png')
    (root / 'images' / 'out').symlink_to('..')
    (root / 'images' / 'loop.png').symlink_to('loop.png')
    os.mkfifo(root / 'images' / 'fifo.png')
    ids = [rng.choice((*(number,) * 6, str(number), rng.choice(TEXTS))) for number in range(1, 7)]
    names = ['a.png', 'b.png', 'sub/c.png', *(rng.choice((*NAMES, rng.choice(TEXTS))) for _ in ids[3:])]
    tree = {'images': [{'id': each, 'file_name': name, 'height': 8, 'width': 9}
                       for each, name in zip(ids, names, strict=True)],
            'categories': [{'id': number, 'name': rng.choice(TEXTS)} for number in (1, 2)],
            'annotations': [{'id': rng.choice((number, rng.choice(TEXTS))), 'image_id': image, 'area': 16, 'iscrowd': 0,
                             'category_id': rng.choice((1, 1, 2, 3)),
                             'bbox': rng.choice((*([1, 1, 4, 4],) * 4, rng.choice(fuzz.VALUES)))}
                            for number, image in enumerate((*ids, *ids), 1)]}
    (root / 'a.json').write_text(json.dumps(tree))
    found = coco.find(root / 'a.json', root / 'images')
    manifest = conversion.convert(found, root / 'out', 'set')
    writer.summarize(manifest)
    for record in fuzz._records(root / 'out' / 'set.json'):
        assert record['encoded'] != (root / 'secret.png').read_bytes(), f'{record["filename"]!r} holds the secret'
    return '\n'.join((*(issue_line(*each) for each in list_issues(manifest)),
                      _looked_at(root / 'out' / 'set.json')))


def _looked_at(manifest: pathlib.Path) -> str:
    """What `verify` prints, and the page of `inspect`, which must not hold what a name would do to it."""
    inspect_page.write(manifest, manifest.with_suffix('.html'), 1)
    page = manifest.with_suffix('.html').read_text()
    assert '<script' not in page and len(page) < 10 ** 6
    return verify.verify(manifest).text()


def _manifest(rng: random.Random, root: pathlib.Path) -> str:
    Image.new('RGB', (9, 8)).save(root / 'a.png')
    tree = {'images': [{'id': 1, 'file_name': 'a.png', 'height': 8, 'width': 9}],
            'categories': [{'id': 1, 'name': 'cat'}],
            'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 4, 4]}]}
    (root / 'a.json').write_text(json.dumps(tree))
    with contextlib.redirect_stdout(io.StringIO()):
        conversion.convert(coco.find(root / 'a.json', root), root / 'out', 'set')
    path, shard = root / 'out' / 'set.json', 'set-00000-of-00001.tfrecord'
    (root / shard).write_bytes((root / 'out' / shard).read_bytes())
    (root / 'out' / 'link').symlink_to(f'../{shard}')
    os.mkfifo(root / 'out' / 'fifo')
    described = json.loads(path.read_text())
    if rng.random() < .5:
        described['shards'][0]['file'] = rng.choice((
            f'../{shard}', str(root / shard), 'link', 'fifo', '/dev/zero', './' + shard, rng.choice(TEXTS)))
    else:
        described = json.loads(fuzz._json_structure(json.dumps(described).encode(), rng))
    path.write_text(json.dumps(described))
    shown = _looked_at(path)
    assert [each.file for each in Manifest.read(path).shards] in ([shard], []), 'a shard elsewhere was read'
    return shown


def _weights(rng: random.Random, root: pathlib.Path) -> str:
    stream = io.BytesIO()
    np.savez_compressed(stream, **{rng.choice(TEXTS[:5]): np.zeros(rng.choice((3, 100_000)), np.float32),
                                   'b': np.ones([2, 2])})
    data = stream.getvalue()
    (root / 'a.npz').write_bytes(data if rng.random() < .2 else fuzz._bytes(data, rng))
    return one_line(sorted(weights.read(root / 'a.npz')))


KINDS = (_pickle, _names, _pickle, _manifest, _pickle, _config, _pickle, _weights, _pickle, _names)


if __name__ == '__main__':
    main()

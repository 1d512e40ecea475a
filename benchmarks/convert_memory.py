"""Measures peak memory: of a conversion for growing numbers of images, and of reading a large json in three ways.

    python -m benchmarks.convert_memory images 1000 10000 100000
    python -m benchmarks.convert_memory json 118287

`images` converts the given numbers of images in one process. All are one small JPEG, with three objects and masks each.

`json` writes a json in the proportions of COCO's train2017 (7.3 objects per image, polygons of some 45 numbers) for the
given number of images, and reads it in three ways: as a whole (`json.loads`), element by element as `mrcnn convert`
does, and by ijson if that is installed.

Each measurement runs in its own process and prints one JSON line, with the peak resident memory in MiB and the seconds
of processor time.
"""
from __future__ import annotations

import argparse
import io
import json
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SIDE = 32    # px


def write_images(directory: pathlib.Path, count: int) -> None:
    """Write `a.json`, which lists `count` images, and `a.jpg`."""
    from PIL import Image

    Image.new('RGB', (SIDE, SIDE), 'gray').save(directory / 'a.jpg')
    with (directory / 'a.json').open('w') as stream:
        _write(stream, count, 3, lambda number: {
            'bbox': [2, 3, 9, 8], 'area': 72, 'segmentation': [[2, 3, 11, 3, 11, 11, 2, 11]]})


def write_json(path: pathlib.Path, count: int) -> None:
    """Write a json as large as COCO's for `count` images."""
    rng = random.Random(0)

    def annotation(number: int) -> dict[str, Any]:
        return {'bbox': [round(rng.uniform(0, 600), 2) for _ in range(4)], 'area': round(rng.uniform(9, 9e4), 4),
                'segmentation': [[round(rng.uniform(0, 640), 2) for _ in range(rng.choice((24, 44, 66)))]]}

    with path.open('w') as stream:
        _write(stream, count, 7.3, annotation)


def _write(stream: io.TextIOBase, count: int, objects: float, annotation: Callable[[int], dict[str, Any]]) -> None:
    stream.write('{"images": [')
    for i in range(count):
        stream.write(', ' * (i > 0) + json.dumps({
            'license': 3, 'file_name': 'a.jpg', 'coco_url': f'http://images.cocodataset.org/train2017/{i:012d}.jpg',
            'height': SIDE, 'width': SIDE, 'date_captured': '2013-11-14 11:18:45',
            'flickr_url': f'http://farm9.staticflickr.com/8186/{i:010d}_e0ef29b2f6_z.jpg', 'id': i}))
    stream.write('], "annotations": [')
    for i in range(round(count * objects)):
        stream.write(', ' * (i > 0) + json.dumps({
            **annotation(i), 'iscrowd': 0, 'image_id': i * 7919 % count, 'category_id': 1, 'id': i}))
    stream.write('], "categories": [{"id": 1, "name": "thing"}]}')


def convert(directory: pathlib.Path) -> dict[str, Any]:
    """Run the whole conversion in this process."""
    from data_tools.formats import coco

    manifest = coco.convert(directory / 'a.json', directory, directory / 'out')
    return {'images': manifest.counts.images, 'objects': manifest.counts.objects}


def import_only(directory: pathlib.Path) -> dict[str, Any]:
    """Import the libraries and do nothing else: the baseline of `convert`."""
    from data_tools.formats import coco  # noqa: F401

    return {}


def read_whole(directory: pathlib.Path) -> dict[str, Any]:
    """Read the json as a whole; a converter would keep all its objects in memory."""
    data = json.loads((directory / 'a.json').read_bytes())
    return {'objects': len(data['annotations'])}


def read_elements(directory: pathlib.Path) -> dict[str, Any]:
    """Read with `json_lists` and keep six numbers per annotation, as `mrcnn convert coco` does."""
    import array

    from data_tools.formats import json_lists

    kept = array.array('q')
    for key, elements in json_lists.members(directory / 'a.json'):
        for value, start, length, _ in elements or ():
            if key == 'annotations':
                kept.extend((value['image_id'], value['category_id'], value['iscrowd'], value['id'], start, length))
    return {'objects': len(kept) // 6}


def read_ijson(directory: pathlib.Path) -> dict[str, Any]:
    """Read with ijson and keep only the ids: without file positions, a converter would have to store the rest."""
    import array

    import ijson

    kept = array.array('q')
    with (directory / 'a.json').open('rb') as stream:
        for annotation in ijson.items(stream, 'annotations.item', use_float=True):
            kept.append(annotation['image_id'])
    return {'objects': len(kept), 'backend': ijson.backend}


MEASURED = {each.__name__: each for each in (convert, import_only, read_whole, read_elements, read_ijson)}


def measure(name: str, directory: pathlib.Path) -> None:
    """Run one of MEASURED in its own process and print its line."""
    done = subprocess.run([sys.executable, __file__, 'measure', name, str(directory)], capture_output=True, text=True,
                          check=False)
    print(done.stdout.splitlines()[-1] if done.returncode == 0 else f'{name}: {done.stderr.splitlines()[-1]}',
          flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['images', 'json', 'measure'])
    parser.add_argument('values', nargs='+')
    given = parser.parse_args()
    if given.what == 'measure':
        name, directory = given.values
        begun = time.process_time()
        found = MEASURED[name](pathlib.Path(directory))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({'what': name, **found, 'peak_mib': round(peak), 's': round(time.process_time() - begun, 1)}))
        return
    for count in map(int, given.values):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory)
            write = write_images if given.what == 'images' else lambda at, count: write_json(at / 'a.json', count)
            write(path, count)
            print(json.dumps({'images': count, 'json_mib': round((path / 'a.json').stat().st_size / 2 ** 20, 1)}))
            for name in ('import_only', 'convert') if given.what == 'images' else (
                    'read_whole', 'read_elements', 'read_ijson'):
                measure(name, path)


if __name__ == '__main__':
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    main()

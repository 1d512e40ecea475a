"""Measures images per second of `mrcnn convert coco` with masks, from reading the json to the shards' final names.

    python benchmarks/convert_speed.py annotations/instances_train2017.json train2017 --repeat 21 --workers 1 2

The list of images is repeated under new ids to have enough of them. The time excludes imports, both in this process and
in the forkserver of the workers. Prints one JSON line for each number of workers: images and objects in
the json, seconds, images and objects per second, and bytes of the shards per image.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import tempfile
import time
from concurrent import futures
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')


def repeated(source: pathlib.Path, target: pathlib.Path, times: int) -> dict[str, Any]:
    """Write the json with every image and its objects repeated under new ids; return the numbers of both."""
    data = json.loads(source.read_bytes())
    numbers = {image['id']: number for number, image in enumerate(data['images'])}
    images, objects = len(data['images']), len(data['annotations'])
    data['images'] = [{**image, 'id': 1 + k * images + i}
                      for k in range(times) for i, image in enumerate(data['images'])]
    data['annotations'] = [{**each, 'id': 1 + k * objects + i, 'image_id': 1 + k * images + numbers[each['image_id']]}
                           for k in range(times) for i, each in enumerate(data['annotations'])]
    target.write_text(json.dumps(data))
    return {'images': images * times, 'objects': objects * times}


def measure(annotations: pathlib.Path, images: pathlib.Path, output: pathlib.Path, count: int, workers: int,
            shards: int) -> dict[str, float]:
    """Return the seconds of one conversion and the bytes that it wrote per image."""
    from data_tools import conversion
    from data_tools.formats import coco
    from data_tools.sharding import forkserver, writer

    if workers > 1:
        with futures.ProcessPoolExecutor(1, forkserver.context()) as pool:
            pool.submit(int).result()      # the forkserver has now imported everything
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        manifest = conversion.convert(coco.find(annotations, images), output, 'train',
                                      options=writer.Options(images_per_shard=-(-count // shards), workers=workers))
    seconds = time.perf_counter() - start
    return {'seconds': round(seconds, 3), 'bytes_an_image': sum(each.bytes for each in manifest.shards) // count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=pathlib.Path)
    parser.add_argument('images', type=pathlib.Path)
    parser.add_argument('--repeat', type=int, default=10)
    parser.add_argument('--workers', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--shards', type=int, default=4)
    given = parser.parse_args()
    for workers in given.workers:
        with tempfile.TemporaryDirectory() as directory:
            json_file = pathlib.Path(directory, 'a.json')
            counts = repeated(given.annotations, json_file, given.repeat)
            found = measure(json_file, given.images, pathlib.Path(directory, 'out'), counts['images'], workers,
                            given.shards)
        print(json.dumps({
            'workers': workers, **counts, **found, 'images_per_s': round(counts['images'] / found['seconds'], 1),
            'objects_per_s': round(counts['objects'] / found['seconds'], 1)}), flush=True)


if __name__ == '__main__':
    main()

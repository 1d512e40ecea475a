"""TensorFlow Model Garden's side of the interchange; run in an environment of tf-models-official, without ours.

usage: model_garden.py convert JSON IMAGES OUTPUT          writes OUTPUT/garden-*.tfrecord with its own converter
       model_garden.py read JSON SHARDS...                 compares what its decoder reads with pycocotools' reading
       model_garden.py train SHARDS... [--steps N]         trains by its own task, input reader and recipe, at 256 x 256

Labels of the shards are the category ids of the json (Model Garden's) or their ranks (ours); `read` takes either.
"""
from __future__ import annotations

import argparse
import os
import pathlib

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import tensorflow as tf
from pycocotools.coco import COCO


def convert(annotations: str, images: str, output: str) -> None:
    """Model Garden's create_coco_tf_record with masks, four shards, in one process."""
    from absl import flags
    from official.vision.data import create_coco_tf_record as converter

    flags.FLAGS(['convert', '--num_processes=0'])
    pathlib.Path(output).mkdir(parents=True, exist_ok=True)
    converter._create_tf_record_from_coco_annotations(
        annotations, [images], os.path.join(output, 'garden'), 4, annotations, include_masks=True)
    print(len(list(pathlib.Path(output).glob('garden-*.tfrecord'))), 'shards written by Model Garden')


def read(annotations: str, shards: list[str]) -> None:
    """Every object of every record against the json: label, crowd, area, box and each pixel of the mask."""
    from official.vision.dataloaders.tf_example_decoder import TfExampleDecoder

    truth, decoder = COCO(annotations), TfExampleDecoder(include_mask=True)
    ranks = {category_id: rank for rank, category_id in enumerate(sorted(truth.cats), 1)}
    images = objects = pixels = 0
    farthest = 0.0
    for record in tf.data.TFRecordDataset(shards).map(decoder.decode):
        found = {key: value.numpy() for key, value in record.items()}
        expected = truth.loadAnns(truth.getAnnIds(int(found['source_id'])))
        height, width = found['image'].shape[:2]
        assert (height, width) == (found['height'], found['width'])
        assert len(expected) == len(found['groundtruth_classes']), found['source_id']
        images += 1
        for i, each in enumerate(expected):
            assert found['groundtruth_classes'][i] in (each['category_id'], ranks[each['category_id']])
            assert found['groundtruth_is_crowd'][i] == each['iscrowd']
            assert np.isclose(found['groundtruth_area'][i], each['area'], rtol=1e-6)
            x, y, across, down = each['bbox']
            box = found['groundtruth_boxes'][i] * [height, width, height, width]
            farthest = max(farthest, float(np.abs(box - [y, x, y + down, x + across]).max()))
            mask = truth.annToMask(each)
            pixels += int(np.count_nonzero(mask != found['groundtruth_instance_masks'][i]))
            objects += 1
    print(f'{images} images, {objects} objects: labels, crowds and areas equal, boxes to {farthest:.1e} px, '
          f'{pixels} pixels of masks differ')
    assert images and not pixels and farthest < 0.1


def train(shards: list[str], steps: int) -> None:
    """Steps of Model Garden's own task on batches of its own input reader."""
    import tf_keras
    from official.core import exp_factory
    from official.vision.configs import maskrcnn as _  # noqa: F401  registers the experiments
    from official.vision.tasks.maskrcnn import MaskRCNNTask

    tf_keras.utils.set_random_seed(0)
    config = exp_factory.get_exp_config('maskrcnn_resnetfpn_coco').task
    config.init_checkpoint, config.model.input_size = None, [256, 256, 3]
    data = config.train_data
    data.input_path, data.global_batch_size, data.shuffle_buffer_size, data.dtype = shards, 2, 64, 'float32'
    task = MaskRCNNTask(config)
    model, optimizer = task.build_model(), tf_keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=10.0)
    optimizer.build(model.trainable_variables)
    step = tf.function(lambda images, labels: task.train_step((images, labels), model, optimizer))
    for number, (images, labels) in enumerate(task.build_inputs(data).take(steps), 1):
        losses = {name: float(value) for name, value in step(images, labels).items()}
        assert np.isfinite(list(losses.values())).all(), losses
        print(f'step {number}: {int((labels["gt_classes"] > 0).numpy().sum())} objects,',
              ', '.join(f'{name} {value:.3f}' for name, value in losses.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['convert', 'read', 'train'])
    parser.add_argument('arguments', nargs='+')
    parser.add_argument('--steps', type=int, default=10)
    given = parser.parse_args()
    print(f'tf-models-official with TensorFlow {tf.__version__}')
    if given.what == 'convert':
        convert(*given.arguments)
    elif given.what == 'read':
        read(given.arguments[0], given.arguments[1:])
    else:
        train(given.arguments, given.steps)


if __name__ == '__main__':
    main()

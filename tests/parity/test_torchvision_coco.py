"""Real images from the file to the detection, against what torchvision gives for the same files and weights.

`make_torchvision_coco.py` computed the numbers where torch is installed. Both sides decode, resize to 800 / 1333, pad
and detect on their own: nothing is handed over between stages.
"""
from __future__ import annotations

import pathlib

import numpy as np
import pytest

from mrcnn_tf.serving.predictor import Predictor, load_predictor
from mrcnn_tf.weights.importing import import_file
from tests.parity.inference_stages import NOT_FOUND, nearest
from tests.parity.reference import Difference, farthest, yx

STORED = pathlib.Path(__file__).with_name('torchvision_coco.npz')
BOX, SCORE = .1, 1e-3          # px of the file, and score
# One of each canvas that the set has at 800 / 1333, the smaller ones of several; --all-modes runs all images.
CHOSEN = 6


@pytest.fixture(scope='module')
def predictor(kit, tmp_path_factory) -> Predictor:
    """A model directory of the kit's weights, made by the importer as a user does."""
    folder = tmp_path_factory.mktemp('torchvision')
    np.savez(folder / 'weights.npz', **kit.state_dict('maskrcnn_resnet50_fpn'))
    import_file('torchvision', folder / 'weights.npz', folder / 'model',
                overrides=['model.backbone.norm_epsilon=1.0e-5'])
    return load_predictor(folder / 'model')


@pytest.mark.slow
def test_every_detection(predictor, coco_dir, hold, pytestconfig) -> None:
    """Boxes, scores and labels of each image; the number of detections too."""
    with np.load(STORED) as stored:
        arrays = dict(stored)
    every = range(len(arrays['names']))
    for i in every if pytestconfig.getoption('--all-modes') else chosen(arrays['sizes']):
        name, end = str(arrays['names'][i]), int(arrays['counts'][:i + 1].sum())
        boxes, scores, labels, stable = (arrays[key][end - arrays['counts'][i]:end]
                                         for key in ('boxes', 'scores', 'labels', 'stable'))
        (ours,) = predictor([coco_dir / name])
        index, size = nearest(ours.boxes, yx(boxes)[stable], ours.labels, labels[stable])
        apart = NOT_FOUND if (index < 0).any() else farthest(ours.scores[index], scores[stable])
        hold([Difference('image to detection: number', abs(len(ours) - len(boxes)), float((~stable).sum())),
              Difference('image to detection: boxes', size, BOX),
              Difference('image to detection: scores', apart, SCORE)], name, 'op', 'image')


def chosen(sizes: np.ndarray) -> list[int]:
    """The first image of each canvas, of at most `CHOSEN` canvases, evenly among all: sizes [n, 2] of the files."""
    scale = np.minimum(800 / sizes.min(1), 1333 / sizes.max(1))
    canvases = np.ceil(np.floor(sizes * scale[:, None] + 1e-6) / 32) * 32
    _, first = np.unique(canvases, axis=0, return_index=True)
    return [int(first[k]) for k in np.unique(np.linspace(0, len(first) - 1, CHOSEN).round().astype(int))]


def test_the_images_chosen_are_of_several_canvases() -> None:
    """Landscape and portrait, and P6 on odd grids, where torchvision's anchors are not 64 px apart."""
    with np.load(STORED) as stored:
        sizes = stored['sizes']
    images = sizes[chosen(sizes)]
    assert len(images) == CHOSEN and (images[:, 0] > images[:, 1]).any() and (images[:, 0] < images[:, 1]).any()

"""Each form of masks is computed in a graph and decoded again, for two detections of three slots."""
from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.ops import paste
from mrcnn_tf.serving import mask_forms

SIZE, SIDE = (24, 30), 5
RNG = np.random.default_rng(0)
MASKS = np.concatenate([RNG.random((2, SIDE, SIDE)), np.zeros((1, SIDE, SIDE))]).astype(np.float32)
MASKS[0, :2, 0] = .5, np.nextafter(np.float32(.5), np.float32(0))
BOXES = np.float32([[2, 3, 20, 25], [-4, 10, 30, 18], [0, 0, 0, 0]])
VALID = np.array([True, True, False])


def encoded(form: str, valid: np.ndarray = VALID) -> np.ndarray:
    @tf.function(autograph=False)
    def encode() -> tf.Tensor:
        found = mask_forms.Found(tf.constant(MASKS * valid[:, None, None]), tf.constant(BOXES), tf.constant(valid),
                                 tf.constant(SIZE), 'pixel_center')
        return mask_forms.FORMS[form].encode(found)

    return encode().numpy()


@pytest.mark.parametrize('form', mask_forms.FORMS)
def test_masks_in_a_form(form: str) -> None:
    values = encoded(form)
    spec = mask_forms.FORMS[form].spec(3, SIDE)
    assert values.shape == spec.shape and tf.as_dtype(values.dtype) == spec.dtype or values.dtype == object
    found = mask_forms.decode(form, values[VALID], SIZE)
    if form in ('rle', 'image_png'):
        np.testing.assert_array_equal(found, list(paste.paste(MASKS[:2], BOXES[:2], *SIZE, 'pixel_center')))
    else:
        np.testing.assert_array_equal(found >= .5, MASKS[:2] >= .5)    # lossless at the threshold
        np.testing.assert_allclose(found, MASKS[:2], atol={'float32': 0, 'bits': .5}.get(form, .5001 / 255))
    assert not any(np.ravel(values[2]).tolist())


@pytest.mark.parametrize('form', mask_forms.FORMS)
def test_without_detections(form: str) -> None:
    none = np.zeros(3, bool)
    values = encoded(form, none)
    assert not any(values.ravel().tolist()) and len(mask_forms.decode(form, values[none], SIZE)) == 0

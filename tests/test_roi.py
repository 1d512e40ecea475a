"""RoIAlign against the reference implementation's tables, and its two engines against each other."""
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf import roi


def pool(maps, boxes, image, strides, size, ratio, aligned, engine):
    """RoIAlign of boxes with their image numbers, all on the only level."""
    plan = roi.sampling_plan(boxes[None], tf.zeros([1, boxes.shape[0]], tf.int32), strides, size, ratio, aligned)
    plan = plan._replace(image=image)
    return roi.roi_align([maps], plan, size, ratio ** 2, engine)


@pytest.mark.parametrize('engine', ['op', 'xla'])
@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('ratio_name', ['ratio2', 'adaptive'])
@pytest.mark.parametrize('dialect', ['legacy', 'aligned'])
def test_roi_align_reference(ops_kit, engine, jit, ratio_name, dialect):
    """Values and gradients of the reference, boxes crossing edges, outside, tiny, empty and huge among them."""
    if engine == 'op' and jit:
        pytest.skip('crop_and_resize is unknown to XLA')
    maps = tf.constant(ops_kit['roi_input'].transpose(0, 2, 3, 1))
    rois = ops_kit['roi_boxes']
    boxes, image = tf.constant(rois[:, [2, 1, 4, 3]]), tf.constant(rois[:, 0].astype(np.int32))
    cotangent = tf.constant(ops_kit['roi_cotangent_7x7'].transpose(0, 2, 3, 1))

    @tf.function(jit_compile=jit)
    def run(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            out = pool(maps, boxes, image, [4], 7, 2 if ratio_name == 'ratio2' else 0, dialect == 'aligned', engine)
        return out, tape.gradient(out, maps, cotangent)

    out, gradient = run(maps)
    name = f'roi_align_7x7_{dialect}_{ratio_name}'
    for ours, theirs in ((out, ops_kit[name]), (gradient, ops_kit[name + '_grad'])):
        theirs = theirs.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * max(1, np.abs(theirs).max()))

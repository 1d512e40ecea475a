"""The layouts of the heads, with weights set by hand; their types under mixed precision; wrong arguments."""
from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_tf.config import BackboneConfig, BoxHeadConfig, MaskHeadConfig, RPNConfig
from mrcnn_tf.layers.heads import BoxHead, MaskHead, Res5Head, RPNHead, dropped
from mrcnn_tf.layers.normalization import Norm
from mrcnn_tf.ops import rng
from tests.modes import MODES


def test_rpn_head_by_hand() -> None:
    """One input channel, 2 anchors a cell: outputs run by row, column, anchor; a delta's 4 numbers are adjacent."""
    head = RPNHead(1, 2)
    x = tf.constant([[[[1.], [2.], [3.]], [[4.], [5.], [6.]]]])                         # [1, 2, 3, 1]
    head([x])
    identity = np.zeros([3, 3, 1, 1], np.float32)
    identity[1, 1] = 1
    head.convs[0].set_weights([identity, np.zeros(1)])
    head.objectness.set_weights([np.array([[[[1., -1.]]]]), np.array([0., .5])])
    head.deltas.set_weights([np.arange(8.).reshape(1, 1, 1, 8), np.zeros(8)])
    (logits,), (deltas,) = head([x])
    assert logits.numpy().tolist() == [[v for cell in range(1, 7) for v in (cell, .5 - cell)]]
    assert deltas.shape == [1, 12, 4]
    assert deltas[0, 4].numpy().tolist() == [0, 3, 6, 9] and deltas[0, 5].numpy().tolist() == [12, 15, 18, 21]


def test_rpn_head_with_two_scores_per_anchor() -> None:
    """Softmax over background and object: the logit is channel 2 a + 1 minus channel 2 a."""
    head = RPNHead(1, 2, classifier='softmax')
    x = tf.ones([1, 1, 1, 1])
    head([x])
    head.convs[0].set_weights([np.ones([3, 3, 1, 1]), np.zeros(1)])
    head.objectness.set_weights([np.array([[[[1., 4., 2., -3.]]]]), np.zeros(4)])
    assert head([x])[0][0].numpy().tolist() == [[3, -5]]


def test_rpn_head_reads_a_map_once_for_both_outputs() -> None:
    """Those of 1x1, of scores and of deltas, are one convolution."""
    head, spec = RPNHead(4, 3, convolutions=3), tf.TensorSpec([1, 2, 2, 4])
    head([tf.zeros([1, 2, 2, 4])])
    graph = tf.function(lambda x: head([x]), [spec], autograph=False).get_concrete_function().graph
    assert [each.type for each in graph.get_operations()].count('Conv2D') == 3 + 1


def test_rpn_head_shares_its_weights_between_levels_and_has_a_relu() -> None:
    head = RPNHead(8, 3)
    rng = np.random.default_rng(0)
    maps = [tf.constant(rng.normal(size=(2, *grid, 8)), tf.float32) for grid in ((4, 6), (2, 3), (1, 2))]
    logits, deltas = head(maps)
    assert [x.shape.as_list() for x in logits] == [[2, 72], [2, 18], [2, 6]]
    assert [x.shape.as_list() for x in deltas] == [[2, 72, 4], [2, 18, 4], [2, 6, 4]]
    assert len(head.trainable_variables) == 6
    for level, feature in enumerate(maps):
        np.testing.assert_allclose(head([feature])[0][0], logits[level], atol=1e-6)
    head.convs[0].bias.assign(tf.fill([8], -1e3))
    assert not np.any(head(maps)[0][0])


MAPS = ((4, 6), (3, 5), (1, 2), (1, 1))     # rows and columns: all borders, and maps smaller than a kernel


def random_head(convolutions: int, classifier: str) -> tuple[RPNHead, list[tf.Tensor]]:
    """An RPN head with random weights, also of the biases, and feature maps of two images."""
    head, numbers = RPNHead(8, 3, convolutions, classifier), np.random.default_rng(0)
    maps = [tf.constant(numbers.normal(size=(2, *grid, 8)), tf.float32) for grid in MAPS]
    head(maps)
    head.set_weights([numbers.normal(size=weight.shape) for weight in head.get_weights()])
    return head, maps


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(('convolutions', 'classifier'), [(1, 'sigmoid'), (3, 'softmax')])
def test_rpn_head_at_single_anchors(mode, convolutions, classifier) -> None:
    """Outputs and gradients are those of the whole maps; each anchor of one image, and some twice of the other."""
    head, maps = random_head(convolutions, classifier)
    count = 3 * sum(rows * columns for rows, columns in MAPS)
    numbers = np.random.default_rng(1)
    anchors = tf.constant(np.stack([np.arange(count), numbers.integers(0, count, count)]), tf.int32)
    shares = tf.constant(numbers.normal(size=[2, count, 5]), tf.float32)

    def run(at: bool) -> tuple:
        def outputs(*features: tf.Tensor) -> tuple:
            if at:
                return head.at(list(features), anchors)
            return tuple(tf.gather(tf.concat(levels, 1), anchors, batch_dims=1) for levels in head(list(features)))

        with tf.GradientTape() as tape:
            tape.watch(maps)
            logits, deltas = outputs(*maps)
            total = tf.reduce_sum(shares * tf.concat([logits[..., None], deltas], axis=2))
        return logits, deltas, *tape.gradient(total, [*maps, *head.trainable_variables])

    for found, wanted in zip(MODES[mode](run)(True), run(False), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * abs(wanted.numpy()).max())


def test_the_gradient_at_single_anchors_is_summed_in_float32(bfloat16) -> None:
    """A cell is in 4, 6 or 9 windows of each of three anchors, and each gives 65 / 64.

    A sum in bfloat16, whose steps are 1 / 8 from 16 on, would lose each 1 / 64.
    """
    head, x = RPNHead(1, 3), tf.Variable(tf.ones([1, 4, 6, 1], tf.bfloat16))
    head([x])
    head.convs[0].set_weights([np.full([3, 3, 1, 1], 65 / 64), np.zeros(1)])
    head.objectness.set_weights([np.ones([1, 1, 1, 3]), np.zeros(3)])
    with tf.GradientTape() as tape:
        logits, _ = head.at([x], tf.range(72)[None])
        total = tf.reduce_sum(logits)
    windows = np.outer([2, 3, 3, 2], [2, 3, 3, 3, 3, 2])
    wanted = tf.cast(tf.constant(windows * 3 * 65 / 64, tf.float32), tf.bfloat16)
    found = tape.gradient(total, x)
    assert found.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(found[0, :, :, 0], tf.float32), tf.cast(wanted, tf.float32))


def test_box_head_by_hand() -> None:
    """Pooled feature maps are flattened by row, column, channel; the first layer selects four of the eight numbers."""
    head = BoxHead(2, width=4)
    pooled = tf.reshape(tf.range(2. * 3 * 2 * 2 * 2), [2, 3, 2, 2, 2])                 # 8 numbers a RoI
    head(pooled)
    pick = np.zeros([8, 4], np.float32)
    pick[[0, 1, 2, 4], [0, 1, 2, 3]] = 1                                               # origin, channel, column, row
    head.hidden[0].set_weights([pick, np.zeros(4)])
    head.hidden[1].set_weights([np.eye(4), np.array([0, 0, 0, -1e3])])                      # ReLU makes the last one 0
    head.classes.set_weights([np.eye(4)[:, :3], np.array([.5, 0, 0])])
    head.deltas.set_weights([np.concatenate([np.eye(4), 10 * np.eye(4)], 1), np.zeros(8)])
    logits, deltas = head(pooled)
    assert logits.shape == [2, 3, 3] and deltas.shape == [2, 3, 2, 4]
    assert logits[1, 2].numpy().tolist() == [40.5, 41, 42]
    assert deltas[1, 2].numpy().tolist() == [[40, 41, 42, 0], [400, 410, 420, 0]]


def test_box_head_sizes() -> None:
    """Two fully connected layers of the given width, K + 1 classes, 4 K deltas; class-agnostic 4 deltas."""
    for agnostic, regressions in ((False, 7), (True, 1)):
        head = BoxHead(7, width=16, class_agnostic=agnostic)
        logits, deltas = head(tf.zeros([2, 5, 3, 3, 6]))
        assert logits.shape == [2, 5, 8] and deltas.shape == [2, 5, regressions, 4]
        assert [tuple(v.shape) for v in head.trainable_variables] == [
            (54, 16), (16,), (16, 16), (16,), (16, 8), (8,), (16, 4 * regressions), (4 * regressions,)]


def test_without_fully_connected_layers_the_mean_is_classified() -> None:
    head = BoxHead(1, fully_connected=0)
    pooled = tf.constant([[[[[1.], [2.]], [[3.], [6.]]]]])
    head(pooled)
    head.classes.set_weights([np.array([[1., -2.]]), np.zeros(2)])
    assert head(pooled)[0][0, 0].numpy().tolist() == [3, -6]


def test_convolutions_come_before_the_fully_connected_layers() -> None:
    """They have a bias without normalization and none with it; the fully connected layer has their width as input."""
    for norm, vectors in ((Norm('none'), 1), (Norm('batch'), 2)):
        head = BoxHead(3, width=7, fully_connected=1, convolutions=2, convolution_width=5, norm=norm)
        head(tf.zeros([1, 2, 3, 3, 4]))
        assert [tuple(v.shape) for v in head.trainable_variables if len(v.shape) > 1] == [
            (3, 3, 4, 5), (3, 3, 5, 5), (45, 7), (7, 4), (7, 12)]
        assert sum(tuple(v.shape) == (5,) for v in head.trainable_variables) == 2 * vectors


def test_dropout_by_hand(monkeypatch) -> None:
    """Elements whose random number is below the rate become 0; the others are scaled by 1 / (1 - rate)."""
    monkeypatch.setattr(rng, 'uniform', lambda shape, seed: tf.reshape(tf.constant([.1, .25, .3, .9]), shape))
    found = dropped(tf.constant([[3., 3.], [3., 6.]]), .25, tf.constant([0]))
    assert found.numpy().tolist() == [[0, 4], [4, 8]]


@pytest.mark.parametrize('mode', MODES)
def test_dropout_in_training_by_the_seed(mode) -> None:
    """Both layers have dropout with random numbers of their own: a value kept by both is four times as large."""
    head = BoxHead(400 - 1, width=400, dropout=.5)
    pooled = tf.ones([1, 2, 1, 1, 1])
    head(pooled)
    head.hidden[0].set_weights([np.ones([1, 400]), np.zeros(400)])
    for layer in (head.hidden[1], head.classes):
        layer.set_weights([np.eye(400), np.zeros(400)])
    run = MODES[mode](lambda seed: head(pooled, training=True, seed=seed)[0])
    logits = run(tf.constant([1, 2])).numpy()
    kept = [rng.uniform((2, 400), tf.constant([1, 2, number])).numpy() >= .5 for number in (0, 1)]
    np.testing.assert_array_equal(logits[0], np.where(kept[0] & kept[1], 4., 0.))
    assert .2 < (logits > 0).mean() < .3 and (run(tf.constant([1, 3])).numpy() != logits).any()
    assert (head(pooled)[0].numpy() == 1).all()                            # no dropout in inference


def test_res5_halves_the_feature_map_of_each_roi() -> None:
    """It is frozen only with the last stage."""
    for frozen in (4, 5):
        head = Res5Head.of(BackboneConfig(name='resnet18', norm='batch', maps='c4', frozen_stages=frozen))
        assert head(tf.zeros([2, 3, 14, 14, 256])).shape == [2, 3, 7, 7, 512]
        assert bool(head.trainable_variables) is (frozen == 4)


def test_mask_head_by_hand() -> None:
    """The transposed convolution turns a cell into 2 x 2, with its kernel not flipped; then ReLU, then classes."""
    head = MaskHead(2, width=1, convolutions=0)
    pooled = tf.constant([[[[[1.], [2.]], [[-3.], [4.]]]]])                           # [1, 1, 2, 2, 1]
    head(pooled)
    head.upsample.set_weights([np.array([[1, 2], [3, 4]]).reshape(2, 2, 1, 1), np.zeros(1)])
    head.masks.set_weights([np.array([1, -1]).reshape(1, 1, 1, 2), np.array([0, .5])])
    out = head(pooled)
    expected = np.array([[1, 2, 2, 4], [3, 4, 6, 8], [0, 0, 4, 8], [0, 0, 12, 16]])
    assert out.shape == [1, 1, 4, 4, 2]
    assert out[0, 0, :, :, 0].numpy().tolist() == expected.tolist()
    assert out[0, 0, :, :, 1].numpy().tolist() == (.5 - expected).tolist()


@pytest.mark.parametrize('mode', MODES)
def test_mask_head_of_one_class_by_hand(mode) -> None:
    """RoIs of background, class 1 and class 2, in the first call of the head, which makes its weights."""
    head, labels = MaskHead(2, width=1, convolutions=0), tf.constant([[0, 1, 2]])
    pooled = tf.constant([1., 2., 3.])[None, :, None, None, None]                    # [1, 3, 1, 1, 1]
    assert head(pooled, labels=labels).shape == [1, 3, 2, 2, 1]
    head.upsample.set_weights([np.array([[1, 2], [3, 4]]).reshape(2, 2, 1, 1), np.zeros(1)])
    head.masks.set_weights([np.array([1, -1]).reshape(1, 1, 1, 2), np.array([0, .5])])
    out = MODES[mode](lambda pooled, labels: head(pooled, labels=labels))(pooled, labels)
    assert out[0, :, :, :, 0].numpy().tolist() == [[[1, 2], [3, 4]], [[2, 4], [6, 8]], [[-2.5, -5.5], [-8.5, -11.5]]]
    agnostic = MaskHead(2, width=1, convolutions=0, class_agnostic=True)
    np.testing.assert_array_equal(agnostic(pooled, labels=labels), agnostic(pooled))
    with pytest.raises(ValueError, match="MaskHead: labels with the classifier 'softmax'"):
        MaskHead(2, classifier='softmax')(pooled, labels=labels)


def test_mask_head_sizes() -> None:
    for agnostic, channels in ((False, 7), (True, 1)):
        head = MaskHead(7, width=5, convolutions=3, class_agnostic=agnostic)
        assert head(tf.zeros([2, 3, 14, 14, 6])).shape == [2, 3, 28, 28, channels]
        kernels = [tuple(v.shape) for v in head.trainable_variables if len(v.shape) == 4]
        assert kernels == [(3, 3, 6, 5), (3, 3, 5, 5), (3, 3, 5, 5), (2, 2, 5, 5), (1, 1, 5, channels)]


def test_rois_are_independent() -> None:
    """Permuted RoIs give permuted results, in both heads."""
    pooled = tf.constant(np.random.default_rng(0).normal(size=(2, 4, 3, 3, 2)), tf.float32)
    order = [2, 0, 3, 1]
    box, mask = BoxHead(3, width=8), MaskHead(3, width=4, convolutions=2)
    for head in (lambda x: box(x)[0], lambda x: box(x)[1], mask):
        np.testing.assert_allclose(head(tf.gather(pooled, order, axis=1)), tf.gather(head(pooled), order, axis=1),
                                   atol=1e-6)


@pytest.fixture
def bfloat16():
    keras.mixed_precision.set_global_policy('mixed_bfloat16')
    yield
    keras.mixed_precision.set_global_policy('float32')


def test_heads_give_float32_under_mixed_precision(bfloat16) -> None:
    box, mask = BoxHead(3, width=8), MaskHead(3, width=4, convolutions=2)
    outputs = [*box(tf.ones([1, 2, 3, 3, 2])), mask(tf.ones([1, 2, 3, 3, 2]))]
    assert [x.dtype for x in outputs] == [tf.float32] * 3
    assert all('float32' in str(v.dtype) for v in [*box.weights, *mask.weights])
    assert box.compute_dtype == mask.compute_dtype == 'bfloat16'


def test_rpn_head_gives_float32_under_mixed_precision(bfloat16) -> None:
    head = RPNHead(4, 3)
    logits, deltas = head([tf.ones([1, 2, 2, 4], tf.bfloat16)])
    assert logits[0].dtype == deltas[0].dtype == tf.float32
    assert {v.dtype if isinstance(v.dtype, str) else v.dtype.name for v in head.weights} == {'float32'}


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: BoxHead(0), '^BoxHead: num_classes is 0; expected a whole number of at least 1$'),
    (lambda: BoxHead(3, dropout=2.), '^BoxHead: dropout is 2.0; expected a number from 0 to 1$'),
    (lambda: BoxHead(3, norm='layer'), "^Norm: kind is 'layer'; expected one of 'none', 'frozen', 'batch', 'sync', "),
    (lambda: MaskHead(3, convolutions=-1), '^MaskHead: convolutions is -1; expected a whole number of at least 0$'),
    (lambda: MaskHead(3, classifier='max'), "^MaskHead: classifier is 'max'; expected one of 'sigmoid', 'softmax'$"),
    (lambda: RPNHead(anchors_per_cell=0), '^RPNHead: anchors_per_cell is 0; expected a whole number of at least 1$'),
    (lambda: Res5Head('vgg16'), "^Res5Head: backbone is 'vgg16'; expected one of 'resnet50', ")],
    ids=['num_classes', 'dropout', 'norm', 'convolutions', 'classifier', 'anchors_per_cell', 'backbone'])
def test_wrong_arguments_are_named(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(ValueError, match=r'BoxHead: the input has the shape \(5, 7, 7, 4\); expected \[B, R, P, P'):
        BoxHead(3).call(tf.zeros([5, 7, 7, 4]))
    with pytest.raises(ValueError, match=r'RPNHead: a feature map has the shape \(4, 4, 8\); expected \[B, h, w, C\]'):
        RPNHead().call([tf.zeros([4, 4, 8])])


def test_heads_of_a_config() -> None:
    """`of` hands over every field of its section that the head has."""
    box = BoxHead.of(BoxHeadConfig(width=8, fully_connected=1, convolutions=2, convolution_width=4, dropout=.1,
                                   class_agnostic=True), 3, Norm('batch', .1, .2))
    expected = {'num_classes': 3, 'width': 8, 'fully_connected': 1, 'convolutions': 2, 'convolution_width': 4,
                'norm': ['batch', .1, .2], 'dropout': .1, 'class_agnostic': True}
    assert expected.items() <= box.get_config().items()
    mask = MaskHead.of(MaskHeadConfig(width=8, convolutions=1, class_agnostic=True, classifier='softmax'), 3)
    expected = {'num_classes': 3, 'width': 8, 'convolutions': 1, 'class_agnostic': True, 'classifier': 'softmax'}
    assert expected.items() <= mask.get_config().items()
    head = RPNHead.of(RPNConfig(convolutions=2, classifier='softmax'), 16, 5)
    expected = {'channels': 16, 'anchors_per_cell': 5, 'convolutions': 2, 'classifier': 'softmax'}
    assert expected.items() <= head.get_config().items()
    res5 = Res5Head.of(BackboneConfig(name='resnet18', norm='batch', norm_epsilon=.1, norm_momentum=.2,
                                      stride_in_1x1=False, frozen_stages=5))
    expected = {'backbone': 'resnet18', 'norm': ['batch', .1, .2], 'stride_in_1x1': False, 'frozen': True}
    assert expected.items() <= res5.get_config().items()

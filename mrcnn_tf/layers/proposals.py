"""The proposal layer (Faster R-CNN 3.3): from the RPN's outputs to region proposals.

B images, A_l anchors of a level, A of all levels, P proposals per image.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mrcnn_tf.ops.arguments import check_choice, check_counts, check_fraction
from mrcnn_tf.ops.boxes import ENGINES
from mrcnn_tf.ops.proposals import ProposalLimits, best_proposals


@keras.saving.register_keras_serializable(package='mrcnn_tf')
class ProposalLayer(keras.layers.Layer):
    """Region proposals from the outputs of the RPN head (Faster 3.3; FPN 4.1).

    The best `pre_nms` boxes of each level are decoded and clipped to the image; NMS runs within each level; the best
    `post_nms` boxes of all levels are the proposals. No gradient flows through them.

    Args:
        pre_nms: the largest number of boxes per level that enter NMS.
        post_nms: the largest number of proposals per image.
        nms_iou: IoU, 0..1; a box that overlaps a better one by more is dropped.
        min_side: px; smaller boxes are dropped.
        engine: of NMS: 'op' runs TensorFlow's kernel; 'xla' runs arithmetic that XLA compiles, which `jit_compile=True`
            needs.

    Raises:
        ValueError: an argument is none of these.

    Example:
        >>> import tensorflow as tf
        >>> from mrcnn_tf.layers.proposals import ProposalLayer
        >>> anchors = tf.constant([[0., 0., 9., 9.], [0., 0., 9., 8.], [20., 20., 30., 35.]])
        >>> layer = ProposalLayer(post_nms=3)
        >>> boxes, scores, valid = layer(
        ...     tf.constant([[-1., 0., 1.]]), tf.zeros([1, 3, 4]), anchors, sizes=tf.constant([[32., 32.]]))
        >>> boxes[valid].numpy().tolist()
        [[20.0, 20.0, 30.0, 32.0], [0.0, 0.0, 9.0, 8.0]]
        >>> valid.numpy().tolist()
        [[True, True, False]]
    """

    def __init__(self, pre_nms: int = 1000, post_nms: int = 1000, nms_iou: float = .7, min_side: float = 1e-3,
                 engine: str = 'op', **kwargs: Any) -> None:
        super().__init__(**{'autocast': False, 'dtype': 'float32', **kwargs})
        check_counts('ProposalLayer', pre_nms=pre_nms, post_nms=post_nms)
        check_fraction('ProposalLayer', nms_iou=nms_iou)
        check_choice('ProposalLayer', 'engine', engine, ENGINES)
        self.pre_nms, self.post_nms, self.nms_iou, self.min_side = pre_nms, post_nms, nms_iou, min_side
        self.engine = engine
        self.supports_jit = engine == 'xla'

    def call(self, logits: Sequence[tf.Tensor] | tf.Tensor, deltas: Sequence[tf.Tensor] | tf.Tensor,
             anchors: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return proposals, their scores and which of them are valid, the best first.

        Args:
            logits: float32 [B, A_l] of each level, or of a single one: the objectness.
            deltas: float32 [B, A_l, 4] of each level, or of a single one.
            anchors: float32 [A, 4] px, those of the first level first.
            sizes: [B, 2], height and width of each image in px.

        Returns:
            boxes float32 [B, P, 4] px, zeros where not valid; scores float32 [B, P] in 0..1; valid bool [B, P]. P is
            `post_nms`, or `pre_nms` times the number of levels if that is smaller.
        """
        limits = ProposalLimits(self.pre_nms, self.post_nms, self.nms_iou, self.min_side)
        proposals = best_proposals(_levels(logits), _levels(deltas), tf.cast(anchors, tf.float32),
                                   tf.cast(sizes, tf.float32), limits, self.engine)
        return proposals.boxes, tf.where(proposals.valid, tf.sigmoid(proposals.logits), 0.), proposals.valid

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'pre_nms': self.pre_nms, 'post_nms': self.post_nms, 'nms_iou': self.nms_iou,
                'min_side': self.min_side, 'engine': self.engine}


def _levels(x: Sequence[tf.Tensor] | tf.Tensor) -> list[tf.Tensor]:
    """Return the tensors of all levels, or a single one, as a list of float32 tensors."""
    return [tf.cast(level, tf.float32) for level in (x if isinstance(x, (list, tuple)) else [x])]

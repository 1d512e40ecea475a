"""A keypoint branch in one file outside the package: heatmaps over RoIs (Mask R-CNN 5, "human pose estimation").

B images, G ground-truth slots, R RoIs, D detections, K keypoints, S side of a heatmap. A batch brings `keypoints`,
float32 [B, G, K, 3]: y and x in px of the canvas, and 1 if the keypoint is visible, else 0. Predictions are relative to
the box: y and x in 0..1, and a score.
"""
from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import mrcnn_tf as m

POOLED, SIDE = 7, 14


@keras.saving.register_keras_serializable(package='examples')
class KeypointBranch(m.Branch):
    """Predicts K keypoints for each detection.

    Args:
        keypoints: K.
        strides: px per cell of the feature maps that RoIs are pooled from, the finest first.
        width: channels of the convolutions.
    """

    needs = ('keypoints',)

    def __init__(self, keypoints: int, strides: tuple[int, ...] = (4, 8, 16, 32), width: int = 32, **kwargs: Any
                 ) -> None:
        super().__init__(**kwargs)
        self.keypoints, self.strides, self.width = keypoints, tuple(strides), width
        self.roi_align = m.RoIAlign(POOLED, strides, name='keypoint_align')
        self.convs = [keras.layers.Conv2D(width, 3, padding='same', activation='relu', name=f'keypoint_conv{i}')
                      for i in range(2)]
        self.upsample = keras.layers.Conv2DTranspose(keypoints, 2, 2, name='keypoint_heatmaps')

    def heatmaps(self, features: list[tf.Tensor], boxes: tf.Tensor) -> tf.Tensor:
        """Return the logits of K heatmaps over each box: [B, R, S * S, K]."""
        pooled = self.roi_align(features[:len(self.strides)], boxes)               # [B, R, P, P, C]
        x = tf.reshape(pooled, [-1, POOLED, POOLED, pooled.shape[-1]])
        for conv in self.convs:
            x = conv(x)
        return tf.reshape(self.upsample(x), [*boxes.shape[:2], SIDE * SIDE, self.keypoints])

    def losses(self, features: list[tf.Tensor], rois: m.RoIs, batch: dict[str, tf.Tensor], seed: tf.Tensor,
               training: bool = True) -> dict[str, tf.Tensor]:
        """Return the cross-entropy over the S * S cells, mean over the visible keypoints of positive RoIs."""
        logits = tf.transpose(self.heatmaps(features, rois.boxes), [0, 1, 3, 2])   # [B, R, K, S * S]
        truth = tf.gather(batch['keypoints'], rois.matched, batch_dims=1)          # [B, R, K, 3]
        top_left, bottom_right = tf.split(rois.boxes[:, :, None], 2, axis=-1)      # [B, R, 1, 2]
        place = tf.math.divide_no_nan(truth[..., :2] - top_left, bottom_right - top_left)
        inside = tf.reduce_all((place >= 0) & (place < 1), axis=-1)
        cell = tf.cast(tf.clip_by_value(place, 0., .999) * SIDE, tf.int32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(cell[..., 0] * SIDE + cell[..., 1], logits)
        counted = tf.cast(inside & (truth[..., 2] > 0) & rois.positive[..., None], tf.float32)
        count = tf.reduce_sum(counted)
        return {'loss_keypoints': tf.reduce_sum(losses * counted) / tf.maximum(count, 1.),
                'normalizer_keypoints': count}

    def predict(self, features: list[tf.Tensor], detections: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return `keypoints` float32 [B, D, K, 3]: the best cell's center, y and x in 0..1, and its probability."""
        scores = tf.nn.softmax(self.heatmaps(features, detections['boxes']), axis=2)
        best = tf.argmax(scores, axis=2, output_type=tf.int32)                     # [B, D, K]
        place = (tf.cast(tf.stack([best // SIDE, best % SIDE], axis=-1), tf.float32) + .5) / SIDE
        found = tf.concat([place, tf.reduce_max(scores, axis=2)[..., None]], axis=-1)
        return {'keypoints': tf.where(detections['valid'][..., None, None], found, 0.)}

    def output_spec(self) -> dict[str, tf.TensorSpec]:
        return {'keypoints': tf.TensorSpec([self.keypoints, 3], tf.float32)}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), 'keypoints': self.keypoints, 'strides': self.strides, 'width': self.width}

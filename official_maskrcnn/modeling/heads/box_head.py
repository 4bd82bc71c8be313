"""The box head: class scores and box refinements of RoIs."""

import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.model import DetectionHead
from official_maskrcnn.modeling.heads.conv import LayerOptions


class BoxHead(tf_keras.layers.Layer):
    """Convolutions, fully connected layers, then a classifier and a box regressor.

    The names of its attributes are tf-models-official's, so that its checkpoints can be read.
    """

    def __init__(self, config: DetectionHead, num_classes: int, options: LayerOptions):
        super().__init__(name="box_head")
        self._activation = tf_keras.activations.get(options.activation)
        self._convs, self._conv_norms = [], []
        for i in range(config.num_convs):
            self._convs.append(options.conv(config.num_filters, 3, f"detection-conv_{i}"))
            self._conv_norms.append(options.batch_norm(f"detection-conv-bn_{i}"))
        self._fcs, self._fc_norms = [], []
        for i in range(config.num_fcs):
            initializer = tf_keras.initializers.VarianceScaling(1 / 3.0, "fan_out", "uniform")
            self._fcs.append(self._dense(config.fc_dims, initializer, options, f"detection-fc_{i}"))
            self._fc_norms.append(options.batch_norm(f"detection-fc-bn_{i}"))
        num_boxes = 1 if config.class_agnostic_bbox_pred else num_classes
        normal = tf_keras.initializers.RandomNormal
        self._classifier = self._dense(
            num_classes, normal(stddev=0.01), options, "detection-scores"
        )
        self._box_regressor = self._dense(
            num_boxes * 4, normal(stddev=0.001), options, "detection-boxes"
        )

    @staticmethod
    def _dense(
        units: int,
        initializer: tf_keras.initializers.Initializer,
        options: LayerOptions,
        name: str,
    ) -> tf_keras.layers.Dense:
        return tf_keras.layers.Dense(
            units,
            kernel_initializer=initializer,
            kernel_regularizer=options.regularizer,
            name=name,
        )

    def call(
        self, features: tf.Tensor, training: bool | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the head.

        Args:
          features: [m, crop, crop, c] of RoIs.
          training: whether batch norm uses the batch's statistics.

        Returns:
          Class logits [m, classes] and box outputs [m, boxes, 4], boxes being the number of
          classes, or 1 if the boxes are class-agnostic.
        """
        x = features
        for conv, norm in zip(self._convs, self._conv_norms, strict=True):
            x = self._activation(norm(conv(x), training=training))
        _, height, width, channels = x.shape
        x = tf.reshape(x, [-1, height * width * channels])  # [m, features]
        for dense, norm in zip(self._fcs, self._fc_norms, strict=True):
            x = self._activation(norm(dense(x), training=training))
        box_outputs = self._box_regressor(x)
        return self._classifier(x), tf.reshape(box_outputs, [-1, box_outputs.shape[-1] // 4, 4])

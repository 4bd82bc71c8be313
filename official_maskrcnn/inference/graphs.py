"""A model as graphs, from the pixels of an image on; what a predictor runs and an export saves.

Comments use: b images, d slots for detections, m boxes, s the side of a mask.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from official_maskrcnn.data.parser import preprocess_image
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN

_graph = functools.partial(tf.function, autograph=False)  # its conversion takes longer than tracing


class InferenceGraphs(tf.Module):
    """Graphs for images of any size and number, each traced when it is first called.

    An image is fitted into the network input as in evaluation, so that the graphs detect what the
    evaluation of the training counted, and one graph serves all sizes. Without masks there is no
    `segment`.
    """

    def __init__(self, model: MaskRCNN, dtype: tf.DType):
        """Makes graphs of a model whose layers compute in `dtype`."""
        super().__init__(name="inference")
        self.weights = model.variables  # a SavedModel holds them, and nothing of Keras
        height, width = model.config.input_size[:2]
        images = tf.TensorSpec([None, height, width, 3], dtype)
        info = tf.TensorSpec([None, 4, 2], tf.float32)

        def prepare(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return preprocess_image(image, (height, width), dtype)

        def detect(images: tf.Tensor, image_info: tf.Tensor) -> dict[str, tf.Tensor]:
            return model(images, image_info, training=False)

        def segment(
            images: tf.Tensor,
            image_info: tf.Tensor,
            boxes: tf.Tensor,
            batch_indices: tf.Tensor,
            classes: tf.Tensor,
        ) -> tuple[tf.Tensor, tf.Tensor]:
            return model.segment(images, image_info, boxes, batch_indices, classes)

        self.prepare = _graph(prepare, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
        self.detect = _graph(detect, input_signature=[images, info])
        indices = tf.TensorSpec([None], tf.int32)
        boxes = tf.TensorSpec([None, 4], tf.float32)
        if model.mask_head is not None:
            self.segment = _graph(segment, input_signature=[images, info, boxes, indices, indices])


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Keeps back what TensorFlow says of gradients that a SavedModel lacks.

    The log level, which TensorFlow changes when it saves, is the one before again at the end.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def save_module(module: tf.Module, folder: str, signatures: Any) -> None:
    """Writes a SavedModel without gradients, as `tf.saved_model.save` does."""
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with without_remarks():
        tf.saved_model.save(module, folder, signatures, options)

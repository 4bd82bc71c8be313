"""What the training package asks of a task."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.task import DataConfig, DeepMaskHeadRCNNTask
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import optimization

Batch = Mapping[str, tf.Tensor]


class Evaluator(Protocol):
    """Accumulates detections and computes metrics over all images it was given."""

    def update(
        self,
        source_id: np.ndarray,
        num_detections: np.ndarray,
        detection_boxes: np.ndarray,
        detection_classes: np.ndarray,
        detection_scores: np.ndarray,
        detection_masks: np.ndarray | None = None,
        detection_outer_boxes: np.ndarray | None = None,
    ) -> None:
        """Adds the detections of b images: ids [b], counts [b], boxes [b, d, 4] in original pixels.

        Classes and scores are [b, d], masks [b, d, s, s] probabilities relative to the boxes, or to
        the outer boxes [b, d, 4] if there are any.
        """

    def result(self) -> dict[str, float]:
        """Metrics by name, such as mask/AP."""

    def reset(self) -> None:
        """Forgets all detections."""

    def write_results(self, path: str) -> None:
        """Writes the detections in COCO's results format."""


class Task(Protocol):
    """Something that can be trained and evaluated."""

    config: DeepMaskHeadRCNNTask

    @property
    def class_names(self) -> Mapping[int, str]:
        """Category id to name, of the validation data."""

    def annotated_class_names(self) -> Mapping[int, str]:
        """Category id to name, as far as that can be told in a moment."""

    def build_model(self) -> tf_keras.Model:
        """The model, variables created."""

    def initialize(self, model: tf_keras.Model) -> None:
        """Loads the weights that a new training starts from."""

    def checkpoint_items(self, model: tf_keras.Model) -> Mapping[str, Any]:
        """Parts that checkpoints also hold under these names, for other tasks to restore."""

    def build_optimizer(
        self, config: optimization.OptimizationConfig
    ) -> tf_keras.optimizers.Optimizer:
        """The optimizer, with its learning rate schedule; maybe averaging, maybe loss scaling."""

    def build_inputs(
        self,
        data: DataConfig,
        input_context: tf.distribute.InputContext | None = None,
        first_step: int = 0,
    ) -> tf.data.Dataset:
        """Batches of one replica, with `source_id` [b] and `image` [b, h, w, 3].

        Training data never end; they begin after those of `first_step` steps. Evaluation data give
        every input pipeline the same number of batches, a multiple of its replicas; images that
        only fill up have source_id -1.
        """

    def count_examples(self) -> int:
        """Number of training examples in an epoch."""

    def train_step(
        self, batch: Batch, model: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer
    ) -> dict[str, tf.Tensor]:
        """Updates the model in replica context; scalars by name, `total_loss` among them."""

    def eval_step(self, batch: Batch, model: tf_keras.Model) -> dict[str, tf.Tensor]:
        """Detections [b, ...] of a batch, in replica context, with their `source_id`.

        What else there is [b] is averaged over the images, such as losses.
        """

    def build_evaluator(self, only_seen_images: bool = False) -> Evaluator:
        """An evaluator against the ground truth of the validation data, or of the images it saw."""

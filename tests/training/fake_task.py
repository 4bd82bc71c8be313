"""A task that trains in milliseconds: linear regression in the clothes of a detector."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.experiment import ExperimentConfig, RuntimeConfig, TrainerConfig
from official_maskrcnn.configs.task import DataConfig, DeepMaskHeadRCNNTask
from official_maskrcnn.model_garden import light_imports

with light_imports():
    from official.modeling import optimization

SIDE = 8  # pixels of an image
NUM_EVAL_IMAGES = 7


class FakeEvaluator:
    """Counts images; its AP is one less the mean error of the scores."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.source_ids: list[int] = []
        self.scores: list[float] = []

    def update(
        self,
        source_id: np.ndarray,
        num_detections: np.ndarray,
        detection_boxes: np.ndarray,
        detection_classes: np.ndarray,
        detection_scores: np.ndarray,
        detection_masks: np.ndarray | None = None,
    ) -> None:
        assert detection_boxes.shape == (len(source_id), 1, 4)
        assert detection_masks is not None
        self.source_ids += source_id.tolist()
        self.scores += detection_scores[:, 0].tolist()

    def result(self) -> dict[str, float]:
        return {
            "mask/AP": float(np.mean(self.scores)),
            "images": float(len(self.source_ids)),
            "distinct_images": float(len(set(self.source_ids))),
            "id_sum": float(sum(self.source_ids)),
        }

    def write_results(self, path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(self.source_ids))


@dataclasses.dataclass
class FakeTask:
    """Regresses the mean of an image.

    Attributes:
      bad_id: an image that makes the loss NaN.
      same_batch: whether every training batch is the same.
      width: channels of the model.
    """

    config: DeepMaskHeadRCNNTask
    bad_id: int = -2
    same_batch: bool = False
    width: int = 4
    class_names: Mapping[int, str] = dataclasses.field(default_factory=lambda: {1: "blob"})

    def annotated_class_names(self) -> Mapping[int, str]:
        return self.class_names

    def count_examples(self) -> int:
        return 100

    def build_model(self) -> tf_keras.Model:
        return tf_keras.Sequential(
            [
                tf_keras.Input([SIDE, SIDE, 3]),
                tf_keras.layers.Conv2D(self.width, 3, name="convolution"),
                tf_keras.layers.BatchNormalization(momentum=0.5, synchronized=True),
                tf_keras.layers.GlobalAveragePooling2D(),
                tf_keras.layers.Dense(1),
            ]
        )

    def initialize(self, model: tf_keras.Model) -> None:
        model.layers[-1].bias.assign([3.0])

    def checkpoint_items(self, model: tf_keras.Model) -> dict[str, Any]:
        return {"backbone": model.layers[0]}

    def build_optimizer(
        self, config: optimization.OptimizationConfig
    ) -> tf_keras.optimizers.Optimizer:
        factory = optimization.OptimizerFactory(config)
        return factory.build_optimizer(factory.build_learning_rate())

    def build_inputs(
        self,
        data: DataConfig,
        input_context: tf.distribute.InputContext | None = None,
        first_step: int = 0,
    ) -> tf.data.Dataset:
        replicas = input_context.num_replicas_in_sync if input_context else 1
        pipelines = input_context.num_input_pipelines if input_context else 1
        pipeline = input_context.input_pipeline_id if input_context else 0
        batch = data.global_batch_size
        share = batch // pipelines
        if data.is_training:
            first = 0 if self.same_batch else first_step * batch
            ids = tf.data.Dataset.range(100 + first, 100_000)
            if self.same_batch:
                ids = ids.take(batch).repeat()
        else:
            padding = -NUM_EVAL_IMAGES % batch
            numbers = [*range(1, NUM_EVAL_IMAGES + 1), *[-1] * padding]
            ids = tf.data.Dataset.from_tensor_slices(np.array(numbers, np.int64))
        ids = ids.batch(batch, drop_remainder=True)
        ids = ids.map(lambda part: part[pipeline * share : (pipeline + 1) * share]).unbatch()
        return ids.map(self._example).batch(batch // replicas, drop_remainder=True)

    def _example(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.random.stateless_normal([SIDE, SIDE, 3], tf.stack([number, 1]))
        image += tf.random.stateless_normal([], tf.stack([number, 2]))
        image = tf.where(number == self.bad_id, np.nan, image)
        size = tf.constant([SIDE, SIDE], tf.float32)
        info = tf.stack([2 * size, size, tf.constant([0.5, 0.5]), tf.zeros(2)])
        return {"image": image, "image_info": info, "source_id": number}

    def train_step(
        self,
        batch: Mapping[str, tf.Tensor],
        model: tf_keras.Model,
        optimizer: tf_keras.optimizers.Optimizer,
    ) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            error = self._errors(batch, model, training=True)
            loss = tf.reduce_mean(tf.square(error))
            share = loss / tf.distribute.get_strategy().num_replicas_in_sync
        gradients = tape.gradient(share, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return {"total_loss": loss, "absolute_error": tf.reduce_mean(tf.abs(error))}

    def eval_step(
        self, batch: Mapping[str, tf.Tensor], model: tf_keras.Model
    ) -> dict[str, tf.Tensor]:
        scores = 1.0 - tf.abs(self._errors(batch, model, training=False))  # [b]
        ones = tf.ones_like(scores)
        return {
            "source_id": batch["source_id"],
            "num_detections": tf.cast(ones, tf.int32),
            "detection_boxes": tf.stack([ones, 2 * ones, 9 * ones, 12 * ones], -1)[:, None],
            "detection_classes": tf.cast(ones, tf.int32)[:, None],
            "detection_scores": scores[:, None],
            "detection_masks": tf.ones([tf.shape(scores)[0], 1, 4, 4]),
        }

    def build_evaluator(self, only_seen_images: bool = False) -> FakeEvaluator:
        return FakeEvaluator()

    def _errors(
        self, batch: Mapping[str, tf.Tensor], model: tf_keras.Model, training: bool
    ) -> tf.Tensor:
        target = tf.reduce_mean(batch["image"], axis=[1, 2, 3])
        return tf.cast(model(batch["image"], training=training)[:, 0], tf.float32) - target


def make_experiment(
    train_steps: int = 12, ema: bool = False, learning_rate: float = 0.05, **trainer: Any
) -> ExperimentConfig:
    """A short experiment; every interval is 4 steps, and a loop has 3."""
    optimizer = {
        "optimizer": {"type": "sgd", "sgd": {"momentum": 0.9}},
        "learning_rate": {"type": "constant", "constant": {"learning_rate": learning_rate}},
    }
    if ema:
        optimizer["ema"] = {"average_decay": 0.9}
    intervals = {"summary_interval": 4, "checkpoint_interval": 4, "validation_interval": 4}
    return ExperimentConfig(
        task=DeepMaskHeadRCNNTask(
            train_data=DataConfig(is_training=True, global_batch_size=4),
            validation_data=DataConfig(is_training=False, global_batch_size=4),
        ),
        trainer=TrainerConfig(
            optimizer_config=optimization.OptimizationConfig(optimizer),
            train_steps=train_steps,
            **(intervals | {"steps_per_loop": 3, "continuous_eval_timeout": 60} | trainer),
        ),
        runtime=RuntimeConfig(distribution_strategy="one_device", seed=1),
    )

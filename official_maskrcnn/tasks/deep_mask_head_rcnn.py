"""The task: binds configuration to model, data, losses and evaluation."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from absl import logging

from official_maskrcnn.configs.experiment import RuntimeConfig
from official_maskrcnn.configs.task import DataConfig, DeepMaskHeadRCNNTask
from official_maskrcnn.data import coco, pipeline, records
from official_maskrcnn.errors import DATA_FAULT, UserError
from official_maskrcnn.evaluation import CocoEvaluator, GroundTruth, load_ground_truth
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN
from official_maskrcnn.modeling.outputs import TrainingOutputs
from official_maskrcnn.modeling.restore import restore_modules
from official_maskrcnn.ops import anchors as anchor_ops
from official_maskrcnn.ops import random
from official_maskrcnn.tasks import losses as loss_ops

with light_imports():
    from official.modeling import optimization, performance

Batch = Mapping[str, tf.Tensor]


class MaskRCNNTask:
    """Instance segmentation with Mask R-CNN and deep mask heads.

    Attributes:
      config: the task's configuration.
      runtime: devices and precision; a TPU or XLA asks for static shapes.
    """

    def __init__(self, config: DeepMaskHeadRCNNTask, runtime: RuntimeConfig):
        self.config = config
        self.runtime = runtime

    @property
    def static_shapes(self) -> bool:
        """Whether the steps are compiled by XLA."""
        return self.runtime.enable_xla or self.runtime.distribution_strategy == "tpu"

    def build_model(self) -> MaskRCNN:
        """The model, with random weights."""
        model = MaskRCNN(
            self.config.model,
            l2_weight_decay=self.config.losses.l2_weight_decay,
            static_shapes=self.static_shapes,
        )
        if self.config.freeze_backbone:
            model.backbone.trainable = False
        return model

    def checkpoint_items(self, model: MaskRCNN) -> dict[str, Any]:
        """Parts that a checkpoint also holds under names of their own, for others to start from."""
        parts = ("backbone", "decoder", "rpn_head", "detection_head", "mask_head")
        items = {name: getattr(model, name) for name in parts}
        return {name: part for name, part in items.items() if part is not None}

    def initialize(self, model: MaskRCNN) -> None:
        """Loads `init_checkpoint_modules` from `init_checkpoint`, if there is one."""
        if not self.config.init_checkpoint:
            return
        modules = self.config.init_checkpoint_modules
        names = [modules] if isinstance(modules, str) else modules
        if "all" in names:
            restore_modules(self.config.init_checkpoint, {"model": model})
        else:
            parts = self.checkpoint_items(model)
            absent = [name for name in names if name not in parts]
            if absent:
                raise UserError(
                    f"task.init_checkpoint_modules: the model has no {', '.join(absent)}"
                )
            restore_modules(self.config.init_checkpoint, {name: parts[name] for name in names})

    def build_optimizer(
        self, config: optimization.OptimizationConfig
    ) -> tf_keras.optimizers.Optimizer:
        """Optimiser with its learning rate schedule, and loss scaling for float16."""
        factory = optimization.OptimizerFactory(config)
        optimizer = factory.build_optimizer(factory.build_learning_rate())
        return performance.configure_optimizer(
            optimizer,
            use_float16=self.runtime.mixed_precision_dtype == "float16",
            loss_scale=self.runtime.loss_scale or "dynamic",
        )

    def count_examples(self) -> int:
        """Number of training examples in an epoch."""
        return pipeline.count_examples(self.config.train_data)

    def build_inputs(
        self,
        data: DataConfig,
        input_context: tf.distribute.InputContext | None = None,
        first_step: int = 0,
    ) -> tf.data.Dataset:
        """Batches, as `data.pipeline` describes them; of training from `first_step` on."""
        height, width = self.config.model.input_size[:2]
        dataset = pipeline.build_dataset(
            data,
            (height, width),
            include_mask=self.config.model.include_mask,
            input_context=input_context,
            seed=self.runtime.seed or 0,
            first_step=first_step,
        )
        return dataset.map(self._check_classes)

    def _check_classes(self, batch: Batch) -> Batch:
        """Fails on a category id that the model has no output for."""
        num_classes = self.config.model.num_classes
        largest = tf.reduce_max(tf.pad(batch["classes"], [[0, 0], [0, 1]]))
        check = tf.debugging.assert_less(
            largest,
            num_classes,
            f"{DATA_FAULT}there is a category id beyond task.model.num_classes ({num_classes}), "
            "which must be larger than every category id",
        )
        with tf.control_dependencies([check]):
            return {**batch, "classes": tf.identity(batch["classes"])}

    def compute_losses(
        self, model: MaskRCNN, outputs: TrainingOutputs, batch: Batch, seeds: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Losses by name; `total_loss` is what training minimises.

        Args:
          model: for its anchors and its weight decay.
          outputs: of the model in training.
          batch: with `boxes` and `classes`.
          seeds: uint32 [b], of the anchors' sampling.
        """
        config = self.config.losses
        parser = self.config.train_data.parser
        anchors = tf.concat(list(model.anchors.values()), axis=1)
        labels = anchor_ops.label_anchors(
            anchors,
            batch["boxes"],
            batch["classes"] > 0,
            seeds,
            parser.rpn_match_threshold,
            parser.rpn_unmatched_threshold,
            parser.rpn_batch_size_per_im,
            parser.rpn_fg_fraction,
            model.static_shapes,
        )
        sizes = [level.shape[1] for level in model.anchors.values()]
        scores, boxes, foreground = (
            dict(zip(model.anchors, tf.split(label, sizes, axis=-1), strict=True))
            for label in labels
        )
        num_stages = len(outputs.stages)
        losses = {
            "rpn_score_loss": loss_ops.rpn_score_loss(
                outputs.rpn_logits, scores, self.config.model.roi_sampler.num_sampled_rois
            ),
            "rpn_box_loss": loss_ops.rpn_box_loss(
                outputs.rpn_deltas, boxes, foreground, config.rpn_huber_loss_delta
            ),
            "frcnn_cls_loss": sum(
                loss_ops.box_class_loss(stage, config) for stage in outputs.stages
            )
            / num_stages,
            "frcnn_box_loss": sum(
                loss_ops.box_regression_loss(stage, config.frcnn_huber_loss_delta)
                for stage in outputs.stages
            )
            / num_stages,
            "mask_loss": (
                tf.constant(0.0) if outputs.masks is None else loss_ops.mask_loss(outputs.masks)
            ),
        }
        losses["model_loss"] = (
            config.rpn_score_weight * losses["rpn_score_loss"]
            + config.rpn_box_weight * losses["rpn_box_loss"]
            + config.frcnn_class_weight * losses["frcnn_cls_loss"]
            + config.frcnn_box_weight * losses["frcnn_box_loss"]
            + config.mask_weight * losses["mask_loss"]
        )
        weight_decay = tf.add_n(model.losses) if model.losses else 0.0
        losses["total_loss"] = config.loss_weight * (losses["model_loss"] + weight_decay)
        return losses

    @tf.autograph.experimental.do_not_convert  # conversion takes longer than tracing
    def train_step(
        self, batch: Batch, model: MaskRCNN, optimizer: tf_keras.optimizers.Optimizer
    ) -> dict[str, tf.Tensor]:
        """One step of one replica: forward, backward, update.

        Returns:
          Scalars: the losses by name, and `mask_rois`, `mask_rois_dropped` and
          `instances_truncated`, counts of this replica.
        """
        strategy = tf.distribute.get_strategy()
        batch = self._prepare(batch)
        seeds = random.image_seeds(batch["source_id"], optimizer.iterations, self.runtime.seed or 0)
        model_seeds, anchor_seeds = random.split(seeds, 2)
        with tf.GradientTape() as tape:
            outputs = model(
                batch["image"],
                batch["image_info"],
                groundtruth=batch,
                seeds=model_seeds,
                training=True,
            )
            losses = self.compute_losses(model, outputs, batch, anchor_seeds)
            share = self.config.losses.loss_weight / strategy.num_replicas_in_sync
            loss = losses["model_loss"] * share
            scales_loss = isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer)
            if scales_loss:
                loss = optimizer.get_scaled_loss(loss)
        variables = model.trainable_variables
        gradients = tape.gradient(
            loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        if scales_loss:
            gradients = optimizer.get_unscaled_gradients(gradients)
        gradients = _add_weight_decay(gradients, model, variables, share)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

        logs = dict(losses)
        if outputs.masks is not None:
            logs["mask_rois"] = tf.reduce_sum(outputs.masks.weights)
            logs["mask_rois_dropped"] = tf.cast(outputs.masks.num_dropped, tf.float32)
        logs["instances_truncated"] = tf.cast(tf.reduce_sum(batch["num_truncated"]), tf.float32)
        return logs

    def _prepare(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Leaves out masks of other than the allowed classes and, where it can, padding slots."""
        batch = dict(batch)
        allowed = self.config.allowed_mask_class_ids
        if allowed is not None and "mask_valid" in batch:
            classes = batch["classes"][..., None]
            batch["mask_valid"] &= tf.reduce_any(
                classes == tf.constant(allowed, classes.dtype), axis=-1
            )
        if not self.static_shapes:
            used = tf.reduce_sum(tf.cast(batch["classes"] > 0, tf.int32), axis=-1)
            longest = tf.maximum(tf.reduce_max(used), 1)
            for name in ("boxes", "classes", "masks", "mask_valid"):
                if name in batch:
                    batch[name] = batch[name][:, :longest]
        return batch

    @tf.autograph.experimental.do_not_convert
    def eval_step(self, batch: Batch, model: MaskRCNN) -> dict[str, tf.Tensor]:
        """Detections of one replica's batch, in original pixels, with their `source_id`.

        With `validation_losses` also the losses by name, those of the batch for each image [b].
        """
        ids = {"source_id": batch["source_id"]}
        if not self.config.validation_losses:
            return model(batch["image"], batch["image_info"], training=False) | ids
        batch = self._prepare(batch)
        # The same draws in every evaluation, so that the losses can be compared.
        seeds = random.image_seeds(batch["source_id"], tf.constant(0), self.runtime.seed or 0)
        model_seeds, anchor_seeds = random.split(seeds, 2)
        detections, outputs = model.validate(
            batch["image"], batch["image_info"], batch, model_seeds
        )
        losses = self.compute_losses(model, outputs, batch, anchor_seeds)
        # Those of a replica are its share alone, and images that only fill a batch up are dropped.
        context = tf.distribute.get_replica_context()
        losses = context.all_reduce(tf.distribute.ReduceOp.MEAN, losses)
        each = tf.ones(tf.shape(batch["source_id"]))
        return detections | ids | {name: loss * each for name, loss in losses.items()}

    @functools.cached_property
    def ground_truth(self) -> GroundTruth:
        """Of the validation data: from an annotation file, or else from the records alone."""
        data = self.config.validation_data
        path = self.config.annotation_file or data.annotation_file
        if path:
            if not tf.io.gfile.exists(path):
                raise UserError(f"task.annotation_file: {path} does not exist")
            return load_ground_truth(path, data.image_dir)
        logging.info("no annotation file: ground truth is read from the validation records")
        return load_ground_truth(
            records.read_ground_truth(
                data.input_path,
                regenerate_source_id=data.decoder.simple_decoder.regenerate_source_id,
                max_faulty_examples=data.max_faulty_examples,
            )
        )

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the classes in the validation data, by category id."""
        return dict(self.ground_truth.categories)

    def annotated_class_names(self) -> dict[int, str]:
        """Names of the classes out of a local annotation file; empty if there is none."""
        config = self.config
        for path in (
            config.annotation_file,
            config.validation_data.annotation_file,
            config.train_data.annotation_file,
        ):
            if path and os.path.exists(path):
                return coco.read_categories(path)
        return {}

    def build_evaluator(self, only_seen_images: bool = False) -> CocoEvaluator:
        """A streaming evaluator of box and mask AP over the validation data.

        Args:
          only_seen_images: whether AP is over the images it saw, for an evaluation of a part.
        """
        return CocoEvaluator(
            self.ground_truth,
            include_mask=self.config.model.include_mask,
            allowed_mask_class_ids=self.config.allowed_mask_class_ids,
            per_category_metrics=self.config.per_category_metrics,
            backend=self.config.coco_eval_backend,
            only_seen_images=(
                only_seen_images or self.config.validation_data.max_examples is not None
            ),
        )


def _add_weight_decay(
    gradients: Sequence[tf.Tensor],
    model: MaskRCNN,
    variables: Sequence[tf.Variable],
    weight: float,
) -> list[tf.Tensor]:
    """Gradients of a loss to which the model's weight decay is added, times `weight`.

    Those of the decay come last. They need no backward pass, and are as large as all weights:
    computed first, they would be kept until the end of it.
    """
    if not model.losses:
        return list(gradients)
    with tf.control_dependencies(gradients):
        with tf.GradientTape() as tape:
            weight_decay = weight * tf.add_n(model.losses)
        decays = tape.gradient(weight_decay, variables)
    return [
        gradient if decay is None else gradient + decay
        for gradient, decay in zip(gradients, decays, strict=True)
    ]

"""Mask R-CNN (arXiv 1703.06870) with a pluggable mask head that runs on packed RoIs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.model import DeepMaskHeadRCNN, ROIAligner
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports
from official_maskrcnn.modeling import (
    backbones,
    batch_norm,
    convolutions,
    proposals,
    roi_sampling,
    stochastic_depth,
)
from official_maskrcnn.modeling.heads import BoxHead, LayerOptions, MaskHead, check_roi_size
from official_maskrcnn.modeling.outputs import BoxStage, MaskOutputs, TrainingOutputs
from official_maskrcnn.modeling.rematerialization import rematerialize
from official_maskrcnn.ops import anchors as anchor_ops
from official_maskrcnn.ops import boxes as box_ops
from official_maskrcnn.ops import masks as mask_ops
from official_maskrcnn.ops import nms, random, sampling
from official_maskrcnn.ops.roi_align import roi_align

with light_imports():
    from official.vision.modeling.heads import dense_prediction_heads


def static_mask_rois(config: DeepMaskHeadRCNN, batch_size: int, slots: int) -> int:
    """RoIs of a batch that the mask head has room for in training where shapes are static.

    Args:
      config: what `mask_sampler.static_rois_per_image` does not say depends on the kind of RoIs. On
        ground-truth boxes there is room for 24 an image and 48 in all: of the instances of COCO, 7
        an image, 0.4 % find no room at 2 images a replica and none at 8 (92 photographs).
      batch_size: images of a replica.
      slots: RoIs an image, with padding.
    """
    per_image, least = config.mask_sampler.static_rois_per_image, 0
    if per_image is None:
        on_boxes = config.use_gt_boxes_for_masks
        per_image, least = (24, 48) if on_boxes else (config.mask_sampler.num_sampled_masks, 0)
    return min(max(per_image * batch_size, least), slots * batch_size)


class _Proposals(NamedTuple):
    """What the first stage gives.

    Attributes:
      features: maps [b, height_l, width_l, c] by level.
      rpn_logits: as in `TrainingOutputs`.
      rpn_deltas: likewise.
      boxes: [b, p, 4] in input pixels.
      valid: bool [b, p], False for padding.
      image_size: (height, width) [b, 2] of the images within the network input.
    """

    features: Mapping[str, tf.Tensor]
    rpn_logits: dict[str, tf.Tensor]
    rpn_deltas: dict[str, tf.Tensor]
    boxes: tf.Tensor
    valid: tf.Tensor
    image_size: tf.Tensor


class MaskRCNN(tf_keras.Model):
    """Backbone, decoder, region proposals, box heads and mask head.

    Attributes (those that hold variables bear tf-models-official's names, so that its checkpoints
    can be read): `backbone`, `decoder` (None for the identity), `rpn_head`, `detection_head` (a
    list, one for each cascade stage), `mask_head` (None without masks). `pack_detections` says
    whether the mask head runs on the real detections alone, or on all of their slots.
    """

    def __init__(
        self, config: DeepMaskHeadRCNN, l2_weight_decay: float = 0.0, static_shapes: bool = False
    ):
        """Builds all parts, variables included.

        Args:
          config: the model's configuration.
          l2_weight_decay: of all kernels; the loss is half its product with their squares.
          static_shapes: use only operations that XLA compiles, with shapes known beforehand.

        Raises:
          UserError: parts that do not fit each other.
        """
        super().__init__(name="mask_rcnn")
        self.config = config
        self.static_shapes = static_shapes
        self.pack_detections = not static_shapes
        self._model_garden = config.compatibility == "model_garden"
        regularizer = tf_keras.regularizers.l2(l2_weight_decay / 2) if l2_weight_decay else None
        norm = config.norm_activation
        # Statistics over one replica are the batch's own; Keras' synchronised layer is slower.
        strategy = tf.distribute.get_strategy()
        several_replicas = strategy.num_replicas_in_sync > 1
        norm = norm.replace(use_sync_bn=norm.use_sync_bn and several_replicas)
        # Replicas that share layers and a process take turns within a block where they synchronise.
        is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        if (
            config.rematerialize
            and norm.use_sync_bn
            and not is_tpu
            and len(strategy.extended.worker_devices) > 1
        ):
            raise UserError(
                "task.model.rematerialize: with several devices in one process it needs "
                "task.model.norm_activation.use_sync_bn=false"
            )
        options = LayerOptions(
            activation=norm.activation,
            momentum=norm.norm_momentum,
            epsilon=norm.norm_epsilon,
            synchronized=norm.use_sync_bn,
            regularizer=regularizer,
        )

        self.backbone = backbones.build_backbone(config, norm, regularizer)
        if config.rematerialize:
            rematerialize(self.backbone)
        self.decoder = backbones.build_decoder(
            config, self.backbone.output_specs, norm, regularizer
        )
        self.rpn_head = dense_prediction_heads.RPNHead(
            min_level=config.min_level,
            max_level=config.max_level,
            num_anchors_per_location=config.anchor.num_scales * len(config.anchor.aspect_ratios),
            num_convs=config.rpn_head.num_convs,
            num_filters=config.rpn_head.num_filters,
            use_separable_conv=config.rpn_head.use_separable_conv,
            activation=norm.activation,
            use_sync_bn=norm.use_sync_bn,
            norm_momentum=norm.norm_momentum,
            norm_epsilon=norm.norm_epsilon,
            kernel_regularizer=regularizer,
        )
        num_stages = 1 + len(config.roi_sampler.cascade_iou_thresholds or ())
        box_options = dataclasses.replace(
            options, separable=config.detection_head.use_separable_conv
        )
        self.detection_head = [
            BoxHead(config.detection_head, config.num_classes, box_options)
            for _ in range(num_stages)
        ]
        self.mask_head: MaskHead | None = None
        if config.include_mask:
            check_roi_size(config.mask_head, config.mask_roi_aligner.crop_size)
            self.mask_head = self._build_mask_head(options)
        self._create_variables()
        if static_shapes:
            convolutions.suit_tpu(self.backbone)
        elif not tf.config.list_logical_devices("GPU"):
            for head in self.detection_head:
                convolutions.suit_cpu(head, many=True)
            convolutions.suit_cpu(self)
        batch_norm.fold_batch_norm(self)
        if norm.frozen:
            batch_norm.freeze_batch_norm(self)

    @functools.cached_property
    def anchors(self) -> dict[str, np.ndarray]:
        """Anchors [4, a_l] of each level, in pixels of the network input."""
        config = self.config
        height, width = config.input_size[:2]
        return anchor_ops.pyramid_anchors(
            (height, width),
            config.min_level,
            config.max_level,
            config.anchor.num_scales,
            config.anchor.aspect_ratios,
            config.anchor.anchor_size,
        )

    def _build_mask_head(self, options: LayerOptions) -> MaskHead:
        config = self.config
        options = dataclasses.replace(options, separable=config.mask_head.use_separable_conv)
        network_options = options
        if self._model_garden:
            # There, only the hourglass synchronises, with numbers of its own and without L2.
            options = dataclasses.replace(options, synchronized=False)
            network_options = options
            if config.mask_head.convnet_variant != "default":
                network_options = dataclasses.replace(
                    network_options, momentum=0.1, epsilon=1e-5, regularizer=None
                )
        return MaskHead(config.mask_head, config.num_classes, options, network_options)

    def _create_variables(self) -> None:
        """Runs the heads on empty input; backbone and decoder come with their variables."""
        shapes = (self.backbone if self.decoder is None else self.decoder).output_specs
        channels = {level: shapes[level][-1] for level in self.anchors}
        self.rpn_head({level: tf.zeros([1, 1, 1, c]) for level, c in channels.items()})
        c = channels[str(self.config.min_level)]
        for head in self.detection_head:
            side = self.config.roi_aligner.crop_size
            head(tf.zeros([1, side, side, c]))
        if self.mask_head is not None:
            side = self.config.mask_roi_aligner.crop_size
            self.mask_head(tf.zeros([1, side, side, c]), tf.zeros([1], tf.int32))
        self.built = True

    def call(
        self,
        images: tf.Tensor,
        image_info: tf.Tensor,
        groundtruth: Mapping[str, tf.Tensor] | None = None,
        seeds: tf.Tensor | None = None,
        training: bool = False,
    ) -> TrainingOutputs | dict[str, tf.Tensor]:
        """Runs the model.

        Args:
          images: [b, height, width, channels], normalised.
          image_info: [b, 4, 2] of (y, x): original size, target size, scale, and offset, so that
            input pixel = original pixel * scale - offset.
          groundtruth: when training, `boxes` [b, n, 4] in input pixels, `classes` [b, n], both
            with padding below 0, and for models with masks `masks` [b, n, t, t], relative to the
            boxes, and `mask_valid` [b, n]: the instances that may train the mask head.
          seeds: uint32 [b] of the random draws of a training step, of `ops.random`.
          training: selects what is returned.

        Returns:
          When training, `TrainingOutputs`. Else a dict in original pixels: `num_detections` [b],
          `detection_boxes` [b, d, 4], `detection_classes`, `detection_scores` [b, d], best first
          and 0 beyond `num_detections`, and for models with masks `detection_masks` [b, d, s, s],
          probabilities relative to the box, or to `detection_outer_boxes` if
          `outer_boxes_scale` is not 1.
        """
        if not training:
            found = self._find_proposals(images, image_info, training=False)
            return self._detect(found, image_info)
        if groundtruth is None:
            raise ValueError("training needs groundtruth")
        if seeds is None:
            seeds = tf.cast(tf.range(tf.shape(images)[0]), tf.uint32)
        depth_seeds, sampling_seeds = random.split(seeds, 2)
        with stochastic_depth.seeded(depth_seeds):
            found = self._find_proposals(images, image_info, training=True)
        return self._compare(found, groundtruth, sampling_seeds, training=True)

    def validate(
        self,
        images: tf.Tensor,
        image_info: tf.Tensor,
        groundtruth: Mapping[str, tf.Tensor],
        seeds: tf.Tensor,
    ) -> tuple[dict[str, tf.Tensor], TrainingOutputs]:
        """Detections, and what the losses are computed of, by a model that is not being trained.

        Arguments and results are those of `call`; backbone and proposals are computed once.
        """
        found = self._find_proposals(images, image_info, training=False)
        outputs = self._compare(found, groundtruth, seeds, training=False)
        return self._detect(found, image_info), outputs

    def _find_proposals(
        self, images: tf.Tensor, image_info: tf.Tensor, training: bool
    ) -> _Proposals:
        features = self.extract_features(images, training)
        rpn_logits, rpn_deltas = self._propose(features, training)
        image_size = self._image_size(image_info)
        boxes, scores = proposals.generate_proposals(
            rpn_logits,
            rpn_deltas,
            self.anchors,
            image_size,
            self.config.roi_generator,
            training,
            self.static_shapes,
            keep_empty=self._model_garden,
        )
        boxes = tf.stop_gradient(boxes)
        return _Proposals(features, rpn_logits, rpn_deltas, boxes, scores >= 0.0, image_size)

    def _compare(
        self,
        found: _Proposals,
        groundtruth: Mapping[str, tf.Tensor],
        seeds: tf.Tensor,
        training: bool,
    ) -> TrainingOutputs:
        """Samples proposals by the ground truth and runs the heads on them."""
        stages = self._box_stages(found, groundtruth, seeds, training)
        masks = None
        if self.mask_head is not None:
            masks = self._masks_with_targets(found, stages[-1].labels, groundtruth, training)
        return TrainingOutputs(found.rpn_logits, found.rpn_deltas, tuple(stages), masks)

    def extract_features(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Feature maps [b, height_l, width_l, c] by level, of images [b, height, width, 3]."""
        features = self.backbone(images, training=training)
        if self.decoder is not None:
            features = self.decoder(features, training=training)
        return {level: features[level] for level in self.anchors}

    def predict_masks(
        self,
        features: Mapping[str, tf.Tensor],
        boxes: tf.Tensor,
        batch_indices: tf.Tensor,
        classes: tf.Tensor,
    ) -> tf.Tensor:
        """Mask probabilities [m, s, s] of any boxes [m, 4] in input pixels.

        Args:
          features: of `extract_features`.
          boxes: [m, 4], within the network input.
          batch_indices: int32 [m], the image of each box.
          classes: int32 [m]; a class-agnostic head does not look at them.
        """
        assert self.mask_head is not None  # include_mask
        logits = self.mask_head(
            self._align(features, boxes, batch_indices, self.config.mask_roi_aligner),
            classes,
            training=False,
        )
        return tf.sigmoid(tf.cast(logits, tf.float32))

    def segment(
        self,
        images: tf.Tensor,
        image_info: tf.Tensor,
        boxes: tf.Tensor,
        batch_indices: tf.Tensor,
        classes: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Masks of given boxes: backbone, pyramid and mask head alone.

        Args:
          images: as in `call`; so is the next.
          image_info: ...
          boxes: [m, 4] in original pixels, which may reach over the edges of the image.
          batch_indices: int32 [m], the image of each box.
          classes: int32 [m]; a class-agnostic head does not look at them.

        Returns:
          Probabilities [m, s, s], and the boxes [m, 4] in original pixels that they are relative
          to: `boxes` within the image, enlarged by `outer_boxes_scale`.
        """
        info = tf.gather(image_info, batch_indices)  # [m, 4, 2]
        image_size = self._image_size(info)  # [m, 2]
        scale, offset = (tf.tile(info[:, i], [1, 2]) for i in (2, 3))
        outer = box_ops.clip(boxes * scale - offset, image_size)
        outer = box_ops.enlarge(outer[:, None], self.config.outer_boxes_scale, image_size)[:, 0]
        features = self.extract_features(images)
        masks = self.predict_masks(features, outer, batch_indices, classes)
        return masks, _to_original(outer[:, None], info)[:, 0]

    def _image_size(self, image_info: tf.Tensor) -> tf.Tensor:
        """(height, width) [b, 2] of the images within the network input, padding left out."""
        if self._model_garden:
            return image_info[:, 1]
        return tf.minimum(image_info[:, 1], image_info[:, 0] * image_info[:, 2] - image_info[:, 3])

    def _propose(
        self, features: Mapping[str, tf.Tensor], training: bool
    ) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        scores, boxes = self.rpn_head(features, training=training)
        logits, deltas = {}, {}
        for level, anchors in self.anchors.items():
            per_cell, num_anchors = scores[level].shape[-1], anchors.shape[1]
            planes = tf.transpose(scores[level], [0, 3, 1, 2])  # [b, per_cell, h, w]
            logits[level] = tf.reshape(planes, [-1, num_anchors])
            planes = tf.transpose(boxes[level], [0, 3, 1, 2])  # [b, per_cell * 4, h, w]
            planes = tf.reshape(planes, [-1, per_cell, 4, num_anchors // per_cell])
            deltas[level] = tf.reshape(tf.transpose(planes, [0, 2, 1, 3]), [-1, 4, num_anchors])
        return logits, deltas

    def _align(
        self,
        features: Mapping[str, tf.Tensor],
        boxes: tf.Tensor,
        batch_indices: tf.Tensor,
        aligner: ROIAligner,
    ) -> tf.Tensor:
        return roi_align(
            features,
            boxes,
            batch_indices,
            aligner.crop_size,
            sampling_ratio=1 if self._model_garden else aligner.sampling_ratio,
            half_pixel=not self._model_garden,
            static_shapes=self.static_shapes,
        )

    def _run_box_head(
        self, features: Mapping[str, tf.Tensor], rois: tf.Tensor, stage: int, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Class logits [b, k, classes] and box outputs [b, k, boxes, 4] of RoIs [b, k, 4]."""
        b, k = tf.shape(rois)[0], rois.shape[1]
        batch_indices = tf.repeat(tf.range(b), k)
        crops = self._align(
            features, tf.reshape(rois, [-1, 4]), batch_indices, self.config.roi_aligner
        )
        logits, boxes = self.detection_head[stage](crops, training=training)
        logits = tf.reshape(tf.cast(logits, tf.float32), [b, k, logits.shape[-1]])
        return logits, tf.reshape(tf.cast(boxes, tf.float32), [b, k, boxes.shape[1], 4])

    def _refine(
        self, rois: tf.Tensor, outputs: tf.Tensor, stage: int, size: tf.Tensor
    ) -> tf.Tensor:
        """RoIs [b, k, 4] of the next cascade stage, from class-agnostic outputs [b, k, 1, 4]."""
        weights = box_ops.CASCADE_REGRESSION_WEIGHTS[stage]
        return tf.stop_gradient(box_ops.clip(box_ops.decode(outputs[:, :, 0], rois, weights), size))

    def _box_stages(
        self,
        found: _Proposals,
        groundtruth: Mapping[str, tf.Tensor],
        seeds: tf.Tensor,
        training: bool,
    ) -> list[BoxStage]:
        gt_boxes, gt_classes = groundtruth["boxes"], groundtruth["classes"]
        sampler = self.config.roi_sampler
        labels = roi_sampling.sample_rois(
            found.boxes,
            found.valid,
            gt_boxes,
            gt_classes,
            sampler,
            box_ops.CASCADE_REGRESSION_WEIGHTS[0],
            seeds,
        )
        stages: list[BoxStage] = []
        thresholds = sampler.cascade_iou_thresholds or []
        for stage in range(len(self.detection_head)):
            if stage > 0:
                labels = roi_sampling.label_rois(
                    self._refine(labels.rois, stages[-1].box_outputs, stage - 1, found.image_size),
                    gt_boxes,
                    gt_classes,
                    thresholds[stage - 1],
                    box_ops.CASCADE_REGRESSION_WEIGHTS[stage],
                )
            logits, outputs = self._run_box_head(found.features, labels.rois, stage, training)
            stages.append(BoxStage(logits, outputs, labels))
        return stages

    def _masks_with_targets(
        self,
        found: _Proposals,
        labels: roi_sampling.LabelledRoIs,
        groundtruth: Mapping[str, tf.Tensor],
        training: bool,
    ) -> MaskOutputs:
        """Runs the mask head on the RoIs of all images that have a mask to learn."""
        config = self.config
        gt_boxes, mask_valid = groundtruth["boxes"], groundtruth["mask_valid"]
        if config.use_gt_boxes_for_masks:
            rois, classes, chosen = gt_boxes, groundtruth["classes"], mask_valid
            gt_indices = tf.zeros_like(classes) + tf.range(tf.shape(classes)[1])
        else:
            rois, classes, gt_indices = labels.rois, labels.classes, labels.gt_indices
            chosen = (classes > 0) & tf.gather(mask_valid, gt_indices, batch_dims=1)
            rank = tf.cumsum(tf.cast(chosen, tf.int32), axis=1)
            chosen &= rank <= config.mask_sampler.num_sampled_masks
        rois = box_ops.enlarge(rois, config.outer_boxes_scale, found.image_size)

        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        capacity = static_mask_rois(config, *chosen.shape) if self.static_shapes else None
        packed = sampling.pack(chosen, capacity, min_size=1)
        classes, gt_indices = packed.gather(classes), packed.gather(gt_indices)
        rois = packed.gather(rois)
        gt_slots = tf.stack([packed.batch_indices, gt_indices], axis=-1)  # [m, 2]
        size = config.mask_roi_aligner.crop_size * config.mask_head.upsample_factor

        crops = self._align(found.features, rois, packed.batch_indices, config.mask_roi_aligner)

        weights = packed.weights
        if capacity is None and replicas == 1:
            # All or none are padding, and batch norm need not look at each.
            weights = tf.reduce_max(weights)
        assert self.mask_head is not None  # include_mask
        logits = self.mask_head(crops, tf.maximum(classes, 0), training=training, weights=weights)
        targets = mask_ops.resample_mask_targets(
            tf.gather_nd(groundtruth["masks"], gt_slots),
            tf.gather_nd(gt_boxes, gt_slots),
            rois,
            size,
        )
        return MaskOutputs(tf.cast(logits, tf.float32), targets, packed.weights, packed.num_dropped)

    def _detect(self, found: _Proposals, image_info: tf.Tensor) -> dict[str, tf.Tensor]:
        config = self.config.detection_generator
        features, rois, image_size = found.features, found.boxes, found.image_size
        all_logits: list[tf.Tensor] = []
        outputs: Any = None
        for stage in range(len(self.detection_head)):
            if stage > 0:
                rois = self._refine(rois, outputs, stage - 1, image_size)
            logits, outputs = self._run_box_head(features, rois, stage, training=False)
            all_logits.append(logits)
        if self.config.detection_head.cascade_class_ensemble:
            logits = tf.add_n(all_logits) / len(all_logits)
        scores = tf.sigmoid(logits) if config.use_sigmoid_probability else tf.nn.softmax(logits)
        if outputs.shape[2] > 1:
            outputs = outputs[:, :, 1:]  # without the background
        weights = box_ops.CASCADE_REGRESSION_WEIGHTS[len(self.detection_head) - 1]
        boxes = box_ops.decode(outputs, rois[:, :, None], weights)  # [b, k, boxes, 4]
        boxes, scores, classes, count = nms.suppress_per_class(
            box_ops.clip(boxes, image_size),
            scores[:, :, 1:],
            config.nms_iou_threshold,
            config.pre_nms_score_threshold,
            config.max_num_detections,
            config.pre_nms_top_k,
            config.soft_nms_sigma,
            self.static_shapes,
        )
        real = tf.range(config.max_num_detections)[None] < count[:, None]  # [b, d]
        classes = tf.where(real, classes + 1, 0)
        detections = {
            "num_detections": count,
            "detection_boxes": _to_original(boxes, image_info),
            "detection_classes": classes,
            "detection_scores": scores,
        }
        if self.mask_head is None:
            return detections
        boxes = box_ops.enlarge(boxes, self.config.outer_boxes_scale, image_size)
        if self.config.outer_boxes_scale != 1.0:
            detections["detection_outer_boxes"] = _to_original(boxes, image_info)
        all_slots = None if self.pack_detections else real.shape.num_elements()
        packed = sampling.pack(real, all_slots, min_size=1)
        masks = self.predict_masks(
            features, packed.gather(boxes), packed.batch_indices, packed.gather(classes)
        )
        side = masks.shape[1]
        detections["detection_masks"] = tf.scatter_nd(
            tf.stack([packed.batch_indices, packed.slots], axis=-1),
            masks * packed.weights[:, None, None],
            [tf.shape(real)[0], config.max_num_detections, side, side],
        )
        return detections


def _to_original(boxes: tf.Tensor, image_info: tf.Tensor) -> tf.Tensor:
    """Boxes [b, d, 4] from pixels of the network input to those of the original images."""
    size, scale, offset = (tf.tile(image_info[:, None, i], [1, 1, 2]) for i in (0, 2, 3))
    return tf.clip_by_value((boxes + offset) / scale, 0.0, size)

"""What a model costs: parameters, FLOPs and activation memory of its parts, without running it.

The evaluation step and the training step are traced to graphs and counted there. Their shapes are
static, as under XLA or on a TPU; elsewhere the parts are the same, and only the rest (proposals,
NMS, RoIAlign) uses other operations. FLOPs follow the conventions of TensorFlow's profiler: a
product and its addition are two, activation functions and fused batch norms are none.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import rich.table
import tensorflow as tf
import tf_keras

from official_maskrcnn import precision
from official_maskrcnn.configs.experiment import ExperimentConfig
from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.modeling.mask_rcnn import MaskRCNN
from official_maskrcnn.tasks.deep_mask_head_rcnn import Batch, MaskRCNNTask
from official_maskrcnn.tasks.graph_cost import REST, PartitionedGraph, not_counted

PARTS = ("backbone", "decoder", "rpn_head", "detection_head", "mask_head", REST)


@dataclasses.dataclass(frozen=True)
class PartCost:
    """Cost of one part, or of all; FLOPs are of one image, memory is of a batch.

    Attributes:
      parameters: numbers in its variables, moving statistics included.
      trainable_parameters: those of them that have gradients.
      inference_flops: of the evaluation step.
      training_flops: of the training step: forward, backward, update.
      inference_memory: most bytes of activations alive at once while the part runs, if operations
        run in the order of the graph and each tensor lives until its last use.
      training_memory: bytes of its forward activations that the backward pass reads.
    """

    parameters: int
    trainable_parameters: int
    inference_flops: int
    training_flops: int
    inference_memory: int
    training_memory: int


@dataclasses.dataclass(frozen=True)
class MaskPacking:
    """What a step saves by running the mask head on a packed set of RoIs; of one image.

    Attributes:
      rois: RoIs in the packed set.
      slots: RoIs with padding.
      packed_flops: of the mask head on the packed set.
      all_slots_flops: of the mask head on all slots.
      saved_share: of the FLOPs of the whole step with all slots.
    """

    rois: int
    slots: int
    packed_flops: int
    all_slots_flops: int
    saved_share: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a model.

    Attributes:
      input_size: height, width and channels of an image.
      batch_size: images in a batch.
      parts: by the names in `PARTS`.
      mask_packing: of "training" and "inference"; empty for a model without masks.
      not_counted: FLOPs that are missing.
    """

    input_size: tuple[int, ...]
    batch_size: int
    parts: dict[str, PartCost]
    mask_packing: dict[str, MaskPacking]
    not_counted: tuple[str, ...]

    @property
    def total(self) -> PartCost:
        """Sum of the parts; of `inference_memory`, which is a peak, the largest."""
        columns = {
            field.name: [getattr(part, field.name) for part in self.parts.values()]
            for field in dataclasses.fields(PartCost)
        }
        peak = max(columns.pop("inference_memory"))
        return PartCost(**{name: sum(v) for name, v in columns.items()}, inference_memory=peak)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {**dataclasses.asdict(self), "total": dataclasses.asdict(self.total)}

    def tables(self) -> list[rich.table.Table]:
        """The same as tables for people."""
        size = "x".join(map(str, self.input_size))
        table = rich.table.Table(title=f"Cost at {size}, batch of {self.batch_size}")
        table.add_column("part")
        for name in (
            *("parameters\nM", "trainable\nM", "inference\nGFLOPs/image", "training\nGFLOPs/image"),
            *("inference peak\nMiB/batch", "kept in training\nMiB/batch"),
        ):
            table.add_column(name, justify="right")
        for name, part in [*self.parts.items(), ("total", self.total)]:
            if name == "total":
                table.add_section()
            values = zip(dataclasses.astuple(part), (1e6, 1e6, 1e9, 1e9, 2**20, 2**20), strict=True)
            table.add_row(name, *(f"{value / unit:,.2f}" for value, unit in values))
        table.caption = "\n".join(
            (
                f"{REST}: proposals, NMS, RoIAlign, losses, update; shapes static as under XLA",
                "inference peak: activations alive at once while the part runs",
                "kept in training: forward activations that the backward pass reads",
                *(f"not counted: {note}" for note in self.not_counted),
            )
        )
        return [table, *([self._packing_table()] if self.mask_packing else [])]

    def _packing_table(self) -> rich.table.Table:
        table = rich.table.Table(title="Packed mask head, of an image")
        table.add_column("step")
        for name in ("RoIs", "slots", "packed\nGFLOPs", "all slots\nGFLOPs", "saved of\nthe step"):
            table.add_column(name, justify="right")
        for name, packing in self.mask_packing.items():
            flops = (packing.packed_flops, packing.all_slots_flops)
            table.add_row(
                *(name, str(packing.rois), str(packing.slots)),
                *(f"{value / 1e9:,.2f}" for value in flops),
                f"{packing.saved_share:.1%}",
            )
        return table


def analyze(experiment: ExperimentConfig, batch_size: int = 1, instances: int = 7) -> Cost:
    """Cost of an experiment's model, on one replica.

    The parts count the mask head with `instances` RoIs an image in training, and with
    `max_num_detections` at inference.

    Args:
      experiment: a checked configuration; neither its data nor its checkpoint is looked for.
      batch_size: images in the batch of the replica.
      instances: RoIs an image that have a mask to learn, or detections that are real; more than
        there are slots count as all slots. The mean of COCO is 7.

    Raises:
      UserError: parts of the model that do not fit each other.
    """
    steps = trace(experiment, batch_size, instances)
    layers = _layers_by_part(steps.model)
    names = {layer.name: part for part in layers for layer in layers[part]}
    inference, training = (
        PartitionedGraph(graph, steps.model.name, names)
        for graph in (steps.inference, steps.training)
    )
    inference_flops, training_flops = inference.flops(), training.flops()
    inference_memory, training_memory = inference.peak_bytes(), training.kept_bytes()
    parts = {
        part: PartCost(
            sum(_size(layer.variables) for layer in layers[part]),
            sum(_size(layer.trainable_variables) for layer in layers[part]),
            inference_flops[part] // batch_size,
            training_flops[part] // batch_size,
            inference_memory[part],
            training_memory[part],
        )
        for part in PARTS
    }
    missing = not_counted(steps.inference) + not_counted(steps.training)
    notes = tuple(f"{what}, {count} times" for what, count in sorted(missing.items()))
    size = tuple(steps.model.config.input_size)
    cost = Cost(size, batch_size, parts, {}, notes)
    if steps.model.mask_head is None:
        return cost
    return dataclasses.replace(cost, mask_packing=_mask_packing(cost, experiment, instances))


def _layers_by_part(model: MaskRCNN) -> dict[str, list[tf_keras.layers.Layer]]:
    parts = {part: getattr(model, part, None) for part in PARTS}  # a list for the box heads
    return {
        part: [layer for layer in tf.nest.flatten(layers) if layer is not None]
        for part, layers in parts.items()
    }


def _size(variables: Sequence[tf.Variable]) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _mask_packing(
    cost: Cost, experiment: ExperimentConfig, instances: int
) -> dict[str, MaskPacking]:
    """The mask head costs the same for each RoI."""
    head, total = cost.parts["mask_head"], cost.total
    slots, detections = _mask_slots(experiment), _detections(experiment)

    def packing(slots: int, counted: int, head_flops: int, step_flops: int) -> MaskPacking:
        rois = min(instances, slots)
        packed, full = (round(head_flops * number / counted) for number in (rois, slots))
        saved = (full - packed) / (step_flops - head_flops + full)
        return MaskPacking(rois, slots, packed, full, saved)

    return {
        "training": packing(
            slots, min(instances, slots), head.training_flops, total.training_flops
        ),
        "inference": packing(detections, detections, head.inference_flops, total.inference_flops),
    }


def _mask_slots(experiment: ExperimentConfig) -> int:
    """RoIs an image that may train the mask head."""
    task = experiment.task
    if task.model.use_gt_boxes_for_masks:
        return task.train_data.parser.max_num_instances
    return task.model.mask_sampler.num_sampled_masks


def _detections(experiment: ExperimentConfig) -> int:
    return experiment.task.model.detection_generator.max_num_detections


class TracedSteps(NamedTuple):
    """Graphs of the two steps, all shapes known that can be, and the model in them."""

    inference: tf.Graph
    training: tf.Graph
    model: MaskRCNN


def trace(experiment: ExperimentConfig, batch_size: int, instances: int) -> TracedSteps:
    """Builds the model, with random weights, and traces its steps; arguments as for `analyze`."""
    experiment = _with_static_shapes(experiment, instances)
    task = MaskRCNNTask(experiment.task, experiment.runtime)
    with precision.policy(precision.resolve(experiment.runtime.mixed_precision_dtype)):
        model = task.build_model()
        optimizer = task.build_optimizer(experiment.trainer.optimizer_config)
        # A step that creates variables would be traced twice.
        if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
            optimizer._create_all_weights(model.trainable_variables)
        else:
            optimizer.build(model.trainable_variables)
        data = experiment.task
        inference = _trace(
            lambda batch: task.eval_step(batch, model),
            batch_spec(experiment, data.validation_data, batch_size),
        )
        training = _trace(
            lambda batch: task.train_step(batch, model, optimizer),
            batch_spec(experiment, data.train_data, batch_size),
        )
    _fill_shapes(inference, batch_size * _detections(experiment))
    return TracedSteps(inference, training, model)


def _trace(step: Callable[[Batch], Any], batch: dict[str, tf.TensorSpec]) -> tf.Graph:
    return tf.function(step).get_concrete_function(batch).graph


def _with_static_shapes(experiment: ExperimentConfig, instances: int) -> ExperimentConfig:
    experiment = copy.deepcopy(experiment)
    experiment.runtime.enable_xla = True
    model, optimizer = experiment.task.model, experiment.trainer.optimizer_config
    model.mask_sampler.static_rois_per_image = min(instances, _mask_slots(experiment))
    model.detection_generator.soft_nms_sigma = None  # has no version with static shapes
    # Schedules may need the size of the data, and cost nothing.
    optimizer.learning_rate.type, optimizer.warmup.type, optimizer.ema = "constant", None, None
    return experiment


def batch_spec(
    experiment: ExperimentConfig, data: DataConfig, batch_size: int
) -> dict[str, tf.TensorSpec]:
    """Shapes and dtypes of a batch as `data.pipeline.build_dataset` gives it, by entry."""
    n, side = data.parser.max_num_instances, data.parser.mask_crop_size
    entries: dict[str, tuple[list[int], Any]] = {
        "image": (experiment.task.model.input_size, tf.as_dtype(data.dtype)),
        "image_info": ([4, 2], tf.float32),
        "source_id": ([], tf.int64),
        "boxes": ([n, 4], tf.float32),
        "classes": ([n], tf.int32),
        "num_truncated": ([], tf.int32),
    }
    if experiment.task.model.include_mask:
        entries |= {"masks": ([n, side, side], tf.uint8), "mask_valid": ([n], tf.bool)}
    return {
        name: tf.TensorSpec([batch_size, *shape], dtype) for name, (shape, dtype) in entries.items()
    }


def _fill_shapes(graph: tf.Graph, detections: int) -> None:
    """At inference the number of detections is the one size that tracing leaves open."""
    for operation in graph.get_operations():
        for tensor in operation.outputs:
            if tensor.shape.rank and not tensor.shape.is_fully_defined():
                tensor.set_shape([detections if d is None else d for d in tensor.shape])

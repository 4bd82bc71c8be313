"""FLOPs against TensorFlow's profiler and by hand, parameters, memory, and what packing saves."""

import json

import pytest
import rich.console
import tensorflow as tf
import tf_keras

from official_maskrcnn import load_experiment
from official_maskrcnn.tasks import cost
from official_maskrcnn.tasks.graph_cost import (
    REST,
    PartitionedGraph,
    flops_by_operation,
    not_counted,
)

_TINY = (
    "task.init_checkpoint=/nowhere/checkpoint,task.model.input_size=[64,64,3],"
    "task.model.num_classes=5,"
    "task.model.backbone.resnet.model_id=18,task.model.decoder.fpn.num_filters=16,"
    "task.model.detection_head.num_convs=1,task.model.detection_head.num_filters=16,"
    "task.model.detection_head.fc_dims=16,task.model.mask_head.num_convs=2,"
    "task.model.mask_head.num_filters=16,task.model.roi_sampler.num_sampled_rois=16,"
    "task.model.mask_sampler.num_sampled_masks=8,task.model.roi_generator.num_proposals=30,"
    "task.model.roi_generator.test_num_proposals=30,task.model.roi_generator.pre_nms_top_k=60,"
    "task.model.detection_generator.pre_nms_top_k=60,"
    "task.model.detection_generator.max_num_detections=10,"
    "task.validation_data.dtype=float32"
)
_PRECISION = "task.train_data.dtype={0},runtime.mixed_precision_dtype={0}"
_SLOTS = 8


def _experiment(*overrides: str, dtype: str = "float32"):
    return load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco",
        overrides=",".join([_TINY, _PRECISION.format(dtype), *overrides]),
    )


@pytest.fixture(scope="module")
def steps() -> cost.TracedSteps:
    return cost.trace(_experiment(), batch_size=1, instances=2)


@pytest.fixture(scope="module")
def of_two_instances(steps) -> cost.Cost:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "trace", lambda *_: steps)
        return cost.analyze(_experiment(), batch_size=1, instances=2)


def _profiled_flops(graph: tf.Graph) -> int:
    """What TensorFlow's profiler counts in all, without what no result needs."""
    fetched = [tensor.op.name for tensor in graph.outputs]
    fetched += [operation.name for operation in graph.control_outputs]
    definition = graph.as_graph_def(add_shapes=True)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(
            tf.compat.v1.graph_util.extract_sub_graph(definition, fetched), name=""
        )
    builder = tf.compat.v1.profiler.ProfileOptionBuilder
    options = builder(builder.float_operation()).with_empty_output().build()
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops


def test_agrees_with_tensorflows_profiler(steps, of_two_instances):
    inference, training = map(_profiled_flops, (steps.inference, steps.training))
    assert min(inference, training) > 1e7
    assert of_two_instances.total.inference_flops == pytest.approx(inference, rel=0.01)
    assert of_two_instances.total.training_flops == pytest.approx(training, rel=0.01)


def test_parts_sum_to_the_total_and_parameters_are_the_models(steps, of_two_instances):
    parts, total, model = of_two_instances.parts, of_two_instances.total, steps.model
    assert list(parts) == list(cost.PARTS)
    for name in ("inference_flops", "training_flops", "training_memory", "parameters"):
        assert getattr(total, name) == sum(getattr(part, name) for part in parts.values()), name
        for part in cost.PARTS[:-1]:
            assert getattr(parts[part], name) > 0, (part, name)
    assert total.inference_memory == max(part.inference_memory for part in parts.values())
    assert total.parameters == model.count_params()
    assert total.trainable_parameters == sum(
        v.shape.num_elements() for v in model.trainable_weights
    )
    assert parts["mask_head"].parameters == model.mask_head.count_params()
    assert parts["rest"].parameters == 0


def test_a_training_step_costs_three_times_its_forward_pass(of_two_instances):
    """Each convolution has two gradients; the first of the backbone only one."""
    for part in ("backbone", "decoder", "rpn_head"):
        of_part = of_two_instances.parts[part]
        assert 2.5 < of_part.training_flops / of_part.inference_flops < 3.2, part
    rois = 16 / 30  # of training and of inference
    box_head = of_two_instances.parts["detection_head"]
    assert box_head.training_flops / box_head.inference_flops == pytest.approx(3 * rois, rel=0.1)


def test_json_and_tables_give_the_same(of_two_instances):
    numbers = of_two_instances.to_dict()
    assert json.loads(json.dumps(numbers)) == {**numbers, **_as_lists(numbers)}
    assert numbers["total"]["parameters"] == of_two_instances.total.parameters
    console = rich.console.Console(width=160)
    with console.capture() as capture:
        console.print(*of_two_instances.tables())
    text = capture.get()
    for part in (*cost.PARTS, "total"):
        assert part in text
    assert "Cost at 64x64x3, batch of 1" in text and "Packed mask head" in text


def _as_lists(numbers):
    return {name: list(v) for name, v in numbers.items() if isinstance(v, tuple)}


def test_packing_saves_in_proportion_to_the_padding(steps, of_two_instances):
    twice = cost.analyze(_experiment(), batch_size=1, instances=4)
    two, four = of_two_instances, twice
    heads = (four.parts["mask_head"], two.parts["mask_head"])
    assert heads[0].training_flops / heads[1].training_flops == pytest.approx(2, rel=0.01)
    assert heads[0].inference_flops == heads[1].inference_flops  # all detections
    assert four.parts["backbone"] == two.parts["backbone"]

    packing = two.mask_packing["training"]
    assert (packing.rois, packing.slots) == (2, _SLOTS)
    assert packing.packed_flops == heads[1].training_flops
    assert packing.all_slots_flops == 4 * packing.packed_flops
    assert four.mask_packing["training"].all_slots_flops == pytest.approx(
        packing.all_slots_flops, rel=0.01
    )
    saved = packing.all_slots_flops - packing.packed_flops
    assert packing.saved_share == pytest.approx(saved / (two.total.training_flops + saved))
    at_inference = two.mask_packing["inference"]
    assert (at_inference.rois, at_inference.slots) == (2, 10)
    assert at_inference.all_slots_flops == heads[1].inference_flops
    assert at_inference.packed_flops == pytest.approx(heads[1].inference_flops / 5, abs=1)


def test_heads_differ_in_cost_and_a_batch_counts_by_image(of_two_instances):
    """A class-agnostic hourglass52 on ground-truth boxes, two images, in bfloat16."""
    other = cost.analyze(
        _experiment(
            "task.model.mask_head.convnet_variant=hourglass52",
            "task.model.mask_head.class_agnostic=true,task.model.mask_roi_aligner.crop_size=32",
            "task.model.use_gt_boxes_for_masks=true,task.train_data.parser.max_num_instances=6",
            dtype="bfloat16",
        ),
        batch_size=2,
        instances=2,
    )
    assert tf_keras.mixed_precision.global_policy().name == "float32"
    default = of_two_instances
    hourglass, convolutions = other.parts["mask_head"], default.parts["mask_head"]
    assert hourglass.parameters > 10 * convolutions.parameters
    assert hourglass.training_flops > 10 * convolutions.training_flops
    assert other.mask_packing["training"].slots == 6
    for part in ("backbone", "decoder", "rpn_head"):
        assert other.parts[part].training_flops == pytest.approx(
            default.parts[part].training_flops, rel=0.01
        )
    # Twice as many images of half as many bytes.
    memory = [parts["backbone"].training_memory for parts in (other.parts, default.parts)]
    assert memory[0] == pytest.approx(memory[1], rel=0.05)


def test_a_model_without_masks_has_nothing_to_pack():
    of_boxes = cost.analyze(_experiment("task.model.include_mask=false"))
    assert of_boxes.mask_packing == {}
    assert of_boxes.parts["mask_head"] == cost.PartCost(0, 0, 0, 0, 0, 0)
    assert len(of_boxes.tables()) == 1


def _traced(function, *shapes: tuple[int, ...]) -> tf.Graph:
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return tf.function(function).get_concrete_function(*specs).graph


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_by_hand(stride):
    h, w, k, c_in, c_out = 12, 20, 3, 5, 7

    def step(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.nn.conv2d(x, kernel, stride, "SAME")
        return tape.gradient(y, [x, kernel], output_gradients=y)

    flops = flops_by_operation(_traced(step, (2, h, w, c_in), (k, k, c_in, c_out)))
    expected = 2 * k * k * c_in * c_out * (2 * h // stride * w // stride)
    assert [value for value in flops.values() if value] == [expected] * 3


def test_other_operations_by_hand():
    def of(function, *shapes: tuple[int, ...]) -> int:
        return sum(flops_by_operation(_traced(function, *shapes)).values())

    depthwise = of(
        lambda x, kernel: tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME"),
        *((1, 8, 8, 6), (3, 3, 6, 1)),
    )
    assert depthwise == 2 * 3 * 3 * 6 * 8 * 8
    transposed = of(
        lambda x, kernel: tf.nn.conv2d_transpose(x, kernel, [1, 16, 16, 4], 2),
        *((1, 8, 8, 6), (2, 2, 4, 6)),
    )
    assert transposed == 2 * 2 * 2 * 6 * 4 * 8 * 8
    assert of(lambda a, b: tf.matmul(a, b, transpose_a=True), (5, 3), (5, 4)) == 2 * 5 * 3 * 4
    assert of(lambda a, b: a @ b, (2, 3, 5), (2, 5, 4)) == 2 * 2 * 3 * 5 * 4
    assert of(lambda a, b: tf.einsum("mhwc,mc->mhw", a, b), (2, 3, 4, 5), (2, 5)) == 2 * 2 * 60


def test_what_is_not_counted_is_said():
    def step(x):
        x = tf.while_loop(lambda x: x[0, 0] < 0.0, lambda x: (x @ x,), (x,))[0]
        return x @ x

    known, unknown = _traced(step, (10, 10)), _traced(step, (None, 10))
    assert sum(flops_by_operation(known).values()) == 2 * 10**3
    assert list(not_counted(known)) == ["what StatelessWhile runs"]
    assert set(not_counted(unknown)) == {
        "what StatelessWhile runs",
        "MatMul of a shape known only when it runs",
    }


def test_bytes_of_activations_by_hand():
    kernel = tf.Variable(tf.zeros([3, 3, 2, 4]))

    def step(x):
        with tf.GradientTape() as tape, tf.name_scope("model"):
            with tf.name_scope("first"):
                y = tf.nn.conv2d(x, kernel, 1, "SAME")  # keeps x
                z = tf.nn.relu(tf.reshape(y, [1, 8, 32]))  # keeps z, not y
            with tf.name_scope("second"):
                loss = tf.reduce_sum(tf.square(z))  # keeps z
        return loss, tape.gradient(loss, kernel)

    graph = PartitionedGraph(
        _traced(step, (1, 8, 8, 2)), "model", {"first": "body", "second": "head"}
    )
    x, y = 4 * 8 * 8 * 2, 4 * 8 * 8 * 4
    assert graph.kept_bytes() == {REST: x, "body": y}
    assert graph.flops()["body"] == 2 * 2 * 3 * 3 * 2 * 4 * 8 * 8

    forward = PartitionedGraph(
        _traced(lambda x: tf.exp(tf.sqrt(tf.tile(x, [3]))), (10,)), "model", {}
    )
    assert forward.peak_bytes()[REST] == 4 * (30 + 30)


def test_rematerialization_trades_memory_for_flops(of_two_instances):
    plain = of_two_instances.parts
    thrifty = cost.analyze(_experiment("task.model.rematerialize=true"), 1, instances=2).parts
    assert thrifty["backbone"].training_memory < 0.6 * plain["backbone"].training_memory
    again = thrifty["backbone"].training_flops - plain["backbone"].training_flops
    # All convolutions but the first, which belongs to no block.
    assert 0.5 < again / plain["backbone"].inference_flops < 1.0
    for name in set(plain) - {"backbone", REST}:
        assert thrifty[name].training_memory == plain[name].training_memory, name
        assert thrifty[name].training_flops == pytest.approx(plain[name].training_flops, rel=0.01)

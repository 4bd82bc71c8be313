"""tpu-check: topologies, what a step takes, the largest batch, refusals, and a real compilation."""

import importlib.util
import json

import pytest
import rich.console
import tensorflow as tf

from official_maskrcnn import UserError
from official_maskrcnn.cli.main import main
from official_maskrcnn.tasks.stablehlo import CompileError
from official_maskrcnn.training import tpu_check, tpu_compiler
from official_maskrcnn.training.tpu_compiler import Buffer, Program
from official_maskrcnn.training.tpu_topology import GENERATIONS, GIB, parse_topology

_RESNET = "deep_mask_head_rcnn_resnetfpn_coco"
_TINY = (
    "task.init_checkpoint=null",
    "task.model.input_size=[64,64,3]",
    "task.model.num_classes=5",
    "task.model.backbone.resnet.model_id=18",
    "task.model.decoder.fpn.num_filters=16",
    "task.model.detection_head.num_convs=1",
    "task.model.detection_head.num_filters=16",
    "task.model.detection_head.fc_dims=16",
    "task.model.mask_head.num_convs=2",
    "task.model.mask_head.num_filters=16",
    "task.model.roi_sampler.num_sampled_rois=16",
    "task.model.mask_sampler.num_sampled_masks=8",
    "task.model.roi_generator.num_proposals=30",
    "task.model.roi_generator.test_num_proposals=30",
    "task.model.roi_generator.pre_nms_top_k=60",
    "task.model.detection_generator.pre_nms_top_k=60",
    "task.model.detection_generator.max_num_detections=10",
)


@pytest.mark.parametrize(
    ("name", "chips", "devices", "gib", "teraflops", "gigabytes"),
    [
        ("v2-8", 4, 8, 8, 22.5, 350),
        ("v3-32", 16, 32, 16, 61.5, 450),
        ("v4-8", 4, 4, 32, 275, 1200),
        ("v5e-16", 16, 16, 16, 197, 819),
        ("v5litepod-16", 16, 16, 16, 197, 819),
        ("v5p-8", 4, 4, 95, 459, 2765),
        ("v6e-8", 8, 8, 32, 918, 1640),
    ],
)
def test_a_topology_s_devices_by_hand(name, chips, devices, gib, teraflops, gigabytes):
    topology = parse_topology(name)
    assert (topology.chips, topology.devices) == (chips, devices)
    assert topology.hbm_bytes == gib * GIB
    assert topology.peak_flops == teraflops * 1e12
    assert topology.bandwidth == gigabytes * 1e9
    assert topology.device_name == ("core" if name[:2] in ("v2", "v3") else "chip")


@pytest.mark.parametrize("name", ["v3", "v7-8", "v3-7", "v3-0", "v5e-512", "v4-8192000", "32"])
def test_no_such_topology(name):
    with pytest.raises(UserError, match=name):
        parse_topology(name)


def test_a_batch_must_be_shared_out_evenly():
    topology = parse_topology("v3-32")
    assert topology.per_device(64, "task.train_data.global_batch_size") == 2
    with pytest.raises(UserError, match=r"task.train_data.global_batch_size \(48\).* 32 cores"):
        topology.per_device(48, "task.train_data.global_batch_size")


@pytest.mark.parametrize("start", [1, 3, 8, 100])
@pytest.mark.parametrize("limit", [0, 1, 2, 7, 8, 100])
def test_the_largest_batch_with_a_fake_compiler(start, limit):
    tried = []

    def fits(batch_size):
        tried.append(batch_size)
        return batch_size <= limit

    assert tpu_check.largest_batch(fits, start) == limit
    assert len(tried) == len(set(tried)) <= 14
    assert min(tried) >= 1


_PROGRAM = Program(
    fits=True,
    total_bytes=10 * GIB,
    argument_bytes=3 * GIB,
    output_bytes=3 * GIB,
    shared_bytes=2 * GIB,
    temporary_bytes=6 * GIB,
    flops=6.15e12,
    bytes_accessed=90e9,
)


def test_the_step_takes_as_long_as_the_slower_of_computing_and_memory():
    check = tpu_check.TPUCheck("training", parse_topology("v3-32"), 2, "bfloat16", _PROGRAM)
    assert check.compute_seconds == pytest.approx(0.1)
    assert check.memory_seconds == pytest.approx(0.2)
    assert check.step_seconds == pytest.approx(0.2)
    faster_memory = tpu_check.TPUCheck("training", parse_topology("v4-8"), 2, "bfloat16", _PROGRAM)
    assert faster_memory.step_seconds == pytest.approx(90 / 1200)


def _printed(check: tpu_check.TPUCheck) -> str:
    """The tables, without the line breaks of titles and captions."""
    console = rich.console.Console(width=160)
    with console.capture() as capture:
        console.print(*check.tables())
    return " ".join(capture.get().split())


def test_json_and_tables_give_the_same():
    check = tpu_check.TPUCheck("training", parse_topology("v3-32"), 2, "bfloat16", _PROGRAM, 3)
    numbers = json.loads(json.dumps(check.to_dict()))
    assert numbers["topology"] == "v3-32" and numbers["devices"] == 32
    assert numbers["available_bytes"] == 16 * GIB
    assert numbers["total_bytes"] == 10 * GIB and numbers["fits"] is True
    assert numbers["step_seconds"] == check.step_seconds
    text = _printed(check)
    for part in ("one core of v3-32", "batch of 2", "bfloat16", "10.00", "6.15", "200.00", "yes"):
        assert part in text, part
    assert "without the sums of gradients" in text


def test_a_program_without_room_says_which_buffers_are_largest():
    buffer = Buffer(4 * GIB, "f32[2,256,256,256]{3,2,1,0}", "mask_rcnn/backbone/conv")
    program = Program(False, 20 * GIB, largest_buffers=(buffer,))
    check = tpu_check.TPUCheck("training", parse_topology("v3-32"), 4, "float32", program)
    assert check.step_seconds is None
    text = _printed(check)
    for part in ("20.00", "no", "4.00", "f32[2,256,256,256]", "mask_rcnn/backbone/conv"):
        assert part in text, part


def test_a_missing_compiler_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name)
    )
    with pytest.raises(UserError, match=r"libtpu.*official-maskrcnn\[tpu-check\]"):
        tpu_compiler.require_compiler()


def test_the_verb_refuses_before_it_compiles(capsys):
    assert main(["tpu-check", _RESNET, "--topology", "v3-7"]) == 2
    assert "v3-7" in capsys.readouterr().err
    float16 = "runtime.mixed_precision_dtype=float16"
    assert main(["tpu-check", _RESNET, "--topology", "v3-32", float16]) == 2
    assert "float16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: it needs more. Total hbm usage >= 20.50G: reserved 512M", 20.5),
        ("E1000: required for HLO temporaries (18.25G) exceeds available HBM (15.25G).", 18.25),
        ("HLO temporaries (2.5T) exceed it", 2560),
    ],
)
def test_what_the_compiler_says_of_a_program_that_does_not_fit(message, gib):
    program = tpu_compiler.too_large(message)
    assert not program.fits and program.total_bytes == gib * GIB
    assert program.temporary_bytes is None


def test_any_other_message_of_the_compiler_is_its_refusal():
    with pytest.raises(CompileError, match="refuses the step: INTERNAL: no such luck"):
        tpu_compiler.too_large("INTERNAL: no such luck")


@pytest.fixture
def compiler(monkeypatch):
    """A compiler whose programs need 3 GiB an image, and the functions that it got."""
    functions = []

    def compile_function(function, generation):
        functions.append(function)
        needed = 3 * GIB * function.inputs[0].shape[0]
        return Program(
            fits=needed <= parse_topology("v3-8").hbm_bytes,
            total_bytes=needed,
            argument_bytes=GIB,
            output_bytes=GIB,
            shared_bytes=GIB,
            temporary_bytes=needed - GIB,
            flops=1e12,
            bytes_accessed=1e9,
        )

    monkeypatch.setattr(tpu_compiler, "require_compiler", lambda: None)
    monkeypatch.setattr(tpu_check, "compile_function", compile_function)
    return functions


def _batches(functions):
    return [function.inputs[0].shape[0] for function in functions]


def test_the_verb_compiles_each_core_s_share_and_finds_the_largest(compiler, capsys):
    arguments = ["tpu-check", _RESNET, "--topology", "v3-8", *_TINY]
    batch = "task.train_data.global_batch_size={}"
    assert main([*arguments, batch.format(32), "--find-batch", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["batch_size"], numbers["largest_batch"]) == (4, 5)
    assert sorted(_batches(compiler)) == [4, 5, 6, 8]

    compiler.clear()
    assert main([*arguments, batch.format(64)]) == 2
    captured = capsys.readouterr()
    assert _batches(compiler) == [8]
    assert "24.00" in captured.out
    assert "needs 24.00 GiB" in captured.err and "--find-batch" in captured.err


@pytest.mark.parametrize("step", ["training", "inference"])
def test_no_operation_of_the_step_has_a_shape_that_depends_on_data(compiler, step):
    """Such ones make XLA look for bounds for minutes, and are slow on a TPU if it takes them."""
    batch = "task.train_data.global_batch_size=8,task.validation_data.global_batch_size=8"
    inference = ["--inference"] if step == "inference" else []
    assert main(["tpu-check", _RESNET, "--topology", "v3-8", *_TINY, batch, *inference]) == 0
    operations = {operation.type for operation in compiler[0].graph.get_operations()}
    assert len(operations) > 50
    assert not operations & {"Where", "Unique", "UniqueV2", "DynamicPartition", "ListDiff"}
    assert not any("NonMaxSuppression" in operation for operation in operations)


if importlib.util.find_spec("libtpu") is not None:

    @pytest.mark.slow
    @pytest.mark.parametrize("generation", GENERATIONS.values(), ids=GENERATIONS)
    def test_a_device_of_each_generation_has_the_memory_that_is_said(generation):
        def program(gib):  # a product with its own result needs that in memory
            side = int((gib * GIB / 4) ** 0.5) // 128 * 128

            @tf.function(jit_compile=True)
            def square(x):
                return tf.reduce_sum(tf.linalg.matmul(x, x), axis=0)

            spec = tf.TensorSpec([side, side])
            return tpu_compiler.compile_function(square.get_concrete_function(spec), generation)

        gib = generation.hbm_gib / generation.devices
        assert program(0.4 * gib).fits
        assert not program(1.1 * gib).fits

    @pytest.mark.slow
    @pytest.mark.parametrize("step", ["training", "inference"])
    def test_a_tiny_model_really_compiles(step, capsys):
        batch = "task.train_data.global_batch_size=8,task.validation_data.global_batch_size=8"
        arguments = ["tpu-check", _RESNET, "--topology", "v3-8", *_TINY, batch, "--json"]
        assert main([*arguments, *(["--inference"] if step == "inference" else [])]) == 0
        numbers = json.loads(capsys.readouterr().out)
        assert numbers["step"] == step and numbers["batch_size"] == 1
        assert numbers["fits"] is True and numbers["flops"] > 1e8
        parts = ("argument_bytes", "output_bytes", "temporary_bytes")
        assert numbers["total_bytes"] == (
            sum(numbers[part] for part in parts) - numbers["shared_bytes"]
        )
        assert 2**20 < numbers["total_bytes"] < 2**30

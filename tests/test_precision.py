import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn import load_experiment, precision
from official_maskrcnn.modeling import backbones


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f amx_tile amx_bf16", "bfloat16"),
        ("fpu avx512f avx512_bf16", "bfloat16"),
        ("fpu avx512f avx512_vnni", "float32"),
    ],
)
def test_auto_is_bfloat16_on_a_cpu_with_matrix_units_for_it(flags, expected, tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "_CPU_INFO", info)
    assert precision.resolve("auto") == expected


def test_auto_is_float32_on_a_cpu_that_nothing_is_known_of(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "none")
    assert precision.resolve("auto") == "float32"


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_auto_is_bfloat16_on_recent_gpus(capability, expected, monkeypatch):
    details = {"compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    assert precision.resolve("auto", "GPU") == expected


def test_auto_is_bfloat16_on_a_tpu_and_other_precisions_are_as_given():
    assert precision.resolve("auto", "TPU") == "bfloat16"
    assert precision.resolve(None, "TPU") == "float32"
    assert precision.resolve("float16", "GPU") == "float16"


def test_a_policy_ends_with_its_block():
    with precision.policy("bfloat16"):
        layer = tf_keras.layers.Dense(1)
    assert (layer.compute_dtype, layer.variable_dtype) == ("bfloat16", "float32")
    assert tf_keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.parametrize(
    "changes",
    ["decoder.type=fpn", "decoder.type=nasfpn,task.model.min_level=3,task.model.max_level=7"],
)
def test_a_decoder_takes_features_in_the_precision_in_which_they_come(changes):
    config = load_experiment(
        "deep_mask_head_rcnn_resnetfpn_coco",
        overrides=f"task.model.{changes},task.model.input_size=[128,128,3]",
    ).task.model
    shapes = {str(level): tf.TensorShape([None, None, None, 8]) for level in range(2, 6)}
    with precision.policy("bfloat16"):
        decoder = backbones.build_decoder(config, shapes, config.norm_activation, None)
    features = {
        level: tf.TensorSpec([1, 128 >> int(level), 128 >> int(level), 8], tf.bfloat16)
        for level in shapes
    }
    graph = tf.function(decoder).get_concrete_function(features).graph
    inputs = [tensor for tensor in graph.inputs if tensor.dtype == tf.bfloat16]
    assert len(inputs) == len(shapes)
    assert not {op.type for tensor in inputs for op in tensor.consumers()} & {"Cast"}
    assert {variable.dtype for variable in decoder.variables} == {tf.float32}

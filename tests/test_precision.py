import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn import precision


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

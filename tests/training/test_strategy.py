"""Devices, precision, and readable faults."""

import random

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.experiment import RuntimeConfig
from official_maskrcnn.errors import UserError
from official_maskrcnn.training import strategy as strategies


@pytest.fixture(autouse=True)
def _float32_afterwards() -> object:
    yield
    tf_keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_one_device_needs_no_mirroring(name: str) -> None:
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = strategies.build_strategy(RuntimeConfig(distribution_strategy=name))
    expected = 1 if name == "one_device" else len(devices)
    assert strategy.num_replicas_in_sync == expected
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy) == (expected == 1)
    assert strategies.is_chief(strategy) and not strategies.is_multi_worker(strategy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gpus": 1000}, "num_gpus is 1000, but TensorFlow sees"),
        ({"distribution_strategy": "parameter_server"}, "accepts one_device, mirrored"),
        (
            {"distribution_strategy": "multi_worker_mirrored", "worker_hosts": "a:1,b:1"},
            "task_index",
        ),
        (
            {"distribution_strategy": "multi_worker_mirrored", "all_reduce_alg": "tree"},
            "all_reduce_alg is 'tree'; multi_worker_mirrored accepts ring or nccl",
        ),
        ({"distribution_strategy": "tpu", "tpu": ""}, "cannot reach the TPU|needs cloud-tpu"),
    ],
)
def test_faults_are_readable(
    options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match=message):
        strategies.build_strategy(RuntimeConfig(**options))


def test_a_tpu_by_name_without_its_client_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(**_: object) -> None:
        raise RuntimeError("Missing runtime dependency on the Google API client. Run `pip ...`")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolve)
    with pytest.raises(UserError, match=r"official-maskrcnn\[tpu\]"):
        strategies.build_strategy(RuntimeConfig(distribution_strategy="tpu", tpu="my-tpu"))


@pytest.mark.parametrize(
    ("dtype", "compute"),
    [(None, "float32"), ("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")],
)
def test_precision_of_layers_built_afterwards(dtype: str | None, compute: str) -> None:
    cpu = tf.distribute.OneDeviceStrategy("/cpu:0")
    strategies.set_precision(RuntimeConfig(mixed_precision_dtype=dtype), cpu)
    layer = tf_keras.layers.Dense(1)
    assert layer.compute_dtype == compute and layer.variable_dtype == "float32"


def test_a_seed_repeats_all_random_numbers() -> None:
    def draw() -> list[float]:
        strategies.set_seed(RuntimeConfig(seed=3))
        return [random.random(), float(np.random.rand()), float(tf.random.uniform([]))]

    assert draw() == draw()

"""Devices, precision, and readable faults."""

import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.configs.experiment import RuntimeConfig
from official_maskrcnn.data import reader
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


@pytest.mark.parametrize(
    ("nodes", "tasks", "rank", "expected"),
    [
        ("node[9-11]", "1(x3)", "2", ("node9:{0},node10:{0},node11:{0}", 2)),
        ("a1,b[01-02]", "2,1(x2)", "1", ("a1:{0},a1:{1},b01:{0},b02:{0}", 1)),
        ("single", "1", "0", ("single:{0}", 0)),
    ],
)
def test_slurm_names_the_workers(
    nodes: str, tasks: str, rank: str, expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("STEP_NODELIST", "STEP_TASKS_PER_NODE", "PROCID", "JOB_ID")
    for name, value in zip(names, (nodes, tasks, rank, "5"), strict=True):
        monkeypatch.setenv(f"SLURM_{name}", value)
    port = 12000 + 5 * 64
    assert strategies.slurm_hosts() == (expected[0].format(port, port + 1), expected[1])
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    with pytest.raises(UserError, match=r"SLURM_STEP_NODELIST.*docs/jobs\.md"):
        strategies.slurm_hosts()


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_batches_can_be_read_again_and_nothing_holds_up_their_end(name: str) -> None:
    def build(context: tf.distribute.InputContext) -> tf.data.Dataset:
        assert (context.num_input_pipelines, context.num_replicas_in_sync) == (1, 1)
        return reader.map_in_parallel(tf.data.Dataset.range(3), lambda x: x + 1)

    strategy = strategies.build_strategy(RuntimeConfig(distribution_strategy=name))
    batches = strategies.distribute_batches(strategy, build)
    assert [int(batch) for batch in batches] == [int(batch) for batch in batches] == [1, 2, 3]
    assert batches.options().autotune.enabled is False  # of no iterator around this one


def test_deterministic_gradients_are_added_in_order() -> None:
    """In a process of its own, which it changes for good."""
    code = """
import tensorflow as tf
from official_maskrcnn.training import determinism

def gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.sin(x) + tf.cos(x) * tf.exp(x) + tf.sqrt(x)
    return tape.gradient(y, x)

def operations():
    function = tf.function(gradient).get_concrete_function(tf.TensorSpec([3]))
    return {operation.type for operation in function.graph.get_operations()}

x = tf.constant([1.0, 2.0, 3.0])
before = gradient(x)
assert "AddN" in operations()
determinism.enable()
assert "AddN" not in operations()
tf.debugging.assert_near(gradient(x), before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

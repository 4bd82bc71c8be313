"""Checkpoints: exact resume, other models, the best one, and following another process."""

import json
import math
import pathlib
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from official_maskrcnn.errors import UserError
from official_maskrcnn.modeling import checkpoint_files, restore
from official_maskrcnn.training import checkpoints
from official_maskrcnn.training import optimizer as optimizers
from tests.training.fake_task import FakeTask, make_experiment


def _strategy() -> tf.distribute.Strategy:
    return tf.distribute.OneDeviceStrategy("CPU:0")


def _build(
    folder: pathlib.Path, width: int = 4, **experiment_options: object
) -> tuple[checkpoints.Checkpoints, tf_keras.Model, tf_keras.optimizers.Optimizer]:
    experiment = make_experiment(**experiment_options)
    task = FakeTask(experiment.task, width=width)
    strategy = _strategy()
    with strategy.scope():
        model = task.build_model()
        optimizer = task.build_optimizer(experiment.trainer.optimizer_config)
        optimizers.create_slots(optimizer, model)
        optimizers.start_averages(optimizer, model)
    items = task.checkpoint_items(model)
    manager = checkpoints.Checkpoints(strategy, str(folder), model, optimizer, items, 2)
    return manager, model, optimizer


def _take_step(model: tf_keras.Model, optimizer: tf_keras.optimizers.Optimizer) -> None:
    images = tf.random.stateless_normal([2, 8, 8, 3], [1, 2])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(images, training=True)))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def test_resume_restores_weights_momentum_averages_and_step(tmp_path: pathlib.Path) -> None:
    manager, model, optimizer = _build(tmp_path, ema=True)
    assert not manager.resume()
    for _ in range(3):
        _take_step(model, optimizer)
    manager.step.assign(3)
    manager.save()
    _take_step(model, optimizer)

    resumed, other_model, other_optimizer = _build(tmp_path, ema=True)
    assert resumed.resume()
    assert int(resumed.step) == 3 and int(other_optimizer.iterations) == 3
    _take_step(other_model, other_optimizer)  # only equal if all of the state is
    for a, b in zip(model.weights, other_model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for slot in ("average", "momentum"):
        owner = optimizer if slot == "average" else optimizer._optimizer
        other_owner = other_optimizer if slot == "average" else other_optimizer._optimizer
        for a, b in zip(model.trainable_variables, other_model.trainable_variables, strict=True):
            value = owner.get_slot(a, slot).numpy()
            assert np.abs(value).max() > 0
            np.testing.assert_array_equal(value, other_owner.get_slot(b, slot))


def test_the_configured_constant_learning_rate_counts_after_a_resume(
    tmp_path: pathlib.Path,
) -> None:
    manager, _, _ = _build(tmp_path, learning_rate=0.5)
    manager.save()
    resumed, _, optimizer = _build(tmp_path, learning_rate=0.25)
    resumed.resume()
    assert optimizers.learning_rate(optimizer) == 0.25


def test_only_the_newest_stay(tmp_path: pathlib.Path) -> None:
    manager, _, _ = _build(tmp_path)
    for step in (5, 10, 15):
        manager.step.assign(step)
        manager.save()
    assert sorted(path.name for path in tmp_path.glob("*.index")) == [
        "ckpt-10.index",
        "ckpt-15.index",
    ]


def test_another_architecture_is_refused_with_names_and_shapes(tmp_path: pathlib.Path) -> None:
    _build(tmp_path, width=4)[0].save()
    manager, model, _ = _build(tmp_path, width=6)
    before = [weight.numpy() for weight in model.weights]
    with pytest.raises(UserError) as error:
        manager.resume()
    assert "is of another model" in str(error.value)
    assert "kernel has shape [3, 3, 3, 6], but [3, 3, 3, 4] in the checkpoint" in str(error.value)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_fewer_or_more_layers_are_refused(tmp_path: pathlib.Path) -> None:
    def model(layers: int) -> tf_keras.Model:
        dense = [tf_keras.layers.Dense(3) for _ in range(layers)]
        return tf_keras.Sequential([tf_keras.Input([3]), *dense])

    path = tf.train.Checkpoint(model=model(2)).write(str(tmp_path / "ckpt-1"))
    with pytest.raises(UserError, match=r"layer_with_weights-2/kernel \[3, 3\] is not in the ch"):
        restore.restore_weights(path, model(3))
    with pytest.raises(UserError, match=r"layer_with_weights-1/kernel \[3, 3\] is only in the ch"):
        restore.restore_weights(path, model(1))


def test_another_optimizer_is_refused(tmp_path: pathlib.Path) -> None:
    _build(tmp_path)[0].save()
    with pytest.raises(UserError, match="another optimizer"):
        _build(tmp_path, ema=True)[0].resume()


def test_a_cut_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    _build(tmp_path)[0].save()
    data = next(tmp_path.glob("ckpt-0.data*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot read the checkpoint"):
        _build(tmp_path)[0].resume()


def test_averages_are_swapped_in_and_out_without_a_trace(tmp_path: pathlib.Path) -> None:
    _, model, optimizer = _build(tmp_path, ema=True)
    for _ in range(3):
        _take_step(model, optimizer)
    before = [weight.numpy() for weight in model.weights]
    averages = [
        optimizer.get_slot(variable, "average").numpy() for variable in model.trainable_variables
    ]
    with optimizers.averaged_weights(_strategy(), optimizer, model):
        for variable, average in zip(model.trainable_variables, averages, strict=True):
            np.testing.assert_array_equal(variable, average)
        assert not np.array_equal(model.weights[0], before[0])
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def _best(folder: pathlib.Path, **options: str) -> tuple[checkpoints.BestCheckpoint, tf.Variable]:
    model = tf.Module()
    model.value = tf.Variable(0.0)
    return checkpoints.BestCheckpoint(_strategy(), str(folder), model, {}, **options), model.value


def _kept(folder: pathlib.Path) -> dict[str, object]:
    (index,) = folder.glob("*.index")
    record = json.loads((folder / "metrics.json").read_text())
    assert index.name == f"ckpt-{record['step']}.index"
    return record


def test_best_checkpoint_replaces_a_first_nan_and_then_only_improves(
    tmp_path: pathlib.Path,
) -> None:
    best, value = _best(tmp_path)
    value.assign(1.0)
    assert best.update(1, {"box/AP": 0.9})  # mask/AP is missing, box/AP stands in
    assert _kept(tmp_path)["metric"] == "box/AP"

    best, value = _best(tmp_path / "mask", metric="mask/AP")
    assert best.update(1, {"mask/AP": math.nan, "box/AP": 0.5})
    assert _kept(tmp_path / "mask")["value"] is None
    assert not best.update(2, {"mask/AP": math.nan})
    value.assign(3.0)
    assert best.update(3, {"mask/AP": -1.0})
    assert best.update(4, {"mask/AP": 0.2})
    assert not best.update(5, {"mask/AP": 0.2})
    assert not best.update(6, {"mask/AP": math.nan})
    assert not best.update(7, {"box/AP": 0.9})
    assert _kept(tmp_path / "mask") == {
        "step": 4,
        "metric": "mask/AP",
        "value": 0.2,
        "metrics": {"mask/AP": 0.2},
    }
    reader = tf.train.load_checkpoint(str(tmp_path / "mask"))
    assert reader.get_tensor("model/value/.ATTRIBUTES/VARIABLE_VALUE") == 3.0


def test_best_checkpoint_survives_a_restart_and_a_change_of_metric(tmp_path: pathlib.Path) -> None:
    best, _ = _best(tmp_path, metric="loss", comparison="lower")
    assert best.update(1, {"loss": 2.0, "mask/AP": 0.3})
    best, _ = _best(tmp_path, metric="loss", comparison="lower")
    assert not best.update(2, {"loss": 2.5})
    assert best.update(3, {"loss": 1.5, "mask/AP": 0.4})
    best, _ = _best(tmp_path, metric="mask/AP")
    assert not best.update(4, {"mask/AP": 0.39})
    assert best.update(5, {"mask/AP": 0.41})
    assert _kept(tmp_path)["step"] == 5


def test_follow_yields_each_checkpoint_once_and_ends_with_the_last(
    tmp_path: pathlib.Path,
) -> None:
    manager, _, _ = _build(tmp_path)

    def write() -> None:
        for step in (4, 8, 12):
            manager.step.assign(step)
            manager.save()
            time.sleep(0.5)

    writer = threading.Thread(target=write)
    writer.start()
    steps = []

    def evaluate(path: str) -> bool:
        steps.append(checkpoint_files.step_of(path))
        return True

    checkpoints.follow(str(tmp_path), 12, 30.0, evaluate)
    writer.join()
    assert steps[-1] == 12
    assert steps == sorted(set(steps)) and set(steps) <= {4, 8, 12}


def test_follow_waits_for_a_checkpoint_that_is_written_or_written_anew(
    tmp_path: pathlib.Path,
) -> None:
    manager, _, _ = _build(tmp_path)
    for step in (4, 8):
        manager.step.assign(step)
        manager.save()
    index = tmp_path / "ckpt-4.index"
    content = index.read_bytes()
    index.write_bytes(b"")  # as TensorFlow leaves it for a moment
    asked = []

    def evaluate(path: str) -> bool:
        step = checkpoint_files.step_of(path)
        asked.append(step)
        if asked == [8]:  # damaged, says the evaluation
            threading.Timer(0.5, index.write_bytes, [content]).start()
            threading.Timer(2.0, (tmp_path / "ckpt-8.index").touch).start()
            return False
        return True

    checkpoints.follow(str(tmp_path), 8, 30.0, evaluate)
    assert asked == [8, 4, 8]


def test_what_a_killed_process_left_goes_and_what_it_did_not_enter_counts(
    tmp_path: pathlib.Path,
) -> None:
    manager, _, _ = _build(tmp_path)
    manager.step.assign(4)
    manager.save()
    record = (tmp_path / "checkpoint").read_text()
    manager.step.assign(8)
    manager.save()
    (tmp_path / "checkpoint").write_text(record)  # killed before it entered the second
    (tmp_path / "ckpt-12_temp").mkdir()
    (tmp_path / "ckpt-12.index").write_bytes(b"")  # and again, amid the third
    manager, _, _ = _build(tmp_path)  # keeps 2
    assert manager.resume() and int(manager.step.numpy()) == 8
    for step in (16, 20):
        manager.step.assign(step)
        manager.save()
    steps = [checkpoint_files.step_of(path) for path in checkpoint_files.find_all(str(tmp_path))]
    assert steps == [16, 20]


def test_a_folder_may_have_any_name_to_read_from(tmp_path: pathlib.Path) -> None:
    manager, _, _ = _build(tmp_path / "whole")
    manager.step.assign(4)
    manager.save()
    folder = (tmp_path / "whole").rename(tmp_path / "m[1]*")
    assert checkpoint_files.find_all(str(folder)) == [str(folder / "ckpt-4")]
    assert checkpoint_files.find_checkpoint(str(folder)) == str(folder / "ckpt-4")


def test_follow_gives_up_after_the_timeout(tmp_path: pathlib.Path) -> None:
    start = time.monotonic()
    checkpoints.follow(str(tmp_path / "nothing"), 12, 1.0, pytest.fail)
    assert 1.0 <= time.monotonic() - start < 10.0

"""The modes of a run, from configuration to files and metrics."""

import json
import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from official_maskrcnn.errors import UserError
from official_maskrcnn.training import trainer
from official_maskrcnn.training.metrics_log import read_metrics
from official_maskrcnn.training.run import run
from tests.training.fake_task import FakeTask, make_experiment


def _lines(folder: pathlib.Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _weights(folder: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder / f"ckpt-{step}"))
    names = [name for name in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    return {name: reader.get_tensor(name) for name in names}


def test_train_and_eval_learns_and_writes_everything(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(
        train_steps=42,
        summary_interval=10,
        checkpoint_interval=20,
        validation_interval=15,
        max_to_keep=2,
    )
    experiment.task.export_results = True
    metrics = run(experiment, "train_and_eval", str(tmp_path), FakeTask(experiment.task))

    lines = _lines(tmp_path)
    by_phase = {
        phase: [line for line in lines if line["phase"] == phase] for phase in ("train", "eval")
    }
    assert [line["step"] for line in by_phase["train"]] == [10, 20, 30, 40, 42]
    assert [line["step"] for line in by_phase["eval"]] == [15, 30, 42]
    losses = [line["total_loss"] for line in by_phase["train"]]
    assert losses[-1] < 0.5 * losses[0]
    for line in by_phase["train"]:
        assert set(line) == {
            *("time", "step", "phase", "total_loss", "absolute_error"),
            *("learning_rate", "images_per_second"),
        }
        assert line["learning_rate"] == pytest.approx(0.05)
        assert line["images_per_second"] > 0
    assert metrics == {
        name: value
        for name, value in by_phase["eval"][-1].items()
        if name not in ("time", "step", "phase")
    }
    assert metrics["images"] == metrics["distinct_images"] == 7
    assert metrics["id_sum"] == sum(range(1, 8))

    assert sorted(path.name for path in tmp_path.glob("ckpt*.index")) == [
        "ckpt-40.index",
        "ckpt-42.index",
    ]
    best = max(by_phase["eval"], key=lambda line: line["mask/AP"])
    assert json.loads((tmp_path / "best" / "metrics.json").read_text())["step"] == best["step"]
    assert (tmp_path / "results_42.json").read_text() == str([1, 2, 3, 4, 5, 6, 7])
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "15.png",
        "30.png",
        "42.png",
    ]
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["versions"]["tensorflow"] == tf.__version__
    assert record["devices"] and record["command"] and record["start"]
    assert (tmp_path / "params.yaml").read_text().count("train_steps: 42") == 1

    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert {"total_loss", "learning_rate", "images_per_second"} <= set(events.Tags()["tensors"])
    events = EventAccumulator(str(tmp_path / "validation"))
    events.Reload()
    assert {"mask/AP", "predictions"} <= set(events.Tags()["tensors"])


def test_a_stopped_run_continues_as_if_it_had_not_been(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, ends in ((whole, [12]), (parts, [8, 12])):
        for end in ends:
            experiment = make_experiment(train_steps=end, ema=True)
            task = FakeTask(experiment.task, same_batch=True)
            with caplog.at_level(logging.INFO):
                run(experiment, "train", str(folder), task)
    assert "resumed from" in caplog.text
    assert "trainer.train_steps: 8 -> 12" in caplog.text

    one, other = _weights(whole, 12), _weights(parts, 12)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if "save_counter" not in name:
            np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert [line["step"] for line in _lines(parts)] == [4, 8, 12]
    assert read_metrics(str(parts), "train")[12]["total_loss"] == pytest.approx(
        read_metrics(str(whole), "train")[12]["total_loss"], abs=0
    )
    assert len(json.loads((parts / "run.json").read_text())["earlier"]) == 1


def test_a_finished_run_gives_its_metrics_and_a_cut_off_evaluation_is_made_up(
    tmp_path: pathlib.Path,
) -> None:
    experiment = make_experiment(train_steps=4)
    task = FakeTask(experiment.task)
    metrics = run(experiment, "train_and_eval", str(tmp_path), task)
    assert run(experiment, "train_and_eval", str(tmp_path), task) == metrics
    assert len(_lines(tmp_path)) == 2

    log = tmp_path / "metrics.jsonl"
    training, evaluation = log.read_text().splitlines()
    log.write_text(training + "\n" + evaluation[:20])  # killed while it wrote the evaluation
    again = run(experiment, "train_and_eval", str(tmp_path), task)
    assert again == pytest.approx(metrics, abs=1e-6)
    assert read_metrics(str(tmp_path), "eval")[4] == again
    assert run(experiment, "eval", str(tmp_path), task) == pytest.approx(metrics, abs=1e-6)


def test_moving_averages_are_evaluated_and_exported_as_best(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=8, ema=True, validation_interval=8)
    task = FakeTask(experiment.task)
    metrics = run(experiment, "train_and_eval", str(tmp_path), task)
    # `eval` has to come to the same figure from the checkpoint, and from the best one, in which
    # the averages are the weights.
    for folder in (tmp_path, tmp_path / "best"):
        assert run(experiment, "eval", str(folder), task) == pytest.approx(metrics, abs=1e-6)
    experiment = make_experiment(train_steps=8)
    weights = run(experiment, "eval", str(tmp_path), FakeTask(experiment.task))
    assert abs(weights["mask/AP"] - metrics["mask/AP"]) > 1e-3


def test_nan_loss_stops_with_step_losses_and_image_ids(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=40)
    task = FakeTask(experiment.task, bad_id=100 + 4 * 9 + 2)  # in the batch of step 10
    with pytest.raises(trainer.DivergedError) as error:
        run(experiment, "train", str(tmp_path), task)
    message = str(error.value)
    assert "diverged at step 10: total_loss is nan" in message
    assert "images of the batch: 136, 137, 138, 139" in message
    assert "absolute_error nan" in message
    assert "lower learning rate" in message and "clipnorm" in message and "warmup" in message
    assert isinstance(error.value, UserError)
    assert sorted(path.name for path in tmp_path.glob("ckpt*.index")) == [
        "ckpt-4.index",
        "ckpt-8.index",
    ]


def test_validation_steps_limit_the_evaluation(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=4, validation_steps=1)
    metrics = run(experiment, "train_and_eval", str(tmp_path), FakeTask(experiment.task))
    assert metrics["images"] == 4


def test_eval_of_a_folder_without_checkpoints_is_an_error(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment()
    with pytest.raises(UserError, match="no checkpoint in model_dir"):
        run(experiment, "eval", str(tmp_path), FakeTask(experiment.task))
    assert list(tmp_path.iterdir()) == []


def test_continuous_eval_without_a_training_ends(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(continuous_eval_timeout=1)
    with pytest.raises(UserError, match="no checkpoint came into"):
        run(experiment, "continuous_eval", str(tmp_path), FakeTask(experiment.task))


def test_another_architecture_is_refused_by_train_and_eval(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=4)
    run(experiment, "train", str(tmp_path), FakeTask(experiment.task, width=4))
    files = {name: (tmp_path / name).read_text() for name in ("params.yaml", "run.json")}
    experiment.trainer.train_steps = 8
    for mode in ("train", "eval"):
        with pytest.raises(UserError, match=r"shape \[3, 3, 3, 5\], but \[3, 3, 3, 4\]"):
            run(experiment, mode, str(tmp_path), FakeTask(experiment.task, width=5))
    for name, text in files.items():  # they still describe the checkpoint
        assert (tmp_path / name).read_text() == text


def test_unwritable_model_dir_and_unknown_mode(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to model_dir"):
        run(experiment, "train", str(tmp_path / "file" / "run"), FakeTask(experiment.task))
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"params.yaml or run.json in .* is damaged"):
        run(experiment, "train", str(tmp_path), FakeTask(experiment.task))
    with pytest.raises(UserError, match="unknown mode 'predict'"):
        run(experiment, "predict", str(tmp_path), FakeTask(experiment.task))


def test_compiled_and_eager_steps_give_the_same(tmp_path: pathlib.Path) -> None:
    losses = {}
    for option in ("", "enable_xla", "run_eagerly"):
        experiment = make_experiment(train_steps=3)
        if option:
            setattr(experiment.runtime, option, True)
        task = FakeTask(experiment.task)
        losses[option] = run(experiment, "train", str(tmp_path / f"run_{option}"), task)[
            "total_loss"
        ]
    tf.config.run_functions_eagerly(False)
    assert losses["enable_xla"] == pytest.approx(losses[""], rel=1e-4)
    assert losses["run_eagerly"] == pytest.approx(losses[""], rel=1e-4)

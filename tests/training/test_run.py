"""The modes of a run, from configuration to files and metrics."""

import json
import logging
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from official_maskrcnn.errors import UserError
from official_maskrcnn.tasks import gin_bindings
from official_maskrcnn.tasks.metrics_file import read_metrics
from official_maskrcnn.training import checkpoints, run_files, trainer
from official_maskrcnn.training import run as run_module
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
    weights, averages = (FakeTask(experiment.task).build_model() for _ in range(2))
    tf.train.Checkpoint(model=weights).read(str(tmp_path / "ckpt-8")).expect_partial()
    tf.train.Checkpoint(model=averages).read(str(tmp_path / "best" / "ckpt-8")).expect_partial()
    assert np.abs(weights.get_weights()[0] - averages.get_weights()[0]).max() > 1e-4


def test_nan_loss_stops_with_step_losses_and_image_ids(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=40)
    task = FakeTask(experiment.task, bad_id=100 + 4 * 9 + 2)  # in the batch of step 10
    with pytest.raises(trainer.DivergedError) as error:
        run(experiment, "train", str(tmp_path), task)
    message = str(error.value)
    assert "diverged at step 10: total_loss, or what the step made of the weights" in message
    assert "images of the batch: 136, 137, 138, 139" in message
    assert "absolute_error nan" in message
    assert "lower learning rate" in message and "clipnorm" in message and "warmup" in message
    assert isinstance(error.value, UserError)
    assert sorted(path.name for path in tmp_path.glob("ckpt*.index")) == [
        "ckpt-4.index",
        "ckpt-8.index",
    ]


class _ExplodingTask(FakeTask):
    """Its step with the bad image has a finite loss and makes infinite weights."""

    def train_step(self, batch, model, optimizer):
        is_bad = tf.reduce_any(batch["source_id"] == 100 + 4 * 7 + 2)  # in the batch of step 8
        metrics = super().train_step(batch, model, optimizer)
        kernel = model.layers[0].kernel
        kernel.assign(tf.where(is_bad, np.inf, kernel))
        return metrics


def test_infinite_weights_are_not_saved_and_their_step_is_left_out(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=12)
    with pytest.raises(trainer.DivergedError, match="diverged at step 8"):
        run(experiment, "train", str(tmp_path / "one"), _ExplodingTask(experiment.task))
    assert _saved_steps(tmp_path / "one") == [4]
    experiment = make_experiment(train_steps=12, max_skipped_steps=1)
    run(experiment, "train", str(tmp_path / "two"), _ExplodingTask(experiment.task))
    assert json.loads((tmp_path / "two" / "left_out_steps.json").read_text()) == [8]
    assert all(np.isfinite(value).all() for value in _weights(tmp_path / "two", 12).values())


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


def _saved_steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in folder.glob("ckpt-*.index"))


def test_bad_steps_are_left_out_and_stay_left_out(tmp_path: pathlib.Path) -> None:
    weights = {}
    for name, ends in (("whole", [14]), ("parts", [12, 14])):
        for end in ends:
            experiment = make_experiment(train_steps=end, max_skipped_steps=1)
            task = FakeTask(experiment.task, bad_id=100 + 4 * 9 + 2)  # in the batch of step 10
            run(experiment, "train", str(tmp_path / name), task)
        assert json.loads((tmp_path / name / "left_out_steps.json").read_text()) == [10]
        weights[name] = _weights(tmp_path / name, 14)
        assert weights[name]["optimizer/iter/.ATTRIBUTES/VARIABLE_VALUE"] == 14
    for name, value in weights["whole"].items():
        if "save_counter" not in name:
            np.testing.assert_array_equal(value, weights["parts"][name], err_msg=name)
            assert np.isfinite(value).all()


def test_more_bad_steps_than_allowed_stop_the_training(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=40, max_skipped_steps=2, learning_rate=1e30)
    with pytest.raises(trainer.DivergedError, match=r"\(2 were left out before\)"):
        run(experiment, "train", str(tmp_path), FakeTask(experiment.task))


def test_training_ends_when_nothing_gets_better(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=40, learning_rate=0.0, early_stopping_patience=2)
    experiment.trainer.best_checkpoint_eval_metric = "images"  # which never changes
    task = FakeTask(experiment.task)
    metrics = run(experiment, "train_and_eval", str(tmp_path), task)
    assert list(read_metrics(str(tmp_path), "eval")) == [4, 8, 12]
    assert json.loads((tmp_path / "ended.json").read_text()) == {"step": 12}
    # Started again, it knows that it has ended; so does a job that evaluates beside it.
    assert run(experiment, "train_and_eval", str(tmp_path), task) == metrics
    assert run(experiment, "continuous_eval", str(tmp_path), task) == metrics
    assert _saved_steps(tmp_path) == [4, 8, 12]
    experiment.trainer.early_stopping_patience = 4
    run(experiment, "train_and_eval", str(tmp_path), task)
    assert list(read_metrics(str(tmp_path), "eval")) == [4, 8, 12, 16, 20]


@pytest.mark.parametrize(
    ("values", "comparison", "patience", "expected"),
    [
        ([0.1, 0.2, 0.2, 0.1], "higher", 2, True),
        ([0.1, 0.2, 0.2, 0.3], "higher", 2, False),
        ([0.3, 0.2, 0.25], "lower", 1, True),
        ([None, None], "higher", 2, True),
        ([None, 0.1, None, None], "higher", 3, False),
        ([0.1] * 9, "higher", None, False),
        ([], "higher", 1, False),
    ],
)
def test_patience(
    values: list[float | None], comparison: str, patience: int | None, expected: bool
) -> None:
    evaluations = {4 * i: {"mask/AP": value} for i, value in enumerate(values)}
    assert checkpoints.is_time_to_stop(evaluations, "", comparison, patience) == expected


def test_another_configuration_is_refused_unless_allowed(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=4)
    run(experiment, "train", str(tmp_path), FakeTask(experiment.task))
    before = (tmp_path / "params.yaml").read_text()
    changed = make_experiment(train_steps=8, summary_interval=2)
    changed.task.losses.mask_weight = 2.0
    changed.task.train_data.parser.aug_rand_hflip = True
    changed.task.train_data.max_faulty_examples = 3
    with pytest.raises(UserError) as error:
        run(changed, "train", str(tmp_path), FakeTask(changed.task))
    assert [line.strip() for line in str(error.value).splitlines()[1:-1]] == [
        "task.losses.mask_weight: 1.0 -> 2.0",
        "task.train_data.parser.aug_rand_hflip: false -> true",
    ]
    assert "--allow_config_change" in str(error.value)
    assert (tmp_path / "params.yaml").read_text() == before
    run(changed, "train", str(tmp_path), FakeTask(changed.task), allow_config_change=True)
    assert _saved_steps(tmp_path)[-1] == 8


def test_a_second_training_in_a_folder_is_refused(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=4)
    with (
        run_files.locked(str(tmp_path)),
        pytest.raises(UserError, match=rf"process {os.getpid()} on .* is training in"),
    ):
        run(experiment, "train", str(tmp_path), FakeTask(experiment.task))
    run(experiment, "train", str(tmp_path), FakeTask(experiment.task))


def test_a_damaged_newest_checkpoint_falls_back_loudly(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    for folder, ends in ((whole, [12]), (damaged, [8])):
        for end in ends:
            experiment = make_experiment(train_steps=end)
            run(experiment, "train", str(folder), FakeTask(experiment.task))
    (data,) = damaged.glob("ckpt-8.data*")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    experiment = make_experiment(train_steps=12)
    with caplog.at_level(logging.ERROR):
        run(experiment, "train", str(damaged), FakeTask(experiment.task))
    assert "cannot read the checkpoint" in caplog.text and "GOING BACK" in caplog.text
    for name, value in _weights(whole, 12).items():
        if "save_counter" not in name:
            np.testing.assert_array_equal(value, _weights(damaged, 12)[name], err_msg=name)


def test_eval_takes_chosen_checkpoints(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=12)
    task = FakeTask(experiment.task)
    run(experiment, "train", str(tmp_path), task)
    for selection, steps in (("8", [8]), ("5-12", [8, 12]), ("latest", [12]), ("all", [4, 8, 12])):
        (tmp_path / "eval" / "metrics.jsonl").unlink(missing_ok=True)
        metrics = run(experiment, "eval", str(tmp_path), task, checkpoint=selection)
        evaluated = read_metrics(str(tmp_path), "eval", "eval")
        assert list(evaluated) == steps and evaluated[steps[-1]] == metrics
    path = str(tmp_path / "ckpt-4")
    run(experiment, "eval", str(tmp_path / "elsewhere"), task, checkpoint=path)
    assert list(read_metrics(str(tmp_path / "elsewhere"), "eval", "eval")) == [4]
    for selection, message in (
        ("5-7", "no checkpoint of step 5-7 in .*; there are 4, 8, 12"),
        ("last", "unknown checkpoint 'last'; accepts latest, all, a step"),
        ("/nowhere/ckpt-4", "/nowhere/ckpt-4"),
    ):
        with pytest.raises(UserError, match=message):
            run(experiment, "eval", str(tmp_path), task, checkpoint=selection)


def test_chosen_evaluations_do_not_count_as_those_of_the_training(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=8)
    task = FakeTask(experiment.task)
    run(experiment, "train", str(tmp_path), task)
    few = make_experiment(train_steps=8, validation_steps=1, early_stopping_patience=1)
    few.trainer.best_checkpoint_eval_metric = "images"
    run(few, "eval", str(tmp_path), task, checkpoint="all")
    assert not (tmp_path / "ended.json").exists()
    run(experiment, "continuous_eval", str(tmp_path), task)
    evaluated = read_metrics(str(tmp_path), "eval")
    assert [evaluated[step]["images"] for step in (4, 8)] == [7, 7]


def test_an_evaluation_job_does_not_end_a_training(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=20, early_stopping_patience=2)
    experiment.trainer.best_checkpoint_eval_metric = "images"  # which never changes
    task = FakeTask(experiment.task)
    run(experiment, "train", str(tmp_path), task)
    run(experiment, "continuous_eval", str(tmp_path), task)
    assert list(read_metrics(str(tmp_path), "eval")) == [4, 8, 12, 16, 20]
    assert not (tmp_path / "ended.json").exists()


def test_a_metric_that_no_evaluation_gives_is_refused(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=8)
    experiment.trainer.best_checkpoint_eval_metric = "mask/APP"
    task = FakeTask(experiment.task)
    with pytest.raises(UserError, match=r"is mask/APP, which .* it gives .*mask/AP"):
        run(experiment, "train_and_eval", str(tmp_path), task)
    assert _saved_steps(tmp_path) == [4]
    experiment.trainer.best_checkpoint_eval_metric = "mask/AP"
    run(experiment, "train_and_eval", str(tmp_path), task)
    assert list(read_metrics(str(tmp_path), "eval")) == [4, 8]


def test_workers_that_resume_from_different_steps_are_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(train_steps=4)
    others = iter([(500.0,), (500.0,)])  # of one more worker, which is at step 1000
    monkeypatch.setattr(run_module, "mean_over_processes", lambda strategy, values: next(others))
    with pytest.raises(UserError, match="do not resume from the same step, this one from 0"):
        run(experiment, "train", str(tmp_path), FakeTask(experiment.task))


def test_class_names_are_those_of_the_last_training(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=4)
    for mode, names in (("train", {1: "wrong"}), ("train", {1: "nut"}), ("eval", {1: "other"})):
        run(experiment, mode, str(tmp_path), FakeTask(experiment.task, class_names=names))
    assert json.loads((tmp_path / "categories.json").read_text()) == [{"id": 1, "name": "nut"}]


def test_names_that_tensorflow_takes_for_patterns_are_refused(tmp_path: pathlib.Path) -> None:
    experiment = make_experiment(train_steps=4)
    with pytest.raises(UserError, match="for patterns"):
        run(experiment, "train", str(tmp_path / "m[1]"), FakeTask(experiment.task))


def test_fields_that_a_configuration_does_not_have_yet_count_with_their_defaults(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = make_experiment(train_steps=4)
    run(experiment, "train", str(tmp_path), FakeTask(experiment.task))
    path = tmp_path / "params.yaml"
    lines = path.read_text().splitlines(keepends=True)
    older = [line for line in lines if "outer_boxes_scale" not in line]
    assert len(older) == len(lines) - 1
    path.write_text("".join(older))
    run_files.open_folder(str(tmp_path), experiment, resumes=True)
    changed = make_experiment(train_steps=4)
    changed.task.model.outer_boxes_scale = 1.5
    with pytest.raises(UserError, match=r"outer_boxes_scale: \(absent\) -> 1.5"):
        run_files.open_folder(str(tmp_path), changed, resumes=True)
    with gin_bindings.exactly("LinearWarmup.warmup_steps = 7"):
        run_files.open_folder(str(tmp_path), experiment, resumes=True)
    assert "warmup_steps = 7" in caplog.text
    path.write_text("")
    with pytest.raises(UserError, match=r"params.yaml in .* is damaged"):
        run_files.open_folder(str(tmp_path), experiment, resumes=True)


def test_an_evaluation_job_that_is_started_again_evaluates_nothing_twice(
    tmp_path: pathlib.Path,
) -> None:
    experiment = make_experiment(train_steps=8)
    task = FakeTask(experiment.task)
    run(experiment, "train", str(tmp_path), task)
    log = tmp_path / "validation" / "metrics.jsonl"
    metrics = run(experiment, "continuous_eval", str(tmp_path), task)
    first, second = log.read_text().splitlines()
    log.write_text(f"{first}\n{second[:30]}")  # killed while it wrote the second
    assert run(experiment, "continuous_eval", str(tmp_path), task) == pytest.approx(metrics)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if "}" in line]
    assert steps == [4, 8]
    assert run(experiment, "continuous_eval", str(tmp_path), task) == pytest.approx(metrics)
    assert len(log.read_text().splitlines()) == 3

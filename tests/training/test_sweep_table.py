"""The table of a sweep: figures by hand, what counts as a result, and lines from other machines."""

import csv
import errno
import io
import json
import os
import pathlib
import re
import statistics

import pytest
import rich.console

from official_maskrcnn.configs import loading
from official_maskrcnn.configs.sweep import Run, Sweep, load_sweep
from official_maskrcnn.errors import UserError
from official_maskrcnn.training.sweeps import table
from official_maskrcnn.training.sweeps.results import gather, write_csv

_SWEEP = """
experiment: deep_mask_head_rcnn_resnetfpn_coco
axes:
  product:
    - list: {field: task.losses.mask_weight, name: w, values: [1, 2]}
    - list: {name: head, options: {plain: , deep: {task.model.mask_head.num_convs: 8}}}
seeds: [1, 2, 3]
metrics: [mask/AP, box/AP]
"""
_CAPTION = "mean ± sample standard deviation over seeds 1, 2, 3"


def _load(folder: pathlib.Path, text: str = _SWEEP) -> Sweep:
    (folder / "mine.yaml").write_text(text)
    return load_sweep(str(folder / "mine.yaml"))


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return _load(tmp_path)


def _finish(run: Run, output: pathlib.Path, mask_ap: float | None, exit_code: int = 0) -> None:
    """A folder as a run leaves it, box AP a half of mask AP; steps come twice after a restart."""
    folder = output / run.name
    folder.mkdir(parents=True)
    loading.save_params(run.config, str(folder / "config.yaml"))
    outcome = {"exit_code": exit_code, "tries": 1, "seconds": 61.5}
    (folder / "outcome.json").write_text(json.dumps(outcome))
    box_ap = None if mask_ap is None else mask_ap / 2
    lines = [
        {"time": 1, "step": 100, "phase": "eval", "mask/AP": 0.9, "box/AP": 0.9},
        {"time": 2, "step": 200, "phase": "eval", "mask/AP": 0.8, "box/AP": 0.8},
        {"time": 3, "step": 200, "phase": "eval", "mask/AP": mask_ap, "box/AP": box_ap},
        {"time": 4, "step": 300, "phase": "train", "total_loss": 1.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def output(sweep, tmp_path) -> pathlib.Path:
    """w_1-plain 0.1, 0.2, 0.6; w_1-deep only two; w_2-plain one, one failed; w_2-deep nothing."""
    folder = tmp_path / "out"
    runs = {run.name: run for run in sweep.runs}
    for seed, value in ((1, 0.1), (2, 0.2), (3, 0.6)):
        _finish(runs[f"w_1-plain/seed{seed}"], folder, value)
    _finish(runs["w_1-deep/seed1"], folder, 0.5)
    _finish(runs["w_1-deep/seed3"], folder, 0.7)
    _finish(runs["w_2-plain/seed1"], folder, None)
    _finish(runs["w_2-plain/seed2"], folder, 0.3)
    _finish(runs["w_2-plain/seed3"], folder, 0.99, exit_code=1)
    (folder / "w_2-deep" / "seed1").mkdir(parents=True)
    return folder


def test_means_and_deviations_by_hand(sweep, output, tmp_path):
    results = gather(sweep, output, tmp_path / "mine.csv")
    lines = list(csv.DictReader(io.StringIO(table.csv_table(results))))
    assert [line["row"] for line in lines] == ["w_1-plain", "w_1-deep", "w_2-plain", "w_2-deep"]
    # mean (0.1 + 0.2 + 0.6) / 3; deviations -0.2, -0.1, 0.3: sqrt((0.04 + 0.01 + 0.09) / 2)
    assert lines[0]["mask/AP mean"] == "0.30000"
    assert lines[0]["mask/AP std"] == "0.26458"
    assert lines[0]["mask/AP n"] == "3"
    # box AP is a half: sqrt(0.07) / 2
    assert (lines[0]["box/AP mean"], lines[0]["box/AP std"]) == ("0.15000", "0.13229")
    # 0.5 and 0.7: deviations of 0.1, sqrt(0.02 / 1)
    assert (lines[1]["mask/AP mean"], lines[1]["mask/AP std"]) == ("0.60000", "0.14142")
    assert [lines[2][f"mask/AP {what}"] for what in ("mean", "std", "n")] == ["0.30000", "", "1"]
    assert [lines[3][f"mask/AP {what}"] for what in ("mean", "std", "n")] == ["", "", "0"]
    assert table.mean_and_deviation([0.1, 0.2, 0.6])[1] == statistics.stdev([0.1, 0.2, 0.6])

    assert table.markdown_table(results).splitlines() == [
        "| w | head | mask/AP | box/AP | runs |",
        "| --- | --- | ---: | ---: | ---: |",
        "| 1 | plain | 0.300 ± 0.265 | 0.150 ± 0.132 | 3 of 3 |",
        "| 1 | deep | 0.600 ± 0.141 | 0.300 ± 0.071 | 2 of 3 |",
        "| 2 | plain | 0.300 | 0.150 | 2 of 3 |",
        "| 2 | deep |  |  | 0 of 3 |",
        "",
        _CAPTION,
    ]
    console = rich.console.Console(width=120)
    with console.capture() as capture:
        console.print(table.rich_table(results))
    for part in ("mine", "0.300 ± 0.265", "2 of 3", _CAPTION):
        assert part in capture.get(), part


def test_no_figure_of_a_run_that_did_not_end(sweep, output, tmp_path):
    results = gather(sweep, output, tmp_path / "mine.csv")
    assert results.missing == {
        "w_1-deep/seed2": "not started",
        "w_2-plain/seed3": "ended with exit code 1",
        "w_2-deep/seed1": "not finished",
        "w_2-deep/seed2": "not started",
        "w_2-deep/seed3": "not started",
    }
    write_csv(results, tmp_path / "mine.csv")
    lines = list(csv.DictReader((tmp_path / "mine.csv").open()))
    assert len(lines) == 7
    assert lines[0] == {
        **{"run": "w_1-plain/seed1", "w": "1", "head": "plain", "seed": "1"},
        **{"mask/AP": "0.10000", "box/AP": "0.05000", "steps": "200", "seconds": "62"},
        "digest": sweep.runs[0].digest,
    }


def test_lines_of_other_machines_stay_while_their_digest_fits(sweep, output, tmp_path):
    path = tmp_path / "mine.csv"
    write_csv(gather(sweep, output, path), path)
    before = path.read_text()
    elsewhere = tmp_path / "elsewhere"
    results = gather(sweep, elsewhere, path)
    assert len(results.missing) == 5
    write_csv(results, path)
    assert path.read_text() == before

    _finish(sweep.runs[4], elsewhere, 0.4)  # w_1-deep/seed2
    results = gather(sweep, elsewhere, path)
    assert len(results.missing) == 4
    assert results.values(sweep.rows[1], "mask/AP") == [0.5, 0.4, 0.7]
    write_csv(results, path)
    assert len(path.read_text().splitlines()) == len(before.splitlines()) + 1


def test_lines_of_another_configuration_are_lost_only_to_a_new_result_or_if_asked(
    sweep, output, tmp_path
):
    path = tmp_path / "mine.csv"
    write_csv(gather(sweep, output, path), path)
    changed = _load(tmp_path, _SWEEP.replace("num_convs: 8", "num_convs: 6"))
    with pytest.raises(
        UserError, match=r"has 2 line\(s\) of another .*: w_1-deep/seed1, w_1-deep/seed3; .*--prune"
    ):
        gather(changed, output, path)
    results = gather(changed, output, path, prune=True)
    assert len(results.by_run) == len([name for name in results.by_run if "plain" in name]) == 5
    assert results.missing["w_1-deep/seed1"] == (
        f"{output}/w_1-deep/seed1 is of another configuration; its line in {path} is of another "
        "configuration"
    )
    fewer = _load(tmp_path, _SWEEP.replace("[1, 2, 3]", "[1, 2]"))
    with pytest.raises(UserError, match=r"of no run of the sweep: w_1-plain/seed3, w_1-deep/seed3"):
        gather(fewer, output, path)

    again = tmp_path / "again"
    for run in changed.runs[3:6]:  # w_1-deep
        _finish(run, again, 0.4)
    write_csv(gather(changed, again, path), path)
    digests = {line["run"]: line["digest"] for line in csv.DictReader(path.open())}
    assert digests["w_1-deep/seed1"] == changed.runs[3].digest != sweep.runs[3].digest
    assert digests["w_1-plain/seed1"] == sweep.runs[0].digest and len(digests) == 8


def test_columns_stay_when_the_sweep_no_longer_asks_for_them(sweep, output, tmp_path):
    path = tmp_path / "mine.csv"
    write_csv(gather(sweep, output, path), path)
    before = path.read_text()
    fewer = _load(tmp_path, _SWEEP.replace("[mask/AP, box/AP]", "mask/AP"))
    for folder in (output, tmp_path / "elsewhere"):
        results = gather(fewer, folder, path)
        assert "box" not in table.markdown_table(results)
        write_csv(results, path)
        assert path.read_text() == before


def test_a_metric_that_nothing_has_is_refused(sweep, output, tmp_path):
    path = tmp_path / "mine.csv"
    wrong = _load(tmp_path, _SWEEP.replace("mask/AP", "maks/AP"))
    with pytest.raises(UserError, match="no run has 'maks/AP'; did you mean mask/AP"):
        gather(wrong, output, path)
    write_csv(gather(sweep, output, path), path)
    with pytest.raises(UserError, match="no run has 'maks/AP'; did you mean mask/AP"):
        gather(wrong, tmp_path / "nothing", path)
    assert not gather(wrong, tmp_path / "nothing", tmp_path / "none.csv").by_run


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",seconds,digest", ",,", "is damaged: a line has no digest, seconds"),
        ("0.10000", "n/a", "is damaged: mask/AP of w_1-plain/seed1 is 'n/a', no number"),
        (",200,62,", ",200 steps,62,", "steps of w_1-plain/seed1 is '200 steps', no number"),
        ("seed2", "seed1", "is damaged: two lines are of w_1-plain/seed1"),
        ("run", "\udcff", "not a text file in UTF-8"),
    ],
)
def test_a_damaged_csv_is_named(sweep, output, tmp_path, old, new, message):
    path = tmp_path / "mine.csv"
    write_csv(gather(sweep, output, path), path)
    text = path.read_text().replace(old, new, 1)
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"mine.csv.* {re.escape(message)}"):
        gather(sweep, output, path)


def test_a_csv_that_cannot_be_written_is_as_it_was(sweep, output, tmp_path, monkeypatch):
    path = tmp_path / "mine.csv"
    write_csv(gather(sweep, output, path), path)
    before = path.read_text()
    _finish(sweep.runs[4], output, 0.4)
    results = gather(sweep, output, path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match=r"cannot write .*mine.csv: .*No space left"):
            write_csv(results, path)
    assert path.read_text() == before


def test_the_plot_is_a_picture_with_room_for_all(sweep, output, tmp_path):
    from PIL import Image

    results = gather(sweep, output, tmp_path / "mine.csv")
    table.plot(results, tmp_path / "mine.png")
    with Image.open(tmp_path / "mine.png") as image:
        assert image.format == "PNG"
        assert image.width > 800 and image.height > 200
        assert len(image.convert("L").getcolors()) > 50


def test_the_table_goes_between_its_lines_of_a_readme():
    text = "a\n<!-- mine -->\nold\n<!-- /mine -->\nb\n<!-- other -->\n<!-- /other -->\n"
    new = table.insert_markdown(text, "mine", "| \\1 |\n")
    assert new == text.replace("old\n", "\n| \\1 |\n\n")
    assert table.insert_markdown(new, "mine", "| \\1 |\n") == new
    with pytest.raises(UserError, match="give it the lines <!-- none --> and <!-- /none -->"):
        table.insert_markdown(text, "none", "")

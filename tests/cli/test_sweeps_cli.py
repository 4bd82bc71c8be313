"""sweep plan, run and table."""

import json
import pathlib
import re
import sys

import pytest

from official_maskrcnn.cli.main import main
from official_maskrcnn.configs.sweep import load_sweep
from official_maskrcnn.training.sweeps import runner

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SWEEP = """
experiment: deep_mask_head_rcnn_resnetfpn_coco
axes:
  list: {field: task.losses.mask_weight, name: w, values: [1, 2]}
seeds: [1, 2]
metrics: [mask/AP]
"""


@pytest.fixture
def file(tmp_path, monkeypatch) -> str:
    (tmp_path / "mine.yaml").write_text(_SWEEP)
    monkeypatch.chdir(tmp_path)
    return "mine.yaml"


@pytest.fixture
def data(tmp_path) -> list[str]:
    """Changes that give a sweep data which is there."""
    categories = [{"id": 1, "name": "nut"}]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return [
        f"task.{part}_data.{field}={path}"
        for part in ("train", "validation")
        for field, path in (("image_dir", tmp_path), ("annotation_file", truth))
    ]


@pytest.fixture
def fake_runs(monkeypatch):
    """Runs that fail with w 2 and seed 2."""

    def command(run, folder):
        code = "1" if run.name == "w_2/seed2" else "0"
        script = _ROOT / "tests" / "training" / "fake_run.py"
        return [sys.executable, "-S", str(script), str(folder), "22500", code]

    monkeypatch.setattr(runner.run_sweep, "__defaults__", (lambda jobs: None, command))
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_LOOKS", 0.02)


def test_plan_lists_runs_and_what_they_change(file, data, capsys):
    assert main(["sweep", "plan", file, *data]) == 0
    printed = capsys.readouterr().out
    assert "mine: 2 rows, 2 seeds, 4 runs" in printed
    assert "task.losses.mask_weight: 2.0" in printed
    modules = "task.init_checkpoint_modules"
    with open(file, "a", encoding="utf-8") as more:
        more.write(f"params_override: {{{modules}: [backbone]}}\n")
    text = pathlib.Path(file).read_text()
    both = f"{{field: {modules}, name: w, values: [[backbone], [decoder]]}}"
    pathlib.Path("both.yaml").write_text(re.sub("{field.*}", both, text))
    assert main(["sweep", "plan", "both.yaml", "--mode", "none"]) == 0
    assert f"{modules}: [decoder]" in capsys.readouterr().out  # and no markup of rich's
    assert main(["sweep", "plan", file, "--json", *data]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in plan["runs"]] == [f"w_{w}/seed{s}" for w in "12" for s in "12"]
    assert plan["runs"][3]["labels"] == {"w": "2"}
    assert plan["runs"][3]["changes"] == [["task.losses.mask_weight", "2.0"]]


@pytest.mark.parametrize("verb", [["plan"], ["run", "--output", "out"]])
def test_nothing_starts_while_anything_is_wrong(file, verb, capsys, tmp_path):
    assert main(["sweep", *verb, file]) == 2
    error = capsys.readouterr().err
    assert "error: " in error and "task.train_data.input_path" in error
    assert "of 2:" not in error  # all have it
    assert not (tmp_path / "out").exists()
    assert main(["sweep", "plan", file, "--mode", "none"]) == 0
    assert main(["sweep", "plan", file, "--mode", "none", "trainer.train_stepps=3"]) == 2
    assert "did you mean trainer.train_steps?" in capsys.readouterr().err


def test_run_then_table(file, data, fake_runs, capsys, tmp_path):
    arguments = [file, "--output", "out", *data]
    assert main(["sweep", "run", *arguments, "--only", "w_1/*", "--jobs", "2"]) == 0
    assert "2 of 2 runs are finished, in out" in capsys.readouterr().out
    assert main(["sweep", "run", *arguments, "--jobs", "4", "--retries", "0"]) == 1
    printed = capsys.readouterr().out
    assert "3 of 4 runs are finished, in out" in printed
    assert "w_2/seed2 failed with exit code 1; out/w_2/seed2/run.log ends:" in printed
    assert "  this is try 1" in printed

    (tmp_path / "README.md").write_text("<!-- mine -->\n<!-- /mine -->\n")
    assert main(["sweep", "table", *arguments, "--readme", "README.md"]) == 0
    captured = capsys.readouterr()
    assert "22.500 ± 0.000" in captured.out
    assert "1 of 4 runs are missing:\n  w_2/seed2: ended with exit code 1" in captured.err
    assert "| 2 | 22.500 | 1 of 2 |" in (tmp_path / "README.md").read_text()
    assert len((tmp_path / "mine.csv").read_text().splitlines()) == 4
    assert (tmp_path / "mine.png").exists()
    for form, part in (("markdown", "| 1 | 22.500 ± 0.000 | 2 of 2 |"), ("csv", "w_1,1,22.50000")):
        assert main(["sweep", "table", *arguments, "--csv", "x.csv", "--format", form]) == 0
        assert part in capsys.readouterr().out


def test_run_says_why_the_system_could_not_start_one(file, data, capsys, monkeypatch):
    defaults = (lambda jobs: None, lambda run, folder: ["no such program"])
    monkeypatch.setattr(runner.run_sweep, "__defaults__", defaults)
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_LOOKS", 0.02)
    assert main(["sweep", "run", file, "--output", "out", *data]) == 1
    printed = capsys.readouterr().out
    assert "0 of 4 runs are finished, in out" in printed
    assert "w_2/seed2 failed: [Errno 2] No such file or directory: 'no such program'" in printed


def test_a_table_that_cannot_be_made_writes_nothing(file, capsys, tmp_path):
    runs = load_sweep(file).runs
    lines = "".join(f"{r.name},{r.row.labels['w']},{r.seed},0.3,10,5,{r.digest}\n" for r in runs)
    text = f"run,w,seed,mask/AP,steps,seconds,digest\n{lines}"
    pathlib.Path("mine.csv").write_text(text)
    pathlib.Path("other.md").touch()
    for arguments, message in (
        (["--readme", "none.md"], "none.md: cannot be read"),
        (["--readme", "other.md"], "give it the lines <!-- mine -->"),
        (["--csv", "."], ".: cannot be read"),
        (["trainer.train_steps=30000"], "mine.csv has 4 line(s) of another configuration"),
    ):
        assert main(["sweep", "table", file, *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert pathlib.Path("mine.csv").read_text() == text
        assert not pathlib.Path("mine.png").exists()
    assert main(["sweep", "table", file, "--prune", "trainer.train_steps=30000"]) == 0
    assert pathlib.Path("mine.csv").read_text() == text.partition("\n")[0] + "\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sweep", "are required: VERB"),
        ("sweep pln mine.yaml", "unknown verb 'pln'; did you mean plan?"),
        ("sweep plan none.yaml", "none.yaml: no such file"),
        ("sweep plan mine.yaml --jobs 2", "unrecognized arguments: --jobs"),
        ("sweep run mine.yaml --jobs 0", "'0' is not a positive integer"),
        ("sweep run mine.yaml --executor slurm", "slurm"),
        ("sweep run mine.yaml --retries many", "many"),
    ],
)
def test_mistakes(arguments, message, file, capsys):
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_pattern_that_matches_nothing_and_ray_that_is_not_there(
    file, data, capsys, monkeypatch, tmp_path
):
    assert main(["sweep", "run", file, "--only", "w_3*", *data]) == 2
    assert "--only 'w_3*' matches no run" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "run", file, "--executor", "ray", *data]) == 2
    assert "pip install 'official-maskrcnn[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

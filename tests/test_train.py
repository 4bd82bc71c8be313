"""The driver: flags in, one call out, and exit code 2 for what is the user's to mend."""

import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def _train(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *flags],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--experimnt=x"], "Did you mean: experiment ?"),
        (["--mode=train"], "--experiment must have a value"),
        (["--experiment=x", "--mode=test", "--model_dir=x"], "train_and_eval"),
        (["--experiment=x", "--mode=train", "--model_dir=x", "y"], "takes only flags, but got: y"),
    ],
)
def test_wrong_flags(flags: list[str], message: str):
    result = _train(*flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_help_names_every_flag_of_model_garden():
    result = _train("--help")
    assert result.returncode == 0
    for flag in (
        *("experiment", "mode", "model_dir", "config_file", "params_override"),
        *("tpu", "gin_file", "gin_params"),
    ):
        assert f"--{flag}:" in result.stdout


def test_all_faults_at_once_and_no_traceback(tmp_path: pathlib.Path):
    config = tmp_path / "mine.yaml"
    config.write_text("trainer:\n  train_steps: abc\n")
    result = _train(
        "--logtostderr",
        "--experiment=deep_mask_head_rcnn_resnetfpn_coco",
        "--mode=train",
        f"--model_dir={tmp_path}/run",
        f"--config_file={config}",
        "--params_override=task.model.mask_head.num_convs=four",
        "--params_override=trainer.train_step=10",
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-4:] == [
        "error: 3 faults in the configuration (experiment deep_mask_head_rcnn_resnetfpn_coco):",
        f"  trainer.train_steps ({config}:2): 'abc' given; accepts an integer, such as 22500",
        "  task.model.mask_head.num_convs (--params_override 1): 'four' given; accepts an integer, "
        "such as 4",
        "  trainer.train_step (--params_override 2): no such field; did you mean "
        "trainer.train_steps?",
    ]
    assert not (tmp_path / "run").exists()

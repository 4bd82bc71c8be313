"""The driver: flags in, one call out, and exit code 2 for what is the user's to mend."""

import pathlib
import re
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


_PUBLISHED = r"""
export CONFIG=configs/deep_mask_head_rcnn_voc_r50.yaml
export MODEL_DIR="{folder}/model"
export ANNOTAION_FILE="{folder}/instances_val2017.json"
export TRAIN_DATA="{folder}/train*"
export EVAL_DATA="{folder}/val*"
export OVERRIDES="task.validation_data.input_path=${{EVAL_DATA}},\
task.train_data.input_path=${{TRAIN_DATA}},\
task.annotation_file=${{ANNOTAION_FILE}},\
runtime.distribution_strategy=tpu"

python3() {{ {python} "$@"; }}
python3 train.py \
  --logtostderr \
  --mode=train_and_eval \
  --experiment=deep_mask_head_rcnn_resnetfpn_coco \
  --model_dir=$MODEL_DIR \
  --config_file=$CONFIG \
  --params_override=$OVERRIDES\
  --tpu=node-1
"""


def test_the_command_published_for_model_garden_is_accepted(tmp_path: pathlib.Path):
    """All is right with it but that there is no such TPU, which is looked for only then."""
    for name in ("train-00000", "val-00000", "instances_val2017.json"):
        (tmp_path / name).touch()
    script = _PUBLISHED.format(folder=tmp_path, python=sys.executable)
    result = subprocess.run(
        ["bash", "-c", script], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert re.search("cannot reach the TPU 'node-1'|looking up the TPU 'node-1'", errors[0])
    assert "fault" not in result.stderr

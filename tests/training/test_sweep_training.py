"""A real sweep of two small trainings: killed in the middle, started again, made into a table."""

import csv
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from official_maskrcnn.data.synthetic import make_synthetic

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SWEEP = """
experiment: deep_mask_head_rcnn_resnetfpn_coco
params_override:
  task:
    init_checkpoint: null
    allowed_mask_class_ids: [1, 3, 7, 11, 17, 23]
    model:
      num_classes: 30
      input_size: [64, 64, 3]
      backbone.resnet.model_id: 18
      decoder.fpn.num_filters: 16
      detection_head: {num_convs: 0, num_fcs: 1, fc_dims: 16}
      mask_head: {num_convs: 1, num_filters: 8}
      roi_sampler.num_sampled_rois: 16
      mask_sampler.num_sampled_masks: 8
      roi_generator: {num_proposals: 30, test_num_proposals: 30}
      detection_generator.max_num_detections: 10
    train_data: {image_dir: DATA/images, annotation_file: DATA/instances.json, global_batch_size: 2,
                 dtype: float32}
    validation_data: {image_dir: DATA/images, annotation_file: DATA/instances.json,
                      global_batch_size: 2, dtype: float32}
  trainer:
    train_steps: 16
    steps_per_loop: 1
    summary_interval: 1
    checkpoint_interval: 2
    validation_interval: 16
    optimizer_config.learning_rate:
      {type: stepwise, stepwise: {boundaries: [8], values: [0.001, 0.0001]}}
  runtime: {distribution_strategy: one_device, mixed_precision_dtype: float32, run_eagerly: true}
axes:
  list: {field: task.model.mask_head.class_agnostic, name: agnostic, values: [true, false]}
seeds: [1]
metrics: [mask/AP/seen, mask/AP/unseen, box/AP]
"""
_RUNS = ("agnostic_true/seed1", "agnostic_false/seed1")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_its_table_has_every_run(tmp_path):
    make_synthetic(tmp_path / "data", 8, image_size=(64, 64), workers=1, progress=False)
    (tmp_path / "mine.yaml").write_text(_SWEEP.replace("DATA", str(tmp_path / "data")))
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "official_maskrcnn", "sweep"]
    run = [*command, "run", "mine.yaml", "--jobs", "2", "--output", "out"]

    runner = subprocess.Popen(run, cwd=tmp_path, env=environment)
    folders = [tmp_path / "out" / name for name in _RUNS]
    while not all(list(folder.glob("ckpt-*.index")) for folder in folders):
        assert runner.poll() is None
        time.sleep(0.1)
    runner.kill()
    runner.wait()
    assert not any((folder / "outcome.json").exists() for folder in folders)

    # The rest on Ray, if it is there: the folders are the same.
    rest = ["--executor", "ray"] if importlib.util.find_spec("ray") else []
    done = subprocess.run(
        [*run, *rest], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs are finished, in out" in done.stdout
    for folder in folders:
        log = (folder / "run.log").read_text()
        assert len(re.findall("^== ", log, re.MULTILINE)) == 2
        assert re.search(r"resumed from .*ckpt-\d+", log), log

    again = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert b"running" not in again.stderr
    subprocess.run([*command, "table", "mine.yaml", "--output", "out"], cwd=tmp_path,
                   env=environment, check=True)  # fmt: skip
    lines = list(csv.DictReader((tmp_path / "mine.csv").open()))
    assert [line["run"] for line in lines] == list(_RUNS)
    for line in lines:
        assert line["steps"] == "16"
        assert 0 <= float(line["mask/AP/unseen"]) <= 1
    assert (tmp_path / "mine.png").stat().st_size > 1000

"""Configurations with their origins, and side by side."""

import pathlib

import yaml

from official_maskrcnn.configs import display, loading

RESNET = "deep_mask_head_rcnn_resnetfpn_coco"


def test_differences():
    old = {"trainer": {"train_steps": 5, "ema": None}, "task": {"ids": [1, 2], "name": "None"}}
    new = {"trainer": {"train_steps": 9, "ema": {"decay": 0.5}}, "task": {"ids": [1, 2]}}
    assert display.differences(old, new) == [
        ("task.name", "'None'", "(absent)"),
        ("trainer.ema", "null", "(absent)"),
        ("trainer.ema.decay", "(absent)", "0.5"),
        ("trainer.train_steps", "5", "9"),
    ]


def test_saved_and_loaded_is_no_difference(tmp_path: pathlib.Path):
    config = loading.load_experiment(RESNET, (), "task.losses.l2_weight_decay=1e-05")
    assert display.differences(yaml.safe_load(loading.to_yaml(config)), config.as_dict()) == []


def test_origins_stand_beside_values_and_the_text_stays_yaml(tmp_path: pathlib.Path):
    file = tmp_path / "a.yaml"
    file.write_text("task:\n  per_category_metrics: true\n")
    loaded = loading.load(RESNET, [str(file)], "trainer.max_to_keep=2", {"--tpu": "runtime.seed=7"})
    text = display.with_origins(loaded)
    assert yaml.safe_load(text) == yaml.safe_load(loading.to_yaml(loaded.config))
    lines = [line.split("#") for line in text.splitlines() if "#" in line]
    origins = {value.strip(): origin.strip() for value, origin in lines}
    assert origins["per_category_metrics: true"] == f"{file}:2"
    assert origins["max_to_keep: 2"] == "--params_override"
    assert origins["seed: 7"] == "--tpu"
    assert origins["train_steps: 22500"] == f"experiment {RESNET}"

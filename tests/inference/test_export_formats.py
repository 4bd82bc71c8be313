"""export --formats: TFLite, ONNX and StableHLO find what the checkpoint finds; docs/export.md.

They need the extras onnx and stablehlo.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest
import tensorflow as tf

from official_maskrcnn.cli.main import main
from official_maskrcnn.data.synthetic import make_synthetic
from official_maskrcnn.inference.export.check import check_export
from official_maskrcnn.inference.export.exporter import export_model
from official_maskrcnn.inference.formats import FORMATS
from official_maskrcnn.inference.trained_model import load_trained_model
from tests.inference.small_model import CLASS_NAMES, make_model_dir

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FLOAT32 = ("saved_model", "tflite", "onnx", "stablehlo")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_synthetic(folder, 3, seed=1, image_size=(96, 128))
    return folder


def _make_model_dir(folder: pathlib.Path, *overrides: str) -> pathlib.Path:
    """With objectness that tells proposals apart: at first, all is within 1e-9 of one half."""
    make_model_dir(folder, *overrides)
    model = load_trained_model(str(folder)).model
    for seed, variable in enumerate(model.rpn_head.trainable_variables):
        values = tf.random.stateless_normal(variable.shape, [0, seed], stddev=0.02)
        variable.assign(variable + values)
    tf.train.Checkpoint(model=model).write(str(folder / "ckpt-10"))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shapes) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("export")
    model = _make_model_dir(folder / "model")
    arguments = ["--model", str(model), "--output", str(folder / "out"), "--formats", *FORMATS]
    arguments += ["--check", str(shapes / "instances.json"), "--image_dir", str(shapes / "images")]
    assert main(["export", *arguments]) == 0
    return folder / "out"


def _assert_agrees(entry: dict) -> None:
    differences = dict(entry["differences"])
    assert differences.pop("unmatched") == 0, entry["name"]
    assert all(value <= 1e-4 for value in differences.values()), (entry["name"], differences)


def test_float32_finds_what_the_checkpoint_finds(exported):
    checked = {entry["name"]: entry for entry in json.loads((exported / "check.json").read_text())}
    assert list(checked) == ["checkpoint", *FORMATS]
    for name in _FLOAT32:
        _assert_agrees(checked[name])
        assert checked[name]["metrics"] == pytest.approx(checked["checkpoint"]["metrics"])
    assert checked["tflite_float16"]["differences"]["score"] < 0.01
    for name, share in (("tflite_float16", 0.75), ("tflite_int8", 0.6)):
        assert checked[name]["megabytes"] < share * checked["tflite"]["megabytes"]


def test_the_table_has_a_row_for_each_format(exported):
    lines = (exported / "check.md").read_text().splitlines()
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names == ["checkpoint", *FORMATS]
    assert len({line.count("|") for line in lines}) == 1


def test_single_files_say_what_they_are(exported):
    import onnx

    categories = [{"id": number, "name": name} for number, name in CLASS_NAMES.items()]
    with zipfile.ZipFile(exported / "model.tflite") as file:
        assert json.loads(file.read("export.json"))["categories"] == categories
    model = onnx.load(exported / "model.onnx")
    (about,) = [entry.value for entry in model.metadata_props if entry.key == "export.json"]
    assert json.loads(about)["categories"] == categories
    described = json.loads((exported / "export.json").read_text())["files"]["stablehlo"]
    assert [entry["shape"] for entry in described["inputs"]] == [[1, 128, 128, 3], [1, 4, 2]]


@pytest.mark.parametrize(
    "overrides",
    [
        (
            "task.model.mask_head.class_agnostic=false",
            "task.model.mask_head.convnet_variant=hourglass20",
            "task.model.mask_roi_aligner.crop_size=16",
            "task.model.outer_boxes_scale=1.3",
        ),
        (
            "task.model.include_mask=false",
            "task.model.roi_sampler.cascade_iou_thresholds=[0.6]",
            "task.model.detection_head.class_agnostic_bbox_pred=true",
        ),
    ],
)
def test_other_models(overrides, shapes, tmp_path):
    model = _make_model_dir(tmp_path / "model", *overrides)
    export_model(str(model), str(tmp_path / "out"), ("tflite", "onnx", "stablehlo"), batch_size=2)
    checked, _ = check_export(
        str(model),
        str(tmp_path / "out"),
        str(shapes / "instances.json"),
        str(shapes / "images"),
        progress=False,
    )
    for entry in checked:
        _assert_agrees(json.loads(json.dumps(entry, default=vars)))


def test_the_python_of_the_documentation_runs(exported, shapes, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "nuts_export").symlink_to(exported)
    photograph = min((shapes / "images").iterdir())
    (tmp_path / "photograph.jpg").symlink_to(photograph)
    blocks = re.findall(r"```python\n(.*?)```", (_ROOT / "docs/export.md").read_text(), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        isolated = [] if "official_maskrcnn" in block else ["-I"]
        done = subprocess.run(
            [sys.executable, *isolated, "-c", block],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(_ROOT), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr[-3000:]}"
        assert done.stdout.strip(), block

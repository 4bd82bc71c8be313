"""export: a SavedModel that needs nothing of this package, and what is refused."""

import importlib.util
import io
import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from official_maskrcnn import Detections, Predictor, UserError
from official_maskrcnn.cli.main import main
from official_maskrcnn.data.synthetic import make_synthetic
from official_maskrcnn.data.tfrecord import encode_example
from official_maskrcnn.inference.export.check import check_export
from official_maskrcnn.inference.export.exporter import export_model
from tests.inference.fresh_process import run_fresh
from tests.inference.small_model import CLASS_NAMES, make_model_dir

_BOXES = np.array([[10, 20, 60, 90], [-5, 0, 40, 400], [70, 100, 96, 128]], np.float32)
_FRESH = """
import tensorflow as tf
model = tf.saved_model.load({path!r})
calls = {
    "images": ("serving_default", ["inputs"]),
    "bytes": ("image_bytes", ["inputs"]),
    "examples": ("tf_example", ["inputs"]),
    "boxes": ("image_and_boxes_tensor", ["images", "boxes"]),
    "no_boxes": ("image_and_boxes_tensor", ["images", "boxes"]),
}
for call, (signature, names) in calls.items():
    values = [inputs[f"{call}_{name}"] for name in names]
    values = [value.tolist() if value.dtype.kind == "S" else value for value in values]
    arguments = {name: tf.constant(value) for name, value in zip(names, values)}
    for name, value in model.signatures[signature](**arguments).items():
        outputs[f"{call}_{name}"] = value
"""


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, [6, 8, 3], np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize((width, height)))


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def model_dir(folder) -> pathlib.Path:
    made = make_model_dir(folder / "model")
    line = {"time": 1.0, "step": 10, "phase": "eval", "box/AP": 0.25, "mask/AP": None}
    (made / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return made


@pytest.fixture(scope="module")
def exported(folder, model_dir) -> pathlib.Path:
    assert main(["export", "--model", str(model_dir), "--output", str(folder / "exported")]) == 0
    return folder / "exported"


@pytest.fixture(scope="module")
def pasted(folder) -> pathlib.Path:
    """Of a class-specific model with larger boxes for masks, with masks of the images' size."""
    made = make_model_dir(
        folder / "specific",
        "task.model.mask_head.class_agnostic=false",
        "task.model.outer_boxes_scale=1.3",
    )
    export_model(str(made), str(folder / "pasted"), paste_masks=True)
    return folder / "pasted"


@pytest.fixture(scope="module")
def predictor(model_dir) -> Predictor:
    return Predictor(model_dir)


@pytest.fixture(scope="module")
def of_export(exported) -> Predictor:
    return Predictor(exported)


@pytest.fixture(scope="module")
def of_pasted(pasted) -> Predictor:
    return Predictor(pasted)  # whose masks are crops


def _signatures(predictor: Predictor) -> dict:
    """Of the SavedModel that a predictor has loaded."""
    return predictor._graphs.signatures


def _assert_close(outputs: dict, prefix: str, index: int, expected: Detections) -> None:
    found = {name: outputs[f"{prefix}_{name}"][index] for name in _NAMES}
    assert found["num_detections"] == len(expected) == 10
    side = max(expected.image_size)
    np.testing.assert_allclose(found["detection_boxes"] / side, expected.boxes / side, atol=1e-4)
    np.testing.assert_array_equal(found["detection_classes"], expected.class_ids)
    np.testing.assert_allclose(found["detection_scores"], expected.scores, atol=1e-4)
    np.testing.assert_allclose(found["detection_masks"], expected.mask_crops, atol=1e-4)


_NAMES = (
    *("num_detections", "detection_boxes", "detection_classes", "detection_scores"),
    "detection_masks",
)


def test_a_process_without_this_package_finds_what_the_checkpoint_finds(
    predictor, exported, tmp_path
):
    images = np.stack([_image(96, 128, seed) for seed in range(2)])
    other = _image(61, 47)
    encoded = np.array([_png(images[0]), _png(other)], object)
    examples = np.array([encode_example({"image/encoded": content}) for content in encoded])
    boxes = np.stack([_BOXES, _BOXES[::-1]])
    boxes[1, 1] = 0.0  # padding
    outputs = run_fresh(
        _FRESH.replace("{path!r}", repr(str(exported))),
        tmp_path,
        {
            "images_inputs": images,
            "bytes_inputs": encoded.astype("S"),
            "examples_inputs": examples.astype("S"),
            "boxes_images": images,
            "boxes_boxes": boxes,
            "no_boxes_images": images,
            "no_boxes_boxes": np.zeros([2, 0, 4], np.float32),
        },
    )
    for index, image in enumerate(images):
        _assert_close(outputs, "images", index, predictor(image))
    for call in ("bytes", "examples"):
        for index, image in enumerate([images[0], other]):
            _assert_close(outputs, call, index, predictor(image))
    for index, (image, real) in enumerate(zip(images, ([0, 1, 2], [0, 2]), strict=True)):
        expected = predictor.segment(image, boxes[index, real])
        masks = outputs["boxes_detection_masks"][index]
        np.testing.assert_allclose(masks[real], expected.mask_crops, atol=1e-4)
        outer = outputs["boxes_detection_outer_boxes"][index, real]
        np.testing.assert_allclose(outer, expected.mask_boxes, atol=1e-2)
    assert not outputs["boxes_detection_masks"][1, 1].any()
    assert outputs["no_boxes_detection_masks"].shape == (2, 0, 28, 28)


def test_a_predictor_of_the_export_is_that_of_the_training(exported, of_export, predictor):
    ours, theirs = of_export, predictor
    assert ours.class_names == theirs.class_names == CLASS_NAMES
    assert (ours.config, ours.precision) == (theirs.config, "float32")
    images = [_image(96, 128), _image(61, 47)]
    for found, expected in zip(ours.predict(images), theirs.predict(images), strict=True):
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
        np.testing.assert_array_equal(found.class_ids, expected.class_ids)
        assert found.names == expected.names
        np.testing.assert_allclose(found.mask_crops, expected.mask_crops, atol=1e-4)
    found, expected = (one.segment(images[0], _BOXES) for one in (ours, theirs))
    np.testing.assert_allclose(found.mask_crops, expected.mask_crops, atol=1e-4)
    scores = ours(images[0]).scores
    few = Predictor(exported, min_score=float(scores[3]))(images[0])
    np.testing.assert_array_equal(few.scores, scores[:4])


def test_predict_takes_an_export(exported, tmp_path, capsys):
    PIL.Image.fromarray(_image(96, 128)).save(tmp_path / "7.png")
    arguments = ["--images", str(tmp_path / "7.png"), "--output", str(tmp_path / "found")]
    assert main(["predict", "--model", str(exported), *arguments]) == 0
    assert "10 objects in 1 images" in capsys.readouterr().out


def test_an_export_says_what_it_is(exported, model_dir):
    about = json.loads((exported / "export.json").read_text())
    assert about["checkpoint"] == "ckpt-10"
    assert about["categories"] == [{"id": i, "name": name} for i, name in CLASS_NAMES.items()]
    assert about["metrics"] == {"box/AP": 0.25, "mask/AP": None}
    assert about["preprocessing"]["input_size"] == [128, 128]
    assert about["files"] == {"saved_model": {"file": "saved_model.pb"}}
    assert (exported / "params.yaml").read_text() == (model_dir / "params.yaml").read_text()


def test_pasted_masks_are_those_of_the_evaluation(of_pasted):
    image = _image(61, 83)
    expected = of_pasted(image)
    outputs = _signatures(of_pasted)["serving_default"](inputs=tf.constant(image[None]))
    masks = outputs["detection_masks"].numpy()
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(masks[0] > 0, expected.masks)
    assert expected.masks.any()
    assert "detection_outer_boxes" not in outputs


def test_signatures_refuse_what_they_cannot_do(of_pasted, of_export):
    signatures = _signatures(of_pasted)
    sizes = [_png(_image(61, 83)), _png(_image(61, 84))]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have one size"):
        signatures["image_bytes"](inputs=tf.constant(sizes))
    segment = signatures["image_and_boxes_tensor"]
    images, boxes = tf.constant(_image(96, 128)[None]), tf.constant(_BOXES[None])
    with pytest.raises(TypeError, match="classes"):
        segment(images=images, boxes=boxes)
    for wrong in (0, 5):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must be from 1 to 4"):
            segment(images=images, boxes=boxes, classes=tf.constant([[1, 2, wrong]]))
    masks = segment(images=images, boxes=boxes, classes=tf.constant([[1, 2, 4]]))
    expected = of_pasted.segment(images[0].numpy(), _BOXES, [1, 2, 4])
    np.testing.assert_array_equal(masks["detection_masks"].numpy()[0] > 0, expected.masks)
    none = segment(images=images, boxes=tf.zeros([1, 0, 4]), classes=tf.zeros([1, 0], tf.int32))
    assert none["detection_masks"].shape == [1, 0, 96, 128]
    detect = _signatures(of_export)["serving_default"]
    for shape in ([0, 9, 9, 3], [1, 0, 9, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="no image, or one without pixels"):
            detect(inputs=tf.zeros(shape, tf.uint8))


def test_boxes_for_a_class_specific_head_need_classes(of_pasted):
    with pytest.raises(UserError, match="say the class of each box"):
        of_pasted.segment(_image(96, 128), _BOXES)


@pytest.mark.slow
def test_a_model_without_masks_has_no_signature_for_boxes(tmp_path):
    made = make_model_dir(tmp_path / "model", "task.model.include_mask=false")
    with pytest.raises(UserError, match="--paste_masks: the model has no masks"):
        export_model(str(made), str(tmp_path / "out"), paste_masks=True)
    assert not (tmp_path / "out").exists()
    export_model(str(made), str(tmp_path / "out"))
    found = Predictor(tmp_path / "out")
    assert set(_signatures(found)) == {"serving_default", "image_bytes", "tf_example"}
    assert not found(_image(50, 60)).has_masks


@pytest.mark.slow
def test_bfloat16_is_kept(model_dir, tmp_path):
    export_model(str(model_dir), str(tmp_path / "out"), precision="bfloat16")
    found = Predictor(tmp_path / "out")
    expected = Predictor(model_dir, precision="bfloat16")
    assert found.precision == "bfloat16"
    image = _image(96, 128)
    np.testing.assert_allclose(found(image).scores, expected(image).scores, atol=1e-4)


def test_check_leaves_images_out_that_cannot_be_read(model_dir, exported, folder, capsys):
    make_synthetic(folder / "shapes", 3, seed=1, image_size=(96, 128))
    images, annotations = folder / "shapes" / "images", folder / "shapes" / "instances.json"
    damaged, missing, _ = sorted(images.iterdir())
    damaged.write_bytes(b"no image")
    missing.unlink()
    given = (str(model_dir), str(exported), str(annotations), str(images))
    checked, faults = check_export(*given, progress=False)
    assert faults == {str(damaged): "undecodable_image", str(missing): "missing_image"}
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][2:]
    del content["images"][0]["height"]  # it is looked for in the file
    annotations.write_text(json.dumps(content))
    alone, _ = check_export(*given, progress=False)
    assert [one.metrics for one in checked] == [one.metrics for one in alone]
    shutil.rmtree(images)
    with pytest.raises(UserError, match="none of the images of"):
        check_export(*given, progress=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint": "latest"}, "one checkpoint (ckpt-10)"),
        ({"precision": "bfloat16"}, "exported in float32, not bfloat16"),
    ],
)
def test_a_predictor_of_an_export_says_what_is_fixed(exported, options, said):
    with pytest.raises(UserError) as refusal:
        Predictor(exported, **options)
    assert said in str(refusal.value)


def test_what_an_export_refuses(model_dir, exported, tmp_path, monkeypatch, capsys):
    def refusal(*arguments: str, model: pathlib.Path = model_dir) -> str:
        given = ["--model", str(model), "--output", str(tmp_path / "new"), *arguments]
        assert main(["export", *given]) == 2
        return capsys.readouterr().err

    assert "exists: give another --output" in refusal("--output", str(exported))
    assert "give the model_dir of its training" in refusal(model=exported)
    assert "has no params.yaml" in refusal(model=tmp_path)
    assert "there are 10" in refusal("--checkpoint", "3")
    assert "which --formats leaves out" in refusal("--paste_masks", "--formats", "tflite")
    assert "of no use without --check" in refusal("--image_dir", "photos")
    assert "none.json" in refusal("--check", "none.json")
    assert "written locally" in refusal("--output", "gs://bucket/model")
    assert "invalid choice: 'coreml'" in refusal("--formats", "coreml")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("tf2onnx", "jax") else find(name)
    )
    for name in ("onnx", "stablehlo"):
        assert f"pip install 'official-maskrcnn[{name}]'" in refusal("--formats", name)
    assert not (tmp_path / "new").exists()


def test_soft_nms_is_refused_where_shapes_are_static(tmp_path):
    soft = "task.model.detection_generator.soft_nms_sigma=0.5"
    made = make_model_dir(tmp_path / "model", soft)
    with pytest.raises(UserError, match=r"soft_nms_sigma is 0.5.*not as tflite"):
        export_model(str(made), str(tmp_path / "out"), ("saved_model", "tflite"))


def test_an_export_without_a_saved_model_is_no_predictor(tmp_path):
    (tmp_path / "export.json").write_text(json.dumps({"files": {"tflite": {}}}))
    with pytest.raises(UserError, match=r"no SavedModel \(it has tflite\)"):
        Predictor(tmp_path)

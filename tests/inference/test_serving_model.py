"""The service with a real model: its answers are those of a predictor."""

import base64
import pathlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pytest
from fastapi.testclient import TestClient
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation.pasting import rle_from_crops
from official_maskrcnn.inference.predictor import Predictor
from official_maskrcnn.inference.serving import score
from official_maskrcnn.inference.serving.app import create_app
from official_maskrcnn.inference.serving.metrics import Metrics
from official_maskrcnn.inference.serving.options import ServiceOptions
from official_maskrcnn.inference.serving.service import Service
from tests.inference.small_model import CLASS_NAMES, make_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> pathlib.Path:
    return make_model_dir(tmp_path_factory.mktemp("model") / "nuts")


@pytest.fixture(scope="module")
def predictor(model_dir) -> Predictor:
    return Predictor(model_dir)


@pytest.fixture(scope="module")
def client(predictor) -> Iterator[TestClient]:
    service = Service(predictor, ServiceOptions("nuts"), Metrics())
    service.warm_up()
    with TestClient(create_app(service)) as client:
        yield client


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("images") / "photograph.jpg"
    pixels = np.random.default_rng(3).integers(0, 255, (10, 14, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 8  # turned by a quarter
    PIL.Image.fromarray(pixels).resize((280, 200)).save(path, exif=exif)
    return path


def test_score_answers_what_the_predictor_finds(client, predictor, photograph):
    expected = predictor(photograph)
    assert len(expected) and expected.image_size == (280, 200)
    found = client.post("/score?prob=0&mask=rle", content=photograph.read_bytes()).json()
    assert [entry["class"] for entry in found] == expected.class_ids.tolist()
    assert [entry["label"] for entry in found] == [
        CLASS_NAMES.get(i, str(i)) for i in expected.class_ids.tolist()
    ]
    boxes = np.array([entry["bounding_box"] for entry in found]) * [280, 200, 280, 200]
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
    assert [entry["mask"] for entry in found] == expected.rles


def test_a_crop_fills_its_mask_box(client, predictor, photograph):
    found = client.post("/score?prob=0&mask=crop", content=photograph.read_bytes()).json()
    crops = np.array([entry["mask"] for entry in found])
    boxes = np.array([entry["mask_box"] for entry in found]) * [280, 200, 280, 200]
    pasted = coco_mask.decode(rle_from_crops(crops, boxes, 280, 200))
    expected = predictor(photograph).masks
    # Probabilities are rounded to three digits, and so some are on the other side of one half.
    assert np.mean(np.moveaxis(pasted, -1, 0) != expected) < 0.01 * expected.mean() + 1e-4


def test_segment_answers_what_the_predictor_segments(client, predictor, photograph):
    box = np.array([0.1, 0.2, 0.7, 0.9])
    expected = predictor.segment(photograph, box * [280, 200, 280, 200])
    query = f"box={','.join(map(str, box))}&mask=rle"
    (found,) = client.post(f"/segment?{query}", content=photograph.read_bytes()).json()
    assert found["mask"] == expected.rles[0] and found["label"] == "object"
    (found,) = client.post(f"/segment?{query}&class=star", content=photograph.read_bytes()).json()
    assert (found["class"], found["label"]) == (4, "star")
    answer = client.post(f"/segment?{query}&class=moon", content=photograph.read_bytes())
    assert answer.status_code == 400 and "no class 'moon' (it has: disk" in answer.json()["error"]
    for query, words in (("box=0.5,0.5,0.4,0.6", "box 0 is"), ("box=2,2,3,3", "box 0 is")):
        answer = client.post(f"/segment?{query}", content=photograph.read_bytes())
        assert answer.status_code == 400 and words in answer.json()["error"]
    answer = client.post("/segment?box=0,0,1,1&class=1&class=2", content=photograph.read_bytes())
    assert answer.status_code == 400 and "1 boxes, but 2 classes" in answer.json()["error"]


def test_predict_answers_in_pixels(client, predictor, photograph):
    instances = [
        {"b64": base64.b64encode(photograph.read_bytes()).decode()},
        predictor.read(photograph).tolist(),
    ]
    answer = client.post("/v1/models/nuts:predict", json={"instances": instances})
    expected = predictor(photograph)
    for found in answer.json()["predictions"]:
        assert found["num_detections"] == len(expected)
        np.testing.assert_allclose(found["detection_boxes"], expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found["detection_masks"], expected.mask_crops, atol=1e-5)


class _Request:
    """As Azure's inference server hands it to a script that asks for raw requests."""

    def __init__(self, data: bytes, method: str = "POST", **args: str):
        self.data, self.method, self.args = data, method, args

    def get_data(self, cache: bool = True) -> bytes:
        return self.data


def test_the_scoring_script_answers_as_the_service_does(
    client, photograph, model_dir, tmp_path, monkeypatch
):
    # Azure mounts a registered model in a folder below the one that it names.
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(model_dir.parent))
    score.init()
    body = photograph.read_bytes()
    expected = client.post("/score?prob=0&mask=polygon", content=body).json()
    assert score.run(_Request(body, prob="0", mask="polygon")) == expected
    text = f'{{"image": "{base64.b64encode(body).decode()}", "prob": 0, "mask": "polygon"}}'
    assert score.run(text) == expected
    assert score.run(body) == client.post("/score", content=body).json()
    for wrong in (
        b"no image",
        "no JSON",
        "{}",
        "[]",
        _Request(body, prob="x"),
        _Request(body, mask="png"),
        _Request(b"", "GET"),
    ):
        answer = score.run(wrong)
        assert isinstance(answer, dict) and answer["error"]
    monkeypatch.setenv("AZUREML_MODEL_DIR", str(tmp_path))
    with pytest.raises(Exception, match="no model in"):
        score.init()

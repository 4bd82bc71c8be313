"""The service's answers: what is found, in which form, and what is refused in which words."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from fastapi.testclient import TestClient
from pycocotools import mask as coco_mask

from official_maskrcnn.inference.serving import score
from official_maskrcnn.inference.serving.app import create_app
from official_maskrcnn.inference.serving.metrics import Metrics
from official_maskrcnn.inference.serving.options import ServiceOptions
from official_maskrcnn.inference.serving.service import Service
from tests.inference.served_predictor import POISON, SIDE, ServedPredictor, encode, wait_until

_PHOTO = encode(40, 60)


def make_client(predictor: ServedPredictor | None = None, **options) -> TestClient:
    service = Service(
        predictor or ServedPredictor(), ServiceOptions(**{"name": "nuts", **options}), Metrics()
    )
    return TestClient(create_app(service), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with make_client() as client:
        yield client


def test_score_answers_normalised_boxes_above_the_threshold(client):
    answer = client.post("/score", content=_PHOTO)
    assert answer.status_code == 200
    (found,) = answer.json()
    assert found.keys() == {"class", "label", "confidence", "bounding_box", "mask", "mask_box"}
    assert (found["class"], found["label"], found["confidence"]) == (1, "date", 0.8)
    assert found["bounding_box"] == found["mask_box"] == [0.25, 0.5, 0.75, 1.0]
    assert len(client.post("/score?prob=0.3", content=_PHOTO).json()) == 2
    assert client.post("/score?prob=0.81", content=_PHOTO).json() == []


def test_what_the_body_says_of_itself_does_not_matter(client):
    for media_type in ("application/json", "application/x-www-form-urlencoded", "image/jpeg"):
        answer = client.post("/score", content=_PHOTO, headers={"Content-Type": media_type})
        assert len(answer.json()) == 1


def test_a_mask_as_crop_rle_and_polygon_is_the_same_mask(client):
    masks = {
        form: client.post(f"/score?mask={form}", content=_PHOTO).json()[0].get("mask")
        for form in ("crop", "rle", "polygon", "none")
    }
    assert masks["none"] is None
    crop = np.array(masks["crop"])
    assert crop.shape == (SIDE, SIDE)
    assert crop[1:] == pytest.approx(0.9) and crop[0] == pytest.approx(0.125)
    assert masks["rle"]["size"] == [40, 60]
    dense = coco_mask.decode(masks["rle"])
    # The box has rows 10 to 29 and columns 30 to 59; the mask begins between rows 0 and 1 of 8.
    top = 10 + int(np.ceil((0.5 + (0.5 - 0.125) / (0.9 - 0.125)) * 20 / SIDE - 0.5))
    assert dense.sum() == (30 - top) * 30 and dense[top:30, 30:60].all()
    (outline,) = masks["polygon"]
    filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([outline], 40, 60)))
    np.testing.assert_array_equal(filled, dense)


def test_images_are_answered_for_as_they_are_displayed(client):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = encode(40, 60, "JPEG", exif=exif)
    (found,) = client.post("/score?mask=rle", content=turned).json()
    assert found["mask"]["size"] == [60, 40]


def test_segment_answers_each_box(client):
    answer = client.post("/segment?box=0,0,0.5,0.5&box=0.1,0.2,0.9,1", content=_PHOTO)
    first, second = answer.json()
    assert first["bounding_box"] == [0, 0, 0.5, 0.5]
    assert second["bounding_box"] == pytest.approx([0.1, 0.2, 0.9, 1])


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ("1,2,3", "is no box"),
        ("a,b,c,d", "is no box"),
        ("0,0,nan,1", "is no box"),
        ("0,0,1e999,1", "is no box"),
        ("10,20,200,300", "as fractions of the image"),
    ],
)
def test_segment_refuses_what_is_no_box(client, box, words):
    answer = client.post("/segment", params={"box": box}, content=_PHOTO)
    assert answer.status_code == 400 and words in answer.json()["error"]


def test_segment_bounds_the_boxes_and_needs_one(client):
    answer = client.post("/segment", params={"box": ["0,0,1,1"] * 101}, content=_PHOTO)
    assert answer.status_code == 400 and "at most 100" in answer.json()["error"]
    answer = client.post("/segment", content=_PHOTO)
    assert answer.status_code == 400 and answer.json()["error"].startswith("box: ")


def test_what_a_model_cannot_do_is_said():
    with make_client(ServedPredictor(class_agnostic=False)) as client:
        answer = client.post("/segment?box=0,0,1,1", content=_PHOTO)
        assert answer.status_code == 400 and "say the class of each box" in answer.json()["error"]
        assert client.post("/segment?box=0,0,1,1&class=fig", content=_PHOTO).status_code == 200
        assert client.get("/model").json()["boxes_need_classes"] is True
    with make_client(ServedPredictor(include_mask=False)) as client:
        answer = client.post("/score?mask=rle", content=_PHOTO)
        assert answer.status_code == 400 and "has no masks" in answer.json()["error"]
        assert "mask" not in client.post("/score", content=_PHOTO).json()[0]


def test_a_class_can_be_called_a_number():
    predictor = ServedPredictor(class_agnostic=False)
    predictor.class_names = {1: "2", 2: "fig"}
    with make_client(predictor) as client:
        for given, expected in (("2", ["2"]), ("1", [1]), ("fig", ["fig"])):
            query = f"/segment?box=0,0,1,1&class={given}"
            assert client.post(query, content=_PHOTO).status_code == 200
            assert predictor.classes == expected


def _bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes and many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * 100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def _cut_off() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


def _many_scans() -> bytes:
    jpeg = encode(64, 64, "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * 200 + jpeg[-2:]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "no image that can be read"),
        (b"hello", 400, "no image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "no image that can be read"),
        (_cut_off(), 400, "cut off on its way"),
        (_bomb(30000, 30000), 413, "more than 50000000 pixels"),
        (_many_scans(), 400, "more than 100 scans"),
        (b"x" * (2 << 20), 413, "larger than"),
    ],
)
def test_what_is_no_usable_image_is_refused(body, status, words):
    with make_client(max_bytes=1 << 20) as client:
        for path in ("/score", "/segment?box=0,0,1,1"):
            answer = client.post(path, content=body)
            assert answer.status_code == status
            assert words in answer.json()["error"]


@pytest.mark.parametrize(
    "query", ["prob=2", "prob=nan", "prob=x", "prob=", "mask=png", "prob=0.5&mask=RLE"]
)
def test_wrong_parameters_are_named(client, query):
    answer = client.post(f"/score?{query}", content=_PHOTO)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(("prob: ", "mask: "))


@pytest.mark.parametrize("has_masks", [True, False])
def test_the_scoring_script_refuses_what_the_service_refuses(has_masks, monkeypatch):
    predictor = ServedPredictor(include_mask=has_masks)
    monkeypatch.setattr(score, "_predictor", predictor)
    too_large = b"\0" * (ServiceOptions("nuts").max_bytes + 1)
    images = (_PHOTO, b"hello", _cut_off(), _bomb(30000, 30000), _many_scans(), too_large)
    queries = [{"mask": form} for form in ("none", "crop", "rle", "polygon", "png")]
    queries += [{"prob": text} for text in ("0", "0.3", "1.01", "-1", "nan", "x", "")]
    requests = [(image, {}) for image in images] + [(_PHOTO, query) for query in queries]
    with make_client(predictor) as client:
        for image, query in requests:
            expected = client.post("/score", params=query, content=image)
            raw = SimpleNamespace(method="POST", args=query, get_data=lambda image=image: image)
            answer = score.run(raw)
            if expected.status_code == 200:
                assert answer == expected.json()
            elif query:  # in other words
                assert answer["error"].startswith(("this model has no masks", "prob: ", "mask: "))
            else:
                assert answer == expected.json()


def test_get_says_how_to_ask(client):
    answer = client.get("/score?prob=0.5")
    assert answer.status_code == 405 and answer.headers["Allow"] == "POST"
    assert "curl --data-binary @photo.jpg" in answer.json()["error"]
    assert client.put("/segment").status_code == client.delete("/model").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_a_content_encoding_is_refused(client):
    answer = client.post("/score", content=_PHOTO, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def _predict(client, content, path="/v1/models/nuts:predict"):
    return client.post(path, json=content)


def test_tensorflow_serving_answers_rows_in_pixels(client):
    encoded = base64.b64encode(_PHOTO).decode()
    pixels = np.zeros([20, 30, 3], int).tolist()
    content = {"signature_name": "image_bytes", "instances": [{"b64": encoded}, pixels]}
    for path in ("/v1/models/nuts:predict", "/v1/models/nuts/versions/40:predict"):
        first, second = _predict(client, content, path).json()["predictions"]
        assert first["num_detections"] == 2
        assert first["detection_boxes"] == [[10, 30, 30, 60], [0, 0, 40, 60]]
        assert first["detection_classes"] == [1, 2]
        assert first["detection_scores"] == [0.8, 0.3]
        assert np.shape(first["detection_masks"]) == (2, SIDE, SIDE)
        assert second["detection_boxes"][1] == [0, 0, 20, 30]
    named = {"instances": [{"inputs": {"b64": encoded}}]}
    assert _predict(client, named).json()["predictions"] == [first]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "no JSON object"),
        ({}, '"instances" must be a list'),
        ({"instances": []}, '"instances" must be a list'),
        ({"instances": [1]}, "instance 0 is no image"),
        ({"instances": [{"b64": "%%%"}]}, "no base64"),
        ({"instances": [{"b64": "\u00e4"}]}, "no base64"),
        ({"instances": [{"b64": "aGVsbG8="}]}, "no image that can be read"),
        ({"instances": [[[1, 2], [3]]]}, "differ in length"),
        ({"instances": [[[[0, 0, 300]]]]}, "from 0 to 255"),
        ({"instances": [[[[0, 0, "x"]]]]}, "from 0 to 255"),
        ({"instances": [[[[0, 0]]]]}, "uint8 [h, w, 3]"),
        ({"instances": [[]]}, "uint8 [h, w, 3]"),
        ({"instances": [{"b64": "aGVsbG8="}] * 33}, "at most 32"),
        ({"inputs": {"b64": "aGVsbG8="}}, "by rows"),
        ({"instances": [[[[0, 0, 0]]]], "signature_name": "other"}, "no signature 'other'"),
        ({"signature_name": "image_and_boxes_tensor"}, "for boxes POST /segment"),
    ],
)
def test_tensorflow_serving_refuses_in_words(client, content, words):
    answer = _predict(client, content)
    assert answer.status_code == 400 and words in answer.json()["error"]


def test_tensorflow_serving_bounds_an_image():
    with make_client(max_pixels=100, max_bytes=2000) as client:
        pixels = np.zeros([10, 11, 3], int).tolist()
        answer = _predict(client, {"instances": [pixels]})
        assert answer.status_code == 413 and "more than 100 pixels" in answer.json()["error"]
        assert _predict(client, {"instances": [pixels[:9]]}).status_code == 200
        encoded = base64.b64encode(bytes(2001)).decode()
        answer = _predict(client, {"instances": [{"b64": encoded}]})
        assert answer.status_code == 413 and "larger than 2000 bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"instances": ' + b"[" * 5000, b"\xff"]
)
def test_tensorflow_serving_refuses_what_is_no_json(client, body):
    answer = client.post("/v1/models/nuts:predict", content=body)
    assert answer.status_code == 400 and "no JSON" in answer.json()["error"]


def test_tensorflow_serving_tells_of_the_model(client):
    (entry,) = client.get("/v1/models/nuts").json()["model_version_status"]
    assert (entry["version"], entry["state"]) == ("40", "AVAILABLE")
    metadata = client.get("/v1/models/nuts/metadata").json()
    assert metadata["model_spec"]["name"] == "nuts"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert "detection_masks" in signatures["serving_default"]["outputs"]
    answer = _predict(client, {}, "/v1/models/other:predict")
    assert answer.status_code == 404 and "called nuts" in answer.json()["error"]


def test_the_description_names_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/score", "/segment", "/model", "/healthz", "/metrics"} < set(paths)
    assert "/v1/models/nuts:predict" in paths
    assert "422" not in json.dumps(paths)


def test_metrics_count_by_route_and_status():
    with make_client() as client:
        client.post("/score", content=_PHOTO)
        client.post("/score", content=b"no image")
        client.get("/some/path/of/many")
        text = client.get("/metrics").text
    for line in (
        'maskrcnn_requests_total{route="/score",status="200"} 1.0',
        'maskrcnn_requests_total{route="/score",status="400"} 1.0',
        'maskrcnn_requests_total{route="other",status="404"} 1.0',
        "maskrcnn_batch_size_count 1.0",
        "maskrcnn_detections_total 2.0",
        "maskrcnn_requests_in_progress 0.0",
        'maskrcnn_request_seconds_count{route="/score"} 2.0',
    ):
        assert line in text.splitlines()
    assert 'maskrcnn_model_info{checkpoint="/models/fake/ckpt-40",name="nuts"' in text


def test_a_token_is_needed_but_for_the_page_and_health():
    with make_client(token="s3cret") as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            for path in ("/score", "/v1/models/nuts:predict", "/segment?box=0,0,1,1"):
                answer = client.post(path, content=_PHOTO, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert "Authorization: Bearer" in answer.json()["error"]
            for path in ("/metrics", "/model", "/openapi.json", "/nothing"):
                assert client.get(path, headers=headers).status_code == 401
        right = {"Authorization": "bearer s3cret"}
        assert client.post("/score", content=_PHOTO, headers=right).status_code == 200
        for path in ("/", "/page.js", "/page.css", "/healthz"):
            assert client.get(path).status_code == 200


def test_every_answer_forbids_what_comes_from_elsewhere(client):
    for path in ("/", "/score", "/nothing", "/metrics"):
        headers = client.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_bug_is_a_500_and_the_service_goes_on():
    with make_client() as client:
        answer = client.post("/score", content=encode(*POISON))
        assert answer.status_code == 500 and "its log says more" in answer.json()["error"]
        assert client.post("/score", content=_PHOTO).status_code == 200


def test_an_image_in_another_format_is_read(client):
    for image_format in ("WEBP", "TIFF", "BMP", "GIF"):
        assert client.post("/score", content=encode(40, 60, image_format)).status_code == 200
    grey = io.BytesIO()
    PIL.Image.new("I;16", (60, 40)).save(grey, "PNG")
    assert client.post("/score", content=grey.getvalue()).status_code == 200


def test_health_turns_when_the_model_hangs():
    predictor = ServedPredictor()
    with make_client(predictor, time_limit=0.2) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        predictor.gate.clear()
        answer = client.post("/score", content=_PHOTO)
        assert answer.status_code == 503 and "no answer within 0.2 s" in answer.json()["error"]
        assert answer.headers["Retry-After"] == "1"
        wait_until(lambda: client.get("/healthz").status_code == 503)
        predictor.gate.set()
        wait_until(lambda: client.get("/healthz").status_code == 200)

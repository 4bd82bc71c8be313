"""Many images: what is written, what becomes of broken ones, and how a stopped run goes on."""

import json
import os
import pathlib
import shutil

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from official_maskrcnn.data.locks import only_process
from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.boxes_file import read_boxes
from official_maskrcnn.inference.image_list import find_images
from official_maskrcnn.inference.prediction_files import Options, predict_files
from official_maskrcnn.ops.drawing import write_image
from tests.inference.fake_predictor import FakePredictor, draw

_RECTANGLES = {
    "1.png": [(2, 3, 20, 30, 1), (25, 5, 40, 15, 2)],
    "2.png": [(5, 5, 30, 50, 3)],
    "3.png": [],
    "4.png": [(0, 0, 48, 64, 1), (8, 8, 16, 24, 2), (20, 20, 28, 40, 2)],
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "images").mkdir()
    for name, rectangles in _RECTANGLES.items():
        write_image(str(tmp_path / "images" / name), draw(rectangles, (48, 64)))
    return tmp_path


def _predict(folder: pathlib.Path, options: Options | None = None, predictor=None, boxes=None):
    images = find_images(str(folder / "images"))
    options = options or Options(overlays=False)
    predictor = predictor or FakePredictor()
    output = str(folder / "out")
    return predict_files(predictor, images, output, options, boxes, progress=False)


def _results(folder: pathlib.Path) -> list[dict]:
    return json.loads((folder / "out" / "submission.json").read_text())


def test_results_pictures_and_masks(folder: pathlib.Path):
    outcome = _predict(folder, Options(mask_pngs=True, batch_size=3))
    assert (outcome.images, outcome.detections, outcome.faults) == (4, 6, {})
    expected = [
        (int(name[0]), number, [x1, y1, x2 - x1, y2 - y1])
        for name, rectangles in _RECTANGLES.items()
        for y1, x1, y2, x2, number in rectangles
    ]
    got = [(r["image_id"], r["category_id"], r["bbox"]) for r in _results(folder)]
    assert got == expected
    for result in _results(folder):
        x, y, width, height = (int(v) for v in result["bbox"])
        mask = coco_mask.decode(result["segmentation"])
        assert mask.sum() == width * height and mask[y : y + height, x : x + width].all()
    listed = json.loads((folder / "out" / "images.json").read_text())
    assert listed["images"][1] == {"id": 2, "file_name": "2.png", "height": 48, "width": 64}
    assert listed["categories"][0] == {"id": 1, "name": "red"}
    pictures = sorted(p.name for p in (folder / "out" / "overlays").iterdir())
    assert pictures == ["1.png.jpg", "2.png.jpg", "3.png.jpg", "4.png.jpg"]
    masks = sorted(p.name for p in (folder / "out" / "masks" / "4.png").iterdir())
    assert masks == ["001_red.png", "002_green.png", "003_green.png"]
    mask = cv2.imread(
        str(folder / "out" / "masks" / "4.png" / "002_green.png"), cv2.IMREAD_UNCHANGED
    )
    assert mask.max() == 255 and (mask > 0).sum() == 8 * 16 * (3 if mask.ndim == 3 else 1)


def test_scores_and_classes_that_are_kept(folder: pathlib.Path):
    _predict(folder, Options(overlays=False, score=0.979, class_ids=(2, 3)))
    assert [(r["image_id"], r["category_id"]) for r in _results(folder)] == [(2, 3)]
    assert _results(folder)[0]["score"] == pytest.approx(250 / 255, abs=1e-6)


def test_a_broken_image_is_named_and_left_out(folder: pathlib.Path):
    path = folder / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:40])
    (folder / "images" / "5.jpg").write_bytes(b"no image")
    outcome = _predict(folder)
    assert outcome.images == 3
    kinds = {pathlib.Path(path).name: kind for path, kind in outcome.faults.items()}
    assert kinds["5.jpg"] == "undecodable_image" and kinds.keys() == {"2.png", "5.jpg"}
    assert {r["image_id"] for r in _results(folder)} == {1, 4}
    # Mended, it is looked at by the next call, and the others are not again.
    write_image(str(path), draw(_RECTANGLES["2.png"], (48, 64)))
    predictor = FakePredictor()
    outcome = _predict(folder, predictor=predictor)
    assert predictor.batches == [1] and outcome.images == 4
    assert {r["image_id"] for r in _results(folder)} == {1, 2, 4}


@pytest.mark.parametrize("cut", [1, 30, 300])
def test_a_stopped_run_goes_on_behind_its_last_whole_line(folder: pathlib.Path, cut: int):
    _predict(folder)
    whole = _results(folder)
    journal = folder / "out" / "predictions.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[:-cut])  # killed while it wrote
    (folder / "out" / "submission.json").unlink()
    predictor = FakePredictor()
    assert _predict(folder, predictor=predictor).images == 4
    assert sum(predictor.batches) >= 1
    assert _results(folder) == whole and journal.read_bytes() == content
    assert _predict(folder, predictor=FakePredictor()).detections == len(whole)


def test_a_finished_run_looks_at_nothing_again(folder: pathlib.Path):
    _predict(folder)
    predictor = FakePredictor()
    outcome = _predict(folder, predictor=predictor)
    assert predictor.batches == [] and outcome.images == 4


def test_other_options_or_models_are_not_mixed(folder: pathlib.Path):
    _predict(folder)
    with pytest.raises(UserError, match="holds predictions that differ in score: give another"):
        _predict(folder, Options(overlays=False, score=0.5))
    predictor = FakePredictor()
    predictor.checkpoint = "/models/fake/ckpt-2"
    with pytest.raises(UserError, match="differ in checkpoint"):
        _predict(folder, predictor=predictor)


def test_files_of_others_are_left_alone(folder: pathlib.Path):
    path = folder / "out" / "images.json"
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(UserError, match=r"images.json is there, and not of a prediction"):
        _predict(folder)
    assert path.read_text() == "mine"
    path.with_name("predictions.jsonl").write_text('{"boxes": null}\n{"path": "a.png"}\n')
    with pytest.raises(UserError, match=r"predictions.jsonl cannot be gone on with: give another"):
        _predict(folder)


def test_one_process_in_a_folder(folder: pathlib.Path):
    (folder / "out").mkdir()
    with (
        only_process(folder / "out", ""),
        pytest.raises(UserError, match=rf"process {os.getpid()} on .* is predicting into"),
    ):
        _predict(folder)


def test_a_folder_that_cannot_be_written(folder: pathlib.Path):
    (folder / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write to"):
        _predict(folder)


def test_masks_of_given_boxes(folder: pathlib.Path):
    entries = [
        {"image_id": 1, "bbox": [10, 4, 20, 8], "category_id": 3, "score": 0.25},
        {"image_id": 1, "bbox": [0, 0, 5, 6]},
        {"image_id": 4, "bbox": [40.5, 20, 10, 10], "category_id": 1},
    ]
    (folder / "boxes.json").write_text(json.dumps(entries))
    _predict(folder, boxes=read_boxes(folder / "boxes.json"))
    got = [(r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in _results(folder)]
    assert got == [
        (1, 3, [10, 4, 20, 8], 0.25),
        (1, 0, [0, 0, 5, 6], 1.0),
        (4, 1, [40.5, 20, 10, 10], 1.0),
    ]
    assert coco_mask.area(_results(folder)[0]["segmentation"]) == 160


def test_boxes_of_a_class_specific_head_go_by_the_names_of_the_file(folder: pathlib.Path):
    content = {
        "images": [{"id": 2, "file_name": "2.png"}],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 9, "bbox": [1, 2, 30, 20]}],
        "categories": [{"id": 9, "name": "green"}],
    }
    seen = []

    class Predictor(FakePredictor):
        def segment(self, image, boxes, classes=None):
            seen.append(classes)
            return super().segment(image, boxes, classes)

    (folder / "boxes.json").write_text(json.dumps(content))
    boxes = read_boxes(folder / "boxes.json")
    _predict(folder, predictor=Predictor(class_agnostic=False), boxes=boxes)
    assert seen.count(["green"]) == 1
    assert [r["category_id"] for r in _results(folder)] == [9]  # as in the file


def test_faulty_boxes_are_named(tmp_path: pathlib.Path):
    path = tmp_path / "boxes.json"
    box = {"image_id": 1, "bbox": [1, 2, 3, 4]}
    for content, message in (
        ([box, box | {"bbox": [1, 2, 3]}], "entry 1 needs a bbox"),
        ([box | {"bbox": [1, 2, 3, float("nan")]}], "entry 0 needs a bbox"),
        ([box | {"bbox": [1, 2, 3, 10**400]}], "entry 0 needs a bbox"),
        ([{"bbox": [1, 2, 3, 4]}], "entry 0 needs an image_id"),
        ([box | {"image_id": [1]}], "entry 0 needs an image_id"),
        ([7], "entry 0 needs an image_id, got 7"),
        ([box | {"category_id": None}], "entry 0 needs a category_id"),
        ([box | {"category_id": "cat"}], "entry 0 needs a category_id"),
        ([box | {"score": "x"}], "entry 0 needs a score"),
        ({"annotations": [], "categories": [{"name": "cat"}]}, "category 0 needs an id"),
        ({"annotations": [], "images": [{"id": 1}]}, "image 0 needs an id and a file_name"),
        ({"boxes": []}, "neither a COCO annotation file nor a list of boxes"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=message):
            read_boxes(path)


def test_overlays_of_names_with_folders(folder: pathlib.Path):
    nested = folder / "images" / "more"
    nested.mkdir()
    write_image(str(nested / "1.png"), draw([(0, 0, 9, 9, 1)], (20, 20)))
    _predict(folder, Options())
    assert (folder / "out" / "overlays" / "more" / "1.png.jpg").exists()
    assert np.unique([r["image_id"] for r in _results(folder)]).tolist() == [1, 2, 4, 5]


def _photographs(folder: pathlib.Path, *names: str) -> list[pathlib.Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(str(path), draw([(5, 5, 30, 50, 3)], (48, 64)))
    return paths


def _write_coco(path: pathlib.Path, images: dict[int, str], annotations: list | None = None) -> str:
    entries = [{"id": number, "file_name": name} for number, name in images.items()]
    categories = [{"id": 1, "name": "walnut"}]
    content = {"images": entries, "annotations": annotations or [], "categories": categories}
    path.write_text(json.dumps(content))
    return str(path)


def _files(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_written_outside_of_the_output(tmp_path: pathlib.Path):
    paths = _photographs(tmp_path / "photos", "a.jpg", "b/c.png")
    before = [path.read_bytes() for path in paths]
    names = {1: str(paths[0]), 2: "../photos/b/c.png"}
    (tmp_path / "work").mkdir()
    images = find_images(_write_coco(tmp_path / "work" / "coco.json", names))
    output = tmp_path / "work" / "out"
    predict_files(FakePredictor(), images, str(output), Options(mask_pngs=True), progress=False)
    assert [path.read_bytes() for path in paths] == before
    below = str(tmp_path).lstrip("/")
    assert _files(output) == {
        *(".lock", "images.json", "predictions.jsonl", "submission.json"),
        *(f"overlays/{below}/photos/a.jpg", "overlays/_up/photos/b/c.png.jpg"),
        *(f"masks/{below}/photos/a/001_blue.png", "masks/_up/photos/b/c.png/001_blue.png"),
    }
    assert _files(tmp_path) - {f"work/out/{name}" for name in _files(output)} == {
        *("photos/a.jpg", "photos/b/c.png", "work/coco.json")
    }


def test_images_that_differ_in_their_suffix_have_pictures_of_their_own(tmp_path: pathlib.Path):
    _photographs(tmp_path / "images", "a.jpg", "a.png", "a.JPG")
    _predict(tmp_path, Options(mask_pngs=True))
    pictures = {path.name for path in (tmp_path / "out" / "overlays").iterdir()}
    assert pictures == {"a.jpg", "a.png.jpg", "a.JPG.jpg"}
    masks = _files(tmp_path / "out" / "masks")
    assert masks == {f"{name}/001_blue.png" for name in ("a", "a.png", "a.JPG")}


def test_an_output_within_the_images_is_no_input(tmp_path: pathlib.Path):
    _photographs(tmp_path, "a.jpg", "b.jpg")
    for output in (tmp_path / "found", tmp_path):
        for _ in range(2):
            images = find_images(str(tmp_path), output=str(output))
            outcome = predict_files(
                FakePredictor(), images, str(output), Options(mask_pngs=True), progress=False
            )
        assert outcome.images == 2
        shutil.rmtree(tmp_path / "found", ignore_errors=True)
    images = find_images(str(tmp_path / "overlays"))
    with pytest.raises(UserError, match=r"a.jpg lies where pictures are written: give another"):
        predict_files(FakePredictor(), images, str(tmp_path), Options(), progress=False)


def test_another_list_of_images_is_gone_on_with(tmp_path: pathlib.Path):
    _photographs(tmp_path / "images", "b.png", "d.png")
    _predict(tmp_path)
    _photographs(tmp_path / "images", "a.png", "c.png")
    (tmp_path / "images" / "d.png").unlink()
    predictor = FakePredictor()
    outcome = _predict(tmp_path, predictor=predictor)
    assert sum(predictor.batches) == 2 and (outcome.images, outcome.detections) == (3, 3)
    listed = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in listed] == [
        *((1, "a.png"), (2, "b.png"), (3, "c.png"))
    ]
    assert [result["image_id"] for result in _results(tmp_path)] == [1, 2, 3]


def test_a_file_under_two_ids_counts_twice(tmp_path: pathlib.Path):
    _photographs(tmp_path, "a.png")
    images = find_images(_write_coco(tmp_path / "coco.json", {7: "a.png", 8: "a.png"}))
    output = str(tmp_path / "out")
    for number in (1, 2, 2):  # stopped after the first
        predict_files(
            FakePredictor(), images[:number], output, Options(overlays=False), progress=False
        )
        assert [result["image_id"] for result in _results(tmp_path)] == [7, 8][:number]


def test_other_boxes_are_not_mixed(folder: pathlib.Path):
    path = folder / "boxes.json"
    entries = [{"image_id": 1, "bbox": [10, 4, 20, 8], "category_id": 3}]
    path.write_text(json.dumps(entries))
    _predict(folder, boxes=read_boxes(path))
    _predict(folder, boxes=read_boxes(path))
    for change in ({"bbox": [10, 4, 20, 9]}, {"category_id": 1}, {"image_id": 2}, {"score": 0.5}):
        path.write_text(json.dumps([entries[0] | change]))
        with pytest.raises(UserError, match="holds predictions that differ in boxes"):
            _predict(folder, boxes=read_boxes(path))
    with pytest.raises(UserError, match="holds predictions that differ in boxes"):
        _predict(folder)


def test_boxes_go_by_the_names_of_their_images(tmp_path: pathlib.Path):
    _photographs(tmp_path / "images", "a.png", "b.png", "unlisted.png")
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    path = _write_coco(tmp_path / "boxes.json", {1: "b.png", 2: "a.png"}, [box])
    outcome = _predict(tmp_path, Options(mask_pngs=True), boxes=read_boxes(path))
    assert (outcome.images, outcome.unlisted) == (2, 1)
    content = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [(image["id"], image["file_name"]) for image in content["images"]] == [
        *((2, "a.png"), (1, "b.png"))
    ]
    assert [result["image_id"] for result in _results(tmp_path)] == [1]
    # Classes have the names of the file, not the model's.
    assert content["categories"] == [{"id": 1, "name": "walnut"}]
    assert (tmp_path / "out" / "masks" / "b.png" / "001_walnut.png").exists()


def test_boxes_of_other_images_are_refused(folder: pathlib.Path):
    path = folder / "boxes.json"
    box = {"image_id": 77, "bbox": [1, 1, 5, 5]}
    path.write_text(json.dumps([box]))
    with pytest.raises(UserError, match=r"not among --images: ids 77"):
        _predict(folder, boxes=read_boxes(path))
    _write_coco(path, {1: "1.png"}, [box])
    with pytest.raises(UserError, match=r"not among its list of images: ids 77"):
        _predict(folder, boxes=read_boxes(path))
    _write_coco(path, {77: "images/1.png"}, [box])
    with pytest.raises(UserError, match=r"has none of the images \(1.png, .*; it has images/1.png"):
        _predict(folder, boxes=read_boxes(path))
    _write_coco(path, {77: "1.png", 78: "1.png"}, [box])
    with pytest.raises(UserError, match=r"lists 1.png as 77, 78: give it as --images"):
        _predict(folder, boxes=read_boxes(path))
    images = find_images(_write_coco(folder / "images" / "coco.json", {1: "1.png"}))
    _write_coco(path, {77: "1.png"}, [box])
    with pytest.raises(UserError, match=r"1.png has the id 77 in .*, and 1 in --images"):
        read_boxes(path).match(images)


def test_ids_may_be_numbers_or_texts(folder: pathlib.Path):
    path = folder / "boxes.json"
    path.write_text(json.dumps([{"image_id": i, "bbox": [1, 1, 5, 5]} for i in ("1", 2, 3.0)]))
    _predict(folder, boxes=read_boxes(path))
    assert [result["image_id"] for result in _results(folder)] == [1, 2, 3]


def test_boxes_without_an_area_have_empty_masks(folder: pathlib.Path):
    boxes = [[10, 4, 20, 0], [10, 4, 20, 8], [100, 4, 20, 8], [10, 4, -5, 8], [0, 0, 6, 5]]
    path = folder / "boxes.json"
    path.write_text(json.dumps([{"image_id": 1, "bbox": box} for box in boxes]))
    outcome = _predict(folder, Options(mask_pngs=True), boxes=read_boxes(path))
    assert (outcome.detections, outcome.empty) == (5, 3)
    assert [result["bbox"] for result in _results(folder)] == boxes
    areas = [coco_mask.area(result["segmentation"]) for result in _results(folder)]
    assert areas == [0, 160, 0, 0, 30]


def test_a_picture_that_cannot_be_written(folder: pathlib.Path):
    (folder / "out" / "overlays" / "1.png.jpg").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write to .*1\.png\.jpg"):
        _predict(folder, Options())


def test_no_folder_is_made_of_a_url(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    images = find_images("images")
    with pytest.raises(UserError, match=r"gs://bucket/found: this is written locally alone"):
        predict_files(FakePredictor(), images, "gs://bucket/found", Options(), progress=False)
    assert not (folder / "gs:").exists()

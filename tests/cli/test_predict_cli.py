"""predict and annotate on the command line."""

import json
import pathlib

import pytest

from official_maskrcnn.cli.main import main
from official_maskrcnn.cli.predict import _class_ids
from official_maskrcnn.data.synthetic import make_synthetic
from official_maskrcnn.errors import UserError
from tests.inference.fake_predictor import FakePredictor
from tests.inference.small_model import make_model_dir


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("predict")
    make_model_dir(folder / "model")
    make_synthetic(folder, 3, seed=3, image_size=(96, 150))
    return folder


def _run(folder: pathlib.Path, *arguments: str, verb: str = "predict") -> int:
    return main([verb, "--model", str(folder / "model"), *arguments])


def test_predict_tiles_of_chosen_classes(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    output = folder / "found"
    code = _run(
        folder,
        *("--images", str(folder / "images"), "--output", str(output), "--limit", "2"),
        *("--tile", "80", "--classes", "disk", "3", "--score", "0.1", "--overlay_score", "0.1"),
        *("--mask_pngs", "--batch_size", "2"),
    )
    assert code == 0
    results = json.loads((output / "submission.json").read_text())
    assert f"{len(results)} objects in 2 images" in capsys.readouterr().out
    assert results and {r["category_id"] for r in results} <= {1, 3}
    assert all(r["score"] >= 0.1 for r in results)
    assert len(list((output / "overlays").iterdir())) == 2
    assert len(list((output / "masks").rglob("*.png"))) == len(results)


def test_broken_images_end_in_code_2(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    broken = folder / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"no image")
    (broken / "b.jpg").symlink_to(next((folder / "images").iterdir()))
    code = _run(folder, "--images", str(broken), "--output", str(folder / "b"), "--no_overlays")
    said = capsys.readouterr()
    assert code == 2 and "in 1 images" in said.out
    assert "1 images could not be read and were left out:" in said.err
    assert "a.jpg: undecodable image" in said.err


def test_annotate(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    content = json.loads((folder / "instances.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    (folder / "boxes.json").write_text(json.dumps(content))
    output = folder / "filled.json"
    code = _run(
        folder,
        *("--boxes", str(folder / "boxes.json"), "--image_dir", str(folder / "images")),
        *("--output", str(output), "--polygons"),
        verb="annotate",
    )
    filled = [a for a in json.loads(output.read_text())["annotations"] if "segmentation" in a]
    assert code == 0 and f"{len(filled)} masks filled in, 0 kept" in capsys.readouterr().out


def test_boxes_that_have_no_mask_are_counted(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    content = json.loads((folder / "instances.json").read_text())
    first = content["images"][0]["id"]
    box = {"image_id": first, "category_id": 1, "bbox": [500, 0, 9, 9]}
    path = folder / "degenerate.json"
    path.write_text(json.dumps(content | {"annotations": [box, box | {"image_id": 99}]}))
    given = ("--boxes", str(path), "--image_dir", str(folder / "images"))
    assert _run(folder, *given, "--output", str(folder / "d.json"), verb="annotate") == 0
    said = capsys.readouterr().out
    assert "1 boxes in which nothing was found, 1 of images that the file does not list" in said
    listed = {"images": content["images"][:1], "annotations": [box]}
    path.write_text(json.dumps(content | listed))
    given = ("--images", str(folder / "images"), "--boxes", str(path), "--no_overlays")
    assert _run(folder, *given, "--output", str(folder / "d"), "--limit", "1") == 0
    said = capsys.readouterr().out
    assert "1 objects in 1 images, 1 of them with an empty mask, 2 images left out that" in said


def test_names_of_classes_come_before_ids():
    predictor = FakePredictor()
    predictor.class_names = {1: "3", 2: "cat", 3: "7"}
    assert _class_ids(["3", "2", "cat", "7"], predictor) == (1, 2, 2, 3)
    with pytest.raises(UserError, match="no class 8"):
        _class_ids(["8"], predictor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "nowhere"), "nowhere: no such file or folder"),
        (("--images", "{folder}/images", "--classes", "cat"), "the model has no class 'cat'"),
        (("--images", "{folder}/images", "--tile_overlap", "1"), "must lie between 0 and 1"),
        (("--images", "{folder}/images", "--checkpoint", "7"), "no checkpoint of step 7"),
        (("--images", "{folder}/images", "--boxes", "nowhere.json"), "nowhere.json"),
        *(
            (
                ("--images", "{folder}/images", "--boxes", "boxes.json", *option),
                f"{option[0]} is about objects that the model finds: of no use with --boxes",
            )
            for option in (("--score", "0.3"), ("--classes", "disk"), ("--tile", "80"))
        ),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...],
    message: str,
    folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
):
    given = [text.format(folder=folder) for text in arguments]
    assert _run(folder, *given, "--output", str(folder / "none")) == 2
    assert message in capsys.readouterr().err

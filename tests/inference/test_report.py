"""The figures of a report, and what its page is made of."""

import json
import pathlib
import re

import pytest

from official_maskrcnn.cli.main import main
from official_maskrcnn.configs.loading import load_experiment
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation import CocoEvaluator, evaluate_results
from official_maskrcnn.evaluation.analysis.matching import Outcome
from official_maskrcnn.inference.predictor import Predictor
from official_maskrcnn.inference.report.data import load_data, validation_data
from official_maskrcnn.inference.report.sources import Source, training_curves
from official_maskrcnn.inference.report.write import write_report
from tests.data.coco_files import annotation, write_coco, write_image
from tests.inference.report_scene import (
    CLASSES,
    DETECTIONS,
    NASTY,
    OBJECTS,
    content_of,
    results,
    write_scene,
)
from tests.inference.small_model import make_model_dir


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[str, str]:
    return write_scene(tmp_path_factory.mktemp("scene"))


def _report(scene, tmp_path: pathlib.Path, *lists, **options) -> dict:
    """The content of a report of one or two lists of results."""
    sources = []
    for number, entries in enumerate(lists):
        path = tmp_path / f"results_{number}.json"
        path.write_text(json.dumps(entries))
        sources.append(Source(results=str(path)))
    write_report(sources, str(tmp_path / "report.html"), *scene, **options)
    return content_of(tmp_path / "report.html")


def test_ap_is_that_of_the_evaluation(scene, tmp_path):
    content = _report(scene, tmp_path, results())
    expected = evaluate_results(results(), scene[0], per_category_metrics=True)
    metrics = content["models"][0]["metrics"]
    assert metrics["mask/AP"] == pytest.approx(expected["mask/AP"], abs=1e-6)
    assert metrics == pytest.approx({name: expected[name] for name in metrics}, abs=1e-6)
    for kind in ("mask", "box"):
        by_class = content["models"][0]["kinds"][kind]["ap"]
        for name, (ap, ap50, _) in zip(CLASSES.values(), by_class, strict=True):
            assert ap == pytest.approx(expected[f"{kind}/AP/class/{name}"], abs=1e-4)
            assert ap50 == pytest.approx(expected[f"{kind}/AP50/class/{name}"], abs=1e-4)


def test_figures_of_known_errors(scene, tmp_path):
    content = _report(scene, tmp_path, results(), score=0.5)
    (model,) = content["models"]
    kind = model["kinds"]["mask"]
    images = kind["images"]
    assert images["correct"] == [2, 0, 1, 0, 0]
    assert images["wrong"] == [0, 1, 1, 0, 1]
    assert images["missing"] == [0, 1, 1, 1, 0]
    assert images["quality"] == [1.0, 0.0, 0.5, 0.0, 0.0]
    # Triples of (class of the object, class of the detection, how often); 3 is the background.
    assert images["confusions"] == [
        [0, 0, 1, 1, 1, 1],
        [0, 1, 1],
        [0, 3, 1, 2, 2, 1, 3, 0, 1],
        [1, 3, 1],
        [3, 0, 1],
    ]
    assert images["errors"] == [
        [],
        [1, Outcome.CLASS, 1],
        [0, Outcome.LOCALISATION, 1],
        [1, Outcome.MISSED, 1],
        [0, Outcome.BACKGROUND, 1],
    ]
    by_kind = [sum(column) for column in zip(*kind["errors"]["all"], strict=True)]
    assert by_kind == [1, 1, 0, 0, 2, 1]
    shown = [sum(column) for column in zip(*kind["errors"]["shown"], strict=True)]
    assert shown == [1, 1, 0, 0, 1, 1]  # one of those on nothing scores 0.3
    assert kind["objects"] == [3, 2, 1]
    assert [group["objects"] for group in kind["groups"]["size"]] == [0, 6, 0]
    assert [group["name"] for group in kind["groups"]["number"]] == ["none", "1", "2 to 3"]
    assert sum(kind["scores"][0]["counts"]) == 7
    assert len(kind["curves"]["lines"]) == 1 + len(CLASSES)
    assert model["notes"] == []


def test_pictures(scene, tmp_path):
    content = _report(scene, tmp_path, results(), score=0.5)
    pictures = content["pictures"]
    # The worst first; of equal quality those with more mistakes.
    assert [picture["image"] for picture in pictures] == [1, 3, 4, 2, 0]
    first = pictures[0]
    assert (first["width"], first["height"]) == (160, 120)
    assert first["uri"].startswith("data:image/jpeg;base64,/9j/")
    (thing,) = first["objects"]
    assert thing["class"] == 0
    assert thing["scores"] == [{"mask": None, "box": None}]
    numbers = [float(n) for n in re.findall(r"[\d.]+", thing["outline"])]
    assert min(numbers[::2]) == pytest.approx(20.5)
    assert max(numbers[::2]) == pytest.approx(79.5)
    assert max(numbers[1::2]) == pytest.approx(89.5)
    (found,) = first["found"][0]
    assert (found["class"], found["score"], found["box"]) == (1, 0.85, [20, 30, 60, 60])
    assert found["outcomes"] == {"mask": Outcome.CLASS, "box": Outcome.CLASS}


def test_only_so_many_pictures(scene, tmp_path):
    content = _report(scene, tmp_path, results(), score=0.5, images_shown=2)
    assert [picture["image"] for picture in content["pictures"]] == [1, 3]
    content = _report(scene, tmp_path, results(), score=0.5, images_shown=4)
    assert [picture["image"] for picture in content["pictures"]] == [1, 3, 4, 0]  # one of the best
    assert len(content["models"][0]["kinds"]["mask"]["images"]["quality"]) == len(OBJECTS)


def test_the_page_needs_nothing_else_and_texts_cannot_break_out(scene, tmp_path):
    content = _report(scene, tmp_path, results())
    assert NASTY in [own["name"] for own in content["classes"]]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert NASTY not in text
    assert text.count("</script>") == 2
    assert "{{" not in text
    addresses = set(re.findall(r"https?://[^\"' )]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|script|img|iframe)[^>]*(src|href)=\"(?!data:)", text)
    assert "default-src 'none'" in text


def test_two_side_by_side(scene, tmp_path):
    better = [list(own) for own in DETECTIONS]
    better[1] = [(1, [20, 30, 60, 58], 0.9)]
    better[0] = [(1, [22, 30, 60, 60], 0.9), (2, [100, 22, 40, 50], 0.8)]
    content = _report(scene, tmp_path, results(), results(better), images_shown=3)
    a, b = content["models"]
    assert b["metrics"]["mask/AP50"] > a["metrics"]["mask/AP50"]
    # Image 1 differs most, then image 0, where the first one is better; the others do not differ.
    assert [picture["image"] for picture in content["pictures"]][:2] == [1, 0]
    assert [len(own) for own in content["pictures"][0]["found"]] == [1, 1]
    (thing,) = content["pictures"][0]["objects"]
    assert [scores["mask"] for scores in thing["scores"]] == [None, 0.9]


def test_empty_results_and_no_objects(scene, tmp_path):
    content = _report(scene, tmp_path, [])
    (model,) = content["models"]
    assert model["metrics"]["mask/AP"] == 0.0
    assert "Mask AP is 0: No image was evaluated." in model["notes"]
    assert model["kinds"]["mask"]["errors"]["total_costs"] == [0, 0, 0, 0, 0, 1]
    assert model["kinds"]["box"]["images"]["missing"] == [2, 1, 2, 1, 0]
    empty = json.loads(pathlib.Path(scene[0]).read_text()) | {"annotations": []}
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(empty))
    content = _report((str(path), scene[1]), tmp_path, results())
    (model,) = content["models"]
    assert "mask/AP" not in model["metrics"]
    assert "Mask AP is undefined: The ground truth has no annotations." in model["notes"]
    assert model["kinds"]["mask"]["errors"]["total_costs"] == [None] * 6
    assert model["kinds"]["mask"]["curves"]["lines"] == [None] * 4


def test_a_class_of_crowds_alone_lowers_no_curve(scene, tmp_path):
    content = json.loads(pathlib.Path(scene[0]).read_text())
    content["categories"].append({"id": 9, "name": "crowd"})
    crowd = content["annotations"][0] | {"id": 99, "category_id": 9, "iscrowd": 1}
    content["annotations"].append(crowd)
    path = tmp_path / "crowds.json"
    path.write_text(json.dumps(content))
    perfect = results([[(*thing, 0.9) for thing in own] for own in OBJECTS])
    (model,) = _report((str(path), scene[1]), tmp_path, perfect)["models"]
    for kind in ("mask", "box"):
        lines = model["kinds"][kind]["curves"]["lines"]
        assert lines[0] == [[1.0] * 101] * 4
        assert [line is None for line in lines] == [False] * 4 + [True]


def test_boxes_without_masks(scene, tmp_path):
    content = _report(scene, tmp_path, results(masks=False))
    assert list(content["models"][0]["kinds"]) == ["box"]
    assert content["pictures"][0]["found"][0][0]["outline"] == ""
    # Beside a model without masks there are only boxes to compare.
    content = _report(scene, tmp_path, results(), results(masks=False))
    assert [list(model["kinds"]) for model in content["models"]] == [["box"], ["box"]]


def test_what_is_left_out_is_said(scene, tmp_path):
    unknown = [result | {"category_id": 77} for result in results()[:1]]
    elsewhere = [result | {"image_id": 999} for result in results()[:1]]
    content = _report(scene, tmp_path, [*results(), *unknown, *elsewhere])
    assert content["models"][0]["notes"] == [
        "1 images with detections are not in the data: left out.",
        "1 detections are of categories that the data do not have, and are left out: ids 77.",
    ]


def test_a_few_images_only(scene, tmp_path):
    content = _report(scene, tmp_path, results(), limit=2)
    assert content["images"] == {"id": [10, 11], "name": ["0.png", "1.png"], "objects": [2, 1]}
    assert content["models"][0]["notes"] == []  # the other images are in the data
    expected = 0.5 * 51 / 101  # one of two cats; the other class has a wrong one after the right
    assert content["models"][0]["kinds"]["mask"]["ap"][0][1] == pytest.approx(51 / 101, abs=1e-4)
    assert expected < content["models"][0]["metrics"]["mask/AP50"] < 1


def test_ids_may_be_texts_and_sizes_missing(tmp_path):
    ids = ["2008_000008", "0012", 3.0]
    entries = [{"id": image_id, "file_name": "1.png"} for image_id in ids]
    _, path = write_coco(tmp_path, [annotation(i, image_id=i) for i in ids], entries)
    write_image(tmp_path / "1.png")
    data = load_data(path, None, None)
    assert [image.id for image in data.images] == [3, "0012", "2008_000008"]
    assert list(data.ground_truth.image_sizes)[:2] == [3, 12]
    assert len(data.ground_truth.annotations) == 3 and not data.left_out


def test_an_image_that_is_not_there_has_no_picture(scene, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in pathlib.Path(scene[1]).iterdir():
        if path.name != "1.png":
            (folder / path.name).symlink_to(path)
    content = _report((scene[0], str(folder)), tmp_path, results())
    uris = {picture["image"]: picture["uri"] for picture in content["pictures"]}
    assert uris[1] is None
    assert uris[0] is not None


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, scene) -> pathlib.Path:
    """A model of random weights, whose training says that it was validated on the scene."""
    folder = make_model_dir(
        tmp_path_factory.mktemp("model") / "run",
        "task.validation_data.image_dir=data/images,"
        "task.validation_data.annotation_file=data/instances.json,"
        "task.annotation_file=data/instances.json,task.allowed_mask_class_ids=[1]",
    )
    (folder.parent / "data").symlink_to(pathlib.Path(scene[0]).parent)
    (folder / "run.json").write_text(json.dumps({"working_directory": str(folder.parent)}))
    lines = [
        {"time": step, "step": step, "phase": phase, **values}
        for step in (1, 2)
        for phase, values in (
            ("train", {"total_loss": 3.0 / step, "learning_rate": 0.1, "images_per_second": 9}),
            ("eval", {"mask/AP": 0.25 * step, "mask/AR1": 0.5}),
        )
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_model_on_its_own_validation_data(model_dir, scene, tmp_path, monkeypatch, capsys):
    """Stopped amid, it goes on; the figures are those of the evaluator."""
    output = tmp_path / "report.html"
    command = ["report", "--model", str(model_dir), "--output", str(output)]
    looked_at = []
    predict = Predictor.predict

    def predict_three(self, images):
        if len(looked_at) == 3:
            raise KeyboardInterrupt
        looked_at.append(images[0].shape)
        return predict(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", predict_three)
        assert main(command) == 130
        assert not output.exists()
        looked_at.clear()
        assert main(command) == 0
    assert len(looked_at) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    content = content_of(output)
    assert [own["seen"] for own in content["classes"]] == [True, False, False]
    assert content["models"][0]["name"].endswith("run, ckpt-10")
    assert content["models"][0]["training"] == {
        "train": {
            "steps": [1, 2],
            "series": {"total_loss": [3.0, 1.5], "learning_rate": [0.1] * 2},
        },
        "eval": {"steps": [1, 2], "series": {"mask/AP": [0.25, 0.5]}},
    }
    evaluator = CocoEvaluator(scene[0], allowed_mask_class_ids=[1])
    predictor = Predictor(model_dir)
    for number in range(len(OBJECTS)):
        found = predictor(f"{scene[1]}/{number}.png")
        evaluator.add_results(found.to_coco(10 + number))
    expected = evaluator.result()
    metrics = content["models"][0]["metrics"]
    assert {"mask/AP/seen", "box/AP/unseen"} < set(metrics)
    assert metrics == pytest.approx({name: expected[name] for name in metrics}, abs=1e-5)
    assert f"mask/AP {expected['mask/AP']:.4f}" in capsys.readouterr().out


def test_a_checkpoint_elsewhere_goes_by_its_name(model_dir, scene, tmp_path, monkeypatch):
    load = Predictor.__init__

    def load_export(self, *arguments):
        load(self, *arguments)
        self.checkpoint = "ckpt-10"  # as export.json says

    monkeypatch.setattr(Predictor, "__init__", load_export)
    write_report([Source(str(model_dir))], str(tmp_path / "report.html"), *scene, limit=1)
    name = content_of(tmp_path / "report.html")["models"][0]["name"]
    assert name == f"{model_dir}, ckpt-10"


def test_results_of_a_model_need_no_prediction(model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "__init__", None)
    path = tmp_path / "submission.json"
    path.write_text(json.dumps(results()))
    output = tmp_path / "report.html"
    main(["report", "--model", str(model_dir), "--results", str(path), "--output", str(output)])
    content = content_of(output)
    assert "mask/AP/seen" in content["models"][0]["metrics"]
    assert content["models"][0]["training"]


def test_an_unreadable_image_is_named_and_counts_as_missed(model_dir, scene, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in pathlib.Path(scene[1]).iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "1.png").unlink()
    output = tmp_path / "report.html"
    command = ["report", "--model", str(model_dir), "--image_dir", str(folder)]
    assert main([*command, "--data", scene[0], "--output", str(output)]) == 2
    assert re.search(
        "1 images could not be read .*1.png: missing image", capsys.readouterr().err, re.S
    )
    (model,) = content_of(output)["models"]
    assert "1 images could not be read: all in them counts as missed." in model["notes"]
    assert model["kinds"]["mask"]["images"]["missing"][1] == 1


def test_sources():
    assert Source.parse(__file__).model_dir == __file__  # refused later, as it is no folder
    assert Source.parse("tests@200") == Source("tests", None, "200")
    assert Source.parse("tests@best", "bfloat16") == Source("tests", None, "best", "bfloat16")
    assert Source.parse("tests") == Source("tests")
    with pytest.raises(UserError, match="no_such: no such model_dir"):
        Source.parse("no_such")


def test_training_curves_are_thinned_but_keep_their_end(model_dir, monkeypatch):
    steps = {step: {"total_loss": float(step)} for step in range(1, 1002)}
    module = "official_maskrcnn.inference.report.sources.read_metrics"
    monkeypatch.setattr(module, lambda folder, phase, _: steps if phase == "train" else {})
    curves = training_curves(Source(str(model_dir)))
    assert list(curves) == ["train"]
    assert 300 < len(curves["train"]["steps"]) <= 400
    assert curves["train"]["steps"][-1] == curves["train"]["series"]["total_loss"][-1] == 1001
    assert training_curves(Source(results="x.json")) == {}


def test_validation_data_that_cannot_be_used(tmp_path):
    def experiment(text: str):
        return load_experiment("deep_mask_head_rcnn_resnetfpn_coco", (), text)

    records = experiment("task.validation_data.input_path=/records/val*")
    with pytest.raises(UserError, match=r"records \(/records/val\*\).*--data and --image_dir"):
        validation_data(str(tmp_path), records)
    gone = experiment(
        "task.validation_data.image_dir=/gone,task.validation_data.annotation_file=/gone/a.json"
    )
    with pytest.raises(UserError, match=r"/gone/a.json, on which .* is not there: give --data"):
        validation_data(str(tmp_path), gone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Give --model, --results or --compare"),
        ("--compare A B --model C", "--compare names both models"),
        ("--compare no_such_a no_such_b", "no_such_a: no such model_dir"),
        ("--model . --image_dir somewhere", "--image_dir without --data"),
        ("--model no_such", "no_such is no model"),
        ("--results {results}", "give --data"),
        (
            "--results {annotations} --data {annotations} --image_dir {images}",
            "not a file of COCO results",
        ),
        ("--results {results} --data {annotations}", "is in .*: give --image_dir"),
        (
            "--results {results} --data {annotations} --image_dir {images} --output /proc/x",
            "cannot write /proc/x",
        ),
        (
            "--results {results} --data {annotations} --image_dir {images} --output gs://bucket/x",
            "gs://bucket/x: this is written locally alone",
        ),
        (
            "--results {odd} --data {annotations} --image_dir {images}",
            "odd.json: result 6 needs an image_id",
        ),
    ],
)
def test_mistakes_are_readable(arguments, message, scene, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results()))
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps([*results()[:-1], results()[-1] | {"bbox": [1, 2, 3]}]))
    text = arguments.format(results=path, annotations=scene[0], images=scene[1], odd=odd)
    assert main(["report", "--output", str(tmp_path / "x.html"), *text.split()]) == 2
    assert re.search(message, capsys.readouterr().err)

"""A predictor out of a model_dir: what evaluation would find, in images of all sizes."""

import json
import os
import pathlib
import shutil
import threading
from collections.abc import Callable

import cv2
import numpy as np
import pytest

import official_maskrcnn
from official_maskrcnn.configs.loading import experiment_from_params
from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.data.synthetic import make_synthetic
from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.predictor import Predictor
from official_maskrcnn.inference.trained_model import load_trained_model
from official_maskrcnn.tasks import build_task
from tests.inference.small_model import CLASS_NAMES, make_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_model_dir(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def predictor(model_dir: pathlib.Path) -> Predictor:
    return Predictor(model_dir)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_synthetic(folder, 5, seed=3, image_size=(96, 150))
    return folder


def _image(*size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, [*size, 3], np.uint8)


def _assert_equal(one: Detections, other: Detections) -> None:
    assert one.image_size == other.image_size
    np.testing.assert_array_equal(one.class_ids, other.class_ids)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)
    np.testing.assert_allclose(one.mask_crops, other.mask_crops, atol=1e-4)


def test_it_finds_what_the_evaluation_counts(
    model_dir: pathlib.Path, predictor: Predictor, shapes: pathlib.Path
):
    experiment = experiment_from_params(str(model_dir / "params.yaml"))
    data = experiment.task.validation_data
    data.input_path = ""
    data.image_dir, data.annotation_file = str(shapes / "images"), str(shapes / "instances.json")
    data.cache_dir, data.global_batch_size, data.dtype = str(shapes / "cache"), 2, "float32"
    experiment.task.model.num_classes = 30  # of the shapes; nothing is compared with them
    task = build_task(experiment)
    files = {
        entry["id"]: shapes / "images" / entry["file_name"]
        for entry in json.loads((shapes / "instances.json").read_text())["images"]
    }
    model = load_trained_model(str(model_dir)).model
    seen = 0
    for batch in task.build_inputs(data):
        expected = {name: value.numpy() for name, value in task.eval_step(batch, model).items()}
        for i, source_id in enumerate(expected["source_id"].tolist()):
            if source_id < 0:
                continue
            found = predictor(files[source_id])
            count = expected["num_detections"][i]
            assert len(found) == count > 0
            np.testing.assert_array_equal(found.class_ids, expected["detection_classes"][i, :count])
            np.testing.assert_allclose(found.scores, expected["detection_scores"][i, :count], 1e-5)
            np.testing.assert_allclose(
                found.boxes, expected["detection_boxes"][i, :count], atol=1e-3
            )
            np.testing.assert_allclose(
                found.mask_crops, expected["detection_masks"][i, :count], atol=1e-4
            )
            seen += 1
    assert seen == 5


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5), (128, 128), (601, 333)])
def test_any_size(predictor: Predictor, size: tuple[int, int]):
    found = predictor(_image(*size))
    assert found.image_size == size and found.masks.shape == (len(found), *size)
    assert (found.boxes >= 0).all() and (found.boxes <= [*size, *size]).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    assert (np.diff(found.scores) <= 0).all()


def test_one_graph_serves_all_sizes_and_batches(predictor: Predictor):
    images = [_image(50 + 13 * i, 200 - 17 * i, seed=i) for i in range(4)]
    alone = [predictor(image) for image in images]
    graphs = predictor._graphs
    traced = [g.experimental_get_tracing_count() for g in (graphs.prepare, graphs.detect)]
    for one, other in zip(alone, predictor.predict(images), strict=True):
        _assert_equal(one, other)
    for one, other in zip(alone[:2], predictor.predict(images[:2]), strict=True):
        _assert_equal(one, other)
    assert predictor.predict([]) == []
    assert traced == [g.experimental_get_tracing_count() for g in (graphs.prepare, graphs.detect)]
    assert traced == [1, 1]


def test_files_bytes_and_arrays_are_the_same(predictor: Predictor, tmp_path: pathlib.Path):
    image = _image(60, 80)
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), image[..., ::-1])
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(predictor.read(source), image)
        _assert_equal(predictor(source), predictor(image))
    with pytest.raises(ImageFault, match="missing_image"):
        predictor(tmp_path / "none.png")


def test_masks_of_given_boxes_are_those_of_the_detections(predictor: Predictor):
    image = _image(90, 160)
    found = predictor(image)
    given = predictor.segment(image, found.boxes)
    np.testing.assert_allclose(given.mask_crops, found.mask_crops, atol=1e-4)
    np.testing.assert_allclose(given.mask_boxes, found.boxes, atol=1e-3)
    assert given.names == ["object"] * len(found) and (given.scores == 1).all()
    named = predictor.segment(image, found.boxes[:2], ["disk", 4])
    assert named.names == ["disk", "star"]
    many = predictor.segment(image, np.tile(found.boxes[:1], [300, 1]))
    np.testing.assert_allclose(many.mask_crops[299], found.mask_crops[0], atol=1e-4)
    assert len(predictor.segment(image, [])) == 0


def test_a_box_over_the_edge_counts_as_far_as_the_image_goes(predictor: Predictor):
    image = _image(90, 160)
    over = predictor.segment(image, [[-20, -30, 50, 60]])
    within = predictor.segment(image, [[0, 0, 50, 60]])
    np.testing.assert_array_equal(over.masks, within.masks)
    assert over.boxes.tolist() == [[-20, -30, 50, 60]]


@pytest.mark.parametrize(
    ("boxes", "classes", "message"),
    [
        ([[10, 10, 10, 20]], None, r"box 0 is \[10.0, 10.0, 10.0, 20.0\], which is no"),
        ([[0, 0, 5, 5], [95, 0, 99, 9]], None, "box 1 .* within an image of 90 x 160 pixels"),
        ([[0, 0, float("nan"), 5]], None, "box 0"),
        ([[0, 0, 5, 5]], ["cat"], "no class 'cat' .it has: disk, square, star"),
        ([[0, 0, 5, 5]], [5], "no class 5"),
        ([[0, 0, 5, 5]], [1, 2], "1 boxes, but 2 classes"),
    ],
)
def test_what_is_no_box_or_class(predictor: Predictor, boxes, classes, message: str):
    with pytest.raises(UserError, match=message):
        predictor.segment(_image(90, 160), boxes, classes)


def test_a_class_specific_head_needs_classes(tmp_path: pathlib.Path):
    specific = Predictor(
        make_model_dir(tmp_path / "model", "task.model.mask_head.class_agnostic=false")
    )
    image = _image(90, 160)
    with pytest.raises(UserError, match="say the class of each box"):
        specific.segment(image, [[0, 0, 50, 60]])
    found = specific(image)
    given = specific.segment(image, found.boxes, found.class_ids.tolist())
    np.testing.assert_allclose(given.mask_crops, found.mask_crops, atol=1e-4)
    other = specific.segment(image, found.boxes, 1 + found.class_ids % 4)
    assert np.abs(other.mask_crops - found.mask_crops).max() > 1e-3


def test_without_masks(tmp_path: pathlib.Path):
    boxes_only = Predictor(make_model_dir(tmp_path / "model", "task.model.include_mask=false"))
    found = boxes_only(_image(90, 160))
    assert len(found) and not found.has_masks
    with pytest.raises(UserError, match="the model has no masks"):
        boxes_only.segment(_image(90, 160), [[0, 0, 50, 60]])


def test_enlarged_mask_boxes(tmp_path: pathlib.Path):
    outer = Predictor(make_model_dir(tmp_path / "model", "task.model.outer_boxes_scale=1.5"))
    image = _image(90, 160)
    found = outer(image)
    assert found.mask_boxes is not None
    given = outer.segment(image, found.boxes)
    np.testing.assert_allclose(given.mask_boxes, found.mask_boxes, atol=1e-2)
    np.testing.assert_allclose(given.mask_crops, found.mask_crops, atol=1e-3)


def test_a_higher_least_score_leaves_the_rest_as_it_is(
    model_dir: pathlib.Path, predictor: Predictor
):
    image = _image(90, 160)
    found = predictor(image)
    least = float(np.median(found.scores))
    _assert_equal(Predictor(model_dir, min_score=least)(image), found.above(least))


def test_calls_from_several_threads(predictor: Predictor):
    images = [_image(40 + 20 * i, 90, seed=i) for i in range(4)]
    expected = [predictor(image) for image in images]
    results: dict[int, Detections] = {}

    def work(i: int) -> Callable[[], None]:
        return lambda: results.__setitem__(i, predictor(images[i]))

    threads = [threading.Thread(target=work(i)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        _assert_equal(results[i], expected[i])


def test_which_checkpoint(tmp_path: pathlib.Path):
    folder = make_model_dir(tmp_path / "model")
    assert load_trained_model(str(folder)).checkpoint == str(folder / "ckpt-10")
    (folder / "best").mkdir()
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(folder / f"ckpt-10{suffix}", folder / "best" / f"ckpt-5{suffix}")
    assert load_trained_model(str(folder)).checkpoint == str(folder / "best" / "ckpt-5")
    assert load_trained_model(str(folder), "latest").checkpoint == str(folder / "ckpt-10")
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        load_trained_model(str(folder), "7")


def test_names_come_from_the_folder(model_dir: pathlib.Path, tmp_path: pathlib.Path):
    assert Predictor(model_dir).class_names == CLASS_NAMES
    folder = make_model_dir(tmp_path / "model")
    (folder / "categories.json").unlink()
    nameless = Predictor(folder)
    assert nameless.class_names == {} and nameless(_image(90, 160)).names[0].isdecimal()
    assert nameless.class_id(4) == 4
    with pytest.raises(UserError, match="names are not known; give ids"):
        nameless.class_id("disk")


def test_what_is_no_model(model_dir: pathlib.Path, tmp_path: pathlib.Path):
    with pytest.raises(UserError, match=r"is no model: it has no params\.yaml"):
        Predictor(tmp_path)
    shutil.copy(model_dir / "params.yaml", tmp_path)
    with pytest.raises(UserError, match="there is no checkpoint in model_dir"):
        Predictor(tmp_path)


@pytest.mark.slow
def test_memory_does_not_grow_with_calls(predictor: Predictor):
    """10 000 images of as many sizes: what is left behind would show."""

    def call(number: int) -> None:
        image = _image(40 + number % 97, 40 + number % 89, seed=number)
        found = predictor(image)
        found.to_coco(number)
        predictor.segment(image, found.boxes[: number % 9])

    for number in range(500):
        call(number)
    before = _resident_megabytes()
    for number in range(10_000):
        call(number)
    assert _resident_megabytes() - before < 50


def _resident_megabytes() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_bfloat16(model_dir: pathlib.Path, predictor: Predictor):
    image = _image(90, 160)
    fast = Predictor(model_dir, precision="bfloat16")
    assert fast.precision == "bfloat16" and predictor.precision == "float32"
    found, exact = fast(image), predictor(image)
    assert found.scores.dtype == np.float32
    np.testing.assert_allclose(found.scores[:3], exact.scores[:3], atol=0.02)


def test_the_package_offers_it(model_dir: pathlib.Path):
    assert official_maskrcnn.Predictor is Predictor
    assert official_maskrcnn.Detections is Detections

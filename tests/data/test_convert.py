"""COCO -> records: what real data become, what is left out, and what a failed run leaves."""

import contextlib
import errno
import functools
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from official_maskrcnn.data import cache, coco, records, tfrecord
from official_maskrcnn.data.converters import CONVERTERS
from official_maskrcnn.data.converters.coco import convert_coco
from official_maskrcnn.data.faults import Outcome
from official_maskrcnn.data.statistics import check_data
from official_maskrcnn.errors import UserError
from official_maskrcnn.model_garden import light_imports
from tests.data import coco_files

with light_imports():
    from official.vision.dataloaders.tf_example_decoder import TfExampleDecoder

_REAL_DATA = {
    "coco_train": ("coco_sample/train2017", "coco_sample/annotations/instances_train2017.json"),
    "coco_val": ("coco_sample/val2017", "coco_sample/annotations/instances_val2017.json"),
    "nuts_train": ("nuts/images", "nuts/instances_train.json"),
    "nuts_val": ("nuts/images", "nuts/instances_val.json"),
    "nuclei": ("nuclei/images", "nuclei/instances.json"),
}

_convert = functools.partial(convert_coco, workers=0, progress=False)


def _visible(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _summary(prefix: pathlib.Path) -> dict[str, Any]:
    return json.loads(pathlib.Path(f"{prefix}.json").read_text())


def _decode(prefix: pathlib.Path) -> list[dict[str, np.ndarray]]:
    """Every record, as tf-models-official decodes it."""
    decoder = TfExampleDecoder(include_mask=True)
    dataset = tf.data.TFRecordDataset(records.expand_patterns(f"{prefix}-*.tfrecord"))
    return list(dataset.map(decoder.decode).as_numpy_iterator())


@pytest.mark.parametrize("name", _REAL_DATA)
def test_real_data_come_back_as_they_were(
    name: str, tmp_path: pathlib.Path, shared_data: pathlib.Path
):
    images, annotations = (str(shared_data / path) for path in _REAL_DATA[name])
    source = COCO(annotations)
    report = _convert(images, annotations, str(tmp_path / name), 3)
    assert report.count(outcome=Outcome.KEPT) == report.count()  # nothing needed mending

    truth = records.read_ground_truth(f"{tmp_path / name}-*.tfrecord", progress=False)
    counts = {key: _summary(tmp_path / name)[key] for key in ("images", "instances", "crowds")}
    assert counts == {
        "images": len(source.imgs),
        "instances": len(source.anns),
        "crowds": sum(annotation["iscrowd"] for annotation in source.anns.values()),
    }
    assert {image["id"]: image for image in truth["images"]} == {
        image["id"]: {key: image[key] for key in ("id", "height", "width", "file_name")}
        for image in source.imgs.values()
    }
    used = {annotation["category_id"] for annotation in source.anns.values()}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    assert names == {category_id: source.cats[category_id]["name"] for category_id in used}

    expected = [one for image_id in source.imgs for one in source.imgToAnns[image_id]]
    order = {image_id: place for place, image_id in enumerate(source.imgs)}
    found = sorted(truth["annotations"], key=lambda one: order[one["image_id"]])
    for key in ("image_id", "category_id", "iscrowd"):
        assert [one[key] for one in found] == [one[key] for one in expected]
    boxes = [[one["bbox"] for one in some] for some in (found, expected)]
    np.testing.assert_allclose(*boxes, atol=1e-3)
    areas = [[one["area"] for one in some] for some in (found, expected)]
    np.testing.assert_allclose(*areas, rtol=1e-6)
    for one, original in zip(found, expected, strict=True):
        rle = source.annToRLE(original)
        assert one["segmentation"]["size"] == rle["size"]
        assert coco_mask.iou([one["segmentation"]], [rle], [0]).item() == 1.0


def test_tf_models_official_reads_the_records(tmp_path: pathlib.Path, shared_data: pathlib.Path):
    images, annotations = (str(shared_data / path) for path in _REAL_DATA["coco_val"])
    source = COCO(annotations)
    _convert(images, annotations, str(tmp_path / "val"), 2)
    decoded = _decode(tmp_path / "val")
    assert sorted(int(one["source_id"]) for one in decoded) == sorted(source.imgs)
    for one in decoded:
        image_id = int(one["source_id"])
        size = source.imgs[image_id]["height"], source.imgs[image_id]["width"]
        expected = source.imgToAnns[image_id]
        assert one["image"].shape == (*size, 3)
        assert (one["height"], one["width"]) == size
        assert one["groundtruth_classes"].tolist() == [a["category_id"] for a in expected]
        assert one["groundtruth_is_crowd"].tolist() == [bool(a["iscrowd"]) for a in expected]
        assert one["groundtruth_instance_masks"].shape == (len(expected), *size)
        corners = [[y, x, y + h, x + w] for x, y, w, h in (a["bbox"] for a in expected)]
        boxes = one["groundtruth_boxes"] * np.array(size * 2)
        np.testing.assert_allclose(boxes, np.reshape(corners, [-1, 4]), atol=1e-3)
        assert one["groundtruth_boxes"].min(initial=0) >= 0
        assert one["groundtruth_boxes"].max(initial=1) <= 1
        for mask, annotation in zip(one["groundtruth_instance_masks"], expected, strict=True):
            np.testing.assert_array_equal(mask, source.annToMask(annotation))


def test_an_image_is_stored_with_its_facts(tmp_path: pathlib.Path):
    images, annotations = coco_files.write_coco(tmp_path, [coco_files.annotation()])
    _convert(images, annotations, str(tmp_path / "out"), 1)
    (serialized,) = tf.data.TFRecordDataset(
        str(tmp_path / "out-00000-of-00001.tfrecord")
    ).as_numpy_iterator()
    feature = tf.train.Example.FromString(serialized).features.feature
    encoded = pathlib.Path(images, "1.jpg").read_bytes()
    assert feature["image/encoded"].bytes_list.value[0] == encoded
    assert feature["image/format"].bytes_list.value[0] == b"jpeg"
    assert feature["image/filename"].bytes_list.value[0] == b"1.jpg"
    assert feature["image/source_id"].bytes_list.value[0] == b"1"
    assert len(feature["image/key/sha256"].bytes_list.value[0]) == 64
    assert feature["image/object/class/text"].bytes_list.value[0] == b"dog"
    (png,) = feature["image/object/mask"].bytes_list.value
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (coco_files.HEIGHT, coco_files.WIDTH) and mask.dtype == np.uint8
    assert sorted(np.unique(mask)) == [0, 1]
    assert mask[8:24, 10:30].all() and mask.sum() == 320


def test_a_box_without_a_mask_stays(tmp_path: pathlib.Path):
    box_only = [
        coco_files.annotation(1, without=["segmentation"]),
        coco_files.annotation(2, segmentation=[]),
    ]
    images, annotations = coco_files.write_coco(tmp_path, [*box_only, coco_files.annotation(3)])
    report = _convert(images, annotations, str(tmp_path / "out"), 1)
    assert report.ids(outcome=Outcome.MASK_DROPPED) == [1, 2]
    (one,) = _decode(tmp_path / "out")
    assert one["groundtruth_boxes"].shape == (3, 4)
    assert one["groundtruth_instance_masks"].sum(axis=(1, 2)).tolist() == [0, 0, 320]
    truth = records.read_ground_truth(f"{tmp_path / 'out'}-*", progress=False)
    assert ["segmentation" in one for one in truth["annotations"]] == [False, False, True]
    assert _summary(tmp_path / "out")["masks"] == 1


def test_what_is_left_out_is_counted(tmp_path: pathlib.Path):
    folder = tmp_path / "images"
    names = ["good.jpg", "cut.jpg", "text.jpg", "missing.jpg", "smaller.jpg"]
    for name in names[:2]:
        coco_files.write_image(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "good.jpg").read_bytes()[:-100])
    (folder / "text.jpg").write_text("not an image")
    coco_files.write_image(folder / "smaller.jpg", height=20, width=30)
    rle = coco_mask.encode(np.asfortranarray(np.ones([40, 60], np.uint8)))
    rle["counts"] = rle["counts"].decode()
    entries = [
        {"id": i, "file_name": name, "height": 40, "width": 60}
        for i, name in enumerate(names, start=1)
    ]
    originals = [
        *(coco_files.annotation(10 * i, image_id=i) for i in range(1, 5)),
        coco_files.annotation(50, image_id=5, segmentation=rle),
        coco_files.annotation(51, image_id=5, bbox=[40.0, 8.0, 10.0, 10.0], segmentation=[]),
        coco_files.annotation(11, bbox=[50.0, 30.0, 20.0, 20.0], segmentation=[]),
        coco_files.annotation(12, category_id=2),
    ]
    images, annotations = coco_files.write_coco(tmp_path, originals, entries)
    report = _convert(images, annotations, str(tmp_path / "out"), 2)

    assert report.ids("truncated_image", Outcome.IMAGE_LEFT_OUT) == [2]
    assert report.ids("undecodable_image", Outcome.IMAGE_LEFT_OUT) == [3]
    assert report.ids("missing_image", Outcome.IMAGE_LEFT_OUT) == [4]
    assert report.ids("image_size_differs", Outcome.MENDED) == [5]
    assert report.ids("wrong_size_rle", Outcome.MASK_DROPPED) == [50]
    assert report.ids("bbox_outside", Outcome.ANNOTATION_LEFT_OUT) == [51]
    assert sorted(report.ids("bbox_over_edge", Outcome.MENDED)) == [11, 50]
    assert sorted(report.ids("unused_annotation")) == [20, 30, 40]
    assert report.ids("unknown_category", Outcome.ANNOTATION_LEFT_OUT) == [12]

    summary = _summary(tmp_path / "out")
    assert (summary["images"], summary["images_left_out"]) == (2, 3)
    assert (summary["annotations"], summary["annotations_left_out"]) == (8, 5)
    assert (summary["instances"], summary["masks"]) == (3, 1)
    assert summary["faults"] == report.to_dict()
    decoded = {one["source_id"]: one for one in _decode(tmp_path / "out")}
    assert sorted(decoded) == [b"1", b"5"]
    assert decoded[b"5"]["image"].shape == (20, 30, 3)
    np.testing.assert_allclose(decoded[b"1"]["groundtruth_boxes"][1], [0.75, 50 / 60, 1, 1])
    np.testing.assert_allclose(decoded[b"5"]["groundtruth_boxes"], [[0.4, 1 / 3, 1, 1]])


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: pathlib.Path):
    images, annotations = coco_files.write_many(tmp_path, 7)
    for name, workers in (("here", 0), ("there", 2)):
        _convert(images, annotations, str(tmp_path / name / "out"), 3, workers=workers)
    files = [f"out-0000{i}-of-00003.tfrecord" for i in range(3)]
    assert _visible(tmp_path / "here") == _visible(tmp_path / "there") == [*files, "out.json"]
    for name in [*files, "out.json"]:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert [len(list(tf.data.TFRecordDataset(str(tmp_path / "here" / f)))) for f in files] == [
        *(3, 2, 2)
    ]


def test_an_error_on_the_way_leaves_what_was_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    images, annotations = coco_files.write_many(tmp_path, 6)
    examine, calls = coco.examine, []

    def fail_at_the_fourth(image: coco.AnnotatedImage, image_dir: str | None):
        calls.append(image)
        if len(calls) == 4:
            raise RuntimeError("broken")
        return examine(image, image_dir)

    output = tmp_path / "out" / "train"
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr(coco, "examine", fail_at_the_fourth)
        _convert(images, annotations, str(output), 2)
    assert len(calls) == 4
    assert os.listdir(output.parent) == []

    _convert(images, annotations, str(output), 3)
    before = {path.name: path.read_bytes() for path in output.parent.iterdir()}
    calls.clear()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr(coco, "examine", fail_at_the_fourth)
        _convert(images, annotations, str(output), 1)
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == before

    _convert(images, annotations, str(output), 1)
    assert sorted(os.listdir(output.parent)) == ["train-00000-of-00001.tfrecord", "train.json"]
    assert len(_decode(output)) == 6


def test_a_killed_run_leaves_nothing_that_passes_for_whole(
    tmp_path: pathlib.Path, shared_data: pathlib.Path
):
    images, annotations = (shared_data / path for path in _REAL_DATA["coco_val"])
    data = json.loads(annotations.read_text())
    data["images"] = [
        image | {"id": image["id"] + 10**7 * i} for i in range(20) for image in data["images"]
    ]
    (tmp_path / "coco.json").write_text(json.dumps(data))
    output = tmp_path / "out" / "val"
    code = (
        "import sys; from official_maskrcnn.data.converters.coco import convert_coco;"
        "convert_coco(*sys.argv[1:4], shards=2, workers=0)"
    )
    arguments = [str(images), str(tmp_path / "coco.json"), str(output)]
    root = pathlib.Path(tfrecord.__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=root)
    first = output.parent / ".val.incomplete" / "val-00000-of-00002.tfrecord"
    while not (first.exists() and first.stat().st_size):
        assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _visible(output.parent) == []
    few = coco_files.write_many(tmp_path / "few", 2)
    _convert(*few, str(output), 1)  # the leftovers are in nobody's way
    assert sorted(os.listdir(output.parent)) == ["val-00000-of-00001.tfrecord", "val.json"]
    assert len(_decode(output)) == 2


def test_two_at_once_with_one_output_are_refused(tmp_path: pathlib.Path):
    images, annotations = coco_files.write_many(tmp_path, 3)
    output = tmp_path / "out"
    with tfrecord.ShardWriter(str(output), 1) as other:
        other.write(0, b"other")
        with pytest.raises(UserError, match="another process is writing"):
            _convert(images, annotations, str(output), 1)
        other.write(0, b"still")
    shard = tf.data.TFRecordDataset(str(tmp_path / "out-00000-of-00001.tfrecord"))
    assert list(shard.as_numpy_iterator()) == [b"other", b"still"]


def test_unusable_input(tmp_path: pathlib.Path):
    images, annotations = coco_files.write_coco(tmp_path, [coco_files.annotation()])
    output = str(tmp_path / "out")
    with pytest.raises(UserError, match="nowhere does not exist"):
        _convert("nowhere", annotations, output, 1)
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read"):
        _convert(images, "nowhere.json", output, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"1 of them are not in .*empty"):
        _convert(str(tmp_path / "empty"), annotations, output, 1)
    assert _visible(tmp_path) == ["empty", "images", "instances.json"]


def test_an_image_that_cannot_be_read_is_not_missing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    images, annotations = coco_files.write_many(tmp_path, 2)
    read = pathlib.Path.read_bytes

    def fail_once(path: pathlib.Path) -> bytes:
        if path.name == "2.jpg":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read(path)

    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"Stale .*2\.jpg"):
        patch.setattr(pathlib.Path, "read_bytes", fail_once)
        cache.ensure_records(images, annotations, str(tmp_path / "cache"))
    (path,) = cache.ensure_records(images, annotations, str(tmp_path / "cache"))
    assert len(list(tf.data.TFRecordDataset(path))) == 2


@pytest.mark.parametrize(
    "name", ["none.jpg", "1.jpg/in_it.jpg", ".", "x" * 300, "loop", "nul\0.jpg", "\ud800.jpg"]
)
def test_names_of_no_file(name: str, tmp_path: pathlib.Path):
    images = [
        {"id": i, "file_name": n, "height": 40, "width": 60} for i, n in ((1, "1.jpg"), (2, name))
    ]
    coco_files.write_image(tmp_path / "images" / "1.jpg")
    (tmp_path / "images" / "loop").symlink_to("loop")
    files = coco_files.write_coco(tmp_path, [], images)
    assert _convert(*files, str(tmp_path / "out"), 1).ids("missing_image") == [2]


def test_texts_that_are_no_utf_8(tmp_path: pathlib.Path):
    """As json.dump writes the name of a Latin-1 file, and two that only JSON can hold."""
    name, image_id, category = "caf\udce9.png", "caf\udce9", "\ud800"
    coco_files.write_image(tmp_path / "images" / "plain.png")
    (tmp_path / "images" / "plain.png").rename(tmp_path / "images" / name)
    files = coco_files.write_coco(
        tmp_path,
        [coco_files.annotation(1, image_id=image_id)],
        [{"id": image_id, "file_name": name, "height": 40, "width": 60}],
        [{"id": 3, "name": category}],
    )
    assert not _convert(*files, str(tmp_path / "out"), 1)
    (one,) = records.read_examples([str(tmp_path / "out-00000-of-00001.tfrecord")])
    feature = one[1].features.feature
    assert feature["image/filename"].bytes_list.value[0] == b"caf\xe9.png"
    truth = records.read_ground_truth(f"{tmp_path / 'out'}-*", progress=False)
    assert truth["images"][0]["file_name"] == "caf\ufffd.png"
    assert len(truth["annotations"]) == len(truth["categories"]) == 1
    assert not check_data(f"{tmp_path / 'out'}-*", progress=False)


@contextlib.contextmanager
def _full_disk(room: int) -> Iterator[None]:
    """Files of more bytes cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("side", "faults", "room"),
    [
        (200, 0, 20_000),  # the first record is longer
        (30, 0, 500),  # so short that it is written when the file is closed
        (30, 900, 4_000),  # the summary is longer
    ],
)
def test_a_full_disk_is_readable(tmp_path: pathlib.Path, side: int, faults: int, room: int):
    coco_files.write_image(tmp_path / "images" / "1.jpg", side, side)
    entry = {"id": 1, "file_name": "1.jpg", "height": side, "width": side}
    unusable = [coco_files.annotation(i, category_id=2) for i in range(faults)]
    files = coco_files.write_coco(tmp_path, unusable, [entry])
    with pytest.raises(UserError, match=r"cannot write to .*out: File too large"), _full_disk(room):
        _convert(*files, str(tmp_path / "out" / "train"), 1)
    assert not (tmp_path / "out" / "train.json").exists()
    assert not (tmp_path / "out" / ".train.incomplete").exists()
    _convert(*files, str(tmp_path / "out" / "train"), 1)
    assert len(_decode(tmp_path / "out" / "train")) == 1
    with pytest.raises(UserError, match=r"File too large; set cache_dir"), _full_disk(room):
        cache.ensure_records(*files, str(tmp_path / "cache"))


def test_the_converter_is_registered_and_needs_no_tensorflow():
    assert CONVERTERS.get("coco") is convert_coco
    code = (
        "import sys; from official_maskrcnn.data.converters import CONVERTERS;"
        "print(CONVERTERS.names(), 'tensorflow' in sys.modules)"
    )
    root = pathlib.Path(tfrecord.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "['coco'] False\n"

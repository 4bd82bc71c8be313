"""Finding record files, and reading ground truth out of any that have Model Garden's keys."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as coco_mask

from official_maskrcnn.data import records
from official_maskrcnn.data.converters.coco import convert_coco
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation.ground_truth import load_ground_truth
from tests.data.coco_files import annotation, write_coco, write_image
from tests.data.example_records import make_example, png, write_records

_IMAGE = np.full([20, 30, 3], 90, np.uint8)


def _mask(top: int, left: int, bottom: int, right: int, value: int = 1) -> np.ndarray:
    mask = np.zeros([20, 30], np.uint8)
    mask[top:bottom, left:right] = value
    return mask


def _read(folder: pathlib.Path, *examples: bytes, **options: int) -> dict:
    write_records(folder, examples)
    return records.read_ground_truth(f"{folder}/part-*", progress=False, **options)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for name in ("b-0", "b-1", "a-1", "a-0", "a.json", "c"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("a-*", ["a-0", "a-1"]),
        ("b-*,a-*", ["b-0", "b-1", "a-0", "a-1"]),
        (" b-1 , a-1,", ["b-1", "a-1"]),
        (["b-*", "c,a-0"], ["b-0", "b-1", "c", "a-0"]),
        ("a-1,a-*,[ab]-1", ["a-1", "a-0", "b-1"]),  # each file once
        ("a*", ["a-0", "a-1"]),  # without the summary
    ],
)
def test_patterns(folder: pathlib.Path, patterns: str | list[str], names: list[str]):
    def within(text: str) -> str:
        return ",".join(f"{folder}/{part.strip()}" if part else "" for part in text.split(","))

    given = within(patterns) if isinstance(patterns, str) else [within(text) for text in patterns]
    assert records.expand_patterns(given) == [f"{folder}/{name}" for name in names]


def test_a_pattern_that_matches_nothing_is_named(folder: pathlib.Path):
    with pytest.raises(UserError, match=r"no record file matches the pattern '.*/x-\*'"):
        records.expand_patterns(f"{folder}/a-*,{folder}/x-*,{folder}/b-*")
    with pytest.raises(UserError, match=r"'.*/nowhere/file'"):
        records.expand_patterns([f"{folder}/c", f"{folder}/nowhere/file"])
    with pytest.raises(UserError, match=r"'{a'"):  # no pattern has braces
        records.expand_patterns("{a,b}-*")
    for nothing in ("", " , ", []):
        with pytest.raises(UserError, match="input_path is empty"):
            records.expand_patterns(nothing)


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("42", 42), ("000042", 42), ("9" * 18, 10**18 - 1)]
)
def test_source_ids_that_are_numbers(text: str, number: int):
    assert records.source_id_to_int(tf.constant(text), tf.constant("image")).numpy() == number


def test_source_ids_that_are_not_numbers_are_hashed():
    texts = ["cat.jpg", "-1", "1.0", "1 ", "9" * 19, "", "é"]
    ids = [records.source_id_to_int(tf.constant(t), tf.constant("image")).numpy() for t in texts]
    assert len(set(ids)) == len(texts)
    assert all(0 <= image_id < 2**53 for image_id in ids)  # survives JSON and float64
    again = records.source_id_to_int(tf.constant("cat.jpg"), tf.constant("another image"))
    assert again.numpy() == ids[0]
    other = records.source_id_to_int(tf.constant(""), tf.constant("another image"))
    assert other.numpy() != ids[5]


def test_ground_truth(tmp_path: pathlib.Path):
    masks = [_mask(2, 3, 12, 13), _mask(0, 0, 0, 0), _mask(5, 5, 10, 25, value=255)]
    extra = {
        "image/filename": [b"first.png"],
        "image/object/class/text": [b"cat", b"dog", b"cat"],
        "image/object/area": [95.0, 12.0, 50.0],
    }
    boxes = [[2, 3, 12, 13], [0, 0, 4, 3], [5, 5, 10, 25]]
    truth = _read(
        tmp_path,
        make_example(_IMAGE, boxes, [7, 9, 7], masks, [0, 0, 1], "5", extra),
        make_example(_IMAGE, source_id="11"),
    )
    assert truth["images"] == [
        {"id": 5, "height": 20, "width": 30, "file_name": "first.png"},
        {"id": 11, "height": 20, "width": 30, "file_name": ""},
    ]
    assert truth["categories"] == [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    annotations = truth["annotations"]
    assert [a["id"] for a in annotations] == [1, 2, 3]
    assert [a["image_id"] for a in annotations] == [5, 5, 5]
    assert [a["category_id"] for a in annotations] == [7, 9, 7]
    assert [a["area"] for a in annotations] == [95, 12, 50]
    assert [a["iscrowd"] for a in annotations] == [0, 0, 1]
    expected_boxes = [[3, 2, 10, 10], [0, 0, 3, 4], [5, 5, 20, 5]]
    np.testing.assert_allclose([a["bbox"] for a in annotations], expected_boxes, atol=1e-4)
    assert "segmentation" not in annotations[1]
    for i in (0, 2):
        decoded = coco_mask.decode(annotations[i]["segmentation"])
        np.testing.assert_array_equal(decoded, masks[i] > 0)

    loaded = load_ground_truth(truth)  # evaluation takes it as it is
    assert list(loaded.image_sizes) == [5, 11]
    assert [a["segmentation"] is None for a in loaded.annotations] == [False, True, False]


def test_what_records_may_lack(tmp_path: pathlib.Path):
    """No masks, crowds, areas, texts or size."""
    size = {"image/height": [], "image/width": []}
    truth = _read(tmp_path, make_example(_IMAGE, [[0, 0, 10, 15]], [4], extra=size))
    assert truth["images"] == [{"id": 1, "height": 20, "width": 30, "file_name": ""}]
    assert truth["categories"] == [{"id": 4, "name": "4"}]
    (annotation,) = truth["annotations"]
    assert annotation["bbox"] == pytest.approx([0, 0, 15, 10], abs=1e-4)
    assert annotation["area"] == pytest.approx(150, abs=1e-3)
    assert annotation["iscrowd"] == 0
    assert "segmentation" not in annotation


def test_ids_are_those_of_the_batches(tmp_path: pathlib.Path):
    named = make_example(_IMAGE, source_id="cat.jpg")
    nameless = make_example(_IMAGE // 2, source_id=None)
    images = _read(tmp_path, named, nameless)["images"]
    encoded = tf.constant(png(_IMAGE // 2))
    assert [image["id"] for image in images] == [
        records.source_id_to_int(tf.constant("cat.jpg"), tf.constant("")).numpy(),
        records.source_id_to_int(tf.constant(""), encoded).numpy(),
    ]
    regenerated = _read(tmp_path, named, nameless, regenerate_source_id=True)["images"]
    assert regenerated[0]["id"] != images[0]["id"]
    assert regenerated[1]["id"] == images[1]["id"]


def test_ids_are_those_of_the_annotation_file(tmp_path: pathlib.Path):
    ids = [3, 7.0, "0012", "2008_000008", -5, 10**18, "cat.jpg"]
    entries = [{"id": i, "file_name": "1.png", "height": 20, "width": 30} for i in ids]
    entries += [{**entries[2], "id": 12}]  # there already
    image_dir, path = write_coco(tmp_path, [annotation(i, image_id=i) for i in ids], entries)
    write_image(tmp_path / "images" / "1.png", 20, 30)
    convert_coco(image_dir, path, str(tmp_path / "out"), 1, progress=False)
    converted = load_ground_truth(
        records.read_ground_truth(str(tmp_path / "out-*"), progress=False)
    )
    annotated = load_ground_truth(path)
    assert list(converted.image_sizes) == list(annotated.image_sizes)
    assert len(annotated.image_sizes) == len(ids)
    with_instances = [
        sorted(a["image_id"] for a in truth.annotations) for truth in (converted, annotated)
    ]
    assert with_instances == [list(annotated.image_sizes)] * 2


def test_an_image_counts_once(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture):
    example = make_example(_IMAGE, [[2, 3, 12, 13]], [7], source_id="5")
    other = make_example(_IMAGE, [[2, 3, 12, 13]], [7], source_id="6")
    again = make_example(_IMAGE, [[2, 3, 12, 13]], [7], source_id="0005")
    truth = _read(tmp_path, example, other, example, again)
    assert [image["id"] for image in truth["images"]] == [5, 6]
    assert [annotation["image_id"] for annotation in truth["annotations"]] == [5, 6]
    assert "2 records of an image that was there before: left out" in caplog.text


def test_the_background_is_no_category(tmp_path: pathlib.Path):
    truth = _read(tmp_path, make_example(_IMAGE, [[2, 3, 12, 13], [1, 1, 5, 5]], [7, 0]))
    assert truth["categories"] == [{"id": 7, "name": "7"}]
    assert [a["category_id"] for a in load_ground_truth(truth).annotations] == [7]


def test_damaged_files_are_named(tmp_path: pathlib.Path):
    (path,) = write_records(tmp_path, [make_example(_IMAGE)] * 2)
    whole = pathlib.Path(path).read_bytes()
    middle = len(whole) * 3 // 4  # in the second record
    for broken in (whole[:middle], whole[:middle] + b"?" + whole[middle + 1 :], b"no record file"):
        pathlib.Path(path).write_bytes(broken)
        with pytest.raises(records.DamagedFile, match=r"of-00001\.tfrecord.* is damaged"):
            records.read_ground_truth(path, progress=False)


def test_some_damaged_records_may_be_left_out(tmp_path: pathlib.Path):
    examples = [make_example(_IMAGE, source_id=str(i)) for i in range(3)]
    (path,) = write_records(tmp_path, examples)
    content = bytearray(pathlib.Path(path).read_bytes())
    content[content.index(examples[1]) + 30] ^= 1
    pathlib.Path(path).write_bytes(bytes(content))
    found = records.read_ground_truth(path, max_faulty_examples=1, progress=False)
    assert [image["id"] for image in found["images"]] == [0, 2]
    with pytest.raises(records.DamagedFile, match=r"record 2 .* 1 damaged .*\(0\) are allowed"):
        records.read_ground_truth(path, progress=False)


@pytest.mark.parametrize(
    "extra",
    [
        {"image/object/bbox/xmax": [0.5]},
        {"image/object/area": [1.0]},
        {"image/object/is_crowd": [0, 0, 0]},
        {"image/object/class/text": [b"cat"]},
        {"image/object/mask": [b""]},
    ],
)
def test_ragged_records_are_named(tmp_path: pathlib.Path, extra: dict):
    example = make_example(
        _IMAGE, [[0, 0, 5, 5], [1, 1, 6, 6]], [1, 2], source_id="77", extra=extra
    )
    with pytest.raises(records.DamagedFile, match="record of image 77"):
        _read(tmp_path, example)


def test_progress_is_shown(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    write_records(tmp_path, [make_example(_IMAGE)] * 3)
    records.read_ground_truth(f"{tmp_path}/part-*")
    assert "Reading ground truth: 3 done" in capsys.readouterr().err


def test_a_record_without_any_size_is_named(tmp_path: pathlib.Path):
    nothing = {"image/height": [], "image/width": [], "image/encoded": [b"no image"]}
    with pytest.raises(UserError, match="record of image 8 has no size"):
        _read(tmp_path, make_example(_IMAGE, source_id="8", extra=nothing))


def test_unusable_records_count_as_damaged(tmp_path: pathlib.Path):
    sizeless = {"image/height": [], "image/encoded": [b"no image"]}
    ragged = {"image/object/area": [1.0]}
    examples = [
        b"hello, I am no example",  # with the right checksums
        make_example(_IMAGE, source_id="7"),
        make_example(_IMAGE, source_id="8", extra=sizeless),
        make_example(_IMAGE, source_id="9", extra=ragged),
    ]
    found = _read(tmp_path, *examples, max_faulty_examples=3)
    assert [image["id"] for image in found["images"]] == [7]
    with pytest.raises(records.DamagedFile, match=r"record of image 9 .* 3 damaged .*\(2\)"):
        _read(tmp_path, *examples, max_faulty_examples=2)
    with pytest.raises(records.DamagedFile, match=r"record 1 .* is damaged"):
        _read(tmp_path, *examples)


def test_names_in_another_encoding(tmp_path: pathlib.Path):
    extra = {"image/filename": [b"caf\xe9.jpg"], "image/object/class/text": [b"\xe9"]}
    truth = _read(tmp_path, make_example(_IMAGE, [[0, 0, 5, 5]], [2], extra=extra))
    assert truth["images"][0]["file_name"] == "caf\ufffd.jpg"
    assert truth["categories"] == [{"id": 2, "name": "\ufffd"}]

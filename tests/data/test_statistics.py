import json
import pathlib

import numpy as np
import pytest
import rich.console

from official_maskrcnn.data import reader, statistics
from official_maskrcnn.data.statistics import check_data, data_stats
from official_maskrcnn.errors import UserError
from tests.data.example_records import make_example, write_records

_IMAGE = np.full([200, 100, 3], 90, np.uint8)


def _square(x: float, y: float, side: float) -> dict:
    polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {"bbox": [x, y, side, side], "area": side * side, "segmentation": [polygon]}


@pytest.fixture
def coco_file(tmp_path: pathlib.Path) -> str:
    """Three images: with three instances and a crowd, with one without a mask, and with none."""
    crowd = {"size": [200, 100], "counts": [0, 2000, 18000]}
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 5, "iscrowd": 0, **_square(0, 0, 31)},
        {"id": 2, "image_id": 1, "category_id": 5, "iscrowd": 0, **_square(10, 10, 40)},
        {"id": 3, "image_id": 1, "category_id": 9, "iscrowd": 0, **_square(0, 50, 96)},
        {"id": 4, "image_id": 1, "category_id": 9, "iscrowd": 1, **_square(0, 0, 90)},
        {"id": 5, "image_id": 2, "category_id": 9, "iscrowd": 0, **_square(5, 5, 32)},
        {"id": 6, "image_id": 2, "category_id": 77, "iscrowd": 0, **_square(5, 5, 32)},
        {"id": 7, "image_id": 2, "category_id": 5, "iscrowd": 0, **_square(500, 5, 32)},
    ]
    annotations[3]["segmentation"] = crowd
    annotations[4]["segmentation"] = []
    annotations[6]["segmentation"] = []
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": 200, "width": 100 + 20 * (i == 3)}
        for i in (1, 2, 3)
    ]
    categories = [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 12, "name": "eel"}]
    path = tmp_path / "instances.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return str(path)


def test_numbers_of_a_coco_file(coco_file: str):
    assert data_stats(coco_file, progress=False).to_dict() == {
        "images": 3,
        "images_without_instances": 1,
        "instances": 4,
        "instances_with_mask": 3,
        "instances_without_mask": 1,
        "crowds": 1,
        "instances_per_image": {
            "mean": pytest.approx(4 / 3),
            "median": 1.0,
            "p99": pytest.approx(2.96),
            "max": 3,
        },
        "box_sizes": {"small": 1, "medium": 2, "large": 1},
        "mask_sizes": {"small": 1, "medium": 1, "large": 1},
        "image_sizes": [
            {"height": 200, "width": 100, "images": 2},
            {"height": 200, "width": 120, "images": 1},
        ],
        "left_out": {"images": 0, "annotations": 2},
        "classes": [
            {"id": 5, "name": "cat", "instances": 2, "images": 1, "masks": 2, "crowds": 0},
            {"id": 9, "name": "dog", "instances": 2, "images": 2, "masks": 1, "crowds": 1},
            {"id": 12, "name": "eel", "instances": 0, "images": 0, "masks": 0, "crowds": 0},
        ],
    }


def test_tables_show_the_numbers(coco_file: str):
    console = rich.console.Console(width=120)
    with console.capture() as capture:
        console.print(*data_stats(coco_file, progress=False).tables())
    text = capture.get()
    assert "small 1, medium 2, large 1" in text
    assert "200x100 (2), 200x120 (1)" in text
    assert [line.split()[1:10:2] for line in text.splitlines() if "dog" in line] == [
        ["9", "dog", "2", "2", "1"]
    ]


def test_faults_of_a_coco_file(coco_file: str):
    faults = check_data(coco_file, progress=False)
    assert faults.ids("unknown_category") == [6]
    assert faults.ids("bbox_outside") == [7]
    assert sorted(faults.ids("empty_segmentation")) == [5, 7]
    assert faults.count("missing_image") == 0


def test_images_are_opened_on_request(coco_file: str, tmp_path: pathlib.Path):
    (tmp_path / "2.jpg").write_bytes(b"no image")
    faults = check_data(coco_file, str(tmp_path), progress=False)
    assert sorted(faults.ids("missing_image")) == [1, 3]
    assert faults.ids("undecodable_image") == [2]
    with pytest.raises(UserError, match="nowhere does not exist"):
        check_data(coco_file, str(tmp_path / "nowhere"), progress=False)


def test_numbers_of_records(tmp_path: pathlib.Path):
    mask = np.zeros([200, 100], np.uint8)
    mask[:40, :40] = 1
    boxes = [(0, 0, 40, 40), (0, 0, 20, 20), (0, 0, 200, 100)]
    examples = [
        make_example(_IMAGE, boxes, [3, 3, 8], [mask, 0 * mask, mask], [0, 0, 1], "1"),
        make_example(_IMAGE, [], [], [], [], "2"),
        make_example(_IMAGE, boxes[:1], [8], None, None, "3"),
    ]
    write_records(tmp_path, examples, shards=2)
    numbers = data_stats([str(tmp_path / "part*")], progress=False).to_dict()
    assert (numbers["images"], numbers["images_without_instances"]) == (3, 1)
    assert (numbers["instances"], numbers["instances_with_mask"], numbers["crowds"]) == (3, 1, 1)
    assert numbers["box_sizes"] == {"small": 1, "medium": 2, "large": 0}
    assert numbers["classes"] == [
        {"id": 3, "name": "3", "instances": 2, "images": 1, "masks": 1, "crowds": 0},
        {"id": 8, "name": "8", "instances": 1, "images": 1, "masks": 0, "crowds": 1},
    ]
    assert not check_data([str(tmp_path / "part*")], progress=False)


def test_faults_of_records(tmp_path: pathlib.Path):
    boxes = [(0, 0, 40, 40), (0, 0, 40, float("nan")), (50, 50, 50, 60), (-10, 0, 40, 40)]
    good = np.ones([200, 100], np.uint8)
    masks = [good, good, good, good[:50]]
    examples = [
        make_example(_IMAGE, boxes, [1, 2, 3, 0], masks, [0] * 4, "17"),
        make_example(_IMAGE, source_id="17"),
        make_example(_IMAGE, source_id="18", extra={"image/height": [7]}),
        make_example(_IMAGE, source_id="19", extra={"image/encoded": [b"no image"]}),
        make_example(_IMAGE, boxes[:1], [1, 2], source_id="20"),
        make_example(_IMAGE, extra={"image/height": [], "image/encoded": [b"no image"]}),
        b"no example",
        make_example(_IMAGE, source_id="21", extra={"image/filename": [b"caf\xe9.jpg"]}),
    ]
    (path,) = write_records(tmp_path, examples)
    damaged = tmp_path / "part-damaged"
    damaged.write_bytes(pathlib.Path(path).read_bytes()[:-30])
    faults = check_data(path, progress=False)
    found = {kind: faults.ids(kind) for kind in {fault.kind for fault in faults}}
    assert found == {
        "nonfinite_bbox": ["17/1"],
        "zero_area_bbox": ["17/2"],
        "bbox_over_edge": ["17/3"],
        "unknown_category": ["17/3"],
        "undecodable_mask": ["17/3"],
        "duplicate_image_id": ["17"],
        "image_size_differs": ["18"],
        "undecodable_image": ["19", f"{path}, record 6 at byte {_offset(path, 5)}"],
        "ragged_record": [f"{path}, record 5 at byte {_offset(path, 4)}"],
        "corrupt_record": [f"{path}, record 7 at byte {_offset(path, 6)}"],
    }
    assert check_data(str(damaged), progress=False).ids("corrupt_file") == [str(damaged)]
    content = bytearray(pathlib.Path(path).read_bytes())
    content[_offset(path, 2) + 40] ^= 1  # in the record of image 18
    damaged.write_bytes(bytes(content))
    found = check_data(str(damaged), progress=False)
    assert found.ids("corrupt_record")[0] == f"{damaged}, record 3 at byte {_offset(path, 2)}"
    assert found.ids("undecodable_image")[0] == "19" and not found.ids("image_size_differs")


def _offset(path: str, number: int) -> int:
    return int(reader.build_index([path]).offsets[number])


def test_a_summary_among_expanded_names_is_no_annotation_file(tmp_path: pathlib.Path):
    paths = write_records(tmp_path, [make_example(_IMAGE, source_id=i) for i in "123"], shards=2)
    summary = tmp_path / "part.json"
    summary.touch()
    assert data_stats([*paths, str(summary)], progress=False).to_dict()["images"] == 3
    with pytest.raises(UserError, match="one COCO annotation file"):
        data_stats([*paths, str(tmp_path / "other.json")])
    with pytest.raises(UserError, match="one COCO annotation file"):
        data_stats([str(summary), str(tmp_path / "part-1.json")])


def test_sources_are_not_mixed(coco_file: str, tmp_path: pathlib.Path):
    with pytest.raises(UserError, match="one COCO annotation file"):
        data_stats([coco_file, "train*"])
    with pytest.raises(UserError, match="images in them"):
        check_data("train*", str(tmp_path))
    with pytest.raises(UserError, match="nothing-here"):
        data_stats(str(tmp_path / "nothing-here*"))


def test_real_photographs(shared_data: pathlib.Path):
    folder = shared_data / "coco_sample"
    path = str(folder / "annotations" / "instances_val2017.json")
    numbers = data_stats(path, progress=False).to_dict()
    assert (numbers["images"], numbers["instances"] + numbers["crowds"]) == (44, 304)
    assert numbers["left_out"] == {"images": 0, "annotations": 0}
    occurring = [one for one in numbers["classes"] if one["instances"] or one["crowds"]]
    assert (len(occurring), len(numbers["classes"])) == (48, 80)
    faults = check_data(path, str(folder / "val2017"), progress=False)
    assert faults.count("missing_image") == faults.count("undecodable_image") == 0


def test_sizes_have_coco_s_limits():
    areas = {0.0: "small", 1023.9: "small", 1024.0: "medium", 9215.9: "medium", 9216.0: "large"}
    assert {area: statistics._size_name(area) for area in areas} == areas

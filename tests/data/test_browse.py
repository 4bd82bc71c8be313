"""Contact sheets of annotations and of batches."""

import json

import cv2
import numpy as np
import pytest

from official_maskrcnn.configs.task import DataConfig, Parser
from official_maskrcnn.data import browse
from official_maskrcnn.errors import UserError
from tests.data.coco_files import HEIGHT, WIDTH, annotation, write_coco, write_image
from tests.data.example_records import make_example, write_records

_BAD_BOXES = [None, [], [1, 2, 3], [1, 2, float("nan"), 4], ["a", 1, 2, 3]]


def _image(height: int = 90, width: int = 120) -> np.ndarray:
    return np.full([height, width, 3], 200, np.uint8)


@pytest.fixture
def coco(tmp_path):
    """Images 1 ... 4, of which 4 has no file; all sorts of annotations of the first."""
    for i in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), _image())
    polygon = [30, 20, 90, 20, 90, 60, 30, 60]
    segmentations = [
        *([polygon], [], [[1, 2, 3, 4]], {"counts": "?", "size": [3]}, None),
        *({"counts": [90 * 120], "size": [90, 120]}, {"counts": [0, 12], "size": [3, 4]}),
    ]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [30, 20, 60, 40], "segmentation": s}
        for i, s in enumerate(segmentations)
    ]
    annotations.append(annotations[0] | {"id": 9, "iscrowd": 1, "category_id": 3})
    annotations += [annotations[0] | {"id": 10 + i, "bbox": b} for i, b in enumerate(_BAD_BOXES)]
    path = tmp_path / "coco.json"
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": f"{i}.png", "height": 90, "width": 120}
                    for i in (1, 2, 3, 4)
                ],
                "annotations": annotations,
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            }
        )
    )
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_sheet_of_raw_images(coco, suffix):
    output = str(coco.parent / f"sheet.{suffix}")
    assert browse.browse_coco(str(coco.parent), str(coco), output, columns=2) == 4
    sheet = cv2.cvtColor(cv2.imread(output), cv2.COLOR_BGR2RGB)
    scale = 560 / 120
    assert abs(sheet.shape[1] - 2 * 560) < 40
    # The first image has a tinted mask in the middle of its box, the second is as it was.
    tile = sheet[8 : 8 + round(90 * scale), 8 : 8 + 560].astype(int)
    middle, corner = tile[round(40 * scale), round(60 * scale)], tile[5, 5]
    assert np.ptp(middle) > 30 and np.ptp(corner) < 5
    second = sheet[8 : 8 + round(90 * scale), 576 + 8 : 576 + 500].astype(int)
    assert np.abs(second - 200).max() < 12


def test_names_that_are_no_utf_8(tmp_path):
    write_image(tmp_path / "images" / "plain.png")
    (tmp_path / "images" / "plain.png").rename(tmp_path / "images" / "caf\udce9.png")
    images = [{"id": 1, "file_name": "caf\udce9.png", "height": HEIGHT, "width": WIDTH}]
    categories = [{"id": 3, "name": "\ud800"}, {"id": 4, "name": "cat"}]
    files = write_coco(tmp_path, [annotation()], images, categories)
    assert browse.browse_coco(*files, str(tmp_path / "sheet.png")) == 1


def test_choice_of_raw_images(coco):
    sheets = []
    for seed in (0, 0, 1):
        output = str(coco.parent / "sheet.png")
        assert browse.browse_coco(str(coco.parent), str(coco), output, limit=2, seed=seed) == 2
        sheets.append(cv2.imread(output))
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert sheets[0].shape != sheets[2].shape or (sheets[0] != sheets[2]).any()


def test_faults_of_the_user(coco):
    folder = str(coco.parent)
    with pytest.raises(UserError, match=r"sheet\.what"):
        browse.browse_coco(folder, str(coco), f"{folder}/sheet.what")
    with pytest.raises(UserError, match=r"missing\.json"):
        browse.browse_coco(folder, f"{folder}/missing.json", f"{folder}/sheet.png")
    coco.write_text("[]")
    with pytest.raises(UserError, match=r"coco\.json"):
        browse.browse_coco(folder, str(coco), f"{folder}/sheet.png")
    categories = '[{"id": 1, "name": "cat"}]'
    coco.write_text(f'{{"images": [], "annotations": [], "categories": {categories}}}')
    with pytest.raises(UserError, match="no images"):
        browse.browse_coco(folder, str(coco), f"{folder}/sheet.png")


def test_damaged_examples_are_named(tmp_path):
    no_image = make_example(_image(), extra={"image/encoded": [b"no image"]})
    (path,) = write_records(tmp_path, [make_example(_image()), no_image])
    config = DataConfig(input_path=path, global_batch_size=2)
    with pytest.raises(
        UserError, match=rf"^{path}, record 2 .*max_faulty_examples \(0\) are allowed$"
    ):
        browse.browse_batches(config, (80, 80), str(tmp_path / "sheet.png"))
    config.max_faulty_examples = 1
    assert browse.browse_batches(config, (80, 80), str(tmp_path / "sheet.png")) == 1


def test_sheet_of_batches(tmp_path):
    mask = np.zeros([60, 80], np.uint8)
    mask[10:40, 20:60] = 1
    box = [10, 20, 40, 60]
    examples = [
        make_example(_image(60, 80), [box], [1], [mask], source_id="7"),
        make_example(_image(60, 80), [box], [1], [0 * mask], source_id="8"),
        make_example(_image(60, 80), source_id="9"),
    ]
    config = DataConfig(
        input_path=write_records(tmp_path, examples)[0],
        global_batch_size=2,
        dtype="float32",
        parser=Parser(max_num_instances=2, mask_crop_size=28),
    )
    output = str(tmp_path / "sheet.png")
    assert browse.browse_batches(config, (80, 80), output, class_names={1: "cat", 2: "dog"}) == 3
    sheet = cv2.cvtColor(cv2.imread(output), cv2.COLOR_BGR2RGB).astype(int)
    tiles = [sheet[8 : 8 + 560, 8 + i * 568 : 8 + i * 568 + 560] for i in range(3)]
    middle = [tile[25 * 7, 40 * 7] for tile in tiles]
    assert np.ptp(middle[0]) > 60  # tinted
    assert (middle[1] == 200).all()  # a box without a mask
    assert (tiles[1] != tiles[2]).any()  # but the box is there
    assert (tiles[2][: 59 * 7] == 200).all()  # the colours are the image's
    assert (tiles[2][61 * 7 :] == [124, 116, 104]).all()  # padding is the mean of ImageNet
    assert browse.browse_batches(config, (80, 80), output, limit=1) == 1

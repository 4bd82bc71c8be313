"""Every kind of fault by its name, what becomes of it, and what must not be taken for one."""

import json
import math
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from official_maskrcnn.data import annotations, coco, images
from official_maskrcnn.data.faults import ANNOTATION_KINDS, IMAGE_KINDS, Fault, FaultReport, Outcome
from official_maskrcnn.errors import UserError
from tests.data.coco_files import (
    CATEGORIES,
    HEIGHT,
    SQUARE,
    WIDTH,
    annotation,
    write_coco,
    write_image,
)

KEPT, MENDED, MASK_DROPPED = Outcome.KEPT, Outcome.MENDED, Outcome.MASK_DROPPED
LEFT_OUT, IMAGE_LEFT_OUT = Outcome.ANNOTATION_LEFT_OUT, Outcome.IMAGE_LEFT_OUT
BOX = (8.0, 10.0, 24.0, 30.0)
NAN, INF = math.nan, math.inf


def _mask() -> np.ndarray:
    mask = np.zeros([HEIGHT, WIDTH], np.uint8)
    mask[8:24, 10:30] = 1
    return mask


def _rle(compressed: bool = True, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict:
    mask = np.zeros(size, np.uint8)
    mask[8:24, 10:30] = 1
    if compressed:
        rle = coco_mask.encode(np.asfortranarray(mask))
        return {"size": list(size), "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F")
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=255, append=255))).tolist()
    return {"size": list(size), "counts": runs if flat[0] == 0 else [0, *runs]}


# Kind, the annotation's changes, what is done, and whether there is an instance with a mask.
ANNOTATION_CASES = [
    ("missing_bbox", {"without": ["bbox"]}, MENDED, True),
    ("missing_bbox", {"without": ["bbox", "segmentation"]}, LEFT_OUT, None),
    ("invalid_bbox", {"bbox": [1, 2, 3]}, MENDED, True),
    ("invalid_bbox", {"bbox": ["a", 2, 3, 4], "segmentation": []}, LEFT_OUT, None),
    ("nonfinite_bbox", {"bbox": [NAN, 8, 20, 16]}, MENDED, True),
    ("nonfinite_bbox", {"bbox": [10, 8, INF, 16], "segmentation": []}, LEFT_OUT, None),
    ("zero_area_bbox", {"bbox": [10, 8, 0, 16]}, MENDED, True),
    ("zero_area_bbox", {"bbox": [10, 8, 20, -1], "segmentation": []}, LEFT_OUT, None),
    ("bbox_outside", {"bbox": [WIDTH + 1, 8, 20, 16]}, MENDED, True),
    ("bbox_outside", {"bbox": [-30, 8, 20, 16], "segmentation": []}, LEFT_OUT, None),
    ("bbox_over_edge", {"bbox": [10, 8, WIDTH - 10 + 1e-4, 16]}, MENDED, True),
    ("bbox_over_edge", {"bbox": [-5, -5, 40, 30]}, MENDED, True),
    ("missing_area", {"without": ["area"]}, MENDED, True),
    ("invalid_area", {"area": 0}, MENDED, True),
    ("invalid_area", {"area": NAN}, MENDED, True),
    ("invalid_area", {"area": "12"}, MENDED, True),
    ("missing_iscrowd", {"without": ["iscrowd"]}, MENDED, True),
    ("invalid_iscrowd", {"iscrowd": "no"}, MENDED, True),
    ("crowd_polygon", {"iscrowd": 1}, KEPT, True),
    ("single_rle", {"segmentation": _rle()}, KEPT, True),
    ("single_rle", {"segmentation": _rle(compressed=False)}, KEPT, True),
    ("missing_segmentation", {"without": ["segmentation"]}, MASK_DROPPED, False),
    ("empty_segmentation", {"segmentation": []}, MASK_DROPPED, False),
    ("invalid_segmentation", {"segmentation": "none"}, MASK_DROPPED, False),
    ("flat_polygon", {"segmentation": SQUARE}, MENDED, True),
    ("short_polygon", {"segmentation": [[1, 2, 3, 4]]}, MASK_DROPPED, False),
    ("short_polygon", {"segmentation": [SQUARE, [1, 2, 3, 4]]}, MENDED, True),
    ("odd_polygon", {"segmentation": [[*SQUARE, 5]]}, MASK_DROPPED, False),
    ("odd_polygon", {"segmentation": [[*SQUARE, 5], SQUARE]}, MENDED, True),
    ("invalid_polygon", {"segmentation": [[NAN, *SQUARE[1:]]]}, MASK_DROPPED, False),
    ("invalid_polygon", {"segmentation": [[*SQUARE[1:], INF], SQUARE]}, MENDED, True),
    ("invalid_polygon", {"segmentation": [["1", *SQUARE[1:]]]}, MASK_DROPPED, False),
    ("wrong_size_rle", {"segmentation": _rle(size=(WIDTH, HEIGHT))}, MASK_DROPPED, False),
    ("wrong_size_rle", {"segmentation": {"counts": [1, 2]}}, MASK_DROPPED, False),
    ("invalid_rle", {"segmentation": {**_rle(), "counts": [5, 3]}}, MASK_DROPPED, False),
    ("invalid_rle", {"segmentation": {**_rle(), "counts": [-3, 2403]}}, MASK_DROPPED, False),
    ("invalid_rle", {"segmentation": {**_rle(), "counts": [0.5, 2399.5]}}, MASK_DROPPED, False),
    ("invalid_rle", {"segmentation": {**_rle(), "counts": "0"}}, MASK_DROPPED, False),
    (
        "invalid_rle",
        {"segmentation": {**_rle(), "counts": _rle()["counts"][:-1]}},
        MASK_DROPPED,
        False,
    ),
    ("invalid_rle", {"segmentation": {**_rle(), "counts": "é"}}, MASK_DROPPED, False),
    ("invalid_rle", {"segmentation": {**_rle(), "counts": ""}}, MASK_DROPPED, False),
    ("empty_mask", {"segmentation": {**_rle(), "counts": [2400]}}, MASK_DROPPED, False),
    ("empty_mask", {"segmentation": [[-50, -50, -9, -50, -9, -9]]}, MASK_DROPPED, False),
    ("mask_outside_bbox", {"bbox": [40, 30, 5, 5]}, MASK_DROPPED, False),
    ("unknown_category", {"category_id": 2}, LEFT_OUT, None),
    ("unknown_category", {"without": ["category_id"]}, LEFT_OUT, None),
    ("unknown_image", {"image_id": 5}, LEFT_OUT, None),
    ("unknown_image", {"without": ["image_id"]}, LEFT_OUT, None),
]


def _examine(folder, entries, image_entries=None) -> tuple[list[annotations.Instance], FaultReport]:
    image_dir, path = write_coco(folder, entries, image_entries)
    file = coco.load_coco(path)
    instances, faults = [], file.faults
    for image in file.images:
        examined = coco.examine(image, image_dir)
        if isinstance(examined, coco.Examined):
            instances += examined.instances
            faults.add(examined.faults)
        else:
            faults.add(examined)
    assert len(instances) + faults.count(outcome=LEFT_OUT) == file.num_annotations
    return instances, faults


@pytest.mark.parametrize(("kind", "changes", "outcome", "has_mask"), ANNOTATION_CASES)
def test_faulty_annotation(tmp_path, kind, changes, outcome, has_mask):
    instances, faults = _examine(tmp_path, [annotation(7), annotation(42, **changes)])
    assert faults.ids(kind, outcome) == [42]
    assert 7 not in faults.ids()
    if has_mask is None:
        assert len(instances) == 1
        return
    mended = instances[1]
    assert (mended.mask is not None) == has_mask
    assert mended.category_id == 3 and mended.area > 0
    ymin, xmin, ymax, xmax = mended.box
    assert 0 <= ymin < ymax <= HEIGHT and 0 <= xmin < xmax <= WIDTH
    if has_mask:
        np.testing.assert_array_equal(coco_mask.decode(mended.mask), _mask())
    if "bbox" not in changes:
        assert mended.box == BOX


def test_every_kind_is_tested():
    kinds = {case[0] for case in ANNOTATION_CASES}
    elsewhere = {"unused_annotation", "invalid_annotation"}
    elsewhere |= {"missing_annotation_id", "duplicate_annotation_id"}
    assert kinds | elsewhere == set(ANNOTATION_KINDS)


def test_mended_values(tmp_path):
    cases = [
        annotation(1, bbox=[-5, -5, 40, 30]),
        annotation(2, without=["area"]),
        annotation(3, without=["area", "segmentation"], bbox=[1, 2, 3, 4]),
        annotation(4, iscrowd="no"),
        annotation(5, iscrowd=1, segmentation=_rle()),
        annotation("6", category_id="3", image_id="1"),
    ]
    instances, faults = _examine(tmp_path, cases)
    assert instances[0].box == (0.0, 0.0, 25.0, 35.0)
    assert [i.area for i in instances[1:3]] == [320.0, 12.0]
    assert [i.is_crowd for i in instances] == [False, False, False, False, True, False]
    assert set(faults.ids()) == {1, 2, 3, 4}


def test_good_annotations_have_no_faults(tmp_path):
    crowd = annotation(2, iscrowd=1, segmentation=_rle(compressed=False))
    two_parts = annotation(3, segmentation=[SQUARE, [40, 1, 50, 1, 50, 5]])
    instances, faults = _examine(tmp_path, [annotation(1), crowd, two_parts])
    assert not faults and len(instances) == 3


def test_annotation_ids(tmp_path):
    no_id = annotation(without=["id"], area=0)
    entries = [annotation(1), annotation(1), annotation(1, category_id=1), no_id, 17, None]
    instances, faults = _examine(tmp_path, entries)
    assert [i.category_id for i in instances] == [3, 1, 3]
    assert faults.ids("duplicate_annotation_id", LEFT_OUT) == [1]  # the very same once more
    assert faults.ids("duplicate_annotation_id", KEPT) == [1]  # another one with its id
    assert faults.ids("missing_annotation_id") == faults.ids("invalid_area") == ["#3"]
    assert faults.ids("invalid_annotation", LEFT_OUT) == ["#4", "#5"]


def test_ids_are_compared_by_what_they_stand_for(tmp_path):
    images = [_entry(1.0, "a.jpg"), _entry("001", "b.jpg"), _entry("2008_000008", "c.jpg")]
    images += [_entry(-5, "d.jpg"), _entry(2**53 + 1, "e.jpg"), _entry(2**63, "f.jpg")]
    ids = ["1", 1.0, "001", "2008_000008", -5.0, "-5", 2**53 + 1, 2008000008, 2**63]
    entries = [annotation(float(i), image_id=image_id) for i, image_id in enumerate(ids)]
    _, path = write_coco(tmp_path, entries, images)
    file = coco.load_coco(path)
    assert [image.entry["id"] for image in file.images] == [1, "2008_000008", -5, 2**53 + 1]
    assert str(file.images[0].entry["id"]) == "1"  # as records have it
    assert [len(image.annotations) for image in file.images] == [3, 1, 2, 1]
    assert file.faults.ids("duplicate_image_id") == ["001"]
    assert file.faults.ids("invalid_image_entry") == ["#5"]
    assert file.faults.ids("unknown_image") == [7.0, 8.0]


def test_the_same_annotation_twice_may_have_its_category_as_text(tmp_path):
    twice = [annotation(1, category_id="3"), annotation(1, category_id="3")]
    instances, faults = _examine(tmp_path, twice)
    assert len(instances) == 1
    assert faults.ids("duplicate_annotation_id", LEFT_OUT) == [1]


def _entry(image_id, name, height=HEIGHT, width=WIDTH, **more) -> dict:
    return {"id": image_id, "file_name": name, "height": height, "width": width, **more}


def _png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG, which a reader trusts for the size of what would follow."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    data = struct.pack(">I", 9) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc + data


def test_faulty_images(tmp_path):
    folder = tmp_path / "images"
    for i in (1, 2, 4, 5):
        write_image(folder / f"{i}.jpg", seed=i)
    content = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(content[: len(content) // 2])
    (folder / "6.jpg").write_bytes(b"no image")
    (folder / "7.jpg").mkdir()
    write_image(folder / "8.png", seed=8)
    content = (folder / "8.png").read_bytes()
    (folder / "8.png").write_bytes(content[: len(content) // 2])
    entries = [
        _entry(1, "1.jpg"),
        _entry(2, "2.jpg"),
        _entry(3, "3.jpg"),
        _entry(4, "4.jpg", height=HEIGHT + 1),
        {"id": 5, "file_name": "5.jpg"},
        _entry(6, "6.jpg"),
        _entry(7, "7.jpg"),
        _entry(8, "8.png"),
        _entry(1, "5.jpg"),
        _entry(None, "1.jpg"),
        {"id": 9},
        "10.jpg",
        _entry(11, "\0.jpg"),
        _entry(12, "12.png"),
    ]
    (folder / "12.png").write_bytes(_png_header(1 << 16, 1 << 15))
    assert len(IMAGE_KINDS) == 9
    # An RLE of the size that the file was said to have does not fit the file.
    wrong = annotation(104, image_id=4, segmentation=_rle(size=(HEIGHT + 1, WIDTH)), iscrowd=1)
    good = [annotation(100 + i, image_id=i) for i in range(1, 9) if i != 4]
    instances, faults = _examine(tmp_path, [*good, wrong], entries)
    assert len(instances) == 3
    assert faults.ids("truncated_image", IMAGE_LEFT_OUT) == [2, 8]
    assert faults.ids("missing_image", IMAGE_LEFT_OUT) == [3, 7, 11]
    assert faults.ids("undecodable_image", IMAGE_LEFT_OUT) == [6]
    assert faults.ids("oversized_image", IMAGE_LEFT_OUT) == [12]
    assert faults.ids("image_size_differs", MENDED) == [4]
    assert faults.ids("wrong_size_rle", MASK_DROPPED) == [104]
    assert faults.ids("missing_image_size", MENDED) == [5]
    assert faults.ids("duplicate_image_id", IMAGE_LEFT_OUT) == [1]
    assert faults.ids("invalid_image_entry", IMAGE_LEFT_OUT) == ["#9", 9, "#11"]
    assert faults.ids("unused_annotation", LEFT_OUT) == [102, 103, 106, 107, 108]


def test_without_images_their_entries_say_the_size(tmp_path):
    _, path = write_coco(
        tmp_path, [annotation()], [_entry(1, "none.jpg"), {"id": 2, "file_name": "x"}]
    )
    first, second = coco.load_coco(path).images
    examined = coco.examine(first, None)
    assert isinstance(examined, coco.Examined)
    assert (examined.height, examined.width, examined.image) == (HEIGHT, WIDTH, None)
    assert coco.examine(second, None) == [Fault("missing_image_size", IMAGE_LEFT_OUT, 2)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["not valid JSON"]),
        ("[]", ["images, annotations, categories", "list"]),
        ('{"images": [], "categories": []}', ["no list annotations", "found: images, categories"]),
        ('{"images": {}, "annotations": 1}', ["no list images and no list annotations"]),
    ],
)
def test_not_a_coco_file(tmp_path, content, words):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        coco.load_coco(str(path))
    assert all(word in str(error.value) for word in [*words, str(path)])


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        coco.load_coco(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="directory"):
        coco.load_coco(str(tmp_path))


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([{"id": 0, "name": "cat"}], "id 0 is the background's"),
        ([*CATEGORIES, {"id": 3, "name": "fox"}], "id 3 is taken twice"),
        ([{"name": "cat"}], "entry 0 has no integer id"),
        ([], "there are none"),
    ],
)
def test_unusable_categories(tmp_path, categories, message):
    _, path = write_coco(tmp_path, [annotation(category_id=0)], categories=categories)
    for read in (coco.load_coco, coco.read_categories):
        with pytest.raises(UserError, match=message):
            read(path)


def test_unused_category_0_is_left_out(tmp_path):
    categories = [{"id": 0, "name": "animals"}, *CATEGORIES]
    _, path = write_coco(tmp_path, [annotation()], categories=categories)
    assert coco.load_coco(path).categories == {1: "cat", 3: "dog"}
    assert coco.read_categories(path) == {1: "cat", 3: "dog"}


def _json_values() -> st.SearchStrategy:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    numbers = st.lists(st.floats() | st.integers(-99, 99), max_size=9)
    rle = st.fixed_dictionaries({"size": st.just([40, 60]), "counts": numbers | st.text("01Oo~")})
    return leaves | numbers | rle | st.lists(numbers, max_size=3) | st.lists(leaves, max_size=4)


@given(
    st.dictionaries(st.sampled_from(["bbox", "area", "iscrowd", "segmentation"]), _json_values())
)
def test_whatever_is_in_an_annotation_nothing_is_raised(changes):
    instance, problems = annotations.mend_annotation({"category_id": 3, **changes}, HEIGHT, WIDTH)
    outcomes = [outcome for _, outcome in problems]
    assert outcomes.count(LEFT_OUT) == (instance is None)
    FaultReport().add(Fault(kind, outcome, 1) for kind, outcome in problems)  # all are known
    if instance is not None:
        ymin, xmin, ymax, xmax = instance.box
        assert 0 <= ymin < ymax <= HEIGHT and 0 <= xmin < xmax <= WIDTH
        assert 0 < instance.area < math.inf
        if instance.mask is not None:
            decoded = coco_mask.decode(instance.mask)
            assert decoded.shape == (HEIGHT, WIDTH) and decoded.any()


def test_report():
    faults = FaultReport()
    assert not faults and faults.summary() == "none"
    faults.add([Fault("empty_mask", MASK_DROPPED, i) for i in range(20)])
    faults.add([Fault("missing_image", IMAGE_LEFT_OUT, 5), Fault("empty_mask", MENDED, "#1")])
    assert len(faults) == 22 and faults.count("empty_mask") == 21
    as_dict = json.loads(json.dumps(faults.to_dict()))
    assert list(as_dict) == ["missing_image", "empty_mask"]  # images first
    assert as_dict["empty_mask"]["mended"] == ["#1"]
    assert as_dict["empty_mask"]["mask dropped"] == list(range(20))
    assert as_dict["missing_image"]["explanation"] == IMAGE_KINDS["missing_image"]
    assert "1 missing_image (image left out)" in faults.summary()
    assert faults.table().row_count == 3
    with pytest.raises(ValueError, match="no kind"):
        faults.add([Fault("typo", MENDED, 1)])


def _pixels(stored: images.StoredImage) -> np.ndarray:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(stored.encoded, np.uint8), flags)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_other_formats_become_rgb(tmp_path, suffix, mode):
    grey = np.tile(np.arange(WIDTH, dtype=np.uint8) // 30 * 255, [HEIGHT, 1])
    picture = Image.fromarray(grey).convert(mode)
    options = {"lossless": True} if suffix == "webp" else {}
    picture.save(tmp_path / f"image.{suffix}", **options)
    stored = images.read_image(tmp_path / f"image.{suffix}")
    assert (stored.format, stored.height, stored.width) == ("png", HEIGHT, WIDTH)
    pixels = _pixels(stored)
    assert pixels.dtype == np.uint8 and pixels.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=-1))


def test_sixteen_bits_become_eight(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full([4, 5], 0x80FF, np.uint16))
    pixels = _pixels(images.read_image(tmp_path / "a.png"))
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 5, 3)
    assert set(np.unique(pixels)) <= {0x80, 0x81}


def test_jpeg_is_stored_as_it_is_and_not_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    noise = np.random.default_rng(0).integers(0, 256, [HEIGHT, WIDTH, 3], np.uint8)
    for mode in ("RGB", "L", "CMYK"):
        path = tmp_path / f"{mode}.jpg"
        Image.fromarray(noise).convert(mode).save(path, exif=exif)
        stored = images.read_image(path)
        assert stored == (path.read_bytes(), "jpeg", HEIGHT, WIDTH)


def test_rgb_png_is_stored_as_it_is(tmp_path):
    write_image(tmp_path / "a.png")
    stored = images.read_image(tmp_path / "a.png")
    assert stored == ((tmp_path / "a.png").read_bytes(), "png", HEIGHT, WIDTH)


@pytest.mark.parametrize("missing", [1, 2, 20, 200])
def test_every_missing_byte_of_a_jpeg_counts(tmp_path, missing):
    write_image(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(images.ImageFault) as fault:
        images.check_image(content[:-missing])
    assert fault.value.kind == "truncated_image"


def test_masks_survive_their_png():
    mask = (np.random.default_rng(0).random([HEIGHT, WIDTH]) < 0.5).astype(np.uint8)
    png = images.encode_mask(mask)
    np.testing.assert_array_equal(_pixels(images.StoredImage(png, "png", 0, 0)), mask)  # 0 and 1
    np.testing.assert_array_equal(images.decode_mask(png), mask > 0)
    np.testing.assert_array_equal(images.decode_mask(images.encode_mask(mask * 255)), mask > 0)
    assert images.decode_mask(b"") is None and images.decode_mask(b"x") is None


@pytest.mark.parametrize("rows", [(0, 0), (0, 1), (7, 20), (299, 300), (0, 300)])
def test_png_of_a_mask_has_a_valid_stream(rows):
    mask = np.zeros([300, 411], np.uint8)
    mask[slice(*rows), 5:400:3] = 1
    png = images.encode_mask(mask)
    stream = png[png.index(b"IDAT") + 4 : png.rindex(b"IEND") - 8]
    lines = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(300, 412)  # of the right sum
    np.testing.assert_array_equal(lines[:, 1:], mask)
    assert not lines[:, 0].any()
    np.testing.assert_array_equal(images.decode_mask(png), mask > 0)

import json
import pathlib
from collections import Counter

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from official_maskrcnn.data import synthetic
from official_maskrcnn.data.synthetic import CATEGORIES, make_synthetic
from official_maskrcnn.errors import UserError


def _make(folder: pathlib.Path, num_images: int, **arguments) -> dict:
    return json.loads(make_synthetic(folder, num_images, progress=False, **arguments).read_text())


def _bytes(folder: pathlib.Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict]:
    folder = tmp_path_factory.mktemp("scenes")
    return folder, _make(folder, 60, seed=4, image_size=(96, 128), workers=0)


def test_the_seed_decides_every_byte(tmp_path: pathlib.Path):
    for name, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        _make(tmp_path / name, 4, seed=seed, image_size=(64, 80), workers=workers)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    a, c = _bytes(tmp_path / "a"), _bytes(tmp_path / "c")
    assert a.keys() == c.keys()
    assert not any(a[name] == c[name] for name in a)


def test_a_larger_set_begins_like_a_smaller_one(scenes, tmp_path: pathlib.Path):
    folder, coco = scenes
    few = _make(tmp_path, 3, seed=4, image_size=(96, 128), workers=0)
    assert few["images"] == coco["images"][:3]
    assert few["annotations"] == coco["annotations"][: len(few["annotations"])]
    for image in few["images"]:
        name = f"images/{image['file_name']}"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_ids_have_gaps_and_every_class_appears(scenes):
    _, coco = scenes
    ids = [category["id"] for category in coco["categories"]]
    assert ids == [1, 2, 3, 5, 7, 8, 11, 13, 17, 19, 23, 29]
    assert len({category["name"] for category in coco["categories"]}) == 12
    counts = Counter(annotation["category_id"] for annotation in coco["annotations"])
    assert counts.keys() == set(ids)


def test_images_are_as_the_annotations_say(scenes):
    folder, coco = scenes
    assert len({image["id"] for image in coco["images"]}) == 60
    assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
    for info in coco["images"][:5]:
        image = cv2.imread(str(folder / "images" / info["file_name"]))
        assert image.shape == (info["height"], info["width"], 3) == (96, 128, 3)
        assert image.std() > 5  # textured, not flat
    per_image = Counter(annotation["image_id"] for annotation in coco["annotations"])
    assert per_image.keys() == {image["id"] for image in coco["images"]}
    assert max(per_image.values()) <= 7


def test_masks_never_overlap_and_fit_their_boxes(scenes):
    _, coco = scenes
    covered = {image["id"]: np.zeros([96, 128], int) for image in coco["images"]}
    for annotation in coco["annotations"]:
        segmentation = annotation["segmentation"]
        assert isinstance(segmentation["counts"], str) and annotation["iscrowd"] == 0
        mask = rle.decode(segmentation)
        covered[annotation["image_id"]] += mask
        assert annotation["area"] == mask.sum() > 0
        x, y, width, height = map(int, annotation["bbox"])
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        assert mask[y].any() and mask[:, x].any()
        assert mask[y + height - 1].any() and mask[:, x + width - 1].any()
    assert max(count.max() for count in covered.values()) == 1


def test_what_is_mostly_hidden_is_taken_out():
    """Hundreds of shapes in a small image hide each other; what is left shows enough of itself."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        instances = synthetic._place_instances(rng, (128, 128), 300, with_crowd=False)
        assert 3 <= len(instances) <= 40  # there is no room for more
        # Of the part inside the image; a mask is not exactly as large as its antialiased shape.
        visible = [i.visible.sum() / i.alpha.sum() for i in instances]
        assert 0.3 - 0.02 <= min(visible) < 0.6
        assert max(visible) > 0.95  # the nearest


def test_only_the_outline_tells_the_class(scenes):
    """The mean colours of a class spread as far as those of all."""
    folder, coco = scenes
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    colors: dict[int, list[np.ndarray]] = {}
    for annotation in coco["annotations"]:
        image = cv2.imread(str(folder / "images" / names[annotation["image_id"]]))
        mask = rle.decode(annotation["segmentation"]).astype(bool)
        colors.setdefault(annotation["category_id"], []).append(image[mask].mean(axis=0))
    everything = np.std(np.concatenate(list(colors.values())), axis=0)
    for category_id, own in colors.items():
        assert (np.std(own, axis=0) > 0.4 * everything).all(), CATEGORIES[category_id]


def test_outlines_differ_at_forty_pixels():
    """However two shapes are turned, they share less than nine tenths of their union."""
    center, size = np.array([24.0, 24.0]), (48, 48)
    masks: dict[str, list[np.ndarray]] = {}
    for name, outline in synthetic._OUTLINES.items():
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            turned = [20 * contour @ turn for contour in outline]
            masks.setdefault(name, []).append(synthetic._coverage(turned, center, size) >= 0.5)
    names = list(masks)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            upright = masks[a][0]
            overlaps = [(upright & mask).sum() / (upright | mask).sum() for mask in masks[b]]
            assert max(overlaps) < 0.9, (a, b)


def test_the_ring_has_a_hole():
    coverage = synthetic._coverage(
        [20 * contour for contour in synthetic._OUTLINES["ring"]], np.array([24.0, 24.0]), (48, 48)
    )
    assert coverage[24, 24] == 0 and coverage[24, 24 + 15] == 1


def test_crowds_on_request(tmp_path: pathlib.Path):
    coco = _make(tmp_path, 8, image_size=(64, 64), crowds=True, workers=0)
    crowds = [annotation for annotation in coco["annotations"] if annotation["iscrowd"]]
    assert [annotation["image_id"] for annotation in crowds] == [1, 5]
    parts, _ = cv2.connectedComponents(rle.decode(crowds[0]["segmentation"]))
    assert parts - 1 >= 4  # of seven, some may be hidden or touch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, r"number of images \(0\)"),
        ({"num_images": 1, "max_instances": 0}, r"instances \(0\)"),
        ({"num_images": 1, "image_size": (32, 256)}, r"\(32, 256\) must be at least 64"),
        ({"num_images": 1, "seed": -1}, r"seed \(-1\)"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: pathlib.Path, arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        make_synthetic(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: pathlib.Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        make_synthetic(tmp_path / "file", 1)

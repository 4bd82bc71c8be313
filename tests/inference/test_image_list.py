"""Folders, patterns, lists and annotation files, and the ids that their images get."""

import json
import pathlib

import pytest

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.image_list import find_images


def _touch(folder: pathlib.Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_and_those_below_it(tmp_path: pathlib.Path):
    _touch(tmp_path, "b.JPG", "a.png", "c/d.webp", "notes.txt", "c/e.json")
    found = find_images(str(tmp_path))
    assert [(image.id, image.name) for image in found] == [
        *((1, "a.png"), (2, "b.JPG"), (3, "c/d.webp")),
    ]
    assert all(pathlib.Path(image.path).exists() and not image.is_annotated for image in found)


def test_names_that_are_numbers_are_the_ids(tmp_path: pathlib.Path):
    _touch(tmp_path, "000000000139.jpg", "000000000285.jpg")
    assert [image.id for image in find_images(str(tmp_path))] == [139, 285]
    _touch(tmp_path, "more/139.jpg")  # twice the same
    assert [image.id for image in find_images(str(tmp_path))] == [1, 2, 3]


def test_a_pattern_an_image_and_a_list(tmp_path: pathlib.Path):
    _touch(tmp_path, "x/1a.jpg", "x/2a.jpg", "x/2b.jpg")
    found = find_images(str(tmp_path / "x" / "*a.jpg"))
    assert [image.name for image in found] == ["1a.jpg", "2a.jpg"]
    found = find_images(str(tmp_path / "**" / "2?.jpg"))
    assert [image.name for image in found] == ["x/2a.jpg", "x/2b.jpg"]
    _touch(tmp_path, "x1/z.jpg", "x2/z.jpg")
    found = find_images(str(tmp_path / "x[12]" / "*.jpg"))
    assert [image.name for image in found] == ["x1/z.jpg", "x2/z.jpg"]
    assert [image.name for image in find_images(str(tmp_path / "x" / "2b.jpg"))] == ["2b.jpg"]
    lines = tmp_path / "some.txt"
    lines.write_text(f"{tmp_path}/x/2b.jpg\n\n  {tmp_path}/x/1a.jpg \n")
    found = find_images(str(lines))
    assert [pathlib.Path(image.path).name for image in found] == ["2b.jpg", "1a.jpg"]
    assert not any(image.name.startswith("/") for image in found)


def test_an_annotation_file_gives_ids_and_order(tmp_path: pathlib.Path):
    _touch(tmp_path, "images/a.jpg", "images/b.jpg")
    entries = [{"id": 7, "file_name": "b.jpg"}, {"id": "x", "file_name": "a.jpg"}]
    categories = [{"id": 1, "name": "cat"}]
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"images": entries, "annotations": [], "categories": categories}))
    found = find_images(str(file), str(tmp_path / "images"))
    assert [(image.id, image.name, image.is_annotated) for image in found] == [
        *((7, "b.jpg", True), ("x", "a.jpg", True)),
    ]
    with pytest.raises(UserError, match=r"none of the images of .* give --image_dir"):
        find_images(str(file))


def test_nothing_to_look_at_is_an_error(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match="no images in"):
        find_images(str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder, and no file fits it"):
        find_images(str(tmp_path / "none*.jpg"))
    with pytest.raises(UserError, match="cannot be read"):
        find_images(str(tmp_path / "none.txt"))

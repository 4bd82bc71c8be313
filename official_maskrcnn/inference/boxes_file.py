"""Boxes whose masks are wanted: out of a COCO annotation file, or a list of COCO results."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from official_maskrcnn.data.ids import IdKey, as_int, id_key
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import read_json
from official_maskrcnn.inference.image_list import ImageFile

_MAX_SHOWN = 200  # characters of a faulty entry
_MAX_IDS_SHOWN = 5
_MAX_NUMBER = 1e9  # of pixels, an id or a score


@dataclasses.dataclass(frozen=True)
class GivenBoxes:
    """Boxes of an image.

    Attributes:
      boxes: float32 [n, 4] (ymin, xmin, ymax, xmax) in pixels; some may have no area.
      category_ids: int64 [n], 0 where none is given.
      classes: n names, or ids where the file has no name.
      scores: float32 [n], 1 where none is given.
    """

    boxes: np.ndarray
    category_ids: np.ndarray
    classes: list[int | str]
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class BoxesFile:
    """Boxes of many images.

    Attributes:
      source: where they are from.
      by_image: by the image's key.
      class_names: by category id; empty if the file has none.
      images: id and file name of the images of the file, by key; None if it has no such list.
    """

    source: str
    by_image: dict[IdKey, GivenBoxes]
    class_names: dict[int, str]
    images: dict[IdKey, tuple[int | str, str]] | None = None

    def digest(self) -> str:
        """A text that other boxes do not have."""
        content = hashlib.sha256(repr(self.class_names).encode())
        for key, given in sorted(self.by_image.items(), key=lambda item: repr(item[0])):
            content.update(f"{key!r} {given.classes!r} ".encode())
            for values in (given.boxes, given.category_ids, given.scores):
                content.update(values.tobytes())
        return content.hexdigest()

    def match(self, images: Sequence[ImageFile]) -> list[ImageFile]:
        """The images that the boxes are of.

        Where the file lists its images, those of the same names, with the ids of the file. Else
        ids must agree: all images, then.

        Raises:
          UserError: boxes are of no image, or of another one than their id says.
        """
        keys = {image.key for image in images}
        known = keys if self.images is None else self.images.keys()
        if unknown := [key for key in self.by_image if key not in known]:
            where = "--images" if self.images is None else "its list of images"
            raise UserError(
                f"{self.source}: boxes of images that are not among {where}: ids {_shown(unknown)}"
            )
        if self.images is None:
            return list(images)
        matched = list(self._matched(images, self.images))
        if not matched:
            names = _shown([image.name for image in images])
            listed = _shown([name for _, name in self.images.values()])
            raise UserError(f"{self.source} has none of the images ({names}); it has {listed}")
        return matched

    def _matched(
        self, images: Sequence[ImageFile], listed: Mapping[IdKey, tuple[int | str, str]]
    ) -> Iterator[ImageFile]:
        by_name: dict[str, list[int | str]] = {}
        for image_id, name in listed.values():
            by_name.setdefault(os.path.normpath(name), []).append(image_id)
        for image in images:
            ids = by_name.get(os.path.normpath(image.name), [])
            if not image.is_annotated:  # the id is but a place in a list
                if len(ids) > 1:
                    raise UserError(
                        f"{self.source} lists {image.name} as {_shown(ids)}: give it as --images "
                        "too"
                    )
                if ids:
                    yield image._replace(id=ids[0], is_annotated=True)
            elif image.key in map(id_key, ids):
                yield image
            elif ids:
                raise UserError(
                    f"{image.name} has the id {ids[0]} in {self.source}, and {image.id} in --images"
                )


def read_boxes(path: str | os.PathLike[str]) -> BoxesFile:
    """Reads boxes.

    Args:
      path: of a JSON file: COCO annotations, or a list of {image_id, bbox, maybe category_id and
        score}; bbox is (x, y, width, height) in pixels.

    Raises:
      UserError: the file cannot be read, or an entry is not as it should be.
    """
    content, source = read_json(path), os.fspath(path)
    if not isinstance(content, dict):
        content = {"annotations": content}
    lists = {"annotations": None, "categories": [], "images": [], **content}
    if not all(isinstance(lists[name], list) for name in ("annotations", "categories", "images")):
        raise UserError(f"{source} is neither a COCO annotation file nor a list of boxes")
    names = _class_names(lists["categories"], source)
    by_image = group_boxes(dict(enumerate(lists["annotations"])), names, source)
    images = _images(lists["images"], source) if "images" in content else None
    return BoxesFile(source, by_image, names, images)


def group_boxes(
    entries: Mapping[int, Any], names: Mapping[int, str], source: str
) -> dict[IdKey, GivenBoxes]:
    """Boxes by the key of their image, in their order.

    Args:
      entries: of a file, by their place in it.
      names: by category id.
      source: name of the file.

    Raises:
      UserError: an entry is not as it should be.
    """
    by_image: dict[IdKey, list[dict[str, Any]]] = {}
    for place, entry in entries.items():
        if fault := _fault(entry):
            raise UserError(f"{source}: entry {place} {fault}, got {str(entry)[:_MAX_SHOWN]}")
        by_image.setdefault(id_key(entry["image_id"]), []).append(entry)
    return {key: _gather(own, names) for key, own in by_image.items()}


def _fault(entry: Any) -> str | None:
    """What an entry lacks."""
    if not isinstance(entry, dict) or id_key(entry.get("image_id")) is None:
        return "needs an image_id"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "needs a bbox (x, y, width, height)"
    category_id = as_int(entry.get("category_id", 0))
    if category_id is None or not 0 <= category_id <= _MAX_NUMBER:
        return "needs a category_id that is a number, or none"
    return (
        None if _is_number(entry.get("score", 1.0)) else "needs a score that is a number, or none"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= _MAX_NUMBER  # which NaN is not


def _gather(entries: Sequence[dict[str, Any]], names: Mapping[int, str]) -> GivenBoxes:
    x, y, width, height = np.array([entry["bbox"] for entry in entries], np.float32).T
    numbers = [as_int(entry.get("category_id", 0)) or 0 for entry in entries]
    return GivenBoxes(
        np.stack([y, x, y + height, x + width], axis=1),
        np.array(numbers, np.int64),
        [names.get(number, number) for number in numbers],
        np.array([entry.get("score", 1.0) for entry in entries], np.float32),
    )


def _class_names(categories: Sequence[Any], source: str) -> dict[int, str]:
    names = {}
    for place, entry in enumerate(categories):
        number = as_int(entry.get("id")) if isinstance(entry, dict) else None
        if number is None:
            raise UserError(f"{source}: category {place} needs an id that is a number")
        names[number] = str(entry.get("name", number))
    return names


def _images(entries: Sequence[Any], source: str) -> dict[IdKey, tuple[int | str, str]]:
    images: dict[IdKey, tuple[int | str, str]] = {}
    for place, entry in enumerate(entries):
        key = id_key(entry.get("id")) if isinstance(entry, dict) else None
        if key is None or not isinstance(entry.get("file_name"), str):
            raise UserError(f"{source}: image {place} needs an id and a file_name")
        image_id = entry["id"] if isinstance(entry["id"], str) else key  # a text as it is
        images[key] = (image_id, entry["file_name"])
    return images


def _shown(values: Sequence[Any]) -> str:
    more = ", ..." if len(values) > _MAX_IDS_SHOWN else ""
    return ", ".join(map(str, values[:_MAX_IDS_SHOWN])) + more

"""Boxes whose masks are wanted: out of a COCO annotation file, or a list of COCO results."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation.files import read_json

_MAX_SHOWN = 200  # characters of a faulty entry


@dataclasses.dataclass(frozen=True)
class GivenBoxes:
    """Boxes of an image.

    Attributes:
      boxes: float32 [n, 4] (ymin, xmin, ymax, xmax) in pixels.
      category_ids: int64 [n], 0 where none is given.
      classes: n names, or ids where the file has no name.
      scores: float32 [n], 1 where none is given.
    """

    boxes: np.ndarray
    category_ids: np.ndarray
    classes: list[int | str]
    scores: np.ndarray


def read_boxes(path: str | os.PathLike[str]) -> dict[int | str, GivenBoxes]:
    """Boxes by image id.

    Args:
      path: of a JSON file: COCO annotations, or a list of {image_id, bbox, maybe category_id and
        score}; bbox is (x, y, width, height) in pixels.

    Raises:
      UserError: the file cannot be read, or an entry has no image_id or no box.
    """
    content = read_json(path)
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise UserError(f"{path} is neither a COCO annotation file nor a list of boxes")
    categories = content.get("categories", []) if isinstance(content, dict) else []
    return group_boxes(entries, {c["id"]: c["name"] for c in categories}, os.fspath(path))


def group_boxes(
    entries: Iterable[Any], names: Mapping[int, str], source: str
) -> dict[int | str, GivenBoxes]:
    """Boxes by image id, in their order; entries as those of a file, names by category id."""
    by_image: dict[int | str, list[dict[str, Any]]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict) or not _is_box(entry.get("bbox")) or "image_id" not in entry:
            raise UserError(
                f"{source}: entry {place} needs an image_id and a bbox (x, y, width, height), got "
                f"{str(entry)[:_MAX_SHOWN]}"
            )
        by_image.setdefault(entry["image_id"], []).append(entry)
    return {image_id: _gather(entries, names) for image_id, entries in by_image.items()}


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 4
        and all(isinstance(v, int | float) and np.isfinite(v) for v in value)
    )


def _gather(entries: Sequence[dict[str, Any]], names: Mapping[int, str]) -> GivenBoxes:
    x, y, width, height = np.array([entry["bbox"] for entry in entries], np.float32).T
    numbers = [entry.get("category_id", 0) for entry in entries]
    return GivenBoxes(
        np.stack([y, x, y + height, x + width], axis=1),
        np.array(numbers, np.int64),
        [names.get(number, number) for number in numbers],
        np.array([entry.get("score", 1.0) for entry in entries], np.float32),
    )

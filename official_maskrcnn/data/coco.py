"""COCO instances in: the file with its index of images, categories and annotations."""

import dataclasses
import json
import os
import pathlib
from typing import Any, NamedTuple

from official_maskrcnn.data import images
from official_maskrcnn.data.annotations import Instance, Problem, mend_annotation
from official_maskrcnn.data.faults import Fault, FaultReport, Outcome
from official_maskrcnn.errors import UserError

_MAX_SHOWN = 5
_TAIL_BYTES = 1 << 20  # COCO's 80 categories take 8 KB


class AnnotatedImage(NamedTuple):
    """An image's entry in the file, with the annotations that point to it, as they are."""

    entry: dict[str, Any]
    annotations: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """A COCO file whose images and annotations are matched.

    Attributes:
      images: with their annotations, in the file's order.
      categories: names by id, in ascending order of the ids.
      num_annotations: in the file, faulty ones included.
      faults: found so far, that is without looking into any annotation or image. Annotations that
        it says are left out are not in `images`.
    """

    images: list[AnnotatedImage]
    categories: dict[int, str]
    num_annotations: int
    faults: FaultReport


class Examined(NamedTuple):
    """An image with its mended instances.

    Attributes:
      image: None if only the annotations were looked at.
      height: pixels.
      width: pixels.
      instances: those that are usable.
      faults: of the image and its annotations.
    """

    image: images.StoredImage | None
    height: int
    width: int
    instances: list[Instance]
    faults: list[Fault]


def load_coco(path: str) -> CocoFile:
    """Reads a COCO instances file and matches annotations with images.

    Ids may be numbers or texts; 7 and "7" are the same.

    Raises:
      UserError: the file cannot be read, is no JSON, lacks a list that a COCO file has, or has
        categories that cannot be told apart or that take the background's id 0.
    """
    data = _read(path)
    categories = _categories(data, path)
    faults = FaultReport()
    found: dict[str, AnnotatedImage] = {}
    for position, entry in enumerate(data["images"]):
        kind = _image_entry_fault(entry, found)
        if kind:
            faults.add([Fault(kind, Outcome.IMAGE_LEFT_OUT, _name(entry, position))])
        else:
            found[str(entry["id"])] = AnnotatedImage(entry, [])
    seen: dict[str, dict[str, Any]] = {}
    for position, annotation in enumerate(data["annotations"]):
        problems = _match_faults(annotation, found, categories, seen)
        name = _name(annotation, position)
        faults.add(Fault(kind, outcome, name) for kind, outcome in problems)
        if all(outcome != Outcome.ANNOTATION_LEFT_OUT for _, outcome in problems):
            annotation.setdefault("id", name)
            found[str(annotation["image_id"])].annotations.append(annotation)
    return CocoFile(list(found.values()), categories, len(data["annotations"]), faults)


def read_categories(path: str) -> dict[int, str]:
    """Ids and names of a COCO file's categories, in a moment where they stand at its end.

    Raises:
      UserError: as `load_coco`.
    """
    return _categories(_categories_at_end(path) or _read(path), path)


def _categories_at_end(path: str) -> dict[str, Any] | None:
    """The list of categories if, as in COCO's own files, it is the last of the file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.path.getsize(path) - _TAIL_BYTES, 0))
            _, found, tail = file.read().rpartition(b'"categories"')
        data = json.loads(b'{"annotations": [], "categories"' + tail) if found else None
    except (OSError, ValueError):
        return None
    return data if data and isinstance(data["categories"], list) else None


def examine(image: AnnotatedImage, image_dir: str | None) -> Examined | list[Fault]:
    """Opens an image and mends its annotations.

    Args:
      image: from `load_coco`.
      image_dir: folder of the image; None trusts the file's word for its size and opens nothing.

    Returns:
      The usable instances; or only faults where the image is left out, with one for each of its
      annotations.
    """
    entry, faults = image.entry, []
    stored = None
    said = _said_size(entry)
    try:
        if image_dir is not None:
            stored = images.read_image(pathlib.Path(image_dir, entry["file_name"]))
            size = stored.height, stored.width
            if said != size:
                kind = "image_size_differs" if said else "missing_image_size"
                faults.append(Fault(kind, Outcome.MENDED, entry["id"]))
        elif said is not None:
            size = said
        else:
            raise images.ImageFault("missing_image_size")
    except images.ImageFault as fault:
        left_out = [Fault(fault.kind, Outcome.IMAGE_LEFT_OUT, entry["id"])]
        return left_out + [
            Fault("unused_annotation", Outcome.ANNOTATION_LEFT_OUT, annotation["id"])
            for annotation in image.annotations
        ]
    instances = []
    for annotation in image.annotations:
        instance, problems = mend_annotation(annotation, *size)
        faults += [Fault(kind, outcome, annotation["id"]) for kind, outcome in problems]
        if instance is not None:
            instances.append(instance)
    return Examined(stored, *size, instances, faults)


def _read(path: str) -> dict[str, Any]:
    """The JSON object, with the three lists that a COCO file has."""
    try:
        with open(path, "rb") as file:
            data = json.load(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(data, dict):
        raise UserError(
            f"{path} is not a COCO instances file: expected an object with the lists "
            f"{', '.join(lists)}, found a {type(data).__name__}"
        )
    missing = [name for name in lists if not isinstance(data.get(name), list)]
    if missing:
        keys = ", ".join(list(data)[:10]) or "nothing"
        raise UserError(
            f"{path} is not a COCO instances file: it has no list {' and no list '.join(missing)} "
            f"(found: {keys})"
        )
    return data


def _categories(data: dict[str, Any], path: str) -> dict[int, str]:
    used = {as_int(a.get("category_id")) for a in data["annotations"] if isinstance(a, dict)}
    names: dict[int, str] = {}
    problems = []
    for position, entry in enumerate(data["categories"]):
        category_id = as_int(entry.get("id")) if isinstance(entry, dict) else None
        if category_id is None:
            problems.append(f"entry {position} has no integer id")
        elif category_id < 1:
            if category_id in used:  # else it is the heading that some tools write over the others
                problems.append(f"id {category_id} is the background's; ids count from 1")
        elif category_id in names:
            problems.append(f"id {category_id} is taken twice")
        else:
            names[category_id] = str(entry.get("name", category_id))
    if not names and not problems:
        problems.append("there are none")
    if problems:
        more = ["..."] if len(problems) > _MAX_SHOWN else []
        raise UserError(f"{path}: categories: {'; '.join(problems[:_MAX_SHOWN] + more)}")
    return dict(sorted(names.items()))


def _image_entry_fault(entry: Any, found: dict[str, AnnotatedImage]) -> str | None:
    is_usable = (
        isinstance(entry, dict)
        and _is_id(entry.get("id"))
        and isinstance(entry.get("file_name"), str)
        and entry["file_name"]
    )
    if not is_usable:
        return "invalid_image_entry"
    return "duplicate_image_id" if str(entry["id"]) in found else None


def _match_faults(
    annotation: Any,
    found: dict[str, AnnotatedImage],
    categories: dict[int, str],
    seen: dict[str, dict[str, Any]],
) -> list[Problem]:
    """What keeps an annotation from an image; fills `seen`, and makes its category_id an int."""
    left_out = Outcome.ANNOTATION_LEFT_OUT
    if not isinstance(annotation, dict):
        return [("invalid_annotation", left_out)]
    problems = []
    if not _is_id(annotation.get("id")):
        annotation.pop("id", None)
        problems.append(("missing_annotation_id", Outcome.MENDED))
    else:
        first = seen.setdefault(str(annotation["id"]), annotation)
        if first is not annotation:
            if first == annotation:
                return [("duplicate_annotation_id", left_out)]
            problems.append(("duplicate_annotation_id", Outcome.KEPT))
    if str(annotation.get("image_id")) not in found:
        return [*problems, ("unknown_image", left_out)]
    annotation["category_id"] = as_int(annotation.get("category_id"))
    if annotation["category_id"] not in categories:
        return [*problems, ("unknown_category", left_out)]
    return problems


def _name(entry: Any, position: int) -> int | str:
    """The id of an entry, or its position in the file."""
    if isinstance(entry, dict) and _is_id(entry.get("id")):
        return entry["id"]
    return f"#{position}"


def _said_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = (as_int(entry.get(side)) for side in ("height", "width"))
    return (height, width) if height and width and min(height, width) > 0 else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def as_int(value: Any) -> int | None:
    """Integers, and floats and texts that stand for one; None for all else."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
        return number if number == float(value) else None
    except (TypeError, ValueError, OverflowError):
        return None

"""COCO instances in: the file with its index of images, categories and annotations."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from official_maskrcnn.data import images
from official_maskrcnn.data.annotations import Instance, Problem, mend_annotation
from official_maskrcnn.data.faults import Fault, FaultReport, Outcome
from official_maskrcnn.data.ids import IdKey, as_int, id_key
from official_maskrcnn.errors import UserError

_MAX_SHOWN = 5
_TAIL_BYTES = 1 << 20  # COCO's 80 categories take 8 KB
_LISTS = ("images", "annotations", "categories")


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

    Ids may be numbers or texts; 7, 7.0, "7" and "007" are the same.

    Raises:
      UserError: the file cannot be read, is no JSON, lacks a list that a COCO file has, or has
        categories that cannot be told apart or that take the background's id 0.
    """
    data = read_json_object(path)
    require_lists(data, path)
    return match(data, category_names(data, path))


def match(data: dict[str, Any], categories: dict[int, str], need_files: bool = True) -> CocoFile:
    """Matches annotations with images.

    Args:
      data: the three lists of a COCO file; their entries are changed: ids become integers where
        they stand for one.
      categories: `category_names` of them.
      need_files: whether an image without a file name is left out.
    """
    faults = FaultReport()
    found: dict[IdKey, AnnotatedImage] = {}
    for position, entry in enumerate(data["images"]):
        kind = _image_entry_fault(entry, found, need_files)
        if kind:
            faults.add([Fault(kind, Outcome.IMAGE_LEFT_OUT, _name(entry, position))])
        else:
            if isinstance(entry["id"], float):
                entry["id"] = int(entry["id"])
            found[id_key(entry["id"])] = AnnotatedImage(entry, [])
    seen: dict[IdKey, dict[str, Any]] = {}
    for position, annotation in enumerate(data["annotations"]):
        problems = _match_faults(annotation, found, categories, seen)
        name = _name(annotation, position)
        faults.add(Fault(kind, outcome, name) for kind, outcome in problems)
        if all(outcome != Outcome.ANNOTATION_LEFT_OUT for _, outcome in problems):
            annotation.setdefault("id", name)
            found[id_key(annotation["image_id"])].annotations.append(annotation)
    return CocoFile(list(found.values()), categories, len(data["annotations"]), faults)


def read_categories(path: str) -> dict[int, str]:
    """Ids and names of a COCO file's categories, in a moment where they stand at its end.

    Raises:
      UserError: as `load_coco`.
    """
    data = _categories_at_end(path)
    if data is None or any(number < 1 for number in _category_ids(data["categories"])):
        data = read_json_object(path)  # for whether an annotation has that id
        require_lists(data, path)
    return category_names(data, path)


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


def read_json_object(path: str) -> dict[str, Any]:
    """The content of a local COCO file, or of one at a URL.

    Raises:
      UserError: it cannot be read, or is no JSON object.
    """
    try:
        with _open(path) as file:
            data = json.loads(file.read())  # of bytes, so that a byte order mark is understood
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    except Exception as error:  # remote file systems have errors of their own
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read: {reason}") from error
    if not isinstance(data, dict):
        raise UserError(
            f"{path} is not a COCO instances file: expected an object with the lists "
            f"{', '.join(_LISTS)}, found a {type(data).__name__}"
        )
    return data


def _open(path: str) -> Any:
    if "://" in path:
        import tensorflow as tf  # takes seconds: only where it is needed

        return tf.io.gfile.GFile(path, "rb")
    return open(path, "rb")


def require_lists(data: Mapping[str, Any], name: str) -> None:
    """Sees to it that the three lists of a COCO file are there.

    Raises:
      UserError: they are not; it tells the name.
    """
    missing = [key for key in _LISTS if not isinstance(data.get(key), list)]
    if missing:
        keys = ", ".join(list(data)[:10]) or "nothing"
        raise UserError(
            f"{name} is not a COCO instances file: it has no list {' and no list '.join(missing)} "
            f"(found: {keys})"
        )


def category_names(data: Mapping[str, Any], name: str) -> dict[int, str]:
    """Names of a COCO file's categories by id, in ascending order of the ids.

    Raises:
      UserError: as `load_coco`; it tells the name.
    """
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
        raise UserError(f"{name}: categories: {'; '.join(problems[:_MAX_SHOWN] + more)}")
    return dict(sorted(names.items()))


def _category_ids(entries: Sequence[Any]) -> Iterator[int]:
    """Those that are integers."""
    for entry in entries:
        number = as_int(entry.get("id")) if isinstance(entry, dict) else None
        if number is not None:
            yield number


def _image_entry_fault(
    entry: Any, found: Mapping[IdKey, AnnotatedImage], need_file: bool
) -> str | None:
    if not isinstance(entry, dict) or (key := id_key(entry.get("id"))) is None:
        return "invalid_image_entry"
    file_name = entry.get("file_name")
    if need_file and not (isinstance(file_name, str) and file_name):
        return "invalid_image_entry"
    return "duplicate_image_id" if key in found else None


def _match_faults(
    annotation: Any,
    found: Mapping[IdKey, AnnotatedImage],
    categories: Mapping[int, str],
    seen: dict[IdKey, dict[str, Any]],
) -> list[Problem]:
    """What keeps an annotation from an image; fills `seen`, and makes its category_id an int."""
    left_out = Outcome.ANNOTATION_LEFT_OUT
    if not isinstance(annotation, dict):
        return [("invalid_annotation", left_out)]
    annotation["category_id"] = as_int(annotation.get("category_id"))
    problems = []
    if (key := id_key(annotation.get("id"))) is None:
        annotation.pop("id", None)
        problems.append(("missing_annotation_id", Outcome.MENDED))
    else:
        first = seen.setdefault(key, annotation)
        if first is not annotation:
            if first == annotation:
                return [("duplicate_annotation_id", left_out)]
            problems.append(("duplicate_annotation_id", Outcome.KEPT))
    if id_key(annotation.get("image_id")) not in found:
        return [*problems, ("unknown_image", left_out)]
    if annotation["category_id"] not in categories:
        return [*problems, ("unknown_category", left_out)]
    return problems


def _name(entry: Any, position: int) -> int | str:
    """The id of an entry, or its position in the file."""
    if isinstance(entry, dict) and id_key(entry.get("id")) is not None:
        return entry["id"]
    return f"#{position}"


def _said_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    height, width = (as_int(entry.get(side)) for side in ("height", "width"))
    return (height, width) if height and width and min(height, width) > 0 else None

"""COCO ground truth, read once, checked, and kept compactly: every mask as compressed RLE."""

import collections
import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from official_maskrcnn.data import coco
from official_maskrcnn.data.annotations import Instance
from official_maskrcnn.data.faults import Fault, FaultReport, Outcome
from official_maskrcnn.data.ids import as_int, image_number
from official_maskrcnn.errors import UserError

_logger = logging.getLogger(__name__)
# What changes which objects there are to find. All else `data check` tells.
_COSTLY = (Outcome.MASK_DROPPED, Outcome.ANNOTATION_LEFT_OUT, Outcome.IMAGE_LEFT_OUT)


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What detections are compared with.

    Attributes:
      image_sizes: (height, width) in pixels by image id (`image_number`), in ascending order
        of the ids.
      categories: unique display names by category id, in ascending order of the ids.
      annotations: COCO annotations {id, image_id, category_id, bbox [x, y, width, height], area,
        iscrowd, segmentation}; ids count from 1, as COCO's matching takes id 0 for "no match";
        segmentation is a compressed RLE, or None where there is a box but no mask.
    """

    image_sizes: Mapping[int, tuple[int, int]]
    categories: Mapping[int, str]
    annotations: Sequence[dict[str, Any]]


def load_ground_truth(
    source: Mapping[str, Any] | str | os.PathLike[str], image_dir: str | None = None
) -> GroundTruth:
    """Reads a COCO dict or annotation file.

    Images and annotations are matched and mended as for the training, but boxes stay as they are
    where they reach over the edge, as in pycocotools. What is left out is counted in the log, and
    so are annotations without a usable mask, which count in box AP only.

    Args:
      source: {"images", "annotations", "categories"}, or the path of a JSON file. Without
        categories there are those of the annotations. Images need no file name, but a size.
      image_dir: where images that lack a size are looked at for it.

    Raises:
      UserError: the file cannot be read or is not a COCO file, no image has a usable id and size,
        or categories cannot be told apart.
    """
    if isinstance(source, Mapping):
        name = "ground truth"
        data = {key: _copied(entries) for key, entries in source.items()}
    else:
        name = os.fspath(source)
        data = coco.read_json_object(name)
    data = {"annotations": [], "categories": []} | data
    coco.require_lists(data, name)
    file = coco.match(data, _category_names(data, name), need_files=False)

    image_sizes: dict[int, tuple[int, int]] = {}
    annotations: list[dict[str, Any]] = []
    faults = FaultReport()
    faults.add(fault for fault in file.faults if fault.outcome in _COSTLY)
    for image in file.images:
        examined = _examine(image, image_dir)
        found = examined.faults if isinstance(examined, coco.Examined) else examined
        faults.add(fault for fault in found if fault.outcome in _COSTLY)
        if isinstance(examined, coco.Examined):
            image_id = image_number(image.entry["id"])
            assert image_id is not None
            image_sizes[image_id] = examined.height, examined.width
            for instance in examined.instances:
                annotations.append(_annotation(instance, len(annotations) + 1, image_id))
    if data["images"] and not image_sizes:
        raise UserError(f"{name} has no image with an id, a height and a width: {faults.summary()}")
    if faults:
        _logger.warning("%s: %s", name, faults.summary())
    return GroundTruth(dict(sorted(image_sizes.items())), _told_apart(file.categories), annotations)


def _examine(image: coco.AnnotatedImage, image_dir: str | None) -> coco.Examined | list[Fault]:
    """Opens the image only if its entry says no size."""
    examined = coco.examine(image, None)
    has_file = isinstance(image.entry.get("file_name"), str)
    if isinstance(examined, coco.Examined) or not image_dir or not has_file:
        return examined
    return coco.examine(image, image_dir)


def _copied(entries: Any) -> Any:
    """Entries that matching may change."""
    if not isinstance(entries, list | tuple):
        return entries
    return [dict(entry) if isinstance(entry, Mapping) else entry for entry in entries]


def _category_names(data: dict[str, Any], name: str) -> dict[int, str]:
    if not data["categories"]:
        entries = [entry for entry in data["annotations"] if isinstance(entry, Mapping)]
        ids = {as_int(entry.get("category_id")) for entry in entries} - {None}
        data["categories"] = [{"id": category_id} for category_id in ids]
    return coco.category_names(data, name) if data["categories"] else {}


def _told_apart(names: Mapping[int, str]) -> dict[int, str]:
    uses = collections.Counter(names.values())
    return {
        category_id: name if uses[name] == 1 else f"{name} ({category_id})"
        for category_id, name in names.items()
    }


def _annotation(instance: Instance, annotation_id: int, image_id: int) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": instance.category_id,
        "bbox": instance.bbox,
        "area": instance.area,
        "iscrowd": int(instance.is_crowd),
        "segmentation": instance.mask,
    }

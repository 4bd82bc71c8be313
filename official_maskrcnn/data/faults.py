"""What can be wrong with annotated images, and the report of what was done about it."""

import dataclasses
import enum
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import rich.table

_MAX_IDS_SHOWN = 8


class Outcome(enum.StrEnum):
    """What was done about a fault."""

    KEPT = "kept as it is"
    MENDED = "mended"
    MASK_DROPPED = "mask dropped"  # and the box kept, unless another fault says otherwise
    ANNOTATION_LEFT_OUT = "annotation left out"
    IMAGE_LEFT_OUT = "image left out"


class Fault(NamedTuple):
    """One fault of one image or annotation.

    Attributes:
      kind: a name from KINDS.
      outcome: what was done about it.
      id: of the annotation or image; "#n" for the n-th of the file if it has none.
    """

    kind: str
    outcome: Outcome
    id: int | str


# The order is that of the report. Faults of images come with image ids, all others with those of
# annotations.
IMAGE_KINDS = {
    "invalid_image_entry": "the entry of the image is no JSON object with an id and a file name",
    "duplicate_image_id": "another image before it has the same id",
    "missing_image": "there is no such file",
    "unreadable_image": "there is a file, but the disk, the network or its permissions deny it",
    "truncated_image": "the file ends too early",
    "oversized_image": "the image has more than 2^30 pixels",
    "undecodable_image": "the file is no image that can be decoded",
    "missing_image_size": "the entry has no width and height; the file's are used",
    "image_size_differs": "the file has another size than its entry says; the file's is used",
}
ANNOTATION_KINDS = {
    "unused_annotation": "its image is left out",
    "invalid_annotation": "the entry is no JSON object",
    "unknown_image": "its image_id is not among the images",
    "unknown_category": "its category_id is not among the categories",
    "missing_annotation_id": "it has no id",
    "duplicate_annotation_id": "another one before it has the same id (left out if it is the same)",
    "missing_bbox": "it has no bbox; the mask's is used if there is one",
    "invalid_bbox": "the bbox is not four numbers; the mask's is used if there is one",
    "nonfinite_bbox": "the bbox has NaN or infinity; the mask's is used if there is one",
    "zero_area_bbox": "the bbox has no area; the mask's is used if there is one",
    "bbox_outside": "the bbox lies outside of the image; the mask's is used if there is one",
    "bbox_over_edge": "the bbox reaches over the edge of the image; it is clipped",
    "missing_area": "it has no area; that of the mask is used, or of the box",
    "invalid_area": "the area is no positive number; that of the mask is used, or of the box",
    "missing_iscrowd": "it has no iscrowd, which counts as 0",
    "invalid_iscrowd": "iscrowd is neither 0 nor 1; it counts as 0",
    "crowd_polygon": "polygons though iscrowd is 1",
    "single_rle": "an RLE though iscrowd is 0",
    "missing_segmentation": "it has no segmentation",
    "empty_segmentation": "the segmentation is empty",
    "invalid_segmentation": "the segmentation is neither a list of polygons nor an RLE",
    "flat_polygon": "the polygon is not inside of a list",
    "short_polygon": "a polygon has fewer than three points; it is dropped",
    "odd_polygon": "a polygon has an odd number of coordinates; it is dropped",
    "invalid_polygon": "a polygon has NaN, infinity or something that is no number; it is dropped",
    "wrong_size_rle": "the RLE is not of the image's size",
    "invalid_rle": "the RLE's counts are broken or do not add up to the image's size",
    "empty_mask": "the mask has no pixel inside of the image",
    "mask_outside_bbox": "the mask lies outside of the bbox",
}
# Of records, which have no annotation ids; theirs are "image id/position".
RECORD_KINDS = {
    "corrupt_file": "the record file is damaged; where its records begin cannot be told",
    "corrupt_record": "the record is damaged; the others of its file can be read",
    "ragged_record": "the lists of boxes, classes, crowds, areas and masks differ in length",
    "undecodable_mask": "the mask is no PNG of the image's size",
}
KINDS = IMAGE_KINDS | ANNOTATION_KINDS | RECORD_KINDS


@dataclasses.dataclass
class FaultReport:
    """Collects faults by kind and outcome, with the ids of what has them."""

    _ids: dict[tuple[str, Outcome], list[int | str]] = dataclasses.field(default_factory=dict)

    def add(self, faults: Iterable[Fault]) -> None:
        """Adds faults; the kind of each must be one of KINDS."""
        for fault in faults:
            if fault.kind not in KINDS:
                raise ValueError(f"{fault.kind!r} is no kind of fault")
            self._ids.setdefault((fault.kind, fault.outcome), []).append(fault.id)

    def __iter__(self) -> Iterator[Fault]:
        """Every fault, in the order of KINDS."""
        for kind, outcome in self._keys():
            for fault_id in self._ids[kind, outcome]:
                yield Fault(kind, outcome, fault_id)

    def __len__(self) -> int:
        return self.count()

    def count(self, kind: str | None = None, outcome: Outcome | None = None) -> int:
        """Number of faults of a kind, with an outcome, or of all."""
        return len(self.ids(kind, outcome))

    def ids(self, kind: str | None = None, outcome: Outcome | None = None) -> list[int | str]:
        """Ids of the images or annotations with a fault of that kind and outcome."""
        return [
            fault_id
            for key, ids in self._ids.items()
            if kind in (None, key[0]) and outcome in (None, key[1])
            for fault_id in ids
        ]

    def to_dict(self) -> dict[str, Any]:
        """{kind: {"explanation": text, outcome: [ids]}}, for JSON."""
        result: dict[str, Any] = {}
        for kind, outcome in self._keys():
            entry = result.setdefault(kind, {"explanation": KINDS[kind]})
            entry[str(outcome)] = self._ids[kind, outcome]
        return result

    def table(self, max_ids: int = _MAX_IDS_SHOWN) -> rich.table.Table:
        """A table with one row for each kind and outcome, showing the first ids."""
        table = rich.table.Table("fault", "what", "done", "count", "ids", title="Faults")
        table.columns[0].no_wrap = True
        table.columns[3].justify = "right"
        for kind, outcome in self._keys():
            ids = self._ids[kind, outcome]
            shown = ", ".join(map(str, ids[:max_ids])) + (", ..." if len(ids) > max_ids else "")
            table.add_row(kind, KINDS[kind], str(outcome), str(len(ids)), shown)
        return table

    def summary(self) -> str:
        """One line: counts by kind and outcome."""
        parts = [f"{len(self._ids[key])} {key[0]} ({key[1]})" for key in self._keys()]
        return ", ".join(parts) or "none"

    def _keys(self) -> list[tuple[str, Outcome]]:
        kinds, outcomes = list(KINDS), list(Outcome)
        return sorted(self._ids, key=lambda key: (kinds.index(key[0]), outcomes.index(key[1])))

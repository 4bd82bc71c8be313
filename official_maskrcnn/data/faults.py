"""Faults of a data set: which ones, what was done about them, and where they are."""

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import rich.table

# What is wrong with an annotation or, where the name begins so, with an image.
KINDS: Mapping[str, str] = {
    "segmentation_missing": "no segmentation",
    "segmentation_empty": "the segmentation is empty",
    "segmentation_type": "the segmentation is neither polygons nor RLE",
    "polygon_too_short": "a polygon of fewer than three points",
    "polygon_odd_length": "a polygon with an odd number of coordinates",
    "polygon_coordinates": "a polygon with coordinates that are no numbers or far off the image",
    "rle_size": "an RLE of another size than the image",
    "rle_counts": "an RLE whose runs do not add up to the image",
    "mask_empty": "a mask without a pixel",
    "mask_does_not_fit": "a mask made for another image size than that of the file",
    "crowd_polygon": "a crowd given as polygons",
    "iscrowd": "iscrowd missing, or neither 0 nor 1",
    "area": "area missing, not a number or not positive",
    "box_missing": "no box of four numbers",
    "box_not_finite": "a box with NaN or infinity",
    "box_empty": "a box without area, or wholly off the image",
    "box_over_edge": "a box that reaches over the edge of the image",
    "annotation_malformed": "not a JSON object",
    "annotation_id_missing": "no usable annotation id",
    "annotation_id_duplicate": "an annotation id that was there before",
    "category_unknown": "a category that is not in the list of categories",
    "category_not_positive": "a category id below 1 (0 means background: count from 1)",
    "image_of_annotation": "an annotation of an image that is not listed or was left out",
    "image_malformed": "an image entry without a usable id or file name",
    "image_id_duplicate": "an image id that was there before",
    "image_size_missing": "an image entry without width and height",
    "image_size_differs": "an image file of another size than its entry says",
    "image_orientation": "an image file annotated as turned upright by its EXIF orientation",
    "image_missing": "an image file that is missing or cannot be opened",
    "image_undecodable": "an image file that is truncated or cannot be decoded",
}


class Remedy(enum.StrEnum):
    """What was done about a fault."""

    MENDED = "mended"
    MASK_DROPPED = "mask dropped, box kept"
    LEFT_OUT = "annotation left out"
    IMAGE_LEFT_OUT = "image left out"


class FaultReport:
    """Ids of faulty annotations and images by the kind of fault and its remedy."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, Remedy], list[int | str]] = {}

    def add(self, kind: str, remedy: Remedy, ids: Iterable[int | str]) -> None:
        """Notes a fault of the annotations, or images, of these ids."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind of fault {kind!r}")
        self._ids.setdefault((kind, remedy), []).extend(ids)

    def merge(self, other: "FaultReport") -> None:
        """Adds the faults of another report."""
        for (kind, remedy), ids in other._ids.items():
            self.add(kind, remedy, ids)

    def ids(self, kind: str | None = None, remedy: Remedy | None = None) -> list[int | str]:
        """Ids with a kind of fault, a remedy, or both; in the order in which they were found."""
        return [
            one
            for (own_kind, own_remedy), ids in self._ids.items()
            if kind in (None, own_kind) and remedy in (None, own_remedy)
            for one in ids
        ]

    def count(self, kind: str | None = None, remedy: Remedy | None = None) -> int:
        """Number of faults; an annotation with two faults counts twice."""
        return len(self.ids(kind, remedy))

    def __bool__(self) -> bool:
        return bool(self._ids)

    def __iter__(self) -> Iterator[tuple[str, Remedy, list[int | str]]]:
        """Kind, remedy and ids, the most frequent first."""
        for (kind, remedy), ids in sorted(self._ids.items(), key=lambda item: -len(item[1])):
            yield kind, remedy, ids

    def to_dict(self) -> list[dict[str, Any]]:
        """For JSON: a list of {kind, explanation, remedy, count, ids}."""
        return [
            {
                "kind": kind,
                "explanation": KINDS[kind],
                "remedy": remedy.value,
                "count": len(ids),
                "ids": ids,
            }
            for kind, remedy, ids in self
        ]

    @classmethod
    def from_dict(cls, entries: Iterable[Mapping[str, Any]]) -> "FaultReport":
        """The report that `to_dict` was made from."""
        report = cls()
        for entry in entries:
            report.add(entry["kind"], Remedy(entry["remedy"]), entry["ids"])
        return report

    def table(self, max_ids: int = 5) -> rich.table.Table:
        """One row for each kind of fault and remedy, with the first ids."""
        table = rich.table.Table("fault", "what it is", "remedy", title="Faults in the data")
        table.add_column("count", justify="right")
        table.add_column("ids")
        for kind, remedy, ids in self:
            shown = ", ".join(map(str, ids[:max_ids])) + (", ..." if len(ids) > max_ids else "")
            table.add_row(kind, KINDS[kind], remedy.value, str(len(ids)), shown)
        return table

    def summary(self) -> str:
        """One line, such as `2 faults: 1 rle_size (mask dropped, box kept), ...`."""
        if not self:
            return "no faults"
        parts = [f"{len(ids)} {kind} ({remedy})" for kind, remedy, ids in self]
        total = self.count()
        return f"{total} fault{'s' if total != 1 else ''}: {', '.join(parts)}"

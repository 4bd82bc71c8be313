"""Numbers of a data set, and its faults: of a COCO file, or of records."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rich.table
from pycocotools import mask as coco_mask

from official_maskrcnn.data import coco, parallel
from official_maskrcnn.data.faults import Fault, FaultReport, Outcome
from official_maskrcnn.data.images import ImageFault, check_image, decode_mask
from official_maskrcnn.errors import UserError

if TYPE_CHECKING:
    from official_maskrcnn.data.records import Record

# Pixels; where COCO's small, medium and large objects begin (https://cocodataset.org/#detection-eval).
_SIZE_LIMITS = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
_MAX_IMAGE_SIZES = 10


class ImageSummary(NamedTuple):
    """What the statistics need of an image; n instances, crowds included.

    Attributes:
      height: pixels.
      width: pixels.
      classes: n category ids.
      is_crowd: n flags.
      box_areas: n, in pixels.
      mask_areas: n, in pixels; 0 where there is no mask.
    """

    height: int
    width: int
    classes: list[int]
    is_crowd: list[bool]
    box_areas: list[float]
    mask_areas: list[float]


@dataclasses.dataclass
class Statistics:
    """Adds up images. Crowds are counted apart: "instances" are single ones.

    Attributes:
      names: of the categories, by id.
      left_out: images and annotations that cannot be used, and are in no other number.
    """

    names: dict[int, str] = dataclasses.field(default_factory=dict)
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    _per_image: list[int] = dataclasses.field(default_factory=list)
    _image_sizes: collections.Counter[tuple[int, int]] = dataclasses.field(
        default_factory=collections.Counter
    )
    _counts: dict[str, collections.Counter[Any]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )

    def add(self, image: ImageSummary) -> None:
        """Adds an image."""
        self._image_sizes[image.height, image.width] += 1
        single = [i for i, is_crowd in enumerate(image.is_crowd) if not is_crowd]
        self._per_image.append(len(single))
        crowds = (i for i, is_crowd in enumerate(image.is_crowd) if is_crowd)
        self._counts["crowds"].update(image.classes[i] for i in crowds)
        self._counts["images"].update({image.classes[i] for i in single})
        for i in single:
            self._counts["instances"][image.classes[i]] += 1
            self._counts["boxes"][_size_name(image.box_areas[i])] += 1
            if image.mask_areas[i]:
                self._counts["masks"][image.classes[i]] += 1
                self._counts["mask_sizes"][_size_name(image.mask_areas[i])] += 1

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON; classes and image sizes with the most frequent first."""
        per_image = np.array(self._per_image or [0])
        instances, crowds = self._counts["instances"].total(), self._counts["crowds"].total()
        with_mask = self._counts["masks"].total()
        return {
            "images": len(self._per_image),
            "images_without_instances": self._per_image.count(0),
            "instances": instances,
            "instances_with_mask": with_mask,
            "instances_without_mask": instances - with_mask,
            "crowds": crowds,
            "instances_per_image": {
                "mean": float(per_image.mean()),
                "median": float(np.median(per_image)),
                "p99": float(np.percentile(per_image, 99)),
                "max": int(per_image.max()),
            },
            "box_sizes": {name: self._counts["boxes"][name] for name in _SIZE_LIMITS},
            "mask_sizes": {name: self._counts["mask_sizes"][name] for name in _SIZE_LIMITS},
            "image_sizes": [
                {"height": height, "width": width, "images": count}
                for (height, width), count in self._image_sizes.most_common()
            ],
            "left_out": self.left_out,
            "classes": [self._of_class(i) for i in self._classes_by_frequency()],
        }

    def tables(self) -> list[rich.table.Table]:
        """The same as tables for people."""
        numbers = self.to_dict()
        overview = rich.table.Table(title="Data set", show_header=False)
        for name, value in numbers.items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {number:.4g}" for key, number in value.items())
            if not isinstance(value, list):
                overview.add_row(name.replace("_", " "), str(value))
        sizes = [f"{s['height']}x{s['width']} ({s['images']})" for s in numbers["image_sizes"]]
        if len(sizes) > _MAX_IMAGE_SIZES:
            sizes[_MAX_IMAGE_SIZES:] = [f"and {len(sizes) - _MAX_IMAGE_SIZES} more"]
        overview.add_row("image sizes", ", ".join(sizes))
        overview.caption = "small is below 32x32 pixels in area, large from 96x96 on"
        classes = rich.table.Table(title="Classes")
        for column in ("id", "name", "instances", "images", "masks", "crowds"):
            classes.add_column(column, justify="left" if column == "name" else "right")
        for row in numbers["classes"]:
            classes.add_row(*map(str, row.values()))
        return [overview, classes]

    def _classes_by_frequency(self) -> list[int]:
        occurring = {*self._counts["instances"], *self._counts["crowds"]}
        return sorted({*self.names, *occurring}, key=lambda i: (-self._counts["instances"][i], i))

    def _of_class(self, category_id: int) -> dict[str, Any]:
        columns = ("instances", "images", "masks", "crowds")
        name = self.names.get(category_id, str(category_id))
        counts = {column: self._counts[column][category_id] for column in columns}
        return {"id": category_id, "name": name, **counts}


def data_stats(
    source: str | Sequence[str], workers: int | None = None, progress: bool = True
) -> Statistics:
    """Statistics of a data set, without opening its images.

    Of a COCO file only what can be used is counted; records are counted as they are.

    Args:
      source: a COCO instances file, which ends in ".json", or patterns of record files.
      workers: processes for a COCO file; by default one for each core.
      progress: whether to show how far it is.

    Raises:
      UserError: the source cannot be read, or is of both kinds.
    """
    return _survey(source, None, False, workers, progress)[0]


def check_data(
    source: str | Sequence[str],
    image_dir: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> FaultReport:
    """Faults of a COCO file, as a conversion mends them or leaves out what has them; or of records.

    Args:
      source: a COCO instances file, which ends in ".json", or patterns of record files, whose
        images and masks are decoded.
      image_dir: folder of a COCO file's images, to open all of them; None trusts the sizes in it.
      workers: processes for a COCO file; by default one for each core.
      progress: whether to show how far it is.

    Raises:
      UserError: the source, or an image that is there, cannot be read, or it is of both kinds.
    """
    return _survey(source, image_dir, True, workers, progress)[1]


def _survey(
    source: str | Sequence[str],
    image_dir: str | None,
    open_records: bool,
    workers: int | None,
    progress: bool,
) -> tuple[Statistics, FaultReport]:
    sources = _without_summaries([source] if isinstance(source, str) else source)
    if not any(name.endswith(".json") for name in sources):
        if image_dir is not None:
            raise UserError("records have their images in them: leave the folder of images out")
        statistics, faults = _survey_records(sources, open_records, progress)
    elif len(sources) > 1:
        raise UserError("give one COCO annotation file (*.json), or only patterns of record files")
    else:
        statistics, faults = _survey_coco(sources[0], image_dir, workers, progress)
    statistics.left_out = {
        "images": faults.count(outcome=Outcome.IMAGE_LEFT_OUT),
        "annotations": faults.count(outcome=Outcome.ANNOTATION_LEFT_OUT),
    }
    return statistics, faults


def _without_summaries(sources: Sequence[str]) -> list[str]:
    """Leaves out PREFIX.json where PREFIX-... is given too, as a shell makes them of PREFIX*."""
    records = [name for name in sources if not name.endswith(".json")]

    def is_summary(name: str) -> bool:
        prefix = f"{name.removesuffix('.json')}-"
        return name not in records and any(other.startswith(prefix) for other in records)

    return [name for name in sources if not is_summary(name)]


def _survey_coco(
    annotation_file: str, image_dir: str | None, workers: int | None, progress: bool
) -> tuple[Statistics, FaultReport]:
    if image_dir is not None and not os.path.isdir(image_dir):
        raise UserError(f"the folder of images {image_dir} does not exist")
    file = coco.load_coco(annotation_file)
    statistics, faults = Statistics(dict(file.categories)), file.faults
    survey = functools.partial(_survey_image, image_dir=image_dir)
    results = parallel.parallel_map(survey, file.images, len(file.images), workers)
    for summary, found in parallel.track(results, len(file.images), "Checking", progress):
        faults.add(found)
        if summary is not None:
            statistics.add(summary)
    return statistics, faults


def _survey_image(
    image: coco.AnnotatedImage, image_dir: str | None
) -> tuple[ImageSummary | None, list[Fault]]:
    examined = coco.examine(image, image_dir)
    if not isinstance(examined, coco.Examined):
        return None, examined
    instances = examined.instances
    summary = ImageSummary(
        examined.height,
        examined.width,
        classes=[instance.category_id for instance in instances],
        is_crowd=[instance.is_crowd for instance in instances],
        box_areas=[_box_area(instance.box) for instance in instances],
        mask_areas=[float(coco_mask.area(i.mask)) if i.mask else 0.0 for i in instances],
    )
    return summary, examined.faults


def _survey_records(
    patterns: Sequence[str], open_images: bool, progress: bool
) -> tuple[Statistics, FaultReport]:
    from official_maskrcnn.data import records  # loads TensorFlow

    statistics, faults = Statistics(), FaultReport()
    seen: set[bytes] = set()

    def examples() -> Iterator[tuple[str, Any]]:
        for path in records.expand_patterns(patterns):
            try:
                yield from records.read_examples([path], note)
            except records.DamagedFile:
                faults.add([Fault("corrupt_file", Outcome.KEPT, path)])

    def note(place: str) -> None:
        faults.add([Fault("corrupt_record", Outcome.KEPT, place)])

    for place, example in parallel.track(examples(), None, "Checking", progress):
        try:
            record = records.parse_record(example)
        except records.UnusableRecord as error:
            faults.add([Fault(error.kind, Outcome.KEPT, place)])
            continue
        if record.source_id in seen:
            faults.add([Fault("duplicate_image_id", Outcome.KEPT, _name(record))])
        seen |= {record.source_id} - {b""}
        texts = zip(record.classes.tolist(), record.class_texts, strict=False)
        statistics.names.update((category_id, text) for category_id, text in texts if text)
        masks = [decode_mask(png) for png in record.masks]
        if open_images:
            faults.add(_image_faults(record))
        faults.add(_instance_faults(record, masks))
        statistics.add(_summarize_record(record, masks))
    return statistics, faults


def _summarize_record(record: "Record", masks: Sequence[np.ndarray | None]) -> ImageSummary:
    extents = (record.boxes[:, 2:] - record.boxes[:, :2]) * [record.height, record.width]
    extents = np.where(np.isfinite(extents) & (extents > 0), extents, 0.0)  # faulty boxes
    return ImageSummary(
        record.height,
        record.width,
        classes=record.classes.tolist(),
        is_crowd=record.is_crowd.tolist(),
        box_areas=extents.prod(axis=-1).tolist(),
        mask_areas=[0.0 if mask is None else float(np.count_nonzero(mask)) for mask in masks],
    )


def _image_faults(record: "Record") -> Iterator[Fault]:
    try:
        image = check_image(record.encoded)
        if (image.height, image.width) != (record.height, record.width):
            yield Fault("image_size_differs", Outcome.KEPT, _name(record))
    except ImageFault as fault:
        yield Fault(fault.kind, Outcome.KEPT, _name(record))


def _instance_faults(record: "Record", masks: Sequence[np.ndarray | None]) -> Iterator[Fault]:
    for i, (box, mask) in enumerate(zip(record.boxes, masks, strict=True)):
        instance = f"{_name(record)}/{i}"
        if not np.isfinite(box).all():
            yield Fault("nonfinite_bbox", Outcome.KEPT, instance)
        elif (box[2:] <= box[:2]).any():
            yield Fault("zero_area_bbox", Outcome.KEPT, instance)
        elif (box < 0).any() or (box > 1).any():
            yield Fault("bbox_over_edge", Outcome.KEPT, instance)
        if record.classes[i] < 1:
            yield Fault("unknown_category", Outcome.KEPT, instance)
        if record.masks[i] and (mask is None or mask.shape != (record.height, record.width)):
            yield Fault("undecodable_mask", Outcome.KEPT, instance)


def _name(record: "Record") -> str:
    return record.source_id.decode(errors="replace") or record.filename


def _box_area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _size_name(area: float) -> str:
    return [name for name, limit in _SIZE_LIMITS.items() if area >= limit][-1]

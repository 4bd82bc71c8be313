"""A report from end to end: detections, figures, pictures, page."""

import dataclasses
import datetime
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import official_maskrcnn
from official_maskrcnn.data import parallel
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import require_local, write_text
from official_maskrcnn.inference.report import content, page, pictures
from official_maskrcnn.inference.report.data import ReportData, load_data, validation_data
from official_maskrcnn.inference.report.sources import (
    Detected,
    Source,
    detect,
    training_curves,
)


@dataclasses.dataclass(frozen=True)
class Written:
    """What came of it.

    Attributes:
      metrics: of each source, as an evaluation gives them.
      faults: kind by path, of images that could not be read; their objects count as missed.
    """

    metrics: list[dict[str, float]]
    faults: dict[str, str]


def write_report(
    sources: Sequence[Source],
    output: str,
    annotation_file: str | None = None,
    image_dir: str | None = None,
    *,
    score: float | None = None,
    images_shown: int = 40,
    limit: int | None = None,
    batch_size: int = 1,
) -> Written:
    """Evaluates a model, or two side by side, and writes what stands behind their AP as a page.

    Predictions are kept in a folder beside the output until the page is there: stopped and called
    again, it goes on.

    Args:
      sources: one, or two to compare.
      output: the page to write.
      annotation_file: COCO annotations; by default those that the first model was validated on.
      image_dir: folder of their images; by default that of the file.
      score: threshold of what is counted; by default that of each source's highest F1.
      images_shown: how many images the page has pictures of.
      limit: only so many images.
      batch_size: images through a model at a time.

    Raises:
      UserError: a model, results, annotations or images are missing or unusable.
    """
    require_local(output)
    if annotation_file is None:
        trained = [source for source in sources if source.model_dir]
        if not trained:
            raise UserError("results say not what they are compared with: give --data")
        model_dir, experiment = trained[0].model_dir, trained[0].experiment
        assert model_dir is not None and experiment is not None
        annotation_file, image_dir = validation_data(model_dir, experiment)
    data = load_data(annotation_file, image_dir, limit)
    work = pathlib.Path(f"{output}.work")
    detected = [
        detect(source, data, work / str(number), batch_size)
        for number, source in enumerate(sources)
    ]
    analyses = [
        content.analyze(data.ground_truth, own.store, _kinds(data, detected), score)
        for own in detected
    ]
    models = [
        _describe(source, own, analysis, data)
        for source, own, analysis in zip(sources, detected, analyses, strict=True)
    ]
    places = pictures.choose_images(analyses, images_shown)
    drawn = pictures.draw_pictures(places, data, analyses, [own.store for own in detected])
    whole = {
        "version": official_maskrcnn.__version__,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "annotations": data.annotation_file,
        "classes": _classes(data, sources),
        "images": _images(data),
        "models": models,
        "pictures": list(parallel.track(drawn, len(places), "Drawing")),
    }
    title = " and ".join(own.name for own in detected)
    write_text(output, page.render(f"Report: {title}", whole))
    shutil.rmtree(work, ignore_errors=True)
    faults = {path: kind for own in detected for path, kind in own.faults.items()}
    return Written([model["metrics"] for model in models], faults)


def _kinds(data: ReportData, detected: Sequence[Detected]) -> list[str]:
    """Mask and box, or box alone where any side of the comparison has no masks."""
    annotations = data.ground_truth.annotations
    has_masks = any(a["segmentation"] is not None for a in annotations) or not annotations
    with_masks = has_masks and all(own.has_masks for own in detected)
    return ["mask", "box"] if with_masks else ["box"]


def _describe(
    source: Source, detected: Detected, analysis: content.Analysis, data: ReportData
) -> dict[str, Any]:
    experiment = source.experiment
    allowed = experiment.task.allowed_mask_class_ids if experiment else None
    described = content.describe(analysis, data.ground_truth, detected.store, allowed)
    if detected.faults:
        text = f"{len(detected.faults)} images could not be read: all in them counts as missed."
        described["notes"].append(text)
    return {"name": detected.name, "training": training_curves(source), **described}


def _classes(data: ReportData, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Name of each class, and whether the first model with such a split saw masks of it."""
    experiments = [source.experiment for source in sources if source.experiment]
    allowed = [e.task.allowed_mask_class_ids for e in experiments if e.task.allowed_mask_class_ids]
    return [
        {"id": i, "name": name, "seen": i in allowed[0] if allowed else None}
        for i, name in data.ground_truth.categories.items()
    ]


def _images(data: ReportData) -> dict[str, list[Any]]:
    objects = dict.fromkeys(data.ground_truth.image_sizes, 0)
    for annotation in data.ground_truth.annotations:
        objects[annotation["image_id"]] += not annotation["iscrowd"]
    return {
        "id": list(objects),
        "name": [image.name for image in data.images],
        "objects": list(objects.values()),
    }

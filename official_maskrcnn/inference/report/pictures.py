"""Images of a report: which are shown, as thumbnails, with outlines that the page colours."""

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.evaluation.analysis.matching import Outcome
from official_maskrcnn.evaluation.detections import DetectionStore
from official_maskrcnn.inference import images as image_files
from official_maskrcnn.inference.report.content import Analysis
from official_maskrcnn.inference.report.data import ReportData
from official_maskrcnn.ops import drawing

_SIDE = 640  # pixels of the longer side
_JPEG_QUALITY = 78
_TOLERANCE = 0.6  # pixels by which an outline may deviate
_MAX_DETECTIONS = 100  # of an image, those of the highest scores


def choose_images(analyses: Sequence[Analysis], count: int) -> list[int]:
    """The images that are shown, as places: three quarters the worst by their quality, the others
    the best; of two models, those whose quality differs most.
    """
    kind = next(iter(analyses[0].matches))
    counts = [analysis.counts[kind] for analysis in analyses]
    mistakes = sum(own.wrong + own.missing for own in counts)
    quality = counts[0].quality
    if len(counts) == 2:
        # Where there is nothing to find and nothing was found, all is right.
        a, b = (np.nan_to_num(own.quality, nan=1.0) for own in counts)
        return np.lexsort([-mistakes, -np.abs(a - b)])[:count].tolist()
    ranked = np.lexsort([-mistakes, quality])  # NaN comes last
    if count < len(ranked):
        ranked = ranked[~np.isnan(quality[ranked])]
    worst = min(-(-count * 3 // 4), len(ranked))
    best = max(worst, len(ranked) - count + worst)
    return [*ranked[:worst].tolist(), *ranked[best:].tolist()]


def draw_pictures(
    places: Sequence[int],
    data: ReportData,
    analyses: Sequence[Analysis],
    stores: Sequence[DetectionStore],
) -> Iterator[dict[str, Any]]:
    """Each image with its objects and each source's detections, as JSON.

    Outlines are SVG paths in pixels of the thumbnail. An image that cannot be read is grey.
    """
    classes = {category_id: i for i, category_id in enumerate(data.ground_truth.categories)}
    objects: dict[int, list[tuple[int, dict[str, Any]]]] = {place: [] for place in places}
    image_ids = list(data.ground_truth.image_sizes)
    place_of = {image_id: place for place, image_id in enumerate(image_ids)}
    for number, annotation in enumerate(data.ground_truth.annotations):
        place = place_of[annotation["image_id"]]
        if place in objects:
            objects[place].append((number, annotation))
    for place in places:
        image_id = image_ids[place]
        size = data.ground_truth.image_sizes[image_id]
        scale = min(1.0, _SIDE / max(size))
        yield {
            "image": place,
            "width": max(1, round(size[1] * scale)),
            "height": max(1, round(size[0] * scale)),
            "uri": _thumbnail(data.images[place].path),
            "objects": [
                {
                    "class": classes[annotation["category_id"]],
                    "crowd": annotation["iscrowd"],
                    "box": _scaled(annotation["bbox"], scale),
                    "outline": _outline(annotation["segmentation"], scale),
                    "scores": [_scores_of(analysis, place, number) for analysis in analyses],
                }
                for number, annotation in objects[place]
            ],
            "found": [
                _found(analysis, store, place, image_id, size, scale, classes)
                for analysis, store in zip(analyses, stores, strict=True)
            ],
        }


def _scores_of(analysis: Analysis, place: int, number: int) -> dict[str, float | None]:
    """By kind in which an object counts: the score that finds it, or None."""
    scores = {}
    for kind, matches in analysis.matches.items():
        own = _rows(matches.objects, place)
        own = own[own["number"] == number]
        if len(own):
            scores[kind] = _rounded(own[0]["score"])
    return scores


def _found(
    analysis: Analysis,
    store: DetectionStore,
    place: int,
    image_id: int,
    size: tuple[int, int],
    scale: float,
    classes: dict[int, int],
) -> list[dict[str, Any]]:
    """The detections of an image, by descending score."""
    found = store.images.get(image_id)
    if found is None:
        return []
    rows = {
        kind: {int(row["number"]): row for row in _rows(matches.found, place)}
        for kind, matches in analysis.matches.items()
    }
    entries = []
    for number in np.argsort(-found.scores, kind="stable")[:_MAX_DETECTIONS].tolist():
        own = {kind: by_number[number] for kind, by_number in rows.items() if number in by_number}
        if not own:  # too many of its class
            continue
        rle = None
        if found.masks is not None:
            rle = {"size": list(size), "counts": found.masks[number]}
        entries.append(
            {
                "class": classes[int(found.classes[number])],
                "score": _rounded(found.scores[number]),
                "box": _scaled(found.boxes[number].tolist(), scale),
                "outline": _outline(rle, scale),
                "outcomes": {kind: Outcome(int(row["outcome"])) for kind, row in own.items()},
                "ious": {kind: round(float(row["iou"]), 2) for kind, row in own.items()},
            }
        )
    return entries


def _rows(table: np.ndarray, place: int) -> np.ndarray:
    """Those of an image, by which the table is sorted."""
    first, end = np.searchsorted(table["image"], [place, place + 1])
    return table[first:end]


def _thumbnail(path: str) -> str | None:
    """A JPEG as data URI; None for an image that cannot be read."""
    try:
        pixels = image_files.decode(image_files.read_file(path), upright=False)
    except ImageFault:
        return None
    if max(pixels.shape[:2]) > _SIDE:
        pixels, _ = drawing.fit(pixels, _SIDE)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _outline(rle: dict[str, Any] | None, scale: float) -> str:
    """An SVG path around a mask and its holes; empty without one."""
    if rle is None:
        return ""
    x, y, width, height = (int(value) for value in coco_mask.toBbox(rle))
    if not width or not height:
        return ""
    region = coco_mask.decode(rle)[y : y + height, x : x + width]
    contours, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    parts = []
    for contour in contours:
        points = ((contour.reshape(-1, 2) + np.array([x + 0.5, y + 0.5])) * scale).astype(
            np.float32
        )
        points = cv2.approxPolyDP(points, _TOLERANCE, True).reshape(-1, 2)
        if len(points) > 2:
            parts.append("M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points.tolist()) + "Z")
    return "".join(parts)


def _scaled(box: Sequence[float], scale: float) -> list[float]:
    return [round(value * scale, 1) for value in box]


def _rounded(score: float) -> float | None:
    return round(float(score), 4) if np.isfinite(score) else None

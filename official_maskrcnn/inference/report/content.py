"""The figures of a report as JSON, which the page's script draws.

A category is its place in the list of classes, an image its place in the list of images. None
stands for a figure without ground truth or without detections.
"""

import dataclasses
import itertools
import sys
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from official_maskrcnn.data import parallel
from official_maskrcnn.evaluation.analysis import breakdown, errors, scores, working_point
from official_maskrcnn.evaluation.analysis.matching import Matcher, Matches
from official_maskrcnn.evaluation.average_precision import (
    IouType,
    PrecisionRecall,
    precision_recall,
)
from official_maskrcnn.evaluation.detections import DetectionStore
from official_maskrcnn.evaluation.diagnosis import explain_zero_ap
from official_maskrcnn.evaluation.ground_truth import GroundTruth
from official_maskrcnn.evaluation.metrics import summarize

IOU_TYPES: dict[str, IouType] = {"mask": "segm", "box": "bbox"}
_CURVE_IOUS = (0.5, 0.75, 0.9)  # of the precision-recall curves
_AREA, _MAX_DETECTIONS = 0, -1  # places in PrecisionRecall.precision: all, and 100


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Detections of one source, looked into.

    Attributes:
      score: the threshold of all that is counted rather than averaged.
      matches: by kind: mask, where there are masks, and box.
      results: COCO's, by kind.
      counts: of each image, by kind.
    """

    score: float
    matches: dict[str, Matches]
    results: dict[str, PrecisionRecall]
    counts: dict[str, working_point.ImageCounts]


def analyze(
    ground_truth: GroundTruth, store: DetectionStore, kinds: Collection[str], score: float | None
) -> Analysis:
    """Matches and evaluates all detections.

    Args:
      ground_truth: what they are compared with.
      store: the detections.
      kinds: of "mask" and "box"; the first one decides on the score.
      score: threshold of what is counted; None for that of the highest F1.
    """
    matches, results = {}, {}
    for kind in kinds:
        matcher = Matcher(ground_truth, IOU_TYPES[kind])
        sizes = ground_truth.image_sizes
        for image_id in parallel.track(sizes, len(sizes), f"Matching by {kind}"):
            matcher.add(image_id, store.images.get(image_id))
        matches[kind] = matcher.result()
        print(f"AP by {kind} ...", file=sys.stderr, flush=True)
        results[kind] = precision_recall(
            ground_truth, store.images, IOU_TYPES[kind], image_ids=sizes.keys()
        )
    if score is None:
        score = working_point.best_score(next(iter(matches.values())))
    counts = {kind: working_point.image_counts(own, score) for kind, own in matches.items()}
    return Analysis(score, matches, results, counts)


def describe(
    analysis: Analysis,
    ground_truth: GroundTruth,
    store: DetectionStore,
    allowed_mask_class_ids: Collection[int] | None,
) -> dict[str, Any]:
    """All of a source's figures: {"score", "metrics", "notes", "kinds": {kind: ...}}."""
    metrics: dict[str, float] = {}
    notes: list[str] = list(_counts_of_what_is_left_out(store))
    for kind, result in analysis.results.items():
        metrics |= summarize(
            result,
            kind,
            ground_truth.categories,
            allowed_mask_class_ids=allowed_mask_class_ids,
            per_category_metrics=False,
        ).metrics
        if not metrics.get(f"{kind}/AP"):
            what = f"{kind.capitalize()} AP is {'0' if f'{kind}/AP' in metrics else 'undefined'}"
            reasons = explain_zero_ap(ground_truth, store, include_mask=kind == "mask")
            notes += [f"{what}: {reason}" for reason in reasons]
    return {
        "score": analysis.score,
        "metrics": {name: round(value, 6) for name, value in metrics.items()},
        "notes": notes,
        "kinds": {
            kind: _describe_kind(analysis, kind, ground_truth, store) for kind in analysis.matches
        },
    }


def _describe_kind(
    analysis: Analysis, kind: str, ground_truth: GroundTruth, store: DetectionStore
) -> dict[str, Any]:
    print(f"Errors by {kind}, AP by crowding ...", file=sys.stderr, flush=True)
    matches, result, score = analysis.matches[kind], analysis.results[kind], analysis.score
    ids = list(ground_truth.categories)
    objects = matches.objects["category"]
    groups = {
        "size": breakdown.by_size(matches, result, score),
        "number": breakdown.by_number(matches, ground_truth, store.images, IOU_TYPES[kind], score),
        "overlap": breakdown.by_overlap(matches, score),
    }
    return {
        "objects": [int(np.count_nonzero(objects == category_id)) for category_id in ids],
        "ap": [
            _numbers(result.average_precision([i], iou=iou) for iou in (None, 0.5, 0.75))
            for i in ids
        ],
        "curves": _curves(result, ids),
        "errors": _errors(matches, ids, score),
        "groups": {name: [_group(group) for group in own] for name, own in groups.items()},
        "scores": [_scores(matches, None), *(_scores(matches, category_id) for category_id in ids)],
        "images": _images(analysis, kind, ids),
    }


def _curves(result: PrecisionRecall, category_ids: list[int]) -> dict[str, Any]:
    """Precision at 101 recalls: first of all classes together (their mean), then of each."""
    curves: list[Any] = []
    has_objects = result.precision[0, 0, :, _AREA, _MAX_DETECTIONS] >= 0  # more than crowds
    for own in (category_ids, *([category_id] for category_id in category_ids)):
        chosen = np.isin(result.category_ids, own) & has_objects
        precision = result.precision[:, :, chosen, _AREA, _MAX_DETECTIONS]
        if not chosen.any():
            curves.append(None)
            continue
        lines = [precision[round((iou - 0.5) / 0.05)].mean(axis=-1) for iou in _CURVE_IOUS]
        lines.append(precision.mean(axis=(0, -1)))
        curves.append([_numbers(line, 3) for line in lines])
    names = [f"IoU {iou:.2f}" for iou in _CURVE_IOUS]
    return {"names": [*names, "IoU 0.50 to 0.95"], "lines": curves}


def _errors(matches: Matches, ids: list[int], score: float) -> dict[str, Any]:
    """Errors by class and kind: among all detections, above the score, and what they cost."""
    costs = errors.error_costs(matches, ids)
    return {
        "all": costs.counts.tolist(),
        "shown": errors.count_errors(matches, ids, score).tolist(),
        "costs": [_numbers(row) for row in costs.costs],
        "total_costs": _numbers(costs.total_costs),
    }


def _group(group: breakdown.Group) -> dict[str, Any]:
    averages = group.average_precision
    return {
        "name": group.name,
        "images": group.images,
        "objects": group.objects,
        "recall": _number(group.recall),
        "ap": None if averages is None else _numbers(averages),
    }


def _scores(matches: Matches, category_id: int | None) -> dict[str, Any]:
    bins = scores.calibration(matches, category_id)
    precision, recall = scores.precision_and_recall(matches, category_id)
    return {
        "counts": bins.counts.tolist(),
        "scores": _numbers(bins.scores),
        "precision": _numbers(bins.precision),
        "expected_error": _number(bins.expected_error),
        "by_threshold": [_numbers(precision, 3), _numbers(recall, 3)],
    }


def _images(analysis: Analysis, kind: str, ids: list[int]) -> dict[str, Any]:
    """Columns with an entry an image; what is in few images as flat lists of threes."""
    matches, counts = analysis.matches[kind], analysis.counts[kind]
    return {
        "correct": counts.correct.tolist(),
        "wrong": counts.wrong.tolist(),
        "missing": counts.missing.tolist(),
        "quality": _numbers(counts.quality, 3),
        # (class of the object, class of the detection, how often); the background is last
        "confusions": _by_image(matches, working_point.confusions(matches, ids, analysis.score)),
        # (class, kind of error, how often)
        "errors": _by_image(matches, working_point.image_errors(matches, ids, analysis.score)),
    }


def _by_image(matches: Matches, rows: np.ndarray) -> list[list[int]]:
    """Rows [m, 4] of (image, ...), grouped and without the image."""
    ends = np.searchsorted(rows[:, 0], np.arange(len(matches.image_ids) + 1))
    return [rows[a:b, 1:].ravel().tolist() for a, b in itertools.pairwise(ends)]


def _counts_of_what_is_left_out(store: DetectionStore) -> Iterable[str]:
    for count, what in (
        (store.unknown_images.total(), "images with detections are not in the data: left out."),
        (
            store.unknown_categories.total(),
            "detections are of categories that the data do not have, and are left out: ids "
            f"{', '.join(map(str, sorted(store.unknown_categories)[:10]))}.",
        ),
        (store.not_finite, "detections have NaN or infinite boxes or scores: left out."),
    ):
        if count:
            yield f"{count} {what}"


def _numbers(values: Iterable[float | None], digits: int = 4) -> list[float | None]:
    return [_number(value, digits) for value in values]


def _number(value: float | None, digits: int = 4) -> float | None:
    return None if value is None or np.isnan(value) else round(float(value), digits)

"""COCO metrics of detections that come batch by batch."""

import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from official_maskrcnn.evaluation.average_precision import (
    BACKENDS,
    IouType,
    precision_recall,
)
from official_maskrcnn.evaluation.detections import DetectionStore
from official_maskrcnn.evaluation.diagnosis import explain_zero_ap
from official_maskrcnn.evaluation.ground_truth import GroundTruth, load_ground_truth
from official_maskrcnn.evaluation.metrics import summarize
from official_maskrcnn.files import read_json, write_json_list

_logger = logging.getLogger(__name__)
PADDING_IMAGE_ID = -1  # of examples that only fill the last batch


class CocoEvaluator:
    """Collects detections and computes COCO's box and mask AP.

    Masks become run-length encodings as they come, and all detections go to a temporary file, so
    that memory does not grow with them. Every image of the ground truth counts exactly once: one
    that comes twice counts as it came first, one in which nothing was detected counts as missed.

        evaluator = CocoEvaluator("instances_val2017.json", per_category_metrics=True)
        for batch in batches:
            evaluator.update(batch["source_id"], **model(batch))
        metrics = evaluator.result()

    With several workers, each has its own evaluator, and one merges the others' `state()`.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any] | str | os.PathLike[str] | GroundTruth,
        include_mask: bool = True,
        allowed_mask_class_ids: Sequence[int] | None = None,
        per_category_metrics: bool = False,
        backend: str = "faster_coco_eval",
        only_seen_images: bool = False,
    ) -> None:
        """Reads the ground truth.

        Args:
          ground_truth: a COCO dict, the path of an annotation file, or one read before.
          include_mask: whether to compute mask AP too.
          allowed_mask_class_ids: classes that have masks in training; adds AP and AP50 over these
            ("seen") and over all others ("unseen").
          per_category_metrics: whether to add AP and AP50 of each class.
          backend: what computes AP: "faster_coco_eval", or "pycocotools", with the same result.
          only_seen_images: whether AP is over the images that came rather than over all of the
            ground truth, for evaluations of a limited number of steps.

        Raises:
          UserError: the ground truth cannot be read.
          ValueError: there is no such backend.
        """
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
        if not isinstance(ground_truth, GroundTruth):
            ground_truth = load_ground_truth(ground_truth)
        self._ground_truth = ground_truth
        self._include_mask = include_mask
        self._allowed_mask_class_ids = allowed_mask_class_ids
        self._per_category_metrics = per_category_metrics
        self._backend: str = backend
        self._only_seen_images = only_seen_images
        self._detections = DetectionStore()

    def update(
        self,
        source_id: np.ndarray,
        num_detections: np.ndarray,
        detection_boxes: np.ndarray,
        detection_classes: np.ndarray,
        detection_scores: np.ndarray,
        detection_masks: np.ndarray | None = None,
        detection_outer_boxes: np.ndarray | None = None,
    ) -> None:
        """Takes a batch of detections.

        Args:
          source_id: [b] image ids; -1 marks an example that only fills the batch.
          num_detections: [b]; slots from there on are padding.
          detection_boxes: [b, n, 4] (ymin, xmin, ymax, xmax) in pixels of the original image.
          detection_classes: [b, n] category ids; those not in the ground truth are left out.
          detection_scores: [b, n].
          detection_masks: [b, n, mask_height, mask_width] probabilities relative to the boxes;
            needed if masks are evaluated.
          detection_outer_boxes: [b, n, 4] that the masks are relative to, if not to the boxes.

        Raises:
          ValueError: masks are evaluated but there are none.
        """
        if self._include_mask and detection_masks is None:
            raise ValueError("include_mask is set, but the detections have no detection_masks")
        counts = np.asarray(num_detections).reshape(-1)
        for i, image_id in enumerate(np.asarray(source_id).reshape(-1).tolist()):
            if image_id == PADDING_IMAGE_ID:
                continue
            real = slice(0, int(counts[i]))
            self._detections.add_image(
                self._ground_truth,
                image_id,
                np.asarray(detection_boxes[i])[real],
                np.asarray(detection_classes[i])[real],
                np.asarray(detection_scores[i])[real],
                np.asarray(detection_masks[i])[real]
                if self._include_mask and detection_masks is not None
                else None,
                None if detection_outer_boxes is None else detection_outer_boxes[i][real],
            )

    def add_results(self, results: Iterable[Mapping[str, Any]]) -> None:
        """Takes detections in COCO's results format; all of an image's in one call.

        Raises:
          UserError: a result lacks a field or has an unusable mask.
        """
        self._detections.add_results(self._ground_truth, results, self._include_mask)

    def result(self) -> dict[str, float]:
        """Metrics of the detections so far; a metric without any ground truth is left out.

        Names: box/AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl; box/AP/seen,
        box/AP/unseen, box/AP/class/NAME and AP50 alike; mask/... likewise.
        """
        image_ids = self._image_ids()
        self._log_counts()
        metrics: dict[str, float] = {}
        missing: list[str] = []
        iou_types: dict[str, IouType] = {"box": "bbox", "mask": "segm"}
        for kind in ("box", "mask") if self._include_mask else ("box",):
            start = time.monotonic()
            _logger.info("%s AP of %d detections ...", kind, self._detections.images.num_detections)
            result = precision_recall(
                self._ground_truth,
                self._detections.images,
                iou_types[kind],
                image_ids=image_ids,
                backend=self._backend,
            )
            summary = summarize(
                result,
                kind,
                self._ground_truth.categories,
                allowed_mask_class_ids=self._allowed_mask_class_ids,
                per_category_metrics=self._per_category_metrics,
            )
            seconds = time.monotonic() - start
            _logger.info("%s AP over %d images took %.1f s", kind, len(image_ids), seconds)
            metrics |= summary.metrics
            missing += summary.without_ground_truth
            if metrics.get(f"{kind}/AP") == 0.0:
                for reason in self.explain_zero_ap(include_mask=kind == "mask"):
                    _logger.warning("%s AP is 0: %s", kind, reason)
        if missing:
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            _logger.warning("%d metrics without ground truth left out: %s", len(missing), shown)
        return metrics

    def explain_zero_ap(self, include_mask: bool | None = None) -> list[str]:
        """Why the detections so far would score an AP of 0; see `diagnosis.explain_zero_ap`."""
        if include_mask is None:
            include_mask = self._include_mask
        return explain_zero_ap(self._ground_truth, self._detections, include_mask)

    def results(self) -> list[dict[str, Any]]:
        """The detections so far in COCO's results format."""
        return list(self._detections.results(self._ground_truth))

    def write_results(self, path: str | os.PathLike[str]) -> None:
        """Writes the detections so far as a COCO results file; the file is whole or absent."""
        write_json_list(path, self._detections.results(self._ground_truth))

    def state(self) -> DetectionStore:
        """The detections so far, picklable, for another worker's `merge`."""
        return self._detections

    def merge(self, other_state: DetectionStore) -> None:
        """Takes over another worker's detections; images that both have count once."""
        self._detections.merge(other_state)

    def reset(self) -> None:
        """Forgets all detections."""
        self._detections = DetectionStore()

    def _image_ids(self) -> Collection[int]:
        """The images that AP is over."""
        all_ids, seen = self._ground_truth.image_sizes, self._detections.images
        if len(seen) < len(all_ids):
            if self._only_seen_images and seen:
                _logger.warning(
                    "AP is over the %d images that were evaluated, not over all %d of the ground "
                    "truth",
                    len(seen),
                    len(all_ids),
                )
                return set(seen)
            _logger.warning(
                "%d of the %d images of the ground truth were not evaluated: they count as missed",
                len(all_ids) - len(seen),
                len(all_ids),
            )
        return all_ids.keys()

    def _log_counts(self) -> None:
        store = self._detections
        for count, what in (
            (store.repeated_images, "images came more than once: only the first time counts"),
            (store.unknown_images.total(), "images are not in the ground truth: left out"),
            (
                store.unknown_categories.total(),
                f"detections are of categories that are not in the ground truth "
                f"{sorted(store.unknown_categories)[:10]}: left out",
            ),
            (store.not_finite, "detections have NaN or infinite boxes or scores: left out"),
        ):
            if count:
                _logger.warning("%d %s", count, what)


def evaluate_results(
    results: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    ground_truth: Mapping[str, Any] | str | os.PathLike[str] | GroundTruth,
    include_mask: bool = True,
    **options: Any,
) -> dict[str, float]:
    """Metrics of a COCO results file, or of its content.

    Args:
      results: path of a JSON file, or the list in it.
      ground_truth: as for CocoEvaluator.
      include_mask: as for CocoEvaluator.
      **options: further arguments of CocoEvaluator.

    Raises:
      UserError: a file cannot be read, or a result lacks a field or has an unusable mask.
    """
    evaluator = CocoEvaluator(ground_truth, include_mask, **options)
    if isinstance(results, str | os.PathLike):
        evaluator.add_results(read_json(results))
    else:
        evaluator.add_results(results)
    return evaluator.result()

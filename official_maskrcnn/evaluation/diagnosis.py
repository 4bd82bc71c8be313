"""Why is AP 0? The usual mistakes, each looked for in the detections themselves."""

from collections.abc import Collection, Iterator

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation.detections import DetectionStore
from official_maskrcnn.evaluation.ground_truth import GroundTruth

_LEAST_IOU = 0.5  # what COCO's AP asks for


def explain_zero_ap(
    ground_truth: GroundTruth, detections: DetectionStore, include_mask: bool = False
) -> list[str]:
    """Reasons that can be read off detections that score an AP of 0.

    Args:
      ground_truth: what they were compared with.
      detections: all of them, with the counts of those that were left out.
      include_mask: whether to look into masks too.

    Returns:
      Sentences, the most basic reason first; at least one.
    """
    if not ground_truth.annotations:
        return ["The ground truth has no annotations."]
    if not detections.images:
        return [_no_image(ground_truth, detections)]
    if detections.images.num_detections == 0:
        return list(_no_detection(ground_truth, detections))
    reasons = [*_ids(ground_truth, detections), *_boxes(ground_truth, detections)]
    if include_mask:
        reasons += _masks(ground_truth, detections)
    highest = max(found.scores.max(initial=0.0) for found in detections.images.values())
    return reasons or [
        f"Some detections fit the ground truth; the highest score of any is {highest:.3g}. They "
        "are outnumbered by wrong ones, or lie on crowds only: the model may need more training."
    ]


def _no_image(ground_truth: GroundTruth, detections: DetectionStore) -> str:
    if not detections.unknown_images:
        return "No image was evaluated."
    return (
        f"The image ids do not overlap: evaluated were {_shown(detections.unknown_images)}, the "
        f"ground truth has {_shown(ground_truth.image_sizes)}."
    )


def _no_detection(ground_truth: GroundTruth, detections: DetectionStore) -> Iterator[str]:
    if detections.unknown_categories:
        yield (
            "The category ids do not overlap: detected were "
            f"{_shown(detections.unknown_categories)}, the ground truth has "
            f"{_shown(ground_truth.categories)}."
        )
    if detections.not_finite:
        yield f"{detections.not_finite} detections have NaN or infinite boxes or scores."
    if not detections.unknown_categories and not detections.not_finite:
        yield (
            f"There is no detection in any of {len(detections.images)} images: all scores may lie "
            "below the model's score threshold, as they do before training."
        )


def _ids(ground_truth: GroundTruth, detections: DetectionStore) -> Iterator[str]:
    annotated = {annotation["category_id"] for annotation in ground_truth.annotations}
    detected = set(np.unique(np.concatenate([f.classes for f in detections.images.values()])))
    if not annotated & detected:
        yield (
            f"The category ids do not overlap: detected were {_shown(detected)}, the ground truth "
            f"has annotations of {_shown(annotated)}."
        )
    with_objects = {annotation["image_id"] for annotation in ground_truth.annotations}
    with_detections = {i for i, found in detections.images.items() if len(found.classes)}
    if not with_objects & with_detections:
        yield (
            f"No image has both detections and annotations: detections are in images "
            f"{_shown(with_detections)}, annotations in {_shown(with_objects)}."
        )


def _boxes(ground_truth: GroundTruth, detections: DetectionStore) -> Iterator[str]:
    boxes = np.concatenate([found.boxes for found in detections.images.values()])
    num_found = [len(found.boxes) for found in detections.images.values()]
    sizes = [ground_truth.image_sizes[i] for i in detections.images]
    ends = np.repeat(np.array(sizes, np.float64), num_found, axis=0)[:, ::-1]  # [n, 2] of (x, y)
    if (boxes[:, :2] + boxes[:, 2:]).max() <= 1.0 and ends.max() > 2.0:
        yield "All box coordinates are at most 1: they look normalised, pixels are expected."
        return
    if not (boxes[:, 2:] > 0).all(axis=1).any():
        yield "All boxes are empty: their (ymin, xmin, ymax, xmax) may be in another order."
        return
    if ((boxes[:, :2] >= ends) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(axis=1).all():
        yield "All boxes lie outside their images: they may be in the pixels of the network input."
        return
    best, best_classes = _best_iou(ground_truth, detections, slice(None))
    if best >= _LEAST_IOU and best_classes is not None:
        yield (
            f"Boxes fit objects of other classes (IoU {best:.2f}, detected class "
            f"{best_classes[0]} on an object of class {best_classes[1]}): are the ids shifted?"
        )
    elif best < _LEAST_IOU:
        swapped, _ = _best_iou(ground_truth, detections, [1, 0, 3, 2])
        if swapped >= _LEAST_IOU:
            yield (
                f"With x and y exchanged boxes fit (IoU {swapped:.2f} instead of {best:.2f}): "
                "(ymin, xmin, ymax, xmax) is expected."
            )
        else:
            yield f"No box reaches an IoU of {_LEAST_IOU} with any object; the best is {best:.2f}."


def _best_iou(
    ground_truth: GroundTruth, detections: DetectionStore, order: slice | list[int]
) -> tuple[float, tuple[int, int] | None]:
    """Best box IoU of any detection with an object of any class.

    Returns:
      The IoU, and the classes of detection and object unless there is one as good with classes
      that agree.
    """
    best = {True: (0.0, (0, 0)), False: (0.0, (0, 0))}  # by whether classes agree
    objects: dict[int, list[dict]] = {}
    for annotation in ground_truth.annotations:
        if not annotation["iscrowd"]:
            objects.setdefault(annotation["image_id"], []).append(annotation)
    for image_id, found in detections.images.items():
        if image_id not in objects or not len(found.boxes):
            continue
        truth = objects[image_id]
        truth_boxes = np.array([annotation["bbox"] for annotation in truth], np.float64)
        truth_classes = np.array([annotation["category_id"] for annotation in truth])
        boxes = np.ascontiguousarray(found.boxes[:, order])
        ious = coco_mask.iou(boxes, truth_boxes, [0] * len(truth))  # [n, objects]
        agree = found.classes[:, None] == truth_classes
        for agrees in (True, False):
            candidates = np.where(agree == agrees, ious, -1.0)
            i, j = np.unravel_index(candidates.argmax(), candidates.shape)
            if candidates[i, j] > best[agrees][0]:
                classes = (int(found.classes[i]), int(truth_classes[j]))
                best[agrees] = (float(candidates[i, j]), classes)
    if best[True][0] >= min(best[False][0], _LEAST_IOU):
        return max(best[True][0], 0.0), None
    return best[False]


def _masks(ground_truth: GroundTruth, detections: DetectionStore) -> Iterator[str]:
    if all(annotation["segmentation"] is None for annotation in ground_truth.annotations):
        yield "The ground truth has boxes but no masks."
        return
    for found in detections.images.values():
        if found.mask_areas is not None and found.mask_areas.any():
            return
    yield "No mask has a pixel: all probabilities are below 0.5, or boxes contain no pixel."


def _shown(ids: Collection[int]) -> str:
    text = ", ".join(str(i) for i in sorted(ids)[:5])
    return f"{text}, ... ({len(ids)} in all)" if len(ids) > 5 else text or "none"

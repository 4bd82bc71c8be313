"""Detections in, COCO's average precision out."""

from official_maskrcnn.evaluation.coco_evaluator import CocoEvaluator, evaluate_results
from official_maskrcnn.evaluation.detections import DetectionStore
from official_maskrcnn.evaluation.diagnosis import explain_zero_ap
from official_maskrcnn.evaluation.ground_truth import GroundTruth, load_ground_truth
from official_maskrcnn.evaluation.pasting import paste_crop, rle_from_crop, rle_from_crops

__all__ = [
    "CocoEvaluator",
    "DetectionStore",
    "GroundTruth",
    "evaluate_results",
    "explain_zero_ap",
    "load_ground_truth",
    "paste_crop",
    "rle_from_crop",
    "rle_from_crops",
]

"""What a score is worth: how often it is right, and what a threshold on it leaves."""

import dataclasses

import numpy as np

from official_maskrcnn.evaluation.analysis.matching import Matches

THRESHOLDS = np.linspace(0.0, 1.0, 101)
NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scores in ten equal bins from 0 to 1, and how often they are right at an IoU of 0.5.

    Attributes:
      counts: int64 [10], detections.
      scores: float64 [10], their mean score; NaN where there are none.
      precision: float64 [10], the share of them that is correct; NaN where there are none.
    """

    counts: np.ndarray
    scores: np.ndarray
    precision: np.ndarray

    @property
    def expected_error(self) -> float:
        """Expected calibration error (Guo et al., arXiv 1706.04599); NaN without detections."""
        if not self.counts.sum():
            return float("nan")
        gaps = np.where(self.counts > 0, np.abs(self.precision - self.scores), 0.0)
        return float(np.average(gaps, weights=self.counts))


def calibration(matches: Matches, category_id: int | None = None) -> Calibration:
    """Calibration of the detections of a category, or of all."""
    scores, correct, _ = _select(matches, category_id)
    bins = np.clip((scores * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = np.bincount(bins, values, minlength=NUM_BINS)
        return np.divide(sums, counts, out=np.full(NUM_BINS, np.nan), where=counts > 0)

    return Calibration(counts, mean(scores), mean(correct.astype(np.float64)))


def precision_and_recall(
    matches: Matches, category_id: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at an IoU of 0.5 of detections that reach each of THRESHOLDS.

    Of a category, or of all classes together.

    Returns:
      Precision [101], NaN where no detection is left, and recall [101], NaN without objects.
    """
    scores, correct, num_objects = _select(matches, category_id)
    order = np.argsort(-scores, kind="stable")
    true_positives = np.concatenate([[0], np.cumsum(correct[order])])
    left = np.searchsorted(-scores[order], -THRESHOLDS, side="right")  # detections
    with np.errstate(invalid="ignore"):
        return true_positives[left] / left, true_positives[left] / np.float64(num_objects)


def _select(matches: Matches, category_id: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores [d], whether they are correct [d], and the number of objects."""
    chosen, objects = matches.counted(), matches.objects
    if category_id is not None:
        chosen &= matches.found["category"] == category_id
        objects = objects[objects["category"] == category_id]
    return matches.found["score"][chosen], matches.correct()[chosen], len(objects)

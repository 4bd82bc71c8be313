"""Detections as a user sees them: those of at least a score, counted by image and by class."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from official_maskrcnn.evaluation.analysis.matching import ERRORS, Matches, Outcome

_DEFAULT_SCORE = 0.5  # where there is no detection to tell a better one


def best_score(matches: Matches) -> float:
    """The score threshold of the highest F1 over all classes, rounded down to 3 digits."""
    found = matches.found[matches.counted()]
    found = found[np.argsort(-found["score"], kind="stable")]
    correct = np.cumsum(found["outcome"] == Outcome.CORRECT)
    if not len(found) or not correct[-1]:
        return _DEFAULT_SCORE
    f1 = 2 * correct / (np.arange(1, len(found) + 1) + len(matches.objects))
    ends = np.append(found["score"][1:] != found["score"][:-1], True)  # equal scores go together
    best = found["score"][np.where(ends, f1, 0.0).argmax()]
    return float(np.floor(best * 1000) / 1000)


@dataclasses.dataclass(frozen=True)
class ImageCounts:
    """Each image by itself.

    Attributes:
      correct: int64 [images].
      wrong: int64 [images], detections that are errors.
      missing: int64 [images], objects that are not found.
      quality: float64 [images], the sum of the IoUs of what is found, by
        (correct + wrong / 2 + missing / 2): panoptic quality (Kirillov et al., arXiv 1801.00868)
        over all classes at once. NaN where there is neither an object nor a detection.
    """

    correct: np.ndarray
    wrong: np.ndarray
    missing: np.ndarray
    quality: np.ndarray


def image_counts(matches: Matches, score: float) -> ImageCounts:
    """Counts in each image, with detections of at least that score."""
    size = len(matches.image_ids)
    found = matches.found[matches.counted() & (matches.found["score"] >= score)]
    is_correct = found["outcome"] == Outcome.CORRECT
    correct = np.bincount(found["image"][is_correct], minlength=size)
    wrong = np.bincount(found["image"][~is_correct], minlength=size)
    objects = np.bincount(matches.objects["image"], minlength=size)
    ious = np.bincount(found["image"][is_correct], found["iou"][is_correct], minlength=size)
    total = correct + wrong / 2 + (objects - correct) / 2
    quality = np.divide(ious, total, out=np.full(size, np.nan), where=total > 0)
    return ImageCounts(correct, wrong, objects - correct, quality)


def confusions(matches: Matches, category_ids: Sequence[int], score: float) -> np.ndarray:
    """Which class is taken for which, in which image.

    Objects that are found stand on the diagonal. Of what is left over, a detection goes with an
    object of another class that it overlaps by an IoU of 0.5, higher scores first, each once. What
    is still left over goes with the background.

    Returns:
      int64 [m, 4] of (image, class of the object, class of the detection, how often), where an
      image is a place in image_ids and a class one in `category_ids`, or their number for the
      background.
    """
    found, objects = matches.found, matches.objects
    places = {category_id: place for place, category_id in enumerate(category_ids)}
    background = len(places)
    shown = matches.counted() & (found["score"] >= score)
    partner = np.where(shown & matches.correct(), found["object"], -1)  # [d]
    taken = (objects["score"] > -np.inf) & (objects["score"] >= score)  # [n]
    pairs = matches.confusions
    pairs = pairs[np.lexsort([-pairs["iou"], -found["score"][pairs["found"]]])]
    for pair in pairs[shown[pairs["found"]]]:
        if partner[pair["found"]] < 0 and not taken[pair["object"]]:
            partner[pair["found"]] = pair["object"]
            taken[pair["object"]] = True
    rows = [
        (
            found["image"][i],
            places[objects["category"][partner[i]]] if partner[i] >= 0 else background,
            places[found["category"][i]],
        )
        for i in np.flatnonzero(shown)
    ]
    rows += [
        (objects["image"][j], places[objects["category"][j]], background)
        for j in np.flatnonzero(~taken)
    ]
    return _counted(rows)


def image_errors(matches: Matches, category_ids: Sequence[int], score: float) -> np.ndarray:
    """Kinds of errors in each image, among detections of at least that score.

    Returns:
      int64 [m, 4] of (image, class, kind as in ERRORS, how often); the class is that of the
      detection, or of the missed object, as a place in `category_ids`.
    """
    places = {category_id: place for place, category_id in enumerate(category_ids)}
    found = matches.found[matches.found["score"] >= score]
    found = found[np.isin(found["outcome"], ERRORS)]
    missed = matches.objects[matches.missed(score)]
    rows = [(f["image"], places[f["category"]], f["outcome"]) for f in found]
    rows += [(o["image"], places[o["category"]], Outcome.MISSED) for o in missed]
    return _counted(rows)


def _counted(rows: list[tuple[int, int, int]]) -> np.ndarray:
    """Int64 [m, 4]: the different rows, each with how often it is there."""
    different, counts = np.unique(
        np.array(rows, np.int64).reshape(-1, 3), axis=0, return_counts=True
    )
    return np.concatenate([different, counts[:, None]], axis=1)

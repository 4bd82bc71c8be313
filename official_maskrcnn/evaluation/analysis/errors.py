"""What each kind of error costs: AP50 with these errors alone put right, less AP50 as it is."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from official_maskrcnn.evaluation.analysis.matching import ERRORS, ON_OBJECT, Matches, Outcome

_RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO reads the precision


@dataclasses.dataclass(frozen=True)
class ErrorCosts:
    """Errors by category and kind, in the order of ERRORS.

    Attributes:
      counts: int64 [k, 6]; of the class that was detected, for missed objects of their own.
      costs: float64 [k, 6], AP50 lost; NaN for a category without objects.
      average_precision: float64 [k], AP50 as it is; NaN for a category without objects.
    """

    counts: np.ndarray
    costs: np.ndarray
    average_precision: np.ndarray

    @property
    def total_costs(self) -> np.ndarray:
        """Float64 [6]: the mean over the categories with objects; NaN if there is none."""
        with_objects = ~np.isnan(self.average_precision)
        if not with_objects.any():
            return np.full(len(ERRORS), np.nan)
        return self.costs[with_objects].mean(axis=0)


def error_costs(matches: Matches, category_ids: Sequence[int]) -> ErrorCosts:
    """Counts the errors and tells what each kind costs, each put right alone.

    As in TIDE (arXiv 2008.08115, section 2.3): a class or localisation error finds the object that
    it lies on, or goes away if a higher score finds that; errors of both kinds, duplicates and
    detections on background go away; missed objects are not asked for. The costs do not add up to
    what is lost in all, as AP is no sum. (In tidecv 1.0.1 the best class error on an object also
    takes it from localisation errors, and the other way round, which lowers both costs a little.)
    """
    as_it_is = average_precision(matches, category_ids)
    fixed = [average_precision(matches, category_ids, [error]) for error in ERRORS]
    return ErrorCosts(
        count_errors(matches, category_ids), np.stack(fixed, 1) - as_it_is[:, None], as_it_is
    )


def count_errors(
    matches: Matches, category_ids: Sequence[int], score: float = -np.inf
) -> np.ndarray:
    """Errors among detections of at least that score, int64 [k, 6] in the order of ERRORS."""
    found = matches.found[matches.found["score"] >= score]
    counts = np.zeros([len(category_ids), len(ERRORS)], np.int64)
    for error in ERRORS:
        rows = found["category"][found["outcome"] == error]
        if error == Outcome.MISSED:
            rows = matches.objects["category"][matches.missed(score)]
        values, numbers = np.unique(rows, return_counts=True)
        counts[:, error] = (np.asarray(category_ids)[:, None] == values) @ numbers
    return counts


def average_precision(
    matches: Matches, category_ids: Sequence[int], fixed: Collection[Outcome] = ()
) -> np.ndarray:
    """AP at IoU 0.5 of each category, as COCO's, with some kinds of errors put right.

    Returns:
      Float64 [k]; NaN where there are no objects to begin with. Where none are left to be found,
      it is 1 without a wrong detection, and 0 with one.
    """
    found, objects = matches.found, matches.objects
    category, positive = found["category"].copy(), matches.correct()
    kept = matches.counted() & ~np.isin(found["outcome"], list(fixed))
    finders = _finders(matches, [error for error in ON_OBJECT if error in fixed])
    kept[finders] = positive[finders] = True
    category[finders] = objects["category"][found["object"][finders]]
    wanted = ~matches.missed() if Outcome.MISSED in fixed else np.ones(len(objects), bool)

    order = np.argsort(-found["score"], kind="stable")
    order = order[kept[order]]
    category, positive = category[order], positive[order]
    result = np.full(len(category_ids), np.nan)
    for i, category_id in enumerate(category_ids):
        own = objects["category"] == category_id
        if own.any():
            hits = positive[category == category_id]
            result[i] = _interpolated(hits, int(np.count_nonzero(own & wanted)))
    return result


def _finders(matches: Matches, errors: list[Outcome]) -> np.ndarray:
    """Rows of the errors that find an object once they are right: the best one of each object."""
    found = matches.found
    rows = np.flatnonzero(np.isin(found["outcome"], errors))
    rows = rows[matches.objects["score"][found["object"][rows]] == -np.inf]
    rows = rows[np.argsort(-found["score"][rows], kind="stable")]
    _, first = np.unique(found["object"][rows], return_index=True)
    return rows[first]


def _interpolated(hits: np.ndarray, num_objects: int) -> float:
    """Mean of the precision at 101 recalls; `hits` bool [d] by descending score."""
    if num_objects == 0:
        return float(len(hits) == 0)
    if not len(hits):
        return 0.0
    true_positives = np.cumsum(hits)
    precision = true_positives / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true_positives / num_objects, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(hits))].mean())

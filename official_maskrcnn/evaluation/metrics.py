"""Names of the metrics, and what each is made of."""

import dataclasses
from collections.abc import Collection, Mapping

from official_maskrcnn.evaluation.average_precision import PrecisionRecall


@dataclasses.dataclass(frozen=True)
class Summary:
    """Metrics by name, and the names of those that have no ground truth to be measured on."""

    metrics: dict[str, float]
    without_ground_truth: list[str]


def summarize(
    result: PrecisionRecall,
    kind: str,
    categories: Mapping[int, str],
    *,
    allowed_mask_class_ids: Collection[int] | None,
    per_category_metrics: bool,
) -> Summary:
    """COCO's twelve figures, and those of classes with and without masks and of each class.

    Args:
      result: of all categories.
      kind: "box" or "mask", the first part of the names.
      categories: names by category id.
      allowed_mask_class_ids: the classes that "seen" averages over; "unseen" takes the others.
        None: no split.
      per_category_metrics: whether to add kind/AP/class/NAME and kind/AP50/class/NAME.
    """
    average = result.average_precision
    values: dict[str, float | None] = {
        "AP": average(),
        "AP50": average(iou=0.5),
        "AP75": average(iou=0.75),
        **{f"AP{area}": average(area=area) for area in "sml"},
        **{f"AR{count}": result.average_recall(count) for count in ("1", "10", "100")},
        **{f"AR{area}": result.average_recall(area=area) for area in "sml"},
    }
    subsets: dict[str, Collection[int]] = {}
    if allowed_mask_class_ids is not None:
        subsets["seen"] = set(allowed_mask_class_ids)
        subsets["unseen"] = categories.keys() - set(allowed_mask_class_ids)
    if per_category_metrics:
        subsets |= {f"class/{name}": [category_id] for category_id, name in categories.items()}
    for subset, category_ids in subsets.items():
        values[f"AP/{subset}"] = average(category_ids)
        values[f"AP50/{subset}"] = average(category_ids, iou=0.5)
    return Summary(
        {f"{kind}/{name}": value for name, value in values.items() if value is not None},
        [f"{kind}/{name}" for name, value in values.items() if value is None],
    )

"""Errors and what they cost, confusions, calibration and breakdowns, on cases done by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation import GroundTruth, evaluate_results, load_ground_truth
from official_maskrcnn.evaluation.analysis import breakdown, errors, scores, working_point
from official_maskrcnn.evaluation.analysis.matching import ERRORS, Matcher, Matches, Outcome
from official_maskrcnn.evaluation.average_precision import precision_recall
from official_maskrcnn.evaluation.detections import DetectionStore

_CATEGORIES = [1, 2, 7]
_SIDE = 64  # of an image


def _rectangle(box) -> dict:
    mask = np.zeros([_SIDE, _SIDE], np.uint8, order="F")
    x, y, width, height = box
    mask[y : y + height, x : x + width] = 1
    rle = coco_mask.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def _ground_truth(objects, num_images: int = 2) -> GroundTruth:
    """Objects as (image, category, box (x, y, width, height), maybe iscrowd)."""
    return load_ground_truth(
        {
            "images": [{"id": i, "width": _SIDE, "height": _SIDE} for i in range(num_images)],
            "categories": [{"id": i, "name": f"class {i}"} for i in _CATEGORIES],
            "annotations": [
                {
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(bool(crowd)),
                    "segmentation": _rectangle(box),
                }
                for image, category, box, *crowd in objects
            ],
        }
    )


def _results(detections) -> list[dict]:
    """COCO results of (image, category, box, score)."""
    return [
        {
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "segmentation": _rectangle(box),
            "score": score,
        }
        for image, category, box, score in detections
    ]


def _store(ground_truth: GroundTruth, detections) -> DetectionStore:
    store = DetectionStore()
    store.add_results(ground_truth, _results(detections), include_mask=True)
    return store


def _matches(objects, detections, num_images: int = 2, iou_type="segm") -> Matches:
    ground_truth = _ground_truth(objects, num_images)
    images = _store(ground_truth, detections).images
    matcher = Matcher(ground_truth, iou_type)
    for image_id in ground_truth.image_sizes:
        matcher.add(image_id, images.get(image_id))
    return matcher.result()


_BOX, _FAR = [10, 10, 20, 20], [40, 40, 10, 10]
_HALF = [10, 10, 20, 8]  # an IoU of 0.4 with _BOX
_TENTH = [10, 10, 20, 1]  # an IoU of 0.05 with _BOX


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize(
    ("detections", "outcomes", "is_missed"),
    [
        ([(0, 1, _BOX, 0.9)], [Outcome.CORRECT], False),
        ([(0, 2, _BOX, 0.9)], [Outcome.CLASS], False),
        ([(0, 1, _HALF, 0.9)], [Outcome.LOCALISATION], False),
        ([(0, 2, _HALF, 0.9)], [Outcome.BOTH], True),
        ([(0, 1, _BOX, 0.9), (0, 1, _BOX, 0.8)], [Outcome.CORRECT, Outcome.DUPLICATE], False),
        ([(0, 1, _FAR, 0.9)], [Outcome.BACKGROUND], True),
        ([(0, 1, _TENTH, 0.9)], [Outcome.BACKGROUND], True),
        ([(1, 1, _BOX, 0.9)], [Outcome.BACKGROUND], True),  # in the other image
        ([], [], True),
    ],
)
def test_kinds_of_errors(detections, outcomes, is_missed, iou_type):
    matches = _matches([(0, 1, _BOX)], detections, iou_type=iou_type)
    assert matches.found["outcome"].tolist() == outcomes
    assert matches.missed().tolist() == [is_missed]
    counts = errors.count_errors(matches, _CATEGORIES)
    wrong = [o for o in outcomes if o != Outcome.CORRECT] + [Outcome.MISSED] * is_missed
    assert counts.sum(axis=0).tolist() == [wrong.count(error) for error in ERRORS]


def test_the_higher_score_finds_the_object_wherever_it_stands():
    matches = _matches([(0, 1, _BOX)], [(0, 1, _BOX, 0.3), (0, 1, [11, 10, 20, 20], 0.8)])
    assert matches.found["score"].tolist() == [0.8, 0.3]
    assert matches.found["number"].tolist() == [1, 0]
    assert matches.found["outcome"].tolist() == [Outcome.CORRECT, Outcome.DUPLICATE]
    assert matches.objects["score"].tolist() == [0.8]


def test_what_an_error_costs():
    objects = [(0, 1, _BOX), (1, 1, _BOX)]
    found = [(0, 1, _BOX, 0.9), (1, 1, _BOX, 0.7)]
    # The second one comes third: precision 2/3 at the 50 recalls above one half.
    after_a_wrong_one = (51 + 50 * 2 / 3) / 101
    for wrong, error in [
        ((0, 1, _FAR, 0.8), Outcome.BACKGROUND),
        ((0, 1, _BOX, 0.8), Outcome.DUPLICATE),
        ((0, 1, _HALF, 0.8), Outcome.LOCALISATION),  # its object is found: it goes away
    ]:
        costs = errors.error_costs(_matches(objects, [*found, wrong]), [1])
        assert costs.average_precision == pytest.approx([after_a_wrong_one])
        expected = np.zeros(6)
        expected[error] = 1 - after_a_wrong_one
        assert costs.costs[0] == pytest.approx(expected)
        assert costs.total_costs == pytest.approx(expected)


def test_a_wrong_class_is_put_right_in_the_class_of_the_object():
    objects = [(0, 1, _BOX), (0, 2, _FAR)]
    matches = _matches(objects, [(0, 2, _BOX, 0.9), (0, 2, _FAR, 0.8)])
    costs = errors.error_costs(matches, [1, 2])
    assert costs.average_precision == pytest.approx([0.0, 0.5])  # of class 2 the second is right
    assert costs.costs[:, Outcome.CLASS] == pytest.approx([1.0, 0.5])
    assert costs.counts[:, Outcome.CLASS].tolist() == [0, 1]


def test_one_object_is_found_by_the_best_of_its_errors_only():
    objects = [(0, 1, _BOX), (1, 1, _BOX)]
    matches = _matches(objects, [(0, 1, _HALF, 0.6), (0, 1, [10, 10, 20, 9], 0.9)])
    fixed = errors.average_precision(matches, [1], [Outcome.LOCALISATION])
    assert fixed == pytest.approx([51 / 101])  # one of two is found, and nothing is wrong


def test_missed_objects_cost_what_they_hide():
    objects = [(0, 1, _BOX), (1, 1, _BOX), (1, 1, _FAR), (1, 2, _BOX)]
    costs = errors.error_costs(_matches(objects, [(0, 1, _BOX, 0.9)]), [1, 2, 7])
    # A third of the objects of class 1 is found; of class 2 nothing is, and nothing is wrong.
    assert costs.costs[:, Outcome.MISSED] == pytest.approx([1 - 34 / 101, 1, np.nan], nan_ok=True)
    assert costs.total_costs[Outcome.MISSED] == pytest.approx((2 - 34 / 101) / 2)


def test_perfect_predictions_have_no_errors():
    objects = [(0, 1, _BOX), (0, 2, _FAR), (1, 7, _BOX)]
    matches = _matches(objects, [(i, c, box, 1.0) for i, c, box in objects], num_images=3)
    costs = errors.error_costs(matches, _CATEGORIES)
    assert costs.counts.sum() == 0
    assert np.all(costs.costs == 0)
    assert costs.average_precision == pytest.approx(1.0)
    counts = working_point.image_counts(matches, 0.5)
    assert counts.quality == pytest.approx([1.0, 1.0, np.nan], nan_ok=True)
    assert scores.calibration(matches).expected_error == 0.0
    cells = working_point.confusions(matches, _CATEGORIES, 0.5)
    assert cells.tolist() == [[0, 0, 0, 1], [0, 1, 1, 1], [1, 2, 2, 1]]


def test_without_detections_all_is_missed():
    objects = [(0, 1, _BOX), (1, 2, _BOX)]
    matches = _matches(objects, [])
    costs = errors.error_costs(matches, _CATEGORIES)
    assert costs.counts.sum(axis=0).tolist() == [0, 0, 0, 0, 0, 2]
    assert costs.total_costs == pytest.approx([0, 0, 0, 0, 0, 1])
    assert working_point.best_score(matches) == 0.5
    assert working_point.confusions(matches, _CATEGORIES, 0.5).tolist() == [
        [0, 0, 3, 1],
        [1, 1, 3, 1],
    ]
    assert np.isnan(scores.calibration(matches).expected_error)
    precision, recall = scores.precision_and_recall(matches)
    assert np.isnan(precision).all()
    assert np.all(recall == 0)


def test_without_objects_all_is_wrong():
    matches = _matches([], [(0, 1, _BOX, 0.9), (0, 2, _FAR, 0.4)])
    costs = errors.error_costs(matches, _CATEGORIES)
    assert costs.counts.sum(axis=0).tolist() == [0, 0, 0, 0, 2, 0]
    assert np.isnan(costs.total_costs).all()
    counts = working_point.image_counts(matches, 0.5)
    assert counts.wrong.tolist() == [1, 0]
    assert counts.quality == pytest.approx([0.0, np.nan], nan_ok=True)
    assert breakdown.by_overlap(matches, 0.5)[0].recall is None


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_crowds_are_ignored(iou_type):
    objects = [(0, 1, _BOX), (0, 1, [30, 30, 30, 30], True)]
    detections = [(0, 1, _BOX, 0.8), (0, 1, _FAR, 0.9), (0, 1, [45, 45, 9, 9], 0.7)]
    matches = _matches(objects, detections, iou_type=iou_type)
    assert matches.found["outcome"].tolist() == [
        Outcome.IGNORED,
        Outcome.CORRECT,
        Outcome.IGNORED,
    ]
    assert len(matches.objects) == 1
    assert errors.average_precision(matches, [1]) == pytest.approx([1.0])
    assert working_point.image_counts(matches, 0.0).wrong.tolist() == [0, 0]
    assert working_point.confusions(matches, _CATEGORIES, 0.0).tolist() == [[0, 0, 0, 1]]
    assert scores.calibration(matches).counts.sum() == 1
    # A detection of another class on it is wrong.
    assert _matches(objects, [(0, 2, _FAR, 0.9)]).found["outcome"].tolist() == [Outcome.BACKGROUND]


def test_an_object_without_a_mask_counts_for_boxes_only():
    ground_truth = _ground_truth([(0, 1, _BOX), (0, 1, [12, 10, 20, 20])])
    ground_truth.annotations[0]["segmentation"] = None
    for iou_type, count in (("segm", 1), ("bbox", 2)):
        matcher = Matcher(ground_truth, iou_type)
        matcher.add(0, None)
        objects = matcher.result().objects
        assert len(objects) == count
        assert objects["overlap"] == pytest.approx([18 / 22] * count)  # with the other one


def test_confusions_above_a_score():
    objects = [(0, 1, _BOX), (0, 2, _FAR), (1, 7, _BOX)]
    detections = [
        (0, 2, _BOX, 0.9),  # class 1 taken for class 2
        (0, 7, _BOX, 0.8),  # once more: its object is taken
        (0, 2, _FAR, 0.7),
        (1, 7, _BOX, 0.3),
    ]
    matches = _matches(objects, detections)
    assert working_point.confusions(matches, _CATEGORIES, 0.5).tolist() == [
        [0, 0, 1, 1],
        [0, 1, 1, 1],
        [0, 3, 2, 1],
        [1, 2, 3, 1],
    ]
    assert working_point.image_errors(matches, _CATEGORIES, 0.5).tolist() == [
        [0, 1, Outcome.CLASS, 1],
        [0, 2, Outcome.CLASS, 1],
        [1, 2, Outcome.MISSED, 1],
    ]
    counts = working_point.image_counts(matches, 0.5)
    assert (counts.correct.tolist(), counts.wrong.tolist()) == ([1, 0], [2, 0])
    assert counts.missing.tolist() == [1, 1]
    assert counts.quality == pytest.approx([1 / (1 + 2 / 2 + 1 / 2), 0.0])


def test_an_object_is_missed_below_a_score_unless_an_error_lies_on_it():
    objects = [(0, 1, _BOX), (1, 1, _BOX)]
    matches = _matches(objects, [(0, 1, _BOX, 0.5), (1, 2, _BOX, 0.7)])
    assert matches.missed().tolist() == [False, False]
    assert matches.missed(0.5).tolist() == [False, False]
    assert matches.missed(0.6).tolist() == [True, False]
    assert matches.missed(0.8).tolist() == [True, True]


def test_the_best_score_has_the_highest_f1():
    objects = [(0, 1, _BOX), (1, 1, _BOX)]
    detections = [(0, 1, _BOX, 0.9), (1, 1, _BOX, 0.61239), (0, 1, _FAR, 0.6), (1, 1, _FAR, 0.9)]
    # F1 at 0.9 is 2/4, at 0.612 it is 4/5, at 0.6 it is 4/6.
    assert working_point.best_score(_matches(objects, detections)) == 0.612


def test_calibration():
    objects = [(0, 1, _BOX), (1, 1, _BOX), (0, 2, _FAR)]
    detections = [(0, 1, _BOX, 0.95), (1, 1, _BOX, 0.35), (1, 1, _FAR, 0.37), (0, 2, _FAR, 1.0)]
    found = scores.calibration(_matches(objects, detections))
    assert found.counts.tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 2]
    assert found.scores[[3, 9]] == pytest.approx([0.36, 0.975])
    assert found.precision[[3, 9]] == pytest.approx([0.5, 1.0])
    assert found.expected_error == pytest.approx((0.14 + 0.025) / 2)
    of_one = scores.calibration(_matches(objects, detections), category_id=2)
    assert of_one.counts.sum() == 1


def test_precision_and_recall_by_threshold():
    objects = [(0, 1, _BOX), (1, 1, _BOX)]
    detections = [(0, 1, _BOX, 0.9), (0, 1, _FAR, 0.5), (1, 1, _BOX, 0.25)]
    precision, recall = scores.precision_and_recall(_matches(objects, detections))
    assert precision[[0, 25, 26, 50, 51, 90]] == pytest.approx([2 / 3, 2 / 3, 0.5, 0.5, 1, 1])
    assert np.isnan(precision[91:]).all()
    assert recall[[0, 25, 26, 90, 91]] == pytest.approx([1, 1, 0.5, 0.5, 0])


def test_breakdowns():
    objects = [
        (0, 1, [0, 0, 10, 10]),
        (0, 1, [5, 0, 10, 10]),  # a third of both together
        (0, 2, [30, 30, 34, 34]),
        (1, 1, [0, 0, 10, 10]),
    ]
    found = [(i, c, box, 0.9) for i, c, box in objects[1:]]
    ground_truth = _ground_truth(objects, num_images=3)
    images = _store(ground_truth, found).images
    matches = _matches(objects, found, num_images=3)
    result = precision_recall(ground_truth, images, "segm", image_ids=range(3))
    small, medium, large = breakdown.by_size(matches, result, 0.5)
    assert (small.images, small.objects, small.recall) == (2, 3, pytest.approx(2 / 3))
    assert (medium.images, medium.objects, medium.recall) == (1, 1, 1.0)
    assert (large.objects, large.recall, large.average_precision) == (0, None, (None, None))
    assert small.average_precision == pytest.approx((67 / 101, 67 / 101))
    groups = breakdown.by_number(matches, ground_truth, images, "segm", 0.5)
    assert [(g.name, g.images, g.objects) for g in groups] == [
        ("none", 1, 0),
        ("1", 1, 1),
        ("2 to 3", 1, 3),
    ]
    assert groups[0].average_precision == (None, None)
    assert groups[1].average_precision == pytest.approx((1.0, 1.0))
    assert groups[2].average_precision == pytest.approx(((51 / 101 + 1) / 2,) * 2)
    alone, _, _, overlapping, _ = breakdown.by_overlap(matches, 0.5)
    assert (alone.objects, alone.recall) == (2, 1.0)
    assert (overlapping.objects, overlapping.recall) == (2, 0.5)


_BOXES = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 24)] * 2).map(list)
_OBJECTS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(_CATEGORIES),
        _BOXES,
        st.integers(0, 5).map(lambda n: n == 0),
    ),
    max_size=8,
)


@st.composite
def _scenes(draw):
    """Objects, some of them crowds, and detections, most of them near an object."""
    objects = draw(_OBJECTS)
    wild = draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from(_CATEGORIES), _BOXES, st.integers(1, 19)),
            max_size=6,
        )
    )
    detections = [(i, c, box, score / 20) for i, c, box, score in wild]
    for image, category, (x, y, width, height), _ in objects:
        for _ in range(draw(st.integers(0, 2))):
            box = [x + draw(st.integers(0, 4)), y, width, max(1, height - draw(st.integers(0, 8)))]
            other = draw(st.sampled_from([category, category, *_CATEGORIES]))
            detections.append((image, other, box, draw(st.integers(1, 19)) / 20))
    return objects, detections


@given(_scenes(), st.sampled_from(["segm", "bbox"]))
def test_ap50_is_that_of_the_evaluator_and_all_errors_put_right_give_one(scene, iou_type):
    objects, detections = scene
    matches = _matches(objects, detections, num_images=3, iou_type=iou_type)
    kind = {"segm": "mask", "bbox": "box"}[iou_type]
    metrics = evaluate_results(
        _results(detections), _ground_truth(objects, 3), per_category_metrics=True
    )
    own = errors.average_precision(matches, _CATEGORIES)
    expected = [metrics.get(f"{kind}/AP50/class/class {i}", np.nan) for i in _CATEGORIES]
    assert own == pytest.approx(expected, nan_ok=True)
    assert np.all(np.isnan(own) | (errors.average_precision(matches, _CATEGORIES, ERRORS) == 1.0))
    # Nothing gets worse by detections that go away, or by objects that need not be found.
    costs = errors.error_costs(matches, _CATEGORIES).costs
    harmless = [Outcome.LOCALISATION, Outcome.BOTH, Outcome.DUPLICATE, Outcome.BACKGROUND]
    assert np.all(np.isnan(costs) | (costs >= -1e-12), axis=0)[harmless].all()


@given(_scenes(), st.integers(0, 20))
def test_counts_agree_whichever_way_they_are_made(scene, score):
    score /= 20
    matches = _matches(*scene, num_images=3)
    counts = working_point.image_counts(matches, score)
    cells = working_point.confusions(matches, _CATEGORIES, score)
    background = len(_CATEGORIES)
    by_image = np.zeros([3, background + 1, background + 1], np.int64)
    np.add.at(by_image, tuple(cells[:, :3].T), cells[:, 3])
    assert by_image.diagonal(axis1=1, axis2=2).sum(axis=1).tolist() == counts.correct.tolist()
    detected = by_image[:, :, :background].sum(axis=(1, 2))
    assert detected.tolist() == (counts.correct + counts.wrong).tolist()
    objects = by_image[:, :background].sum(axis=(1, 2))
    assert objects.tolist() == (counts.correct + counts.missing).tolist()
    of_errors = working_point.image_errors(matches, _CATEGORIES, score)
    wrong = of_errors[of_errors[:, 2] != Outcome.MISSED]
    assert np.bincount(wrong[:, 0], wrong[:, 3], minlength=3).tolist() == counts.wrong.tolist()
    by_class = errors.count_errors(matches, _CATEGORIES, score)
    summed = np.zeros_like(by_class)
    np.add.at(summed, (of_errors[:, 1], of_errors[:, 2]), of_errors[:, 3])
    assert summed.tolist() == by_class.tolist()
    # With the low scores left out before, the others are what they were.
    objects, detections = scene
    above = _matches(objects, [d for d in detections if d[3] >= score], num_images=3)
    again = working_point.confusions(above, _CATEGORIES, 0.0)
    assert again.tolist() == cells.tolist()
    assert above.missed().tolist() == matches.missed(score).tolist()

"""Detections to box and mask AP, time and memory: tf-models-official's evaluator against ours.

    python benchmarks/evaluation.py [--images 5000] [--cases 28 64] [--repeats 1]

Images of 480x640 with 7 instances on average, and 100 detections each: boxes near the ground
truth and boxes at random, with masks of 28x28 or 64x64 probabilities. Both sides read the same
annotation file and get the same batches. Each evaluation runs in a process of its own, the two in
turn; making the detections does not count as its time. `memory growth` is the peak over what the
process held before its evaluation. `whole process` is what an evaluator takes alone, without
TensorFlow in ours, which needs none; `beside TensorFlow` has it loaded in both, as where a model is
evaluated. Box AP is the same on both sides; mask AP nearly, as the reference rounds boxes to whole
pixels where it pastes masks. Writes evaluation.csv beside.

The reference keeps all masks: 5000 images of 64x64 take it 10 GB and more.
"""

import argparse
import contextlib
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.progress import track
from support.serve import Measurement, serve
from support.sides import Side, report

_HEIGHT, _WIDTH = 480, 640
_DETECTIONS = 100
_INSTANCES = 7
_CATEGORIES = 80
_BATCH = 8
_SHAPES = 64  # different masks
_ROWS = (  # name in the table, which number of which side is compared, the ratio to reach
    ("seconds", "seconds", "ours", 8),
    ("memory growth, MB", "growth_mb", "ours", 10),
    ("whole process, MB", "peak_mb", "ours", 10),
    ("whole process beside TensorFlow, MB", "peak_mb", "ours beside TensorFlow", 10),
    ("box AP", "box_ap", "ours", ""),
    ("mask AP", "mask_ap", "ours", ""),
)

Batch = dict[str, np.ndarray]


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(ymin, xmin, ymax, xmax) [count, 4] inside of the image, of all sizes."""
    limits = np.array([_HEIGHT, _WIDTH])
    size = np.minimum(np.exp(rng.uniform(np.log(24), np.log(400), (count, 2))), limits)
    start = rng.uniform(0, 1, (count, 2)) * (limits - size)
    return np.concatenate([start, start + size], axis=1)


def write_ground_truth(path: pathlib.Path, num_images: int) -> None:
    """Writes ellipses, each as the polygon that fills its box."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    circle = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # x, y
    annotations = []
    for image_id in range(1, num_images + 1):
        for y1, x1, y2, x2 in _random_boxes(rng, rng.poisson(_INSTANCES)):
            width, height = x2 - x1, y2 - y1
            polygon = [x1, y1] + circle * [width, height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, _CATEGORIES + 1)),
                    "bbox": [x1, y1, width, height],
                    "area": np.pi / 4 * width * height,
                    "iscrowd": 0,
                    "segmentation": [polygon.round(2).ravel().tolist()],
                }
            )
    sizes = {"height": _HEIGHT, "width": _WIDTH}
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg", **sizes} for i in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, _CATEGORIES + 1)],
    }
    path.write_text(json.dumps(data))


class _Detections:
    """Batches of detections, the same ones each time."""

    def __init__(self, ground_truth: pathlib.Path, mask_size: int):
        data = json.loads(ground_truth.read_text())
        self._truth: dict[int, list[tuple]] = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            x, y, width, height = annotation["bbox"]
            entry = (annotation["category_id"], y, x, y + height, x + width)
            self._truth[annotation["image_id"]].append(entry)
        self._shapes = _soft_ellipses(mask_size)  # [shapes, mask_size, mask_size]

    def __iter__(self) -> Iterator[Batch]:
        ids = list(self._truth)
        for start in range(0, len(ids), _BATCH):
            batch_ids = ids[start : start + _BATCH]
            images = [self._image(image_id) for image_id in batch_ids]
            boxes, classes, scores, masks = (np.stack(part) for part in zip(*images, strict=True))
            yield {
                "source_id": np.array(batch_ids),
                "num_detections": np.full(len(batch_ids), _DETECTIONS, "i4"),
                "detection_boxes": boxes.astype("f"),
                "detection_classes": classes.astype("i4"),
                "detection_scores": scores.astype("f"),
                "detection_masks": masks,
            }

    def _image(self, image_id: int) -> tuple[np.ndarray, ...]:
        """Two detections of each instance, one of them better, and the others at random."""
        rng = np.random.default_rng(image_id)
        boxes = _random_boxes(rng, _DETECTIONS)
        classes = rng.integers(1, _CATEGORIES + 1, _DETECTIONS)
        scores = rng.uniform(0.05, 0.4, _DETECTIONS)
        shapes = self._shapes[rng.integers(0, _SHAPES, _DETECTIONS)]
        truth = np.array(self._truth[image_id][: _DETECTIONS // 2]).reshape(-1, 5)
        for part, (spread, low, high) in enumerate([(0.05, 0.3, 1.0), (0.15, 0.1, 0.6)]):
            rows = slice(part * len(truth), (part + 1) * len(truth))
            size = truth[:, 3:] - truth[:, 1:3]
            boxes[rows] = truth[:, 1:] + rng.normal(0, spread, (len(truth), 4)) * np.tile(size, 2)
            classes[rows] = truth[:, 0]
            scores[rows] = rng.uniform(low, high, len(truth))
        low_corner = np.clip(boxes[:, :2], 0, [_HEIGHT - 2, _WIDTH - 2])
        high_corner = np.clip(boxes[:, 2:], low_corner + 1, [_HEIGHT, _WIDTH])
        return np.concatenate([low_corner, high_corner], axis=1), classes, scores, shapes


def _soft_ellipses(size: int) -> np.ndarray:
    """Probabilities float32 [shapes, size, size]: ellipses that about fill the crop."""
    rng = np.random.default_rng(0)
    radius = rng.uniform(0.9, 1.1, (2, _SHAPES, 1, 1))
    center = rng.uniform(-0.05, 0.05, (2, _SHAPES, 1, 1))
    at = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = (at[:, None] - center[0]) / radius[0], (at - center[1]) / radius[1]
    return (1 / (1 + np.exp(-6 * (1 - y**2 - x**2)))).astype("f")


class _Stopwatch:
    """Adds up the seconds of several passages."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def _memory_mb() -> float:
    """What the process holds now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _numbers(stopwatch: _Stopwatch, before_mb: float, box_ap: float, mask_ap: float) -> Measurement:
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": stopwatch.seconds,
        "growth_mb": peak_mb - before_mb,
        "box_ap": float(box_ap),
        "mask_ap": float(mask_ap),
    }


def _serve_reference(ground_truth: pathlib.Path, mask_size: int) -> None:
    import tensorflow as tf
    from official.vision.evaluation.coco_evaluator import COCOEvaluator

    detections = _Detections(ground_truth, mask_size)
    size = [_HEIGHT, _WIDTH]
    info = np.array([size, size, [1, 1], [0, 0]], "f")

    def measure() -> Measurement:
        before_mb, stopwatch = _memory_mb(), _Stopwatch()
        with stopwatch():
            evaluator = COCOEvaluator(str(ground_truth), include_mask=True)
        for batch in detections:
            batch["image_info"] = np.tile(info, (len(batch["source_id"]), 1, 1))
            tensors = tf.nest.map_structure(tf.constant, batch)
            with stopwatch():
                evaluator.update_state(None, tensors)
        with stopwatch():
            metrics = evaluator.result()
        return _numbers(stopwatch, before_mb, metrics["AP"], metrics["mask_AP"])

    serve(measure)


def _serve_ours(ground_truth: pathlib.Path, mask_size: int) -> None:
    from official_maskrcnn.evaluation import CocoEvaluator

    detections = _Detections(ground_truth, mask_size)

    def measure() -> Measurement:
        before_mb, stopwatch = _memory_mb(), _Stopwatch()
        with stopwatch():
            evaluator = CocoEvaluator(str(ground_truth))
        for batch in detections:
            with stopwatch():
                evaluator.update(**batch)
        with stopwatch():
            metrics = evaluator.result()
        return _numbers(stopwatch, before_mb, metrics["box/AP"], metrics["mask/AP"])

    serve(measure)


def _serve_ours_beside_tensorflow(ground_truth: pathlib.Path, mask_size: int) -> None:
    import tensorflow as tf  # noqa: F401 - what it takes is measured

    _serve_ours(ground_truth, mask_size)


_SIDES = {
    "reference": _serve_reference,
    "ours": _serve_ours,
    "ours beside TensorFlow": _serve_ours_beside_tensorflow,
}


def measure(side: str, ground_truth: pathlib.Path, mask_size: int) -> Measurement:
    """One evaluation, in a process of its own."""
    command = [sys.executable, __file__, "--ground-truth", str(ground_truth)]
    command += ["--cases", str(mask_size), "--side", side]
    with contextlib.closing(Side(command)) as process:
        return process.first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--cases", type=int, nargs="+", default=[28, 64], help="side of the masks")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--side", choices=_SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--ground-truth", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        _SIDES[arguments.side](arguments.ground_truth, *arguments.cases)
        return

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ground_truth = pathlib.Path(folder, "instances.json")
        write_ground_truth(ground_truth, arguments.images)
        for case in arguments.cases:
            runs = [(side, repeat) for repeat in range(arguments.repeats) for side in _SIDES]
            measured: dict[str, list[Measurement]] = {side: [] for side in _SIDES}
            for side, _ in track(runs, f"masks {case}x{case}", console=Console(stderr=True)):
                measured[side].append(measure(side, ground_truth, case))
            for name, key, ours, aim in _ROWS:
                sides = ("reference", ours)
                pair = [statistics.median(m[key] for m in measured[side]) for side in sides]
                ratio = (pair[0] / pair[1], f"{aim}") if aim else ("", "")
                rows.append((f"{case}x{case}", arguments.images, name, *pair, *ratio))
    header = ("masks", "images", "what", "reference", "ours", "reference / ours", "aim")
    report(__file__, header, rows)


if __name__ == "__main__":
    main()

"""Our evaluation against pycocotools run on its own on the same results file; its memory and time.

    python benchmarks/evaluation_parity.py --data ../shared/data

1. Ground-truth masks of real photographs are perturbed (boxes jittered, masks eroded, dilated and
   shifted, classes confused, objects missed and found twice), streamed through CocoEvaluator, and
   written to a results file, which plain pycocotools then evaluates: every figure must agree.
2. Perfect predictions must score 1.
3. Many images of 100 detections each are streamed; memory must not grow with their masks.

Exits with 1 if one of these fails.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.progress import track
from rich.table import Table

from official_maskrcnn.evaluation import CocoEvaluator, evaluate_results

VOC_CLASS_IDS = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)
TOLERANCE = 1e-6
CROP_SIZE = 28
COCO_FIGURES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


def load_quietly(annotation_file: pathlib.Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotation_file))


def perturbed_batches(coco: COCO, seed: int = 0, batch_size: int = 8) -> Iterator[dict[str, Any]]:
    """Batches of detections as a model would give them; the last one is filled with padding."""
    rng = np.random.default_rng(seed)
    category_ids = coco.getCatIds()
    image_ids = sorted(coco.imgs)
    image_ids += [-1] * (-len(image_ids) % batch_size)
    for start in range(0, len(image_ids), batch_size):
        batch_ids = image_ids[start : start + batch_size]
        found = [_perturbed(coco, i, category_ids, rng) if i >= 0 else [] for i in batch_ids]
        num_slots = max(map(len, found), default=0) + 3  # the last slots are padding
        batch: dict[str, Any] = {
            "source_id": np.array(batch_ids),
            "num_detections": np.array([len(detections) for detections in found]),
            "detection_boxes": rng.uniform(0, 100, (batch_size, num_slots, 4)),
            "detection_classes": rng.choice(category_ids, (batch_size, num_slots)),
            "detection_scores": rng.uniform(0, 1, (batch_size, num_slots)).astype("f"),
            "detection_masks": rng.uniform(
                0, 1, (batch_size, num_slots, CROP_SIZE, CROP_SIZE)
            ).astype("f"),
        }
        for i, detections in enumerate(found):
            for j, (box, category_id, score, crop) in enumerate(detections):
                batch["detection_boxes"][i, j] = box
                batch["detection_classes"][i, j] = category_id
                batch["detection_scores"][i, j] = score
                batch["detection_masks"][i, j] = crop
        yield batch


def _perturbed(coco: COCO, image_id: int, category_ids: list[int], rng: Any) -> list[tuple]:
    detections = []
    for annotation in coco.imgToAnns[image_id]:
        mask = coco.annToMask(annotation)
        x, y, width, height = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask)))
        patch = mask[int(y) : int(y + height), int(x) : int(x + width)]
        if patch.size == 0:
            continue
        crop = cv2.resize(patch.astype("f"), (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
        for _ in range(rng.choice([0, 1, 2], p=[0.15, 0.7, 0.15])):  # missed, found, found twice
            kernel = np.ones((3, 3), np.uint8)
            change = rng.choice(["none", "erode", "dilate", "shift"])
            changed = crop
            if change == "erode":
                changed = cv2.erode(crop, kernel)
            elif change == "dilate":
                changed = cv2.dilate(crop, kernel)
            elif change == "shift":
                changed = np.roll(crop, rng.integers(-4, 5, 2), axis=(0, 1))
            sides = np.array([height, width, height, width])
            box = np.array([y, x, y + height, x + width]) + rng.normal(0, 0.05, 4) * sides
            is_confused = rng.random() < 0.15
            category_id = rng.choice(category_ids) if is_confused else annotation["category_id"]
            detections.append((box, category_id, rng.random(dtype="f"), changed))
    return detections


def independent_metrics(
    coco: COCO, results: list[dict[str, Any]], seen_class_ids: tuple[int, ...]
) -> dict[str, float]:
    """What pycocotools says of a results list, and no code of ours."""
    metrics: dict[str, float] = {}
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        # Given boxes, pycocotools would sort masks into small, medium and large by box area.
        left_out = "segmentation" if kind == "box" else "bbox"
        detections = [{k: v for k, v in r.items() if k != left_out} for r in results]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(coco, coco.loadRes(detections), iou_type)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = dict(zip(COCO_FIGURES, evaluation.stats.tolist(), strict=True))
        precision = evaluation.eval["precision"][:, :, :, 0, 2]  # [iou, recall, category]
        ids = np.array(evaluation.params.catIds)
        subsets = {
            "seen": np.isin(ids, seen_class_ids),
            "unseen": ~np.isin(ids, seen_class_ids),
            **{f"class/{name}": ids == category_id for category_id, name in names.items()},
        }
        for subset, chosen in subsets.items():
            for name, part in (("AP", precision[:, :, chosen]), ("AP50", precision[0][:, chosen])):
                valid = part[part > -1]
                values[f"{name}/{subset}"] = float(valid.mean()) if valid.size else -1.0
        metrics |= {f"{kind}/{name}": value for name, value in values.items() if value > -1}
    return metrics


def compare_perturbed(
    annotation_file: pathlib.Path, results_file: pathlib.Path, backend: str, seed: int = 0
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of the same perturbed detections: (ours, pycocotools')."""
    coco = load_quietly(annotation_file)
    evaluator = CocoEvaluator(
        annotation_file,
        allowed_mask_class_ids=VOC_CLASS_IDS,
        per_category_metrics=True,
        backend=backend,
    )
    for batch in perturbed_batches(coco, seed):
        evaluator.update(**batch)
    evaluator.write_results(results_file)
    results = json.loads(results_file.read_text())
    return evaluator.result(), independent_metrics(coco, results, VOC_CLASS_IDS)


def perfect_results(coco: COCO) -> list[dict[str, Any]]:
    """The ground truth, crowds apart, as a results list."""
    results = []
    for annotation in coco.dataset["annotations"]:
        if not annotation["iscrowd"]:
            rle = coco.annToRLE(annotation)
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"],
                    "bbox": annotation["bbox"],
                    "score": 0.9,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                }
            )
    return results


def synthetic_ground_truth(num_images: int, seed: int = 0) -> dict[str, Any]:
    """Images of 640 x 480 with 7 ellipses each, of 80 categories."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        for _ in range(7):
            (x, y), (a, b) = rng.uniform([100, 100], [540, 380]), rng.uniform(10, 100, 2)
            polygon = np.stack([x + a * np.cos(angles), y + b * np.sin(angles)], axis=-1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, 81)),
                    "bbox": [x - a, y - b, 2 * a, 2 * b],
                    "area": float(np.pi * a * b),
                    "iscrowd": 0,
                    "segmentation": [polygon.ravel().round(2).tolist()],
                }
            )
    return {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
    }


def synthetic_detections(ground_truth: dict[str, Any], seed: int = 1) -> Iterator[dict[str, Any]]:
    """For each image 100 detections: its objects, somewhat off, and guesses around them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:CROP_SIZE, :CROP_SIZE] - (CROP_SIZE - 1) / 2
    disc = CROP_SIZE / 2 - np.hypot(rows, columns)
    annotations = ground_truth["annotations"]
    for i, image in enumerate(ground_truth["images"]):
        objects = annotations[7 * i : 7 * i + 7]
        source = rng.integers(0, 7, 100)
        x, y, width, height = np.array([annotation["bbox"] for annotation in objects])[source].T
        boxes = np.stack([y, x, y + height, x + width], axis=-1)
        boxes += rng.normal(0, 0.1, (100, 4)) * np.stack([height, width] * 2, axis=-1)
        logits = disc + rng.normal(0, 0.5, (100, CROP_SIZE, CROP_SIZE))
        classes = np.array([annotation["category_id"] for annotation in objects])[source]
        yield {
            "source_id": np.array([image["id"]]),
            "num_detections": np.array([100]),
            "detection_boxes": np.clip(boxes, 0, [480, 640, 480, 640])[None].astype("f"),
            "detection_classes": np.where(rng.random(100) < 0.5, classes, classes % 80 + 1)[None],
            "detection_scores": np.sort(rng.random((1, 100), "f"))[:, ::-1],
            "detection_masks": 1 / (1 + np.exp(-logits[None].astype("f"))),
        }


def resident_megabytes() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def stream(
    num_images: int,
    backend: str,
    console: Console,
    megabytes: Callable[[], float] = resident_megabytes,
) -> dict[str, float]:
    """Streams synthetic images, at least 4; memory at five points, and seconds of each stage."""
    ground_truth = synthetic_ground_truth(num_images)
    evaluator = CocoEvaluator(ground_truth, backend=backend)
    figures = {"memory before, MB": megabytes()}
    memory = []
    pasting = 0.0
    detections = synthetic_detections(ground_truth)
    for i, batch in enumerate(
        track(detections, "streaming", num_images, console=console, transient=True), start=1
    ):
        start = time.perf_counter()
        evaluator.update(**batch)
        pasting += time.perf_counter() - start
        if i % max(num_images // 4, 1) == 0:
            memory.append(megabytes())
            figures[f"memory after {i} images, MB"] = memory[-1]
    start = time.perf_counter()
    metrics = evaluator.result()
    raw = 0.75 * num_images * 100 * CROP_SIZE**2 * 4 / 2**20
    return figures | {
        "memory after result(), MB": megabytes(),
        "peak memory of the process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "grown over the last three quarters, MB": memory[-1] - memory[0],
        "their raw masks would take, MB": raw,
        "update(), ms an image": 1000 * pasting / num_images,
        "update(), s": pasting,
        "result(), s": time.perf_counter() - start,
        "box/AP": metrics["box/AP"],
        "mask/AP": metrics["mask/AP"],
    }


def stays_flat(figures: dict[str, float]) -> bool:
    """Whether the memory grew by less than 1 kB an image, where raw masks would take 307 kB."""
    raw = figures["their raw masks would take, MB"]
    return figures["grown over the last three quarters, MB"] < raw / 307


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        default=os.environ.get("OMR_DATA", "../shared/data"),
        help="folder with coco_sample",
    )
    parser.add_argument("--images", type=int, default=2000, help="images to stream, 0: none")
    parser.add_argument("--backend", default="faster_coco_eval")
    parser.add_argument("--csv", type=pathlib.Path, help="where to write the figures too")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    rows: list[tuple[str, float, float | str, float | str]] = []
    faults = []

    annotations = options.data / "coco_sample" / "annotations"
    for split in ("train2017", "val2017"):
        file = annotations / f"instances_{split}.json"
        with tempfile.TemporaryDirectory() as folder:
            results_file = pathlib.Path(folder, "results.json")
            ours, theirs = compare_perturbed(file, results_file, options.backend)
        if ours.keys() != theirs.keys():
            faults.append(f"{split}: not the same metrics: {ours.keys() ^ theirs.keys()}")
        for name in sorted(ours.keys() & theirs.keys(), key=lambda n: ("class" in n, n)):
            difference = abs(ours[name] - theirs[name])
            rows.append((f"{split} {name}", ours[name], theirs[name], difference))
            if not difference <= TOLERANCE:
                faults.append(f"{split} {name} differs by {difference}")
        coco = load_quietly(file)
        perfect = evaluate_results(perfect_results(coco), file, backend=options.backend)
        for name in ("box/AP", "mask/AP"):
            rows.append((f"{split} {name} of perfect predictions", perfect[name], 1.0, ""))
            if abs(perfect[name] - 1.0) > TOLERANCE:
                faults.append(f"{split}: perfect predictions have {name} {perfect[name]}")

    table = Table("metric", "ours", "pycocotools", "difference")
    for metric, our_value, their_value, error in rows:
        table.add_row(metric, f"{our_value:.9f}", _text(their_value), _text(error, ".1e"))
    console.print(table)

    if options.images:
        figures = stream(options.images, options.backend, console)
        table = Table(f"{options.images} images of 100 detections, {CROP_SIZE} x {CROP_SIZE}", "")
        for name, value in figures.items():
            table.add_row(name, f"{value:.3f}")
            rows.append((name, value, "", ""))
        console.print(table)
        if not stays_flat(figures):
            faults.append("memory grows with the detections")

    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([("metric", "ours", "pycocotools", "difference"), *rows])
    for fault in faults:
        console.print(f"FAILED: {fault}")
    if not faults:
        console.print(f"All figures agree within {TOLERANCE}.")
    return 1 if faults else 0


def _text(value: float | str, form: str = ".9f") -> str:
    return value if isinstance(value, str) else format(value, form)


if __name__ == "__main__":
    sys.exit(main())

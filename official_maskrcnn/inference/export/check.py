"""What each format of an export costs and loses: size, latency and AP beside the checkpoint's."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data import parallel
from official_maskrcnn.data.ids import image_number
from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.data.parser import preprocess_image
from official_maskrcnn.errors import UserError
from official_maskrcnn.evaluation import CocoEvaluator
from official_maskrcnn.evaluation.ground_truth import GroundTruth, load_ground_truth
from official_maskrcnn.files import read_json
from official_maskrcnn.inference import images as image_files
from official_maskrcnn.inference.detections import Detections, from_outputs
from official_maskrcnn.inference.export import runner
from official_maskrcnn.inference.export.exporter import size_in_bytes
from official_maskrcnn.inference.formats import ABOUT, FORMATS
from official_maskrcnn.inference.image_list import ImageFile, find_images
from official_maskrcnn.inference.predictor import Predictor

CHECKPOINT = "checkpoint"  # the name of what all formats are compared with
_SAME_OBJECT_IOU = 0.5
_MIN_MEASUREMENTS = 10  # of the time

# Seconds that it takes to find what is in an image, uint8 [h, w, 3], and what that is.
_Run = Callable[[np.ndarray], tuple[float, Detections]]


@dataclasses.dataclass
class Differences:
    """Of detections from those of the checkpoint; the largest ones of all images.

    Attributes:
      unmatched: detections of either that the other has not: of the same class, with boxes whose
        IoU is at least 0.5.
      box: of a coordinate, as a fraction of the image's longer side.
      score: of a score.
      mask: of a probability; of pasted masks 1 - IoU.
    """

    unmatched: int = 0
    box: float = 0.0
    score: float = 0.0
    mask: float = 0.0

    def add(self, found: Detections, expected: Detections) -> None:
        """Takes in the detections of one more image."""
        pairs = np.array(_match(found, expected), int).reshape(-1, 2)
        self.unmatched += len(found) + len(expected) - 2 * len(pairs)
        ours, theirs = found.select(pairs[:, 0]), expected.select(pairs[:, 1])
        side = max(expected.image_size)
        self.box = max(self.box, _largest(ours.boxes - theirs.boxes) / side)
        self.score = max(self.score, _largest(ours.scores - theirs.scores))
        if ours.mask_crops is not None and theirs.mask_crops is not None:
            self.mask = max(self.mask, _largest(ours.mask_crops - theirs.mask_crops))
        elif ours.has_masks:
            ious = [
                coco_mask.iou([one], [other], [False])[0, 0]
                for one, other in zip(ours.rles, theirs.rles, strict=True)
            ]
            self.mask = max([self.mask, *(1.0 - iou for iou in ious)])


@dataclasses.dataclass
class Checked:
    """What was measured of a format, or of the checkpoint.

    Attributes:
      name: of the format, or `CHECKPOINT`.
      megabytes: 10**6 bytes of its files; None for the checkpoint.
      milliseconds: median time of an image, from its pixels to detections.
      metrics: of `CocoEvaluator`.
      differences: from the checkpoint's detections.
    """

    name: str
    megabytes: float | None
    milliseconds: float
    metrics: dict[str, float]
    differences: Differences


def check_export(
    model: str,
    folder: str,
    annotations: str,
    image_dir: str | None = None,
    checkpoint: str = "best",
    progress: bool = True,
) -> tuple[list[Checked], dict[str, str]]:
    """Runs each format of an export in a process of its own, and the checkpoint in this one.

    All take turns image by image. StableHLO gets images fitted into the network input, which is
    not in its time, and runs on the device of JAX_PLATFORMS, by default the CPU.

    Args:
      model: the model_dir that was exported; it computes in float32.
      folder: of the export.
      annotations: a COCO file.
      image_dir: of its images; by default the file's folder.
      checkpoint: the one that was exported.
      progress: whether to show it.

    Returns:
      What was measured of each, and kind by path of images that could not be read: these do not
      count.

    Raises:
      UserError: a file, or each of the images, cannot be read.
      RuntimeError: a format does not run.
    """
    images, faults = _readable(find_images(annotations, image_dir), progress)
    if not images:
        path, kind = next(iter(faults.items()))
        raise UserError(f"none of the images can be read: {path}: {kind.replace('_', ' ')}, ...")
    ground_truth = _ground_truth_of(images, annotations, image_dir)
    predictor = Predictor(model, checkpoint, "float32")
    formats = list(read_json(os.path.join(folder, ABOUT))["files"])
    evaluators = {
        name: CocoEvaluator(ground_truth, predictor.config.include_mask)
        for name in (CHECKPOINT, *formats)
    }
    differences = {name: Differences() for name in evaluators}
    seconds: dict[str, list[float]] = {name: [] for name in evaluators}
    with contextlib.ExitStack() as stack:
        runs: dict[str, _Run] = {CHECKPOINT: functools.partial(_timed, predictor)}
        for name in formats:
            process = stack.enter_context(_Process(name, folder, predictor))
            runs[name] = process.detect
        rounds = math.ceil(_MIN_MEASUREMENTS / len(images))
        turns = [image for _ in range(rounds) for image in images]
        for turn, image in enumerate(parallel.track(turns, len(turns), "Checking", progress)):
            pixels = _read(image)
            if turn == 0:
                for run in runs.values():
                    run(pixels)  # warms up
            found = {name: run(pixels) for name, run in runs.items()}
            for name, (time_taken, detections) in found.items():
                seconds[name].append(time_taken)
                if turn < len(images):
                    evaluators[name].add_results(detections.to_coco(image.id))
                    differences[name].add(detections, found[CHECKPOINT][1])
    checked = []
    for name, evaluator in evaluators.items():
        with _quiet(name != CHECKPOINT):  # they say the same
            metrics = evaluator.result()
        megabytes = size_in_bytes(folder, name) / 1e6 if name in FORMATS else None
        milliseconds = 1000 * statistics.median(seconds[name])
        checked.append(Checked(name, megabytes, milliseconds, metrics, differences[name]))
    return checked, faults


class _Process:
    """A format in a process of its own."""

    def __init__(self, name: str, folder: str, predictor: Predictor):
        self._name, self._predictor = name, predictor
        self._file = pathlib.Path(folder, FORMATS[name]).resolve()
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> "_Process":
        self._folder = pathlib.Path(self._exit.enter_context(tempfile.TemporaryDirectory()))
        self._errors = self._exit.enter_context((self._folder / "stderr").open("w+"))
        command = [sys.executable, "-I", runner.__file__, self._name, str(self._file)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=self._folder,
            env={"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
        )
        self._exit.callback(self._process.communicate)
        self._exit.callback(self._process.kill)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def detect(self, pixels: np.ndarray) -> tuple[float, Detections]:
        """Time, and what is found."""
        path = self._folder / "inputs.npz"
        np.savez(path, allow_pickle=False, **self._inputs(pixels))
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(path, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            raise RuntimeError(f"{self._file} does not run:\n{self._errors.read()[-3000:]}")
        with np.load(f"{path}.out.npz") as outputs:
            found = from_outputs(dict(outputs), [pixels.shape[:2]], self._predictor.class_names)
        return json.loads(answer), found[0]

    def _inputs(self, pixels: np.ndarray) -> Mapping[str, np.ndarray]:
        if self._name != "stablehlo":
            return {"inputs": pixels[None]}
        height, width = self._predictor.config.input_size[:2]
        image, info = preprocess_image(pixels, (height, width))
        return {"images": image.numpy()[None], "image_info": info.numpy()[None]}


@contextlib.contextmanager
def _quiet(enabled: bool) -> Iterator[None]:
    """Keeps warnings of all loggers back."""
    logging.disable(logging.WARNING if enabled else logging.NOTSET)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _readable(
    images: Sequence[ImageFile], progress: bool
) -> tuple[list[ImageFile], dict[str, str]]:
    """Those that can be read, and the faults of the others."""
    readable, faults = [], {}
    for image in parallel.track(images, len(images), "Reading", progress):
        try:
            _read(image)
            readable.append(image)
        except ImageFault as fault:
            faults[image.path] = fault.kind
    return readable, faults


def _ground_truth_of(
    images: Sequence[ImageFile], annotations: str, image_dir: str | None
) -> GroundTruth:
    whole = load_ground_truth(annotations, image_dir or os.path.dirname(annotations))
    ids = {image_number(image.id) for image in images}
    return GroundTruth(
        {image_id: size for image_id, size in whole.image_sizes.items() if image_id in ids},
        whole.categories,
        [a for a in whole.annotations if a["image_id"] in ids],
    )


def _read(image: ImageFile) -> np.ndarray:
    return image_files.decode(image_files.read_file(image.path), upright=False)


def _timed(predictor: Predictor, pixels: np.ndarray) -> tuple[float, Detections]:
    start = time.perf_counter()
    found = predictor(pixels)
    return time.perf_counter() - start, found


def _match(found: Detections, expected: Detections) -> list[tuple[int, int]]:
    """Indices of detections of the same object; the most certain ones choose first."""
    crowd = [False] * len(expected)
    ious = np.reshape(coco_mask.iou(_as_coco(found), _as_coco(expected), crowd), [len(found), -1])
    ious = np.where(found.class_ids[:, None] == expected.class_ids, ious, 0.0)
    pairs = []
    for theirs in range(len(expected) if len(found) else 0):
        ours = int(ious[:, theirs].argmax())
        if ious[ours, theirs] >= _SAME_OBJECT_IOU:
            ious[ours] = 0.0
            pairs.append((ours, theirs))
    return pairs


def _as_coco(found: Detections) -> np.ndarray:
    """Boxes [n, 4] as (x, y, width, height)."""
    starts, ends = found.boxes[:, 1::-1], found.boxes[:, :1:-1]
    return np.concatenate([starts, ends - starts], axis=1).astype(np.float64)


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))

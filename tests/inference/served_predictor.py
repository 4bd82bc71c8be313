"""A predictor without a model, for tests of what stands around one."""

import io
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.detections import Detections

SIDE = 8  # of a mask
POISON = (13, 7)  # height and width


class ServedPredictor:
    """Finds two objects in every image; keeps the sizes of the batches that it was given.

    While `gate` is closed, nobody gets an answer. An image of the size POISON raises.
    """

    checkpoint = "/models/fake/ckpt-40"
    precision = "float32"

    def __init__(self, include_mask: bool = True, class_agnostic: bool = True):
        self.config = SimpleNamespace(
            include_mask=include_mask,
            num_classes=3,
            mask_head=SimpleNamespace(class_agnostic=class_agnostic),
        )
        self.class_names = {1: "date", 2: "fig"}
        self.batches: list[int] = []
        self.classes: list[Any] | None = None  # of the last call of `segment`
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, image: np.ndarray) -> Detections:
        return self.predict([self.prepare(image)])[0]

    def prepare(self, image: np.ndarray) -> Any:
        return SimpleNamespace(size=image.shape[:2])

    def predict(self, images: list[Any]) -> list[Detections]:
        self.gate.wait(20)
        self.batches.append(len(images))
        if any(image.size == POISON for image in images):
            raise RuntimeError("a fault of the model")
        return [self._found(image.size, [[0.25, 0.5, 0.75, 1.0], [0, 0, 1, 1]]) for image in images]

    def segment(self, image: Any, boxes: np.ndarray, classes: list[Any] | None) -> Detections:
        self.gate.wait(20)
        if classes is None and not self.config.mask_head.class_agnostic:
            raise UserError("the mask head has a mask for each class: say the class of each box")
        self.classes = classes
        fractions = np.asarray(boxes) / np.tile(image.size, 2)
        return self._found(image.size, fractions.tolist())

    def _found(self, size: tuple[int, int], fractions: list[list[float]]) -> Detections:
        count = len(fractions)
        boxes = (np.array(fractions) * np.tile(size, 2)).astype(np.float32)
        crops = np.full([count, SIDE, SIDE], 0.9, np.float32)
        crops[:, 0] = 0.125  # the uppermost eighth is outside
        has_masks = self.config.include_mask
        return Detections(
            boxes,
            1 + np.arange(count) % 2,
            np.linspace(0.8, 0.3, count, dtype=np.float32),
            self.class_names,
            size,
            crops if has_masks else None,
            boxes if has_masks else None,
        )


def encode(height: int, width: int, image_format: str = "PNG", **options: Any) -> bytes:
    """An image file."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (90, 120, 30)).save(file, image_format, **options)
    return file.getvalue()


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Waits for what another thread is to bring about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)

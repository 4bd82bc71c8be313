"""A predictor that finds bright rectangles: what it should find is known to the pixel."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from official_maskrcnn.configs.model import DeepMaskHead, DeepMaskHeadRCNN
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.predictor import Predictor, have_area

CLASS_NAMES = {1: "red", 2: "green", 3: "blue"}
_BRIGHT = 128
_SIDE = 28


class FakePredictor:
    """A rectangle is of the class of its colour; its score is its brightness / 255."""

    path, checkpoint, precision = "/models/fake", "/models/fake/ckpt-1", "float32"
    class_names = CLASS_NAMES
    read = staticmethod(Predictor.read)
    class_id = Predictor.class_id

    def __init__(self, class_agnostic: bool = True) -> None:
        head = DeepMaskHead(class_agnostic=class_agnostic)
        self.config = DeepMaskHeadRCNN(num_classes=4, mask_head=head)
        self.batches: list[int] = []

    def __call__(self, image: Any) -> Detections:
        return self.predict([image])[0]

    def predict(self, images: Sequence[Any]) -> list[Detections]:
        self.batches.append(len(images))
        return [self._find(self.read(image)) for image in images]

    def segment(
        self, image: Any, boxes: Any, classes: Sequence[int | str] | None = None
    ) -> Detections:
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        assert have_area(boxes, image.shape[:2]).all()
        ids = [0] * len(boxes) if classes is None else [self.class_id(name) for name in classes]
        return self._detections(self.read(image), boxes, ids, np.ones(len(boxes), np.float32))

    def _find(self, image: np.ndarray) -> Detections:
        boxes, ids, scores = [], [], []
        for channel in range(3):
            bright = (image[..., channel] >= _BRIGHT).astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(bright)
            for x, y, width, height, _ in stats[1:count].tolist():
                boxes.append([y, x, y + height, x + width])
                ids.append(channel + 1)
                scores.append(image[y + height // 2, x + width // 2, channel] / 255)
        order = np.argsort(-np.array(scores, np.float32), kind="stable")
        boxes = np.array(boxes, np.float32).reshape(-1, 4)[order]
        return self._detections(
            image, boxes, np.array(ids)[order], np.array(scores, np.float32)[order]
        )

    def _detections(
        self, image: np.ndarray, boxes: np.ndarray, ids: Any, scores: np.ndarray
    ) -> Detections:
        crops = np.ones([len(boxes), _SIDE, _SIDE], np.float32)
        ids = np.asarray(ids, np.int64).reshape(-1)
        return Detections(boxes, ids, scores, CLASS_NAMES, image.shape[:2], crops)


def draw(rectangles: Sequence[tuple[int, int, int, int, int]], size: tuple[int, int]) -> np.ndarray:
    """An image with rectangles (ymin, xmin, ymax, xmax, class id); later ones are dimmer."""
    image = np.zeros([*size, 3], np.uint8)
    for place, (y1, x1, y2, x2, number) in enumerate(rectangles):
        image[y1:y2, x1:x2, number - 1] = 250 - place
    return image

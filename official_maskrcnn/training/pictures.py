"""Predictions drawn on the images that the model saw."""

from collections.abc import Mapping

import numpy as np

from official_maskrcnn.data.parser import denormalize
from official_maskrcnn.ops import drawing

_MAX_SIDE = 512  # pixels of a larger image on the sheet
_SCORE_THRESHOLD = 0.5
_FALLBACK_DETECTIONS = 3  # the best few of an image where no score reaches the threshold


class PredictionSheet:
    """Collects images with their detections, and draws them on one contact sheet."""

    def __init__(self, num_images: int, class_names: Mapping[int, str]):
        """Takes the first `num_images` images; names the classes by their ids."""
        self._num_images, self._class_names = num_images, class_names
        self._pictures: list[np.ndarray] = []
        self._captions: list[str] = []

    @property
    def is_full(self) -> bool:
        """Whether no image is wanted any more."""
        return len(self._pictures) >= self._num_images

    def add(self, batch: Mapping[str, np.ndarray], detections: Mapping[str, np.ndarray]) -> None:
        """Draws images until the sheet is full.

        Args:
          batch: `image` [b, h, w, 3], normalised; `image_info` [b, 4, 2].
          detections: [b, ...] of the same images, in original pixels, with `source_id`.
        """
        for i, source_id in enumerate(detections["source_id"].tolist()):
            if source_id >= 0 and not self.is_full:
                own = {name: values[i] for name, values in detections.items()}
                self._pictures.append(self._draw(batch["image"][i], batch["image_info"][i], own))
                self._captions.append(str(source_id))

    def sheet(self) -> np.ndarray | None:
        """uint8 [height, width, 3]; None without images."""
        if not self._pictures:
            return None
        columns = int(np.ceil(np.sqrt(len(self._pictures))))
        return drawing.contact_sheet(self._pictures, columns, self._captions)

    def _draw(
        self, image: np.ndarray, image_info: np.ndarray, detections: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        size, _, scale, offset = image_info
        content = np.clip(np.rint(size * scale - offset), 1, image.shape[:2]).astype(int)
        picture = denormalize(image[: content[0], : content[1]])
        shrink = 1.0
        if max(picture.shape) > _MAX_SIDE:
            picture, shrink = drawing.fit(picture, _MAX_SIDE)
        chosen = _choose(detections["detection_scores"][: detections["num_detections"]])
        to_picture = np.tile(scale, 2) * shrink, np.tile(offset, 2) * shrink
        boxes = detections["detection_boxes"][chosen] * to_picture[0] - to_picture[1]
        masks = None
        if "detection_masks" in detections:
            crops = detections["detection_masks"][chosen]
            outer = detections.get("detection_outer_boxes", detections["detection_boxes"])[chosen]
            outer = outer * to_picture[0] - to_picture[1]
            height, width = picture.shape[:2]
            masks = (
                drawing.paste_mask(crop, box, height, width)
                for crop, box in zip(crops, outer, strict=True)
            )
        labels = [
            f"{self._class_names.get(number, number)} {score:.2f}"
            for number, score in zip(
                detections["detection_classes"][chosen].tolist(),
                detections["detection_scores"][chosen].tolist(),
                strict=True,
            )
        ]
        return drawing.draw_instances(picture, boxes, masks, labels)


def _choose(scores: np.ndarray) -> np.ndarray:
    """Indices of the detections to draw, the best first; scores [n] of real detections only."""
    order = np.argsort(-scores, kind="stable")
    confident = int((scores >= _SCORE_THRESHOLD).sum())
    return order[: confident or _FALLBACK_DETECTIONS]

"""What a model found in an image."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.evaluation import pasting
from official_maskrcnn.ops import drawing

_SHOWN = 5  # detections in words


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Objects in an image, the most certain first.

    Masks are kept as the model gives them, and pasted into the image when they are asked for.

    Attributes:
      boxes: float32 [n, 4], (ymin, xmin, ymax, xmax) in pixels of the image, not rounded.
      class_ids: int64 [n], as in the annotations of the training.
      scores: float32 [n], in [0, 1].
      class_names: of all classes of the model, by id; may lack some.
      image_size: height and width of the image in pixels.
      mask_crops: float32 [n, s, s], probabilities relative to `mask_boxes`; None where there are no
        masks, or `merged_masks`.
      mask_boxes: float32 [n, 4]; None for `boxes`.
      merged_masks: n compressed RLEs of the image's size in place of crops.
    """

    boxes: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    class_names: Mapping[int, str]
    image_size: tuple[int, int]
    mask_crops: np.ndarray | None = None
    mask_boxes: np.ndarray | None = None
    merged_masks: Sequence[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        found = ", ".join(
            f"{name} {score:.2f}"
            for name, score in zip(self.names[:_SHOWN], self.scores, strict=False)
        )
        more = ", ..." if len(self) > _SHOWN else ""
        return f"<{len(self)} detections{': ' if found else ''}{found}{more}>"

    @property
    def names(self) -> list[str]:
        """n class names; the id as text where there is no name, "object" for id 0."""
        names = {0: "object", **self.class_names}
        return [names.get(number, str(number)) for number in self.class_ids.tolist()]

    @property
    def has_masks(self) -> bool:
        """Whether the model gives masks."""
        return self.mask_crops is not None or self.merged_masks is not None

    @functools.cached_property
    def rles(self) -> list[dict[str, Any]]:
        """n masks of the image's size, as COCO's compressed RLE with counts as text.

        Raises:
          ValueError: the model has no masks.
        """
        if self.merged_masks is not None:
            rles = self.merged_masks
        elif self.mask_crops is not None:
            boxes = self.boxes if self.mask_boxes is None else self.mask_boxes
            rles = pasting.rle_from_crops(self.mask_crops, boxes, *self.image_size)
        else:
            raise ValueError("the model has no masks (task.model.include_mask is false)")
        return [{"size": rle["size"], "counts": _as_text(rle["counts"])} for rle in rles]

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """Bool [n, h, w]; made when first asked for, and then kept."""
        masks = np.zeros([len(self), *self.image_size], bool)
        for mask, rle in zip(masks, self.rles, strict=True):
            mask[:] = coco_mask.decode(rle)
        return masks

    def select(self, which: np.ndarray | Sequence[int]) -> "Detections":
        """Those of an index array or a bool array [n]."""
        chosen = np.asarray(which)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[chosen]

        return dataclasses.replace(
            self,
            boxes=self.boxes[chosen],
            class_ids=self.class_ids[chosen],
            scores=self.scores[chosen],
            mask_crops=of(self.mask_crops),
            mask_boxes=of(self.mask_boxes),
            merged_masks=self.merged_masks and [self.merged_masks[i] for i in chosen.tolist()],
        )

    def above(self, score: float) -> "Detections":
        """Those with at least this score."""
        return self.select(self.scores >= score)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """Entries of COCO's results format; bbox is (x, y, width, height)."""
        boxes = self.boxes.astype(np.float64)
        boxes = np.concatenate([boxes[:, 1::-1], (boxes[:, 2:] - boxes[:, :2])[:, ::-1]], axis=1)
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": number, "bbox": box, "score": score}
            for number, box, score in zip(
                self.class_ids.tolist(),
                boxes.round(3).tolist(),
                self.scores.astype(np.float64).round(6).tolist(),
                strict=True,
            )
        ]
        if self.has_masks:
            for result, rle in zip(results, self.rles, strict=True):
                result["segmentation"] = rle
        return results

    def to_dict(self) -> dict[str, np.ndarray]:
        """In the form that matterport's Mask_RCNN gives.

        `rois` int32 [n, 4] (ymin, xmin, ymax, xmax), `class_ids` int32 [n], `scores` float32 [n],
        and `masks` bool [h, w, n].
        """
        result = {
            "rois": np.rint(self.boxes).astype(np.int32),
            "class_ids": self.class_ids.astype(np.int32),
            "scores": self.scores,
        }
        if self.has_masks:
            result["masks"] = np.moveaxis(self.masks, 0, -1)
        return result

    def draw(self, image: np.ndarray) -> np.ndarray:
        """A new image with masks, boxes, names and scores drawn on `image`, uint8 [h, w, 3]."""
        if image.shape[:2] != self.image_size:
            raise ValueError(f"the image is {image.shape[:2]}, these are of {self.image_size}")
        labels = [
            f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)
        ]
        masks = (coco_mask.decode(rle) > 0 for rle in self.rles) if self.has_masks else None
        return drawing.draw_instances(image, self.boxes, masks, labels)


def from_outputs(
    outputs: Mapping[str, np.ndarray],
    image_sizes: Sequence[tuple[int, int]],
    class_names: Mapping[int, str],
) -> list[Detections]:
    """What a model's outputs say of each image.

    Args:
      outputs: of `MaskRCNN.call` for a batch; masks may be pasted, uint8 [b, d, h, w].
      image_sizes: height and width of each image.
      class_names: by id.
    """
    found = []
    for i, size in enumerate(image_sizes):
        real = slice(0, int(outputs["num_detections"][i]))
        own = {name: values[i][real] for name, values in outputs.items() if values.ndim > 1}
        masks, pasted = own.get("detection_masks"), None
        if masks is not None and masks.dtype == np.uint8:
            pasted = coco_mask.encode(np.asfortranarray(np.moveaxis(masks, 0, -1)))
            masks = None
        found.append(
            Detections(
                own["detection_boxes"],
                own["detection_classes"].astype(np.int64),
                own["detection_scores"],
                class_names,
                size,
                masks,
                own.get("detection_outer_boxes"),
                pasted,
            )
        )
    return found


def _as_text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts

"""Masks for the annotations that have a box and no mask."""

import dataclasses
import itertools
import pathlib
import shutil
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data.coco import load_coco
from official_maskrcnn.evaluation.files import read_json, write_json
from official_maskrcnn.inference.boxes_file import group_boxes
from official_maskrcnn.inference.image_list import find_images
from official_maskrcnn.inference.prediction_files import (
    JOURNAL,
    Options,
    predict_files,
    read_journal,
)
from official_maskrcnn.inference.predictor import Predictor


@dataclasses.dataclass
class Annotated:
    """What became of the annotations.

    Attributes:
      filled: they have a predicted mask now.
      kept: they had a mask before, or are crowds.
      empty: the mask head found nothing in their box.
      faults: kind by path, of images that could not be read; their annotations have no mask.
    """

    filled: int = 0
    kept: int = 0
    empty: int = 0
    faults: dict[str, str] = dataclasses.field(default_factory=dict)


def annotate(
    predictor: Predictor,
    boxes_file: str,
    output: str,
    image_dir: str | None = None,
    polygons: bool = False,
    replace: bool = False,
    progress: bool = True,
) -> Annotated:
    """Writes a COCO file again with masks for the boxes that have none.

    All else in the file stays as it is. An annotation that gets a mask also gets its area, iscrowd
    0, and `"is_predicted": true`. Stopped and called again, it goes on.

    Args:
      predictor: a class-agnostic mask head takes boxes of any class; another one knows a class by
        its name.
      boxes_file: COCO annotations.
      output: the file to write.
      image_dir: folder of the images; by default that of the file.
      polygons: whether masks are written as polygons, which have no holes, rather than as RLE.
      replace: whether to predict a mask where there is one too.
      progress: whether to show it.

    Raises:
      UserError: a file cannot be read or written, or the model has no masks or lacks a class.
    """
    content = read_json(boxes_file)
    images = find_images(boxes_file, image_dir)
    wanted = [a for a in content["annotations"] if _needs_mask(a, replace)]
    names = load_coco(boxes_file).categories
    boxes = group_boxes(wanted, names, boxes_file)
    if not predictor.config.mask_head.class_agnostic:
        for given in boxes.values():
            for name in given.classes:
                predictor.class_id(name)
    work = pathlib.Path(f"{output}.work")
    images = [image for image in images if image.id in boxes]
    faults = predict_files(
        predictor, images, str(work), Options(overlays=False), boxes, progress
    ).faults
    masks = {
        entry["image"]["id"]: iter(entry["results"])
        for entry, _ in itertools.islice(read_journal(work / JOURNAL), 1, None)
    }
    result = Annotated(kept=len(content["annotations"]) - len(wanted), faults=faults)
    for annotation in wanted:
        found = next(masks.get(annotation["image_id"], iter(())), None)
        if found is None:
            continue
        rle = found["segmentation"]
        area = int(coco_mask.area(rle))
        if not area:
            result.empty += 1
            continue
        segmentation = mask_to_polygons(coco_mask.decode(rle)) if polygons else rle
        annotation.update(segmentation=segmentation, area=area, iscrowd=0, is_predicted=True)
        result.filled += 1
    write_json(output, content)
    shutil.rmtree(work)
    return result


def _needs_mask(annotation: dict[str, Any], replace: bool) -> bool:
    if annotation.get("iscrowd"):
        return False
    return replace or not annotation.get("segmentation")


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask as COCO's polygons [x1, y1, x2, y2, ...]; holes are filled.

    The outlines run along the edges of the pixels, so that filling them gives the mask back.

    Args:
      mask: uint8 [h, w], of 0 and 1.
    """
    # Three times as large, the centres of the outermost thirds lie a sixth of a pixel inside.
    large = cv2.resize(mask, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [
        ((o.reshape(-1, 2) + 0.5) / 3).round(2).ravel().tolist() for o in outlines if len(o) > 2
    ]

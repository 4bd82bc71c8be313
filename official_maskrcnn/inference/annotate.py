"""Masks for the annotations that have a box and no mask."""

import dataclasses
import pathlib
import shutil
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from official_maskrcnn.data.coco import load_coco
from official_maskrcnn.data.ids import id_key
from official_maskrcnn.files import read_json, require_local, write_json
from official_maskrcnn.inference.boxes_file import BoxesFile, group_boxes
from official_maskrcnn.inference.image_list import find_images
from official_maskrcnn.inference.journal import Journal
from official_maskrcnn.inference.prediction_files import Options, predict_files
from official_maskrcnn.inference.predictor import Predictor


@dataclasses.dataclass
class Annotated:
    """What became of the annotations.

    Attributes:
      filled: they have a predicted mask now.
      kept: they had a mask before, or are crowds.
      empty: the mask head found nothing in their box, or it has no area within the image.
      unknown: of images that the file does not list.
      faults: kind by path, of images that could not be read; their annotations have no mask.
    """

    filled: int = 0
    kept: int = 0
    empty: int = 0
    unknown: int = 0
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
    require_local(output)
    images = find_images(boxes_file, image_dir)
    names = load_coco(boxes_file).categories
    content = read_json(boxes_file)
    wanted = {i: a for i, a in enumerate(content["annotations"]) if _needs_mask(a, replace)}
    by_image = group_boxes(wanted, names, boxes_file)
    images = [image for image in images if image.key in by_image]
    known = {image.key: by_image[image.key] for image in images}
    if not predictor.config.mask_head.class_agnostic:
        for given in known.values():
            for name in given.classes:
                predictor.class_id(name)
    work = pathlib.Path(f"{output}.work")
    boxes = BoxesFile(boxes_file, known, names)
    faults = predict_files(
        predictor, images, str(work), Options(overlays=False), boxes, progress=progress
    ).faults
    found = Journal(work).predictions(images)
    masks = {image.key: iter(results) for image, _, _, results in found}
    result = Annotated(kept=len(content["annotations"]) - len(wanted), faults=faults)
    for annotation in wanted.values():
        key = id_key(annotation["image_id"])
        result.unknown += key not in known
        prediction = next(masks.get(key, iter(())), None)
        if prediction is None:
            continue
        rle = prediction["segmentation"]
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


def _needs_mask(annotation: Any, replace: bool) -> bool:
    if not isinstance(annotation, dict):
        return True  # for `group_boxes` to refuse
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

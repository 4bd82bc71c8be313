"""Images with rectangles for objects, their annotations, and results that are wrong in known ways.

Boxes are (x, y, width, height); masks fill them.
"""

import json
import pathlib
import re
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 120, 160
NASTY = "</script><img src=x onerror=alert(1)>&\"'"  # a class may have any name
CLASSES = {1: "cat", 2: NASTY, 5: "cow"}
BOX, FAR = [20, 30, 60, 60], [100, 20, 40, 50]
HALF = [20, 30, 60, 24]  # an IoU of 0.4 with BOX
# (class, box) in each image; the last one has nothing in it.
OBJECTS = [
    [(1, BOX), (2, FAR)],
    [(1, BOX)],
    [(1, BOX), (5, FAR)],
    [(2, BOX)],
    [],
]
# (class, box, score): perfect; a wrong class; badly placed, and one on nothing; none; on nothing.
DETECTIONS = [
    [(1, BOX, 0.9), (2, FAR, 0.8)],
    [(2, BOX, 0.85)],
    [(1, HALF, 0.7), (5, FAR, 0.95), (5, [0, 100, 20, 20], 0.3)],
    [],
    [(1, FAR, 0.6)],
]


def write_scene(folder: pathlib.Path) -> tuple[str, str]:
    """Writes the images and annotations; gives the annotation file and the folder of the images."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, objects in enumerate(OBJECTS):
        pixels = np.full([HEIGHT, WIDTH, 3], 40 + 30 * number, np.uint8)
        image_id = 10 + number
        for category, (x, y, width, height) in objects:
            pixels[y : y + height, x : x + width] = [200, 60 * category % 256, 90]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": rle([x, y, width, height]),
                }
            )
        name = f"{number}.png"
        cv2.imwrite(str(folder / "images" / name), pixels)
        images.append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
    categories = [{"id": number, "name": name} for number, name in CLASSES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return str(path), str(folder / "images")


def results(detections: Any = None, masks: bool = True) -> list[dict[str, Any]]:
    """Detections, by default those above, as COCO results."""
    entries = []
    for number, own in enumerate(DETECTIONS if detections is None else detections):
        for category, box, score in own:
            entry = {"image_id": 10 + number, "category_id": category, "bbox": box, "score": score}
            entries.append(entry | ({"segmentation": rle(box)} if masks else {}))
    return entries


def rle(box: list[int]) -> dict[str, Any]:
    """The mask that fills a box."""
    x, y, width, height = box
    mask = np.zeros([HEIGHT, WIDTH], np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    encoded = coco_mask.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def content_of(page: pathlib.Path) -> dict[str, Any]:
    """The figures in a page."""
    text = page.read_text(encoding="utf-8")
    (content,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', text)
    return json.loads(content)

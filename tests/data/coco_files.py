"""Small COCO folders for the tests."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

HEIGHT, WIDTH = 40, 60
SQUARE = [10.0, 8.0, 30.0, 8.0, 30.0, 24.0, 10.0, 24.0]  # of 20 x 16 pixels
CATEGORIES = ({"id": 1, "name": "cat"}, {"id": 3, "name": "dog"})


def annotation(annotation_id: Any = 1, without: Sequence[str] = (), **changes: Any) -> dict:
    """A good annotation of image 1, but for the changes."""
    good = {
        "id": annotation_id,
        "image_id": 1,
        "category_id": 3,
        "bbox": [10.0, 8.0, 20.0, 16.0],
        "area": 320.0,
        "iscrowd": 0,
        "segmentation": [SQUARE],
    }
    return {key: value for key, value in (good | changes).items() if key not in without}


def write_image(
    path: pathlib.Path, height: int = HEIGHT, width: int = WIDTH, seed: int = 0
) -> None:
    """Noise, in the format that the path's suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, [height, width, 3], np.uint8)
    assert cv2.imwrite(str(path), pixels)


def write_coco(
    folder: pathlib.Path,
    annotations: Sequence[Any],
    images: Sequence[Any] | None = None,
    categories: Sequence[Mapping[str, Any]] = CATEGORIES,
) -> tuple[str, str]:
    """Writes an annotation file, and images of its entries' sizes unless they are there.

    Args:
      folder: to write to.
      annotations: entries.
      images: entries; by default one image with id 1.
      categories: entries.

    Returns:
      Folder of the images and path of the annotation file.
    """
    if images is None:
        images = [{"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}]
        write_image(folder / "images" / "1.jpg")
    path = folder / "instances.json"
    data = {"images": images, "annotations": annotations, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return str(folder / "images"), str(path)


def write_many(folder: pathlib.Path, count: int, **size: int) -> tuple[str, str]:
    """So many images with one instance each."""
    images = []
    for i in range(1, count + 1):
        write_image(folder / "images" / f"{i}.jpg", seed=i, **size)
        entry = {"height": HEIGHT, "width": WIDTH} | size
        images.append({"id": i, "file_name": f"{i}.jpg"} | entry)
    annotations = [annotation(100 + i, image_id=i) for i in range(1, count + 1)]
    return write_coco(folder, annotations, images)

"""Contact sheets of the data: as annotated, and as the model will see them."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from official_maskrcnn.configs.task import DataConfig
from official_maskrcnn.data import coco
from official_maskrcnn.data.faults import Outcome
from official_maskrcnn.errors import UserError, data_fault
from official_maskrcnn.ops import drawing

_TILE_SIDE = 560  # pixels of the longer side of an image on a sheet
_COLUMNS = 4


def browse_coco(
    image_dir: str,
    annotation_file: str,
    output: str,
    limit: int = 24,
    seed: int = 0,
    columns: int = _COLUMNS,
) -> int:
    """Draws a random choice of images with their annotations onto one contact sheet.

    Annotations are drawn as a conversion mends them; captions count the faults.

    Args:
      image_dir: folder of the images.
      annotation_file: COCO JSON.
      output: path of the sheet, a JPEG or PNG by its suffix.
      limit: number of images at most.
      seed: of the choice.
      columns: images in a row.

    Returns:
      Number of images on the sheet.

    Raises:
      UserError: when the file is no COCO file, or the sheet cannot be written.
    """
    data = coco.load_coco(annotation_file)
    numbers = random.Random(seed).sample(range(len(data.images)), min(limit, len(data.images)))
    tiles, captions = [], []
    for number in sorted(numbers):
        image = data.images[number]
        name, examined = image.entry["file_name"], coco.examine(image, image_dir)
        if isinstance(examined, coco.Examined):
            tiles.append(_annotated_tile(examined, data.categories))
            captions.append(f"{name}: {_plural(len(examined.instances), 'instance')}")
            faults = examined.faults
        else:
            tiles.append(_message_tile(examined[0].kind))
            captions.append(f"{name}: left out")
            faults = examined[1:]
        num_faults = sum(fault.outcome != Outcome.KEPT for fault in faults)
        if num_faults:
            captions[-1] += f", {_plural(num_faults, 'fault')}"
    _write_sheet(output, tiles, columns, captions)
    return len(tiles)


def browse_batches(
    config: DataConfig,
    input_size: tuple[int, int],
    output: str,
    limit: int = 24,
    class_names: Mapping[int, str] | None = None,
    columns: int = _COLUMNS,
) -> int:
    """Draws examples as the model gets them: augmented, cropped, padded, masks from their crops.

    Padding is grey, which is 0 after normalisation. An instance without a mask has only a box.

    Args:
      config: as for training or evaluation.
      input_size: height and width of the network input.
      output: path of the sheet, a JPEG or PNG by its suffix.
      limit: number of images at most.
      class_names: by category id; ids are shown where there is no name.
      columns: images in a row.

    Returns:
      Number of images on the sheet.

    Raises:
      UserError: as data.pipeline.build_dataset does, when more examples are damaged than
        `config.max_faulty_examples`, and when the sheet cannot be written.
    """
    tiles: list[np.ndarray] = []
    captions: list[str] = []
    for arrays in _batches(config, input_size):
        for i in np.flatnonzero(arrays["source_id"] >= 0)[: limit - len(tiles)]:
            example = {key: values[i] for key, values in arrays.items()}
            tiles.append(_example_tile(example, class_names or {}))
            captions.append(_example_caption(example))
        if len(tiles) >= limit:
            break
    _write_sheet(output, tiles, columns, captions)
    return len(tiles)


def _batches(config: DataConfig, input_size: tuple[int, int]) -> Iterator[dict[str, np.ndarray]]:
    import tensorflow as tf

    from official_maskrcnn.data import pipeline

    try:
        for batch in pipeline.build_dataset(config, input_size, include_mask=True):
            yield {key: value.numpy() for key, value in batch.items()}
    except tf.errors.OpError as error:
        fault = data_fault(error.message)
        if fault is None:
            raise
        raise fault from error


def _annotated_tile(examined: coco.Examined, names: Mapping[int, str]) -> np.ndarray:
    assert examined.image is not None  # since it was examined with its folder
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(examined.image.encoded, np.uint8), flags)
    assert pixels is not None
    image, scale = drawing.fit(pixels, _TILE_SIDE)
    boxes = np.reshape([instance.box for instance in examined.instances], [-1, 4]) * scale
    labels = []
    for instance in examined.instances:
        label = _label(instance.category_id, names)
        labels.append(f"{label} (crowd)".lstrip() if instance.is_crowd else label)
    masks = (_scaled_mask(instance.mask, image) for instance in examined.instances)
    return drawing.draw_instances(image, boxes, masks, labels)


def _scaled_mask(encoded: dict[str, Any] | None, image: np.ndarray) -> np.ndarray | None:
    """Bool [h, w] of the image's size, of an RLE."""
    if encoded is None:
        return None
    mask = rle.decode(encoded) * np.uint8(255)
    return cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 127


def _example_tile(example: Mapping[str, np.ndarray], class_names: Mapping[int, str]) -> np.ndarray:
    from official_maskrcnn.data import parser

    image, scale = drawing.fit(parser.denormalize(example["image"]), _TILE_SIDE)
    instances = np.flatnonzero(example["classes"] > 0)
    boxes = example["boxes"][instances] * scale
    labels = [_label(int(c), class_names) for c in example["classes"][instances]]
    masks = (
        drawing.paste_mask(example["masks"][i], box, *image.shape[:2])
        if example["mask_valid"][i]
        else None
        for i, box in zip(instances, boxes, strict=True)
    )
    return drawing.draw_instances(image, boxes, masks, labels)


def _example_caption(example: Mapping[str, np.ndarray]) -> str:
    num_instances, num_masks = int((example["classes"] > 0).sum()), int(example["mask_valid"].sum())
    caption = f"{example['source_id']}: {_plural(num_instances, 'instance')}"
    caption += f", {_plural(num_masks, 'mask')}"
    if example["num_truncated"]:
        caption += f", {example['num_truncated']} left out"
    return f"{caption}, scale {example['image_info'][2, 0]:.2f}"


def _label(category_id: int, names: Mapping[int, str]) -> str:
    """Nothing where there is one class only: its name on every instance would tell nothing."""
    if len(names) == 1 and category_id in names:
        return ""
    return names.get(category_id, f"category {category_id}")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _message_tile(message: str) -> np.ndarray:
    tile = np.full([_TILE_SIDE * 3 // 4, _TILE_SIDE, 3], 80, np.uint8)
    origin = (20, tile.shape[0] // 2)
    return cv2.putText(tile, message, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 1)


def _write_sheet(output: str, tiles: list[np.ndarray], columns: int, captions: list[str]) -> None:
    if not tiles:
        raise UserError("there are no images to draw")
    try:
        drawing.write_image(output, drawing.contact_sheet(tiles, columns, captions))
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error

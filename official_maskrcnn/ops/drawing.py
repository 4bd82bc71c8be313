"""Pictures for people: instances drawn on an image, and contact sheets of images."""

import colorsys
import os
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LUMINANCE = (0.299, 0.587, 0.114)
_BACKGROUND = 32  # grey of a contact sheet
_INK = (230, 230, 230)
_GAP = 8  # pixels between the images of a contact sheet


def distinct_colors(count: int) -> np.ndarray:
    """uint8 [count, 3] RGB; neighbours differ widely in hue, and the first are the same always."""
    golden = 0.61803398875  # turns by the golden ratio spread hues evenly, however many there are
    hues = [(0.02 + golden * i) % 1.0 for i in range(count)]
    colors = [colorsys.hsv_to_rgb(hue, 0.75, 1.0 - 0.25 * (i % 2)) for i, hue in enumerate(hues)]
    return (np.array(colors).reshape(-1, 3) * 255).astype(np.uint8)


def fit(image: np.ndarray, max_side: int) -> tuple[np.ndarray, float]:
    """Scales an image so that its longer side is `max_side` pixels; gives it and the scale."""
    scale = max_side / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method), scale


def paste_mask(crop: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Full-size mask of a mask relative to its box.

    Args:
      crop: [s, s], {0, 1} or probabilities.
      box: [4], (ymin, xmin, ymax, xmax) in pixels; may be fractional or reach over the edges.
      height: of the result.
      width: of the result.

    Returns:
      bool [height, width]; True where the crop, interpolated at the pixel's centre, is at least
      one half.
    """
    mask = np.zeros([height, width], bool)
    first = np.clip(np.floor(box[:2]).astype(int), 0, [height, width])
    last = np.clip(np.ceil(box[2:]).astype(int), first, [height, width])
    sides = np.maximum(np.asarray(box[2:]) - box[:2], 1e-6)
    positions = [
        ((np.arange(first[i], last[i]) + 0.5 - box[i]) / sides[i] * crop.shape[i]).astype(
            np.float32
        )
        for i in range(2)
    ]
    inside = [(p > 0) & (p < crop.shape[i]) for i, p in enumerate(positions)]
    rows, columns = (np.clip(positions[i] - 0.5, 0, crop.shape[i] - 1) for i in range(2))
    if rows.size and columns.size:
        map_x, map_y = np.meshgrid(columns, rows)
        values = cv2.remap(crop.astype(np.float32), map_x, map_y, cv2.INTER_LINEAR)
        region = (values >= 0.5) & inside[0][:, None] & inside[1]
        mask[first[0] : last[0], first[1] : last[1]] = region
    return mask


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: Iterable[np.ndarray | None] | None = None,
    labels: Sequence[str] | None = None,
) -> np.ndarray:
    """Draws masks (translucent, with a contour), boxes and labels, each instance in its colour.

    Labels are left out where they would cover the label of a larger instance.

    Args:
      image: uint8 [h, w, 3], RGB.
      boxes: [n, 4], (ymin, xmin, ymax, xmax) in pixels.
      masks: n masks, each bool [h, w] or None; may be a generator, which saves memory.
      labels: n texts, such as "cat 0.92"; "" for none.

    Returns:
      uint8 [h, w, 3], a new image.
    """
    canvas = np.ascontiguousarray(image).copy()
    colors = distinct_colors(len(boxes)).tolist()
    thickness = max(1, round(max(canvas.shape[:2]) / 500))
    if masks is not None:
        for mask, color in zip(masks, colors, strict=True):
            if mask is not None and mask.any():
                _draw_mask(canvas, mask, color, thickness)
    for box, color in zip(boxes, colors, strict=True):
        ymin, xmin, ymax, xmax = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (xmin, ymin), (xmax - 1, ymax - 1), color, thickness)
    if labels is not None:
        _draw_labels(canvas, boxes, labels, colors)
    return canvas


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    captions: Sequence[str] | None = None,
) -> np.ndarray:
    """Images in rows, each centred in a cell of the largest one's size, its caption below.

    Args:
      images: uint8 [h, w, 3] each, of any sizes; at least one.
      columns: images in a row.
      captions: one an image; cut where too long.

    Returns:
      uint8 [height, width, 3].
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell_height = max(image.shape[0] for image in images)
    cell_width = max(image.shape[1] for image in images)
    scale = _font_scale(cell_height, cell_width)
    (_, text_height), baseline = cv2.getTextSize("Ag", _FONT, scale, 1)
    caption_height = text_height + baseline + 6 if captions else 0
    step_y, step_x = cell_height + caption_height + _GAP, cell_width + _GAP
    sheet = np.full([rows * step_y + _GAP, columns * step_x + _GAP, 3], _BACKGROUND, np.uint8)
    for i, image in enumerate(images):
        top, left = _GAP + i // columns * step_y, _GAP + i % columns * step_x
        y, x = top + (cell_height - image.shape[0]) // 2, left + (cell_width - image.shape[1]) // 2
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
        if captions:
            caption = np.full([caption_height, cell_width, 3], _BACKGROUND, np.uint8)
            origin = (2, text_height + 3)
            cv2.putText(caption, _drawable(captions[i]), origin, _FONT, scale, _INK, 1, cv2.LINE_AA)
            sheet[top + cell_height : top + step_y - _GAP, left : left + cell_width] = caption
    return sheet


def write_image(path: str, image: np.ndarray) -> None:
    """Writes RGB uint8 [h, w, 3] in the format that the suffix of the path names.

    Raises:
      ValueError: the suffix names no format.
      OSError: the file cannot be written.
    """
    suffix = _drawable(os.path.splitext(path)[1])
    if not cv2.haveImageWriter(f"picture{suffix}"):
        raise ValueError(f"{path}: its suffix names no format of images")
    try:
        is_encoded, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise OSError(f"{path}: {error.err}") from error
    if not is_encoded:
        raise OSError(f"{path}: the picture is too large for its format")
    with open(path, "wb") as file:
        file.write(encoded.data)


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, color: Sequence[int], thickness: int) -> None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    region, inside = canvas[window], mask[window]
    region[inside] = (0.55 * region[inside] + 0.45 * np.array(color)).astype(np.uint8)
    mode, method = cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    contours, _ = cv2.findContours(inside.astype(np.uint8), mode, method)
    offset = (int(columns[0]), int(rows[0]))
    cv2.drawContours(canvas, contours, -1, color, thickness, cv2.LINE_AA, offset=offset)


def _font_scale(height: int, width: int) -> float:
    return float(np.clip(max(height, width) / 1200, 0.38, 1.2))


def _drawable(text: str) -> str:
    """Without surrogates, Python's for a name that is no UTF-8, on which OpenCV crashes."""
    return text.encode(errors="replace").decode()


def _draw_labels(
    canvas: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colors: Sequence[Sequence[int]],
) -> None:
    """Text on a patch of its colour, above its box where the image has room, else inside."""
    height, width = canvas.shape[:2]
    scale = _font_scale(height, width)
    taken = np.zeros([height, width], bool)
    labels = [_drawable(label) for label in labels]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-areas, kind="stable"):
        (text_width, text_height), baseline = cv2.getTextSize(labels[i], _FONT, scale, 1)
        patch_height, patch_width = text_height + baseline + 2, text_width + 2
        above = boxes[i, 0] - patch_height
        y = int(np.clip(above if above >= 0 else boxes[i, 0], 0, max(height - patch_height, 0)))
        x = int(np.clip(boxes[i, 1], 0, max(width - patch_width, 0)))
        patch = np.s_[y : y + patch_height, x : x + patch_width]
        if not labels[i] or taken[patch].any():
            continue
        taken[patch] = True
        canvas[patch] = colors[i]
        ink = (0, 0, 0) if np.dot(colors[i], _LUMINANCE) > 110 else (255, 255, 255)
        origin = (x + 1, y + text_height + 1)
        cv2.putText(canvas, labels[i], origin, _FONT, scale, ink, 1, cv2.LINE_AA)

"""Synthetic scenes in COCO's format: textured shapes of 12 classes, with occlusion and blur.

Only the outline tells the class: colour, texture, size and rotation are drawn independently of it.
"""

import dataclasses
import functools
import math
import os
import pathlib
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

from official_maskrcnn.data import parallel
from official_maskrcnn.errors import UserError
from official_maskrcnn.files import write_json

# Ids with gaps, as COCO has them.
CATEGORIES = {
    1: "disc",
    2: "square",
    3: "triangle",
    5: "star",
    7: "ring",
    8: "cross",
    11: "crescent",
    13: "heart",
    17: "arrow",
    19: "elbow",
    23: "bow tie",
    29: "bolt",
}

_MIN_SIDE = 64  # pixels; in a smaller image the outlines cannot be told apart
_DIAMETER = (0.18, 0.5)  # of an instance, relative to the image's shorter side
_MAX_TURN = math.pi / 6  # from upright, as most things in photographs stand
_MIN_VISIBLE = 0.3  # an instance of which less can be seen is taken out of the scene
_SUPERSAMPLING = 4
_JPEG_QUALITY = 92

Contours = list[np.ndarray]  # float [points, 2] each, (x, y) in the unit circle; even-odd filled


def make_synthetic(
    output_dir: str | os.PathLike[str],
    num_images: int,
    seed: int = 0,
    image_size: tuple[int, int] = (256, 256),
    max_instances: int = 7,
    crowds: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> pathlib.Path:
    """Writes `output_dir`/images/*.jpg and `output_dir`/instances.json.

    The same arguments give the same bytes, whatever the number of workers; and the first images of
    a larger set are those of a smaller one. Masks are of what can be seen, so they never overlap.

    Args:
      output_dir: folder to write to; made if need be.
      num_images: at least 1.
      seed: another seed gives other images.
      image_size: height and width in pixels.
      max_instances: an image has 1 to this many instances.
      crowds: put one group of small shapes, annotated as a crowd, into every fourth image.
      workers: processes; by default one for each core, and none for a few images.
      progress: whether to show how far it is.

    Returns:
      Path of the annotation file.

    Raises:
      UserError: when an argument is out of its range or the folder cannot be written.
    """
    if num_images < 1 or max_instances < 1:
        raise UserError(
            f"the number of images ({num_images}) and of instances ({max_instances}) "
            "must be at least 1"
        )
    if min(image_size) < _MIN_SIDE:
        raise UserError(f"image size {tuple(image_size)} must be at least {_MIN_SIDE} a side")
    if seed < 0:
        raise UserError(f"the seed ({seed}) must not be negative")
    root = pathlib.Path(output_dir)
    make = functools.partial(
        _make_image,
        image_dir=root / "images",
        seed=seed,
        image_size=image_size,
        max_instances=max_instances,
        crowds=crowds,
    )
    try:
        (root / "images").mkdir(parents=True, exist_ok=True)
        made = parallel.parallel_map(make, range(num_images), num_images, workers)
        done = parallel.track(made, num_images, "Synthetic images", enabled=progress)
        return _write_coco(root, image_size, list(done))
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error.strerror or error}") from error


def _write_coco(
    root: pathlib.Path, image_size: tuple[int, int], results: list[list[dict[str, Any]]]
) -> pathlib.Path:
    height, width = image_size
    annotations = [annotation for of_image in results for annotation in of_image]
    coco = {
        "images": [
            {"id": i + 1, "file_name": _file_name(i), "height": height, "width": width}
            for i in range(len(results))
        ],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    path = root / "instances.json"
    write_json(path, coco)
    return path


def _file_name(index: int) -> str:
    return f"{index + 1:06d}.jpg"


def _make_image(
    index: int,
    image_dir: pathlib.Path,
    seed: int,
    image_size: tuple[int, int],
    max_instances: int,
    crowds: bool,
) -> list[dict[str, Any]]:
    """Writes one image; returns its annotations, yet without ids of their own."""
    rng = np.random.default_rng([seed, index])
    with_crowd = crowds and index % 4 == 0
    instances = _place_instances(rng, image_size, max_instances, with_crowd)
    image = _render(rng, image_size, instances)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
    (image_dir / _file_name(index)).write_bytes(encoded.tobytes())
    return [_annotation(instance, index + 1) for instance in instances]


@dataclasses.dataclass
class _Instance:
    category_id: int
    is_crowd: bool
    alpha: np.ndarray  # float32 [h, w], how much of each pixel the shape covers
    visible: np.ndarray  # bool [h, w], what no nearer instance hides


def _place_instances(
    rng: np.random.Generator, image_size: tuple[int, int], max_instances: int, with_crowd: bool
) -> list[_Instance]:
    """The instances that remain visible, nearest first."""
    height, width = image_size
    covered = np.zeros(image_size, bool)
    centers: list[np.ndarray] = []
    instances = []
    for i in range(rng.integers(1, max_instances + 1)):
        category_id = int(rng.choice(list(CATEGORIES)))
        is_crowd = with_crowd and i == 0
        diameter = min(image_size) * (_DIAMETER[1] if is_crowd else rng.uniform(*_DIAMETER))
        # A tenth of its diameter may stick out of the image: the nearest is never dropped.
        margin = 0.4 * diameter
        candidates = rng.uniform([margin, margin], [width - margin, height - margin], [2, 2])
        center = max(candidates, key=lambda c: min((math.dist(c, d) for d in centers), default=0))
        outline = _OUTLINES[CATEGORIES[category_id]]
        outline = _turn(rng, _group(outline) if is_crowd else outline, diameter / 2)
        alpha = _coverage(outline, center, image_size)
        mask = alpha >= 0.5
        visible = mask & ~covered
        if visible.sum() >= _MIN_VISIBLE * _area(outline, diameter):
            instances.append(_Instance(category_id, is_crowd, alpha, visible))
            centers.append(center)
            covered |= mask
    return instances


def _annotation(instance: _Instance, image_id: int) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(instance.visible, np.uint8))
    return {
        "image_id": image_id,
        "category_id": instance.category_id,
        "bbox": rle.toBbox(encoded).tolist(),
        "area": int(rle.area(encoded)),
        "iscrowd": int(instance.is_crowd),
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
    }


# Geometry


def _arc(
    start: float, end: float, radius: float = 1.0, x: float = 0.0, points: int = 60
) -> np.ndarray:
    """Points on a circle about (x, 0); angles in units of pi."""
    angle = np.linspace(start * np.pi, end * np.pi, points)
    return np.stack([x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _star(points: int, inner_radius: float) -> np.ndarray:
    angle = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2, inner_radius, 1.0)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1) / 17


def _cross(arm: float) -> np.ndarray:
    quarter = np.array([[arm, -arm], [0.95, -arm], [0.95, arm]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


_OUTLINES: dict[str, Contours] = {
    "disc": [0.9 * _arc(0, 2)],
    "square": [np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])],
    "triangle": [_arc(-0.5, 1.5, points=4)],
    "star": [_star(5, 0.42)],
    "ring": [_arc(0, 2), _arc(0, 2, radius=0.52)],
    "cross": [_cross(0.32)],
    # Two circles that meet at (0.625, 0.78) and (0.625, -0.78).
    "crescent": [np.concatenate([_arc(0.285, 1.715), _arc(1.57, 0.43, radius=0.8, x=0.45)])],
    "heart": [_heart()],
    "arrow": [
        np.array(
            [[-1, -0.28], [0, -0.28], [0, -0.8], [1, 0], [0, 0.8], [0, 0.28], [-1, 0.28]], float
        )
    ],
    "elbow": [
        np.array([[-0.75, -0.9], [-0.15, -0.9], [-0.15, 0.3], [0.8, 0.3], [0.8, 0.9], [-0.75, 0.9]])
    ],
    "bow tie": [
        np.array([[-0.95, -0.7], [0, -0.16], [0.95, -0.7], [0.95, 0.7], [0, 0.16], [-0.95, 0.7]])
    ],
    "bolt": [
        np.array(
            [
                [0.1, -1],
                [-0.6, 0.15],
                [-0.08, 0.15],
                [-0.3, 1],
                [0.6, -0.3],
                [0.08, -0.3],
                [0.55, -1],
            ]
        )
    ],
}


def _group(contours: Contours) -> Contours:
    """One copy in the middle and six around it."""
    around = _arc(0, 5 / 3, radius=0.66, points=6)
    return [0.28 * contour + offset for offset in [np.zeros(2), *around] for contour in contours]


def _turn(rng: np.random.Generator, contours: Contours, radius: float) -> Contours:
    """Stretches and turns a little, at random, and scales to pixels."""
    angle, stretch = rng.uniform(-_MAX_TURN, _MAX_TURN), rng.uniform(0.85, 1 / 0.85) ** 0.5
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.diag([stretch, 1 / stretch]) @ np.array([[cos, sin], [-sin, cos]])
    return [radius * (contour @ matrix) for contour in contours]


def _coverage(contours: Contours, center: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """float32 [h, w] in [0, 1]: the part of each pixel that lies inside the contours."""
    height, width = image_size
    canvas = np.zeros([height * _SUPERSAMPLING, width * _SUPERSAMPLING], np.uint8)
    points = [(contour + center) * _SUPERSAMPLING - 0.5 for contour in contours]
    cv2.fillPoly(canvas, [np.round(p).astype(np.int32) for p in points], 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255)


def _area(contours: Contours, diameter: float) -> float:
    """Pixels that the shape covers where nothing hides it and no edge cuts it."""
    side = math.ceil(1.5 * diameter)
    return float(_coverage(contours, np.full(2, side / 2), (side, side)).sum())


# Appearance. Everything is laid out for an image of 256 pixels; `unit` is what one of them is.


def _render(
    rng: np.random.Generator, image_size: tuple[int, int], instances: list[_Instance]
) -> np.ndarray:
    """uint8 RGB [h, w, 3]."""
    unit = min(image_size) / 256
    colors = [_new_color(rng, [])]
    image = _fill(rng, image_size, unit, colors[0], contrast=rng.uniform(0.1, 0.22))
    shadow = rng.uniform(-5, 5, 2) * unit
    for instance in reversed(instances):  # the nearest is painted last
        colors.append(_new_color(rng, colors))
        window = _window(instance.alpha, margin=round(16 * unit))  # with room for the shadow
        alpha, part = instance.alpha[window], image[window]
        fill = _fill(rng, alpha.shape, unit, colors[-1], contrast=rng.uniform(0.1, 0.25))
        part *= 1 - 0.45 * _shadow(alpha, shadow, blur=3 * unit)[..., None]
        part += alpha[..., None] * (fill - part)
    image *= _light(rng, image_size, unit, strength=0.3)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.0) * unit)
    noise = rng.uniform(0.005, 0.03) * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image + noise, 0, 1) * 255).round().astype(np.uint8)


def _window(alpha: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rows and columns that a shape takes up, with a margin."""
    rows, columns = (np.flatnonzero(alpha.any(axis=axis)) for axis in (1, 0))
    return (
        slice(max(rows[0] - margin, 0), rows[-1] + margin),
        slice(max(columns[0] - margin, 0), columns[-1] + margin),
    )


def _new_color(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
    """RGB in [0, 1]; of some random colours the one that looks least like those taken."""
    candidates = rng.uniform(0.1, 0.95, [8, 3]).astype(np.float32)
    if not taken:
        return candidates[0]
    lab = cv2.cvtColor(np.stack([*candidates, *taken])[None], cv2.COLOR_RGB2Lab)[0]
    distance = np.linalg.norm(lab[:8, None] - lab[None, 8:], axis=-1).min(axis=1)
    return candidates[distance.argmax()]


def _fill(
    rng: np.random.Generator,
    size: tuple[int, int],
    unit: float,
    color: np.ndarray,
    contrast: float,
) -> np.ndarray:
    """float32 RGB [h, w, 3]: a pattern in shades of a colour, under a light of its own."""
    tint = rng.uniform(0.4, 1.0, 3).astype(np.float32) * np.float32(contrast)
    pattern = _pattern(rng, size, unit)[..., None] * tint
    return (color + pattern) * _light(rng, size, unit, strength=0.2)[..., None]


def _pattern(rng: np.random.Generator, size: tuple[int, int], unit: float) -> np.ndarray:
    """float32 [h, w] in about [-1, 1]: clouds, grain, stripes or checks."""
    clouds = (
        4 * _noise(rng, size, 80 * unit)
        + 2 * _noise(rng, size, 40 * unit)
        + _noise(rng, size, 20 * unit)
    ) / np.float32(7)
    kind = rng.integers(4)
    if kind == 0:
        return clouds
    if kind == 1:
        return 0.5 * clouds + 0.5 * _noise(rng, size, 4 * unit)
    x, y = _turned_grid(rng, size)
    frequency = 2 * np.pi / (rng.uniform(8, 25) * unit)
    waves = np.sin(frequency * x + 3 * clouds)
    return waves if kind == 2 else np.sign(waves * np.sin(frequency * y))


def _noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> np.ndarray:
    """float32 [h, w]: random values on a grid of cells, interpolated; a cell is in pixels."""
    grid = rng.uniform(-1, 1, [math.ceil(side / cell) + 1 for side in size]).astype(np.float32)
    return cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)


def _light(
    rng: np.random.Generator, size: tuple[int, int], unit: float, strength: float
) -> np.ndarray:
    """float32 [h, w], 1 in the middle: brighter towards a random side."""
    slope = rng.uniform(0, strength) / (128 * unit)
    return 1 + slope * _turned_grid(rng, size)[0]


def _turned_grid(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x, y in pixels, each float32 [h, w], along turned axes through the middle."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    y = np.arange(size[0], dtype=np.float32)[:, None] - np.float32(size[0] / 2)
    x = np.arange(size[1], dtype=np.float32)[None] - np.float32(size[1] / 2)
    return x * cos + y * sin, y * cos - x * sin


def _shadow(alpha: np.ndarray, offset: np.ndarray, blur: float) -> np.ndarray:
    matrix = np.array([[1, 0, offset[0]], [0, 1, offset[1]]])
    moved = cv2.warpAffine(alpha, matrix, alpha.shape[::-1])
    return cv2.GaussianBlur(moved, (0, 0), blur)

"""Any image, as the uint8 RGB pixels that a predictor takes."""

import os
import pathlib
import struct
from typing import Any

import numpy as np
import PIL.ExifTags
import tensorflow as tf

from official_maskrcnn.data.images import (
    MAX_PIXELS,
    ORIENTATIONS,
    ImageFault,
    check_image,
    open_image,
    read_local_file,
)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Content of a file, local or remote.

    Raises:
      ImageFault: "missing_image" or "unreadable_image".
    """
    path = os.fspath(path)
    if "://" not in path:
        return read_local_file(pathlib.Path(path))
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except tf.errors.NotFoundError as error:
        raise ImageFault("missing_image") from error
    except tf.errors.OpError as error:
        raise ImageFault("unreadable_image") from error


def decode(encoded: bytes, upright: bool = True, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, TIFF, BMP or GIF, whatever its colours and bits.

    The pixels are those that the training sees: grey and palettes become RGB, transparency is left
    out, 16 bits become 8.

    Args:
      encoded: content of the file.
      upright: whether to heed an EXIF orientation, as viewers do, and as annotations do not.
      max_pixels: an image of more is not decoded.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      ImageFault: "truncated_image", "undecodable_image" or "oversized_image".
    """
    picture = open_image(encoded, max_pixels)
    stored = check_image(encoded)
    # Only now: the EXIF data of a PNG may stand behind its pixels.
    orientation = _orientation(picture) if upright else 1
    try:
        image = tf.io.decode_image(stored.encoded, channels=3, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ImageFault("undecodable_image") from error
    transposes, flips_rows, flips_columns = ORIENTATIONS.get(orientation, (False, False, False))
    if transposes:
        image = image.swapaxes(0, 1)
    image = image[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]
    return np.ascontiguousarray(image)


def _orientation(picture: PIL.Image.Image) -> int:
    """1 if there is none that can be read: damaged notes do not make an image unusable."""
    try:
        return picture.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, struct.error):
        return 1


def as_rgb(image: Any) -> np.ndarray:
    """An array of pixels as uint8 [h, w, 3].

    Args:
      image: uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], whose transparency is left out; a
        Pillow image will do.

    Raises:
      ValueError: other shapes or types, such as floats.
    """
    pixels = np.asarray(image)
    shape = (*pixels.shape, 1) if pixels.ndim == 2 else pixels.shape
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        text = f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"expected an image as uint8 [h, w, 3], got {text}")
    pixels = pixels.reshape(shape)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])

"""Image files in, checked to the last byte, ready to be stored in a record."""

import io
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image

_JPEG_FORMATS = ("JPEG", "MPO")  # MPO: a JPEG followed by more pictures, as some phones write it
_PNG_BIT_DEPTH = 24  # place of this byte in the file
_PNG_END = b"IEND\xaeB`\x82"


class StoredImage(NamedTuple):
    """An encoded image as it goes into a record.

    Attributes:
      encoded: a JPEG as it was found, or a PNG with 8-bit RGB.
      format: "jpeg" or "png".
      height: of the stored pixels; an EXIF orientation is ignored, as it is by COCO's annotations
        and by TensorFlow's decoders.
      width: of the stored pixels.
    """

    encoded: bytes
    format: str
    height: int
    width: int


class ImageFault(Exception):
    """An image that cannot be used; `kind` names the fault."""

    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind


def read_image(path: pathlib.Path) -> StoredImage:
    """Reads an image file; all but JPEG and 8-bit RGB PNG becomes 8-bit RGB PNG.

    Raises:
      ImageFault: "missing_image", "truncated_image" or "undecodable_image".
    """
    try:
        encoded = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ImageFault("missing_image") from error
    return check_image(encoded)


def check_image(encoded: bytes) -> StoredImage:
    """Decodes an encoded image to its end; re-encodes it unless it is stored as it is.

    Raises:
      ImageFault: "truncated_image" or "undecodable_image".
    """
    try:
        picture = PIL.Image.open(io.BytesIO(encoded))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ImageFault("undecodable_image") from error
    width, height = picture.size
    try:
        picture.draft("L", (1, 1))  # a JPEG at an eighth of its size: reads all, decodes faster
        picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, TypeError) as error:
        is_short = "truncated" in str(error)
        raise ImageFault("truncated_image" if is_short else "undecodable_image") from error
    if picture.format in _JPEG_FORMATS:
        return StoredImage(encoded, "jpeg", height, width)
    # Decoded once more, since TensorFlow refuses damaged PNGs that Pillow lets pass.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    if pixels is None:
        raise ImageFault("undecodable_image")
    is_rgb_png = (
        picture.format == "PNG"
        and picture.mode == "RGB"
        and encoded[_PNG_BIT_DEPTH] == 8
        and "transparency" not in picture.info
    )
    if is_rgb_png and _PNG_END in encoded:
        return StoredImage(encoded, "png", height, width)
    _, png = cv2.imencode(".png", pixels)
    return StoredImage(png.tobytes(), "png", *pixels.shape[:2])


def encode_mask(mask: np.ndarray) -> bytes:
    """PNG of a mask: uint8 [h, w] in {0, 1}."""
    # Runs of equal pixels are all there is to find in a mask: three times as fast as the default.
    options = [
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
    ]
    _, png = cv2.imencode(".png", mask, options)
    return png.tobytes()


def decode_mask(png: bytes) -> np.ndarray | None:
    """Bool [h, w] of a mask's PNG, whatever value stands for the object; None if it is none."""
    if not png:
        return None
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if mask is None else mask > 0

"""Image files in, checked to the last byte, ready to be stored in a record."""

import errno
import functools
import io
import pathlib
import struct
import threading
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.TiffImagePlugin

from official_maskrcnn.errors import UserError

# Those that OpenCV decodes too. Not all of Pillow's: for some it starts other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "SUN", "AVIF")
_JPEG_FORMATS = ("JPEG", "MPO")  # MPO: a JPEG followed by more pictures, as some phones write it
# Of a file that is not there, in contrast to one that cannot be read at the moment.
_NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_PNG_BIT_DEPTH = 24  # place of this byte in the file
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_RAW_DEFLATE = -15  # wbits: without header and checksum
_ADLER_BASE = 65521
# EXIF orientation -> (transpose, flip rows, flip columns): what makes the stored pixels upright.
ORIENTATIONS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
MAX_PIXELS = 1 << 30  # more are refused by OpenCV
_PILLOW_LIMIT = threading.Lock()  # Pillow's own limit, a global, is lower


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


def read_local_file(path: pathlib.Path) -> bytes:
    """Content of a file.

    Raises:
      ImageFault: "missing_image" or "unreadable_image".
    """
    try:
        return path.read_bytes()
    except ValueError as error:  # a name that no file can have
        raise ImageFault("missing_image") from error
    except OSError as error:
        is_missing = error.errno in _NO_SUCH_FILE
        raise ImageFault("missing_image" if is_missing else "unreadable_image") from error


def read_image(path: pathlib.Path) -> StoredImage:
    """Reads an image file; all but JPEG and 8-bit RGB PNG becomes 8-bit RGB PNG.

    Raises:
      ImageFault: "missing_image", or as `check_image`.
      UserError: there is a file, but it cannot be read: the disk, the network or the rights to it
        are at fault, and not the data.
    """
    try:
        encoded = read_local_file(path)
    except ImageFault as fault:
        if fault.kind == "unreadable_image":
            raise UserError(f"an image cannot be read: {fault.__cause__}") from fault
        raise
    return check_image(encoded)


def open_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> PIL.Image.Image:
    """Reads the header of an encoded image, and none of its pixels.

    Raises:
      ImageFault: "undecodable_image", or "oversized_image" above `max_pixels`.
    """
    with _PILLOW_LIMIT:
        before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            picture = PIL.Image.open(io.BytesIO(encoded), formats=_FORMATS)
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ImageFault("undecodable_image") from error
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before
    if picture.width * picture.height > max_pixels:
        raise ImageFault("oversized_image")
    return picture


def check_image(encoded: bytes) -> StoredImage:
    """Decodes an encoded image to its end; re-encodes it unless it is stored as it is.

    Raises:
      ImageFault: "truncated_image", "undecodable_image" or "oversized_image".
    """
    picture = open_image(encoded)
    width, height = picture.size
    turn = _turn_of_tiff(picture)  # only now: Pillow forgets it when it loads the pixels
    try:
        picture.draft("L", (1, 1))  # a JPEG at an eighth of its size: reads all, decodes faster
        picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, TypeError) as error:
        is_short = "truncated" in str(error)
        raise ImageFault("truncated_image" if is_short else "undecodable_image") from error
    if picture.format in _JPEG_FORMATS:
        return StoredImage(encoded, "jpeg", height, width)
    if picture.format == "PNG" and not _chunks_fit(encoded):
        raise ImageFault("truncated_image")
    # Decoded once more, since TensorFlow refuses damaged PNGs that Pillow lets pass.
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    if pixels is None:
        raise ImageFault("undecodable_image")
    pixels = _turned_back(pixels, turn)
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


def _turn_of_tiff(picture: PIL.Image.Image) -> tuple[bool, bool, bool]:
    """How OpenCV turns the pixels of a TIFF, whatever it is told; as in ORIENTATIONS."""
    if not isinstance(picture, PIL.TiffImagePlugin.TiffImageFile):
        return False, False, False
    orientation = picture.tag_v2.get(PIL.ExifTags.Base.Orientation, 1)
    return ORIENTATIONS.get(orientation, (False, False, False))


def _turned_back(pixels: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    transposes, flips_rows, flips_columns = turn
    pixels = pixels[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]
    return np.ascontiguousarray(pixels.swapaxes(0, 1) if transposes else pixels)


def _chunks_fit(png: bytes) -> bool:
    """Whether no chunk claims to go on after the end; OpenCV makes room for what one claims."""
    place = len(_PNG_SIGNATURE)
    while place + 8 <= len(png) and png[place + 4 : place + 8] != b"IEND":
        (length,) = struct.unpack_from(">I", png, place)
        place += 12 + length  # with length, kind and checksum
    return place <= len(png)


def encode_mask(mask: np.ndarray) -> bytes:
    """PNG of a mask: uint8 [h, w] in {0, 1}.

    Most rows of most masks are empty. They are not compressed but put together from pieces that
    are compressed once, which takes a third of the time of `cv2.imencode`.
    """
    height, width = mask.shape
    _, top, _, num_rows = cv2.boundingRect(mask)
    rows = np.zeros([num_rows, 1 + width], np.uint8)  # each begins with the number of its filter
    rows[:, 1:] = mask[top : top + num_rows]
    above, below = (count * (1 + width) for count in (top, height - top - num_rows))
    # Runs of equal pixels are all there is to find in a mask.
    deflate = zlib.compressobj(1, zlib.DEFLATED, _RAW_DEFLATE, strategy=zlib.Z_RLE)
    stream = [
        b"\x78\x01",
        _deflated_zeros(above),
        deflate.compress(rows.data),
        deflate.flush(zlib.Z_FULL_FLUSH),
        _deflated_zeros(below),
        b"\x03\x00",  # an empty last block
        struct.pack(">I", _checksum(above, rows, below)),
    ]
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # 8 bits, grey
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(stream)), (b"IEND", b""))
    return b"".join([_PNG_SIGNATURE, *(_png_chunk(*chunk) for chunk in chunks)])


def _deflated_zeros(count: int) -> bytes:
    """A part of a deflate stream, of whole bytes, that stands for `count` zeros."""
    return b"".join(_deflated_piece(i) for i in range(count.bit_length()) if count >> i & 1)


@functools.cache
def _deflated_piece(exponent: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE)
    return deflate.compress(bytes(1 << exponent)) + deflate.flush(zlib.Z_FULL_FLUSH)


def _checksum(zeros_before: int, rows: np.ndarray, zeros_after: int) -> int:
    """Adler-32 of zeros, rows and zeros (https://www.rfc-editor.org/rfc/rfc1950, section 8.2)."""
    checksum = zlib.adler32(rows.data, zeros_before % _ADLER_BASE << 16 | 1)
    high, low = checksum >> 16, checksum & 0xFFFF
    return (high + zeros_after * low) % _ADLER_BASE << 16 | low


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decode_mask(png: bytes) -> np.ndarray | None:
    """Bool [h, w] of a mask's PNG, whatever value stands for the object; None if it is none."""
    if not png:
        return None
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    return None if mask is None else mask > 0

"""Whatever bytes are given as an image, decoding ends in pixels or in a named fault."""

import io
import random
import resource
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.inference.images import decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
_ORIENTATION = 0x0112


def _encode(image_format: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[_ORIENTATION] = 6
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, image_format, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("image_format", _FORMATS)
def test_damage_is_a_named_fault(image_format: str):
    good = _encode(image_format)
    assert decode(good).shape in [(32, 24, 3), (24, 32, 3)]
    random_numbers = random.Random(image_format)
    faults = 0
    for _ in range(300):
        damaged = bytearray(good)
        for _ in range(random_numbers.choice((1, 5, 20))):
            damaged[random_numbers.randrange(len(damaged))] = random_numbers.choice((0, 255, 65))
        if random_numbers.random() < 0.3:
            del damaged[random_numbers.randrange(len(damaged)) :]
        try:
            assert decode(bytes(damaged), max_pixels=10_000).shape[2] == 3
        except ImageFault as fault:
            assert fault.kind in ("truncated_image", "undecodable_image", "oversized_image")
            faults += 1
    assert faults > 30


def test_a_png_that_claims_more_than_it_has_costs_no_memory():
    png = _encode("PNG")
    place = png.index(b"IDAT") - 4
    claims = png[:place] + struct.pack(">I", 4_000_000_000) + png[place + 4 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageFault, match="truncated_image"):
        decode(claims)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # KB


def test_a_damaged_exif_leaves_the_image():
    png = bytearray(_encode("PNG"))
    place = png.index(b"eXIf")
    (length,) = struct.unpack_from(">I", png, place - 4)
    end = place + 4 + length
    png[place + 4 : end] = b"\xff" * length
    png[end : end + 4] = struct.pack(">I", zlib.crc32(png[place:end]))
    assert decode(bytes(png)).shape in [(32, 24, 3), (24, 32, 3)]


def test_only_formats_that_no_other_program_decodes(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile.load", lambda self: pytest.fail("loaded"))
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "EPS")  # Pillow would start Ghostscript for it
    with pytest.raises(ImageFault, match="undecodable_image"):
        decode(file.getvalue())

"""Files of all kinds become the same RGB pixels."""

import errno
import io
import pathlib
from unittest import mock

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.inference import images

_HEIGHT, _WIDTH = 40, 56


def _gradient(channels: int = 3) -> np.ndarray:
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    planes = [y * 4, x * 4, (y + x) * 2, 255 - y]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def _encode(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])  # Pillow and OpenCV turn a TIFF unasked
def test_exif_orientation_is_heeded_as_viewers_do(orientation: int, kind: str):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    encoded = _encode(PIL.Image.fromarray(_gradient()), kind, exif=exif)
    upright = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(encoded))))
    np.testing.assert_array_equal(images.decode(encoded), upright)
    np.testing.assert_array_equal(images.decode(encoded, upright=False), _gradient())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_formats_without_loss(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = _gradient()
    if kind == "GIF":  # 256 colours
        pixels = pixels // 64 * 64
    encoded = _encode(PIL.Image.fromarray(pixels), kind, **options)
    np.testing.assert_array_equal(images.decode(encoded), pixels)


def test_grey_palette_transparency_and_16_bits_become_rgb():
    grey = _gradient(1)[..., 0]
    thrice = np.repeat(grey[..., None], 3, axis=2)
    for picture in (
        PIL.Image.fromarray(grey),
        PIL.Image.fromarray(grey).convert("LA"),
        PIL.Image.fromarray(grey.astype(np.uint16) * 256 + 7),  # I;16
        PIL.Image.fromarray(grey).convert("P"),
    ):
        np.testing.assert_array_equal(images.decode(_encode(picture, "PNG")), thrice)
    rgba = PIL.Image.fromarray(_gradient(4), "RGBA")
    np.testing.assert_array_equal(images.decode(_encode(rgba, "PNG")), _gradient())


def test_jpeg_in_grey_and_cmyk():
    pixels = np.full([_HEIGHT, _WIDTH, 3], (200, 40, 90), np.uint8)
    for mode, expected in (("L", 94), ("CMYK", (200, 40, 90)), ("RGB", (200, 40, 90))):
        picture = PIL.Image.fromarray(pixels).convert(mode)
        decoded = images.decode(_encode(picture, "JPEG", quality=95)).astype(int)
        assert decoded.shape == (_HEIGHT, _WIDTH, 3)
        assert np.abs(decoded - expected).max() <= 4, mode


def test_what_cannot_be_decoded_is_named(tmp_path: pathlib.Path):
    noise = np.random.default_rng(1).integers(0, 255, [64, 64, 3], np.uint8)
    for kind in ("JPEG", "PNG"):
        encoded = _encode(PIL.Image.fromarray(noise), kind)
        with pytest.raises(ImageFault, match=r"^(truncated|undecodable)_image$"):
            images.decode(encoded[: len(encoded) // 2])
    with pytest.raises(ImageFault, match=r"^undecodable_image$"):
        images.decode(b"no image")
    with pytest.raises(ImageFault, match="oversized_image"):
        images.decode(_encode(PIL.Image.fromarray(noise), "PNG"), max_pixels=64 * 64 - 1)
    for path in (tmp_path / "none.jpg", tmp_path, "a\0b", f"file://{tmp_path}/none.jpg"):
        with pytest.raises(ImageFault, match="missing_image"):
            images.read_file(path)
    with pytest.raises(ImageFault, match="unreadable_image"):
        images.read_file("nowhere://x/y.jpg")
    (tmp_path / "denied.jpg").touch()
    with (
        mock.patch.object(pathlib.Path, "read_bytes", side_effect=PermissionError(errno.EACCES)),
        pytest.raises(ImageFault, match="unreadable_image"),
    ):
        images.read_file(tmp_path / "denied.jpg")


def test_arrays():
    pixels = _gradient()
    np.testing.assert_array_equal(images.as_rgb(pixels), pixels)
    np.testing.assert_array_equal(images.as_rgb(PIL.Image.fromarray(pixels)), pixels)
    np.testing.assert_array_equal(images.as_rgb(_gradient(4)), pixels)
    grey = np.repeat(pixels[..., :1], 3, axis=2)
    np.testing.assert_array_equal(images.as_rgb(pixels[..., 0]), grey)
    np.testing.assert_array_equal(images.as_rgb(pixels[..., :1]), grey)
    for wrong in (pixels / 255, pixels > 3, pixels[..., :2], pixels[None], pixels[:0], "text"):
        with pytest.raises(ValueError, match=r"expected an image as uint8 \[h, w, 3\], got"):
            images.as_rgb(wrong)

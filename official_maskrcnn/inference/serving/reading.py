"""What a request asks for, as /score and the scoring script for Azure both understand it."""

import numpy as np

from official_maskrcnn.data.images import ImageFault
from official_maskrcnn.inference import images
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.options import MaskForm, ServiceOptions

_SCAN = b"\xff\xda"  # begins a scan of a JPEG; within its data, 0xff is followed by 0
_MAX_SCANS = 100  # progressive JPEGs have about ten; each costs a pass over all pixels
_FORMATS = "JPEG, PNG, WebP, TIFF, BMP or GIF"


def choose_mask_form(wanted: MaskForm | None, has_masks: bool, default: MaskForm) -> MaskForm:
    """The form that masks are given in.

    Args:
      wanted: by the request; None if it does not say.
      has_masks: whether the model has masks.
      default: where it does.

    Raises:
      RequestFault: masks are wanted of a model that has none.
    """
    if wanted is None:
        return default if has_masks else "none"
    if wanted != "none" and not has_masks:
        raise RequestFault(400, f"this model has no masks: mask={wanted} is not possible")
    return wanted


def read_image(source: bytes | np.ndarray, options: ServiceOptions) -> np.ndarray:
    """The pixels of an image, uint8 [h, w, 3].

    Args:
      source: content of an image file, or pixels uint8 [h, w, 3].
      options: with the bounds of an image.

    Raises:
      RequestFault: it is larger than it may be, or cannot be read.
    """
    try:
        if isinstance(source, bytes):
            return _decode(source, options)
        if source.shape[0] * source.shape[1] > options.max_pixels:
            raise ImageFault("oversized_image")
        return source
    except ImageFault as fault:
        if fault.kind == "oversized_image":
            text = f"the image has more than {options.max_pixels} pixels: scale it down"
            raise RequestFault(413, text) from fault
        text = (
            "the image ends too early: it was cut off on its way"
            if fault.kind == "truncated_image"
            else f"this is no image that can be read: send the bytes of a {_FORMATS} file as they "
            "are"
        )
        raise RequestFault(400, text) from fault


def _decode(encoded: bytes, options: ServiceOptions) -> np.ndarray:
    if len(encoded) > options.max_bytes:
        raise RequestFault(413, f"the image is larger than {options.max_bytes} bytes")
    if encoded[:2] == b"\xff\xd8" and encoded.count(_SCAN) > _MAX_SCANS:
        raise RequestFault(400, f"the JPEG has more than {_MAX_SCANS} scans")
    return images.decode(encoded, max_pixels=options.max_pixels)

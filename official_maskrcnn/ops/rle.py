"""COCO's run-length encoding of masks, read with care: pycocotools trusts what it is given."""

import re
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# Six bits a character from "0" on, of which the first says that the number goes on: the last has
# it unset. pycocotools reads beyond the end of texts that are cut in between.
_COMPRESSED_COUNTS = re.compile(rb"[0-o]*[0-O]")


def compressed(counts: Any, height: int, width: int) -> dict[str, Any]:
    """The compressed RLE of a mask of that size.

    Args:
      counts: text, compressed already, or run lengths, of 0 and 1 in turn, column after column.
      height: in pixels.
      width: in pixels.

    Returns:
      {"size": [height, width], "counts": bytes}.

    Raises:
      ValueError: they are neither, or do not cover the image.
    """
    size = [height, width]
    if isinstance(counts, str | bytes):
        text = counts.encode("ascii") if isinstance(counts, str) else counts
        runs = decode_counts(text)
    else:
        text = None
        try:
            runs = np.asarray(counts, np.int64)
        except (TypeError, OverflowError) as error:
            raise ValueError("not a list of integers") from error
        if runs.ndim != 1 or not np.array_equal(runs, np.asarray(counts)):
            raise ValueError("not a list of integers")
    # Checked here, since pycocotools takes what is missing from memory that is not its own.
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError("the runs do not cover the image")
    if text is not None:
        return {"size": size, "counts": text}
    return coco_mask.frPyObjects({"size": size, "counts": runs.tolist()}, height, width)


def decode_counts(counts: bytes) -> np.ndarray:
    """Run lengths, int64 [n], of a compressed RLE's text.

    Five bits a character, least significant first; from the fourth run on the difference to the
    run two before is stored (https://github.com/cocodataset/cocoapi, common/maskApi.c).

    Raises:
      ValueError: the text is not made of whole numbers.
    """
    if not _COMPRESSED_COUNTS.fullmatch(counts):
        raise ValueError("not a compressed RLE")
    digits = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    is_last = digits < 32
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    places = np.arange(len(digits)) - np.repeat(starts, np.diff([*starts, len(digits)]))
    if places.max() > 6:
        raise ValueError("a number of more than 32 bits")
    values = np.add.reduceat((digits & 31) << (5 * places), starts)
    ends = np.flatnonzero(is_last)
    values -= np.where(digits[ends] & 16, 32 << (5 * places[ends]), 0)  # the sign
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values

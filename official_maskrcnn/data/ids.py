"""Ids of COCO files, which are numbers or texts, as records and batches have them."""

import functools
import re
from typing import Any

_MAX_INT = 2**63 - 1
_DIGITS = re.compile(r"[0-9]{1,18}")  # what the parser takes for a number

IdKey = int | str | None


def as_int(value: Any) -> int | None:
    """Integers of at most 63 bits, and floats and texts that stand for one; None for all else."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
        is_whole = isinstance(value, int) or number == float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if is_whole and abs(number) <= _MAX_INT else None


def id_key(value: Any) -> IdKey:
    """What ids are compared by: 7, 7.0, "7" and "007" are the same; None for what is no id.

    It is the integer that the parser makes of the id, or else its text.
    """
    if isinstance(value, str):
        return int(value) if _DIGITS.fullmatch(value) else value or None
    number = as_int(value)
    return number if number is None or 0 <= number < 10**18 else str(number)


def image_number(value: Any) -> int | None:
    """The number that batches have for an image of that id; None for what is no id.

    An integer of at most 18 digits stands for itself, as float or text too; all else is hashed.
    """
    key = id_key(value)
    return _hashed(key) if isinstance(key, str) else key


@functools.lru_cache(1 << 20)
def _hashed(text: str) -> int:
    from official_maskrcnn.data import records  # loads TensorFlow

    return int(records.source_id_to_int(text.encode(errors="surrogatepass"), b""))

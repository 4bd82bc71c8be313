"""Annotated images in any format -> records.

Adding a format is one module with a registered function, and its name in the import below.
"""

from official_maskrcnn.data.converters import coco
from official_maskrcnn.data.converters.registry import CONVERTERS, Converter

__all__ = ["CONVERTERS", "Converter", "coco"]

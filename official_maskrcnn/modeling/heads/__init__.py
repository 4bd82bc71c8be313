"""Heads of the model. Importing this package registers every mask head."""

from official_maskrcnn.modeling.heads import hourglass  # noqa: F401 - registers its heads
from official_maskrcnn.modeling.heads.box_head import BoxHead
from official_maskrcnn.modeling.heads.conv import LayerOptions
from official_maskrcnn.modeling.heads.mask_head import (
    MASK_HEADS,
    MaskHead,
    MaskNetwork,
    check_roi_size,
)

__all__ = ["MASK_HEADS", "BoxHead", "LayerOptions", "MaskHead", "MaskNetwork", "check_roi_size"]

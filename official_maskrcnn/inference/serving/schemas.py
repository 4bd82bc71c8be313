"""The forms of answers, as OpenAPI shows them."""

from typing import Any

import pydantic

_BOX = "ymin, xmin, ymax, xmax, as fractions of the image's height and width"


class Fault(pydantic.BaseModel):
    """Why a request was refused."""

    error: str


class Rle(pydantic.BaseModel):
    """COCO's compressed run lengths, down the columns."""

    size: tuple[int, int]
    counts: str


class FoundObject(pydantic.BaseModel):
    """An object in an image."""

    number: int = pydantic.Field(alias="class", description="category id")
    label: str = pydantic.Field(description="name of the class")
    confidence: float = pydantic.Field(ge=0, le=1)
    bounding_box: tuple[float, float, float, float] = pydantic.Field(description=_BOX)
    mask: list[list[float]] | Rle | None = pydantic.Field(
        None,
        description="mask=crop: rows of probabilities that fill mask_box; rle: COCO's run lengths "
        "of the image; polygon: COCO's outlines [x1, y1, x2, y2, ...] in pixels",
    )
    mask_box: tuple[float, float, float, float] | None = pydantic.Field(
        None, description=f"with mask=crop: {_BOX}"
    )


class ModelFacts(pydantic.BaseModel):
    """What is served, and what it accepts."""

    name: str
    version: str
    classes: dict[int, str] = pydantic.Field(description="name by category id")
    has_masks: bool
    boxes_need_classes: bool = pydantic.Field(description="whether /segment needs a class a box")
    mask_form: str = pydantic.Field(description="of masks, if a request does not say")
    max_bytes: int
    max_pixels: int
    max_boxes: int


class Health(pydantic.BaseModel):
    """Whether the service can answer."""

    status: str


class Prediction(pydantic.BaseModel):
    """The objects in an image, in pixels, under the names of a SavedModel's outputs."""

    num_detections: int
    detection_boxes: list[tuple[float, float, float, float]]
    detection_classes: list[int]
    detection_scores: list[float]
    detection_masks: list[list[list[float]]] | None = None
    detection_outer_boxes: list[tuple[float, float, float, float]] | None = None


class Predictions(pydantic.BaseModel):
    """An answer of TensorFlow Serving's predict."""

    predictions: list[Prediction]


IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "content of an image file: JPEG, PNG, WebP, TIFF, BMP or GIF",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_INSTANCE = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"b64": {"type": "string", "description": "an image file in base64"}},
            "required": ["b64"],
        },
        {"type": "array", "items": {}, "description": "pixels [height][width][3], 0 to 255"},
    ]
}
PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "signature_name": {
                            "type": "string",
                            "enum": ["serving_default", "image_bytes"],
                        },
                        "instances": {"type": "array", "items": _INSTANCE, "minItems": 1},
                    },
                    "required": ["instances"],
                }
            }
        },
    }
}
FAULTS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Fault, "description": "The request is wrong; the answer says how."},
    503: {"model": Fault, "description": "Busy or stopping: come again in a moment."},
}

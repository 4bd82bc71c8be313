"""The service's own routes: /score, /segment, /model, /healthz, /metrics."""

import os
import re
from collections.abc import Collection
from typing import Annotated

import fastapi
import numpy as np
import pydantic_core
from fastapi import Query, Request, Response

from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.serving import metrics
from official_maskrcnn.inference.serving.admission import Workplace
from official_maskrcnn.inference.serving.answers import to_answer
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.options import MaskForm
from official_maskrcnn.inference.serving.schemas import (
    FAULTS,
    IMAGE_BODY,
    FoundObject,
    Health,
    ModelFacts,
)
from official_maskrcnn.inference.serving.service import Service

_FOUND = {200: {"model": list[FoundObject], "description": "The most certain first."}, **FAULTS}
_MAX_FRACTION = 10.0  # more is meant in pixels
Mask = Annotated[MaskForm | None, Query(description="form of the masks")]


def scoring_routes(service: Service) -> fastapi.APIRouter:
    """POST /score and /segment, GET /model."""
    router = fastapi.APIRouter()

    @router.post("/score", responses=_FOUND, response_class=Response, openapi_extra=IMAGE_BODY)
    async def score(
        request: Request,
        prob: Annotated[float, Query(ge=0, le=1, description="least confidence")] = 0.5,
        mask: Mask = None,
    ) -> Response:
        """Finds the objects in an image; the body is the image file as it is."""
        form = service.mask_form(mask)
        (detections,) = await service.detect([await request.body()])
        return await service.in_pool(_found, detections.above(prob), form)

    @router.post("/segment", responses=_FOUND, response_class=Response, openapi_extra=IMAGE_BODY)
    async def segment(
        request: Request,
        box: Annotated[
            list[str],
            Query(description="ymin,xmin,ymax,xmax as fractions of the image; may be repeated"),
        ],
        class_: Annotated[
            list[str] | None,
            Query(alias="class", description="name or id of each box's class, where one is needed"),
        ] = None,
        mask: Mask = None,
    ) -> Response:
        """Gives the masks of boxes; the body is the image file as it is."""
        form = service.mask_form(mask)
        boxes = _read_boxes(box, service.options.max_boxes)
        classes = _read_classes(class_, service.predictor.class_names.values())
        detections = await service.segment(await request.body(), boxes, classes)
        return await service.in_pool(_found, detections, form)

    @router.get("/model")
    def model() -> ModelFacts:
        """What is served, and what it accepts."""
        options, predictor = service.options, service.predictor
        return ModelFacts(
            name=options.name,
            version=version(service),
            classes=dict(predictor.class_names),
            has_masks=predictor.config.include_mask,
            boxes_need_classes=not predictor.config.mask_head.class_agnostic,
            mask_form=service.mask_form(None),
            max_bytes=options.max_bytes,
            max_pixels=options.max_pixels,
            max_boxes=options.max_boxes,
        )

    return router


def watching_routes(workplace: Workplace) -> fastapi.APIRouter:
    """GET /healthz and /metrics."""
    router = fastapi.APIRouter()

    @router.get("/healthz", responses={503: FAULTS[503]})
    def health() -> Health:
        """Whether the service can answer."""
        if workplace.fault:
            raise RequestFault(503, workplace.fault)
        return Health(status="ok")

    @router.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """Counters in Prometheus' form."""
        return Response(workplace.metrics.text(), media_type=metrics.CONTENT_TYPE)

    return router


def version(service: Service) -> str:
    """The step of the checkpoint, which TensorFlow Serving's clients see as the version."""
    step = re.search(r"-(\d+)$", os.path.basename(service.predictor.checkpoint))
    return step[1] if step else "1"


def _read_classes(texts: list[str] | None, names: Collection[str]) -> list[int | str] | None:
    """Names, which may be numbers, and ids."""
    if texts is None:
        return None
    return [
        int(text) if text not in names and re.fullmatch("[0-9]{1,9}", text) else text
        for text in texts
    ]


def _found(detections: Detections, form: MaskForm) -> Response:
    content = pydantic_core.to_json(to_answer(detections, form), inf_nan_mode="null")
    return Response(content, media_type="application/json")


def _read_boxes(texts: list[str], max_boxes: int) -> np.ndarray:
    if len(texts) > max_boxes:
        raise RequestFault(400, f"{len(texts)} boxes are given; at most {max_boxes} go at once")
    boxes = []
    for text in texts:
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            values = []
        if len(values) != 4 or not np.all(np.abs(values) <= _MAX_FRACTION):
            raise RequestFault(
                400,
                f"box={text[:100]} is no box: give ymin,xmin,ymax,xmax as fractions of the image, "
                "such as box=0.1,0.2,0.5,0.6",
            )
        boxes.append(values)
    return np.array(boxes, np.float64).reshape(-1, 4)

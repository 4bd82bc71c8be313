"""TensorFlow Serving's REST form (https://www.tensorflow.org/tfx/serving/api_rest)."""

import base64
from typing import Any

import fastapi
import numpy as np
import pydantic_core
from fastapi import Request, Response

from official_maskrcnn.inference import images
from official_maskrcnn.inference.detections import Detections
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.routes import version
from official_maskrcnn.inference.serving.schemas import FAULTS, PREDICT_BODY, Predictions
from official_maskrcnn.inference.serving.service import Service

# Those of an exported SavedModel that find objects; here either takes both forms of an image.
_SIGNATURES = {"serving_default": ("DT_UINT8", [-1, -1, -1, 3]), "image_bytes": ("DT_STRING", [-1])}
_FORMS = 'each is {"b64": "..."}, an image file in base64, or pixels [height][width][3], 0 to 255'
# dtype and shape of the signature's tensors.
_OUTPUTS = {
    "num_detections": ("DT_INT32", [-1]),
    "detection_boxes": ("DT_FLOAT", [-1, -1, 4]),
    "detection_classes": ("DT_INT32", [-1, -1]),
    "detection_scores": ("DT_FLOAT", [-1, -1]),
    "detection_masks": ("DT_FLOAT", [-1, -1, -1, -1]),
}


def tensorflow_serving_routes(service: Service) -> fastapi.APIRouter:
    """POST /v1/models/NAME:predict, GET /v1/models/NAME and its /metadata; also by version."""
    router = fastapi.APIRouter()
    model, number = f"/v1/models/{service.options.name}", version(service)
    is_known = {200: {"model": Predictions}, **FAULTS}

    async def predict(request: Request) -> Response:
        """Finds the objects in images, in TensorFlow Serving's form; boxes are in pixels."""
        # As JSON, a small body can become lists of twenty times its size.
        sources = await service.in_turn(_read_instances, await request.body(), service)
        found = await service.detect(sources)
        return await service.in_pool(_predictions, found)

    def status() -> dict[str, Any]:
        """The state of the model, in TensorFlow Serving's form."""
        state = {"error_code": "OK", "error_message": ""}
        entry = {"version": number, "state": "AVAILABLE", "status": state}
        return {"model_version_status": [entry]}

    def metadata() -> dict[str, Any]:
        """Inputs and outputs of the model, in TensorFlow Serving's form."""
        return _metadata(service, number)

    for path in (model, f"{model}/versions/{number}"):
        router.post(
            f"{path}:predict",
            responses=is_known,
            response_class=Response,
            openapi_extra=PREDICT_BODY,
        )(predict)
        router.get(path)(status)
        router.get(f"{path}/metadata")(metadata)
    return router


def _read_instances(body: bytes, service: Service) -> list[bytes | np.ndarray]:
    """The images of a request.

    Raises:
      RequestFault: it does not have TensorFlow Serving's form, or asks for what is not offered.
    """
    try:
        content = pydantic_core.from_json(body)
    except ValueError as error:
        raise RequestFault(400, f"the body is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestFault(400, 'the body is no JSON object: {"instances": [...]} is expected')
    signature = str(content.get("signature_name") or "serving_default")
    if signature not in _SIGNATURES:
        known = " and ".join(_SIGNATURES)
        text = f"no signature {signature[:100]!r}: there are {known}; for boxes POST /segment"
        raise RequestFault(400, text)
    if "inputs" in content:
        raise RequestFault(400, 'inputs by columns are not offered: give them by rows, "instances"')
    instances = content.get("instances")
    if not isinstance(instances, list) or not instances:
        raise RequestFault(400, f'"instances" must be a list of images; {_FORMS}')
    if len(instances) > service.options.max_requests:
        text = f"{len(instances)} instances; at most {service.options.max_requests} go at once"
        raise RequestFault(400, text)
    return [_read_instance(value, i) for i, value in enumerate(instances)]


def _read_instance(value: Any, place: int) -> bytes | np.ndarray:
    """An image; the name of the input may stand around it."""
    if isinstance(value, dict) and len(value) == 1 and "b64" not in value:
        (value,) = value.values()
    if isinstance(value, dict) and isinstance(value.get("b64"), str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except ValueError as error:
            raise RequestFault(400, f"instance {place}: no base64: {error}") from error
    if isinstance(value, list):
        return _read_pixels(value, place)
    raise RequestFault(400, f"instance {place} is no image; {_FORMS}")


def _read_pixels(value: list[Any], place: int) -> np.ndarray:
    try:
        numbers = np.array(value)
    except ValueError as error:
        raise RequestFault(400, f"instance {place}: the rows of pixels differ in length") from error
    is_number = np.issubdtype(numbers.dtype, np.number)
    if not is_number or not np.all((numbers >= 0) & (numbers <= 255) & (numbers % 1 == 0)):
        text = f"instance {place}: pixels are integers from 0 to 255"
        raise RequestFault(400, text)
    try:
        return images.as_rgb(numbers.astype(np.uint8))
    except ValueError as error:
        raise RequestFault(400, f"instance {place}: {error}") from error


def _predictions(found: list[Detections]) -> Response:
    content = pydantic_core.to_json(
        {"predictions": [_prediction(detections) for detections in found]}, inf_nan_mode="null"
    )
    return Response(content, media_type="application/json")


def _prediction(detections: Detections) -> dict[str, Any]:
    """A row, as long as there are objects."""
    values = {
        "detection_boxes": detections.boxes,
        "detection_classes": detections.class_ids,
        "detection_scores": detections.scores,
        "detection_masks": detections.mask_crops,
        "detection_outer_boxes": detections.mask_boxes,
    }
    lists = {
        name: (value.tolist() if value.dtype.kind == "i" else value.astype(float).round(6).tolist())
        for name, value in values.items()
        if value is not None
    }
    return {"num_detections": len(detections), **lists}


def _metadata(service: Service, number: str) -> dict[str, Any]:
    has_masks = service.predictor.config.include_mask
    outputs = {
        name: _tensor(name, *tensor)
        for name, tensor in _OUTPUTS.items()
        if name != "detection_masks" or has_masks
    }
    signatures = {
        signature: {
            "inputs": {"inputs": _tensor("inputs", *tensor)},
            "outputs": outputs,
            "method_name": "tensorflow/serving/predict",
        }
        for signature, tensor in _SIGNATURES.items()
    }
    return {
        "model_spec": {"name": service.options.name, "signature_name": "", "version": number},
        "metadata": {
            "signature_def": {
                "@type": "type.googleapis.com/tensorflow.serving.SignatureDefMap",
                "signature_def": signatures,
            }
        },
    }


def _tensor(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    size = [{"size": str(length), "name": ""} for length in shape]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": size, "unknown_rank": False},
        "name": name,
    }

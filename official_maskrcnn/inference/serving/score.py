"""The scoring script for Azure Machine Learning: name this file as the entry script.

init() loads the model out of AZUREML_MODEL_DIR, or else out of ./model. run() answers as /score of
`official-maskrcnn serve` does. Where the inference server offers raw requests, as Azure's does, the
body is an image file, and `prob` and `mask` stand in the query; else it is JSON: {"image": the file
in base64, "prob": 0.5, "mask": "crop"}.
"""

import base64
import importlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, get_args

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.predictor import Predictor
from official_maskrcnn.inference.serving.answers import to_answer
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.options import MaskForm, ServiceOptions
from official_maskrcnn.inference.serving.reading import choose_mask_form, read_image
from official_maskrcnn.tasks.model_dir import PARAMS

_BOUNDS = ServiceOptions("model")  # those of an image; Azure has its own of requests
_predictor: Predictor | None = None


def _raw_http() -> tuple[Callable[[Callable], Callable], type | None]:
    """Azure's decorator for raw requests and its response, if they are installed."""
    for package in ("azureml_inference_server_http.api", "azureml.contrib.services"):
        try:
            request = importlib.import_module(f"{package}.aml_request")
            response = importlib.import_module(f"{package}.aml_response")
        except ImportError:
            continue
        return request.rawhttp, response.AMLResponse
    return (lambda function: function), None


_rawhttp, _AMLResponse = _raw_http()


def init() -> None:
    """Loads the model.

    Raises:
      UserError: there is none.
    """
    global _predictor
    folder = pathlib.Path(os.environ.get("AZUREML_MODEL_DIR") or "model")
    found = sorted(path.parent for path in folder.rglob(PARAMS))  # Azure puts it one folder deeper
    if not found:
        raise UserError(f"no model in {folder.resolve()}: a training's model_dir is expected there")
    _predictor = Predictor(found[0])


@_rawhttp
def run(raw_data: Any) -> Any:
    """The objects in an image.

    Args:
      raw_data: a request of the inference server, or the body of one.

    Returns:
      A list of {class, label, confidence, bounding_box, mask, mask_box}, as /score gives it; where
      the request is wrong, {"error": words}.
    """
    if getattr(raw_data, "method", "POST") != "POST":
        return _refuse(405, f"{raw_data.method} is not possible here: POST the bytes of an image")
    try:
        return _score(*_read(raw_data))
    except RequestFault as fault:
        return _refuse(fault.status, fault.message)


def _read(raw_data: Any) -> tuple[bytes, Mapping[str, Any]]:
    """The image and the options.

    Raises:
      RequestFault: the body has not the form that it should have.
    """
    if hasattr(raw_data, "get_data"):
        return raw_data.get_data(), raw_data.args
    if isinstance(raw_data, bytes):
        return raw_data, {}
    try:
        content = json.loads(raw_data)
        return base64.b64decode(content["image"]), content
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        text = 'the body is no {"image": the file in base64, "prob": 0.5, "mask": "crop"}'
        raise RequestFault(400, f"{text}: {error}") from error


def _score(encoded: bytes, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    assert _predictor is not None, "init() comes first"
    wanted, prob = options.get("mask"), options.get("prob", 0.5)
    if wanted is not None and wanted not in get_args(MaskForm):
        raise RequestFault(400, f"mask: one of {', '.join(get_args(MaskForm))} is expected")
    form = choose_mask_form(wanted, _predictor.config.include_mask, "crop")
    threshold = _read_prob(prob)
    return to_answer(_predictor(read_image(encoded, _BOUNDS)).above(threshold), form)


def _read_prob(value: Any) -> float:
    try:
        prob = float(value)
    except (ValueError, TypeError):
        prob = -1.0
    if not 0 <= prob <= 1:  # NaN neither
        raise RequestFault(400, "prob: a number from 0 to 1 is expected")
    return prob


def _refuse(status: int, message: str) -> Any:
    answer = {"error": message}
    if _AMLResponse is None:
        return answer
    return _AMLResponse(answer, status, json_str=True)

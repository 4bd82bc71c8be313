"""A user's own scoring script, as Azure Machine Learning runs it: init() once, run() a request."""

import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import fastapi
from fastapi import Query, Request, Response

from official_maskrcnn.errors import UserError
from official_maskrcnn.inference.serving.admission import Workplace
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.metrics import Metrics
from official_maskrcnn.inference.serving.options import ServiceOptions
from official_maskrcnn.inference.serving.schemas import FAULTS, IMAGE_BODY

# Where a script's @rawhttp can come from; each notes there that it was used.
_RAW_HTTP = (
    "azureml_inference_server_http.api.aml_request",
    "azureml.contrib.services.aml_request",
)


class ScriptRequest(NamedTuple):
    """What a script's run() gets of a request if it is decorated with @rawhttp."""

    method: str
    args: Mapping[str, str]
    headers: Mapping[str, str]
    data: bytes

    def get_data(self, cache: bool = True, as_text: bool = False) -> bytes | str:
        """The body."""
        return self.data.decode() if as_text else self.data


class ScoringScript(Workplace[ScriptRequest, Response]):
    """Answers requests with a script; used from one event loop."""

    def __init__(self, path: str, model_dir: str, options: ServiceOptions, metrics: Metrics):
        """Loads a script and calls its init().

        Args:
          path: a Python file with functions init() and run(raw_data).
          model_dir: what it finds in the environment variable AZUREML_MODEL_DIR.
          options: of the service; a script gets one request at a time.
          metrics: counters.

        Raises:
          UserError: there is no such script, or it cannot be imported.
        """
        super().__init__(self._answer_all, options, metrics)
        os.environ["AZUREML_MODEL_DIR"] = os.path.abspath(model_dir)
        init, self._run = _load(pathlib.Path(path))
        self._is_raw = any(
            getattr(sys.modules.get(name), "_rawHttpRequested", False) for name in _RAW_HTTP
        )
        init()

    def _answer_all(self, requests: Sequence[ScriptRequest]) -> list[Response | Exception]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: ScriptRequest) -> Response | Exception:
        try:
            return _as_response(self._run(request if self._is_raw else request.data.decode()))
        except UnicodeDecodeError:
            text = "this scoring script takes text: its run() is not decorated with @rawhttp"
            return RequestFault(400, text)
        except Exception as error:
            return error


def script_routes(script: ScoringScript) -> fastapi.APIRouter:
    """POST /score."""
    router = fastapi.APIRouter()

    @router.post("/score", responses=FAULTS, response_class=Response, openapi_extra=IMAGE_BODY)
    async def score(
        request: Request,
        prob: Annotated[str | None, Query(description="least confidence")] = None,
    ) -> Response:
        """Calls the run() of the scoring script."""
        content = ScriptRequest(
            request.method, dict(request.query_params), request.headers, await request.body()
        )
        return await script.submit(content)

    return router


def _load(path: pathlib.Path) -> tuple[Callable[[], None], Callable[[Any], Any]]:
    spec = importlib.util.spec_from_file_location("scoring_script", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{path} is no scoring script: a Python file is expected")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))  # for what lies beside it
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise UserError(f"{path}: {error}; install what the scoring script imports") from error
    missing = [name for name in ("init", "run") if not callable(getattr(module, name, None))]
    if missing:
        raise UserError(f"{path} is no scoring script: it has no {'() and no '.join(missing)}()")
    return module.init, module.run


def _as_response(answer: Any) -> Response:
    """An AMLResponse as it is; all else becomes JSON."""
    if hasattr(answer, "get_data") and hasattr(answer, "status_code"):
        return Response(answer.get_data(), answer.status_code, dict(answer.headers))
    return Response(json.dumps(answer), media_type="application/json")

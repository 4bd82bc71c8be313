"""The service as an ASGI application."""

import contextlib
import importlib.resources
from collections.abc import AsyncIterator, Iterable

import fastapi
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import official_maskrcnn
from official_maskrcnn.inference.serving.admission import Workplace
from official_maskrcnn.inference.serving.faults import RequestFault
from official_maskrcnn.inference.serving.guard import Guard
from official_maskrcnn.inference.serving.routes import scoring_routes, version, watching_routes
from official_maskrcnn.inference.serving.scoring_script import ScoringScript, script_routes
from official_maskrcnn.inference.serving.service import Service
from official_maskrcnn.inference.serving.tensorflow_serving import tensorflow_serving_routes

_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_DESCRIPTION = (
    "Objects in photographs, with masks. An image is answered for as it is displayed: its EXIF "
    "orientation is heeded."
)
_HINTS = {
    "/score": "POST the bytes of an image: curl --data-binary @photo.jpg 'URL/score?prob=0.5'",
    "/segment": "POST the bytes of an image: "
    "curl --data-binary @photo.jpg 'URL/segment?box=0.1,0.2,0.5,0.6'",
}


def create_app(service: Service) -> ASGIApp:
    """An application that answers with a model, which it starts and stops."""
    app = _make_app(service, scoring_routes(service), tensorflow_serving_routes(service))
    _add_page(app)
    predictor = service.predictor
    service.metrics.model.info(
        {
            "name": service.options.name,
            "version": version(service),
            "checkpoint": predictor.checkpoint,
            "precision": predictor.precision,
        }
    )
    return _guard(app, service, [*app.openapi()["paths"], *_PAGE])


def create_script_app(script: ScoringScript) -> ASGIApp:
    """An application that answers with a scoring script, which it starts and stops."""
    app = _make_app(script, script_routes(script))
    return _guard(app, script, app.openapi()["paths"])


def _make_app(workplace: Workplace, *routers: fastapi.APIRouter) -> fastapi.FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        workplace.start()
        yield
        await workplace.stop()

    app = fastapi.FastAPI(
        title=f"official-maskrcnn: {workplace.options.name}",
        version=official_maskrcnn.__version__,
        description=_DESCRIPTION,
        docs_url=None,  # their scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    for router in (*routers, watching_routes(workplace)):
        app.include_router(router)
    _add_faults(app, workplace.options.name)
    return app


def _guard(app: fastapi.FastAPI, workplace: Workplace, paths: Iterable[str]) -> ASGIApp:
    return Guard(app, workplace.options, workplace.metrics, paths, workplace.admit)


def _add_page(app: fastapi.FastAPI) -> None:
    folder = importlib.resources.files(__package__) / "page"

    def add(path: str, name: str, media_type: str) -> None:
        content = (folder / name).read_bytes()

        @app.get(path, include_in_schema=False)
        def page() -> Response:
            return Response(content, media_type=media_type)

    for path, (name, media_type) in _PAGE.items():
        add(path, name, media_type)


def _add_faults(app: fastapi.FastAPI, name: str) -> None:
    """Every refusal is {"error": words}."""

    @app.exception_handler(RequestFault)
    async def refuse(request: Request, fault: RequestFault) -> Response:
        return fault.response()

    @app.exception_handler(RequestValidationError)
    async def refuse_parameters(request: Request, error: RequestValidationError) -> Response:
        faults = [
            f"{entry['loc'][-1]}: {entry['msg'][:1].lower()}{entry['msg'][1:]}"
            for entry in error.errors()
        ]
        return RequestFault(400, "; ".join(faults)).response()

    @app.exception_handler(Exception)
    async def confess(request: Request, error: Exception) -> Response:
        return RequestFault(500, "a fault of the service: its log says more").response()

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 404 and path.startswith("/v1/models/"):
            text = f"there is no {path[:200]}: the model is called {name}"
        elif error.status_code == 404:
            text = f"there is no {path[:200]}: see /openapi.json for what there is"
        elif error.status_code == 405:
            text = f"{request.method} is not possible here"
            text += f"; {_HINTS[path]}" if path in _HINTS else ""
        else:
            text = str(error.detail)
        return RequestFault(error.status_code, text, error.headers).response()

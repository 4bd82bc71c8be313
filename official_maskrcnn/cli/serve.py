"""The verb that makes a trained model a service."""

import argparse
import os
import pathlib
import re
import sys
from typing import TYPE_CHECKING

from official_maskrcnn.cli.arguments import VerbParser, positive_int
from official_maskrcnn.cli.predict import add_model
from official_maskrcnn.errors import UserError, require_packages

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from official_maskrcnn.inference.serving.deployment import Deployment
    from official_maskrcnn.inference.serving.options import ServiceOptions

_TOKEN = "OFFICIAL_MASKRCNN_TOKEN"
_LOCAL = ("127.0.0.1", "::1", "localhost")


def add_verbs(parser: VerbParser) -> None:
    """Adds serve."""
    verb = parser.add_verb(
        "serve",
        "Answers requests for objects and masks over HTTP.\n\n"
        "http://HOST:PORT/ is a page to try it on. POST /score takes an image file and answers a\n"
        "list of objects; POST /segment gives the masks of boxes; /v1/models/NAME:predict is\n"
        "TensorFlow Serving's form; /openapi.json describes all. Needs the extra serve:\n"
        "pip install 'official-maskrcnn[serve]'. A token is never an argument: see --token_file.",
        (
            "--model runs/nuts",
            "--model runs/nuts --port 8080 --name nuts --max_batch 8 --time_limit 10",
        ),
    )
    add_model(verb)
    verb.add_argument("--host", default="127.0.0.1", help="to listen at; default: %(default)s")
    verb.add_argument("--port", type=int, default=8000, metavar="N", help="default: %(default)s")
    verb.add_argument("--name", help="of the model in /v1/models/NAME; default: that of its folder")
    verb.add_argument(
        "--token_file",
        metavar="FILE",
        help="with the token that requests must bear; "
        f"default: environment variable {_TOKEN}, else none",
    )
    verb.add_argument(
        "--deployment",
        metavar="FILE",
        help="JSON with IMAGE_TYPE, TF_VERSION, ACI_PARAMS and AKS_PARAMS",
    )
    verb.add_argument(
        "--scoring_script",
        metavar="FILE",
        help="Python with init() and run(), which then answers /score",
    )
    _add_bounds(verb)
    verb.set_defaults(run=_serve)


def _add_bounds(verb: VerbParser) -> None:
    verb.add_argument(
        "--score",
        type=float,
        default=0.0,
        metavar="S",
        help="least score that can be asked for; more is faster; default: that of the model",
    )
    verb.add_argument(
        "--max_batch",
        type=positive_int,
        default=4,
        metavar="N",
        help="images that go through the model together; default: %(default)s",
    )
    verb.add_argument(
        "--batch_wait",
        type=float,
        default=4.0,
        metavar="MS",
        help="milliseconds to wait for others; default: %(default)s",
    )
    verb.add_argument(
        "--max_requests",
        type=positive_int,
        default=32,
        metavar="N",
        help="images that arrive, wait or are in work; others are answered 503; "
        "default: %(default)s",
    )
    verb.add_argument(
        "--time_limit",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds for a request to arrive, for its answer, and for that to be taken; "
        "default: %(default)s",
    )
    verb.add_argument(
        "--max_mib",
        type=positive_int,
        default=20,
        metavar="N",
        help="MiB of an image file; default: %(default)s",
    )
    verb.add_argument(
        "--max_megapixels",
        type=positive_int,
        default=50,
        metavar="N",
        help="million pixels of an image; default: %(default)s",
    )
    verb.add_argument(
        "--max_connections",
        type=positive_int,
        default=128,
        metavar="N",
        help="at a time; default: %(default)s",
    )
    verb.add_argument(
        "--stop_seconds",
        type=positive_int,
        default=30,
        metavar="S",
        help="to end in after SIGTERM; default: %(default)s",
    )


def _serve(arguments: argparse.Namespace) -> None:
    require_packages(("fastapi", "prometheus_client", "uvicorn"), "serve", "serve")
    from official_maskrcnn.inference.serving.server import bind, run_server

    options = _options(arguments)
    held = bind(arguments.host, arguments.port)  # before the model is loaded, which takes longer
    app = _make_app(arguments, options)
    if arguments.host not in _LOCAL and options.token is None:
        print(f"warning: {arguments.host} is open to everybody: no token is set", file=sys.stderr)
    run_server(app, held, arguments.max_connections, arguments.stop_seconds, arguments.time_limit)


def _options(arguments: argparse.Namespace) -> "ServiceOptions":
    from official_maskrcnn.inference.serving.deployment import read_deployment
    from official_maskrcnn.inference.serving.options import MEBIBYTE, ServiceOptions

    deployment = read_deployment(arguments.deployment) if arguments.deployment else None
    if arguments.time_limit <= 0 or arguments.batch_wait < 0 or not 0 <= arguments.port < 1 << 16:
        raise UserError("--time_limit must be positive, --batch_wait 0 or more, --port a port")
    return ServiceOptions(
        name=_name(arguments, deployment),
        token=_token(arguments.token_file, deployment),
        mask_form="none" if deployment and not deployment.has_masks else "crop",
        max_batch=1 if arguments.scoring_script else arguments.max_batch,
        batch_wait=arguments.batch_wait / 1000,
        max_requests=arguments.max_requests,
        time_limit=arguments.time_limit,
        max_bytes=arguments.max_mib * MEBIBYTE,
        max_pixels=arguments.max_megapixels * 1_000_000,
    )


def _name(arguments: argparse.Namespace, deployment: "Deployment | None") -> str:
    folder = pathlib.Path(arguments.model).resolve().name
    name = arguments.name or (deployment and deployment.IMAGE_TYPE) or folder
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"{name!r} cannot stand in an address: give --name of letters and digits")
    return name


def _token(path: str | None, deployment: "Deployment | None") -> str | None:
    """The token that requests must bear.

    Raises:
      UserError: the file cannot be read or is empty, or the deployment wants one and there is none.
    """
    if path is not None:
        try:
            token = pathlib.Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token_file {path} cannot be read: {error}") from error
        if not token:
            raise UserError(f"--token_file {path} is empty")
        return token
    token = os.environ.get(_TOKEN, "").strip()
    if not token and deployment and deployment.needs_token:
        raise UserError(
            "the deployment file asks for authentication (ACI_AUTH or USE_AKS): put a token in the "
            f"environment variable {_TOKEN}, or give --token_file"
        )
    return token or None


def _make_app(arguments: argparse.Namespace, options: "ServiceOptions") -> "ASGIApp":
    from official_maskrcnn.inference.predictor import Predictor
    from official_maskrcnn.inference.serving.app import create_app, create_script_app
    from official_maskrcnn.inference.serving.metrics import Metrics
    from official_maskrcnn.inference.serving.scoring_script import ScoringScript
    from official_maskrcnn.inference.serving.service import Service

    if arguments.scoring_script:
        return create_script_app(
            ScoringScript(arguments.scoring_script, arguments.model, options, Metrics())
        )
    predictor = Predictor(
        arguments.model, arguments.checkpoint, arguments.precision, arguments.score
    )
    print(f"{predictor.checkpoint} is loaded; preparing its graphs", flush=True)
    service = Service(predictor, options, Metrics())
    service.warm_up()
    return create_app(service)

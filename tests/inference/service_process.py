"""A service as a process of its own, with a fake predictor or a real model."""

import contextlib
import http.client
import os
import pathlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


class ServiceProcess:
    """A service that listens; `log` has the lines that it has printed."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)
            if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError("".join(self.log))
        threading.Thread(target=self._read, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.log.extend(self.process.stdout)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

    @property
    def memory_mb(self) -> float:
        """Resident memory now."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(*command: str, **environment: str) -> Iterator[ServiceProcess]:
    """`python COMMAND`, until the end of the block."""
    service = ServiceProcess(list(command), environment)
    try:
        yield service
    finally:
        service.end()


@contextlib.contextmanager
def fake_service(
    seconds: float = 0.0,
    include_mask: bool = True,
    class_agnostic: bool = True,
    max_connections: int = 64,
    stop_seconds: int = 10,
    **options: Any,
) -> Iterator[ServiceProcess]:
    """A service whose fake predictor takes some time for each batch."""
    code = (
        "import time\n"
        "from official_maskrcnn.inference.serving.app import create_app\n"
        "from official_maskrcnn.inference.serving.metrics import Metrics\n"
        "from official_maskrcnn.inference.serving.options import ServiceOptions\n"
        "from official_maskrcnn.inference.serving.server import bind, run_server\n"
        "from official_maskrcnn.inference.serving.service import Service\n"
        "from tests.inference.served_predictor import ServedPredictor\n"
        f"predictor = ServedPredictor({include_mask}, {class_agnostic})\n"
        f"predictor.gate.wait = lambda limit: time.sleep({seconds})\n"
        f"options = ServiceOptions(**{ {'name': 'fake', **options}!r})\n"
        "app = create_app(Service(predictor, options, Metrics()))\n"
        "held = bind('127.0.0.1', 0)\n"
        f"run_server(app, held, {max_connections}, {stop_seconds}, options.time_limit)\n"
    )
    with running("-c", code) as service:
        yield service

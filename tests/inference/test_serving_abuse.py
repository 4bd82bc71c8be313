"""A thousand requests that are wrong: none ends the service, and memory stays as it is."""

import collections
import io
import pathlib
import random
import re
import socket
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pytest

from tests.inference.served_predictor import encode
from tests.inference.service_process import ServiceProcess, fake_service, running
from tests.inference.small_model import make_model_dir

pytestmark = pytest.mark.slow
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "ICO", "TGA", "PDF")
_PATHS = ("/score", "/segment?box=0,0,1,1", "/v1/models/nuts:predict")


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[ServiceProcess]:
    model = make_model_dir(tmp_path_factory.mktemp("model") / "nuts")
    command = ("-m", "official_maskrcnn", "serve", "--model", str(model), "--port", "0")
    with running(*command, "--time_limit", "1", "--max_mib", "4") as service:
        yield service


class Nonsense:
    """Draws requests as they come off the wire, each a text of what it is and its bytes."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        noise = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), np.uint8)
        self._images = []
        for image_format in _FORMATS:
            file = io.BytesIO()
            PIL.Image.fromarray(noise).save(file, image_format)
            self._images.append(file.getvalue())
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("image.png", bytes(5_000_000))
        self._bombs = (
            zipped.getvalue(),
            encode(12_000, 12_000, "GIF"),
            zlib.compress(bytes(5_000_000), wbits=31),
            b"[" * 200_000,
            b'{"instances": [' + b"[]," * 300_000,
        )

    def draw(self) -> tuple[str, bytes]:
        name = self._random.choice([name for name in dir(self) if name.startswith("_draw_")])
        return name.removeprefix("_draw_"), getattr(self, name)()

    def _post(self, body: bytes, path: str = "", headers: str = "") -> bytes:
        path = path or self._random.choice(_PATHS)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        return head.encode("latin-1") + body

    def _bytes(self, length: int) -> bytes:
        return self._random.randbytes(self._random.randrange(length))

    def _draw_truncated(self) -> bytes:
        image = self._random.choice(self._images)
        return self._post(image[: self._random.randrange(len(image))])

    def _draw_damaged(self) -> bytes:
        image = bytearray(self._random.choice(self._images))
        for _ in range(self._random.choice((1, 10, 100))):
            image[self._random.randrange(min(len(image), 3000))] = self._random.randrange(256)
        return self._post(bytes(image))

    def _draw_random_bytes(self) -> bytes:
        return self._post(self._bytes(5000))

    def _draw_text(self) -> bytes:
        return self._post(
            self._random.choice((b"hello", b"<html>", b"\xef\xbb\xbf{}", b"%PDF-1.4"))
        )

    def _draw_bomb(self) -> bytes:
        headers = self._random.choice(
            ("", "Content-Encoding: gzip\r\n", "Content-Encoding: br\r\n")
        )
        return self._post(self._random.choice(self._bombs), headers=headers)

    def _draw_json(self) -> bytes:
        bodies = (
            b'{"instances": [{"b64": "' + b"A" * self._random.randrange(999) + b'"}]}',
            b'{"instances": [[[[0, 0, 1e400]]]]}',
            b'{"instances": [[[["a", null, {}]]]]}',
            b'{"instances": ' + b'[{"b64": ""}' + b', {"b64": ""}' * 40 + b"]}",
            b'{"instances": {"b64": ""}, "signature_name": 3}',
            b'{"instances": [NaN, Infinity]}',
        )
        return self._post(self._random.choice(bodies), _PATHS[2])

    def _draw_parameters(self) -> bytes:
        query = self._random.choice(
            (
                "prob=-1",
                "prob=1e99",
                "prob=%00",
                "prob=0.5&prob=x",
                "mask=%F0%9F%A5%9C",
                "mask=",
                "%",
                "box=1,2",
                "box=" + "0," * 2000,
                "&".join(["box=0,0,1,1"] * 200),
                "prob=0x1",
                "prob=1_0",
                "box=0,0,0,0",
                "box=1,1,0,0",
                "box=-9,-9,9,9",
                "class=x&box=0,0,1,1",
            )
        )
        path = self._random.choice(("/score", "/segment"))
        return self._post(self._images[0], f"{path}?{query}")

    def _draw_methods(self) -> bytes:
        methods = (
            "GET",
            "PUT",
            "PATCH",
            "DELETE",
            "OPTIONS",
            "TRACE",
            "HEAD",
            "FOO",
            "post",
            "PRI",
        )
        path = self._random.choice((*_PATHS, "/", "/healthz", "/metrics", "/model", "*"))
        return f"{self._random.choice(methods)} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    def _draw_paths(self) -> bytes:
        path = self._random.choice(
            (
                "/../../etc/passwd",
                "/%2e%2e/%2e%2e/etc/passwd",
                "/page.js%00",
                "//",
                "/score/",
                "/%ff",
                "/v1/models/other:predict",
                "/v1/models/nuts/versions/9",
                "/" + "a" * 9000,
                "http://x/score",
            )
        )
        return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1")

    def _draw_headers(self) -> bytes:
        header = self._random.choice(
            (
                "X: " + "a" * 40_000,
                "X: " + "a" * 500_000,
                "\r\n".join(["A: b"] * 3000),
                "Content-Length: -5",
                "Content-Length: 99999999999999999999",
                "Content-Length: 5\r\nContent-Length: 6",
                "no colon",
                "Transfer-Encoding: chunked\r\nContent-Length: 3",
                "Transfer-Encoding: gzip",
                "X: \x00",
                "Expect: 100-continue",
                "Upgrade: websocket\r\nConnection: Upgrade",
                "Range: bytes=0-",
                "Authorization: " + "Bearer " * 100,
                "Content-Type: " + "x/" * 500,
            )
        )
        return f"POST /score HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode("latin-1")

    def _draw_chunks(self) -> bytes:
        chunks = self._random.choice(
            (
                b"5\r\nhello\r\n0\r\n\r\n",
                b"FFFFFFFFFFFFFFFF\r\n",
                b"-1\r\n",
                b"zz\r\n",
                b"5\r\nhel",
                b"",
            )
        )
        return b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks

    def _draw_no_http(self) -> bytes:
        return self._random.choice(
            (
                b"\x16\x03\x01\x02\x00",
                b"\r\n\r\n",
                b"GET\r\n\r\n",
                b"GET / HTTP/9\r\n\r\n",
                self._bytes(3000),
                b"HELO x\r\n",
            )
        )

    def _draw_unfinished(self) -> bytes:
        whole = self._post(self._images[0])
        return whole[: self._random.randrange(1, len(whole))]


def _send(service: ServiceProcess, name: str, content: bytes) -> str:
    """Status of the answer; "" if the connection ended without one."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        try:
            connection.sendall(content)
            if name in ("unfinished", "no_http"):  # the client goes away
                return ""
            answer = connection.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            return ""
    return answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/1.1 ") else ""


def test_nothing_ends_the_service(service):
    nonsense = Nonsense(1)
    good = encode(120, 160, "JPEG")
    statuses: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    memory = []
    for i in range(1000):
        name, content = nonsense.draw()
        status = _send(service, name, content)
        statuses[name][status] += 1
        assert not status.startswith("5") or status == "503", (name, status, content[:300])
        if i % 100 == 99:
            assert service.ask("POST", "/score?prob=0", good)[0] == 200
            memory.append(service.memory_mb)
    for name, counter in sorted(statuses.items()):
        print(f"{name:15} {dict(counter.most_common())}")
    print("resident memory, MB:", [round(m) for m in memory])
    assert service.process.poll() is None
    assert not any("Traceback" in line for line in service.log)
    assert {"400", "405", "413", "415", "431", "404"} <= {s for c in statuses.values() for s in c}
    # What the first few hundred leave behind (caches, arenas of malloc) does not grow further.
    assert max(memory[5:]) < min(memory[3:6]) + 30


def test_what_openapi_promises_holds(tmp_path):
    """Requests made of the description, right and wrong ones, are answered as it says."""
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    with fake_service(time_limit=5.0, max_bytes=1 << 20) as service:
        # Bytes that the description allows need not be an image.
        options = ("--exclude-checks", "positive_data_acceptance", "--generation-database", "none")
        done = subprocess.run(
            [program, "run", f"{service.url}/openapi.json", *options, "-n", "100", "--seed", "1"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,  # it keeps notes there
        )
        assert done.returncode == 0, done.stdout[-8000:]
        assert int(re.findall(r"(\d+) generated", done.stdout)[-1]) > 300
        assert service.process.poll() is None
        assert not any("Traceback" in line for line in service.log)

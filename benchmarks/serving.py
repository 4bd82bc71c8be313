"""Load on the service: requests a second and times to answer, with and without batches.

    python benchmarks/serving.py [--model DIR] [--image FILE] [--seconds 10] [--rounds 3]

Two services of the same model on the loopback device, one that takes up to 8 images through the
model together, and one that takes one at a time; clients in another process, each with one
connection, which asks again as soon as it has its answer. The services take turns; beside them, the
predictor alone is called in a loop in a process of its own. By default the model is that of
configs/nuts.yaml with random weights, 15 detections an image, and the image a JPEG of 800 x 600
pixels. Masks are answered as RLE. Writes serving.csv beside.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_BATCHES = (1, 8)  # of at most so many images
_CLIENTS = (1, 4, 16)
_WARM_UP = 1.0  # seconds of each measurement that do not count
_PATH = "/score?prob=0&mask=rle"
_DETECTIONS = 15
_CALLS = 20  # of the predictor, a measurement
_HEADER = (
    *("images a batch, at most", "clients", "requests/s", "of the predictor alone"),
    *("p50, ms", "p95, ms", "p99, ms", "not answered"),
)


def _ask_for_a_while(port: int, body: bytes, seconds: float) -> tuple[list[float], int]:
    """Seconds to each answer, and how many were refused."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times, refused = [], 0
    start = time.monotonic()
    while (asked := time.monotonic()) < start + _WARM_UP + seconds:
        connection.request("POST", _PATH, body)
        answer = connection.getresponse()
        answer.read()
        if asked >= start + _WARM_UP:
            times.append(time.monotonic() - asked)
            refused += answer.status != 200
    return times, refused


def _be_clients(port: int, image: str, clients: int, seconds: float) -> None:
    """What the process of the clients does."""
    body = pathlib.Path(image).read_bytes()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        asked = [pool.submit(_ask_for_a_while, port, body, seconds) for _ in range(clients)]
        results = [one.result() for one in asked]
    times = list(itertools.chain.from_iterable(times for times, _ in results))
    print(json.dumps({"times": times, "refused": sum(refused for _, refused in results)}))


def _be_alone(model: str, image: str) -> None:
    """What the process of the predictor does: images a second, one after the other."""
    from support.serve import serve

    from official_maskrcnn import Predictor

    predictor = Predictor(model)
    content = pathlib.Path(image).read_bytes()

    def measure() -> dict[str, float]:
        for _ in range(_CALLS):
            _ = predictor(content).rles
        return {}

    serve(measure)


def _make_model(folder: pathlib.Path) -> pathlib.Path:
    """A model_dir with random weights, written by a process that ends."""
    code = (
        "import pathlib, sys; from tests.inference.small_model import make_model_dir\n"
        "make_model_dir(pathlib.Path(sys.argv[1]), *sys.argv[2:])"
    )
    changes = (
        "configs/nuts.yaml",
        "task.model.detection_generator.pre_nms_score_threshold=0,"
        f"task.model.detection_generator.max_num_detections={_DETECTIONS}",
    )
    subprocess.run([sys.executable, "-c", code, str(folder), *changes], cwd=_ROOT, check=True)
    return folder


def _make_image(path: pathlib.Path) -> pathlib.Path:
    """A JPEG of shapes, about as large a file as a photograph's."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 255, (75, 100, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (800, 600), interpolation=cv2.INTER_CUBIC))
    return path


@contextlib.contextmanager
def _service(model: str, max_batch: int) -> Iterator[int]:
    """A running service; its port."""
    command = ("-m", "official_maskrcnn", "serve", "--model", model, "--port", "0")
    process = subprocess.Popen(
        [sys.executable, *command, "--max_batch", str(max_batch)],
        cwd=_ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        log = []
        for line in process.stdout:
            log.append(line)
            if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
                break
        else:
            sys.exit("".join(log))
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()


def _load(port: int, image: str, clients: int, seconds: float) -> tuple[list[float], int]:
    command = [sys.executable, __file__, "--clients", str(port), image, str(clients), str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    return result["times"], result["refused"]


def _row(
    batch: int, clients: int, rounds: list[tuple[list[float], int]], seconds: float, alone: float
) -> tuple[object, ...]:
    times = sorted(itertools.chain.from_iterable(times for times, _ in rounds))
    quantiles = statistics.quantiles(times, n=100, method="inclusive")
    rate = statistics.median(len(times) for times, _ in rounds) / seconds
    milliseconds = [f"{quantiles[place - 1] * 1000:.0f}" for place in (50, 95, 99)]
    refused = sum(refused for _, refused in rounds)
    return batch, clients, f"{rate:.1f}", f"{rate / alone:.2f}", *milliseconds, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model_dir; default: random weights")
    parser.add_argument("--image", help="default: a drawn one")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clients:
        port, image, clients, seconds = arguments.clients
        _be_clients(int(port), image, int(clients), float(seconds))
    elif arguments.alone:
        _be_alone(*arguments.alone)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            model = arguments.model or str(_make_model(path / "nuts"))
            image = arguments.image or str(_make_image(path / "image.jpg"))
            _measure(model, image, arguments.seconds, arguments.rounds)


def _measure(model: str, image: str, seconds: float, rounds: int) -> None:
    from rich.console import Console
    from rich.progress import track
    from support.sides import Side, report

    measured: dict[tuple[int, int], list[tuple[list[float], int]]] = {}
    alone_seconds = []
    with contextlib.ExitStack() as stack:
        alone = Side([sys.executable, __file__, "--alone", model, image])
        stack.callback(alone.close)
        ports = {batch: stack.enter_context(_service(model, batch)) for batch in _BATCHES}
        work = list(itertools.product(range(rounds), _CLIENTS, _BATCHES))
        for _, clients, batch in track(work, "serving", console=Console(stderr=True)):
            if batch == _BATCHES[0]:
                alone_seconds.append(alone.measure()["seconds"])
            result = _load(ports[batch], image, clients, seconds)
            measured.setdefault((batch, clients), []).append(result)
    rate = _CALLS / statistics.median(alone_seconds)
    rows = [_row(*case, results, seconds, rate) for case, results in sorted(measured.items())]
    report(__file__, _HEADER, [("predictor alone", "", f"{rate:.1f}", "1", "", "", "", ""), *rows])


if __name__ == "__main__":
    main()

"""The service under load: batches, a full queue, time limits, clients that go away, the stop."""

import asyncio
import concurrent.futures
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from official_maskrcnn.inference.serving import tensorflow_serving
from official_maskrcnn.inference.serving.batching import Batcher
from official_maskrcnn.inference.serving.server import bind
from tests.inference.served_predictor import POISON, ServedPredictor, encode, wait_until
from tests.inference.service_process import ServiceProcess, fake_service
from tests.inference.test_serving import make_client

_PHOTO = encode(40, 60)


def _run_batcher(work, jobs, **options):
    """Answers of `jobs(batcher)`, which gives coroutines."""

    async def run():
        batcher = Batcher(work, **{"max_batch": 4, "max_wait": 0.02, **options})
        batcher.start()
        try:
            return await asyncio.gather(*jobs(batcher), return_exceptions=True)
        finally:
            await batcher.stop()

    return asyncio.run(run())


def test_what_arrives_together_goes_together():
    batches = []

    def work(items):
        batches.append(list(items))
        return [item * 10 for item in items]

    answers = _run_batcher(work, lambda batcher: [batcher.submit(i) for i in range(6)])
    assert answers == [0, 10, 20, 30, 40, 50]
    assert batches == [[0, 1, 2, 3], [4, 5]]


def test_all_batches_run_in_one_thread():
    threads = set()

    def work(items):
        threads.add(threading.current_thread())
        return items

    _run_batcher(work, lambda batcher: [batcher.submit(i) for i in range(9)], max_batch=1)
    assert len(threads) == 1 and threading.main_thread() not in threads


def test_an_error_is_of_its_item_alone_unless_the_work_fails():
    def work(items):
        if "all" in items:
            raise OSError("all")
        return [ValueError(item) if item == "bad" else item for item in items]

    good, bad = _run_batcher(work, lambda batcher: [batcher.submit("a"), batcher.submit("bad")])
    assert good == "a" and isinstance(bad, ValueError)
    answers = _run_batcher(work, lambda batcher: [batcher.submit("a"), batcher.submit("all")])
    assert all(isinstance(answer, OSError) for answer in answers)


def test_what_nobody_waits_for_leaves_the_queue():
    gate, seen = threading.Event(), []

    def work(items):
        gate.wait(10)
        seen.extend(items)
        return items

    async def run():
        batcher = Batcher(work, 1, 0.0)
        batcher.start()
        tasks = [asyncio.create_task(batcher.submit(i)) for i in range(4)]
        while batcher.busy_seconds == 0:
            await asyncio.sleep(0.01)
        assert len(batcher) == 3
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        assert len(batcher) == 2
        gate.set()
        await asyncio.wait(tasks)
        await batcher.stop()

    asyncio.run(run())
    assert seen == [0, 1, 3]


def test_requests_at_the_same_time_are_one_batch():
    predictor = ServedPredictor()
    predictor.gate.clear()
    with (
        make_client(predictor, max_batch=4) as client,
        concurrent.futures.ThreadPoolExecutor(9) as pool,
    ):
        answers = [pool.submit(client.post, "/score", content=_PHOTO) for _ in range(9)]
        time.sleep(1)  # the first is in work, the others wait
        predictor.gate.set()
        assert {answer.result().status_code for answer in answers} == {200}
    assert sum(predictor.batches) == 9 and max(predictor.batches) == 4
    assert len(predictor.batches) <= 4


def test_one_image_does_not_spoil_the_others_of_its_batch():
    predictor = ServedPredictor()
    predictor.gate.clear()
    with (
        make_client(predictor, batch_wait=0.5) as client,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        bodies = [_PHOTO, encode(*POISON), _PHOTO]
        answers = [pool.submit(client.post, "/score", content=body) for body in bodies]
        time.sleep(0.8)
        predictor.gate.set()
        assert [answer.result().status_code for answer in answers] == [200, 500, 200]
    assert predictor.batches[0] == 3


def test_a_full_queue_answers_at_once():
    predictor = ServedPredictor()
    predictor.gate.clear()
    with (
        make_client(predictor, max_requests=3, max_batch=1) as client,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        answers = [pool.submit(client.post, "/score", content=_PHOTO) for _ in range(3)]
        wait_until(lambda: "in_progress 3.0" in client.get("/metrics").text)
        for path in ("/score", "/segment?box=0,0,1,1", "/v1/models/nuts:predict"):
            start = time.monotonic()
            answer = client.post(path, content=_PHOTO)
            assert answer.status_code == 503 and "queue is full" in answer.json()["error"]
            assert time.monotonic() - start < 1
        assert client.get("/healthz").status_code == 200
        predictor.gate.set()
        assert [answer.result().status_code for answer in answers] == [200] * 3
        assert client.post("/score", content=_PHOTO).status_code == 200


def test_json_is_parsed_one_body_at_a_time(monkeypatch):
    in_work, most = 0, 0

    def read(body, service):
        nonlocal in_work, most
        in_work += 1
        most = max(most, in_work)
        time.sleep(0.1)
        in_work -= 1
        return [np.zeros([8, 8, 3], np.uint8)] * 2

    monkeypatch.setattr(tensorflow_serving, "_read_instances", read)
    with make_client(max_requests=8) as client, concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(client.post, "/v1/models/nuts:predict") for _ in range(3)]
        assert {answer.result().status_code for answer in answers} == {200}
    assert most == 1


@pytest.fixture(scope="module")
def slow_service() -> Iterator[ServiceProcess]:
    """Takes a second for each batch."""
    with fake_service(1.0, max_batch=1, max_requests=3, time_limit=2.5) as service:
        yield service


def _send(service: ServiceProcess, content: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    connection.sendall(content)
    return connection


def _head(length: int) -> bytes:
    return f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def _in_progress(service: ServiceProcess) -> float:
    text = service.ask("GET", "/metrics")[1].decode()
    (line,) = (line for line in text.splitlines() if line.startswith("maskrcnn_requests_in_pro"))
    return float(line.split()[1])


def test_a_client_that_goes_away_leaves_the_queue(slow_service):
    connections = [_send(slow_service, _head(len(_PHOTO)) + _PHOTO) for _ in range(3)]
    wait_until(lambda: _in_progress(slow_service) == 3)
    for connection in connections:
        connection.close()
    start = time.monotonic()
    wait_until(lambda: _in_progress(slow_service) == 0)
    assert time.monotonic() - start < 0.9
    assert slow_service.ask("POST", "/score", _PHOTO)[0] == 200


def test_a_body_that_does_not_arrive_is_given_up(slow_service):
    with contextlib.closing(_send(slow_service, _head(1000) + b"a few bytes")) as connection:
        assert b" 408 " in connection.recv(1000).split(b"\r\n")[0]
        assert _in_progress(slow_service) == 0


def test_what_arrives_holds_room(slow_service):
    arriving = [_send(slow_service, _head(1000) + b"a few bytes") for _ in range(3)]
    wait_until(lambda: _in_progress(slow_service) == 3)
    start = time.monotonic()
    with contextlib.closing(_send(slow_service, _head(1000))) as connection:
        assert b" 503 " in connection.recv(1000).split(b"\r\n")[0]
    # Other methods need no room, and what they send is not read.
    get = _head(10**9).replace(b"POST", b"GET")
    with contextlib.closing(_send(slow_service, get)) as connection:
        assert b" 405 " in connection.recv(1000).split(b"\r\n")[0]
    assert time.monotonic() - start < 1
    for connection in arriving:
        connection.close()
    wait_until(lambda: _in_progress(slow_service) == 0)
    assert slow_service.ask("POST", "/score", _PHOTO)[0] == 200


@pytest.mark.parametrize("part", ["header", "address"])
@pytest.mark.parametrize(("size", "statuses"), [(40_000, (431,)), (1_000_000, (400, 431))])
def test_headers_are_bounded(slow_service, part, size, statuses):
    text = "a" * size
    address, header = (text, "") if part == "address" else ("", f"X-Large: {text}\r\n")
    huge = f"GET /?{address} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode()
    with contextlib.closing(_send(slow_service, huge)) as connection:
        assert int(connection.recv(1000).split(b" ")[1]) in statuses
    assert slow_service.ask("GET", "/healthz")[0] == 200


def test_a_large_body_is_refused_before_it_is_read(slow_service):
    with contextlib.closing(_send(slow_service, _head(10**12))) as connection:
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]


@pytest.mark.slow
def test_headers_that_do_not_arrive_are_given_up(slow_service):
    with contextlib.closing(_send(slow_service, b"POST /score HTTP/1.1\r\nHost: x\r\n")) as slow:
        start = time.monotonic()
        assert slow.recv(1000) == b""
        assert 8 < time.monotonic() - start < 15


def test_the_parts_of_an_answer_do_not_wait_for_each_other():
    async def is_sent_at_once() -> bool:
        accepted: asyncio.Queue[socket.socket] = asyncio.Queue()
        held = bind("127.0.0.1", 0)

        async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await accepted.put(writer.get_extra_info("socket"))

        async with await asyncio.start_server(take, sock=held):
            _, writer = await asyncio.open_connection(*held.getsockname())
            connection = await accepted.get()
            found = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
        return bool(found)

    assert asyncio.run(is_sent_at_once())


def test_an_answer_that_is_not_taken_ends_its_connection():
    with fake_service(time_limit=3.0, max_connections=2) as service:
        # Answers of more than the sockets hold, asked for at once by one that reads nothing.
        asked = b"GET /page.js HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        idle = [socket.socket() for _ in range(2)]
        for connection in idle:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", service.port))
            connection.sendall(asked)
        answered = -1  # until the sockets are full
        while answered < len(service.log):
            answered = len(service.log)
            time.sleep(0.3)
        status, body = service.ask("GET", "/healthz")
        assert status == 503 and b'{"error":"there are too many connections' in body
        start = time.monotonic()
        wait_until(lambda: service.ask("GET", "/healthz")[0] == 200)
        assert time.monotonic() - start < 9
        for connection in idle:
            connection.close()


def test_a_model_that_has_hung_does_not_hold_up_the_end():
    with (
        fake_service(60.0, stop_seconds=1) as service,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(service.ask, "POST", "/score", _PHOTO)
        wait_until(lambda: _in_progress(service) == 1)
        service.process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        status, body = answer.result()
        assert status == 503 and b"is stopping" in body
        assert service.process.wait(10) == 1
        assert time.monotonic() - start < 5
        wait_until(lambda: any("does not end: ending without it" in line for line in service.log))


def test_sigterm_answers_what_is_in_work_and_ends():
    with (
        fake_service(1.0, max_batch=1) as service,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        answers = [pool.submit(service.ask, "POST", "/score", _PHOTO) for _ in range(3)]
        wait_until(lambda: _in_progress(service) == 3)
        service.process.send_signal(signal.SIGTERM)
        assert [answer.result()[0] for answer in answers] == [200] * 3
        assert service.process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            service.ask("GET", "/healthz")

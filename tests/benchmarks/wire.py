"""A fast server and a fast client for benchmarks of what stands between them.

Both know just enough HTTP for that: requests without a body, answers with a Content-Length.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import cast

import uvloop

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


def serve(port: int, body_bytes: int) -> None:
    """Answers every request with the same success of that length, until it is killed."""
    filler = b'{"Response":{"filler":"%b"},"ErrorCode":1,"ThrottleSeconds":0}'
    body = filler % (b"x" * (body_bytes - len(filler) + 2))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    answer = head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    class Responder(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
            self.begun = b""

        def data_received(self, data: bytes) -> None:
            *requests, self.begun = (self.begun + data).split(_END)
            for _ in requests:
                self.transport.write(answer)

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Responder, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(run())


class Connection(asyncio.Protocol):
    """Sends one request at a time; `done` is called with status and seconds of each answer."""

    def __init__(self, done: Callable[["Connection", int, float], None]) -> None:
        self._done = done
        self._head = b""
        self._left = 0
        self._status = 0
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if not self._left:
            self._head += data
            end = self._head.find(_END)
            if end < 0:
                return
            head = self._head[:end].lower()
            self._status = int(head[9:12])
            length = int(head.split(_LENGTH, 1)[1].split(b"\r\n", 1)[0])
            self._left = length - (len(self._head) - end - len(_END))
            self._head = b""
        else:
            self._left -= len(data)
        if not self._left:
            self._done(self, self._status, time.perf_counter() - self._sent_at)

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            sys.exit(f"a connection of the benchmark was lost: {error}")


def request(path: str, key: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {key}\r\nUser-Agent: benchmark\r\n"
        "Accept-Encoding: gzip\r\nAccept: */*\r\n\r\n"
    ).encode()


class Answers:
    """What came back: counts by status, and the seconds of the successes."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.seconds: list[float] = []

    def add(self, status: int, seconds: float) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 200:
            self.seconds.append(seconds)

    @property
    def count(self) -> int:
        return sum(self.statuses.values())


async def closed_loop(
    port: int,
    requests: Callable[[], bytes],
    connections: int,
    windows_s: Sequence[float],
    look: Callable[[], float] = lambda: 0.0,
) -> list[tuple[int, float, float]]:
    """Every connection asks again at once. Of each window: successes, seconds, change of `look`.

    The first window only warms up and is left out. Raises RuntimeError for any other answer.
    """
    answers = Answers()
    stopping = False

    def done(connection: Connection, status: int, seconds: float) -> None:
        answers.add(status, seconds)
        if not stopping:
            connection.send(requests())

    loop = asyncio.get_running_loop()
    pool = [
        (await loop.create_connection(lambda: Connection(done), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    for connection in pool:
        connection.send(requests())
    found = []
    for window_s in windows_s:
        before, started, looked = answers.count, time.perf_counter(), look()
        await asyncio.sleep(window_s)
        seconds = time.perf_counter() - started
        found.append((answers.count - before, seconds, look() - looked))
    stopping = True
    for connection in pool:
        connection.close()
    if set(answers.statuses) != {200}:
        raise RuntimeError(f"not only successes: {answers.statuses}")
    return found[1:]


async def open_loop(
    port: int,
    requests: Callable[[], bytes],
    per_s: float,
    seconds: float,
    sources: Sequence[str] = ("127.0.0.1",),
) -> Answers:
    """Sends at a steady rate whatever the answers do, in turn from each of `sources`."""
    answers = Answers()
    idle: dict[str, list[Connection]] = {source: [] for source in sources}
    all_: list[Connection] = []
    loop = asyncio.get_running_loop()

    async def fresh(source: str) -> Connection:
        def done(connection: Connection, status: int, taken: float) -> None:
            answers.add(status, taken)
            idle[source].append(connection)

        _, connection = await loop.create_connection(
            lambda: Connection(done), "127.0.0.1", port, local_addr=(source, 0)
        )
        all_.append(connection)
        return connection

    # Enough that none is opened meanwhile, as long as an answer takes no 0.2 s.
    for source in sources:
        idle[source] = [await fresh(source) for _ in range(int(per_s / len(sources) / 5) + 2)]
    begun, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - begun) < seconds:
        due = int(now * per_s)
        while sent < due:
            source = sources[sent % len(sources)]
            connection = idle[source].pop() if idle[source] else await fresh(source)
            connection.send(requests())
            sent += 1
        await asyncio.sleep(max((sent + 1) / per_s - (time.perf_counter() - begun), 0))
    limit = time.perf_counter() + 15
    while answers.count < sent and time.perf_counter() < limit:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    for connection in all_:
        connection.close()
    return answers

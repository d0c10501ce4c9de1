"""The blocking client against a small server that answers as it is told."""

import gzip
import io
import logging
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from raidhub_dagster.bungie.client import ATTEMPTS, FIRST_WAIT_S, BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.bungie.protocol import MAX_BODY_BYTES, Endpoints, ResultKind
from raidhub_dagster.errors import MaintenanceError, PermanentError, RaidHubError, TransientError
from tests.support.reports import encode, envelope, make_report

KEY = "secret-key-of-a-test"
NOW = datetime(2025, 2, 1, tzinfo=UTC)
JSON = "application/json; charset=utf-8"
GZIPPED = (("Content-Encoding", "gzip"),)


class Reply(NamedTuple):
    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None  # what Content-Length claims


class Server(ThreadingHTTPServer):
    """Answers with `replies` in turn, the last one for ever, and remembers what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.keys.append(self.headers["X-API-Key"])
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        length = len(reply.body) if reply.length is None else reply.length
        self.send_header("Content-Length", str(length))
        for name, value in reply.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: Any) -> None:
        """Silence: the output of tests is for failures."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class World(NamedTuple):
    client: BungieClient
    waits: list[float]


@pytest.fixture
def world(server: Server) -> Iterator[World]:
    waits: list[float] = []
    with BungieClient(
        Endpoints(server.base, server.base),
        KEY,
        "Test/1",
        sleep=waits.append,
        rng=random.Random(1),
        now=lambda: NOW,
    ) as client:
        yield World(client, waits)


def ok(response: object) -> Reply:
    return Reply(encode(envelope(response)))


def error(code: int, *, status: int = 500, throttle: int = 0) -> Reply:
    fields = {"ErrorCode": code, "ThrottleSeconds": throttle, "Message": "Because."}
    return Reply(encode(fields), status)


def test_returns_the_response_as_it_came(server: Server, world: World) -> None:
    """Callers decode it into structs of their own."""
    server.replies = [ok({"a": [1]})]
    assert world.client.get(world.client.endpoints.group_url(5)) == b'{"a":[1]}'
    assert (server.paths, server.keys) == (["/Platform/GroupV2/5/"], [KEY])
    assert world.waits == []


def test_reads_gzip(server: Server, world: World) -> None:
    """Every answer of the real API is compressed."""
    body = gzip.compress(ok({}).body)
    server.replies = [Reply(body, headers=GZIPPED)]
    assert world.client.get(world.client.endpoints.settings_url()) == b"{}"


@pytest.mark.parametrize(
    "bad",
    [
        error(1618),
        error(999),
        Reply(b"<title>Bad gateway</title>", 502, "text/html"),
        Reply(b"<html></html>", 200, "text/html"),
        Reply(b'{"ErrorCode":1,"Resp', 200),
        Reply(gzip.compress(b"{}" * 500, mtime=0)[:-12], headers=GZIPPED),
        Reply(b"no gzip", headers=GZIPPED),
        Reply(b"{}", length=500),
        Reply(encode(envelope(None))),
    ],
    ids=lambda reply: repr(reply.body[:20]),
)
def test_tries_again_after_what_may_pass(server: Server, world: World, bad: Reply) -> None:
    """A job over thousands of players must not end with one bad answer."""
    server.replies = [bad, ok({})]
    assert world.client.get(world.client.endpoints.settings_url()) == b"{}"
    assert len(world.waits) == 1


def test_waits_as_its_caller_wants(server: Server) -> None:
    """The crawl of clans has rules of its own for tries and pauses (docs/domain/clans.md)."""
    server.replies = [error(1618)]
    waits: list[float] = []
    with (
        BungieClient(
            Endpoints(server.base, server.base),
            KEY,
            "Test/1",
            attempts=4,
            pause_s=lambda attempt: 20.0 * attempt,
            sleep=waits.append,
        ) as client,
        pytest.raises(TransientError),
    ):
        client.get(client.endpoints.settings_url())
    assert [int(w // 20) for w in waits] == [1, 2, 3]


def test_waits_longer_each_time_and_gives_up(server: Server, world: World) -> None:
    """The caller then decides; an endless loop would hold its slot of the pool."""
    server.replies = [error(1618)]
    with pytest.raises(TransientError, match="DestinyUnexpectedError Because"):
        world.client.get(world.client.endpoints.settings_url())
    assert len(server.paths) == ATTEMPTS
    floors = [FIRST_WAIT_S * 2**n for n in range(ATTEMPTS - 1)]
    assert all(f <= w < f + FIRST_WAIT_S for f, w in zip(floors, world.waits, strict=True))


@pytest.mark.parametrize(
    ("reply", "pause_s"),
    [
        (error(31, throttle=25), 25),
        (error(36), 10),
        (error(35), 60),
        (error(1672, status=200), 10),
        (Reply(b"<title>Just a moment...</title>", 403, "text/html"), 10),
        (Reply(b"", 429, "text/html"), 10),
    ],
)
def test_waits_as_long_as_a_throttle_asks(
    server: Server, world: World, reply: Reply, pause_s: int
) -> None:
    """Asking again too early prolongs the block of the whole address."""
    server.replies = [reply, ok({})]
    world.client.get(world.client.endpoints.settings_url())
    (wait,) = world.waits
    assert pause_s <= wait < pause_s + FIRST_WAIT_S


def test_maintenance_is_neither_retried_nor_a_failure(server: Server, world: World) -> None:
    """It lasts hours: callers skip and come back."""
    server.replies = [error(5, status=503)]
    with pytest.raises(MaintenanceError):
        world.client.get(world.client.endpoints.settings_url())
    assert world.waits == []


@pytest.mark.parametrize(
    ("code", "code_class"),
    [
        (686, "not_found"),
        (1665, "private"),
        (12, "blocked"),
        (18, "permanent"),
        (2101, "key_problem"),
    ],
)
def test_gives_up_at_once_what_will_not_succeed(
    server: Server, world: World, code: int, code_class: str
) -> None:
    """The class tells a batch whether to go on with the next player."""
    server.replies = [error(code)]
    with pytest.raises(PermanentError) as caught:
        world.client.get(world.client.endpoints.settings_url())
    assert (caught.value.facts["code"], caught.value.facts["class"]) == (code, code_class)
    assert world.waits == []


def test_never_follows_a_redirect(server: Server, world: World) -> None:
    """The key would go wherever the answer points."""
    server.replies = [Reply(b"", 301, headers=(("Location", f"{server.base}/elsewhere/"),))]
    with pytest.raises(TransientError):
        world.client.get(world.client.endpoints.group_url(5))
    assert set(server.paths) == {"/Platform/GroupV2/5/"}
    assert world.client.fetch_pgcr(7, ()).kind is ResultKind.EXTERNAL_ERROR
    assert "/elsewhere/" not in server.paths


def test_a_server_that_is_gone_is_a_transient_error(world: World, server: Server) -> None:
    """The error names the address and never what was sent there."""
    server.replies = [ok({})]
    endpoints = Endpoints("http://127.0.0.1:1", "http://127.0.0.1:1")
    with (
        BungieClient(endpoints, KEY, "Test/1", sleep=world.waits.append) as client,
        pytest.raises(TransientError, match="no answer: ConnectionError") as caught,
    ):
        client.get(endpoints.settings_url())
    assert KEY not in f"{caught.value!r} {caught.value.facts}"
    assert caught.value.__cause__ is None


def test_the_key_is_in_no_log(
    server: Server, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Logs are read by many and kept for long."""
    caplog.set_level(logging.DEBUG)
    server.replies = [error(2101)]
    with pytest.raises(RaidHubError) as caught:
        world.client.get(world.client.endpoints.settings_url())
    server.replies = [error(1618)]
    with pytest.raises(RaidHubError):
        world.client.get(world.client.endpoints.settings_url())
    records = " ".join(str(record.__dict__) for record in caplog.records)
    assert "bungie_request_retried" in records
    assert KEY not in f"{records} {caught.value!r} {caught.value.facts} {world.client!r}"


def test_fetches_and_judges_a_report(server: Server, world: World) -> None:
    """One attempt: the queue that asked has its own retries."""
    server.replies = [ok(make_report(instance_id=7))]
    result = world.client.fetch_pgcr(7, (), malformed_retry=1)
    assert result.kind is ResultKind.SUCCESS
    assert server.paths == ["/Platform/Destiny2/Stats/PostGameCarnageReport/7/?malformed_retry=1"]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"no gzip", headers=GZIPPED),
        Reply(b"{}", length=500),
    ],
)
def test_an_answer_cut_off_is_a_transport_failure(
    server: Server, world: World, reply: Reply
) -> None:
    """Judging half an answer would call a good report malformed."""
    server.replies = [reply]
    result = world.client.fetch_pgcr(7, ())
    assert (result.kind, result.code) == (ResultKind.EXTERNAL_ERROR, -1)


def test_stops_reading_a_report_without_end(server: Server, world: World) -> None:
    """1 GB in 1 MB of gzip: the process would be killed."""
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1000), 1)
    server.replies = [Reply(bomb, headers=GZIPPED)]
    result = world.client.fetch_pgcr(7, ())
    assert result.rejection is not None
    assert (result.kind, result.rejection.reason) == (ResultKind.BAD_FORMAT, "too_large")


def test_the_time_limit_is_for_the_whole_answer(server: Server) -> None:
    """Some ids trickle for hours while their neighbours work."""
    server.replies = [Reply(ok({}).body + b" " * 200_000)]
    ticks = iter([0.0, 1.0, 16.0])
    endpoints = Endpoints(server.base, server.base)
    with BungieClient(endpoints, KEY, "Test/1", clock=lambda: next(ticks)) as client:
        result = client.fetch_pgcr(7, ())
    assert (result.kind, result.detail) == (ResultKind.EXTERNAL_ERROR, "no answer: Timeout")


def test_a_refusal_tells_its_code_and_what_its_data_say(server: Server, world: World) -> None:
    """A wrong membership type may come with the right one."""
    data = {"membershipInfo.membershipType": "TigerSteam", "count": 5}
    body = encode({"ErrorCode": 18, "MessageData": data})
    server.replies = [Reply(body, 400)]
    with pytest.raises(RefusedError) as refused:
        world.client.get(world.client.endpoints.settings_url())
    assert (refused.value.code, refused.value.code_class) == (18, CodeClass.PERMANENT)
    assert refused.value.data == {"membershipInfo.membershipType": "TigerSteam"}


@pytest.mark.parametrize("data", [None, [], "x", 5, {"a": {"b": 1}}])
def test_data_of_another_shape_are_none(server: Server, world: World, data: object) -> None:
    server.replies = [Reply(encode({"ErrorCode": 18, "MessageData": data}), 400)]
    with pytest.raises(RefusedError) as refused:
        world.client.get(world.client.endpoints.settings_url())
    assert refused.value.data == {}


def test_knows_whether_anybody_listened(server: Server, world: World) -> None:
    """A proxy that restarts is no reason to count a retry against what asked; a reset is."""
    settings_url = world.client.endpoints.settings_url()
    server.replies = [Reply(b"{}", length=100)]
    with pytest.raises(TransientError):
        world.client.get(settings_url)
    assert world.client.is_reachable
    world.client.endpoints = Endpoints("http://127.0.0.1:1", "http://127.0.0.1:1")
    with pytest.raises(TransientError):
        world.client.get(world.client.endpoints.settings_url())
    assert not world.client.is_reachable
    assert world.client.fetch_pgcr(1, ()).kind is ResultKind.EXTERNAL_ERROR
    assert not world.client.is_reachable
    server.replies = [ok({})]
    world.client.get(settings_url)
    assert world.client.is_reachable


# --- files ----------------------------------------------------------------------------------------

ZIP = "application/octet-stream"
PATH = "/common/x.content"


def test_downloads_a_file_as_it_is(server: Server, world: World) -> None:
    server.replies = [Reply(b"PK" * 100_000, content_type=ZIP)]
    target = io.BytesIO(b"an older and longer try" * 20_000)
    assert world.client.download(PATH, target, most_bytes=200_000) == 200_000
    assert target.getvalue() == b"PK" * 100_000
    assert (server.paths, server.keys) == ([PATH], [KEY])


@pytest.mark.parametrize(
    "bad",
    [
        Reply(b"<title>404</title>", 404, "text/html"),
        error(21, status=404),
        Reply(b"<title>Just a moment...</title>", 200, "text/html"),
        ok({"a": "manifest"}),
        error(1618),
        Reply(b"PK", 301, ZIP),
        Reply(b"PK", 200, ZIP, length=500),
    ],
)
def test_asks_for_a_file_again_by_a_new_address(server: Server, world: World, bad: Reply) -> None:
    """The edge remembers for a day that a new file was not there, but for that address only."""
    server.replies = [bad, bad, Reply(b"PK", content_type=ZIP)]
    target = io.BytesIO()
    assert world.client.download(PATH, target, most_bytes=10) == 2
    assert target.getvalue() == b"PK"
    assert server.paths[0] == PATH
    assert len(set(server.paths)) == 3
    assert all(path.startswith(f"{PATH}?retry=") for path in server.paths[1:])


def test_goes_past_the_edge_at_once_when_told(server: Server, world: World) -> None:
    server.replies = [Reply(b"PK", content_type=ZIP)]
    world.client.download(PATH, io.BytesIO(), most_bytes=10, past_cache=True)
    assert server.paths[0].startswith(f"{PATH}?retry=")


def test_a_file_without_end_fills_no_disk(server: Server, world: World) -> None:
    server.replies = [Reply(gzip.compress(b" " * 10_000_000), 200, ZIP, GZIPPED)]
    target = io.BytesIO()
    with pytest.raises(PermanentError, match="more than 100000 bytes"):
        world.client.download(PATH, target, most_bytes=100_000)
    assert len(target.getvalue()) < 1_000_000
    assert len(server.paths) == 1


def test_gives_up_a_file_that_never_comes(server: Server, world: World) -> None:
    server.replies = [Reply(b"", 404, "text/html")]
    with pytest.raises(TransientError, match="not there"):
        world.client.download(PATH, io.BytesIO(), most_bytes=10)
    assert (len(server.paths), len(world.waits)) == (ATTEMPTS, ATTEMPTS - 1)


def test_a_refused_key_ends_a_download_at_once(server: Server, world: World) -> None:
    server.replies = [error(2101, status=401)]
    with pytest.raises(RefusedError):
        world.client.download(PATH, io.BytesIO(), most_bytes=10)
    assert len(server.paths) == 1


def test_a_file_that_trickles_is_given_up(server: Server) -> None:
    """100 MB at a byte a second would hold the pool for years."""
    server.replies = [Reply(b" " * 200_000, content_type=ZIP)]
    ticks = iter([0.0, 1.0, 601.0])
    endpoints = Endpoints(server.base, server.base)
    with (
        BungieClient(endpoints, KEY, "Test/1", clock=lambda: next(ticks), attempts=1) as client,
        pytest.raises(TransientError, match="no answer: Timeout"),
    ):
        client.download(PATH, io.BytesIO(), most_bytes=1_000_000)

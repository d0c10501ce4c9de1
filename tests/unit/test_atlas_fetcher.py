"""One report over the wire: whatever a server does ends as a classified answer."""

import gzip
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from raidhub_dagster.bungie.protocol import MAX_BODY_BYTES, PgcrResult, ResultKind
from raidhub_dagster.settings import Settings
from streaming.atlas.fetcher import Fetcher, open_session
from tests.support.reports import encode, envelope, make_report

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JSON = {"Content-Type": "application/json"}
PACKED = {**JSON, "Content-Encoding": "gzip"}


async def fetch(handler: Handler, malformed_retry: int | None = None) -> PgcrResult:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    async with TestServer(app) as server, open_session(1) as session:
        settings = Settings(
            pgcr_url_base=str(server.make_url("")).rstrip("/"), bungie_api_key="key"
        )
        fetcher = Fetcher(
            session,
            settings,
            tracked_hashes=(),
            clock=lambda: 0.0,
            now=lambda: datetime.now(UTC),
        )
        return await fetcher.fetch(16_000_000_001, malformed_retry)


def answers(body: bytes, headers: dict[str, str], status: int = 200) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=headers, status=status)

    return handler


def bad_checksum(body: bytes) -> bytes:
    packed = gzip.compress(body)
    return packed[:-8] + bytes(4) + packed[-4:]


@pytest.mark.asyncio
async def test_a_raid_arrives_as_it_was_sent() -> None:
    """The body is kept for ever, so not a byte of it may change on the way."""
    report = encode(make_report(instance_id=16_000_000_001))
    asked: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        body = gzip.compress(b'{"Response":' + report + b',"ErrorCode":1}')
        return web.Response(body=body, headers=PACKED)

    result = await fetch(handler, malformed_retry=2)
    assert (result.kind, result.response) == (ResultKind.SUCCESS, report)
    (request,) = asked
    assert request.headers["X-API-Key"] == "key"
    assert request.path_qs.endswith("/PostGameCarnageReport/16000000001/?malformed_retry=2")


@pytest.mark.asyncio
async def test_a_redirect_is_not_followed() -> None:
    """It would carry the key to another host."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere/")

    result = await fetch(handler)
    assert (result.kind, result.status) == (ResultKind.EXTERNAL_ERROR, "Http302")
    assert len(asked) == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"no gzip at all", id="no gzip"),
        pytest.param(gzip.compress(b"{" * 5000)[:-20], id="cut"),
        pytest.param(bad_checksum(encode(envelope({}))), id="checksum"),
        pytest.param(zlib.compress(encode(envelope({}))), id="zlib"),
    ],
)
@pytest.mark.asyncio
async def test_a_body_that_does_not_open_is_no_answer(body: bytes) -> None:
    """An error that aiohttp does not call its own would end the whole crawl."""
    result = await fetch(answers(body, PACKED))
    assert result.kind is ResultKind.EXTERNAL_ERROR


@pytest.mark.asyncio
async def test_a_body_without_end_is_cut_off() -> None:
    """32 MiB are more than any raid has; a hundred times that would fill the memory."""
    packed = gzip.compress(b" " * (MAX_BODY_BYTES + 1_000_000), 1)
    result = await fetch(answers(packed, PACKED))
    assert result.kind is ResultKind.BAD_FORMAT
    assert result.rejection is not None
    assert result.rejection.reason == "too_large"


@pytest.mark.asyncio
async def test_a_cut_connection_is_no_answer() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    result = await fetch(handler)
    assert (result.kind, result.code) == (ResultKind.EXTERNAL_ERROR, -1)

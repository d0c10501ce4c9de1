"""Zeus between real sockets: what reaches Bungie, what comes back, and what does not."""

import asyncio
import gzip
import json
import logging
import socket
import time
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from raidhub_dagster.monitoring import metrics
from simulator.world import CLAN_BASE, FIRST_ID
from streaming.zeus.traffic import Host, What
from tests.support.proxy import (
    ADDRESSES,
    KEY,
    OURS,
    REPORT,
    Zeus,
    serving,
    simulator,
    speaking,
    zeus,
)

pytestmark = pytest.mark.asyncio

SETTINGS = "/Platform/Settings/"
LIMITS: dict[str, Any] = {"zeus_stats_rate": 40, "zeus_stats_burst": 90}


def report_path(number: int) -> str:
    return f"/Platform/Destiny2/Stats/PostGameCarnageReport/{FIRST_ID + number}/"


async def until(condition: Any, limit_s: float = 10) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110  the proxy has no event for it
            await asyncio.sleep(0.01)


# --- budgets ------------------------------------------------------------------------------------


async def test_no_address_breaks_its_budget_under_a_burst_of_callers() -> None:
    """Bungie blocks an address that does; the simulator counts with the same numbers."""
    async with (
        simulator(report_limit_per_s=40.0, report_burst=90.0) as api,
        zeus(api.url, **LIMITS) as proxy,
    ):
        started = time.monotonic()
        await asyncio.gather(*(_ask_until_answered(proxy, n % 400) for n in range(700)))
        seconds = time.monotonic() - started
        budgets = await api.ask("/truth/budgets")
    assert set(budgets) == set(ADDRESSES)
    assert sum(each["report"]["over_budget"] for each in budgets.values()) == 0
    shares = [each["report"]["requests"] for each in budgets.values()]
    assert min(shares) > 0.9 * max(shares)
    assert seconds + 0.1 >= 700 / 160


async def _ask_until_answered(proxy: Zeus, number: int) -> None:
    """As atlas does: on a busy machine zeus or who it asks is late for the last of many callers."""
    for _ in range(600):
        status, _body = await proxy.get(report_path(number))
        if status not in (429, 504):
            break
        await asyncio.sleep(0.1)
    assert status == 200


async def test_both_hosts_have_budgets_of_their_own() -> None:
    async with (
        simulator() as reports,
        simulator(other_limit_per_s=12.0, other_burst=25.0) as others,
        zeus(
            "http://unused.invalid",
            addresses=ADDRESSES[:1],
            zeus_stats_url=f"{reports.url}/",  # a slash too many must not matter
            zeus_www_url=others.url,
            zeus_www_rate=12,
            zeus_www_burst=25,
        ) as proxy,
    ):
        assert (await proxy.get())[0] == 200
        paths = [f"/Platform/GroupV2/{CLAN_BASE + n}/" for n in range(20)]
        statuses = {status for status, _ in await asyncio.gather(*map(proxy.get, paths))}
        assert 429 not in statuses
        budgets = await others.ask("/truth/budgets")
        assert (await reports.requests()) == {ADDRESSES[0]: 1}
    assert budgets[ADDRESSES[0]]["other"] == {"requests": 20, "over_budget": 0, "refused": {}}


async def test_a_caller_that_would_wait_too_long_is_told_when_to_come_again() -> None:
    async with (
        simulator() as api,
        zeus(api.url, addresses=[None], zeus_stats_rate=0.05, zeus_stats_burst=1) as proxy,
        proxy.request() as answer,
    ):
        body = await answer.json(content_type=None)
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) == body["ThrottleSeconds"] > 10
        assert (body["ErrorCode"], body["ErrorStatus"]) == (0, "ZeusThrottled")
        assert await api.requests() == {}


async def test_ipv6_addresses_are_used_where_the_machine_has_them() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with simulator(host="::1") as api, zeus(api.url, addresses=["::1"]) as proxy:
        assert (await proxy.get())[0] == 200
        assert await api.requests() == {"::1": 1}


# --- admission and secrets ----------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", "schlüssel"])
async def test_without_the_key_nothing_leaves(key: str | None) -> None:
    """The predecessor was an open proxy: whoever found it used its addresses and its key."""
    async with simulator() as api, zeus(api.url) as proxy:
        status, body = await proxy.get(key=key)
        assert (status, json.loads(body)["ErrorStatus"]) == (401, "ZeusKeyRequired")
        assert await api.requests() == {}


async def test_what_bungie_gets_is_its_path_our_key_and_our_name() -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response({"Response": {}, "ErrorCode": 1})

    async with serving(handler) as upstream, zeus(upstream) as proxy:
        path = "/Platform/Destiny2/3/Profile/46/?components=100,200&a=%2F%20x"
        for _ in range(2):
            await proxy.get(
                path,
                User_Agent="caller",
                Cookie="secret=1",
                Authorization="Bearer x",
                X_Forwarded_For="10.1.2.3",
                X_Real_IP="10.1.2.3",
                Forwarded="for=10.1.2.3",
                Accept="application/json",
                Accept_Encoding="gzip, br",
                If_None_Match='"x"',
            )
    for request, key in zip(seen, OURS, strict=True):
        assert request.raw_path == path
        assert dict(request.headers) == {
            "Host": request.host,
            "X-API-Key": key,
            "User-Agent": "RaidHub-Test/1.0 (+mail@example.org)",
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "If-None-Match": '"x"',
        }


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: " + b"y" * 20_000 + b"\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["closed", "garbage", "header", "half", "chunks"],
)
async def test_a_broken_answer_is_a_502_that_tells_no_secret(
    said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors of the HTTP library hold the headers that were sent, our key among them."""
    caplog.set_level(logging.DEBUG)
    async with speaking(said) as upstream, zeus(upstream) as proxy:
        status, body = await proxy.get()
    envelope = json.loads(body)
    assert status == 502
    assert (envelope["ErrorCode"], envelope["ErrorStatus"]) == (0, "ZeusUpstreamFailed")
    for key in (KEY, *OURS):
        assert key not in body.decode()
        assert key not in caplog.text


async def test_a_host_that_does_not_answer_at_all_is_a_502() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        async with zeus(f"http://127.0.0.1:{taken.getsockname()[1]}") as proxy:
            status, body = await proxy.get()
            assert (status, json.loads(body)["ErrorCode"]) == (502, 0)
            assert (await proxy.get("/healthz"))[0] == 200
            await asyncio.gather(*(proxy.get(report_path(n)) for n in range(10)))
            status, body = await proxy.get("/healthz")
            assert status == 503
            assert "no answer for" in json.loads(body)["checks"]["stats_host"]


async def test_silence_is_a_504_before_the_caller_gives_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with speaking(then_close=False) as upstream, zeus(upstream, deadline_s=0.2) as proxy:
        for path in (REPORT, SETTINGS):
            status, body = await proxy.get(path)
            assert (status, json.loads(body)["ErrorStatus"]) == (504, "ZeusUpstreamTimedOut")
    assert not any(key in caplog.text for key in OURS)


async def test_a_lost_connection_is_not_asked_again() -> None:
    """No token paid for a second request, and the id is its caller's to retry."""
    asked = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked > 1 and request.transport is not None:
            request.transport.abort()
        return web.json_response({"ErrorCode": 1653})

    async with serving(handler) as upstream, zeus(upstream, addresses=[None]) as proxy:
        assert (await proxy.get())[0] == 200
        assert (await proxy.get())[0] == 502  # over the connection that the first one opened
    assert asked == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_zeus_only_reads(method: str) -> None:
    async with simulator() as api, zeus(api.url) as proxy:
        async with proxy.request(method=method) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        assert await api.requests() == {}


@pytest.mark.parametrize("target", ["http://evil.invalid/Platform/", "@evil.invalid/", "*"])
async def test_a_target_that_names_another_host_is_refused(target: str) -> None:
    async with simulator() as api, zeus(api.url) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        status = (await reader.readline()).split()[1]
        writer.close()
        assert status == b"400"
        assert await api.requests() == {}


HIDDEN = f"GET {report_path(66)} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        f"Content-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
        f"{CHUNKED}\r\n{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n",
        f"Content-Length: 4\r\n{CHUNKED}\r\n0\r\n\r\n{HIDDEN}",
        f"Content-Length: 0\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
        f"Content-Length: +{len(HIDDEN)}\r\n\r\n{HIDDEN}",
        f"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    ],
    ids=["body", "chunks", "both lengths", "two lengths", "plus", "unknown coding"],
)
async def test_a_request_within_a_request_is_not_sent(rest: str) -> None:
    """Who shares a connection with others, behind an ingress, would ask in their name."""
    async with simulator() as api, zeus(api.url) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        first = f"GET {REPORT} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n{rest}"
        writer.write((first + last).encode())
        async with asyncio.timeout(20):
            answered = await reader.read()
        writer.close()
        assert answered.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
        assert sum((await api.requests()).values()) <= 1


@pytest.mark.parametrize(
    "target",
    [REPORT + "?" + "a" * 100_000, REPORT],
    ids=["target", "header"],
)
async def test_a_head_without_end_is_refused(target: str) -> None:
    """Whoever reaches the port could fill the memory before the key is looked at."""
    async with simulator() as api, zeus(api.url) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nX: {'y' * 100_000}".encode())
        async with asyncio.timeout(20):
            assert (await reader.readline()).split()[1] == b"400"
        writer.close()
        assert await api.requests() == {}


# --- answers pass unchanged ---------------------------------------------------------------------


async def test_gzip_passes_byte_for_byte_with_its_headers() -> None:
    """The body is what Bungie signed off; unpacking it here would cost and change it."""
    packed = gzip.compress(b'{"Response":{"a":1},"ErrorCode":1}' + b" " * 9000, 1, mtime=7)

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "gzip"
        return web.Response(
            status=206,
            reason="Somewhat Content",
            body=packed,
            headers={
                "Content-Type": "application/json; charset=utf-8",
                "Content-Encoding": "gzip",
                "ETag": '"v1"',
                "Set-Cookie": "edge=1",
            },
        )

    async with (
        serving(handler) as upstream,
        zeus(upstream) as proxy,
        proxy.request(Accept_Encoding="gzip") as answer,
    ):
        assert await answer.read() == packed
        assert (answer.status, answer.reason) == (206, "Somewhat Content")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        assert answer.headers["ETag"] == '"v1"'
        assert "Set-Cookie" not in answer.headers
        assert answer.content_length == len(packed)


async def test_a_redirect_passes_and_is_not_followed() -> None:
    """Following it would carry our key to wherever it points."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPMovedPermanently("http://elsewhere.invalid/x")

    async with serving(handler) as upstream, zeus(upstream) as proxy:
        async with proxy.request("/Platform/Somewhere") as answer:
            assert answer.status == 301
            assert answer.headers["Location"] == "http://elsewhere.invalid/x"
        assert (await proxy.get())[0] == 301
    assert len(asked) == 2


async def test_a_head_request_has_headers_and_no_body() -> None:
    async with simulator() as api, zeus(api.url) as proxy:
        async with proxy.request(method="HEAD") as answer:
            assert answer.status == 200
            assert int(answer.headers["Content-Length"]) > 100
            assert await answer.read() == b""
        assert (await proxy.get())[0] == 200  # the connection is good for the next one


async def test_conditions_and_statuses_without_body_pass() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        matches = request.headers.get("If-None-Match") == '"v"'
        return web.Response(status=304 if matches else 204, headers={"ETag": '"v"'})

    async with serving(handler) as upstream, zeus(upstream) as proxy:
        assert await proxy.get(SETTINGS, If_None_Match='"v"') == (304, b"")
        assert await proxy.get(SETTINGS) == (204, b"")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [10, 65_536, 65_537, 3_000_000])
async def test_bodies_of_any_length_arrive_whole(size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256 + 1)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        if not chunked:
            response.content_length = size
        await response.prepare(request)
        for start in range(0, size, 50_000):
            await response.write(body[start : min(start + 50_000, size)])
        return response

    async with serving(handler) as upstream, zeus(upstream) as proxy:
        for path in ("/common/world.content", "/Platform/Long/"):
            assert await proxy.get(path) == (200, body[:size])


@pytest.mark.parametrize(
    "head", [b"Content-Length: 400000", b"Transfer-Encoding: chunked"], ids=["length", "chunked"]
)
async def test_a_body_that_breaks_off_never_looks_whole(head: bytes) -> None:
    """A caller would keep half a report for ever."""
    piece = b"x" * 100_000
    sent = b"186a0\r\n" + piece + b"\r\n" if b"chunked" in head else piece
    said = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n"
    async with (
        speaking(said, sent) as upstream,
        zeus(upstream) as proxy,
        proxy.request("/common/x") as answer,
    ):
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await answer.read()


async def test_a_caller_that_leaves_ends_the_request_upstream() -> None:
    """Bungie would go on sending to nobody, on our budget."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        started.set()
        try:
            while True:
                await response.write(b"x" * 50_000)
                await asyncio.sleep(0)
        except (ConnectionError, asyncio.CancelledError):
            ended.set()
            raise

    async with serving(handler) as upstream, zeus(upstream) as proxy:
        async with proxy.request("/common/endless") as answer:
            await answer.content.readexactly(200_000)
            answer.close()
        async with asyncio.timeout(5):
            await started.wait()
            await ended.wait()


async def test_a_caller_that_leaves_while_it_waits_for_an_answer_ends_it_too() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def handler(_request: web.Request) -> web.StreamResponse:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with serving(handler) as upstream, zeus(upstream) as proxy:
        caller = asyncio.create_task(proxy.get())
        async with asyncio.timeout(5):
            await asked.wait()
            caller.cancel()
            await ended.wait()


async def test_in_all_the_chaos_a_report_is_the_right_one_or_none() -> None:
    """Half a report, or one request too many, would be found by nobody later."""
    chaos: dict[str, Any] = dict.fromkeys(
        ("reset", "truncated", "bad_gateway", "unexpected", "late"), 0.08
    )
    async with simulator(**chaos) as api, zeus(api.url) as proxy:
        answers = await asyncio.gather(
            *(proxy.get(report_path(n), Accept_Encoding="gzip") for n in range(400))
        )
        assert sum((await api.requests()).values()) == 400
        statuses = Counter(status for status, _ in answers)
        assert set(statuses) == {200, 404, 500, 502}
        assert statuses[200] > 200
        await api.order("/sim/faults", **dict.fromkeys(chaos, 0.0))
        for number, (status, body) in enumerate(answers):
            if status == 200:
                whole = (await proxy.get(report_path(number)))[1]
                assert gzip.decompress(body) == whole
            elif status == 502 and b"Zeus" in body:
                assert json.loads(body)["ErrorStatus"] == "ZeusUpstreamFailed"


async def test_callers_that_leave_at_any_moment_leave_nothing_behind() -> None:
    """A connection, a waiter or a counter that stays for each would stop zeus after a week."""
    rng = Random(4)
    limits: dict[str, Any] = {"zeus_stats_rate": 200, "zeus_stats_burst": 200, "zeus_www_rate": 200}
    async with (
        simulator(latency_ms=20.0, latency_sigma=1.0) as api,
        zeus(api.url, **limits) as proxy,
    ):

        async def caller(number: int) -> None:
            path = rng.choice([report_path(number), f"/Platform/GroupV2/{CLAN_BASE + number % 5}/"])
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, 0.3)):
                    await proxy.get(path)

        await asyncio.gather(*(caller(n) for n in range(600)))
        subject = proxy.proxy
        await until(lambda: subject._running == 0)
        assert [subject.waiting(host) for host in Host] == [0, 0]
        assert len(subject._flights) == 0
        for session in subject._upstream._sessions:
            assert isinstance(session.connector, aiohttp.TCPConnector)
            assert not session.connector._acquired
        assert (await proxy.get())[0] == 200


# --- one request for many -----------------------------------------------------------------------


async def test_the_same_question_at_the_same_time_is_asked_once() -> None:
    async with simulator(latency_ms=100.0, latency_sigma=0.0) as api, zeus(api.url) as proxy:
        path = "/Platform/GlobalAlerts/"
        answers = await asyncio.gather(*(proxy.get(path) for _ in range(30)))
        assert {status for status, _ in answers} == {200}
        assert len({body for _, body in answers}) == 1
        assert sum((await api.requests()).values()) == 1
        await proxy.get(path)  # not one of those that are kept
        assert sum((await api.requests()).values()) == 2


async def test_a_success_is_kept_for_seconds_and_a_failure_is_not() -> None:
    now = time.monotonic()
    async with simulator() as api, zeus(api.url, clock=lambda: now) as proxy:

        async def asked(path: str) -> int:
            before = sum((await api.requests()).values())
            await proxy.get(path)
            return sum((await api.requests()).values()) - before

        assert [await asked(SETTINGS) for _ in range(3)] == [1, 0, 0]
        async with proxy.request(SETTINGS) as answer:
            assert answer.headers["Age"] == "0"
        now += 5
        assert await asked(SETTINGS) == 1
        await api.order("/sim/maintenance", on=True)
        clan = f"/Platform/GroupV2/{CLAN_BASE}/"
        assert [await asked(clan) for _ in range(2)] == [1, 1]  # code 5
        assert [await asked("/Platform/GroupV2/1/") for _ in range(2)] == [1, 1]


async def test_bodies_held_for_sharing_are_bounded() -> None:
    """A thousand slow questions must cost a thousand streams, not a thousand bodies."""
    release, asked = asyncio.Event(), 0

    async def handler(_request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        await release.wait()
        return web.json_response({"Response": {}, "ErrorCode": 1})

    async with serving(handler) as upstream, zeus(upstream) as proxy:
        paths = [f"/Platform/GroupV2/{n}/" for n in range(300)]
        callers = [asyncio.create_task(proxy.get(path)) for path in paths]
        await until(lambda: asked == 300)
        assert len(proxy.proxy._flights) == 256
        release.set()
        assert {status for status, _ in await asyncio.gather(*callers)} == {200}


async def test_reports_are_never_shared_nor_kept() -> None:
    """404 means "not yet": an answer from before would hold the crawl back."""
    async with simulator(latency_ms=50.0, latency_sigma=0.0) as api, zeus(api.url) as proxy:
        for path in (report_path(100_000), REPORT):
            await asyncio.gather(*(proxy.get(path) for _ in range(4)))
            await proxy.get(path)
        assert sum((await api.requests()).values()) == 10


async def test_who_waits_for_an_answer_survives_the_caller_who_asked_first() -> None:
    async with simulator(latency_ms=200.0, latency_sigma=0.0) as api, zeus(api.url) as proxy:
        first = asyncio.create_task(proxy.get(SETTINGS))
        await until(lambda: len(proxy.proxy._flights))
        second = asyncio.create_task(proxy.get(SETTINGS))
        await until(lambda: list(proxy.proxy._flights._callers.values()) == [2])
        first.cancel()
        assert (await second)[0] == 200
        assert sum((await api.requests()).values()) == 1


# --- when Bungie says stop ----------------------------------------------------------------------


async def test_an_address_that_is_throttled_pauses_and_the_others_go_on() -> None:
    async with simulator() as api, zeus(api.url) as proxy:
        await api.order("/sim/addresses", address=ADDRESSES[1], code=51, throttle_seconds=10)
        statuses = [(await proxy.get(report_path(n)))[0] for n in range(12)]
        assert Counter(statuses) == {200: 11, 429: 1}
        assert (await api.requests())[ADDRESSES[1]] == 1
        (news,) = proxy.news
        assert (news.what, news.number, news.label) == (
            What.ADDRESS_PAUSED,
            1,
            "PerEndpointRequestThrottleExceeded",
        )
        status, body = await proxy.get("/healthz", key=None)
        health = json.loads(body)
        assert (status, health["status"], list(health["paused_addresses_s"])) == (200, "ok", ["1"])


async def test_gauges_return_to_zero_when_a_pause_is_over() -> None:
    """Nobody has to send anything for it: an alert would ring all night."""
    now = time.monotonic()
    async with simulator() as api, zeus(api.url, clock=lambda: now) as proxy:
        proxy.condition.export()
        await api.order("/sim/addresses", address=ADDRESSES[0], page=403)
        await proxy.get()
        gauges = {s.labels["address"]: s.value for s in _samples(metrics.ZEUS_ADDRESS_PAUSED)}
        assert [gauges[str(n)] for n in range(4)] == [1, 0, 0, 0]
        now += 10
        gauges = {s.labels["address"]: s.value for s in _samples(metrics.ZEUS_ADDRESS_PAUSED)}
        assert [gauges[str(n)] for n in range(4)] == [0, 0, 0, 0]


async def test_a_refused_key_is_put_aside_and_told_once() -> None:
    async with simulator() as api, zeus(api.url) as proxy:
        proxy.condition.export()
        await api.order("/sim/keys", key=OURS[0], code=2101)
        statuses = [(await proxy.get(report_path(n)))[0] for n in range(10)]
        assert Counter(statuses) == {200: 9, 401: 1}
        assert [news.what for news in proxy.news] == [What.KEY_REFUSED]
        gauges = {s.labels["key_index"]: s.value for s in _samples(metrics.ZEUS_KEY_QUARANTINED)}
        assert (gauges["0"], gauges["1"]) == (1, 0)
        assert json.loads((await proxy.get("/healthz"))[1])["quarantined_keys"] == [0]


async def test_when_all_keys_are_refused_callers_hear_why_and_nothing_leaves() -> None:
    """A crawl that spins against a bad key gets the addresses banned as well."""
    now = time.monotonic()
    async with simulator() as api, zeus(api.url, clock=lambda: now) as proxy:
        for key in OURS:
            await api.order("/sim/keys", key=key, code=2103)
        for _ in range(2):
            await proxy.get()
        before = await api.requests()
        for _ in range(5):
            status, body = await proxy.get()
            envelope = json.loads(body)
            assert (status, envelope["ErrorCode"]) == (401, 2103)
            assert envelope["ErrorStatus"] == "ZeusKeysRefused"
            assert not any(key in body.decode() for key in OURS)
        assert await api.requests() == before
        assert (await proxy.get("/healthz"))[0] == 503
        for key in OURS:
            await api.order("/sim/keys", key=key)
        now += 3601
        assert [(await proxy.get(report_path(n)))[0] for n in range(4)] == [200] * 4
        assert (await proxy.get("/healthz"))[0] == 200


async def test_the_game_servers_throttle_with_http_200_stops_everything() -> None:
    now = time.monotonic()
    async with simulator(game_throttle=1.0) as api, zeus(api.url, clock=lambda: now) as proxy:
        assert (await proxy.get())[0] in (200, 503)
        for path in (REPORT, SETTINGS):
            status, body = await proxy.get(path)
            assert (status, json.loads(body)["ErrorStatus"]) == (503, "ZeusThrottled")
        assert sum((await api.requests()).values()) == 1
        await api.order("/sim/faults", game_throttle=0.0)
        now += 10.1
        assert (await proxy.get())[0] == 200


async def test_the_probe_of_the_status_page_needs_no_key() -> None:
    async with simulator() as api, zeus(api.url) as proxy:
        for path in ("/", REPORT, "/healthz"):
            assert await proxy.get(path, key=None, x_betteruptime_probe="1") == (200, b"ok")
        assert (await proxy.get("/healthz", key=None))[0] == 200
        assert await api.requests() == {}


async def test_a_defect_of_ours_is_answered_and_tells_its_place_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of whatever error it is may hold a key."""
    async with simulator() as api, zeus(api.url) as proxy:
        for session in proxy.proxy._upstream._sessions:

            def broken(*_args: Any, **more: Any) -> Any:
                raise KeyError(more["headers"]["X-API-Key"])

            monkeypatch.setattr(session, "request", broken)
        status, body = await proxy.get()
    assert (status, json.loads(body)["ErrorStatus"]) == (500, "ZeusError")
    assert "zeus_request_broken" in str([r.__dict__.get("action") for r in caplog.records])
    assert not any(key in caplog.text + body.decode() for key in OURS)


def _samples(metric: Any) -> list[Any]:
    return [sample for family in metric.collect() for sample in family.samples]


async def test_a_malformed_request_does_not_log_its_key(caplog: pytest.LogCaptureFixture) -> None:
    """The HTTP library words its own errors, and may quote what it could not read."""
    caplog.set_level(logging.DEBUG)
    async with simulator() as api, zeus(api.url) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        for line in (f"X-API-Key: {KEY}\x00", f"X-API-Key {KEY}", f"X-API-Key: {KEY}\r\n bad\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {REPORT} HTTP/1.1\r\nHost: x\r\n{line}\r\n\r\n".encode())
            assert (await reader.readline()).split()[1] in (b"400", b"401")
            writer.close()
        assert await api.requests() == {}
    assert KEY not in caplog.text

"""One request from a caller to Bungie and back: admission, its turn, the wire, the answer."""

import asyncio
import hmac
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from raidhub_dagster.monitoring import metrics
from streaming.zeus import envelope, headers, look
from streaming.zeus.envelope import RefusedError
from streaming.zeus.gate import Gate, TooBusyError
from streaming.zeus.reach import Reach
from streaming.zeus.shared import MOST_BODY_BYTES, MOST_FLIGHTS, Flights, Memory, Whole, may_be_kept
from streaming.zeus.traffic import Host, News, Sent, Traffic
from streaming.zeus.upstream import Upstream, kind_of

log = logging.getLogger(__name__)

REPORTS = "/Platform/Destiny2/Stats/PostGameCarnageReport/"
_PLATFORM = "/Platform/"
_PROBE = "x-betteruptime-probe"
# Callers give up after 15 s: they get to know why before.
DEADLINE_S = 14.0
# A body that is here within so many bytes goes on in one piece; a longer one as it comes.
_WHOLE_BYTES = 64 * 1024
# What a cached body opens to at most, to see whether it is a success.
_MOST_PLAIN_BYTES = 8 * MOST_BODY_BYTES
# Each holds some connections and up to 128 KiB; budgets end far below.
_MOST_RUNNING = 4096


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer whose beginning is here: `rest` brings what `body` lacks, None when it is all."""

    status: int
    reason: str | None
    headers: CIMultiDict[str]
    body: bytes
    rest: aiohttp.ClientResponse | None
    sent: Sent


class _Meters:
    """The label values are few: their series are looked up once."""

    def __init__(self, host: Host) -> None:
        self.wait_ms = metrics.ZEUS_RATE_LIMITER_WAIT_MS.labels(host)
        self.duration_ms = metrics.ZEUS_REQUEST_DURATION_MS.labels(host)
        self._host = host
        self._requests: dict[int, Any] = {}

    def count(self, status: int) -> None:
        series = self._requests.get(status)
        if series is None:
            series = self._requests[status] = metrics.ZEUS_REQUESTS.labels(self._host, status)
        series.inc()


class Proxy:
    """Answers requests of aiohttp's low-level server.

    `tell` is called with what a person should read; `health` gives the status and body of /healthz.
    """

    def __init__(
        self,
        *,
        api_key: str,
        bases: Mapping[Host, str],
        traffic: Traffic,
        upstream: Upstream,
        reach: Mapping[Host, Reach],
        cache_s: float,
        tell: Callable[[News], None],
        health: Callable[[], tuple[int, Mapping[str, object]]],
        clock: Callable[[], float],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._clock = clock
        self._deadline_s = deadline_s
        self._api_key = api_key.encode()
        self._bases = dict(bases)
        self._traffic = traffic
        self._upstream = upstream
        self._reach = reach
        self._gates = {host: Gate(host, traffic, clock) for host in Host}
        self._meters = {host: _Meters(host) for host in Host}
        self._memory = Memory(cache_s, clock)
        self._flights = Flights()
        self._tell = tell
        self._health = health
        self._running = 0

    def waiting(self, host: Host) -> int:
        """Requests that wait for a token."""
        return self._gates[host].waiting

    def close(self) -> None:
        for gate in self._gates.values():
            gate.close()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Never raises but for cancellation: the caller has left."""
        if _PROBE in request.headers:
            return web.Response(text="ok")
        path = request.raw_path
        if path == "/healthz":
            status, body = self._health()
            return web.Response(
                status=status, body=msgspec.json.encode(body), content_type="application/json"
            )
        host = Host.STATS if path.startswith(REPORTS) else Host.WWW
        self._running += 1
        try:
            response = await self._answer(request, host, path)
        except RefusedError as refused:
            response = refused.response()
        except Exception as error:  # noqa: BLE001  a bug must not close the connection silently
            # An error's text may hold what was sent, the key included: only its place is told.
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error(  # noqa: TRY400
                "A request failed by a defect: %s in %s:%s",
                type(error).__name__,
                where.filename,
                where.lineno,
                extra={"action": "zeus_request_broken"},
            )
            response = RefusedError(
                500, envelope.BROKEN, "zeus failed; its log says where"
            ).response()
        finally:
            self._running -= 1
        self._meters[host].count(response.status)
        return response

    async def _answer(self, request: web.BaseRequest, host: Host, path: str) -> web.StreamResponse:
        given = request.headers
        if not hmac.compare_digest(
            given.get("X-API-Key", "").encode("utf-8", "surrogateescape"), self._api_key
        ):
            raise RefusedError(401, envelope.NOT_ADMITTED, "X-API-Key is not zeus's BUNGIE_API_KEY")
        method = request.method
        if method not in ("GET", "HEAD"):
            raise RefusedError(405, envelope.METHOD_NOT_ALLOWED, "zeus only reads: GET and HEAD")
        if not path.startswith("/") or not path.isascii():
            raise RefusedError(400, envelope.BAD_REQUEST, "the target must be an ASCII path")
        if self._running > _MOST_RUNNING:
            raise RefusedError(503, envelope.TOO_BUSY, "too many requests at once", retry_s=1)
        passed = headers.forwarded(given)
        if (
            host is Host.WWW
            and method == "GET"
            and path.startswith(_PLATFORM)
            and headers.CONDITIONS.isdisjoint(passed)
            and len(self._flights) < MOST_FLIGHTS
        ):
            whole, age_s = await self._share(path, passed)
            if whole is not None:
                answer = CIMultiDict(whole.headers)
                if age_s is not None:
                    answer["Age"] = str(int(age_s))
                return web.Response(
                    status=whole.status, reason=whole.reason, headers=answer, body=whole.body
                )
        reply = await self._ask(host, method, path, passed, _WHOLE_BYTES)
        if reply.rest is not None:
            return await self._stream(request, host, reply)
        if method == "HEAD":  # Content-Length tells of the body that a GET would bring
            return web.StreamResponse(
                status=reply.status, reason=reply.reason, headers=reply.headers
            )
        return web.Response(
            status=reply.status, reason=reply.reason, headers=reply.headers, body=reply.body
        )

    # --- one answer for several callers ---------------------------------------------------------

    async def _share(self, path: str, passed: dict[str, str]) -> tuple[Whole | None, float | None]:
        """The answer, None when it is too long to be shared; and its age when it was kept."""
        question = (path, tuple(passed.items()))
        keeps = may_be_kept(path)
        if keeps and (found := self._memory.get(question)) is not None:
            return found

        async def ask() -> Whole | None:
            reply = await self._ask(Host.WWW, "GET", path, passed, MOST_BODY_BYTES)
            if reply.rest is not None:
                reply.rest.close()
                return None
            whole = Whole(reply.status, reply.reason, reply.headers, reply.body)
            if keeps and reply.status == 200 and _is_success(whole):
                self._memory.put(question, whole)
            return whole

        return await self._flights.join(question, ask), None

    # --- the request upstream -------------------------------------------------------------------

    async def _ask(
        self, host: Host, method: str, path: str, passed: Mapping[str, str], most: int
    ) -> _Reply:
        """Waits for a turn, sends, and reads the body up to `most` bytes. Raises RefusedError."""
        started = self._clock()
        address = await self._turn(host)
        sent_at = self._clock()
        key = self._traffic.keys.pick(sent_at)
        if key is None:
            raise self._no_key(sent_at)
        sent = Sent(host, address, key, sent_at)
        headers_ = {**passed, "X-API-Key": self._traffic.keys.text(key)}
        response: aiohttp.ClientResponse | None = None
        reply: _Reply | None = None
        try:
            async with asyncio.timeout(self._deadline_s - (sent_at - started)):
                url = URL(self._bases[host] + path, encoded=True)
                response = await self._upstream.send(address, method, url, headers_)
                body, is_whole = await _beginning(response, most)
            reply = _Reply(
                response.status,
                response.reason,
                headers.returned(response.headers),
                body,
                None if is_whole else response,
                sent,
            )
        except TimeoutError as error:
            self._reach[host].failed(kind_of(error))
            raise RefusedError(
                504, envelope.TIMED_OUT, f"no answer from the {host} host in time"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            self._reach[host].failed(kind_of(error))
            raise RefusedError(
                502, envelope.UNREACHABLE, f"no answer from the {host} host: {kind_of(error)}"
            ) from None
        finally:
            if reply is None:
                self._traffic.unanswered(sent)
                if response is not None:
                    response.close()
        self._reach[host].answered()
        if reply.rest is None:
            self._meters[host].duration_ms.observe((self._clock() - sent_at) * 1000)
        answer = look.look(reply.status, response.headers, body)
        if answer is None:
            news = self._traffic.succeeded(sent)
        else:
            news = self._traffic.answered(sent, answer, self._clock())
        for each in news:
            self._tell(each)
        if news:
            for gate in self._gates.values():
                gate.recheck()
        return reply

    async def _turn(self, host: Host) -> int:
        """The address whose token pays for the request. Raises RefusedError."""
        gate = self._gates[host]
        address = gate.try_pass()
        if address is not None:
            self._meters[host].wait_ms.observe(0.0)
            return address
        started = self._clock()
        if self._traffic.keys.refusal(started) is not None:
            raise self._no_key(started)
        try:
            address = await gate.wait()
        except TooBusyError as busy:
            now = self._clock()
            if self._traffic.keys.refusal(now) is not None:
                raise self._no_key(now) from None
            raise RefusedError(
                503,
                envelope.TOO_BUSY,
                f"the budget of the {host} host is spent or paused",
                retry_s=busy.retry_s,
            ) from None
        self._meters[host].wait_ms.observe((self._clock() - started) * 1000)
        return address

    def _no_key(self, now: float) -> RefusedError:
        code, wait_s = self._traffic.keys.refusal(now) or (None, 1.0)
        return RefusedError(
            401,
            envelope.KEYS_REFUSED,
            f"Bungie refuses all {len(self._traffic.keys)} keys of zeus; the next is tried in"
            f" {wait_s:.0f} s",
            retry_s=wait_s,
            code=code or 0,
        )

    async def _stream(
        self, request: web.BaseRequest, host: Host, reply: _Reply
    ) -> web.StreamResponse:
        """Passes a long body on as it comes, as fast as the caller takes it."""
        assert reply.rest is not None  # noqa: S101  the caller looked
        response = web.StreamResponse(
            status=reply.status, reason=reply.reason, headers=reply.headers
        )
        try:
            await response.prepare(request)
            await response.write(reply.body)
            while True:
                try:
                    piece = await reply.rest.content.readany()
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.warning(
                        "A body from the %s host broke off: %s",
                        host,
                        kind_of(error),
                        extra={"action": "zeus_body_broken"},
                    )
                    _abort(request)
                    break
                if not piece:
                    break
                await response.write(piece)
        except ConnectionError:
            _abort(request)  # the caller left
        finally:
            reply.rest.release()
        self._meters[host].duration_ms.observe((self._clock() - reply.sent.at) * 1000)
        return response


async def _beginning(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """The body up to about `most` bytes, and whether that is all of it."""
    if response.method == "HEAD":
        return b"", True
    length = response.content_length
    if length is not None and length > most:
        return await response.content.readany(), False
    if length is not None:
        return await response.read(), True
    pieces: list[bytes] = []
    size = 0
    while size <= most:
        piece = await response.content.readany()
        if not piece:
            return b"".join(pieces), True
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces), False


def _is_success(whole: Whole) -> bool:
    answer = look.whole(whole.status, whole.headers, whole.body, _MOST_PLAIN_BYTES)
    return answer.code == 1


def _abort(request: web.BaseRequest) -> None:
    """A reset, so that nobody takes what came for the whole body."""
    if request.transport is not None:
        request.transport.abort()

"""Connections to Bungie: a pool for each source address, and one request over one of them."""

import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from streaming.zeus.addresses import family

_CONNECT_S = 5.0
# Between two pieces of a body, or before the first.
SILENCE_S = 15.0
# Shorter than servers keep theirs: the fewer requests meet a connection that just ends.
_IDLE_S = 30.0
_NAMES_S = 300  # that a host's addresses are remembered


class LostError(aiohttp.ClientError):
    """No connection, or one that ended before the answer; `kind` says how."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def kind_of(error: BaseException) -> str:
    """A name for logs and callers: an error's own text may hold the headers that were sent."""
    return error.kind if isinstance(error, LostError) else type(error).__name__


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Not twice: aiohttp repeats a GET when a used connection ends, and no token pays for it.

    It does so for these two kinds of error and for no other.
    """
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise LostError(type(error).__name__) from None


class Upstream:
    """One pool for each of `addresses`; None stands for whatever the system chooses."""

    def __init__(self, addresses: Sequence[str | None], user_agent: str) -> None:
        self._sessions = [_session(address, user_agent) for address in addresses]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for session in self._sessions:
            await session.close()

    async def send(
        self, address: int, method: str, url: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """The answer's head; its body is still to be read. Raises ClientError and TimeoutError."""
        return await self._sessions[address].request(
            method, url, headers=headers, allow_redirects=False
        )


def _session(address: str | None, user_agent: str) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        # A request that waited here for a connection would arrive later than its token says; how
        # many there can be follows from the budgets.
        limit=0,
        local_addr=None if address is None else (address, 0),
        family=socket.AF_UNSPEC if address is None else family(address),
        keepalive_timeout=_IDLE_S,
        ttl_dns_cache=_NAMES_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": user_agent},
        skip_auto_headers=("Accept", "Accept-Encoding"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=SILENCE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        middlewares=(_once,),
    )

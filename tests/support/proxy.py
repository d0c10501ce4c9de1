"""Zeus on a real port in this process, and servers for it to ask."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from time import time
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from raidhub_dagster.settings import Settings
from simulator.faults import Faults
from simulator.publication import Schedule
from simulator.server import build_app
from simulator.service import Config
from simulator.world import FIRST_ID, WorldConfig
from streaming.zeus.process import Condition, opened, server_of
from streaming.zeus.proxy import DEADLINE_S, Proxy
from streaming.zeus.traffic import News

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

KEY = "the-key-of-callers"
OURS = ("first-upstream-key", "second-upstream-key")
HEAD = FIRST_ID + 500
REPORT = f"/Platform/Destiny2/Stats/PostGameCarnageReport/{FIRST_ID + 10}/"
ADDRESSES = ("127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4")


@dataclass
class Zeus:
    """A client of one proxy that presents the right key unless told otherwise."""

    url: str
    proxy: Proxy
    condition: Condition
    session: aiohttp.ClientSession
    news: list[News] = field(default_factory=list)

    def request(
        self, path: str = REPORT, *, method: str = "GET", key: str | None = KEY, **headers: str
    ) -> Any:
        """A context manager of the answer; `headers` with _ for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["X-API-Key"] = key
        url = URL(f"{self.url}{path}", encoded=True)
        return self.session.request(method, url, headers=sent, allow_redirects=False)

    async def get(self, path: str = REPORT, **more: Any) -> tuple[int, bytes]:
        async with self.request(path, **more) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def zeus(
    upstream: str,
    *,
    addresses: Sequence[str | None] = ADDRESSES,
    clock: Callable[[], float] | None = None,
    deadline_s: float = DEADLINE_S,
    **overrides: Any,
) -> AsyncIterator[Zeus]:
    """Without limits unless they are given."""
    given: dict[str, Any] = {
        "zeus_stats_rate": 0,
        "zeus_www_rate": 0,
        "zeus_stats_url": upstream,
        "zeus_www_url": upstream,
        "bungie_api_key": KEY,
        "zeus_api_keys": ",".join(OURS),
        "bungie_user_agent": "RaidHub-Test/1.0 (+mail@example.org)",
    }
    settings = Settings(_env_file=None, **(given | overrides))
    news: list[News] = []
    more: dict[str, Any] = {} if clock is None else {"clock": clock}
    async with (
        opened(settings, addresses, news.append, deadline_s=deadline_s, **more) as (proxy, how),
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        ) as session,
    ):
        runner = web.ServerRunner(server_of(proxy), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield Zeus(url, proxy, how, session, news)
        finally:
            await session.close()
            await runner.cleanup()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """A server that answers everything with `handler`; its address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app, handler_cancellation=True) as server:
        yield str(server.make_url("")).rstrip("/")


@asynccontextmanager
async def speaking(*pieces: bytes, then_close: bool = True) -> AsyncIterator[str]:
    """A server below HTTP: to each connection it says these bytes once something came."""
    held: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then_close:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in held:
            writer.close()


@dataclass
class Simulator:
    url: str
    session: aiohttp.ClientSession

    async def ask(self, path: str) -> Any:
        async with self.session.get(f"{self.url}{path}") as answer:
            return await answer.json()

    async def order(self, path: str, **body: Any) -> None:
        async with self.session.post(f"{self.url}{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()

    async def requests(self) -> dict[str, int]:
        """By source address."""
        return dict(await self.ask("/truth/requests"))


@asynccontextmanager
async def simulator(host: str = "127.0.0.1", **faults: Any) -> AsyncIterator[Simulator]:
    """A calm world but for these faults; it accepts our keys only."""
    world = WorldConfig(
        seed=1, epoch=round(time() - 100, 3), rate=50.0, first_id=FIRST_ID, players=200
    )
    calm = {name: getattr(Faults.calm(), name) for name in Faults.__struct_fields__}
    config = Config(
        world=world,
        schedule=Schedule(world.epoch, world.rate, FIRST_ID),
        faults=Faults(**(calm | faults)),
        head=HEAD,
        keys=frozenset(OURS),
    )
    app = build_app(config, time, Random(1))
    async with TestServer(app, host=host) as server, aiohttp.ClientSession() as session:
        yield Simulator(str(server.make_url("")).rstrip("/"), session)

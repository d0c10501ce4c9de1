"""Where a crawl begins."""

import asyncio
from typing import Self

import aiohttp
import pytest
from aiohttp import web

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.stack.process import free_port
from streaming.atlas.start import ask_simulator, first_id, is_simulated


@pytest.mark.parametrize(
    ("target", "newest", "buffer", "first"),
    [
        (None, None, 10_000, None),
        (None, 50_000, 10_000, 40_001),
        (70_000, 50_000, 10_000, 60_000),
        (70_000, None, 0, 70_000),
        (5, None, 10_000, 1),
    ],
)
def test_first_id(target: int | None, newest: int | None, buffer: int, first: int | None) -> None:
    assert first_id(target=target, newest=newest, buffer=buffer) == first


@pytest.mark.parametrize(
    ("base_url", "simulated"),
    [
        ("http://127.0.0.1:7070", True),
        ("http://127.0.0.9", True),
        ("http://localhost:7070", True),
        ("http://[::1]:7070", True),
        ("http://simulator:7070", True),
        ("https://stats.bungie.net", False),
        ("http://10.0.0.5:7777", False),
        ("not an address", False),
    ],
)
def test_only_this_machine_and_its_network_have_a_simulator(base_url: str, simulated: bool) -> None:
    assert is_simulated(base_url) is simulated


class Service:
    """Something on this machine that answers every request with `answer`."""

    def __init__(self, answer: object, status: int = 200) -> None:
        self._answer, self._status = answer, status
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        assert "X-API-Key" not in request.headers
        return web.json_response(self._answer, status=self._status)


async def no_wait(_seconds: float) -> None:
    raise AssertionError("nothing to wait for")


@pytest.mark.asyncio
async def test_asks_a_simulator_for_its_first_id() -> None:
    async with Service({"first_id": 77}) as service, aiohttp.ClientSession() as session:
        assert await ask_simulator(session, service.url, no_wait) == 77


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "status"),
    [({"first_id": 77}, 404), ({}, 200), ({"first_id": "77"}, 200), ([77], 200), (None, 200)],
)
async def test_names_the_flag_when_something_else_answers(answer: object, status: int) -> None:
    """A proxy on this machine knows no first id."""
    async with Service(answer, status) as service, aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match="--target"):
            await ask_simulator(session, service.url, no_wait)


@pytest.mark.asyncio
async def test_waits_for_a_simulator_that_is_not_up_yet() -> None:
    """`raidhub up` starts everything at once."""
    async with Service({"first_id": 77}) as service, aiohttp.ClientSession() as session:
        gone = service.url.rsplit(":", 1)[0] + f":{free_port()}"
        waits: list[float] = []

        async def wait(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 3:
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await ask_simulator(session, gone, wait)
    assert waits == [0.5, 1.0, 2.0]

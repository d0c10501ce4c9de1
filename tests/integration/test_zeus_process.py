"""Zeus as a process: how it starts, what it says when it cannot, and how it ends."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from raidhub_dagster.stack.process import is_taken
from tests.support.proxy import KEY, OURS, REPORT, Handler, serving, simulator
from tests.support.typed import command, typed

Environment = dict[str, str]
HEADERS = {"X-API-Key": KEY}


def quiet_port() -> int:
    """A free one below those that the system gives to connections: hundreds are made here."""
    return next(p for p in iter(lambda: random.randrange(12_000, 20_000), 0) if not is_taken(p))


def environment(upstream: str = "http://127.0.0.1:9", **more: object) -> Environment:
    values = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),  # this tree, whatever is installed
        "BUNGIE_API_KEY": KEY,
        "ZEUS_API_KEYS": ", ".join(OURS),
        "ZEUS_STATS_URL": upstream,
        "ZEUS_WWW_URL": upstream,
        "ZEUS_STATS_RATE": "0",
        "ZEUS_WWW_RATE": "0",
        "ZEUS_PORT": quiet_port(),
        "ZEUS_METRICS_PORT": quiet_port(),
        **more,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


class Process:
    def __init__(self, process: asyncio.subprocess.Process, given: Environment) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{given['ZEUS_PORT']}"
        self.metrics_url = f"http://127.0.0.1:{given['ZEUS_METRICS_PORT']}"
        self.lines: list[dict[str, Any]] = []

    async def actions(self, wanted: str) -> None:
        """Waits for a line of the log with the action."""
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            while not any(line["action"] == wanted for line in self.lines):
                line = await self.process.stderr.readline()
                assert line, f"it ended: {self.lines}"
                self.lines.append(json.loads(line))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def end(self) -> int:
        assert self.process.stderr is not None
        async with asyncio.timeout(20):
            rest = (await self.process.stderr.read()).splitlines()
            self.lines += [json.loads(line) for line in rest]
            return await self.process.wait()


@asynccontextmanager
async def running(folder: Path, *arguments: object, given: Environment) -> AsyncIterator[Process]:
    """A zeus that answers, in an empty folder: a checkout may have a `.env`."""
    process = await asyncio.create_subprocess_exec(
        *command("zeus", *arguments), cwd=folder, env=given, stderr=asyncio.subprocess.PIPE
    )
    zeus = Process(process, given)
    try:
        await zeus.actions("zeus_started")
        yield zeus
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def end(folder: Path, *arguments: object, given: Environment) -> subprocess.CompletedProcess[str]:
    """A zeus that does not start."""
    return typed("zeus", *arguments, folder=folder, environment=given, timeout_s=60)


def fail(folder: Path, *arguments: object, given: Environment) -> str:
    """The one line that a zeus says which does not start."""
    done = end(folder, *arguments, given=given)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(told) == 1, done.stderr
    return told[0]


def slow(release: asyncio.Event, asked: asyncio.Event) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await release.wait()
        return web.Response(body=b"x" * 100_000)

    return handler


@pytest.mark.asyncio
async def test_sigterm_lets_running_requests_end(tmp_path: Path) -> None:
    """A deployment in the middle of a crawl must cost nobody an id."""
    release, asked = asyncio.Event(), asyncio.Event()
    async with (
        serving(slow(release, asked)) as upstream,
        running(tmp_path, given=environment(upstream)) as zeus,
        aiohttp.ClientSession(headers=HEADERS) as session,
    ):
        caller = asyncio.create_task(session.get(f"{zeus.url}{REPORT}"))
        await asked.wait()
        zeus.stop()
        await zeus.actions("zeus_draining")
        async with asyncio.timeout(10):
            while True:  # until nobody listens any more
                try:
                    _, writer = await asyncio.open_connection(
                        "127.0.0.1", int(zeus.url.rpartition(":")[2])
                    )
                    writer.close()
                except ConnectionError:
                    break
        release.set()
        answer = await caller
        assert (answer.status, await answer.read()) == (200, b"x" * 100_000)
        assert await zeus.end() == 0


@pytest.mark.asyncio
async def test_a_long_body_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """Open-world reports have tens of MB; sixteen of them at once must not end the process."""
    size = 30_000_000

    async def handler(_request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(size)})
        await response.prepare(_request)
        piece = bytes(50_000)
        for _ in range(size // len(piece)):
            await response.write(piece)
        return response

    async def take(session: aiohttp.ClientSession, url: str, process: psutil.Process) -> int:
        """Reads a body, and watches zeus's memory meanwhile."""
        got, most = 0, 0
        async with session.get(url) as answer:
            async for piece in answer.content.iter_chunked(200_000):
                got += len(piece)
                most = max(most, process.memory_info().rss)
        assert got == size
        return most

    async with (
        serving(handler) as upstream,
        running(tmp_path, given=environment(upstream)) as zeus,
        aiohttp.ClientSession(headers=HEADERS) as session,
    ):
        process = psutil.Process(zeus.process.pid)
        await take(session, f"{zeus.url}{REPORT}", process)  # buffers and pools are there
        before = process.memory_info().rss
        async with session.get(f"{zeus.url}{REPORT}"):  # who does not read must not fill it either
            peaks = await asyncio.gather(
                *(take(session, f"{zeus.url}{REPORT}", process) for _ in range(3))
            )
    assert max(peaks) - before < 12 * 2**20  # of the 120 MB that went through


@pytest.mark.asyncio
async def test_it_sends_from_the_addresses_it_is_given(tmp_path: Path) -> None:
    async with simulator() as api:
        for flags, count in ((("--v6_n", 3), 3), (("--dev",), 1)):
            given = environment(api.url, IPV6="127.0.3.1")
            before = await api.requests()
            async with (
                running(tmp_path, *flags, given=given) as zeus,
                aiohttp.ClientSession(headers=HEADERS) as session,
            ):
                for _ in range(6):
                    async with session.get(f"{zeus.url}{REPORT}") as answer:
                        assert answer.status == 200
                assert zeus.lines[0]["count"] == count
            new = {a: n - before.get(a, 0) for a, n in (await api.requests()).items()}
            used = [f"127.0.3.{n + 1}" for n in range(count)]
            assert {a for a, n in new.items() if n} == set(used)
            assert sum(new.values()) == 6


@pytest.mark.asyncio
async def test_a_refused_key_alerts_once_and_stays_secret(tmp_path: Path) -> None:
    """The alert is for a person at night; neither it nor the log may hold the key."""
    posted: list[Any] = []

    async def webhook(request: web.Request) -> web.StreamResponse:
        posted.append(await request.json())
        return web.Response(status=204)

    async with simulator() as api, serving(webhook) as discord:
        await api.order("/sim/keys", key=OURS[1], code=2101)
        given = environment(api.url, ATLAS_WEBHOOK_URL=f"{discord}/hook", LOG_LEVEL="debug")
        async with (
            running(tmp_path, given=given) as zeus,
            aiohttp.ClientSession(headers=HEADERS) as session,
        ):
            for _ in range(8):
                async with session.get(f"{zeus.url}{REPORT}") as answer:
                    await answer.read()
            async with session.get(f"{zeus.metrics_url}/metrics") as answer:
                text = await answer.text()
            async with session.get(f"{zeus.metrics_url}/healthz") as answer:
                assert (answer.status, (await answer.json())["checks"]["keys"]) == (200, "ok")
            zeus.stop()
            assert await zeus.end() == 0
    (message,) = posted
    (embed,) = message["embeds"]
    assert embed["title"] == "API Key Quarantined"
    assert {f["name"]: f["value"] for f in embed["fields"]} == {
        "Key": "1",
        "Reason": "ApiInvalidOrExpiredKey",
        "Healthy Keys": "1",
    }
    assert 'zeus_key_quarantined{key_index="1"} 1.0' in text
    assert 'zeus_requests_total{endpoint_type="stats",status="401"} 1.0' in text
    said = json.dumps(zeus.lines) + json.dumps(message) + text
    assert not any(key in said for key in (KEY, *OURS))


def test_missing_addresses_are_one_line_and_the_output_adds_them(tmp_path: Path) -> None:
    given = environment(IPV6="2001:db8:77::5")
    done = end(tmp_path, "--interface", "lo", "--v6_n", "2", given=given)
    assert done.returncode == 1
    assert "raidhub: 2 of 2 source addresses are not on lo" in done.stderr.splitlines()[-1]
    assert done.stdout.splitlines() == [
        f"ip -6 addr add 2001:db8:77::{n}/128 dev lo" for n in (5, 6)
    ]


def test_an_interface_that_is_not_there_is_a_wrong_flag(tmp_path: Path) -> None:
    given = environment(IPV6="2001:db8:77::5")
    done = end(tmp_path, "--interface", "eth7", given=given)
    assert done.returncode == 2
    assert "--interface: this machine has no interface eth7; it has " in done.stderr


def test_a_missing_key_is_one_line(tmp_path: Path) -> None:
    given = environment(ZEUS_API_KEYS="")
    del given["BUNGIE_API_KEY"]
    assert "BUNGIE_API_KEY" in fail(tmp_path, given=given)


@pytest.mark.parametrize("variable", ["ZEUS_PORT", "ZEUS_METRICS_PORT"])
def test_a_taken_port_is_one_line_that_names_the_variable(tmp_path: Path, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = environment(**{variable: taken.getsockname()[1]})
        assert f"set another {variable}" in fail(tmp_path, given=given)


def test_an_address_that_is_not_ours_names_its_variable(tmp_path: Path) -> None:
    given = environment(ZEUS_BIND="192.0.2.1")
    assert "set another ZEUS_BIND" in fail(tmp_path, given=given)

"""What tests and people ask beside the platform: ground truth below /truth, controls below /sim."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec
from aiohttp import web

from simulator.endpoints import SYSTEMS
from simulator.faults import Faults
from simulator.service import Simulator

_CHUNK = 200  # raids of ground truth read and sent at a time, 40 ms of work

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _BadRequestError(Exception):
    """A control request that makes no sense; answered with 400 and the message."""


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdigit():
        raise _BadRequestError(f"{name} must be a whole number, not {text!r}")
    return int(text)


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.text() or "{}")
    except ValueError as error:
        raise _BadRequestError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise _BadRequestError("the body must be a JSON object")
    return body


class Controls:
    def __init__(self, simulator: Simulator, clock: Callable[[], float]) -> None:
        self._simulator, self._clock = simulator, clock

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/sim", _guarded(self.state)),
            web.post("/sim/head", _guarded(self.head)),
            web.get("/sim/faults", _guarded(self.faults)),
            web.post("/sim/faults", _guarded(self.faults)),
            web.post("/sim/maintenance", _guarded(self.maintenance)),
            web.post("/sim/keys", _guarded(self.keys)),
            web.post("/sim/manifest", _guarded(self.manifest)),
            web.get("/truth/raids", _guarded(self.raids)),
            web.get("/truth/players", _guarded(self.players)),
            web.get("/truth/summary", _guarded(self.summary)),
            web.get("/truth/requests", _guarded(self.requests)),
        ]

    async def state(self, _request: web.Request) -> web.StreamResponse:
        simulator = self._simulator
        world = simulator.config.world
        return web.json_response(
            {
                "head": simulator.publication.head,
                "held": simulator.publication.held is not None,
                "first_id": world.first_id,
                "epoch": world.epoch,
                "rate": world.rate,
                "seed": world.seed,
                "players": world.players,
                "replayed": sorted(simulator.replayed),
                "now": self._clock(),
                "disabled": sorted(simulator.disabled()),
                "manifest": simulator.manifest.version,
            }
        )

    async def head(self, request: web.Request) -> web.StreamResponse:
        """Body {"head": id} holds it, {"advance": ids} moves it on, {"head": null} frees it."""
        body = await _object(request)
        publication = self._simulator.publication
        if "advance" in body:
            body["head"] = publication.head + _integer(body["advance"], "advance")
        if "head" not in body:
            raise _BadRequestError("the body must have head or advance")
        try:
            if body["head"] is None:
                publication.release()
            else:
                publication.hold(_integer(body["head"], "head"))
        except ValueError as error:
            raise _BadRequestError(str(error)) from None
        return await self.state(request)

    async def faults(self, request: web.Request) -> web.StreamResponse:
        """GET tells the faults; a POSTed object changes those it names, for all ids at once."""
        fates = self._simulator.fates
        if request.method == "POST":
            changed = msgspec.structs.asdict(fates.faults) | await _object(request)
            try:
                fates.faults = msgspec.convert(changed, Faults)
            except msgspec.ValidationError as error:
                raise _BadRequestError(str(error)) from None
        return web.json_response(msgspec.structs.asdict(fates.faults))

    async def maintenance(self, request: web.Request) -> web.StreamResponse:
        """Body {"on": bool, "systems": [names]}: without systems all of them."""
        body = await _object(request)
        systems = body.get("systems", list(SYSTEMS))
        known = isinstance(systems, list) and all(name in SYSTEMS for name in systems)
        if not isinstance(body.get("on"), bool) or not known:
            raise _BadRequestError(
                f"on must be true or false, systems some of {', '.join(SYSTEMS)}"
            )
        off = self._simulator.switched_off
        self._simulator.switched_off = off | set(systems) if body["on"] else off - set(systems)
        return await self.state(request)

    async def keys(self, request: web.Request) -> web.StreamResponse:
        """Body {"keys": [text]}: only these API keys are good from now on, none means any."""
        keys = (await _object(request)).get("keys")
        if not isinstance(keys, list) or not all(isinstance(key, str) and key for key in keys):
            raise _BadRequestError("keys must be a list of texts")
        self._simulator.keys = frozenset(keys)
        return await self.state(request)

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """Publishes a new version of the manifest, with the same records."""
        self._simulator.manifest.revision += 1
        return await self.state(request)

    async def raids(self, request: web.Request) -> web.StreamResponse:
        first, last = self._range(request)
        return await _lines(request, self._simulator.truth.raids(first, last))

    async def players(self, request: web.Request) -> web.StreamResponse:
        return await _lines(request, self._simulator.truth.players(self._range(request)[1]))

    async def summary(self, request: web.Request) -> web.StreamResponse:
        first, last = self._range(request)
        return web.json_response(
            await asyncio.to_thread(self._simulator.truth.summary, first, last)
        )

    async def requests(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(dict(self._simulator.addresses))

    def _range(self, request: web.Request) -> tuple[int, int]:
        """From and to, both inclusive: everything by default, replayed ids included."""
        return _number(request, "from", 0), _number(request, "to", 1 << 63)


def _integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _BadRequestError(f"{name} must be a whole number")
    return value


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except _BadRequestError as error:
            return web.json_response({"error": str(error)}, status=400)

    return guarded


async def _lines(request: web.Request, items: Iterator[dict[str, Any]]) -> web.StreamResponse:
    """One JSON object a line; the work is done in a thread, so that the platform goes on."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)

    def chunk() -> bytes:
        return b"".join(msgspec.json.encode(item) + b"\n" for item in islice(items, _CHUNK))

    with suppress(ConnectionResetError):  # whoever has read enough may leave
        while lines := await asyncio.to_thread(chunk):
            await response.write(lines)
        await response.write_eof()
    return response

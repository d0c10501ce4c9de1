"""What tests and people ask beside the platform: ground truth below /truth, controls below /sim."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec
from aiohttp import web

from simulator import answers
from simulator.endpoints import SYSTEMS
from simulator.faults import Faults, Sanction
from simulator.service import Simulator, fingerprint

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
            web.get("/sim/keys", _guarded(self.keys)),
            web.post("/sim/keys", _guarded(self.keys)),
            web.get("/sim/addresses", _guarded(self.addresses)),
            web.post("/sim/addresses", _guarded(self.addresses)),
            web.post("/sim/maintenance", _guarded(self.maintenance)),
            web.post("/sim/manifest", _guarded(self.manifest)),
            web.get("/truth/raids", _guarded(self.raids)),
            web.get("/truth/players", _guarded(self.players)),
            web.get("/truth/summary", _guarded(self.summary)),
            web.get("/truth/requests", _guarded(self.requests)),
            web.get("/truth/budgets", _guarded(self.budgets)),
            web.get("/truth/keys", _guarded(self.key_use)),
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

    async def keys(self, request: web.Request) -> web.StreamResponse:
        """Body {"key": text, "code": 2101} refuses the key from now on, without a code no more."""
        sanctions = self._simulator.key_sanctions
        if request.method == "POST":
            await _sanction(request, "key", sanctions)
        return _json({fingerprint(key): sanction for key, sanction in sanctions.items()})

    async def addresses(self, request: web.Request) -> web.StreamResponse:
        """Body {"address": text, "code": 51} or {"address": text, "page": 403}: the same."""
        sanctions = self._simulator.address_sanctions
        if request.method == "POST":
            await _sanction(request, "address", sanctions)
        return _json(sanctions)

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

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """Publishes another manifest: the next one, or with {"revision": n} that one.

        {"flaws": [names]} are its defects, {"hidden": n} so many addresses of its file are asked
        too early, {"unsettled": true} lets every second answer name the one before.
        """
        body = await _object(request)
        manifest = self._simulator.manifest
        hidden = _integer(body.get("hidden", 0), "hidden")
        flaws = body.get("flaws", [])
        if not isinstance(flaws, list) or not all(isinstance(flaw, str) for flaw in flaws):
            raise _BadRequestError("flaws must be a list of names")
        if not isinstance(body.get("unsettled", False), bool):
            raise _BadRequestError("unsettled must be true or false")
        revision = _integer(body.get("revision", manifest.revision + 1), "revision")
        try:
            manifest.publish(revision, flaws)
        except ValueError as error:
            raise _BadRequestError(str(error)) from None
        manifest.hidden, manifest.is_unsettled = hidden, body.get("unsettled", False)
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

    async def budgets(self, _request: web.Request) -> web.StreamResponse:
        """Address -> "report" and "other" -> requests, those beyond the limit, refusals by code."""
        found: dict[str, dict[str, Any]] = {}
        for (address, is_report), tally in sorted(self._simulator.tallies.items()):
            found.setdefault(address, {})["report" if is_report else "other"] = tally
        return _json(found)

    async def key_use(self, _request: web.Request) -> web.StreamResponse:
        """The same for each key, by its fingerprint."""
        return _json(self._simulator.key_tallies)

    def _range(self, request: web.Request) -> tuple[int, int]:
        """From and to, both inclusive: everything by default, replayed ids included."""
        return _number(request, "from", 0), _number(request, "to", 1 << 63)


def _integer(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _BadRequestError(f"{name} must be a whole number")
    return value


def _json(found: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(found), content_type="application/json")


async def _sanction(request: web.Request, name: str, sanctions: dict[str, Sanction]) -> None:
    body = await _object(request)
    who = body.pop(name, None)
    if not isinstance(who, str) or not who:
        raise _BadRequestError(f"the body must have {name}")
    try:
        sanction = msgspec.convert(body, Sanction)
    except msgspec.ValidationError as error:
        raise _BadRequestError(str(error)) from None
    if sanction.code is not None and sanction.code not in answers.CODES:
        raise _BadRequestError(f"code must be one of {sorted(answers.CODES)}")
    if sanction.page is not None and sanction.page not in answers.PAGES:
        raise _BadRequestError(f"page must be one of {sorted(answers.PAGES)}")
    if sanction.code is None and sanction.page is None:
        sanctions.pop(who, None)
    else:
        sanctions[who] = sanction


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

"""All routes of one port."""

import asyncio
from collections.abc import Callable
from random import Random

from aiohttp import web
from prometheus_client import generate_latest

from simulator import answers
from simulator.controls import Controls
from simulator.manifest import HALF_AT_EDGE, PAGE
from simulator.service import Config, Simulator, respond


def build_app(config: Config, clock: Callable[[], float], rng: Random) -> web.Application:
    """A simulator with all its routes. Raises DefinitionError and ReplayError."""
    simulator = Simulator(config, clock, rng)

    async def metrics(_request: web.Request) -> web.Response:
        body = generate_latest(simulator.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "head": simulator.publication.head})

    async def content(request: web.Request) -> web.StreamResponse:
        manifest = simulator.manifest
        revision = manifest.revision_at(request.path, request.query_string)
        if revision is None:
            return respond(request, answers.page(404))
        if PAGE in manifest.flaws(revision):
            return respond(request, answers.page(200))
        body = await asyncio.to_thread(manifest.content, revision)
        if HALF_AT_EDGE in manifest.flaws(revision) and not request.query_string:
            body = body[: len(body) // 2]
        return web.Response(body=body, headers={"Content-Type": "application/octet-stream"})

    app = web.Application()
    app.add_routes(
        [
            web.get("/Platform/{path:.*}", simulator.platform),
            web.get("/common/{path:.*}", content),
            *Controls(simulator, clock).routes(),
            web.get("/metrics", metrics),
            web.get("/healthz", healthz),
        ]
    )
    return app

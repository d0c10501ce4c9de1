"""Atlas as a process: puts its parts together, waits for the services, ends on SIGTERM."""

import asyncio
import logging
import os
import random
import secrets
import signal
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime

import aiohttp
import uvloop

from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.monitoring import health, logs
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import ledger
from raidhub_dagster.storage.missed import Backoff
from streaming.atlas.crawler import Crawler, Options, load_hashes
from streaming.atlas.database import Database
from streaming.atlas.fetcher import Fetcher, open_session
from streaming.atlas.flags import Flags
from streaming.atlas.monitor import Monitor
from streaming.atlas.plan import Plan
from streaming.atlas.publisher import Publisher
from streaming.atlas.start import ask_simulator, first_id

log = logging.getLogger(__name__)


# A process that a supervisor starts again and again says so every few minutes, not every second.
_FATAL_EVERY_S = 60.0


def run(settings: Settings, flags: Flags, options: Options) -> None:
    """Crawls until SIGTERM or SIGINT, or until `options.until` is done.

    Raises ConfigurationError for what only a person can mend.
    """
    logs.configure(settings.log_level, "atlas")
    settings.api_key  # noqa: B018  a missing key is told before anything starts
    if flags.target is not None and flags.target >= settings.crawl_ceiling:
        raise ConfigurationError(
            f"--target {flags.target} is not below CRAWL_CEILING {settings.crawl_ceiling}"
        )
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    with (
        Alerts(
            settings.atlas_webhook_url, footer=f"atlas {owner}", role_id=settings.alerts_role_id
        ) as alerts,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            runner.run(_run(settings, flags, options, owner, alerts))
        except Exception as error:
            first = _first(error)
            _tell_fatal(alerts, first)
            if isinstance(first, ConfigurationError):
                raise first from None
            raise


def _tell_fatal(alerts: Alerts, error: BaseException) -> None:
    """A person is needed, or at least somebody who starts the process again."""
    alerts.send(
        Alert(
            "atlas_fatal",
            "Fatal error in Atlas",
            Colour.DARK_RED,
            {"Error": f"{type(error).__name__}: {error}"},
            every_s=_FATAL_EVERY_S,
            mentions=True,
        )
    )


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _run(
    settings: Settings, flags: Flags, options: Options, owner: str, alerts: Alerts
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    database = Database(settings, f"atlas {owner}")
    publisher = Publisher(settings, f"atlas {owner}")
    crawler: Crawler | None = None
    checks = {
        "postgres": lambda: database.problem,
        "rabbitmq": lambda: publisher.problem,
        "crawl": lambda: "waits for the services" if crawler is None else crawler.problem(),
    }
    publishing = asyncio.create_task(publisher.run())
    publishing.add_done_callback(lambda _: stopping.set())  # it has no end but cancellation
    try:
        with health.serve(
            settings.atlas_metrics_port,
            checks,
            loops={"loop": health.turns(loop)},
            variable="ATLAS_METRICS_PORT",
            host=settings.metrics_host,
        ):
            async with open_session(flags.bounds.most) as session:
                begun = asyncio.create_task(_begin(settings, flags, database, session))
                stopped = asyncio.create_task(stopping.wait())
                await asyncio.wait((begun, stopped), return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                if stopping.is_set():
                    begun.cancel()
                    return
                position, resolved, tracked_hashes = begun.result()
                alerts.send(
                    Alert(
                        "atlas_started",
                        "Starting up",
                        Colour.BLUE,
                        {"Instance Id": str(position), "Workers": flags.workers},
                    )
                )
                rng = random.Random()  # noqa: S311  only jitter
                plan = Plan(
                    workers=flags.workers,
                    bounds=flags.bounds,
                    resolved=resolved,
                    ceiling=settings.crawl_ceiling,
                    backoff=Backoff(rng, options.scale),
                    rng=rng,
                    clock=time.monotonic,
                    now=_now,
                    scale=options.scale,
                    step=flags.step,
                )
                crawler = Crawler(
                    plan,
                    options,
                    stopping=stopping,
                    owner=owner,
                    database=database,
                    fetcher=Fetcher(
                        session,
                        settings,
                        tracked_hashes=tracked_hashes,
                        clock=time.monotonic,
                        now=_now,
                    ),
                    publisher=publisher,
                    monitor=Monitor(plan, alerts),
                    clock=time.monotonic,
                    now=_now,
                )
                await crawler.run()
    finally:
        publishing.cancel()
        with suppress(asyncio.CancelledError):
            await publishing
        await database.close()


async def _begin(
    settings: Settings, flags: Flags, database: Database, session: aiohttp.ClientSession
) -> tuple[int, int, dict[int, tuple[int, int]]]:
    """Makes sure that there is a ledger.

    Returns the next id to lease, the highest published id known and the tracked hashes.
    """
    ceiling = settings.crawl_ceiling
    tracked_hashes = await database.call(load_hashes)
    if not tracked_hashes:  # some raids are known by their hash only and would count as none
        raise ConfigurationError("PostgreSQL holds no definitions; run `raidhub seed`")
    position = await database.call(ledger.read_cursor)
    if position is None:
        newest = await database.call(lambda c: ledger.newest_instance(c, ceiling))
        start = first_id(target=flags.target, newest=newest, buffer=flags.buffer)
        if start is None:
            start = await ask_simulator(session, settings.pgcr_origin, asyncio.sleep)
        position = start
        await database.call(lambda c: ledger.create_cursor(c, start, ceiling))
        log.info("The crawl begins at %d", start, extra={"action": "crawl_started", "id": start})
    else:
        log.info(
            "The crawl goes on at %d%s",
            position,
            "" if flags.target is None else "; the ledger wins over --target",
            extra={"action": "crawl_started", "id": position},
        )
    resolved = await database.call(ledger.highest_resolved)
    return position, resolved, tracked_hashes


def _now() -> datetime:
    return datetime.now(UTC)

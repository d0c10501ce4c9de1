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

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.monitoring import health, logs
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import ledger
from raidhub_dagster.storage.missed import Backoff
from streaming.atlas.crawler import Crawler, Options, load_hashes
from streaming.atlas.database import Database
from streaming.atlas.fetcher import Fetcher, open_session
from streaming.atlas.plan import Plan
from streaming.atlas.publisher import Publisher
from streaming.atlas.start import ask_simulator, first_id

log = logging.getLogger(__name__)


def run(
    settings: Settings, options: Options, *, target: int | None, buffer: int, retry_scale: float
) -> None:
    """Crawls until SIGTERM or SIGINT, or until `options.until` is done.

    Raises ConfigurationError for what only a person can mend.
    """
    logs.configure(settings.log_level, "atlas")
    settings.api_key  # noqa: B018  a missing key is told before anything starts
    if target is not None and target >= settings.crawl_ceiling:
        raise ConfigurationError(
            f"--target {target} is not below CRAWL_CEILING {settings.crawl_ceiling}"
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(settings, options, target, buffer, retry_scale))
        except* ConfigurationError as group:
            raise _first(group) from None


def _first(group: BaseExceptionGroup[ConfigurationError]) -> ConfigurationError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ConfigurationError)  # noqa: S101  except* let nothing else in
    return error


async def _run(
    settings: Settings, options: Options, target: int | None, buffer: int, retry_scale: float
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
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
        with health.serve(settings.atlas_metrics_port, checks, variable="ATLAS_METRICS_PORT"):
            async with open_session(options.workers) as session:
                begun = asyncio.create_task(_begin(settings, database, session, target, buffer))
                stopped = asyncio.create_task(stopping.wait())
                await asyncio.wait((begun, stopped), return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                if stopping.is_set():
                    begun.cancel()
                    return
                resolved, tracked_hashes = begun.result()
                rng = random.Random()  # noqa: S311  only jitter
                crawler = Crawler(
                    Plan(
                        workers=options.workers,
                        resolved=resolved,
                        backoff=Backoff(rng, retry_scale),
                        rng=rng,
                        clock=time.monotonic,
                        now=_now,
                        scale=retry_scale,
                    ),
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
    settings: Settings,
    database: Database,
    session: aiohttp.ClientSession,
    target: int | None,
    buffer: int,
) -> tuple[int, dict[int, tuple[int, int]]]:
    """Makes sure that there is a ledger; the highest published id known and the tracked hashes."""
    ceiling = settings.crawl_ceiling
    tracked_hashes = await database.call(load_hashes)
    if not tracked_hashes:  # some raids are known by their hash only and would count as none
        raise ConfigurationError("PostgreSQL holds no definitions; run `raidhub seed`")
    position = await database.call(ledger.read_cursor)
    if position is None:
        newest = await database.call(lambda c: ledger.newest_instance(c, ceiling))
        start = first_id(target=target, newest=newest, buffer=buffer)
        if start is None:
            start = await ask_simulator(session, settings.pgcr_origin, asyncio.sleep)
        await database.call(lambda c: ledger.create_cursor(c, start, ceiling))
        log.info("The crawl begins at %d", start, extra={"action": "crawl_started", "id": start})
    else:
        log.info(
            "The crawl goes on at %d%s",
            position,
            "" if target is None else "; the ledger wins over --target",
            extra={"action": "crawl_started", "id": position},
        )
    resolved = await database.call(ledger.highest_resolved)
    return resolved, tracked_hashes


def _now() -> datetime:
    return datetime.now(UTC)

"""Zeus as a process: puts its parts together, says what it runs on, and ends on SIGTERM."""

import asyncio
import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from errno import EADDRNOTAVAIL
from functools import partial

import uvloop
from aiohttp import web

from raidhub_dagster.discord.alerts import Alerts
from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.monitoring import health, logs, metrics
from raidhub_dagster.settings import Settings
from streaming.zeus import addresses as source
from streaming.zeus.keys import Keys
from streaming.zeus.news import Teller
from streaming.zeus.proxy import DEADLINE_S, Proxy
from streaming.zeus.reach import Reach
from streaming.zeus.traffic import Host, Limit, News, Traffic
from streaming.zeus.upstream import Upstream

log = logging.getLogger(__name__)

# What runs ends by its own deadline; a body that still streams then is cut off.
DRAIN_S = 14.0
# Callers keep connections; one that is idle for so long belongs to nobody.
_IDLE_S = 75.0


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    port: int
    host: str
    interface: str = "enp1s0"
    v6_n: int = 16
    dev: bool = False


def run(settings: Settings, options: Options) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigurationError for what a person must mend."""
    logs.configure(settings.log_level, "zeus")
    settings.api_key  # noqa: B018  a missing key is told before anything starts
    chosen = _addresses(settings, options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, options, chosen))


def _addresses(settings: Settings, options: Options) -> list[str | None]:
    if settings.ipv6 is None:
        log.info(
            "No IPV6 is set: requests leave from the system's own address",
            extra={"action": "zeus_addresses", "count": 1},
        )
        return [None]
    found = source.sequence(settings.ipv6, 1 if options.dev else options.v6_n)
    source.check(found, options.interface, source.interfaces())
    log.info(
        "Requests leave from %d addresses, %s to %s",
        len(found),
        found[0],
        found[-1],
        extra={"action": "zeus_addresses", "count": len(found)},
    )
    return list(found)


async def _serve(settings: Settings, options: Options, chosen: list[str | None]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    alerts = Alerts(
        settings.atlas_webhook_url,
        footer=f"zeus {socket.gethostname()}",
        role_id=settings.alerts_role_id,
    )
    with alerts:
        async with opened(settings, chosen, Teller(alerts, len(chosen)).tell) as (proxy, condition):
            condition.export()
            checks = condition.checks()
            with health.serve(
                settings.zeus_metrics_port,
                checks,
                loops={"loop": health.turns(loop)},
                variable="ZEUS_METRICS_PORT",
                host=settings.metrics_host,
            ):
                await _listen(proxy, options, stopping)


@asynccontextmanager
async def opened(
    settings: Settings,
    chosen: Sequence[str | None],
    tell: Callable[[News], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    deadline_s: float = DEADLINE_S,
) -> AsyncIterator[tuple[Proxy, "Condition"]]:
    """A proxy that sends from the `chosen` addresses, and how it is."""
    limits = {
        Host.STATS: Limit(settings.zeus_stats_rate, settings.zeus_stats_burst),
        Host.WWW: Limit(settings.zeus_www_rate, settings.zeus_www_burst),
    }
    traffic = Traffic(len(chosen), limits, Keys(settings.upstream_keys), now=clock())
    reach = {host: Reach(host, clock) for host in Host}
    condition = Condition(traffic, reach, len(chosen), clock)
    async with Upstream(chosen, settings.bungie_user_agent) as upstream:
        proxy = Proxy(
            api_key=settings.api_key,
            bases={
                Host.STATS: settings.zeus_stats_url.rstrip("/"),
                Host.WWW: settings.zeus_www_url.rstrip("/"),
            },
            traffic=traffic,
            upstream=upstream,
            reach=reach,
            cache_s=settings.zeus_cache_s,
            tell=tell,
            health=condition.report,
            clock=clock,
            deadline_s=deadline_s,
        )
        try:
            yield proxy, condition
        finally:
            proxy.close()


class _Discreet(logging.Filter):
    """aiohttp quotes a request that it could not read, with its key: only the kind passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        if kind is not None:
            record.msg, record.args = "%s: %s", (record.getMessage(), kind.__name__)
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.action = "zeus_request_unreadable"
        return True


_server_log = logging.getLogger(f"{__name__}.server")
_server_log.addFilter(_Discreet())


def server_of(proxy: Proxy) -> web.Server:
    """Aiohttp's server without an application around it: routes would cost and are not needed."""
    return web.Server(
        proxy.handle,
        handler_cancellation=True,  # whoever leaves ends his request upstream too
        access_log=None,
        logger=_server_log,
        keepalive_timeout=_IDLE_S,
        lingering_time=1,  # so long a body that nobody asked for may come: then its 405 arrives
    )


async def _listen(proxy: Proxy, options: Options, stopping: asyncio.Event) -> None:
    runner = web.ServerRunner(server_of(proxy), shutdown_timeout=DRAIN_S)
    await runner.setup()
    try:
        try:
            # asyncio takes :: for IPv6 alone, and None for every address of both kinds.
            host = None if options.host == "::" else options.host
            await web.TCPSite(runner, host, options.port).start()
        except OSError as error:
            wrong = "ZEUS_BIND" if error.errno == EADDRNOTAVAIL else "ZEUS_PORT"
            raise ConfigurationError(
                f"cannot listen on {options.host}, port {options.port}:"
                f" {error.strerror or error}; set another {wrong}"
            ) from None
        # What is here now stays: the collector need not look at it again and again, which would
        # hold up whatever is on its way for some milliseconds each time.
        gc.collect()
        gc.freeze()
        log.info(
            "Zeus listens on %s, port %d",
            options.host,
            options.port,
            extra={"action": "zeus_started"},
        )
        await stopping.wait()
        log.info("Zeus lets running requests end", extra={"action": "zeus_draining"})
    finally:
        await runner.cleanup()


class Condition:
    """How zeus is, for probes and Prometheus; asked from other threads, it only reads."""

    def __init__(
        self,
        traffic: Traffic,
        reach: Mapping[Host, Reach],
        addresses: int,
        clock: Callable[[], float],
    ) -> None:
        self._traffic = traffic
        self._reach = reach
        self._count = addresses
        self._clock = clock

    def export(self) -> None:
        """The gauges are computed when they are read: a pause ends without anybody's doing."""
        for number in range(self._count):
            metrics.ZEUS_ADDRESS_PAUSED.labels(number).set_function(
                partial(self._is_silent, number)
            )
        for number in range(len(self._traffic.keys)):
            metrics.ZEUS_KEY_QUARANTINED.labels(number).set_function(
                partial(self._traffic.keys.is_refused, number)
            )

    def checks(self) -> dict[str, health.Check]:
        """None while something can leave; a paused address among others is no failure."""
        return {
            "addresses": self._addresses_problem,
            "keys": self._keys_problem,
            **{f"{host}_host": partial(self._host_problem, host) for host in Host},
        }

    def report(self) -> tuple[int, Mapping[str, object]]:
        """Status and body of /healthz: the checks, and what is paused or in quarantine."""
        now = self._clock()
        results = {name: check() or "ok" for name, check in self.checks().items()}
        well = all(result == "ok" for result in results.values())
        return 200 if well else 503, {
            "status": "ok" if well else "failing",
            "checks": results,
            "addresses": self._count,
            "paused_addresses_s": {
                str(number): round(left, 1) for number, left in self._traffic.pauses(now).items()
            },
            "back_off_s": {
                host.value: round(left, 1)
                for host in Host
                if (left := self._traffic.back_off_s(host, now))
            },
            "keys": len(self._traffic.keys),
            "quarantined_keys": [
                number
                for number in range(len(self._traffic.keys))
                if self._traffic.keys.is_refused(number)
            ],
        }

    def _is_silent(self, number: int) -> bool:
        return self._traffic.is_silent(number, self._clock())

    def _addresses_problem(self) -> str | None:
        paused = self._traffic.pauses(self._clock())
        return f"all {self._count} addresses are paused" if len(paused) == self._count else None

    def _keys_problem(self) -> str | None:
        keys = self._traffic.keys
        return None if keys.healthy else f"Bungie refuses all {len(keys)} keys"

    def _host_problem(self, host: Host) -> str | None:
        left = self._traffic.back_off_s(host, self._clock())
        return f"backs off for {left:.0f} s more" if left else self._reach[host].problem

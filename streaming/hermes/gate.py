"""Which of Bungie's systems are on, as this process knows it, and the loop that keeps asking.

Three sources, the newest wins: our own poll of Bungie's settings, an answer that a worker got, and
what other processes saw (`streaming.api_state`). Source: docs/domain/queues.md, "Maintenance".
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import Endpoints
from raidhub_dagster.bungie.systems import POLL_S, off, read_systems
from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from raidhub_dagster.errors import RaidHubError
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import api_state
from raidhub_dagster.storage.postgres import connected
from streaming.hermes.loop import Loop, Step
from streaming.hermes.threads import Threads

log = logging.getLogger(__name__)

_EXCHANGE_S = 5.0  # how late another process hears that a worker met maintenance
_RETRY_S = 15.0  # after a poll that failed, or a worker that met maintenance
_FRESH_S = 2 * POLL_S  # an older state of the table opens nothing
_SILENT_S = 300.0  # without a successful poll, before people are told


class Gate:
    """Safe for all threads. Nothing is on before somebody saw it so."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._state: dict[str, bool] = {}
        self._seen_at: dict[str, float] = {}
        self._untold: list[tuple[dict[str, bool], float]] = []

    def observe(self, state: Mapping[str, bool], at: float) -> None:
        """What was seen at `at` of the gate's clock; of two observations the newer one holds."""
        with self._lock:
            for name, enabled in state.items():
                if at <= self._seen_at.get(name, float("-inf")):
                    continue
                self._seen_at[name] = at
                if self._state.get(name) is not enabled:
                    log.info(
                        "Bungie's %s is %s",
                        name,
                        "on" if enabled else "off",
                        extra={"action": "api_system_changed", "system": name, "enabled": enabled},
                    )
                self._state[name] = enabled
                metrics.API_SYSTEM_ENABLED.labels(name).set(enabled)

    def close(self, names: Iterable[str]) -> None:
        """A worker was answered that these are off: known before any poll can tell."""
        closed_at = self._clock()
        state = dict.fromkeys(names, False)
        self.observe(state, closed_at)
        with self._lock:
            self._untold.append((state, closed_at))

    def off(self, needed: Iterable[str]) -> list[str]:
        """Those of `needed` that are off or unknown."""
        with self._lock:
            return off(self._state, needed)

    def take_untold(self) -> list[tuple[dict[str, bool], float]]:
        """What workers saw since the last call, and when: other processes must hear of it."""
        with self._lock:
            untold, self._untold = self._untold, []
        return untold


class Poller:
    """Asks Bungie once a minute and shares what is known with the other processes.

    A poll that fails changes nothing: the last state holds, and people hear of it after 5 minutes.
    """

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        alerts: Alerts,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._alerts = alerts
        self._clock = clock  # the gate's
        self._endpoints = Endpoints(settings.www_base, settings.pgcr_base)
        self._api_key = settings.api_key
        self._poll_at = float("-inf")
        self._answered_at = clock()

    def loop(self, threads: Threads) -> Loop:
        return Loop("api_systems", self._open_step, threads, idle_s=_EXCHANGE_S)

    @contextmanager
    def _open_step(self) -> Iterator[Step]:
        with (
            connected(self._settings, "hermes-gate") as connection,
            BungieClient(
                self._endpoints, self._api_key, self._settings.bungie_user_agent, attempts=1
            ) as client,
        ):
            yield partial(self.step, connection, client)

    def step(self, connection: Connection, client: BungieClient) -> bool:
        """Hears what other processes saw, asks Bungie if it is time, and tells what is new."""
        now = self._clock()
        for name, observed in api_state.read(connection).items():
            if observed.age_s <= _FRESH_S:
                self._gate.observe({name: observed.enabled}, now - observed.age_s)
        untold = self._gate.take_untold()
        if untold:
            # The answer did not say which system is off: Bungie does, and the others open again.
            self._poll_at = min(self._poll_at, now + _RETRY_S)
        if now >= self._poll_at:
            state = self._poll(client)
            self._poll_at = now + (POLL_S if state else _RETRY_S)
            untold.append((state, now))
        for state, seen_at in untold:
            api_state.record(connection, state, age_s=max(0.0, self._clock() - seen_at))
        return False

    def _poll(self, client: BungieClient) -> dict[str, bool]:
        """What Bungie says; nothing when it does not answer."""
        # Dated by the question: an answer that was on its way when a worker met maintenance is the
        # older one.
        asked_at = self._clock()
        try:
            state = read_systems(client.get(self._endpoints.settings_url()))
        except RaidHubError as error:
            self._tell_failure(error)
            return {}
        self._gate.observe(state, asked_at)
        self._answered_at = asked_at
        return state

    def _tell_failure(self, error: RaidHubError) -> None:
        log.warning(
            "Bungie's settings cannot be read: %s", error, extra={"action": "api_poll_failed"}
        )
        silent_s = self._clock() - self._answered_at
        if silent_s >= _SILENT_S:
            self._alerts.send(
                Alert(
                    "api_state_unknown",
                    "Bungie's settings cannot be read",
                    Colour.ORANGE,
                    {"For minutes": int(silent_s // 60), "Error": str(error)},
                    every_s=3600,
                )
            )

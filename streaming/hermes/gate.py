"""Which of Bungie's systems are on, as this process knows it, and the loop that keeps asking.

Two sources, the newest wins: our own poll of Bungie's settings and what other processes saw
(`streaming.api_state`). A worker that met maintenance closes its topic until one of them is newer.
Source: docs/domain/queues.md, "Maintenance".
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

_EXCHANGE_S = 5.0  # how late we hear what another process saw
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
        self._refused_at: dict[frozenset[str], float] = {}
        self._is_doubted = False

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

    def close(self, needed: Iterable[str]) -> None:
        """A worker of a topic with these needs was answered that something is off.

        The answer does not say what: so only topics with the same needs close, until each of their
        systems was seen on since.
        """
        with self._lock:
            self._refused_at[frozenset(needed)] = self._clock()
            self._is_doubted = True

    def off(self, needed: Iterable[str]) -> list[str]:
        """Those of `needed` that are off, unknown or in doubt."""
        with self._lock:
            needed = list(needed)
            refused_at = self._refused_at.get(frozenset(needed), float("-inf"))
            seen = {n: on and self._seen_at[n] > refused_at for n, on in self._state.items()}
            return off(seen, needed)

    def take_doubt(self) -> bool:
        """True when a worker met maintenance since the last call: Bungie should be asked."""
        with self._lock:
            is_doubted, self._is_doubted = self._is_doubted, False
            return is_doubted


class Poller:
    """Asks Bungie once a minute and tells the other processes what it said.

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
        """Hears what other processes saw, asks Bungie if it is time, and tells what it said."""
        now = self._clock()
        for name, observed in api_state.read(connection).items():
            if observed.age_s <= _FRESH_S:
                self._gate.observe({name: observed.enabled}, now - observed.age_s)
        if self._gate.take_doubt():
            self._poll_at = min(self._poll_at, now + _RETRY_S)
        if now >= self._poll_at:
            state = self._poll(client)
            self._poll_at = now + (POLL_S if state else _RETRY_S)
            api_state.record(connection, state, age_s=max(0.0, self._clock() - now))
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

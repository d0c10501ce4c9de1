"""Stores, broker, API and Discord as Dagster resources: each names its run, settings read at use.

No SQL here, and nothing is opened at import or when definitions load. Tests pass `settings`.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from pydantic import Field, PrivateAttr

from raidhub_dagster.archives.source import Source, find_source
from raidhub_dagster.bungie.client import ATTEMPTS, BungieClient, doubling_s
from raidhub_dagster.discord.alerts import Alerts
from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, postgres

# For a statement in a tick of a sensor or schedule, which plans for 30 s and has three at most.
TICK_LIMIT_S = 10.0


class SettingsResource(dg.ConfigurableResource[None]):
    """What all share: where their settings come from and how a run is named to servers."""

    settings: dict[str, Any] = Field(
        default={},
        description="Settings by field name that win over the environment, never a secret: Dagster"
        " writes them down. Empty in production.",
    )
    _application: str = PrivateAttr(default="dagster")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Puts the run id into the name under which the server lists the connection."""
        if context.run:
            self._application = f"dagster {context.run.run_id}"

    def open_settings(self) -> Settings:
        """For calls of the domain that take a setting or open their own connection."""
        return self._load()

    def _load(self) -> Settings:
        return Settings(**self.settings) if self.settings else Settings.load()


class PostgresResource(SettingsResource):
    """PostgreSQL, the primary store."""

    @contextmanager
    def connection(self, *, limit_s: float | None = None) -> Iterator[Connection]:
        """A connection in UTC, closed at the end; with `limit_s` no statement takes longer.

        Raises psycopg2.OperationalError; a statement past its limit raises
        psycopg2.errors.QueryCanceled.
        """
        with postgres.connected(self._load(), self._application, limit_s=limit_s) as connection:
            yield connection

    @contextmanager
    def alone(self, work: str) -> Iterator[None]:
        """Inside, no other run or shell does `work`. Raises BusyError at once when one does.

        The queue lets runs of one job wait for each other, but `dagster job execute` has no queue.
        """
        with postgres.alone(self._load(), self._application, work):
            yield

    @contextmanager
    def work(self, name: str) -> Iterator[Connection]:
        """`connection`, while no other run or shell does the work of this name (`alone`)."""
        with self.alone(name), self.connection() as connection:
            yield connection

    @contextmanager
    def pool(self, size: int) -> Iterator[postgres.Pool]:
        """Connections for threads of one step, closed at the end."""
        pool = postgres.Pool(self._load(), self._application, size=size)
        try:
            yield pool
        finally:
            pool.close()


class ClickHouseResource(SettingsResource):
    """ClickHouse, the analytics store: a server or the embedded engine, both over HTTP."""

    @contextmanager
    def client(self, *, timeout_s: int = 300) -> Iterator[Client]:
        """A client, closed at the end; no answer is waited for longer than `timeout_s`.

        Raises TransientError, naming the address, when the server is away or goes away inside.
        """
        settings = self._load()
        try:
            connected = clickhouse.connect_checked(settings, self._application, timeout_s=timeout_s)
            with closing(connected) as client:
                yield client
        except OperationalError as error:
            address = f"{settings.clickhouse_host}:{settings.clickhouse_http_port}"
            reason = str(error).strip()
            raise TransientError(f"ClickHouse at {address} is away: {reason}") from error


class ArchiveResource(SettingsResource):
    """The historical archives that the setting ARCHIVE_SOURCE names."""

    def source(self) -> Source:
        """Their folder or web server. Raises ConfigurationError for a setting that names none."""
        settings = self._load()
        return find_source(settings.archive_source, settings.archive_index)

    @property
    def is_set(self) -> bool:
        return bool(self._load().archive_source)


class BungieResource(SettingsResource):
    """Bungie's API, through zeus where there is one. Every step that uses it has pool "bungie"."""

    def client(
        self, *, attempts: int = ATTEMPTS, pause_s: Callable[[int], float] = doubling_s
    ) -> BungieClient:
        """A client of one thread; the caller closes it. Raises ConfigurationError without a key."""
        return BungieClient.from_settings(self._load(), attempts=attempts, pause_s=pause_s)

    def manifest_folder(self) -> Path:
        """Where the game's manifests lie on this machine."""
        return self._load().manifest_folder


class BrokerResource(SettingsResource):
    """RabbitMQ: publishing with confirms. What the queues carry: docs/domain/queues.md."""

    @contextmanager
    def publisher(self) -> Iterator[Publisher]:
        """A publisher, closed at the end; it connects at the first message."""
        with Publisher(self._load(), self._application) as publisher:
            yield publisher


class DiscordResource(SettingsResource):
    """Alerts and summaries to people; without a webhook they are lines of the log."""

    @contextmanager
    def alerts(self, webhook: str = "atlas") -> Iterator[Alerts]:
        """A sender to the address in `<WEBHOOK>_WEBHOOK_URL`; its end waits for what was sent."""
        settings = self._load()
        address = getattr(settings, f"{webhook}_webhook_url")
        with Alerts(address, footer="dagster", role_id=settings.alerts_role_id) as alerts:
            yield alerts

    def run_link(self, run_id: str) -> str:
        """Where people see the run."""
        return f"{self._load().ui_base}/runs/{run_id}"

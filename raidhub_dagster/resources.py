"""The stores as Dagster resources: connections that name their run, from settings read at use.

No SQL here, and nothing is opened at import or when definitions load. Tests pass `settings`.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import dagster as dg
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from pydantic import Field, PrivateAttr

from raidhub_dagster.errors import TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, postgres


class StoreResource(dg.ConfigurableResource[None]):
    """What both stores share: where their settings come from and how a run is named to them."""

    settings: dict[str, Any] = Field(
        default={},
        description="Settings by field name that win over the environment; empty in production.",
    )
    _application: str = PrivateAttr(default="dagster")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Puts the run id into the name under which the server lists the connection."""
        if context.run:
            self._application = f"dagster {context.run.run_id}"

    def _load(self) -> Settings:
        return Settings(**self.settings) if self.settings else Settings.load()


class PostgresResource(StoreResource):
    """PostgreSQL, the primary store."""

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in UTC, closed at the end. Raises psycopg2.OperationalError."""
        with postgres.connected(self._load(), self._application) as connection:
            yield connection


class ClickHouseResource(StoreResource):
    """ClickHouse, the analytics store: a server or the embedded engine, both over HTTP."""

    @contextmanager
    def client(self, *, timeout_s: int = 300) -> Iterator[Client]:
        """A client, closed at the end; no answer is waited for longer than `timeout_s`.

        Raises TransientError, naming the address, when the server is away or goes away inside.
        """
        settings = self._load()
        try:
            connected = clickhouse.connect(settings, self._application, timeout_s=timeout_s)
            with closing(connected) as client:
                yield client
        except OperationalError as error:
            address = f"{settings.clickhouse_host}:{settings.clickhouse_http_port}"
            reason = str(error).strip()
            raise TransientError(f"ClickHouse at {address} is away: {reason}") from error

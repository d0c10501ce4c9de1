"""Connections to ClickHouse over HTTP: a server, or the embedded engine behind one protocol."""

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from raidhub_dagster.settings import Settings


def connect(
    settings: Settings, application_name: str, *, database: str | None = None, timeout_s: int = 300
) -> Client:
    """A client in UTC that keeps nested columns whole; the caller closes it.

    `flatten_nested=0` must hold for CREATE and INSERT alike, or the nested players become arrays
    of their own. Raises clickhouse_connect's OperationalError when nobody answers.
    """
    return clickhouse_connect.get_client(
        host=settings.clickhouse_host,
        port=settings.clickhouse_http_port,
        username=settings.clickhouse_user,
        password=settings.clickhouse_password.get_secret_value(),
        database=database or settings.clickhouse_db,
        client_name=application_name,
        settings={"flatten_nested": 0},
        autogenerate_session_id=False,  # sessions would serialise statements that need no order
        connect_timeout=10,
        send_receive_timeout=timeout_s,
    )

"""Where Dagster keeps its history: the storage that dagster.yaml names.

dagster.yaml stands in the root of the tree, where Dagster reads it for every command typed there.
With addresses in it, `dagster definitions validate` in a fresh clone would ask for a server. So
the address comes from our settings, as everywhere else.
"""

import getpass
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from dagster import DagsterInstance, StringSource
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_conn_string
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect


class InstanceStorage(DagsterPostgresStorage):
    """PostgreSQL at POSTGRES_HOST; `scheme` and `database` are those of dagster.yaml.

    A deployment has a DAGSTER_HOME and fails without its database. A command typed without one,
    and without a server that answers, keeps its history in RAIDHUB_HOME/offline instead.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"scheme": StringSource, "database": StringSource}

    @classmethod
    def from_config_value(  # type: ignore[override]  # Dagster's own classes narrow it, too
        cls,
        inst_data: ConfigurableClassData | None,  # noqa: ARG003  holds our config, not PostgreSQL's
        config_value: dict[str, str],
    ) -> DagsterStorage:
        settings = Settings.load().of_history
        database = config_value["database"]
        if not os.environ.get("DAGSTER_HOME") and not _answers(settings, database):
            return DagsterSqliteStorage.from_local(str(settings.raidhub_home.resolve() / "offline"))
        password = settings.postgres_password
        return DagsterPostgresStorage(
            get_conn_string(
                username=settings.postgres_user or getpass.getuser(),
                password=password.get_secret_value() if password else "",
                hostname=settings.postgres_host,
                port=str(settings.postgres_port),
                db_name=database,
                scheme=config_value["scheme"],
            )
        )


def _answers(settings: Settings, database: str) -> bool:
    try:
        connect(settings, "dagster", database=database).close()
    except psycopg2.OperationalError:
        return False
    return True


@contextmanager
def connected_to_history(instance: DagsterInstance) -> Iterator[Connection]:
    """A connection to the database of the instance's event log, in UTC, closed at the end.

    Raises PermanentError when the history is not in PostgreSQL (a command in a fresh clone).
    """
    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        raise PermanentError(f"the history is in {type(storage).__name__}, not in PostgreSQL")
    # libpq knows no driver in the scheme.
    address = re.sub(r"^postgresql\+\w+:", "postgresql:", storage.postgres_url)
    connection = psycopg2.connect(
        address, application_name="dagster-prune", connect_timeout=10, options="-c timezone=UTC"
    )
    try:
        yield connection
    finally:
        connection.close()

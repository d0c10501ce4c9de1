"""Where Dagster keeps its history: the storage that dagster.yaml names.

dagster.yaml stands in the root of the tree, where Dagster reads it for every command typed there.
With addresses in it, `dagster definitions validate` in a fresh clone would ask for a server. So
the address comes from our settings, as everywhere else.
"""

import getpass
import os
from typing import Any

import psycopg2
from dagster import StringSource
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import get_conn_string

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
        settings = Settings.load()
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

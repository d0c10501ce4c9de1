"""What Dagster writes down of a run, and hands to its processes, holds no secret."""

import os
import pickle
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._serdes import serialize_value
from psycopg2 import sql

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect
from tests.conftest import make_settings
from tests.dagster.home import dagster_environment, run_job
from tests.support.secrets import CANARIES, leaked


@pytest.fixture
def environment(
    postgres: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A secret for every setting; only PostgreSQL's is right, and all others lead nowhere."""
    own = {name: value for name, value in CANARIES.items() if "POSTGRES_DAGSTER" not in name}
    own |= {"BUNGIE_URL_BASE": "http://127.0.0.1:9", "PGCR_URL_BASE": "http://127.0.0.1:9"}
    own |= {"CLICKHOUSE_HOST": "127.0.0.1", "CLICKHOUSE_HTTP_PORT": "9"}
    own |= dagster_environment(postgres, tmp_path / "home")
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **own}


def secrets(postgres: dict[str, Any]) -> dict[str, str]:
    return {**CANARIES, "POSTGRES_PASSWORD": postgres["postgres_password"]}


def history(settings: Settings) -> str:
    """Every row of every table of Dagster's, as text."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    with closing(connect(settings, "pytest")) as connection, connection.cursor() as cursor:
        cursor.execute(tables)
        found = []
        for (table,) in cursor.fetchall():
            cursor.execute(
                sql.SQL("SELECT string_agg(t::text, ' ') FROM {} AS t").format(
                    sql.Identifier(table)
                )
            )
            found.append(str(cursor.fetchall()))
    return " ".join(found)


@pytest.mark.parametrize(
    ("job", "named"),
    [("clans_job", "RUN_FAILURE"), ("leaderboards_raid_job", "RUN_SUCCESS")],
    ids=["fails", "succeeds"],
)
def test_a_run_leaves_no_secret(
    environment: dict[str, str], postgres: dict[str, Any], job: str, named: str
) -> None:
    """Events are kept for months, and everybody who may look at a run reads them."""
    done = run_job(job, environment)
    written = history(make_settings(postgres))
    assert named in written + done.stderr
    assert job in written
    assert leaked(written + done.stdout + done.stderr, secrets(postgres)) == []


def test_what_is_handed_to_steps_has_no_secret(
    environment: dict[str, str], postgres: dict[str, Any]
) -> None:
    """The instance's reference travels as an argument: every user of the machine can list those."""
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        reference = instance.get_ref()
        handed = [serialize_value(reference), repr(reference), repr(pickle.dumps(reference))]
        assert leaked(" ".join(handed), secrets(postgres)) == []


def test_a_wrong_password_of_the_history_is_not_told(environment: dict[str, str]) -> None:
    wrong = environment | {"POSTGRES_PASSWORD": CANARIES["POSTGRES_PASSWORD"]}
    done = run_job("leaderboards_raid_job", wrong)
    assert done.returncode != 0
    assert "password authentication failed" in done.stderr
    assert leaked(done.stdout + done.stderr) == []

"""`raidhub migrate` and `raidhub seed` as they are typed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner

from raidhub_dagster.commands.schema import migrate, seed, when_up
from raidhub_dagster.errors import TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import free_port
from raidhub_dagster.storage.postgres import connect

SettingsFor = Callable[..., Settings]


@pytest.fixture
def environment(
    postgres: dict[str, Any],
    clickhouse: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stores' addresses as variables, in a folder without settings files."""
    for name, value in (postgres | clickhouse).items():
        monkeypatch.setenv(name.upper(), str(value))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("environment")
def test_migrate_tells_that_both_stores_are_current() -> None:
    result = CliRunner().invoke(migrate, catch_exceptions=False)
    assert result.stdout == "PostgreSQL: up to date\nClickHouse: up to date\n"


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("step", ["--pre", "--post"])
def test_a_step_tells_that_it_has_nothing_to_do(step: str) -> None:
    """It does not say "up to date": the other step may be due."""
    result = CliRunner().invoke(migrate, [step], catch_exceptions=False)
    assert result.stdout == "PostgreSQL: nothing to do\nClickHouse: nothing to do\n"


def test_both_steps_at_once_are_wrong_usage() -> None:
    """The last flag would win silently, and a rollout would begin with the drops."""
    assert CliRunner().invoke(migrate, ["--pre", "--post"]).exit_code == 2


@pytest.mark.usefixtures("environment")
def test_migrate_names_what_it_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_DB", "another")
    result = CliRunner().invoke(migrate, catch_exceptions=False)
    first = "PostgreSQL: applied 0001_pre_create_definitions"
    assert result.stdout.splitlines()[0] == first
    again = CliRunner().invoke(migrate, catch_exceptions=False)
    assert again.stdout.startswith("PostgreSQL: up to date\n")


@pytest.mark.usefixtures("environment")
def test_seed_tells_counts_and_keys_and_fills_clickhouse(
    postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    connection = connect(settings_for(postgres), "test")
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM definitions.activity_version WHERE activity_id IN (15, 16)")
        cursor.execute(
            "UPDATE definitions.class_definition SET name = 'Jäger' WHERE name = 'Hunter'"
        )
    connection.close()
    lines = CliRunner().invoke(seed, catch_exceptions=False).stdout.splitlines()
    assert "definitions.season: 0 inserted, 0 updated, 29 unchanged" in lines
    assert "definitions.class_definition: 0 inserted, 1 updated, 2 unchanged (671679327)" in lines
    assert "ClickHouse activity_version: 91 rows" in lines


@pytest.mark.usefixtures("environment")
def test_many_keys_are_cut_short(postgres: dict[str, Any], settings_for: SettingsFor) -> None:
    """The first load would print hundreds."""
    connection = connect(settings_for(postgres), "test")
    with connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM definitions.season WHERE id > 5")
    connection.close()
    lines = CliRunner().invoke(seed, catch_exceptions=False).stdout.splitlines()
    keys = "6, 7, 8, 9, 10, 11, 12, 13, 14, 15 and 14 more"
    assert f"definitions.season: 24 inserted, 0 updated, 5 unchanged ({keys})" in lines


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("POSTGRES_PORT", "PostgreSQL at 127.0.0.1:"),
        ("CLICKHOUSE_HTTP_PORT", "ClickHouse at 127.0.0.1:"),
    ],
)
@pytest.mark.parametrize("command", [migrate, seed])
def test_store_that_stays_down_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, named: str, command: Any
) -> None:
    monkeypatch.setenv(variable, str(free_port()))
    result = CliRunner().invoke(command, ["--wait", "0"])
    assert isinstance(result.exception, TransientError)
    assert str(result.exception).startswith(named)
    assert "\n" not in str(result.exception)


def test_work_begins_again_when_the_store_is_up(
    postgres: dict[str, Any], settings_for: SettingsFor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Services of one stack start together."""
    waits: list[float] = []
    port = free_port()

    def work() -> str:
        address = postgres if waits else postgres | {"postgres_port": port}
        connect(settings_for(address), "test").close()
        return "done"

    settings = settings_for(postgres, postgres_port=port)
    assert when_up(settings, work, wait_s=60, sleep=waits.append) == "done"
    assert len(waits) == 1
    assert f"waiting: PostgreSQL at 127.0.0.1:{port} does not answer" in capsys.readouterr().err


def test_other_errors_are_not_waited_for(settings_for: SettingsFor) -> None:
    """A wrong statement does not become right by itself."""

    def work() -> None:
        raise psycopg2.ProgrammingError("syntax")

    with pytest.raises(psycopg2.ProgrammingError):
        when_up(settings_for(), work, wait_s=60, sleep=lambda _: pytest.fail("waited"))

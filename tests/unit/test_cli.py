"""The command line: what a person sees when something is wrong, and what loading it costs."""

import subprocess
import sys

import click
import psycopg2
import pytest
from pika.exceptions import AMQPConnectionError
from psycopg2.errors import UndefinedTable

from raidhub_dagster import cli
from raidhub_dagster.errors import ConfigurationError, TransientError
from tests.support.typed import typed


def test_every_command_can_be_loaded_and_explains_itself() -> None:
    """The table names modules as text: a typo shows only when somebody calls the command."""
    context = click.Context(cli.raidhub)
    for name in cli.raidhub.list_commands(context):
        command = cli.raidhub.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help


def test_the_command_line_itself_loads_nothing_heavy() -> None:
    """Atlas lives for months with whatever its command line imported."""
    heavy = "{'dagster', 'pandas', 'psycopg2', 'chdb'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, raidhub_dagster.cli, streaming.cli; print({heavy})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


def test_wrong_usage_exits_2() -> None:
    assert typed("no-such-command").returncode == 2
    assert typed("up", "--no-such-option").returncode == 2


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("POSTGRES_HOST\nis odd"),
        TransientError("later"),
        psycopg2.OperationalError("connection refused\nis it running?"),
        AMQPConnectionError("gone"),
        ConnectionRefusedError("refused"),
        OSError(28, "No space left on device", "/backups/x"),
    ],
)
def test_a_failure_is_one_line_and_exit_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("fails")
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli.raidhub, "get_command", lambda _context, _name: fails)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["fails"])
    assert exit_.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("raidhub: ")
    assert text.count("\n") == 1


def test_a_database_without_our_schema_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("fails")
    def fails() -> None:
        raise UndefinedTable('relation "core.instance" does not exist\nLINE 1: SELECT')

    monkeypatch.setattr(cli.raidhub, "get_command", lambda _context, _name: fails)
    with pytest.raises(SystemExit):
        cli.main(["fails"])
    told = 'raidhub: relation "core.instance" does not exist: run `raidhub migrate` first\n'
    assert capsys.readouterr().err == told


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line would hide where it is."""

    @click.command("fails")
    def fails() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(cli.raidhub, "get_command", lambda _context, _name: fails)
    with pytest.raises(KeyError):
        cli.main(["fails"])

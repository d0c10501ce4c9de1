"""The command line `raidhub`: which command is where, and how errors reach a person.

Commands load their own code when they are called: `raidhub atlas` must not carry Dagster or pandas
through its life, and `raidhub --help` must not wait for them.
"""

import importlib
import sys
from typing import NoReturn

import click

from raidhub_dagster.errors import RaidHubError

COMMANDS = {
    "up": "raidhub_dagster.commands.stack",
    "down": "raidhub_dagster.commands.stack",
    "status": "raidhub_dagster.commands.stack",
    "logs": "raidhub_dagster.commands.stack",
    "env": "raidhub_dagster.commands.stack",
    "config": "raidhub_dagster.commands.config",
    "dev": "raidhub_dagster.commands.dev",
    "demo": "raidhub_dagster.commands.demo",
    "migrate": "raidhub_dagster.commands.schema",
    "seed": "raidhub_dagster.commands.schema",
    "ingest": "raidhub_dagster.commands.ingest",
    "verify": "raidhub_dagster.commands.verify",
    "backup": "raidhub_dagster.commands.backup",
    "restore": "raidhub_dagster.commands.backup",
    "reconcile": "raidhub_dagster.commands.reconcile",
    "queues": "raidhub_dagster.commands.queues",
    "health": "raidhub_dagster.commands.health",
    "bench": "raidhub_dagster.commands.bench",
    "zeus": "streaming.cli",
    "atlas": "streaming.cli",
    "hermes": "streaming.cli",
    "simulate": "simulator.cli",
}

# Errors of the drivers, by module and name: an outage is told in one line, and naming the classes
# themselves would load every driver for every command.
_OUTAGES = frozenset(
    {
        ("psycopg2", "OperationalError"),
        ("psycopg2", "InterfaceError"),
        ("clickhouse_connect", "OperationalError"),
        ("clickhouse_connect", "DatabaseError"),
        ("pika", "AMQPConnectionError"),
        ("requests", "ConnectionError"),
        ("requests", "Timeout"),
    }
)
_NOT_MIGRATED = frozenset({("psycopg2", "UndefinedTable"), ("psycopg2", "InvalidSchemaName")})

# What only the extras of pyproject.toml bring: an image of the stream has none of it.
_OPTIONAL = frozenset({"dagster", "dagster_graphql", "supervisor", "chdb", "watchfiles"})
_DOCS = "docs/deployment/docker.md"


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return [name for name, module in COMMANDS.items() if _is_installed(module)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[name]), name)
        return command


def _is_installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if _lacks(error) is None:
            raise
        return False
    return True


def _lacks(error: ModuleNotFoundError) -> str | None:
    """The package of an extra that is missing; None when the error is a bug."""
    package = (error.name or "").partition(".")[0]
    return package if package in _OPTIONAL else None


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def raidhub() -> None:
    """The data platform of a Destiny 2 raid tracker."""


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 failed (one line on stderr says why), 2 wrong usage."""
    try:
        raidhub.main(args=arguments, prog_name="raidhub")
    except RaidHubError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        package = _lacks(error)
        if package is None:
            raise
        _fail(f"this command needs {package}, which is not installed here: see {_DOCS}")
    except Exception as error:
        kinds = {(k.__module__.partition(".")[0], k.__name__) for k in type(error).__mro__}
        if kinds & _NOT_MIGRATED:
            _fail(f"{str(error).partition(chr(10))[0]}: run `raidhub migrate` first")
        if not kinds & _OUTAGES and not isinstance(error, OSError):  # of sockets and of files
            raise
        _fail(str(error) or type(error).__name__)


def _fail(message: str) -> NoReturn:
    click.echo(f"raidhub: {' '.join(message.split())}", err=True)
    sys.exit(1)

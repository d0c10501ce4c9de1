"""The command `raidhub`: finds the subcommand, and turns failures into one line and an exit code.

Each subcommand is loaded when it is called: `raidhub status` must not wait for Dagster or pandas.
Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import sys
from importlib import import_module

import click
import psycopg2
from clickhouse_connect.driver.exceptions import ClickHouseError
from pika.exceptions import AMQPError

from raidhub_dagster.errors import RaidHubError

_COMMANDS = {
    "up": "raidhub_dagster.commands.stack:up",
    "down": "raidhub_dagster.commands.stack:down",
    "status": "raidhub_dagster.commands.stack:status",
    "logs": "raidhub_dagster.commands.stack:logs",
    "env": "raidhub_dagster.commands.stack:env",
    "demo": "raidhub_dagster.commands.demo:demo",
    "migrate": "raidhub_dagster.commands.schema:migrate",
    "seed": "raidhub_dagster.commands.schema:seed",
    "ingest": "raidhub_dagster.commands.ingest:ingest",
    "verify": "raidhub_dagster.commands.verify:verify",
    "bench": "raidhub_dagster.commands.bench:bench",
    "atlas": "streaming.cli:atlas",
    "hermes": "streaming.cli:hermes",
    "simulate": "simulator.cli:simulate",
}


class _Lazy(click.Group):
    """A group that knows its commands by name and imports one when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_Lazy)
def raidhub() -> None:
    """The data platform of a Destiny 2 raid tracker."""


def main() -> None:
    """The entry point: like click's own, but no failure of the world outside shows a traceback."""
    try:
        raidhub()
    except (RaidHubError, psycopg2.OperationalError, ClickHouseError, AMQPError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        click.echo(f"raidhub: {reason}", err=True)
        sys.exit(1)

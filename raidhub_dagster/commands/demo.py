"""`raidhub demo`: the main job end to end on this machine, as a newcomer wants to see it.

It does nothing that the other commands and the Dagster UI cannot do: start the stack, watch the
crawl fill the store, launch a run for every group of assets, show the leaderboards, recount
everything.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import click
import pika

from raidhub_dagster.commands.stack import here
from raidhub_dagster.commands.tour import materialize
from raidhub_dagster.commands.verify import verify
from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging.topology import INSTANCE_STORE
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.lifecycle import Stack
from raidhub_dagster.stack.process import UnhealthyError, wait_until
from raidhub_dagster.storage.leaderboards import top
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.verify import sizes

_SHOWN = (
    "individual_global_leaderboard",
    "individual_raid_leaderboard",
    "team_activity_version_leaderboard",
)


@click.command()
@click.option(
    "--raids", default=500, show_default=True, type=click.IntRange(1), help="Wait for so many."
)
@click.pass_context
def demo(context: click.Context, raids: int) -> None:
    """Start everything, crawl, materialize every group, recount; the stack stays up."""
    stack = here()
    stack.up(click.echo, tied=False)
    settings = stack.environment.settings
    _wait_for_raids(settings, raids)
    with _crawl_at_rest(stack):
        click.echo("With the crawl at rest, a run for every group of assets:")
        materialize(stack, click.echo)
        with connected(settings, "raidhub demo") as connection:
            for view in _SHOWN:
                click.echo(f"\n{view}")
                _show(top(connection, view, 5))
        click.echo("\nRecounting everything:")
        context.invoke(verify)
    click.echo(f"\nDagster: {stack.address}\nThe stack stays up; stop it with: make down")


def _wait_for_raids(
    settings: Settings,
    raids: int,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Raises TransientError when five minutes pass without a new raid."""
    stored, changed_at, told_at = 0, clock(), 0.0
    with connected(settings, "raidhub demo") as connection:
        while stored < raids:
            now, before = clock(), stored
            stored = sizes(connection).instances
            if stored > before:
                changed_at = now
            elif now - changed_at > 300:
                raise TransientError(
                    f"no raid was stored for 5 minutes ({stored} so far); ask: raidhub status"
                )
            if now - told_at > 10:
                click.echo(f"{'crawl':18} {stored} of {raids} raids stored")
                told_at = now
            sleep(1)


@contextmanager
def _crawl_at_rest(stack: Stack) -> Iterator[None]:
    """Jobs get the machine; both stores, which `verify` compares, have the same raids."""
    supervisor = stack.supervisor
    supervisor.stop_process("atlas")
    try:
        wait_until(lambda: _ask_queue(stack.environment.settings), limit_s=120, pause_s=1)
        yield
    finally:
        supervisor.start_process("atlas")


def _ask_queue(settings: Settings) -> None:
    """Raises UnhealthyError while reports wait to be stored."""
    credentials = pika.PlainCredentials(
        settings.rabbitmq_user, settings.rabbitmq_password.get_secret_value()
    )
    address = pika.ConnectionParameters(
        settings.rabbitmq_host, settings.rabbitmq_port, credentials=credentials
    )
    with closing(pika.BlockingConnection(address)) as connection:
        queue = connection.channel().queue_declare(INSTANCE_STORE, durable=True, passive=True)
        waiting: int = queue.method.message_count
    if waiting:
        raise UnhealthyError(f"{waiting} reports are still to be stored")


def _show(rows: Sequence[Mapping[str, object]]) -> None:
    """A table as wide as its values."""
    if not rows:
        click.echo("  (nobody yet)")
        return
    lines = [list(rows[0]), *(["-" if v is None else str(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(f"  {'  '.join(cells)}".rstrip())

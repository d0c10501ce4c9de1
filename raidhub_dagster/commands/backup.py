"""`raidhub backup`, `restore`, `reconcile`: both stores into a folder, back, and made to fit.

The work is in `backup` and `storage.reconcile`; what each promises stands in
docs/operations/backup.md.
"""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click

from raidhub_dagster.backup.making import make
from raidhub_dagster.backup.restoring import restore_all
from raidhub_dagster.commands.stack import here
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.reconcile import Reopened, match_clickhouse, reopen

_jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Tables that pg_dump or pg_restore work on at once.",
)
_hours_option = click.option(
    "--hours",
    type=click.IntRange(0, 7 * 24),
    default=24,
    show_default=True,
    help="For how long a message may have waited in the broker: those sent since then go again.",
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_jobs_option
def backup(folder: Path, jobs: int) -> None:
    """Write both stores as they are now into FOLDER, while everything runs.

    FOLDER is empty or absent.
    """
    made = make(Settings.load(), folder, jobs=jobs, tell=click.echo)
    size = sum(file.bytes for file in made.files.values())
    click.echo(f"{folder}: {len(made.files)} files, {size / 2**20:.0f} MiB")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Drop what the databases and ClickHouse hold.")
@_jobs_option
@_hours_option
def restore(folder: Path, force: bool, jobs: int, hours: int) -> None:
    """Bring both stores back to the moment of the backup in FOLDER.

    The stack must be down: its stores are started for the time of the restore.
    """
    stack = here()
    with stack.stores(click.echo) as settings:
        _tell(restore_all(settings, folder, force=force, jobs=jobs, hours=hours, tell=click.echo))
    click.echo("restored; start the stack, then: raidhub verify")


@click.command()
@_hours_option
def reconcile(hours: int) -> None:
    """Ask again for what a lost broker carried, and make ClickHouse what PostgreSQL holds.

    For a PostgreSQL that was recovered by other means, and for a broker or a ClickHouse that lost
    its data. Harmless at any other time, and may be repeated.
    """
    settings = Settings.load()
    name = "raidhub reconcile"
    with (
        connected(settings, name) as connection,
        closing(clickhouse.connect(settings, name, timeout_s=3600)) as client,
    ):
        _tell(reopen(connection, hours=hours))
        now = datetime.now(UTC)
        for done in match_clickhouse(connection, client, now=now):
            click.echo(f"rebuilt {done.table} {done.day or ''}".rstrip())


def _tell(done: Reopened) -> None:
    click.echo(
        f"asked for again: {done.blocks} blocks, {done.missed} missed ids, {done.parked} parked"
        f" reports; sent again: {done.messages} messages"
    )

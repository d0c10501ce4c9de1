"""`raidhub backup` and `restore`: both stores into a folder, and back.

The work is in `backup`; what each promises stands in docs/operations/backup.md.
"""

from pathlib import Path

import click

from raidhub_dagster.backup.making import make
from raidhub_dagster.backup.restoring import restore_all
from raidhub_dagster.commands.reconcile import hours_option, tell_reopened
from raidhub_dagster.commands.stack import here
from raidhub_dagster.settings import Settings

_jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Tables that pg_dump or pg_restore work on at once.",
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
@hours_option
def restore(folder: Path, force: bool, jobs: int, hours: int) -> None:
    """Bring both stores back to the moment of the backup in FOLDER.

    The stack must be down: its stores are started for the time of the restore.
    """
    stack = here()
    with stack.stores(click.echo) as settings:
        tell_reopened(
            restore_all(settings, folder, force=force, jobs=jobs, hours=hours, tell=click.echo)
        )
    click.echo("restored; start the stack, then: raidhub verify")

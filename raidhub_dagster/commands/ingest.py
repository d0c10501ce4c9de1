"""`raidhub ingest`: files of reports into the store."""

import sys
from pathlib import Path

import click

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.ingest import Ingest
from raidhub_dagster.storage.postgres import connected


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def ingest(paths: tuple[Path, ...]) -> None:
    """Store the PGCRs in PATHS: files or folders of .json, .json.gz and .jsonl.zst.

    A file holds one report, with or without the API's envelope; a .jsonl.zst one report a line.
    What cannot go in is named on stderr, everything else goes in; exit 1 when anything was refused.
    """
    with connected(Settings.load(), "raidhub ingest") as connection:
        run = Ingest(connection, lambda place, why: click.echo(f"{place}: {why}", err=True))
        for path in paths:
            run.add(path)
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(run.counts.items()))
    click.echo(outcomes or "nothing found")
    if run.counts["refused"]:
        sys.exit(1)

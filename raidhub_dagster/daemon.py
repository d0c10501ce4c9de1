"""Dagster's daemon as `raidhub up` starts it: first it gives the pools their limits.

A limit is data in Dagster's database and not a line of dagster.yaml, so a new deployment has none
but the default. On a cluster `python -m raidhub_dagster.daemon prepare` makes that database, brings
its tables to this release and gives the limits, before anything of Dagster starts.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import dagster as dg
import yaml
from dagster._daemon.cli import main

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.migrations import create_database

# Steps at a time, over all runs, of what is scarce.
POOLS: Mapping[str, int] = {
    # Zeus keeps the API's limits whatever is asked; so many lets a short load pass a long crawl.
    "bungie": 3,
    # A refresh sorts in memory and reads whole tables: two at once take longer than one by one.
    "postgres_refresh": 1,
    # Partitions are replaced one at a time: the stream's own inserts go on beside.
    "clickhouse_insert": 1,
    # One reads a file as fast as a core can.
    "archives": 1,
}


def set_limits(instance: dg.DagsterInstance) -> dict[str, int]:
    """Gives each pool its limit, but for those to which somebody gave one; returns what was set."""
    storage = instance.event_log_storage
    given = {limit.name for limit in storage.get_pool_limits() if not limit.from_default}
    new = {name: limit for name, limit in POOLS.items() if name not in given}
    for name, limit in new.items():
        storage.set_concurrency_slots(name, limit)
    return new


@click.command()
@click.option(
    "--pool",
    "pools",
    type=(click.Choice(sorted(POOLS)), click.IntRange(min=1)),
    multiple=True,
    metavar="NAME LIMIT",
    help="Steps at a time of this pool, whatever it had before; can be given again.",
)
def prepare(pools: tuple[tuple[str, int], ...]) -> None:
    """Make Dagster's database ready for this release. Can be repeated, beside running processes."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise click.UsageError("DAGSTER_HOME is not set: whose database?")
    instance_yaml = yaml.safe_load((Path(home) / "dagster.yaml").read_text("utf-8"))
    database = instance_yaml["storage"]["custom"]["config"]["database"]
    if create_database(Settings.load(), database):
        click.echo(f"created database {database}")
    with dg.DagsterInstance.get() as instance:
        instance.upgrade(click.echo)
        limits = set_limits(instance)
        for name, limit in pools:
            instance.event_log_storage.set_concurrency_slots(name, limit)
    click.echo(f"pools set: {limits | dict(pools)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(sys.argv[2:], prog_name="prepare")
    with dg.DagsterInstance.get() as deployed:
        set_limits(deployed)
    main()

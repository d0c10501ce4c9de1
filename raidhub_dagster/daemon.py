"""Dagster's daemon as `raidhub up` starts it: first it gives the pools their limits.

A limit is data in Dagster's database and not a line of dagster.yaml, so a new deployment has none
but the default. On a cluster `python -m raidhub_dagster.daemon prepare` brings that database to
this release and gives the limits before anything of Dagster starts; `raidhub migrate` has made it.
"""

import os
import sys
from collections.abc import Mapping

import click
import dagster as dg
from dagster._daemon.cli import main

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
    """Bring Dagster's tables to this release, and give the pools their limits; repeatable."""
    if not os.environ.get("DAGSTER_HOME"):
        raise click.UsageError("DAGSTER_HOME is not set: whose database?")
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

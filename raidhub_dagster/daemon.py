"""Dagster's daemon as `raidhub up` starts it: first it makes ready what it finds in its database.

The database itself, the tables of this release, the limits of pools: a limit is data and not a line
of dagster.yaml, so a new deployment has none but the default. Containers run `python -m
raidhub_dagster.daemon --prepare-only` once before anything of Dagster's starts; other limits are
set by `dagster instance concurrency set NAME LIMIT`.
"""

import sys
from collections.abc import Mapping

import dagster as dg
from dagster._daemon.cli import main

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.migrations import DAGSTER_DATABASE, make_database

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


def prepare() -> None:
    """Safe to run again, and beside a webserver. Raises ConfigurationError, OperationalError."""
    make_database(Settings.load(), DAGSTER_DATABASE)
    with dg.DagsterInstance.get() as deployed:
        deployed.upgrade()
        set_limits(deployed)


if __name__ == "__main__":
    prepare()
    if "--prepare-only" not in sys.argv:
        main()

"""`raidhub migrate` and `raidhub seed`: both stores' schemas, and the definitions in them.

The work is in `storage`; here it waits for services that start beside it, and tells what changed.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import click
import psycopg2
from clickhouse_connect.driver.exceptions import DatabaseError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay
from tenacity.wait import wait_exponential

from raidhub_dagster.errors import TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse_lookups
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.migrations import migrate_postgres, prepare_history
from raidhub_dagster.storage.postgres import is_connection_lost
from raidhub_dagster.storage.seeds import SeedReport
from raidhub_dagster.storage.seeds import seed as load_seeds

Result = TypeVar("Result")

_KEYS_SHOWN = 10

_wait_option = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    help="Seconds to wait for a store that is down.",
)


@click.command()
@_wait_option
def migrate(wait_s: float) -> None:
    """Bring PostgreSQL, then ClickHouse to this release's schema.

    Dagster's own database is made, too; its tables are Dagster's business.
    """
    settings = Settings.load()
    for store, work in (("PostgreSQL", migrate_postgres), ("ClickHouse", migrate_clickhouse)):
        applied = when_up(settings, partial(work, settings), wait_s=wait_s)
        for name in applied:
            click.echo(f"{store}: applied {name}")
        if not applied:
            click.echo(f"{store}: up to date")
    when_up(settings, partial(prepare_history, settings), wait_s=wait_s)


@click.command()
@_wait_option
def seed(wait_s: float) -> None:
    """Load the game's definitions into PostgreSQL, then ClickHouse's copies of them."""
    settings = Settings.load()
    for report in when_up(settings, partial(load_seeds, settings), wait_s=wait_s):
        click.echo(_sentence(report))
    for lookup in when_up(settings, partial(clickhouse_lookups.refresh, settings), wait_s=wait_s):
        click.echo(f"ClickHouse {lookup.table}: {lookup.rows} rows")


def when_up(
    settings: Settings,
    work: Callable[[], Result],
    *,
    wait_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """`work()`, begun again while a store is down, for `wait_s` at most; `work` is repeatable.

    Raises TransientError naming the store and its address when it stays down.
    """

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            click.echo(f"waiting: {_away(settings, error)}", err=True)

    patient = Retrying(
        retry=retry_if_exception(lambda error: _away(settings, error) is not None),
        stop=stop_after_delay(wait_s),
        wait=wait_exponential(multiplier=0.5, max=5),
        before_sleep=tell,
        sleep=sleep,
        reraise=True,
    )
    try:
        return patient(work)
    except (psycopg2.Error, DatabaseError) as error:
        away = _away(settings, error)
        if away is None:
            raise
        raise TransientError(away) from error


def _away(settings: Settings, error: BaseException) -> str | None:
    """Which store is down and why, when that is what the error means."""
    reason = " ".join(str(error).split())
    if is_connection_lost(error):
        address = f"{settings.postgres_host}:{settings.postgres_port}"
        return f"PostgreSQL at {address} does not answer: {reason}"
    if isinstance(error, DatabaseError) and error.code is None:
        address = f"{settings.clickhouse_host}:{settings.clickhouse_http_port}"
        return f"ClickHouse at {address} does not answer: {reason}"
    return None


def _sentence(report: SeedReport) -> str:
    counts = f"{report.inserted} inserted, {report.updated} updated, {report.unchanged} unchanged"
    keys = ", ".join(map(str, report.changed[:_KEYS_SHOWN]))
    more = len(report.changed) - _KEYS_SHOWN
    keys += f" and {more} more" if more > 0 else ""
    return f"{report.table}: {counts}" + (f" ({keys})" if keys else "")

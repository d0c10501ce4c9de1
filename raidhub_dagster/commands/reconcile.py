"""`raidhub reconcile`: makes both stores fit again; the work is in `storage.reconcile`.

Apart from backups, whose tools the images do not have: this one is needed on a cluster too.
"""

from contextlib import closing
from datetime import UTC, datetime

import click

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse
from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.reconcile import Reopened, match_clickhouse, reopen

hours_option = click.option(
    "--hours",
    type=click.IntRange(0, 7 * 24),
    default=24,
    show_default=True,
    help="For how long a message may have waited in the broker: those sent since then go again.",
)


@click.command()
@hours_option
def reconcile(hours: int) -> None:
    """Ask again for what a lost broker carried, and make ClickHouse what PostgreSQL holds.

    For a PostgreSQL that was recovered by other means, and for a broker or a ClickHouse that lost
    its data. Harmless at any other time, and may be repeated.
    """
    settings = Settings.load()
    name = "raidhub reconcile"
    with (
        answered(),
        connected(settings, name) as connection,
        closing(clickhouse.connect(settings, name, timeout_s=3600)) as client,
    ):
        tell_reopened(reopen(connection, hours=hours))
        now = datetime.now(UTC)
        for done in match_clickhouse(connection, client, now=now):
            click.echo(f"rebuilt {done.table} {done.day or ''}".rstrip())


def tell_reopened(done: Reopened) -> None:
    click.echo(
        f"asked for again: {done.blocks} blocks, {done.missed} missed ids, {done.parked} parked"
        f" reports; sent again: {done.messages} messages"
    )

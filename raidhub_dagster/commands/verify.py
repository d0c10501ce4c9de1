"""`raidhub verify`: the recount of everything, for people and for machines."""

import sys
from contextlib import ExitStack, closing

import click
import msgspec

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, postgres
from raidhub_dagster.storage.verify import Finding, sizes
from raidhub_dagster.storage.verify import verify as recount


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.option(
    "--wait",
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long effects may still be under way to ClickHouse.",
)
@click.option("--sample", default=200, show_default=True, help="Kept reports to parse again.")
@click.option("--postgres-only", is_flag=True, help="Leave ClickHouse out.")
def verify(as_json: bool, wait: float, sample: int, postgres_only: bool) -> None:
    """Recompute derived state and compare PostgreSQL, ClickHouse and the ledger.

    Exit 0 only when everything is equal.
    """
    settings = Settings.load()
    findings: list[Finding] = []
    with ExitStack() as opened:
        connection = opened.enter_context(postgres.connected(settings, "raidhub verify"))
        client = None
        if not postgres_only:
            client = opened.enter_context(
                closing(clickhouse.connect_checked(settings, "raidhub verify"))
            )
        compared = sizes(connection)
        if not as_json:
            click.echo(
                f"{compared.instances} instances, {compared.players} players, "
                f"{compared.missed} unresolved ids"
            )
        for finding in recount(connection, client, sample=sample, wait_s=wait):
            findings.append(finding)
            if not as_json:
                _show(finding)
    is_equal = all(finding.is_equal for finding in findings)
    if as_json:
        summary = {"equal": is_equal, "compared": compared, "findings": findings}
        click.echo(msgspec.json.encode(summary))
    if not is_equal:
        sys.exit(1)


def _show(finding: Finding) -> None:
    outcome = "equal" if finding.is_equal else f"{finding.differing} differ"
    click.echo(f"{finding.check:20} {outcome}")
    for example in finding.examples:
        click.echo(f"{'':20} {example}")

"""What must hold of cheat checks; the claims stand in cheat_detection/norms.py and recheck.py."""

import dagster as dg

from assets.cheat_checks import ACTIVITY_NORM_KEY, CHEAT_RECHECK_KEY
from raidhub_dagster.cheat_detection.norms import check_norms
from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.cheat_detection.recheck import check_ledger
from raidhub_dagster.checks.claims import claim, judged
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource


@dg.asset_check(
    asset=CHEAT_RECHECK_KEY,
    name="cheat_recheck_ledger_agrees_with_flags",
    description="Each verdict of the last 7 days by the rules in use has the flag that it asks "
    "for, and no other.",
)
def ledger_agrees_with_flags(postgres: PostgresResource) -> dg.AssetCheckResult:
    with dagster_failures(), postgres.connection() as connection:
        return judged(check_ledger(connection, current_parameters(postgres.open_settings())))


CHEAT_CHECK_CHECKS = [
    claim(
        ACTIVITY_NORM_KEY,
        "is_possible",
        "No norm is below zero or longer than a day, and each belongs to a known activity.",
        lambda connection, _since: check_norms(connection),
    ),
    ledger_agrees_with_flags,
]

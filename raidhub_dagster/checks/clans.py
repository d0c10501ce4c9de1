"""What must hold after the weekly crawl of clans; the claims stand in clans/claims.py."""

import dagster as dg

from assets.leaderboards import CLAN_MEMBERS_KEY, leaderboard_key
from raidhub_dagster.checks.claims import claim, judged
from raidhub_dagster.clans.claims import check_board, check_inhabited, check_references
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource

_BOARD_KEY = leaderboard_key("clan_leaderboard")


@dg.asset_check(
    asset=_BOARD_KEY,
    name="clan_leaderboard_matches_a_recount",
    description="50 random clans have the row that their members' values give. Clans of which "
    "anything was written since the refresh are left out.",
    blocking=True,
)
def clan_leaderboard_matches_a_recount(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    event = context.instance.get_latest_materialization_event(_BOARD_KEY)
    told = event and event.asset_materialization and event.asset_materialization.metadata
    unseen_from = told and told.get("unseen_from")
    if not isinstance(unseen_from, dg.IntMetadataValue) or unseen_from.value is None:
        reason = "no refresh of clan_leaderboard that tells what it saw: refresh it"
        raise dg.Failure(reason, allow_retries=False)
    with dagster_failures(), postgres.connection() as connection:
        recounted, problems = check_board(connection, unseen_from=unseen_from.value)
    return judged(problems, recounted_clans=recounted)


CLAN_CHECKS = [
    claim(
        CLAN_MEMBERS_KEY,
        "are_known",
        "Every member is a known player of a known clan, or readers' joins lose them.",
        lambda connection, _since: check_references(connection),
    ),
    claim(
        CLAN_MEMBERS_KEY,
        "leave_no_clan_empty",
        "Every clan that a top player is in has members, or some that wait to be known.",
        lambda connection, _since: check_inhabited(connection),
        blocking=False,
    ),
    clan_leaderboard_matches_a_recount,
]

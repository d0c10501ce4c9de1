"""What must hold after the weekly crawl of clans; the claims stand in clans/claims.py."""

from datetime import UTC, datetime

import dagster as dg

from assets.leaderboards import CLAN_MEMBERS_KEY, WFR_SCORE_KEY, leaderboard_key
from raidhub_dagster.checks.claims import claim, judged
from raidhub_dagster.clans.claims import check_board, check_inhabited, check_references
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource

_BOARD_KEY = leaderboard_key("clan_leaderboard")


@dg.asset_check(
    asset=_BOARD_KEY,
    name="clan_leaderboard_matches_a_recount",
    description="50 random clans have the row that their members' values give. Clans that changed "
    "since the refresh are left out, contest scores when wfr_score ran since.",
    blocking=True,
)
def clan_leaderboard_matches_a_recount(
    context: dg.AssetCheckExecutionContext, postgres: PostgresResource
) -> dg.AssetCheckResult:
    began, ended = _refresh(context.instance)
    scored = context.instance.get_latest_materialization_event(WFR_SCORE_KEY)
    scores = scored is None or scored.timestamp < ended
    with dagster_failures(), postgres.connection() as connection:
        recounted, problems = check_board(
            connection, since=datetime.fromtimestamp(began, UTC), scores=scores
        )
    return judged(problems, recounted_clans=recounted)


def _refresh(instance: dg.DagsterInstance) -> tuple[float, float]:
    """Start and end of the board's last refresh, in seconds of the epoch."""
    event = instance.get_latest_materialization_event(_BOARD_KEY)
    if event is None or event.asset_materialization is None:
        raise dg.Failure("this instance never refreshed clan_leaderboard", allow_retries=False)
    seconds = event.asset_materialization.metadata.get("seconds")
    took_s = (isinstance(seconds, dg.FloatMetadataValue) and seconds.value) or 0.0
    # The event comes after the refresh, once the top was read: a second more is safe.
    return event.timestamp - took_s - 1.0, event.timestamp


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

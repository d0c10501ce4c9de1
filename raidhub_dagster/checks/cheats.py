"""What must hold after the levels were raised; the claims stand in cheat_detection/claims.py."""

from collections.abc import Callable, Sequence

import dagster as dg
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from assets.cheats import BLACKLIST_KEY, FLAG_STATS_KEY, LEVELS_KEY
from raidhub_dagster.cheat_detection.claims import (
    check_blacklist,
    check_counts,
    check_reached,
    check_recorded,
    check_spared,
)
from raidhub_dagster.cheat_detection.parameters import Parameters, current_parameters
from raidhub_dagster.checks.claims import claim, judged
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage.claims import Problem


def _claim_of_rules(
    key: dg.AssetKey,
    name: str,
    description: str,
    find: Callable[[Connection, Parameters], Sequence[Problem]],
) -> dg.AssetChecksDefinition:
    """A claim that depends on the numbers of the rules in use."""

    @dg.asset_check(asset=key, name=f"{key.path[-1]}_{name}", description=description)
    def holds(postgres: PostgresResource) -> dg.AssetCheckResult:
        with dagster_failures(), postgres.connection() as connection:
            return judged(find(connection, current_parameters(postgres.open_settings())))

    return holds


CHEAT_CHECKS = [
    _claim_of_rules(
        FLAG_STATS_KEY,
        "equals_a_recount",
        "50 random players have the counts that their flags give, classed one by one. Who was "
        "flagged since is left out.",
        check_counts,
    ),
    _claim_of_rules(
        LEVELS_KEY,
        "reach_what_flags_give",
        "Nobody's level is below what the counted flags give whatever the account says.",
        check_reached,
    ),
    claim(
        LEVELS_KEY,
        "are_explained",
        "Every change by the rules is a rise and has its evidence: rule, flags, numbers.",
        lambda connection, _since: check_recorded(connection),
    ),
    claim(
        LEVELS_KEY,
        "spare_the_whitelisted",
        "No rule gave a whitelisted player a level in this run.",
        check_spared,
    ),
    claim(
        BLACKLIST_KEY,
        "spare_the_whitelisted",
        "No rule blacklisted a whitelisted raid, or one of a whitelisted player, in this run; a "
        "cascade names its player.",
        check_blacklist,
    ),
]

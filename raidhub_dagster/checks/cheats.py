"""What must hold after the levels were raised; the claims stand in cheat_detection/claims.py."""

from assets.cheats import BLACKLIST_KEY, FLAG_STATS_KEY, LEVELS_KEY
from raidhub_dagster.cheat_detection.claims import (
    check_blacklist,
    check_counts,
    check_reached,
    check_recorded,
    check_spared,
)
from raidhub_dagster.checks.claims import claim, claim_of_rules

CHEAT_CHECKS = [
    claim_of_rules(
        FLAG_STATS_KEY,
        "equals_a_recount",
        "50 random players have the counts that their flags give, classed one by one. Who was "
        "flagged since is left out.",
        check_counts,
    ),
    claim_of_rules(
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

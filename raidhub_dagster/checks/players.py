"""What must hold of columns that follow from others; compared in storage/derived_columns.py."""

from assets.leaderboards import SUM_OF_BEST_KEY
from assets.players import SEARCH_SCORE_KEY
from raidhub_dagster.checks.claims import claim
from raidhub_dagster.storage.derived_columns import check_search_scores, check_sums_of_best

PLAYER_CHECKS = [
    claim(
        SUM_OF_BEST_KEY,
        "follows_the_raids",
        "Every player has the sum that their fastest fresh clears give, null without one of them.",
        lambda connection, _since: check_sums_of_best(connection),
    ),
    claim(
        SEARCH_SCORE_KEY,
        "follows_its_formula",
        "Every player's search score is what clears, time last seen and race score give.",
        lambda connection, _since: check_search_scores(connection),
    ),
]

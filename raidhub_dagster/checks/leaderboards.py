"""What must hold after each refresh of a leaderboard; a broken board stops those that read it.

The claims, and the SQL behind them, stand in storage/leaderboards.py.
"""

from assets.leaderboards import WFR_SCORE_KEY, leaderboard_key
from raidhub_dagster.checks.claims import Find, claim
from raidhub_dagster.storage.leaderboards import (
    RECOUNTED,
    VIEWS,
    check_positions,
    check_recount,
    check_wfr_score,
)


def _check_board(view: str) -> Find:
    return lambda connection, since: check_positions(connection, view, since)


def _recount(view: str) -> Find:
    return lambda connection, since: check_recount(connection, view, since)


LEADERBOARD_CHECKS = (
    [
        claim(
            leaderboard_key(view),
            "is_dense_and_eligible",
            "Positions run from 1 without holes, because readers page by them, and nobody on the "
            "board is private, blacklisted or known to cheat. An empty board passes.",
            _check_board(view),
        )
        for view in VIEWS
    ]
    + [
        claim(
            WFR_SCORE_KEY,
            "follows_the_races",
            "Every player has the score that the world-first races give, 0 without one.",
            lambda connection, _since: check_wfr_score(connection),
        )
    ]
    + [
        claim(
            leaderboard_key(view),
            "equals_a_recount",
            "Sampled players have the counters that their raids give, and the ranks and "
            "positions that these give on the board. Who played since the refresh is left out.",
            _recount(view),
            blocking=False,
            pool="postgres_refresh",  # scans of the whole board
        )
        for view in RECOUNTED
    ]
)

"""That derived state is what a recount gives, on random samples; `raidhub verify` looks at all.

Samples are compared by verify's own statements (storage/recount.py).
"""

import dagster as dg

from assets.core import INSTANCE, INSTANCE_PLAYER, PLAYER, PLAYER_STATS
from raidhub_dagster.checks.claims import claim
from raidhub_dagster.storage.recount import check_players, check_reports

# Under a second each on the machine of the benchmarks; a wrong rule shows in nearly every sample, a
# single wrong row is for `raidhub verify`.
PLAYERS = 500
REPORTS = 200


def _recounted(spec: dg.AssetSpec, part: str, what: str) -> dg.AssetChecksDefinition:
    return claim(
        spec.key,
        "equals_its_recount",
        f"{PLAYERS} random players have the {what} that a recount of their runs gives.",
        lambda connection, _since: check_players(connection, part, players=PLAYERS),
        blocking=False,
    )


DERIVED_STATE_CHECKS = [
    _recounted(INSTANCE_PLAYER, "standings", "first clears and sherpas"),
    _recounted(PLAYER_STATS, "player_stats", "counters and fastest runs"),
    _recounted(PLAYER, "players", "totals and sums of best"),
    claim(
        INSTANCE.key,
        "follows_its_report",
        f"{REPORTS} random reports, parsed again, say what is stored and who their players are.",
        lambda connection, _since: check_reports(connection, reports=REPORTS),
        blocking=False,
    ),
]

"""That derived state is what a recount gives, on a random sample; `raidhub verify` looks at all.

The sample is compared by verify's own statements (storage/recount.py).
"""

from assets.core import PLAYER
from raidhub_dagster.checks.claims import claim
from raidhub_dagster.storage.recount import check_sample

# Under a second each on the machine of the benchmarks; a wrong rule shows in nearly every sample, a
# single wrong row is for `raidhub verify`.
PLAYERS = 500
REPORTS = 200

DERIVED_STATE_CHECKS = [
    claim(
        PLAYER.key,
        "equals_its_recount",
        f"{PLAYERS} random players have the first clears, sherpas, counters, fastest runs and sums "
        f"of best that a recount of their runs gives; {REPORTS} random reports, parsed again, say "
        "what is stored and who their players are.",
        lambda connection, _since: check_sample(connection, players=PLAYERS, reports=REPORTS),
        blocking=False,
    )
]

"""What must hold of missed ids and gaps: nothing is lost, forgotten, or asked for without end."""

from assets.recovery import MISSED_PGCRS_KEY, PGCR_GAPS_KEY
from raidhub_dagster.checks.claims import claim
from raidhub_dagster.storage.gaps import check_ends
from raidhub_dagster.storage.missed import check_attended, check_stored

RECOVERY_CHECKS = [
    claim(
        MISSED_PGCRS_KEY,
        "are_not_stored",
        "No open row is about an id whose report is stored: somebody would ask for it for ever.",
        lambda connection, _since: check_stored(connection),
        blocking=False,
    ),
    claim(
        MISSED_PGCRS_KEY,
        "are_attended",
        "No row is overdue for more than a day: neither the crawl nor recovery would be working.",
        lambda connection, _since: check_attended(connection),
        blocking=False,
    ),
    claim(
        PGCR_GAPS_KEY,
        "end",
        "Every gap is done 9 days after it was found: a week of rounds and two days. One longer "
        "than 200 000 ids waits for a person.",
        lambda connection, _since: check_ends(connection),
        blocking=False,
    ),
]

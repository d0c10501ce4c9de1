"""What must hold after an archive was imported; the claims stand in archives/progress.py."""

from assets.archives import PGCR_ARCHIVE_KEY
from raidhub_dagster.archives.progress import check_counts, check_stored
from raidhub_dagster.checks.claims import claim

ARCHIVE_CHECKS = [
    claim(
        PGCR_ARCHIVE_KEY,
        "counts_add_up",
        "Of each archive every line that was read has one outcome, and each refused one is kept.",
        lambda connection, _since: check_counts(connection),
    ),
    claim(
        PGCR_ARCHIVE_KEY,
        "raids_are_stored",
        "Of the 20 archives finished last, a sample of up to 200 raids each is in the store.",
        lambda connection, _since: check_stored(connection),
    ),
]

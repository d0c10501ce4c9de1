"""What the crawl leaves behind: its ledger and the reports as published.

Atlas and hermes write these tables, not Dagster; stream_progress_sensor reports their growth.
"""

from datetime import timedelta

import dagster as dg

from assets.tables import table

# Bungie is silent for 40 minutes at times.
FED = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=2), warn_window=timedelta(hours=1))

CRAWL_BLOCK = table(
    "streaming.crawl_block",
    group="crawl",
    description="Blocks of report ids that atlas leases: who fetches which ids, what is done. "
    "Waiting are the blocks not yet done, the lag is the age of the newest lease.",
)
MISSED_PGCR = table(
    "streaming.missed_pgcr",
    group="crawl",
    description="Ids that gave no report yet, with the reason and the time of the next try. "
    "Waiting are the unresolved ones, the lag says how long the oldest try is overdue.",
    deps=[CRAWL_BLOCK],
)
PGCR = table(
    "raw.pgcr",
    group="crawl",
    description="Every raid report as Bungie published it (gzip). Hermes stores it; all else can "
    "be derived from it. The lag is the time since the last one was stored.",
    deps=[CRAWL_BLOCK, MISSED_PGCR, dg.AssetKey(["archive", "pgcr_archive"])],
    fresh=FED,
)

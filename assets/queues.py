"""The queues between the parts of the stream, as people see them: how much waits, who works it off.

RabbitMQ holds them, atlas, hermes and the relay use them; queue_depths_sensor reports them. Bodies,
limits and retries: docs/domain/queues.md.
"""

import dagster as dg

from assets.analytics import OUTBOX
from assets.crawl import CRAWL_BLOCK, MISSED_PGCR
from assets.tables import OWNERS
from raidhub_dagster.messaging import topology


def _queue(
    name: str, description: str, *deps: dg.AssetSpec | dg.AssetKey, store: str = "rabbitmq"
) -> dg.AssetSpec:
    return dg.AssetSpec(
        [store, name],
        group_name="queues",
        kinds={store},
        owners=OWNERS,
        description=description,
        deps=deps,
    )


INSTANCE_STORE = _queue(
    topology.INSTANCE_STORE,
    "Raid reports as fetched, to be stored. Atlas slows down while more than 50 000 wait.",
    CRAWL_BLOCK,
)
PGCR_BLOCKED_RETRY = _queue(
    topology.PGCR_BLOCKED_RETRY,
    "Reports that Bungie withholds, asked for again until the floodgates open.",
    CRAWL_BLOCK,
    MISSED_PGCR,
)
PLAYER_CRAWL = _queue(
    topology.PLAYER_CRAWL, "Players whose profile is to be fetched: new or not seen today.", OUTBOX
)
CHARACTER_FILL = _queue(
    topology.CHARACTER_FILL, "Characters whose report names no class or emblem.", OUTBOX
)
INSTANCE_CHEAT_CHECK = _queue(
    topology.INSTANCE_CHEAT_CHECK, "Stored raids whose cheat check is due.", OUTBOX
)
CLAN_CRAWL = _queue(topology.CLAN_CRAWL, "Clans to be fetched with their members.")
ACTIVITY_HISTORY_CRAWL = _queue(
    topology.ACTIVITY_HISTORY_CRAWL, "Players whose history is searched for raids we lack."
)
PGCR_CRAWL = _queue(
    topology.PGCR_CRAWL,
    "Single report ids to fetch, found in histories.",
    dg.AssetKey(["rabbitmq", topology.ACTIVITY_HISTORY_CRAWL]),
)
INSTANCE_PARTICIPANT_REFRESH = _queue(
    topology.INSTANCE_PARTICIPANT_REFRESH,
    "Raids whose participants are told about; nobody here consumes it yet.",
)
SUBSCRIPTION_MATCH = _queue(
    topology.SUBSCRIPTION_MATCH,
    "Raids to compare with subscriptions; nobody here consumes it yet.",
)
SUBSCRIPTION_DELIVERY = _queue(
    topology.SUBSCRIPTION_DELIVERY, "Notices to deliver; nobody here consumes it yet."
)

QUEUES = {
    spec.key.path[-1]: spec for spec in list(vars().values()) if isinstance(spec, dg.AssetSpec)
}
QUEUES = {name: QUEUES[name] for name in topology.MAIN_QUEUES}

"""Topic clan_crawl: refreshes one clan and its members."""

import logging
from datetime import timedelta

from raidhub_dagster.bungie import systems
from raidhub_dagster.clans.crawl import Outcome, crawl_clan
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import read_id
from streaming.hermes.topic import Delivery, Limits, Topic
from streaming.hermes.topics.shared import ApiHandler

log = logging.getLogger(__name__)


class ClanCrawl(ApiHandler):
    def work(self, delivery: Delivery) -> None:
        group_id = read_id(delivery.body, "groupId")
        outcome = crawl_clan(
            self.shared.pool,
            self.client,
            group_id,
            fresh_for=timedelta(hours=self.settings.clan_fresh_h),
            now=self.now,
        )
        if outcome in (Outcome.GONE, Outcome.NO_CLAN):
            log.info(
                "No clan to crawl",
                extra={"action": "clan_skipped", "group_id": group_id, "outcome": outcome.value},
            )


TOPIC = Topic(
    topology.CLAN_CRAWL,
    ClanCrawl,
    Limits(minimum=1, maximum=25, desired=3, contest=10),
    retries=5,
    base_delay_s=1,
    systems=(systems.GROUPS, systems.CLANS, systems.DESTINY),
)

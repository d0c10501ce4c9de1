"""Topic player_crawl: refreshes one player from their account."""

from datetime import timedelta

from raidhub_dagster.bungie import systems
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import read_id
from raidhub_dagster.players.crawl import crawl_player
from streaming.hermes.topic import Delivery, Limits, Scaling, Topic
from streaming.hermes.topics.shared import ApiHandler


class PlayerCrawl(ApiHandler):
    def work(self, delivery: Delivery) -> None:
        crawl_player(
            self.shared.pool,
            self.client,
            read_id(delivery.body, "membershipId"),
            fresh_for=timedelta(hours=self.settings.player_fresh_h),
            now=self.now,
        )


TOPIC = Topic(
    topology.PLAYER_CRAWL,
    PlayerCrawl,
    Limits(minimum=5, maximum=100, desired=20, contest=50),
    retries=5,
    base_delay_s=300,
    # New players come in floods after a release: steps are larger and need no second look.
    scaling=Scaling(up_share=0.5, least_step=3, most_step=25, checks_up=1, cooldown_s=30.0),
    systems=(systems.DESTINY, systems.PROFILES, systems.ACTIVITIES),
)

"""Topic character_fill: class and emblem of a character that a report does not resolve."""

from raidhub_dagster.bungie import systems
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import read_character
from raidhub_dagster.players.characters import fill_character
from streaming.hermes.topic import Delivery, Limits, Topic
from streaming.hermes.topics.shared import ApiHandler


class CharacterFill(ApiHandler):
    def work(self, delivery: Delivery) -> None:
        fill_character(self.shared.pool, self.client, read_character(delivery.body), now=self.now)


TOPIC = Topic(
    topology.CHARACTER_FILL,
    CharacterFill,
    Limits(minimum=1, maximum=50, desired=5, contest=20),
    retries=4,
    base_delay_s=300,
    systems=(systems.DESTINY, systems.CHARACTERS),
)

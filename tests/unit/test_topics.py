"""The table of topics as others plan by it: limits, retries, needed systems."""

import pytest

from raidhub_dagster.cheat_detection.checker import Verdict
from raidhub_dagster.messaging.topology import MAIN_QUEUES
from streaming.hermes.topics.registry import topics


class Rules:
    version = "test"

    def check(self, _connection: object, _instance_id: int) -> Verdict | None:
        return None


# min, max, desired, contest; scale-up and scale-down depth; retries, base delay; systems.
TABLE: dict[str, tuple[tuple[int, ...], tuple[int, int], tuple[int, int], set[str]]] = {
    "instance_store": ((5, 50, 15, 30), (1000, 100), (3, 1), set()),
    "instance_cheat_check": ((5, 100, 25, 75), (100, 10), (5, 1), set()),
    "player_crawl": (
        (5, 100, 20, 50),
        (100, 10),
        (5, 300),
        {"Destiny2", "D2Profiles", "Activities"},
    ),
    "activity_history_crawl": (
        (1, 20, 3, 10),
        (100, 10),
        (3, 1),
        {"Destiny2", "Activities", "D2Profiles"},
    ),
    "character_fill": ((1, 50, 5, 20), (100, 10), (4, 300), {"Destiny2", "D2Characters"}),
    "clan_crawl": ((1, 25, 3, 10), (100, 10), (5, 1), {"Groups", "Clans", "Destiny2"}),
    "pgcr_blocked_retry": ((1, 10, 2, 5), (100, 10), (3, 8), {"Destiny2"}),
    "pgcr_crawl": ((1, 20, 2, 5), (100, 10), (20, 1), {"Destiny2"}),
}
TOPICS = topics(Rules())


def test_every_topic_is_registered_and_has_a_main_queue() -> None:
    """A queue that only one side declares swallows messages."""
    assert set(TOPICS) == set(TABLE)
    assert set(TOPICS) <= set(MAIN_QUEUES)


@pytest.mark.parametrize("name", TABLE)
def test_topic_has_the_agreed_numbers(name: str) -> None:
    """People size clusters by these."""
    topic, (limits, depths, retries, systems) = TOPICS[name], TABLE[name]
    found = topic.limits
    assert (found.minimum, found.maximum, found.desired, found.contest) == limits
    assert (topic.scaling.up_depth, topic.scaling.down_depth) == depths
    assert (topic.retries, topic.base_delay_s) == retries
    assert set(topic.systems) == systems


def test_players_are_scaled_faster_than_the_rest() -> None:
    for name, topic in TOPICS.items():
        scaling = topic.scaling
        numbers = (scaling.up_share, scaling.least_step, scaling.most_step)
        pace = (scaling.checks_up, scaling.cooldown_s)
        if name == "player_crawl":
            assert (numbers, pace) == ((0.5, 3, 25), (1, 30.0))
        else:
            assert (numbers, pace) == ((0.2, 1, 10), (2, 120.0))

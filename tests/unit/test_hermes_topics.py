"""The registered topics against the table that operators read."""

import re
from pathlib import Path

import pytest

from raidhub_dagster.bungie.systems import KNOWN
from raidhub_dagster.messaging.topology import MAIN_QUEUES
from streaming.hermes.topic import Topic
from streaming.hermes.topics.registry import TOPICS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "domain" / "queues.md"
SECONDS = {"s": 1, "min": 60}


def table() -> dict[str, list[str]]:
    """Cells of docs/domain/queues.md, "Scaling", by topic."""
    section = PAGE.read_text("utf-8").split("## Scaling")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows[1:]}


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda topic: topic.name)
def test_a_topic_has_the_numbers_of_the_table(topic: Topic) -> None:
    """They were agreed on; a number that drifts shows as a slow queue or an exhausted API."""
    workers, desired, contest, depths, retries, needs = table()[topic.name]
    limits, law = topic.limits, topic.scaling
    assert workers == f"{limits.minimum}-{limits.maximum}"
    assert (int(desired), int(contest)) == (limits.desired, limits.contest)
    assert depths == f"{law.up_depth}, {law.down_depth}"
    assert set(topic.systems) == set(re.findall(r"\w+", needs))
    count, _, delay = retries.partition(", ")
    assert topic.retries == int(count)
    if delay:
        number, unit = delay.split()
        assert topic.base_delay_s == int(number) * SECONDS[unit]


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda topic: topic.name)
def test_a_topic_can_work(topic: Topic) -> None:
    """One that names an unknown system would stay closed for ever, and say so only in /healthz."""
    limits = topic.limits
    assert topic.name in MAIN_QUEUES
    assert 1 <= limits.minimum <= limits.desired <= limits.contest <= limits.maximum
    assert set(topic.systems) <= set(KNOWN)
    assert topic.scaling.down_depth < topic.scaling.up_depth
    assert topic.delays_s or not topic.retries


def test_the_table_names_queues_of_ours() -> None:
    assert set(table()) <= set(MAIN_QUEUES)
    assert set(TOPICS) == set(table())


def test_players_are_scaled_faster_than_the_rest() -> None:
    for name, topic in TOPICS.items():
        scaling = topic.scaling
        numbers = (scaling.up_share, scaling.least_step, scaling.most_step)
        pace = (scaling.checks_up, scaling.cooldown_s)
        if name == "player_crawl":
            assert (numbers, pace) == ((0.5, 3, 25), (1, 30.0))
        else:
            assert (numbers, pace) == ((0.2, 1, 10), (2, 120.0))

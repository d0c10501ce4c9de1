"""Every topic there is, by the name of its queue. A new one is a module here and a line below."""

from raidhub_dagster.cheat_detection.checker import Checker, load_checker
from streaming.hermes.topic import Topic
from streaming.hermes.topics import (
    activity_history_crawl,
    character_fill,
    clan_crawl,
    instance_cheat_check,
    instance_store,
    pgcr_blocked_retry,
    pgcr_crawl,
    player_crawl,
)


def topics(checker: Checker | None) -> dict[str, Topic]:
    """Those of this release; cheat checks wait in their queue until there is a checker."""
    listed = [
        instance_store.TOPIC,
        player_crawl.TOPIC,
        activity_history_crawl.TOPIC,
        character_fill.TOPIC,
        clan_crawl.TOPIC,
        pgcr_blocked_retry.TOPIC,
        pgcr_crawl.TOPIC,
    ]
    if checker is not None:
        listed.append(instance_cheat_check.topic(checker))
    return {topic.name: topic for topic in listed}


TOPICS = topics(load_checker())

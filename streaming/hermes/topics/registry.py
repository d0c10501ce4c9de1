"""Every topic there is, by the name of its queue. A new one is a module here and a line below."""

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

_ALL: tuple[Topic, ...] = (
    instance_store.TOPIC,
    player_crawl.TOPIC,
    activity_history_crawl.TOPIC,
    character_fill.TOPIC,
    clan_crawl.TOPIC,
    pgcr_blocked_retry.TOPIC,
    pgcr_crawl.TOPIC,
    instance_cheat_check.TOPIC,
)
TOPICS = {topic.name: topic for topic in _ALL}

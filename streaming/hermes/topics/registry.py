"""Every topic there is, by the name of its queue. A new one is a module here and a line below."""

from streaming.hermes.topic import Topic
from streaming.hermes.topics import instance_store

TOPICS: dict[str, Topic] = {topic.name: topic for topic in (instance_store.TOPIC,)}

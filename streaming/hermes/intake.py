"""A topic's subscription on one channel: how many messages the broker may hand us, or none."""

from collections.abc import Callable
from typing import Any

from pika.exceptions import ConsumerCancelled

from streaming.hermes.slot import Held
from streaming.hermes.topic import Delivery


class Intake:
    """Used by the consumer's loop only. Nothing is taken until `take` says how much."""

    def __init__(
        self, connection: Any, channel: Any, queue: str, give: Callable[[Held], None]
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._queue = queue
        self._give = give
        self._prefetch = 0
        self._tag: str | None = None

    def take(self, prefetch: int) -> None:
        """At most `prefetch` messages from now on; 0 ends the subscription.

        What is held stays held. A prefetch belongs to a subscription and cannot be changed, so
        there is a new one (prefetch of a channel could be, but RabbitMQ 4 gives that up). Until
        what the old one brought is done, both together may hold more.
        """
        if prefetch == self._prefetch:
            return
        if self._tag is not None:
            tag, self._tag = self._tag, None
            self._channel.basic_cancel(tag)
        if prefetch:
            self._channel.basic_qos(prefetch_count=prefetch)
            self._tag = self._channel.basic_consume(self._queue, self._receive)
        self._prefetch = prefetch

    def check(self) -> None:
        """Raises ConsumerCancelled when the broker ended what we did not."""
        if not self._channel.is_open or (
            self._tag is not None and self._tag not in self._channel.consumer_tags
        ):
            raise ConsumerCancelled(f"RabbitMQ ended the consumer of {self._queue}")

    def _receive(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        delivery = Delivery(
            body,
            properties.headers or {},
            properties.message_id,
            properties.content_type,
            properties.content_encoding,
        )
        self._give(Held(delivery, method.delivery_tag, channel, self._connection))

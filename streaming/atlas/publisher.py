"""Publishing with confirms on the event loop: a message is kept until the broker has it.

hermes and the relay publish batches from threads with `raidhub_dagster.messaging.publisher`; here
single messages come from coroutines, and waiting for one must not hold up the others.
"""

import asyncio
import logging
from collections import deque
from functools import partial
from typing import Any, NamedTuple

from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic, BasicProperties

from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import delays, parameters
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings

log = logging.getLogger(__name__)

_UNROUTABLE_PAUSE_S = 1.0
_CLOSE_S = 5.0  # the broker answers at once, or is not there


class _Entry(NamedTuple):
    message: Message
    confirmed: asyncio.Future[None]


class Publisher:
    """`run` keeps one connection up for ever; `publish` works whether it is up or not.

    `problem` says why the broker is away, None when it is not.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self.problem: str | None = "not connected yet"
        self._settings = settings
        self._name = name
        self._channel: Any = None
        self._unsent: deque[_Entry] = deque()
        self._sent: dict[int, _Entry] = {}  # by delivery tag, ascending
        self._last_tag = 0
        self._returned: set[str] = set()  # message ids without a queue; their confirms follow
        self._depths: list[asyncio.Future[int | None]] = []

    @property
    def backlog(self) -> int:
        """Messages that the broker has not confirmed."""
        return len(self._unsent) + len(self._sent)

    @property
    def _is_up(self) -> bool:
        return self._channel is not None and self._channel.is_open

    def publish(self, message: Message) -> asyncio.Future[None]:
        """Done when the broker has the message; until then it is sent again after every loss."""
        entry = _Entry(message, asyncio.get_running_loop().create_future())
        self._send(entry)
        return entry.confirmed

    async def depth(self, queue: str) -> int | None:
        """Messages ready in `queue`; None when the broker is away or does not say within 5 s."""
        if not self._is_up:
            return None
        depth: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._depths.append(depth)

        def answered(frame: Any) -> None:
            if not depth.done():
                depth.set_result(frame.method.message_count)

        self._channel.queue_declare(queue, passive=True, callback=answered)
        try:
            return await asyncio.wait_for(depth, 5)
        except TimeoutError:
            return None
        finally:
            self._depths.remove(depth)

    async def run(self) -> None:
        """Connects, and again whenever the connection is lost; ends by cancellation."""
        where = f"{self._settings.rabbitmq_host}:{self._settings.rabbitmq_port}"
        pauses = delays(0.5, 10.0)
        while True:
            connection, lost = self._connect()
            try:
                # Shielded: the end of this task must not stand for the end of the connection.
                reason = await asyncio.shield(lost)
            except asyncio.CancelledError:
                if not connection.is_closed and not connection.is_closing:
                    connection.close()
                await asyncio.wait([lost], timeout=_CLOSE_S)
                raise
            if self._channel is not None:
                pauses = delays(0.5, 10.0)  # it was up: begin again with short ones
            self._lose()
            pause_s = next(pauses)
            self.problem = f"RabbitMQ at {where} does not answer: {reason!r}"
            log.warning(
                "%s; next try in %.1f s",
                self.problem,
                pause_s,
                extra={"action": "broker_unreachable", "retry_s": pause_s},
            )
            await asyncio.sleep(pause_s)

    def _connect(self) -> tuple[Any, asyncio.Future[BaseException]]:
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[BaseException] = loop.create_future()

        def ended(_connection: Any, reason: BaseException) -> None:
            if not lost.done():
                lost.set_result(reason)

        connection = AsyncioConnection(
            parameters(self._settings, self._name),
            on_open_callback=lambda opened: opened.channel(on_open_callback=self._on_channel),
            on_open_error_callback=ended,
            on_close_callback=ended,
            custom_ioloop=loop,
        )
        return connection, lost

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        topology.declare(channel)
        channel.confirm_delivery(self._on_confirm, callback=partial(self._on_ready, channel))

    def _on_channel_closed(self, channel: Any, _reason: BaseException) -> None:
        if channel.connection.is_open:
            channel.connection.close()

    def _on_ready(self, channel: Any, _frame: Any) -> None:
        self._channel = channel
        self.problem = None
        waiting, self._unsent = self._unsent, deque()
        for entry in waiting:
            self._send(entry)
        if waiting:
            log.info(
                "Published %d waiting messages",
                len(waiting),
                extra={"action": "messages_republished", "rows": len(waiting)},
            )

    def _lose(self) -> None:
        """Everything unconfirmed waits for the next connection: twice at worst, never lost."""
        self._channel = None
        self._unsent.extendleft(reversed(self._sent.values()))
        self._sent.clear()
        self._returned.clear()
        self._last_tag = 0
        for depth in self._depths:
            if not depth.done():
                depth.set_result(None)

    def _send(self, entry: _Entry) -> None:
        if not self._is_up:
            self._unsent.append(entry)
            return
        self._last_tag += 1
        self._sent[self._last_tag] = entry
        queue, body, properties = entry.message
        self._channel.basic_publish("", queue, body, BasicProperties(**properties), mandatory=True)

    def _on_return(
        self, _channel: Any, _method: Any, properties: BasicProperties, _body: bytes
    ) -> None:
        self._returned.add(properties.message_id)

    def _on_confirm(self, frame: Any) -> None:
        last: int = frame.method.delivery_tag
        tags = [tag for tag in self._sent if tag <= last] if frame.method.multiple else [last]
        refused = isinstance(frame.method, Basic.Nack)
        for tag in tags:
            entry = self._sent.pop(tag)
            message_id = entry.message.properties["message_id"]
            bad = refused or message_id in self._returned
            queue = entry.message.queue
            metrics.PUBLISHING_OPERATIONS.labels(queue, "error" if bad else "success").inc()
            if not bad:
                if not entry.confirmed.done():
                    entry.confirmed.set_result(None)
                continue
            self._returned.discard(message_id)
            log.warning(
                "RabbitMQ %s a message for %s; it is sent again",
                "refused" if refused else "has no queue to take",
                queue,
                extra={"action": "message_not_taken", "queue": queue},
            )
            self._unsent.append(entry)
            asyncio.get_running_loop().call_later(_UNROUTABLE_PAUSE_S, self._try_again)

    def _try_again(self) -> None:
        """Sends what was refused; a queue that somebody deleted is declared first."""
        if not self._is_up or not self._unsent:
            return
        topology.declare(self._channel)
        waiting, self._unsent = self._unsent, deque()
        for entry in waiting:
            self._send(entry)

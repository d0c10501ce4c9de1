"""Publishing with confirms, a batch at a time, from any thread.

pika's blocking channel waits for each confirm (1 500 messages a second); here a thread of our own
runs a SelectConnection, so that a whole batch is on its way before the first confirm is awaited
and heartbeats are answered however long nobody publishes.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Self

import pika
from pika.adapters.select_connection import SelectConnection

from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import LOST, BrokerError, connect, parameters
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings


class UnroutableError(BrokerError):
    """The broker has none of `queues`; the other messages of the batch are confirmed."""

    def __init__(self, queues: set[str]) -> None:
        super().__init__(f"no such queue: {', '.join(sorted(queues))}")
        self.queues = frozenset(queues)


class Publisher:
    """One connection of its own, opened at the first publish and again after it was lost.

    Each opening calls `declare` with a channel, so that a publisher never depends on who started
    first, nor for long on a queue that somebody deleted.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        declare: Callable[[Any], None] = topology.declare,
        timeout_s: float = 30.0,
    ) -> None:
        self._settings = settings
        self._name = name
        self._declare = declare
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._link: _Link | None = None

    def publish(self, messages: Sequence[Message]) -> None:
        """Returns once the broker has taken responsibility for every message.

        Raises UnroutableError for queues that do not exist, and BrokerError when the broker
        is away, refuses or does not confirm in time; then any of the messages may have arrived.
        """
        if not messages:
            return
        batch = _Batch(messages)
        link: _Link | None = None
        try:
            link = self._opened()
            link.publish(batch, self._timeout_s)
        except UnroutableError as error:
            batch.count("error", error.queues)
            with suppress(BrokerError):
                self._declare_queues()  # one that somebody deleted is there for the next try
            raise
        except BrokerError:
            self._drop(link)
            batch.count("error")
            raise
        batch.count("success")

    def close(self) -> None:
        """Ends the connection; a later publish opens a new one."""
        self._drop(self._link)

    def _drop(self, link: "_Link | None") -> None:
        """Ends `link`, but not the one that another thread may have opened after it was lost."""
        with self._lock:
            if self._link is link:
                self._link = None
        if link is not None:
            link.close(self._timeout_s)

    def _opened(self) -> "_Link":
        with self._lock:
            if self._link is None or self._link.is_lost:
                self._declare_queues()
                self._link = _Link(self._settings, self._name, self._timeout_s)
            return self._link

    def _declare_queues(self) -> None:
        connection = connect(self._settings, f"{self._name}-declare")
        try:
            self._declare(connection.channel())
        except LOST as error:
            raise BrokerError(f"queues not declared: {error!r}") from error
        finally:
            with suppress(*LOST):
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Batch:
    """Messages on their way and how many confirms are open; only the link's thread changes it."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self._queues = {message.queue for message in messages}
        self._unconfirmed = len(messages)
        self._unroutable: set[str] = set()
        self._refused = False
        self._done: Future[None] = Future()

    def returned(self, queue: str) -> None:
        if queue in self._queues:
            self._unroutable.add(queue)

    def confirmed(self, *, refused: bool) -> None:
        self._unconfirmed -= 1
        self._refused = self._refused or refused
        if self._unconfirmed or self._done.done():
            return
        if self._refused:
            self.fail("RabbitMQ refused a message")
        elif self._unroutable:
            self._done.set_exception(UnroutableError(self._unroutable))
        else:
            self._done.set_result(None)

    def fail(self, reason: str) -> None:
        if not self._done.done():
            self._done.set_exception(BrokerError(reason))

    def wait(self, timeout_s: float) -> None:
        try:
            self._done.result(timeout_s)
        except TimeoutError:
            raise BrokerError(f"RabbitMQ confirmed nothing for {timeout_s:.0f} s") from None

    def count(self, status: str, failed: frozenset[str] = frozenset()) -> None:
        for queue, messages in Counter(message.queue for message in self.messages).items():
            outcome = status if not failed or queue in failed else "success"
            metrics.PUBLISHING_OPERATIONS.labels(queue, outcome).inc(messages)


class _Link:
    """One connection, its channel and its thread, from opening until it is lost."""

    def __init__(self, settings: Settings, name: str, timeout_s: float) -> None:
        self._opened: Future[None] = Future()
        self._channel: Any = None
        self._unconfirmed: dict[int, _Batch] = {}  # by delivery tag, ascending
        self._last_tag = 0
        self._lock = threading.Lock()  # of the next two: publishing threads come and go
        self._batches: set[_Batch] = set()
        self._lost = ""
        self._connection = SelectConnection(
            parameters(settings, name),
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
        )
        self._thread = threading.Thread(target=self._run, name=f"{name}-publisher", daemon=True)
        self._thread.start()
        try:
            self._opened.result(timeout_s)
        except TimeoutError:
            self.close(timeout_s)
            raise BrokerError("RabbitMQ opens no channel") from None

    @property
    def is_lost(self) -> bool:
        return bool(self._lost)

    def publish(self, batch: _Batch, timeout_s: float) -> None:
        with self._lock:
            if self._lost:
                raise BrokerError(self._lost)
            self._batches.add(batch)
            self._connection.ioloop.add_callback_threadsafe(partial(self._send, batch))
        try:
            batch.wait(timeout_s)
        finally:
            with self._lock:
                self._batches.discard(batch)

    def close(self, timeout_s: float) -> None:
        with self._lock:
            if not self._lost:
                self._connection.ioloop.add_callback_threadsafe(self._close)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        """The thread: everything below runs in it."""
        try:
            self._connection.ioloop.start()
        finally:
            self._fail("connection to RabbitMQ lost")
            self._connection.ioloop.close()

    def _close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
        elif self._connection.is_closed or not self._opened.done():
            self._connection.ioloop.stop()

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._lost = self._lost or reason
            for batch in self._batches:
                batch.fail(self._lost)
        if not self._opened.done():
            self._opened.set_exception(BrokerError(self._lost))

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=partial(self._on_ready, channel))

    def _on_ready(self, channel: Any, _ok: Any) -> None:
        self._channel = channel
        self._opened.set_result(None)

    def _on_channel_closed(self, _channel: Any, reason: BaseException) -> None:
        self._fail(f"RabbitMQ closed the channel: {reason}")
        self._close()

    def _on_closed(self, connection: Any, reason: BaseException) -> None:
        self._fail(f"connection to RabbitMQ lost: {reason!r}")
        connection.ioloop.stop()

    def _send(self, batch: _Batch) -> None:
        if not self._channel.is_open:
            return  # the batch has failed, or will when the thread ends
        for message in batch.messages:
            self._last_tag += 1
            self._unconfirmed[self._last_tag] = batch
            properties = pika.BasicProperties(**message.properties)
            self._channel.basic_publish("", message.queue, message.body, properties, mandatory=True)

    def _on_return(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        # The broker names no delivery tag here, but it returns a message before it confirms it.
        with self._lock:
            for batch in self._batches:
                batch.returned(method.routing_key)

    def _on_confirm(self, frame: Any) -> None:
        tag, refused = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Nack)
        first = next(iter(self._unconfirmed), tag) if frame.method.multiple else tag
        for confirmed in range(first, tag + 1):
            if batch := self._unconfirmed.pop(confirmed, None):
                batch.confirmed(refused=refused)

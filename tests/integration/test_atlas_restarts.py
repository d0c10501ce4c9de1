"""Atlas while the servers it needs go away and come back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raidhub_dagster.messaging.connection import connect as connect_broker
from raidhub_dagster.messaging.messages import Message, instance_store_properties
from raidhub_dagster.messaging.topology import INSTANCE_STORE
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.postgres import PostgresServer
from raidhub_dagster.stack.process import HOST, Server, free_port, running
from raidhub_dagster.stack.rabbitmq import EpmdServer, RabbitmqServer
from raidhub_dagster.storage.migrations import migrate_postgres
from raidhub_dagster.storage.seeds import seed
from streaming.atlas.publisher import Publisher
from tests.integration.test_atlas import Atlas, Overrides, simulator, until


class Servers:
    """A PostgreSQL server and a broker of the test's own that it can restart."""

    def __init__(self, folder: Path, make_settings: Callable[..., Settings]) -> None:
        self.address: Overrides = {
            "postgres_host": HOST,
            "postgres_port": free_port(),
            "postgres_user": "raidhub",
            "postgres_password": "secret",
            "postgres_db": "raidhub",
            "rabbitmq_host": HOST,
            "rabbitmq_port": free_port(),
            "rabbitmq_ui_port": free_port(),
        }
        self.settings = make_settings(self.address)
        self._folder = folder
        self._epmd = EpmdServer(folder / "rabbitmq", free_port())
        self._servers: dict[str, Server] = {
            "postgres": PostgresServer(self.settings, folder / "postgres", durable=False),
            "rabbitmq": RabbitmqServer(
                self.settings, folder / "rabbitmq", self._epmd.port, free_port()
            ),
        }
        self._running: dict[str, ExitStack] = {}

    def start(self, name: str) -> None:
        log = self._folder / f"{name}.log"
        stack = self._running[name] = ExitStack()
        stack.enter_context(running(self._servers[name], log))

    def stop(self, name: str) -> None:
        self._running.pop(name).close()

    def __enter__(self) -> "Servers":
        stack = self._running["epmd"] = ExitStack()
        stack.enter_context(running(self._epmd, self._folder / "epmd.log"))
        self.start("rabbitmq")
        self.start("postgres")
        migrate_postgres(self.settings)
        seed(self.settings)
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)


@pytest.fixture
def servers(server_folder: Path, settings_for: Callable[..., Settings]) -> Iterator[Servers]:
    folder = server_folder / "restarts"
    folder.mkdir(mode=0o711)
    with Servers(folder, settings_for) as started:
        yield started


def test_goes_on_when_broker_and_database_restart_under_load(servers: Servers) -> None:
    """Nothing is lost and nobody has to do anything: queues are durable, publishes are kept."""
    with simulator(8000, "--calm", "--fault", "latency_ms=20") as world:
        api = {"bungie_api_key": "k", "pgcr_url_base": world.url}
        crawl = Atlas(servers.settings, {**servers.address, **api})
        with crawl.start("--until", world.last, "--block-size", 200, "--workers", 5) as process:
            for name in ("rabbitmq", "postgres"):
                begun = crawl.cursor()
                until(partial(crawl.has_crawled, begun + 400))
                servers.stop(name)
                until(partial(_misses, crawl, name))
                servers.start(name)
            assert process.wait(150) == 0
        assert set(crawl.published()) >= world.raids()
    assert crawl.uncovered() == []
    assert crawl.missed() == {}


def _misses(crawl: Atlas, name: str) -> bool:
    return "does not answer" in crawl.health()[1][name]


@asynccontextmanager
async def publishing(settings: Settings) -> AsyncIterator[Publisher]:
    publisher = Publisher(settings, "pytest")
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def message(instance_id: int) -> Message:
    properties = instance_store_properties(instance_id, datetime.now(UTC), "pytest", False)
    return Message(INSTANCE_STORE, b"body", properties)


def received(settings: Settings) -> list[int]:
    broker = connect_broker(settings, "pytest")
    channel = broker.channel()
    ids: list[int] = []
    while True:
        method, properties, _ = channel.basic_get(INSTANCE_STORE, auto_ack=True)
        if method is None:
            broker.close()
            return ids
        ids.append(properties.headers["instance_id"])


@pytest.fixture
def broker(rabbitmq: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(rabbitmq)


@pytest.mark.asyncio
async def test_publishes_what_was_given_before_the_connection_was_up(broker: Settings) -> None:
    async with publishing(broker) as publisher:
        futures = [publisher.publish(message(i)) for i in range(1, 600)]
        assert publisher.backlog == 599
        await asyncio.wait_for(asyncio.gather(*futures), 30)
        assert publisher.backlog == 0
        assert publisher.problem is None
        assert await publisher.depth(INSTANCE_STORE) == 599
    assert received(broker) == list(range(1, 600))


@pytest.mark.asyncio
async def test_declares_a_queue_that_somebody_deleted_and_sends_again(broker: Settings) -> None:
    """The broker drops what it cannot route; without `mandatory` it would count as published."""
    async with publishing(broker) as publisher:
        await asyncio.wait_for(publisher.publish(message(1)), 30)
        await asyncio.to_thread(_delete_queue, broker)
        await asyncio.wait_for(publisher.publish(message(2)), 30)
    assert received(broker) == [2]


@pytest.mark.asyncio
async def test_sends_again_what_was_unconfirmed_when_the_channel_ended(broker: Settings) -> None:
    async with publishing(broker) as publisher:
        await asyncio.wait_for(publisher.publish(message(1)), 30)
        closed = asyncio.Event()
        publisher._channel.add_on_close_callback(lambda *_: closed.set())
        await asyncio.to_thread(_delete_queue, broker)
        # A passive declaration of a queue that is gone makes the broker close the channel.
        depth = asyncio.create_task(publisher.depth(INSTANCE_STORE))
        futures = [publisher.publish(message(i)) for i in range(2, 50)]
        await asyncio.wait_for(closed.wait(), 30)
        # The channel is closed, the connection not yet: asking on it must not end the crawl.
        assert await publisher.depth(INSTANCE_STORE) is None
        assert await depth is None
        await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert set(received(broker)) == set(range(2, 50))


def _delete_queue(settings: Settings) -> None:
    connection = connect_broker(settings, "pytest")
    connection.channel().queue_delete(INSTANCE_STORE)
    connection.close()

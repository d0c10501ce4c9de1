"""A long queue of small messages through hermes: how fast it drains, and what memory that takes.

The topic has the limits and the law of player_crawl; its handler waits as long as a quick answer of
the API takes, so what is measured is the consumer. `rss_mb` is the largest resident memory seen,
`rss_growth_mb` what came on top after a third of the messages. `contest_s` is the time from a
contest's entry in the definitions to the last worker.
"""

import multiprocessing
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from raidhub_dagster.messaging.messages import Message, effect_properties
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.messaging.topology import PLAYER_CRAWL
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.stack.rabbitmq import EpmdServer, RabbitmqServer
from raidhub_dagster.storage.postgres import connect
from streaming.hermes.topic import Delivery, Limits, Scaling, Topic
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import server
from tests.support.system import wait_for

MESSAGES = 100_000
ANSWER_S = 0.005
_FIRST_PLAYER = 4_611_686_018_000_000_000
_LIMITS = Limits(minimum=5, maximum=100, desired=20, contest=50)
_LAW = Scaling(up_share=0.5, least_step=3, most_step=25, checks_up=1, cooldown_s=30.0)
MIB = 2**20


@dataclass
class Answering:
    """A handler that only waits."""

    pause: threading.Event

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        for _ in deliveries:
            self.pause.wait(ANSWER_S)
        return [None] * len(deliveries)

    def put_off(self, delivery: Delivery, error: Exception) -> None:
        pass

    def give_up(self, delivery: Delivery, error: Exception) -> None:
        """Nothing fails here."""

    def close(self) -> None:
        """Nothing is open."""


def consume(settings: Settings) -> None:
    """The process that is measured: all of `raidhub hermes`, with the topic of the benchmark."""
    from streaming.hermes.topics.registry import TOPICS

    TOPICS[PLAYER_CRAWL] = Topic(
        PLAYER_CRAWL,
        lambda _settings: Answering(threading.Event()),
        _LIMITS,
        retries=5,
        base_delay_s=300,
        scaling=_LAW,
    )
    from streaming.hermes import process

    process.run(settings, [PLAYER_CRAWL], slots=None, batch=None)


@contextmanager
def servers() -> Iterator[Settings]:
    """PostgreSQL with the definitions, and a durable broker."""
    with server() as database, tempfile.TemporaryDirectory(prefix="raidhub-bench-") as name:
        folder = Path(name)
        settings = database.model_copy(
            update={
                "rabbitmq_host": HOST,
                "rabbitmq_port": free_port(),
                "rabbitmq_ui_port": free_port(),
                "hermes_metrics_port": free_port(),
            }
        )
        epmd = EpmdServer(folder, free_port())
        node = RabbitmqServer(settings, folder, epmd.port, free_port())
        with running(epmd, folder / "epmd.log"), running(node, folder / "rabbitmq.log"):
            yield settings


def fill(settings: Settings, messages: int) -> None:
    """As the relay does it."""
    with Publisher(settings, "bench") as publisher:
        for start in range(0, messages, 500):
            batch = []
            for number in range(start, min(start + 500, messages)):
                body = b"%d" % (_FIRST_PLAYER + number)
                batch.append(
                    Message(PLAYER_CRAWL, body, effect_properties(PLAYER_CRAWL, number, body))
                )
            publisher.publish(batch)


class Watched:
    """The consuming process, seen from outside."""

    def __init__(self, settings: Settings, pid: int) -> None:
        self._url = f"http://{HOST}:{settings.hermes_metrics_port}/metrics"
        self.process = psutil.Process(pid)

    def value(self, name: str, *, status: str = "") -> float:
        """0 before the process tells it."""
        labels = f'queue_name="{PLAYER_CRAWL}"' + (f',status="{status}"' if status else "")
        try:
            text = requests.get(self._url, timeout=5).text
        except requests.ConnectionError:
            return 0.0
        found = re.search(rf"^{name}{{{labels}}} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def handled(self) -> float:
        return self.value("queue_messages_processed_total", status="success")

    @property
    def workers(self) -> float:
        return self.value("queue_worker_count")


def drain(watched: Watched, messages: int) -> Figures:
    wait_for("the first message is handled", lambda: watched.handled > 0, limit_s=60, pause_s=0.05)
    began_at, began_with = time.perf_counter(), watched.handled
    sizes: list[tuple[float, int]] = []
    while (handled := watched.handled) < messages:
        sizes.append((handled, watched.process.memory_info().rss))
        time.sleep(0.25)
    seconds = time.perf_counter() - began_at
    early = max(size for handled, size in sizes if handled <= messages / 3)
    most = max(size for _, size in sizes)
    return {
        "messages_per_second": (messages - began_with) / seconds,
        "rss_mb": most / MIB,
        "rss_growth_mb": (most - early) / MIB,
    }


def begin_contest(settings: Settings) -> None:
    with closing(connect(settings, "bench")) as connection, connection:  # noqa: SIM117  commits
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE definitions.activity_definition"
                " SET release_date = now() - interval '1 hour',"
                " contest_end = now() + interval '1 day' WHERE id = 11"
            )


def run(messages: int = MESSAGES) -> Figures:
    with servers() as settings:
        fill(settings, messages)
        process = multiprocessing.get_context("spawn").Process(
            target=consume, args=(settings,), daemon=True
        )
        process.start()
        try:
            assert process.pid is not None
            watched = Watched(settings, process.pid)
            figures = drain(watched, messages)
            begin_contest(settings)
            began_at = time.perf_counter()
            wait_for(
                "the contest's workers",
                lambda: watched.workers >= _LIMITS.contest,
                limit_s=60,
                pause_s=0.05,
            )
            figures["contest_s"] = time.perf_counter() - began_at
        finally:
            process.terminate()
            process.join(60)
    return figures


if __name__ == "__main__":
    report(run)

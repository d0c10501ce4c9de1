"""How the stream does, in one look: asked of the databases, the broker and the processes.

Measures only; how it is shown is the command's. What does not answer costs its own part, never the
others, and never more than the time-out.
"""

from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import msgspec

from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging.overview import QueueState, overview
from raidhub_dagster.monitoring.scrape import Scrape, scrape
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import ask_all
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.progress import Stream, measure_stream

_LIMIT_S = 2.0
_STATEMENT_LIMIT_S = 1.5  # so that none goes on when nobody waits for it any more
_NAME = "raidhub status"

Part = TypeVar("Part")


class Crawl(msgspec.Struct, frozen=True):
    """What atlas says of itself; None where it did not measure yet."""

    head_id: int | None
    mode: str | None  # the regime that sets its workers
    workers: int | None
    lag_p20_s: float | None
    systems_off: list[str]  # of Bungie's


class Proxy(msgspec.Struct, frozen=True):
    """What zeus says of itself."""

    addresses: int
    paused: list[str]  # numbers of source addresses
    keys: int
    quarantined: list[str]  # numbers of keys


class Overview(msgspec.Struct, frozen=True):
    """All there is to know; a part is None when it could not be had, and `problems` says why."""

    crawl: Crawl | None
    stream: Stream | None
    queues: list[QueueState] | None  # every main queue
    zeus: Proxy | None
    problems: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Fit for a JSON encoder, every part by its field names."""
        return {
            "crawl": self.crawl,
            "stream": None if self.stream is None else self.stream._asdict(),
            "queues": self.queues and {queue.name: asdict(queue) for queue in self.queues},
            "zeus": self.zeus,
            "problems": self.problems,
        }


def look(settings: Settings, processes: Collection[str]) -> Overview:
    """Takes at most 2 s. `processes` are those that should run here: others are not asked."""
    questions: dict[str, Callable[[], object]] = {
        "postgres": partial(_measure, settings),
        "rabbitmq": partial(overview, settings),
    }
    host = settings.metrics_local
    if "atlas" in processes:
        questions["atlas"] = lambda: _crawl(scrape(host, settings.atlas_metrics_port))
    if "zeus" in processes:
        questions["zeus"] = lambda: _proxy(scrape(host, settings.zeus_metrics_port))
    answers = ask_all(questions, limit_s=_LIMIT_S)

    def part(name: str, kind: type[Part]) -> Part | None:
        answer = answers.get(name)
        return answer if isinstance(answer, kind) else None

    return Overview(
        crawl=part("atlas", Crawl),
        stream=part("postgres", Stream),
        queues=part("rabbitmq", list),
        zeus=part("zeus", Proxy),
        problems={
            name: str(answer)
            for name, answer in answers.items()
            if isinstance(answer, TransientError)
        },
    )


def _measure(settings: Settings) -> Stream:
    with connected(settings, _NAME, limit_s=_STATEMENT_LIMIT_S) as connection:
        return measure_stream(connection)


def _crawl(found: Scrape) -> Crawl:
    modes = [mode for mode, holds in found.by("mode", "atlas_mode").items() if holds]
    head, workers = found.value("atlas_head_id"), found.value("atlas_active_workers")
    systems = found.by("system", "api_system_enabled")
    return Crawl(
        head_id=None if head is None else int(head),
        mode=modes[0] if modes else None,
        workers=None if workers is None else int(workers),
        lag_p20_s=found.value("atlas_lag_p20_seconds"),
        systems_off=sorted(system for system, enabled in systems.items() if not enabled),
    )


def _proxy(found: Scrape) -> Proxy:
    paused = found.by("address", "zeus_address_paused")
    quarantined = found.by("key_index", "zeus_key_quarantined")
    return Proxy(
        addresses=len(paused),
        paused=sorted(address for address, is_so in paused.items() if is_so),
        keys=len(quarantined),
        quarantined=sorted(key for key, is_so in quarantined.items() if is_so),
    )

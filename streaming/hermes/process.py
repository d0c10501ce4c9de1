"""One hermes process: the topics it was given, the relay, and the port that tells how they do."""

import logging
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

import psycopg2

from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.discord.alerts import Alerts
from raidhub_dagster.errors import ConfigurationError, TransientError
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import health, logs
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from streaming.hermes import relay
from streaming.hermes.consumer import Consumer, declare
from streaming.hermes.contest import Contest
from streaming.hermes.gate import Gate, Poller
from streaming.hermes.loop import Loop
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Limits, Topic
from streaming.hermes.topics.registry import TOPICS

log = logging.getLogger(__name__)

RELAY = "relay"
NAMES = (*TOPICS, RELAY)
_GRACE_S = 30.0


def run(settings: Settings, names: Iterable[str], *, slots: int | None, batch: int | None) -> None:
    """Runs until SIGTERM or SIGINT, then drains. Raises TransientError when a thread crashed.

    `names` are of NAMES; `slots` and `batch` replace the numbers of each topic. Raises
    ConfigurationError for a CHEAT_VERSION that does not exist and for a schema older than this code
    needs, before anything is consumed.
    """
    logs.configure(settings.log_level, "hermes")
    current_parameters(settings)
    # A server that is away is waited for; what it has is then looked at with each connection.
    with suppress(psycopg2.OperationalError), connected(settings, "hermes-start"):
        pass
    chosen = set(names)
    topics = [
        replace(
            topic,
            limits=topic.limits if slots is None else _fixed(topic, slots),
            batch=batch or topic.batch,
        )
        for name, topic in TOPICS.items()
        if name in chosen
    ]
    threads = Threads()
    publisher = Publisher(settings, "hermes-publisher", declare=lambda c: declare(c, *topics))
    alerts = Alerts(settings.atlas_webhook_url, footer="hermes", role_id=settings.alerts_role_id)
    gate = Gate()
    contest = Contest(settings)
    runners: list[Consumer | Loop] = []
    for topic in topics:
        runners.append(
            Consumer(
                settings,
                topic,
                publisher,
                threads,
                alerts=alerts,
                gate=gate,
                is_contest=contest.is_on,
                grace_s=_GRACE_S,
            )
        )
        runners.extend(chore(settings, threads) for chore in topic.chores)
    if any(topic.systems for topic in topics):
        runners.append(Poller(settings, gate, alerts).loop(threads))
    if topics:
        runners.append(contest.loop(threads))
    if RELAY in chosen:
        runners.extend(relay.loops(settings, publisher, threads, alerts))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threads.stopping.set())
    # A relay beside consumers, both on one machine, needs a port of its own.
    port, variable = (
        (settings.hermes_metrics_port, "HERMES_METRICS_PORT")
        if topics
        else (settings.relay_metrics_port, "RELAY_METRICS_PORT")
    )
    loops: dict[str, health.Check] = {runner.name: runner.hangs for runner in runners}
    checks: dict[str, health.Check] = {runner.name: runner.problem for runner in runners}
    checks["postgres"] = lambda: _ask_postgres(settings)
    serving = health.serve(port, checks, loops=loops, variable=variable, host=settings.metrics_host)
    with serving, publisher, alerts:
        log.info(
            "Hermes runs %s",
            ", ".join(runner.name for runner in runners),
            extra={"action": "hermes_started"},
        )
        running = [threads.start(runner.name, runner.run) for runner in runners]
        threads.stopping.wait()
        ends_at = time.monotonic() + _GRACE_S
        for thread in running:
            thread.join(max(0.0, ends_at - time.monotonic()))
    log.info("Hermes has drained", extra={"action": "hermes_stopped"})
    if threads.crashed:
        raise TransientError("hermes: a thread crashed, the log above says why")


def _fixed(topic: Topic, slots: int) -> Limits:
    workers = slots * topic.workers_per_slot
    return Limits(workers, workers, workers, workers)


def _ask_postgres(settings: Settings) -> str | None:
    try:
        with connected(settings, "hermes-health"):
            return None
    except (psycopg2.OperationalError, ConfigurationError) as error:
        return str(error).strip().splitlines()[0]

"""Topic instance_cheat_check: the ledger around whatever checks."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.cheat_detection.checker import Checker, Verdict, load_checker
from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.settings import Settings
from streaming.hermes.topic import Delivery, Topic
from streaming.hermes.topics import instance_cheat_check
from streaming.hermes.topics.registry import TOPICS, topics
from tests.support import worlds
from tests.support.queues import consuming, publish, ready, take, until
from tests.support.topics import execute, outcome, outcomes, rows, small, store

LEDGER = (
    "SELECT instance_id, version, probability::float, bitmask, flagged_players"
    " FROM streaming.cheat_check ORDER BY 1, 2"
)
INSTANCE = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER])
BODY = b"%d" % INSTANCE.instance_id
_FLAGGED = Verdict(0.75, 1 << 62, 2)


@dataclass
class Rules:
    """Rules of a test: they find what they are told to and note what they were asked."""

    version: str = "test-1"
    verdict: Verdict = _FLAGGED
    asked: list[int] = field(default_factory=list)
    fails: list[Exception] = field(default_factory=list)

    def check(self, connection: Connection, instance_id: int) -> Verdict | None:
        self.asked.append(instance_id)
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM core.instance WHERE instance_id = %s", (instance_id,))
            if cursor.rowcount == 0:
                return None
            cursor.execute(
                "INSERT INTO flagging.flag_instance (instance_id, cheat_check_version,"
                " cheat_check_bitmask, cheat_probability) VALUES (%s, %s, %s, %s)",
                (instance_id, self.version, self.verdict.bitmask, self.verdict.probability),
            )
        if self.fails:
            raise self.fails.pop()
        return self.verdict


def topic(rules: Checker) -> Topic:
    return instance_cheat_check.topic(rules)


@pytest.fixture
def settings(
    postgres: dict[str, Any], rabbitmq: dict[str, Any], settings_for: Callable[..., Settings]
) -> Settings:
    found = settings_for(postgres, rabbitmq)
    store(found, INSTANCE)
    return found


def test_without_rules_nobody_takes_the_messages() -> None:
    """They wait in their queue: consumed without a check, they would never be checked."""
    assert load_checker() is None
    assert "instance_cheat_check" not in TOPICS
    with_rules = topics(Rules())
    assert set(with_rules) - set(TOPICS) == {"instance_cheat_check"}


@pytest.mark.parametrize("verdict", [_FLAGGED, Verdict(0.0, 0, 0)])
def test_every_check_is_recorded_a_clean_one_too(settings: Settings, verdict: Verdict) -> None:
    """Otherwise every run over the last weeks would check the clean ones again."""
    rules = Rules(verdict=verdict)
    assert outcomes(settings, topic(rules), [BODY, BODY]) == [None, None]
    assert rules.asked == [INSTANCE.instance_id]
    assert rows(settings, LEDGER) == [(INSTANCE.instance_id, "test-1", *verdict)]


def test_a_new_version_checks_again(settings: Settings) -> None:
    for version in ("test-1", "test-2"):
        assert outcome(settings, topic(Rules(version)), BODY) is None
    assert [row[1] for row in rows(settings, LEDGER)] == ["test-1", "test-2"]


def test_an_instance_that_is_not_stored_is_done_with_a_warning(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert outcome(settings, topic(Rules()), b"5") is None
    assert [r.__dict__["instance_id"] for r in caplog.records if "action" in r.__dict__] == [5]
    assert rows(settings, LEDGER) == []


@pytest.mark.parametrize("template", ["%d", '"%d"', '{"instanceId": "%d"}', '{"instanceId": %d}'])
def test_every_shape_of_message_is_taken(settings: Settings, template: str) -> None:
    body = (template % INSTANCE.instance_id).encode()
    assert outcome(settings, topic(Rules()), body) is None
    assert len(rows(settings, LEDGER)) == 1


@pytest.mark.parametrize("bad", [b"", b"x", b"-1", b"{}"])
def test_a_body_without_an_id_is_permanent(settings: Settings, bad: bytes) -> None:
    assert isinstance(outcome(settings, topic(Rules()), bad), PermanentError)


def test_a_check_that_fails_leaves_neither_flag_nor_record(settings: Settings) -> None:
    """Flags and ledger are one transaction: the retry finds nothing half done."""
    rules = Rules(fails=[TransientError("once")])
    with closing(topic(rules).open(settings)) as handler:
        (error,) = handler.handle([Delivery(BODY)])
        assert isinstance(error, TransientError)
        assert rows(settings, "SELECT count(*) FROM flagging.flag_instance") == [(0,)]
        assert rows(settings, LEDGER) == []
        assert list(handler.handle([Delivery(BODY)])) == [None]
    assert len(rows(settings, LEDGER)) == 1


def test_a_lost_connection_costs_only_the_try_that_met_it(settings: Settings) -> None:
    rules = Rules()
    with closing(topic(rules).open(settings)) as handler:
        assert list(handler.handle([Delivery(b"5")])) == [None]
        execute(
            settings,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'hermes-topics' AND datname = current_database()",
        )
        (error,) = handler.handle([Delivery(BODY)])
        assert isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        assert list(handler.handle([Delivery(BODY)])) == [None]
    assert len(rows(settings, LEDGER)) == 1


def test_slots_that_check_the_same_instance_at_once_check_it_once(settings: Settings) -> None:
    rules = Rules()
    found: list[Exception | None] = []
    threads = [
        threading.Thread(target=lambda: found.extend(outcomes(settings, topic(rules), [BODY] * 5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None] * 20
    assert rules.asked == [INSTANCE.instance_id]


def test_messages_go_through_park_and_are_retried(settings: Settings) -> None:
    rules = Rules(fails=[TransientError("once")])
    checks = small(topic(rules), 3)
    publish(settings, checks, b"x", BODY)
    with consuming(settings, checks):
        until(lambda: len(rows(settings, LEDGER)) == 1)
        until(lambda: ready(settings, "instance_cheat_check.parked") == 1)
    parked = take(settings, "instance_cheat_check.parked")
    assert parked is not None
    assert (parked[1], parked[0]["reason"]) == (b"x", "poison")
    assert len(rules.asked) == 2

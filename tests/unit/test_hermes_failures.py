"""Which failure gets which treatment, and what a retried or parked message carries."""

from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from psycopg2 import errors

from raidhub_dagster.errors import (
    ConfigurationError,
    MaintenanceError,
    PermanentError,
    TransientError,
    UnavailableError,
)
from raidhub_dagster.messaging.connection import BrokerError
from raidhub_dagster.messaging.publisher import UnroutableError
from streaming.hermes.failures import (
    Treatment,
    parked_message,
    postponed_message,
    retries_of,
    retry_message,
    treatment_of,
)
from streaming.hermes.topic import Delivery, PostponedError
from tests.support.queues import Trial

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
TOPIC = Trial().topic(retries=3)


@pytest.mark.parametrize(
    ("error", "retries", "expected"),
    [
        (TransientError("504"), 0, Treatment.RETRY),
        (TransientError("504"), 2, Treatment.RETRY),
        (TransientError("504"), 3, Treatment.EXHAUSTED),
        (KeyError("a bug"), 0, Treatment.RETRY),
        (errors.ForeignKeyViolation(), 3, Treatment.EXHAUSTED),
        (PermanentError("not JSON"), 0, Treatment.POISON),
        (BrokerError("gone"), 3, Treatment.PAUSE),
        (UnavailableError("the API refuses our key"), 3, Treatment.PAUSE),
        (UnroutableError({"x"}), 3, Treatment.PAUSE),
        (psycopg2.InterfaceError("connection already closed"), 3, Treatment.PAUSE),
        (psycopg2.OperationalError("refused"), 3, Treatment.PAUSE),
        (ConfigurationError("BUNGIE_API_KEY is not set"), 3, Treatment.PAUSE),
        (PostponedError("withheld", "pgcr_blocked"), 3, Treatment.POSTPONE),
        (MaintenanceError("off"), 3, Treatment.PAUSE),  # nothing tells when it is over
    ],
)
def test_each_failure_is_treated_by_its_class(
    error: Exception, retries: int, expected: Treatment
) -> None:
    delivery = Delivery(b"", {"x-retry-count": retries})
    assert treatment_of(error, TOPIC, delivery) is expected


@pytest.mark.parametrize("count", ["2", -1, True, 1.5, None, {}])
def test_a_strange_retry_count_is_none(count: Any) -> None:
    """Headers come from outside; a wrong one must not crash the consumer."""
    assert retries_of(Delivery(b"", {"x-retry-count": count})) == 0


def test_a_retry_keeps_the_message_and_counts_in_our_own_header() -> None:
    first = Delivery(b"\x00body", {"source": "atlas", "x-death": [{}]}, "id", "text/plain", "gzip")
    message = retry_message(TOPIC, first, TransientError("x" * 900), NOW)
    assert (message.queue, message.body) == ("trial.retry.1", b"\x00body")
    headers = message.properties.pop("headers")
    assert message.properties == {
        "delivery_mode": 2,
        "message_id": "id",
        "content_type": "text/plain",
        "content_encoding": "gzip",
    }
    assert len(headers.pop("x-last-error")) == 500
    assert headers == {
        "source": "atlas",
        "x-retry-count": 1,
        "x-first-failure": NOW.isoformat(),
        "x-origin": "trial",
    }


def test_the_first_failure_is_remembered_and_delays_double() -> None:
    earlier = {"x-retry-count": 2, "x-first-failure": "2024-12-31T00:00:00+00:00"}
    message = retry_message(TOPIC, Delivery(b"", earlier), KeyError("k"), NOW)
    assert message.queue == "trial.retry.4"
    headers = message.properties["headers"]
    assert (headers["x-retry-count"], headers["x-last-error"]) == (3, "KeyError: 'k'")
    assert headers["x-first-failure"] == "2024-12-31T00:00:00+00:00"


def test_a_parked_message_tells_why() -> None:
    delivery = Delivery(b"{", {"x-retry-count": 3})
    message = parked_message(TOPIC, delivery, ValueError("bad"), Treatment.EXHAUSTED, NOW)
    assert (message.queue, message.body) == ("trial.parked", b"{")
    headers = message.properties["headers"]
    assert headers["reason"] == "exhausted"
    assert headers["error"] == "ValueError: bad"
    assert headers["attempts"] == 4
    assert headers["parked_at"] == headers["x-first-failure"] == NOW.isoformat()
    assert headers["version"]


def test_maintenance_is_waited_for_where_a_system_tells_its_end() -> None:
    topic = Trial().topic(systems=("Destiny2",), retries=0)
    assert treatment_of(MaintenanceError("off"), topic, Delivery(b"")) is Treatment.MAINTENANCE


def test_a_postponed_message_goes_as_it_came() -> None:
    """A counted or marked one would be parked after some hours of a contest."""
    headers = {"x-retry-count": 2, "source": "atlas", "x-death": [{}], "x-first-death-queue": "q"}
    delivery = Delivery(b"16000000001", headers, "id", "text/plain", None)
    message = postponed_message(delivery, PostponedError("withheld", "pgcr_blocked"))
    assert (message.queue, message.body) == ("pgcr_blocked", b"16000000001")
    assert message.properties == {
        "delivery_mode": 2,
        "message_id": "id",
        "content_type": "text/plain",
        "headers": {"x-retry-count": 2, "source": "atlas"},
    }

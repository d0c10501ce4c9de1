"""A bad release: what a topic parks before it stops, and how it goes on after the repair."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.settings import Settings
from streaming.hermes import breaker
from streaming.hermes.topic import Delivery
from tests.support.queues import TRIAL, Trial, channel_of, consuming, publish, ready, until

SettingsFor = Callable[..., Settings]


@pytest.fixture
def settings(rabbitmq: dict[str, Any], settings_for: SettingsFor) -> Settings:
    return settings_for(rabbitmq)


def refusing(bad: Callable[[int], bool]) -> Trial:
    def act(delivery: Delivery) -> None:
        if bad(int(delivery.body)):
            raise PermanentError("this release cannot read it")

    return Trial(act)


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "action", "") for record in caplog.records]


def consumers(settings: Settings) -> int:
    with channel_of(settings) as channel:
        count: int = channel.queue_declare(TRIAL, passive=True).method.consumer_count
    return count


@pytest.mark.parametrize("shape", [{"slots": 1}, {"slots": 3}, {"batch": 10, "batch_wait_s": 0.2}])
def test_a_release_that_parks_a_third_stops_instead(
    settings: Settings, shape: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    trial = refusing(lambda n: n % 3 == 0)
    topic = trial.topic(**shape)
    publish(settings, topic, *(b"%d" % n for n in range(100)))
    with consuming(settings, topic) as consumer, caplog.at_level(logging.INFO):
        until(lambda: consumers(settings) == 0 and (consumer.problem() or "").startswith("stopped"))
        until(lambda: ready(settings, TRIAL) + len(good(trial)) + parked(settings) == 100)
        seen, left = len(trial.bodies), ready(settings, TRIAL)
        assert left > 40
        assert parked(settings) <= breaker.LEAST // 3 + 3
        # It neither spins nor alerts again.
        until(turns(consumer))
        assert (len(trial.bodies), ready(settings, TRIAL)) == (seen, left)
        assert actions(caplog).count("topic_stopped_trial") == 1
    # The repaired release goes on where this one stopped.
    before = parked(settings)
    repaired = Trial()
    with consuming(settings, repaired.topic(**shape)) as consumer:
        until(lambda: len(repaired.bodies) == left)
        assert consumer.problem() is None
    assert parked(settings) == before
    assert len({*good(trial), *repaired.bodies}) == 100 - before


def good(trial: Trial) -> list[bytes]:
    return [body for body in trial.bodies if int(body) % 3]


def parked(settings: Settings) -> int:
    return ready(settings, "trial.parked")


def turns(consumer: Any) -> Callable[[], bool]:
    """True once the consumer's loop has turned twice more."""
    seen = [consumer._alive_at]

    def turned() -> bool:
        if consumer._alive_at != seen[-1]:
            seen.append(consumer._alive_at)
        return len(seen) > 2

    return turned


def test_a_few_bad_messages_stop_nothing(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Three at the very start, and one of ten after that."""
    trial = refusing(lambda n: n < 3 or n % 10 == 9)
    topic = trial.topic(slots=2)
    publish(settings, topic, *(b"%d" % n for n in range(200)))
    ticks = iter(range(10**9))
    with (
        caplog.at_level(logging.INFO),
        # A clock that hurries, so that what was parked is measured and told.
        consuming(settings, topic, clock=lambda: next(ticks) * 0.5) as consumer,
    ):
        until(lambda: len(trial.bodies) == 200)
        until(lambda: parked(settings) == 23)
        until(lambda: "messages_parked_trial" in actions(caplog))
        assert not (consumer.problem() or "").startswith("stopped")
    assert ready(settings, TRIAL) == 0


def test_a_retried_message_has_not_ended(settings: Settings) -> None:
    """Five retries each would hide that every single message ends in the parking queue."""
    failed = threading.Event()

    def act(_delivery: Delivery) -> None:
        failed.set()
        raise KeyError("a bug of this release")

    trial = Trial(act)
    topic = trial.topic(retries=1, base_delay_s=1, slots=4)
    publish(settings, topic, *(b"%d" % n for n in range(60)))
    with consuming(settings, topic) as consumer:
        until(lambda: (consumer.problem() or "").startswith("stopped"))
        until(lambda: parked(settings) + ready(settings, TRIAL) == 60)
        assert breaker.LEAST - 1 <= parked(settings) <= breaker.LEAST - 1 + 4

"""Topics that grow and shrink while they run: nothing lost, nothing handled twice, nothing idle."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from streaming.hermes.topic import Delivery, Limits, Scaling
from tests.support.broker import kick
from tests.support.queues import TRIAL, Trial, consuming, publish, ready, until

SettingsFor = Callable[..., Settings]

# The law at the pace of a test.
QUICK = Scaling(
    up_depth=5,
    down_depth=1,
    up_share=1.0,
    down_share=0.5,
    checks_up=1,
    checks_down=1,
    check_every_s=0.05,
    cooldown_s=0.0,
)
LIMITS = Limits(minimum=2, maximum=8, desired=2, contest=6)


@pytest.fixture
def settings(rabbitmq: dict[str, Any], settings_for: SettingsFor) -> Settings:
    return settings_for(rabbitmq)


class Held:
    """A handler's act that holds every message until it is let go; knows how many run."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def __call__(self, _delivery: Delivery) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.release.wait(60)
        with self._lock:
            self.running -= 1


def workers() -> float:
    return float(metrics.QUEUE_WORKER_COUNT.labels(TRIAL)._value.get())


def test_grows_under_load_and_shrinks_when_it_is_gone(settings: Settings) -> None:
    held = Held()
    trial = Trial(held)
    topic = trial.topic(limits=LIMITS, scaling=QUICK)
    bodies = [b"%d" % n for n in range(200)]
    steps = metrics.QUEUE_SCALING_DECISIONS
    before = [steps.labels(TRIAL, way)._value.get() for way in ("up", "down")]
    publish(settings, topic, *bodies)
    with consuming(settings, topic):
        until(lambda: held.running == 8)
        assert workers() == 8
        held.release.set()
        until(lambda: len(trial.bodies) == 200)
        until(lambda: workers() == 2)
        until(lambda: trial.closed >= 6)  # the handlers of the slots that went
    assert held.most == 8
    assert Counter(trial.bodies) == Counter(bodies)
    assert trial.closed == trial.opened
    assert ready(settings, TRIAL) == 0
    # 2, 4, 8 and 8, 4, 2.
    after = [steps.labels(TRIAL, way)._value.get() for way in ("up", "down")]
    assert [a - b for a, b in zip(after, before, strict=True)] == [2, 2]


def test_what_is_held_when_the_number_falls_is_finished_and_nothing_is_taken(
    settings: Settings,
) -> None:
    """All slots are busy while the queue is empty: six of them must not take another message."""
    held = Held()
    trial = Trial(held)
    topic = trial.topic(limits=Limits(2, 8, 8, 8), scaling=QUICK)
    publish(settings, topic, *(b"%d" % n for n in range(8)))
    with consuming(settings, topic):
        until(lambda: held.running == 8)
        until(lambda: workers() == 2)
        # Few enough to bring no new worker.
        publish(settings, topic, *(b"late %d" % n for n in range(5)))
        until(lambda: ready(settings, TRIAL) == 3)  # two are held for the two slots that remain
        assert len(trial.bodies) == 8
        held.release.set()
        until(lambda: len(trial.bodies) == 13)
    assert max(Counter(trial.bodies).values()) == 1
    assert held.most == 8
    assert ready(settings, TRIAL) == 0


def test_a_connection_lost_while_the_number_falls_loses_nothing(settings: Settings) -> None:
    held = Held()
    trial = Trial(held)
    topic = trial.topic(limits=Limits(2, 8, 8, 8), scaling=QUICK)
    bodies = [b"%d" % n for n in range(12)]
    publish(settings, topic, *bodies[:8])
    with consuming(settings, topic) as consumer:
        until(lambda: held.running == 8)
        until(lambda: workers() == 2)
        until(lambda: kick(settings, f"hermes-{TRIAL}"))
        publish(settings, topic, *bodies[8:])
        until(lambda: consumer.problem() is None and len(trial.bodies) >= 8)
        held.release.set()
        until(lambda: set(trial.bodies) == set(bodies) and ready(settings, TRIAL) == 0)
        until(lambda: held.running == 0)
    # Only what was in the slots of the lost connection came again.
    assert {body for body, times in Counter(trial.bodies).items() if times > 1} <= set(bodies[:8])
    assert max(Counter(trial.bodies).values()) <= 2
    assert ready(settings, TRIAL) == ready(settings, "trial.parked") == 0


@pytest.mark.parametrize("batch", [1, 7])
def test_a_number_that_never_rests_handles_everything_once(settings: Settings, batch: int) -> None:
    """Up and down some ten times a second: no delivery is dropped, forgotten or handled again."""
    contest = [False]
    trial = Trial()
    topic = trial.topic(limits=Limits(1, 12, 1, 12), scaling=QUICK, batch=batch)
    bodies: list[bytes] = []
    publish(settings, topic)
    turning = threading.Event()

    def turn() -> None:
        while not turning.wait(0.05):
            contest[0] = not contest[0]

    turner = threading.Thread(target=turn)
    downwards = metrics.QUEUE_SCALING_DECISIONS.labels(TRIAL, "down")._value
    enough = downwards.get() + 8
    with consuming(settings, topic, is_contest=lambda: contest[0]) as consumer:
        until(lambda: consumer.problem() is None)
        turner.start()
        try:
            while downwards.get() < enough:
                assert len(bodies) < 50_000, "the number does not fall"
                chunk = [b"%d" % n for n in range(len(bodies), len(bodies) + 50)]
                publish(settings, topic, *chunk)
                bodies += chunk
            until(lambda: len(trial.bodies) >= len(bodies) and ready(settings, TRIAL) == 0)
        finally:
            turning.set()
            turner.join()
    assert Counter(trial.bodies) == Counter(bodies)
    assert ready(settings, TRIAL) == 0
    assert trial.closed == trial.opened


def test_no_more_is_held_than_the_new_number_of_slots_can_take(settings: Settings) -> None:
    held = Held()
    trial = Trial(held)
    contest = [False]
    topic = trial.topic(limits=LIMITS, batch=3, batch_wait_s=5)
    publish(settings, topic, *[b"x"] * 60)
    with consuming(settings, topic, is_contest=lambda: contest[0]):
        until(lambda: ready(settings, TRIAL) == 60 - 2 * 3)
        contest[0] = True
        # Those of the old subscription are held until they are done, six more slots' worth come.
        until(lambda: ready(settings, TRIAL) == 60 - 2 * 3 - 6 * 3)
        held.release.set()
        until(lambda: len(trial.bodies) == 60)


def test_a_contest_raises_the_workers_at_once_and_its_end_lets_them_fall(
    settings: Settings,
) -> None:
    """The rush begins with the contest, not some checks later."""
    contest = [False]
    held = Held()
    trial = Trial(held)
    topic = trial.topic(limits=LIMITS, scaling=QUICK)
    publish(settings, topic)
    with consuming(settings, topic, is_contest=lambda: contest[0]) as consumer:
        until(lambda: consumer.problem() is None)
        assert workers() == 2
        contest[0] = True
        until(lambda: workers() == 6, limit_s=10)
        publish(settings, topic, *[b"x"] * 50)
        until(lambda: held.running == 8)  # beyond it, as the queue asks
        held.release.set()
        until(lambda: len(trial.bodies) == 50)
        until(lambda: workers() == 6)  # and not below while it lasts
        contest[0] = False
        until(lambda: workers() == 2)


def test_a_trickle_keeps_most_slots_unopened(settings: Settings) -> None:
    """Each slot's handler has connections: a topic's 20 must not hold 20 of them for nothing."""
    trial = Trial()
    topic = trial.topic(slots=20)
    with consuming(settings, topic):
        for number in range(1, 11):
            publish(settings, topic, b"%d" % number)
            until(lambda: len(trial.bodies) == number)  # noqa: B023  asked before the next turn
        names = [t.name for t in threading.enumerate() if t.name.startswith(f"{TRIAL}-")]
    assert trial.opened <= 3
    assert len(names) <= 3

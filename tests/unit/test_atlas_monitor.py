"""What the crawl tells people, and how often."""

from datetime import UTC, datetime
from random import Random

import pytest

from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.discord.alerts import Alert, Alerts
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.storage.ledger import Block
from raidhub_dagster.storage.missed import Backoff
from streaming.atlas.monitor import Monitor
from streaming.atlas.plan import Plan, Unresolved
from streaming.atlas.scaling import Bounds, Mode
from streaming.atlas.search import Search
from streaming.atlas.visit import Visit

NON_RAID = PgcrResult(ResultKind.NON_RAID, 1, "Success", "")
NOT_FOUND = PgcrResult(ResultKind.NOT_FOUND, 1653, "DestinyPGCRNotFound", "")


class Channel(Alerts):
    """Keeps what would be sent."""

    def __init__(self, clock: "Clock") -> None:
        super().__init__(None, footer="test", clock=clock)
        self.sent: list[Alert] = []

    def send(self, alert: Alert) -> bool:
        is_sent = super().send(alert)
        if is_sent:
            self.sent.append(alert)
        return is_sent

    @property
    def titles(self) -> list[str]:
        return [alert.title for alert in self.sent]


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Watched:
    def __init__(self) -> None:
        self.clock = Clock()
        self.channel = Channel(self.clock)
        rng = Random(1)
        self.plan = Plan(
            workers=25,
            bounds=Bounds(5, 250),
            resolved=1000,
            ceiling=10**11,
            backoff=Backoff(rng),
            rng=rng,
            clock=self.clock,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        )
        self.monitor = Monitor(self.plan, self.channel)

    def look(self, *results: PgcrResult) -> None:
        """Fifteen seconds with these answers."""
        self.clock.time += 15
        for result in results:
            self.plan.in_flight += 1
            self.plan.answered(Visit(5, is_probe=True), result, 30.0)
        self.monitor.looked(self.plan.evaluate(), 15)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def mode() -> str:
    """The one that the metric shows."""
    (shown,) = [m for m in Mode if metrics.ATLAS_MODE.labels(m)._value.get() == 1]
    return shown


def test_the_regime_is_a_metric_and_told_at_most_once_in_five_minutes(watched: Watched) -> None:
    assert mode() == Mode.CATCH_UP
    watched.look(*[NOT_FOUND] * 30, *[NON_RAID] * 10)
    assert mode() == Mode.PROBE
    for _ in range(16):
        watched.look(*[NON_RAID] * 100)
    assert mode() == Mode.CATCH_UP
    starts = [alert for alert in watched.channel.sent if alert.title == "Workers Starting"]
    assert [start.fields["Regime"] for start in starts] == [Mode.PROBE]
    watched.clock.time += 300
    watched.look(*[NOT_FOUND] * 3000)
    starts = [alert for alert in watched.channel.sent if alert.title == "Workers Starting"]
    assert [start.fields["Regime"] for start in starts] == [Mode.PROBE, Mode.PROBE]
    assert starts[0].fields.keys() >= {"Count", "Period", "Current Instance Id"}


def test_the_status_comes_every_half_hour(watched: Watched) -> None:
    for _ in range(4 * 61):
        watched.look(NON_RAID)
    status = [alert for alert in watched.channel.sent if alert.title == "Status Update"]
    assert len(status) == 3
    assert status[-1].fields == {
        "Lag Behind Head": "30 s",
        "404 Percentage": "0.0 %",
        "Error Percentage": "0.0 %",
        "Workers Used": watched.plan.workers,
    }


def test_unresolved_ids_are_told_once_a_minute(watched: Watched) -> None:
    """A hole of two thousand ids would else be four thousand messages."""
    watched.monitor.unresolved(
        [Unresolved(7, 60.0, is_final=False), Unresolved(8, 300.0, is_final=True)]
    )
    watched.clock.time += 60
    watched.monitor.unresolved([Unresolved(9, 300.0, is_final=True)])
    assert watched.channel.titles == ["Unresolved Instance (Warning)", "Unresolved Instance"]
    assert watched.channel.sent[1].fields == {"Instance Id": "9", "Time Elapsed": "300 s"}


def test_a_jump_calls_those_on_duty(watched: Watched) -> None:
    watched.monitor.jumped(Block(2000, 102_000), 20_000)
    (alert,) = watched.channel.sent
    assert (alert.title, alert.mentions) == ("Gap Mode Block Skip", True)
    assert alert.fields["Previous Id"] == "2000"
    assert alert.fields["New Starting Id"] == "102001"


def test_a_night_of_silences_does_not_fill_the_channel(watched: Watched) -> None:
    sight = watched.plan.evaluate()
    for _ in range(12):  # an hour
        watched.monitor.search_begun(sight)
        watched.monitor.search_ended(Search(1, 10**11), sight)
        watched.clock.time += 300
    assert watched.channel.titles.count("High 404 Rate Detected") == 2
    assert watched.channel.titles.count("Gap Supercharge Exiting") == 2


def test_tries_of_offloaded_ids_count_below_zero(watched: Watched) -> None:
    """The dashboards tell first tries from repairs by the sign."""
    before = metrics.PGCR_CRAWL_SUMMARY_STATUS.value("3", "-3")
    watched.monitor.answered(Visit(7, offloaded=2), NOT_FOUND, None)
    assert metrics.PGCR_CRAWL_SUMMARY_STATUS.value("3", "-3") == before + 1


def test_maintenance_reads_as_a_lag_of_zero(watched: Watched) -> None:
    """The public status page tells "offline" by it."""
    off = PgcrResult(ResultKind.SYSTEM_DISABLED, 5, "SystemDisabled", "")
    lag = metrics.PGCR_CRAWL_SUMMARY_LAG_SECONDS.labels("4", "1")
    before = lag._buckets[0].get()
    watched.monitor.answered(Visit(7), off, None)
    assert lag._buckets[0].get() == before + 1

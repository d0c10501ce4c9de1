"""Topics that need Bungie: closed until its systems are known to be on, and while they are off."""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import Endpoints
from raidhub_dagster.discord.alerts import Alerts
from raidhub_dagster.errors import ConfigurationError, MaintenanceError
from raidhub_dagster.monitoring.health import Note
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, find_program, free_port
from raidhub_dagster.storage import api_state
from raidhub_dagster.storage.postgres import connected
from streaming.hermes.gate import Gate, Poller
from streaming.hermes.topic import Delivery
from tests.support.queues import TRIAL, Trial, channel_of, consuming, publish, ready, until

SettingsFor = Callable[..., Settings]
SYSTEMS = ("Destiny2", "D2Profiles")
ON = dict.fromkeys(SYSTEMS, True)


@pytest.fixture
def settings(rabbitmq: dict[str, Any], settings_for: SettingsFor) -> Settings:
    return settings_for(rabbitmq)


def consumers(settings: Settings) -> int:
    with channel_of(settings) as channel:
        count: int = channel.queue_declare(TRIAL, passive=True).method.consumer_count
    return count


def test_a_topic_starts_closed_and_opens_with_its_systems(settings: Settings) -> None:
    """Messages stay ready: visible as depth, and nobody's while nobody can handle them."""
    gate, trial = Gate(), Trial()
    topic = trial.topic(systems=SYSTEMS)
    publish(settings, topic, b"1", b"2")
    with consuming(settings, topic, gate=gate) as consumer:
        until(lambda: consumer.problem() == "closed: Destiny2, D2Profiles are off")
        assert isinstance(consumer.problem(), Note)  # /healthz stays green
        gate.observe({"Destiny2": True}, 0.0)
        until(lambda: consumer.problem() == "closed: D2Profiles is off")
        assert (ready(settings, TRIAL), consumers(settings), trial.bodies) == (2, 0, [])
        gate.observe({"D2Profiles": True}, 0.0)
        until(lambda: len(trial.bodies) == 2)
        assert consumer.problem() is None


def test_a_message_that_meets_maintenance_goes_back_as_it_was(settings: Settings) -> None:
    """Else a Tuesday's maintenance would use up the retries of everything and park it."""
    gate, met = Gate(), threading.Event()
    gate.observe(ON, 0.0)

    def act(_delivery: Delivery) -> None:
        if not met.is_set():
            raise MaintenanceError("SystemDisabled")

    trial = Trial(act)
    topic = trial.topic(systems=SYSTEMS, slots=2, retries=0)
    publish(settings, topic, *(b"%d" % n for n in range(10)), headers={"source": "test"})
    with consuming(settings, topic, gate=gate) as consumer:
        until(lambda: trial.bodies and ready(settings, TRIAL) == 10)
        assert consumer.problem() == "closed: Destiny2, D2Profiles are off"
        assert consumers(settings) == 0
        tried = len(trial.bodies)
        assert 1 <= tried <= 2  # a slot each, and no message again and again
        met.set()
        gate.observe(ON, gate._clock())
        until(lambda: len(trial.bodies) == tried + 10)
    assert sorted(trial.bodies[tried:]) == [b"%d" % n for n in range(10)]
    assert all(d.headers == {"source": "test"} for batch in trial.batches for d in batch)
    assert [ready(settings, q) for q in (TRIAL, "trial.parked")] == [0, 0]


def test_closing_lets_what_runs_finish(settings: Settings) -> None:
    gate, release = Gate(), threading.Event()
    gate.observe(ON, 0.0)
    trial = Trial(lambda _delivery: None if release.wait(60) else pytest.fail("not released"))
    topic = trial.topic(systems=SYSTEMS, batch=2, batch_wait_s=5)
    publish(settings, topic, *[b"x"] * 5)
    with consuming(settings, topic, gate=gate) as consumer:
        until(lambda: trial.batches)
        gate.close(SYSTEMS)
        until(lambda: ready(settings, TRIAL) == 3 and consumer.problem() is not None)
        release.set()
        gate.observe(ON, gate._clock())
        until(lambda: len(trial.bodies) == 5)
    assert ready(settings, TRIAL) == 0


def test_systems_that_come_and_go_cost_nothing(settings: Settings) -> None:
    """On a bad evening Bungie switches something off every few minutes."""
    gate = Gate()
    gate.observe(ON, gate._clock())
    done: list[bytes] = []

    def act(delivery: Delivery) -> None:
        if not available.is_set():
            raise MaintenanceError("SystemDisabled")
        done.append(delivery.body)

    available, stopping = threading.Event(), threading.Event()
    available.set()

    def come_and_go() -> None:
        while not stopping.wait(0.1):
            available.clear()
            stopping.wait(0.1)
            available.set()
            gate.observe(ON, gate._clock())

    trial = Trial(act)
    topic = trial.topic(systems=SYSTEMS, slots=4, retries=0)
    bodies = [b"%d" % n for n in range(3000)]
    publish(settings, topic)
    thread = threading.Thread(target=come_and_go)
    with consuming(settings, topic, gate=gate):
        thread.start()
        try:
            for start in range(0, len(bodies), 100):
                publish(settings, topic, *bodies[start : start + 100])
            until(lambda: len(done) >= len(bodies))
        finally:
            stopping.set()
            thread.join()
    assert sorted(done) == sorted(bodies)
    assert len(trial.bodies) > len(done)  # some did meet maintenance
    assert [ready(settings, q) for q in (TRIAL, "trial.parked")] == [0, 0]


def test_a_topic_without_systems_pauses_instead(settings: Settings) -> None:
    """Nothing would open it again: it looks for itself, uncounted, as with a lost database."""
    left = [MaintenanceError("off")] * 3

    def act(_delivery: Delivery) -> None:
        if left:
            raise left.pop()

    trial = Trial(act)
    topic = trial.topic(retries=0)
    publish(settings, topic, b"1")
    with consuming(settings, topic):
        until(lambda: len(trial.bodies) == 4)
    assert ready(settings, "trial.parked") == 0


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[str]:
    """Its address."""
    port = free_port()
    command = [
        *(find_program("setpriv"), "--pdeathsig=KILL", "--", sys.executable, "-m", "simulator"),
        *("--port", str(port), "--head", "16790000100", "--start-id", "16790000001", "--calm"),
    ]
    with (tmp_path / "simulator.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://{HOST}:{port}"

    def is_up() -> bool:
        assert process.poll() is None, (tmp_path / "simulator.log").read_text()
        try:
            return requests.get(f"{address}/healthz", timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        until(is_up)
        yield address
    finally:
        process.terminate()
        process.wait()


class Asker:
    """A process's gate and poller, at a time of the test's own."""

    def __init__(self, settings: Settings, alerts: Alerts | None = None) -> None:
        self.now = 1000.0
        self.settings = settings
        self.gate = Gate(clock=lambda: self.now)
        self.poller = Poller(
            settings, self.gate, alerts or Alerts(None, footer="test"), clock=lambda: self.now
        )

    @contextmanager
    def asking(self) -> Iterator[Callable[[float], None]]:
        """A function that lets so many seconds pass and then takes a step."""
        endpoints = Endpoints(self.settings.www_base, self.settings.pgcr_base)
        with (
            connected(self.settings, "test") as connection,
            BungieClient(endpoints, self.settings.api_key, "pytest", attempts=1) as client,
        ):

            def step(passed_s: float) -> None:
                self.now += passed_s
                with connection, connection.cursor() as cursor:  # time passes there as well
                    cursor.execute(
                        "UPDATE streaming.api_state"
                        " SET updated_at = updated_at - %s * interval '1 second'",
                        (passed_s,),
                    )
                assert self.poller.step(connection, client) is False

            yield step

    @property
    def off(self) -> list[str]:
        return self.gate.off(("Destiny2", "Groups"))


def test_a_missing_key_is_told_before_anything_runs(settings_for: SettingsFor) -> None:
    """Else every topic that needs Bungie would stay closed, and nobody would know why."""
    with pytest.raises(ConfigurationError, match="BUNGIE_API_KEY"):
        Poller(settings_for(), Gate(), Alerts(None, footer="test"))


def with_key(settings_for: SettingsFor, *parts: dict[str, Any], base: str) -> Settings:
    return settings_for(*parts, bungie_url_base=base, bungie_api_key=SecretStr("key"))


def test_the_poller_follows_what_bungie_says_once_a_minute(
    simulator: str, postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    def maintenance(*, on: bool) -> None:
        body = {"on": on, "systems": ["Groups"]}
        requests.post(f"{simulator}/sim/maintenance", json=body, timeout=5).raise_for_status()

    asker = Asker(with_key(settings_for, postgres, base=simulator))
    with asker.asking() as step:
        step(0)
        assert asker.off == []
        maintenance(on=True)
        step(59)
        assert asker.off == []
        step(1)
        assert asker.off == ["Groups"]
        maintenance(on=False)
        asker.gate.close(("Destiny2",))
        step(0)
        step(14)
        assert asker.gate.off(("Destiny2",)) == ["Destiny2"]
        assert asker.off == ["Groups"]
        step(1)  # sooner than usual: only Bungie can tell which of a topic's systems it was
        assert (asker.gate.off(("Destiny2",)), asker.off) == ([], [])


def test_maintenance_that_one_topic_meets_leaves_the_others_open(
    simulator: str, postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    """Bungie refuses some questions while its list says that all systems of theirs are on."""
    asker = Asker(with_key(settings_for, postgres, base=simulator))
    with asker.asking() as step:
        step(0)
        for _ in range(10):  # refused again each time that its topic opens
            assert asker.gate.off(("Destiny2", "D2Characters")) == []
            asker.gate.close(("Destiny2", "D2Characters"))
            assert asker.off == []
            step(0)
            assert asker.gate.off(("D2Characters", "Destiny2")) == ["D2Characters", "Destiny2"]
            assert asker.off == []
            step(15)
    with connected(asker.settings, "test") as connection:
        assert all(seen.enabled for seen in api_state.read(connection).values())


def test_a_process_without_answer_starts_with_what_another_one_saw(
    postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    """Its own way to Bungie may be down at the very start of a deployment."""
    asker = Asker(with_key(settings_for, postgres, base=f"http://{HOST}:{free_port()}"))
    with connected(asker.settings, "test") as connection, asker.asking() as step:
        step(0)
        assert asker.off == ["Destiny2", "Groups"]  # nobody knows
        api_state.record(connection, {"Destiny2": True, "Groups": True}, age_s=130)
        step(1)
        assert asker.off == ["Destiny2", "Groups"]  # nobody knows any more
        api_state.record(connection, {"Destiny2": True, "Groups": True}, age_s=30)
        step(1)
        assert asker.off == []
        api_state.record(connection, {"Groups": False})
        step(100)
        assert asker.off == ["Groups"]


def test_polls_that_fail_keep_the_state_and_are_told_after_five_minutes(
    simulator: str,
    postgres: dict[str, Any],
    settings_for: SettingsFor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def told() -> int:
        return sum(getattr(r, "action", "") == "api_state_unknown" for r in caplog.records)

    settings = with_key(settings_for, postgres, base=simulator)
    asker = Asker(settings)
    with asker.asking() as step, caplog.at_level(logging.WARNING):
        step(0)
        requests.post(
            f"{simulator}/sim/faults", json={"bad_gateway": 1.0}, timeout=5
        ).raise_for_status()
        for _ in range(4):
            step(60)
        assert (asker.off, told()) == ([], 0)
        for _ in range(3):
            step(60)
        assert (asker.off, told()) == ([], 1)


def test_the_newer_observation_stays_in_the_table(
    postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    """A slow process must not open what another one just saw closed."""
    with connected(settings_for(postgres), "test") as connection:
        assert api_state.read(connection) == {}
        api_state.record(connection, {"Destiny2": False, "Groups": True}, age_s=5)
        api_state.record(connection, {"Destiny2": True}, age_s=60)
        api_state.record(connection, {})
        found = api_state.read(connection)
        assert {name: seen.enabled for name, seen in found.items()} == {
            "Destiny2": False,
            "Groups": True,
        }
        assert 5 <= found["Destiny2"].age_s < 60
        api_state.record(connection, {"Destiny2": True})
        assert api_state.read(connection)["Destiny2"].enabled

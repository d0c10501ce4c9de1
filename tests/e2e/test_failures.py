"""Every part away or ill for a while: the work waits, nobody hammers, and nothing is lost.

One stack lives through all failures in turn. After each, both stores must equal the world's truth
and a recount, the simulator must not have been asked too often meanwhile, and people must have been
told no more often than docs/alerts.md says.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import requests

from raidhub_dagster.storage import clickhouse
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.verify import verify
from tests.support.system import FIRST_ID, System, system, wait_for
from tests.support.truth import assert_true, read_truth
from tests.support.webhook import Hook

# What can be stopped and started again.
AWAY = ("zeus", "postgres", "rabbitmq", "clickhouse", "simulator")
# Publication is held at the start: each failure moves it on by so many ids, a fifth of them raids.
IDS = 200
SIMULATOR = f"--calm --fault latency_ms=3 --raid-share 0.2 --players 2000 --head {FIRST_ID + IDS}"
ATLAS = "--workers 24 --block-size 100 --lease-s 6 --retry-scale 0.05"
STARTED = "Starting up"  # comes with each start, and some are started here
ALERTS = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"


class Stack(System):
    """The stack under test, the head of its publication, and what people were told."""

    def __init__(self, home: Path, hook: Hook) -> None:
        super().__init__(home)
        self.hook = hook
        self.head = FIRST_ID + IDS
        self.started_at: dict[str, float] = {}  # by the monotonic clock, of those started here

    def start(self, name: str) -> None:
        self.started_at[name] = time.monotonic()
        super().start(name)

    def is_published(self) -> bool:
        """True when the simulator answers."""
        try:
            self.ask("/sim")
        except requests.ConnectionError:
            return False
        return True

    def move_head(self, ids: int) -> None:
        """Publishes so many ids more."""
        self.head += ids
        self.ask("/sim/head", head=self.head)


@dataclass(frozen=True)
class Failure:
    """How something breaks, how one sees it in `seen`, and how it is mended.

    `requests_per_s` is how often the API may be asked for reports meanwhile. A crawl without
    back-off would ask several thousand times a second: 24 workers, 3 ms an answer.
    """

    name: str
    begin: Callable[[Stack], object]
    seen: Callable[[Stack], bool]
    end: Callable[[Stack], object]
    requests_per_s: float
    fetches: int = 0  # of what is published meanwhile, which goes on as usual
    told: str = ""  # the alert of zeus that a person must get, once


def is_paused(running: Stack) -> bool:
    """The crawl itself says that it asks nothing for now."""
    return running.health("atlas").get("crawl", "ok") != "ok"


def ill_api(name: str, told: str = "", **faults: float) -> Failure:
    """Every answer of the API is this one."""
    return Failure(
        name,
        lambda running: running.ask("/sim/faults", **faults),
        is_paused,
        lambda running: running.ask("/sim/faults", **dict.fromkeys(faults, 0.0)),
        requests_per_s=15,
        told=told,
    )


def away(name: str) -> Failure:
    """Stopped in an orderly way, as for an update; the others keep running."""

    def come_back(running: Stack) -> None:
        running.start(name)
        if name == "simulator":  # which forgot where its head was held
            wait_for("the simulator is up", running.is_published, limit_s=30)
            running.move_head(0)

    def is_missed(running: Stack) -> bool:
        if name in ("simulator", "zeus"):
            return is_paused(running)
        check = {"clickhouse": "relay_clickhouse", "rabbitmq": "instance_store"}.get(name, name)
        return any(
            found.get(check, "ok") != "ok"
            for found in (running.health(process) for process in ("hermes", "relay"))
        )

    return Failure(
        f"{name} away",
        lambda running: running.stop(name),
        is_missed,
        come_back,
        requests_per_s=80,  # the head is asked in rounds, 20 a second with these pauses
        fetches=2 * IDS,
    )


def maintenance(on: bool) -> Callable[[Stack], Any]:
    return lambda running: running.ask("/sim/maintenance", on=on)


def refuse_key(running: Stack) -> None:
    """Bungie does not know the key any more."""
    running.ask("/sim/keys", key=running.settings.api_key, code=2101)


def correct_key(running: Stack) -> None:
    """What a person does: a key that works, and zeus and atlas started with it."""
    running.ask("/sim/keys", key=running.settings.api_key)
    for name in ("zeus", "atlas"):
        running.stop(name)
        running.start(name)


def fill_disk(running: Stack) -> None:
    """No file of the logs can grow by a byte.

    Supervisord writes all of them, and its own; the kernel refuses each write past this limit just
    as it does on a full disk, but for the number of the error.
    """
    supervisord(running).rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
    maintenance(True)(running)  # something to log


def free_disk(running: Stack) -> None:
    """Space again: what processes say from now on must be read and kept again."""
    known = running.log("atlas").count("gate_opened")
    supervisord(running).rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    maintenance(False)(running)
    wait_for(
        "atlas' log goes on",
        lambda: running.log("atlas").count("gate_opened") > known,
        limit_s=60,
        pause_s=0.1,
    )


def supervisord(running: Stack) -> psutil.Process:
    pid = running.supervisor.pid()
    assert pid is not None
    return psutil.Process(pid)


FAILURES = (
    ill_api("HTML instead of JSON", html=1.0),
    ill_api("403 pages", told="Most Addresses Blocked", edge_block=1.0),
    # Not one request is within the budget: some addresses would have a token to spend, and go on.
    ill_api(
        "429 and its codes",
        told="Most Addresses Paused",
        report_limit_per_s=0.001,
        report_burst=0.5,
    ),
    ill_api("truncated gzip", truncated=1.0),
    ill_api("connection resets", reset=1.0),
    Failure("maintenance", maintenance(True), is_paused, maintenance(False), 15),
    Failure("wrong API key", refuse_key, is_paused, correct_key, 15, told="API Key Quarantined"),
    Failure("log disk full", fill_disk, is_paused, free_disk, 15),
    *map(away, AWAY),
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("failures")
    hook = Hook()
    try:
        with system(
            folder,
            simulator=SIMULATOR,
            atlas=ATLAS,
            ATLAS_WEBHOOK_URL=hook.url.get_secret_value(),
        ) as running:
            yield Stack(running.supervisor.home, hook)
    finally:
        hook.close()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_nothing_is_lost_and_nobody_hammers(stack: Stack, failure: Failure) -> None:
    """A part that is ill for seconds here is ill for hours on a bad day of Bungie's."""
    live_through(stack, failure, hold_s=3.0)


# Those that differ little from the others for us; each costs a quarter of a minute.
ALSO = (
    ill_api("throttled by the game", game_throttle=1.0),
    ill_api("502 pages", bad_gateway=1.0),
    ill_api("503 pages", unavailable=1.0),
    ill_api("half a JSON", broken_json=1.0),
    ill_api("unexpected errors", unexpected=1.0),
)


@pytest.mark.soak
def test_an_hour_of_failures_changes_nothing(stack: Stack) -> None:
    """Long ones, so that pauses grow to their longest, in a new order each round."""
    ends_at = time.monotonic() + 3600
    waiting: list[Failure] = []
    while time.monotonic() < ends_at:
        waiting = waiting or random.sample(both := FAILURES + ALSO, len(both))
        live_through(stack, waiting.pop(), hold_s=120.0)


def live_through(stack: Stack, failure: Failure, *, hold_s: float) -> None:
    stack.move_head(IDS)
    told, zeus_since = len(stack.hook.got), stack.started_at.get("zeus", 0.0)
    failure.begin(stack)
    is_published = stack.is_published()
    if is_published:
        stack.move_head(IDS)
    try:
        wait_for(f"{failure.name} shows", lambda: failure.seen(stack), limit_s=60, pause_s=0.1)
        before = stack.requests_seen("report") if is_published else 0
        threading.Event().wait(hold_s)
        asked = stack.requests_seen("report") - before if is_published else 0
    finally:  # whatever else there is to learn, the next failure begins on a healthy stack
        failure.end(stack)
    most = failure.requests_per_s * hold_s + failure.fetches
    assert asked <= most, f"{asked} requests in {hold_s:.0f} s"
    stack.move_head(IDS)
    # A pause doubles with each try in vain, so that the last one may be as long as the failure.
    limit_s = 120 + 2 * hold_s
    wait_for("all raids are stored", lambda: is_complete(stack), limit_s=limit_s, pause_s=1)
    wait_for("everybody is well", lambda: is_well(stack), limit_s=limit_s)
    with (
        connected(stack.settings, "pytest") as connection,
        closing(clickhouse.connect(stack.settings, "pytest")) as client,
    ):
        assert assert_true(connection, stack.simulator, FIRST_ID, stack.head) > IDS * 0.1
        # What `raidhub verify` does.
        differing = [f for f in verify(connection, client, sample=50, wait_s=90) if not f.is_equal]
        assert differing == []
    if failure.told:
        titles = [message["embeds"][0]["title"] for message in stack.hook.got]
        # Once in its time; it may have been told when zeus met the same before.
        known = sum(arrived < zeus_since for arrived in stack.hook.arrived)
        assert failure.told in titles[known:], titles[known:]
        assert titles[told:].count(failure.told) <= 1, titles[told:]
    assert_told_no_more_than_documented(stack)


def is_well(stack: Stack) -> bool:
    """Every process finds every server that it needs."""
    return all(stack.is_well(name) for name in ("atlas", "hermes", "relay"))


def is_complete(stack: Stack) -> bool:
    raids = read_truth(stack.simulator, "raids", from_=FIRST_ID, to=stack.head)
    wanted = {raid["instance_id"] for raid in raids}
    try:
        stored = {row[0] for row in stack.rows("SELECT instance_id FROM raw.pgcr")}
    except psycopg2.OperationalError:  # PostgreSQL starts again
        return False
    return wanted <= stored


_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def documented_pauses() -> dict[str, float]:
    """Title of an alert -> seconds that lie between two of them, from the table of docs/alerts.md.

    0 where the last column names no time.
    """
    found: dict[str, float] = {}
    for line in ALERTS.read_text("utf-8").splitlines():
        cells = [cell.strip(" `*") for cell in line.strip("|").split("|")]
        if len(cells) == 5 and set(cells[0]) != {"-"}:
            times = re.findall(r"(\d+) ?(s|min|h|d)\b", cells[-1])
            longest = max((float(number) * _UNITS[unit] for number, unit in times), default=0.0)
            found |= dict.fromkeys(cells[0].split(" / "), longest)
    return found


def assert_told_no_more_than_documented(stack: Stack) -> None:
    """A failure is told once in its time by each process, however often it is met.

    One that was started again knows nothing of what it told before.
    """
    pauses = documented_pauses()
    last: dict[tuple[str, str], float] = {}
    for message, arrived in zip(stack.hook.got, stack.hook.arrived, strict=False):
        (embed,) = message["embeds"]
        told = embed["title"], embed["footer"]["text"]
        assert told[0] in pauses, f"{told[0]} is not in docs/alerts.md"
        # Discord is told by a thread: two messages may come a little closer than they were sent.
        process = told[1].split()[0]
        is_new = last.get(told, 0) < stack.started_at.get(process, 0) <= arrived
        if told in last and told[0] != STARTED and not is_new:
            assert arrived - last[told] >= pauses[told[0]] - 2, f"{told} comes too often"
        last[told] = arrived

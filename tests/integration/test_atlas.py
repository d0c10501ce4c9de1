"""Atlas as a process against the simulator, a real broker and a real database."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from raidhub_dagster.messaging.connection import connect as connect_broker
from raidhub_dagster.messaging.topology import INSTANCE_STORE, PGCR_BLOCKED_RETRY
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import free_port, is_taken
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.queries import load
from tests.support.typed import variables

ROOT = Path(__file__).resolve().parents[2]  # what is tested is this checkout, whatever is installed
FIRST = 16_800_000_000
Overrides = dict[str, Any]
Process = subprocess.Popen[str]


def until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    """Waits for a condition of another process."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def running(*arguments: object, **environment: str) -> Iterator[Process]:
    """A command of ours in a process of its own that does not outlive the block.

    It runs in an empty folder: the checkout may have a `.env`, or the settings of a stack.
    """
    main = "from raidhub_dagster.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-c", main, *map(str, arguments)],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


def ends(process: Process, limit_s: float = 60) -> None:
    """The process comes to its end by itself and without an error."""
    output = process.communicate(timeout=limit_s)[1]
    assert process.returncode == 0, output


def _own_port() -> int:
    """A free port below those that the kernel gives to connections.

    Among them a port can go to anybody's connection while the process that shall listen on it is
    still loading its code, and then it ends at once.
    """
    ports = random.SystemRandom()
    while is_taken(port := ports.randrange(20_000, 32_000)):
        pass
    return port


class Simulator:
    """A world of its own whose head is held at the last of `ids` ids."""

    def __init__(self, port: int, ids: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.last = FIRST + ids - 1

    def ask(self, path: str, body: object = None) -> requests.Response:
        method = "GET" if body is None else "POST"
        answer = requests.request(method, f"{self.url}{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer

    def is_up(self) -> bool:
        try:
            self.ask("/sim")
        except requests.ConnectionError:
            return False
        return True

    def raids(self) -> set[int]:
        """Ids of the raids that a crawler can have by now."""
        lines = self.ask(f"/truth/raids?to={self.last}").content.splitlines()
        return {int(json.loads(line)["instance_id"]) for line in lines}

    def requests(self) -> int:
        """How many came so far."""
        return int(sum(self.ask("/truth/requests").json().values()))


@contextmanager
def simulator(ids: int, *arguments: object) -> Iterator[Simulator]:
    port = free_port()
    world = Simulator(port, ids)
    fixed = ("--port", port, "--start-id", FIRST, "--head", world.last)
    with running("simulate", *fixed, *arguments):
        until(world.is_up)
        yield world


class _Discord:
    """Takes messages as Discord does and keeps them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        messages = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                messages.append(json.loads(self.rfile.read(size)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = Thread(target=self._server.serve_forever)

    def __enter__(self) -> "_Discord":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Atlas:
    """How to start atlas against these services, and what it left behind."""

    def __init__(self, settings: Settings, overrides: Overrides) -> None:
        self.settings = settings
        self._environment = variables(overrides)

    def start(self, *arguments: object, **more: str) -> AbstractContextManager[Process]:
        self.port = _own_port()
        given = {**self._environment, "ATLAS_METRICS_PORT": str(self.port), **more}
        return running("atlas", *arguments, **given)

    def health(self) -> tuple[int, dict[str, str]]:
        """Status and checks of /healthz; (0, {}) while nobody listens."""
        try:
            answer = requests.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5)
        except requests.ConnectionError:
            return 0, {}
        return answer.status_code, answer.json()["checks"]

    def cursor(self) -> int:
        rows = self.rows("SELECT next_id FROM streaming.crawl_cursor")
        return int(rows[0][0]) if rows else 0

    def crawl(self, *arguments: object, limit_s: float = 60) -> None:
        with self.start(*arguments) as process:
            ends(process, limit_s)

    def rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with connected(self.settings, "pytest") as connection, connection.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall()

    def has_crawled(self, goal: int) -> bool:
        return self.cursor() >= goal

    def uncovered(self) -> list[tuple[Any, ...]]:
        """Ids below the cursor that no block and no gap holds: always none."""
        return self.rows(load("postgres", "verify")["ledger"], limit=5)

    def missed(self) -> dict[int, str]:
        return dict(self.rows("SELECT instance_id, state FROM streaming.missed_pgcr"))

    def taken(self, queue: str) -> list[bytes]:
        """Bodies of every message in the queue, which is empty then."""
        broker = connect_broker(self.settings, "pytest")
        channel = broker.channel()
        bodies: list[bytes] = []
        while (message := channel.basic_get(queue, auto_ack=True))[0] is not None:
            bodies.append(message[2])
        broker.close()
        return bodies

    def published(self) -> list[int]:
        """Takes every message; each body must be the report of its header's id."""
        broker = connect_broker(self.settings, "pytest")
        channel = broker.channel()
        ids: list[int] = []
        while True:
            method, properties, body = channel.basic_get(INSTANCE_STORE, auto_ack=True)
            if method is None:
                broker.close()
                return ids
            instance_id = properties.headers["instance_id"]
            details = json.loads(open_body(body))["activityDetails"]
            assert int(details["instanceId"]) == instance_id
            ids.append(instance_id)


@pytest.fixture
def atlas(
    postgres: Overrides, rabbitmq: Overrides, settings_for: Callable[..., Settings]
) -> Callable[[Simulator], Atlas]:
    """`atlas(simulator)`."""

    def make(world: Simulator) -> Atlas:
        api = {
            "bungie_api_key": "test-key",
            "pgcr_url_base": world.url,
            "bungie_url_base": world.url,
        }
        overrides = {**postgres, **rabbitmq, **api}
        return Atlas(settings_for(overrides), overrides)

    return make


MakeAtlas = Callable[[Simulator], Atlas]


def test_publishes_every_raid_when_nothing_goes_wrong(atlas: MakeAtlas) -> None:
    """The promise of the crawl; it also begins where the simulator does, without --target."""
    with simulator(2000, "--calm") as world:
        crawl = atlas(world)
        crawl.crawl("--until", world.last, "--block-size", 300)
        assert sorted(crawl.published()) == sorted(world.raids())
    assert crawl.uncovered() == []
    assert crawl.missed() == {}
    ((raids, non_raids),) = crawl.rows(
        "SELECT sum(raids), sum(non_raids) FROM streaming.crawl_block WHERE state = 'done'"
    )
    assert raids + non_raids == 2000


def test_loses_nothing_when_killed_at_any_moment(atlas: MakeAtlas) -> None:
    """DESIGN's first promise, and at each death every id below the cursor is accounted for."""
    rng = random.Random(7)
    with simulator(6000, "--calm", "--fault", "latency_ms=5") as world:
        crawl = atlas(world)
        arguments = ("--until", world.last, "--block-size", 100, "--lease-s", 1)
        for _ in range(4):
            begun = crawl.cursor()
            with crawl.start(*arguments) as process:
                goal = max(begun, FIRST) + rng.randrange(200, 900)
                until(partial(crawl.has_crawled, goal))
                process.kill()
            assert crawl.uncovered() == []
        crawl.crawl(*arguments)
        assert set(crawl.published()) == world.raids()
    assert crawl.uncovered() == []
    assert crawl.rows("SELECT first_id FROM streaming.crawl_block WHERE state <> 'done'") == []


def test_two_share_the_ids(atlas: MakeAtlas) -> None:
    """Replicas are how the crawl grows; each id is fetched by one of them only."""
    with simulator(4000, "--calm", "--fault", "latency_ms=10") as world:
        crawl = atlas(world)
        # Slow enough that the second one is up before the first one is through.
        slow = ("--workers", 4, "--max-workers", 4)
        arguments = ("--until", world.last, "--block-size", 100, *slow)
        with crawl.start(*arguments) as one, crawl.start(*arguments) as two:
            ends(one)
            ends(two)
        assert sorted(crawl.published()) == sorted(world.raids())
    shares = crawl.rows("SELECT count(*) FROM streaming.crawl_block GROUP BY owner")
    assert sum(share for (share,) in shares) == 40
    assert len(shares) == 2


def test_gives_its_blocks_back_when_asked_to_stop(atlas: MakeAtlas) -> None:
    """The next process goes on at once instead of waiting for the leases to end."""
    with simulator(20_000, "--calm", "--fault", "latency_ms=5") as world:
        crawl = atlas(world)
        with crawl.start("--block-size", 500) as process:
            until(lambda: crawl.cursor() > FIRST + 1000)
            process.terminate()
            assert process.wait(30) == 0
        states = dict(
            crawl.rows("SELECT state, count(*) FROM streaming.crawl_block GROUP BY state")
        )
        assert set(states) <= {"done", "released"}
        assert crawl.uncovered() == []


def test_every_odd_id_ends_where_it_belongs(atlas: MakeAtlas) -> None:
    """Late ones are published, holes wait, broken ones are kept, withheld ones handed on."""
    odd = {
        "hole": 0.01,
        "late": 0.01,
        "late_s": 3,
        "blocked": 0.2,
        "blocked_s": 0,
        "blocked_forever": 0.3,
        "malformed": 0.2,
        "malformed_forever": 0.3,
        "malformed_s": 1,
        "unexpected": 0.01,
        "reset": 0.01,
        "truncated": 0.01,
    }
    faults = [part for name, size in odd.items() for part in ("--fault", f"{name}={size}")]
    with simulator(3000, "--calm", *faults) as world:
        crawl = atlas(world)
        last = world.last - 500  # the last ids have no successor yet, holes among them would wait
        world.last = last
        with crawl.start("--retry-scale", 0.02, "--block-size", 200, "--lease-s", 5):
            # Due rows are fetched by a running crawl only: until the states are those of the truth.
            def counts() -> dict[str, int]:
                rows = crawl.rows(
                    "SELECT state, count(*) FROM streaming.missed_pgcr"
                    f" WHERE instance_id <= {last} GROUP BY state"
                )
                return {state: n for state, n in rows if state != "resolved"}

            truth = world.ask(f"/truth/summary?to={last}").json()
            expected = {
                "waiting": truth["holes"],
                "blocked": truth["blocked_forever"],
                "malformed": truth["malformed_forever"],
            }
            assert min(expected.values()) > 0
            until(lambda: crawl.cursor() > last and counts() == expected)
        raids = world.raids()
        assert {i for i in crawl.published() if i <= last} == raids
        handed_on = sorted(int(body) for body in crawl.taken(PGCR_BLOCKED_RETRY))
    # Each once: their own topic tries them from here on.
    assert handed_on == sorted(i for i, state in crawl.missed().items() if state == "blocked")
    assert not raids & {i for i, state in crawl.missed().items() if state != "resolved"}


def test_says_when_the_key_is_refused_and_hardly_asks(atlas: MakeAtlas) -> None:
    """A hot loop with a bad key is how an application gets blocked."""
    with simulator(1000, "--calm", "--api-key", "another") as world:
        crawl = atlas(world)
        with crawl.start("--workers", 3) as process:
            until(lambda: "BUNGIE_API_KEY" in crawl.health()[1].get("crawl", ""))
            assert crawl.health()[0] == 503
            assert world.requests() <= 3 + 1  # and one look at the API's systems
            process.terminate()
            output = process.communicate(timeout=30)[1]
        assert process.returncode == 0
        assert "test-key" not in output


def test_is_healthy_and_counts_while_it_crawls(atlas: MakeAtlas) -> None:
    with simulator(500, "--calm") as world:
        crawl = atlas(world)
        with crawl.start():
            until(lambda: crawl.cursor() > world.last and crawl.health()[0] == 200)
            metrics = requests.get(f"http://127.0.0.1:{crawl.port}/metrics", timeout=5).text
    assert 'pgcr_crawl_summary_status{attempts="1",status="2"}' in metrics
    assert 'pgcr_crawl_summary_status_count{attempts="1",status="2"}' in metrics
    assert 'get_pgcr_req_bucket{le="10.0",status="Success"}' in metrics
    assert "pgcr_crawl_summary_lag_seconds_bucket" in metrics
    assert "atlas_active_workers 25.0" in metrics
    assert "atlas_mode{mode=" in metrics


def test_waits_for_maintenance_to_end(atlas: MakeAtlas) -> None:
    with simulator(500, "--calm") as world:
        crawl = atlas(world)
        world.ask("/sim/maintenance", {"on": True})
        with crawl.start("--until", world.last, "--retry-scale", 0.01) as process:
            until(lambda: crawl.health()[1].get("crawl", "").startswith("maintenance"))
            world.ask("/sim/maintenance", {"on": False})
            assert process.wait(60) == 0
        assert sorted(crawl.published()) == sorted(world.raids())
    assert crawl.missed() == {}


def test_jumps_over_a_hole_once_with_two_processes(atlas: MakeAtlas) -> None:
    """Both meet it and both search; a second gap would leave out ids that exist."""
    with simulator(3000, "--calm") as world:
        crawl = atlas(world)
        arguments = ("--target", FIRST - 60_000, "--buffer", 0, "--until", world.last)
        paced = ("--retry-scale", 0.02, "--block-size", 200)
        with crawl.start(*arguments, *paced) as one, crawl.start(*arguments, *paced) as two:
            ends(one, limit_s=120)
            ends(two, limit_s=120)
        assert sorted(crawl.published()) == sorted(world.raids())
    ((first_id, last_id, state),) = crawl.rows("SELECT first_id, last_id, state FROM streaming.gap")
    assert (last_id, state) == (FIRST - 1, "open")
    assert FIRST - 60_000 < first_id < FIRST - 55_000
    assert crawl.uncovered() == []
    # What was leased before the jump was asked one by one.
    assert crawl.missed().keys() == set(range(FIRST - 60_000, first_id))


def test_tells_people_when_it_starts_and_when_it_cannot_go_on(atlas: MakeAtlas) -> None:
    """And an address where nobody answers costs the crawl nothing."""
    with simulator(500, "--calm") as world, _Discord() as discord:
        crawl = atlas(world)
        nobody = f"http://127.0.0.1:{free_port()}/hook"
        with crawl.start("--until", world.last - 200, ATLAS_WEBHOOK_URL=nobody) as process:
            ends(process)
        with crawl.start("--until", world.last, ATLAS_WEBHOOK_URL=discord.url) as process:
            ends(process)
        with (
            connected(crawl.settings, "pytest") as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("DELETE FROM definitions.activity_version")
        with crawl.start(ATLAS_WEBHOOK_URL=discord.url) as process:
            assert process.wait(60) == 1
        assert sorted(crawl.published()) == sorted(world.raids())
    titles = [embed["title"] for message in discord.messages for embed in message["embeds"]]
    assert titles == ["Starting up", "Fatal error in Atlas"]


def test_rides_the_head_as_it_advances(atlas: MakeAtlas) -> None:
    """A silent head is no hole: nothing is given up, and new ids are fetched when they come."""
    with simulator(300, "--calm") as world:
        crawl = atlas(world)
        with crawl.start("--retry-scale", 0.05, "--block-size", 50):
            for _ in range(3):
                until(lambda: _highest(crawl) > world.last - 50)
                world.last += 200
                world.ask("/sim/head", {"head": world.last})
            until(lambda: _highest(crawl) > world.last - 50)
        assert {i for i in crawl.published() if i < world.last - 50} == {
            i for i in world.raids() if i < world.last - 50
        }
    assert crawl.missed() == {}


def _highest(crawl: Atlas) -> int:
    ((last,),) = crawl.rows(
        "SELECT coalesce(max(last_id), 0) FROM streaming.crawl_block WHERE state = 'done'"
    )
    return int(last)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--workers", 0), "--workers"),
        (("--workers", -1), "--workers"),
        (("--workers", 251), "--workers"),
        (("--workers", 9, "--dev"), "--workers"),
        (("--min-workers", 11, "--max-workers", 10), "--min-workers"),
        (("--workers", 4, "--min-workers", 5), "--workers"),
        (("--dev-skip", 4), "--dev-skip"),
        (("--buffer", -2), "--buffer"),
        (("--target", 0), "--target"),
        (("--target", -2), "--target"),
        (("--retry-scale", 0), "--retry-scale"),
    ],
)
def test_refuses_senseless_flags(arguments: tuple[object, ...], word: str) -> None:
    with running("atlas", *arguments) as process:
        output = process.communicate(timeout=30)[1]
    assert process.returncode == 2
    assert word in output


def test_names_the_flag_when_nothing_tells_where_to_begin(
    postgres: Overrides, rabbitmq: Overrides, settings_for: Callable[..., Settings]
) -> None:
    api = {"bungie_api_key": "k", "pgcr_url_base": "https://stats.example.invalid"}
    crawl = Atlas(settings_for(postgres), {**postgres, **rabbitmq, **api})
    with crawl.start() as process:
        output = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "--target" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_names_the_variable_when_the_key_is_missing(postgres: Overrides) -> None:
    given = variables(postgres)
    with running("atlas", **given) as process:
        output = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "BUNGIE_API_KEY" in output.splitlines()[-1]


def test_asks_for_definitions_when_there_are_none(atlas: MakeAtlas) -> None:
    """Raids that only their hash marks would silently count as none."""
    with simulator(10, "--calm") as world:
        crawl = atlas(world)
        with (
            connected(crawl.settings, "pytest") as connection,
            connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("DELETE FROM definitions.activity_version")
        with crawl.start() as process:
            output = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "raidhub seed" in output.splitlines()[-1]

"""Parser and store against the simulator's own reckoning, which shares no code with them."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.bungie.protocol import Endpoints, ResultKind, classify_pgcr, headers
from raidhub_dagster.pgcr.envelope import pack, stamped
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, find_program, free_port
from raidhub_dagster.storage import young
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.store import Outcome, Report, Store
from raidhub_dagster.storage.verify import verify
from tests.support.truth import assert_true

FIRST, IDS = 16_790_000_001, 6_000


@contextmanager
def simulating(log: Path, *arguments: str) -> Iterator[str]:
    """A calm world with its head held; its address."""
    port = free_port()
    command = [
        *(find_program("setpriv"), "--pdeathsig=KILL", "--", sys.executable, "-m", "simulator"),
        *("--port", str(port), "--start-id", str(FIRST), "--calm", "--players", "300", *arguments),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    address = f"http://{HOST}:{port}"
    try:
        while True:
            try:
                requests.get(f"{address}/healthz", timeout=5).raise_for_status()
                break
            except requests.ConnectionError:
                assert process.poll() is None, log.read_text()
        yield address
    finally:
        process.terminate()
        process.wait()


def test_every_stored_row_is_what_the_world_says(
    postgres: dict[str, Any], settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    """A rule that parser and tests misread alike shows only against a second opinion."""
    odd = ("--head", str(FIRST + IDS - 1), "--odd-share", "5", "--unknown-share", "0.01")
    rng = random.Random(5)
    with (
        simulating(tmp_path / "simulator.log", *odd) as simulator,
        closing(connect(settings_for(postgres), "pytest")) as connection,
    ):
        reports = raids(fetch(simulator, connection, range(FIRST, FIRST + IDS)))
        rng.shuffle(reports)
        store = Store(connection)
        for start in range(0, len(reports), 40):
            store.store(reports[start : start + 40], source="test")
        assert assert_true(connection, simulator, FIRST, FIRST + IDS) > IDS * 0.04


def test_reports_that_grew_end_as_the_world_says(
    postgres: dict[str, Any], settings_for: Callable[..., Settings], tmp_path: Path
) -> None:
    """Fetched once a minute after the end, half of the raids would stay as they were then."""
    ids = range(FIRST, FIRST + 4_000)
    growing = ("--fault", "growing=0.6", "--fault", "growing_s=1e9", "--fault", "changeling=0.05")
    rng = random.Random(6)
    never = timedelta(days=36_500)
    rechecks = young.Rechecks(timedelta(seconds=120), timedelta(minutes=15), never)
    with (
        simulating(tmp_path / "log", "--head", str(ids[-1]), "--odd-share", "0", *growing) as world,
        closing(connect(settings_for(postgres), "pytest")) as connection,
    ):
        fetched = list(fetch(world, connection, ids, malformed=True))
        first = [at(r, minutes=1) for r in raids(fetched)]
        store = Store(connection, rechecks=rechecks)
        outcomes = store_shuffled(store, list(first), rng)
        assert outcomes.keys() == {Outcome.STORED}
        malformed = [r for r in fetched if isinstance(r, int)]
        assert len(malformed) > 10

        requests.post(f"{world}/sim/faults", json={"growing_s": 0}, timeout=30).raise_for_status()
        while young.ask_again(connection, rechecks, now=datetime.now(UTC) + timedelta(days=1)):
            pass
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT body FROM streaming.outbox WHERE destination = 'pgcr_crawl'")
            asked = [json.loads(bytes(body)) for (body,) in cursor]
        assert len(asked) == outcomes[Outcome.STORED]
        assert all(body["refetch"] for body in asked)
        again = raids(fetch(world, connection, [int(body["instanceId"]) for body in asked]))
        healed = raids(fetch(world, connection, malformed))
        late = [at(r, minutes=15) for r in (*again, *healed)]
        # An old copy comes a second time, some before and some after the whole one.
        came = store_shuffled(store, [*late, *first], rng)
        for outcome in (Outcome.REPLACED, Outcome.SEEN_AGAIN, Outcome.SUPERSEDED, Outcome.CONFLICT):
            assert came[outcome] > 2, outcome
        assert came[Outcome.STORED] == len(healed) == len(malformed)
        assert assert_true(connection, world, ids[0], ids[-1]) > len(ids) * 0.04
        assert [f for f in verify(connection, None) if not f.is_equal] == []


def raids(fetched: Iterable[Report | int]) -> list[Report]:
    return [report for report in fetched if isinstance(report, Report)]


def at(report: Report, *, minutes: int) -> Report:
    """As fetched so long after the end."""
    fetched_at = report.instance.date_completed + timedelta(minutes=minutes)
    return report._replace(body=stamped(report.body, fetched_at))


def store_shuffled(store: Store, reports: list[Report], rng: random.Random) -> Counter[Outcome]:
    rng.shuffle(reports)
    outcomes: Counter[Outcome] = Counter()
    for start in range(0, len(reports), 40):
        outcomes.update(store.store(reports[start : start + 40], source="test"))
    return outcomes


def fetch(
    simulator: str, connection: Connection, ids: Iterable[int], *, malformed: bool = False
) -> Iterator[Report | int]:
    """The raids among `ids`; with `malformed` also the bare id of those that are so."""
    endpoints = Endpoints(simulator, simulator)
    with connection:
        tracked = load_tracked_hashes(connection)
    with requests.Session() as session:
        session.headers.update(headers("key", "pytest (+mail@example.org)"))
        for instance_id in ids:
            answer = session.get(endpoints.pgcr_url(instance_id), timeout=30)
            result = classify_pgcr(
                answer.status_code,
                answer.headers["Content-Type"],
                answer.content,
                instance_id=instance_id,
                tracked_hashes=tracked,
                now=datetime.now(UTC),
            )
            if malformed and result.kind is ResultKind.BAD_FORMAT:
                yield instance_id
                continue
            assert result.kind in (ResultKind.SUCCESS, ResultKind.NON_RAID), result
            if result.instance is not None:
                assert result.response is not None
                yield Report(result.instance, pack(result.response))

"""Parser and store against the simulator's own reckoning, which shares no code with them."""

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from raidhub_dagster.bungie.protocol import Endpoints, ResultKind, classify_pgcr, headers
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, find_program, free_port
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.store import Report, Store
from tests.support.truth import assert_true

FIRST, IDS = 16_790_000_001, 6_000


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[str]:
    """A calm world with everything odd in its reports; its address."""
    port = free_port()
    command = [
        *(find_program("setpriv"), "--pdeathsig=KILL", "--", sys.executable, "-m", "simulator"),
        *("--port", str(port), "--start-id", str(FIRST), "--head", str(FIRST + IDS - 1)),
        *("--calm", "--players", "300", "--odd-share", "5", "--unknown-share", "0.01"),
    ]
    with (tmp_path / "simulator.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://{HOST}:{port}"
    try:
        while True:
            try:
                requests.get(f"{address}/healthz", timeout=5).raise_for_status()
                break
            except requests.ConnectionError:
                assert process.poll() is None, (tmp_path / "simulator.log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait()


def test_every_stored_row_is_what_the_world_says(
    simulator: str, postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    """A rule that parser and tests misread alike shows only against a second opinion."""
    endpoints, rng = Endpoints(simulator, simulator), random.Random(5)
    with closing(connect(settings_for(postgres), "pytest")) as connection:
        with connection:
            tracked = load_tracked_hashes(connection)
        reports = list(_raids(endpoints, tracked))
        rng.shuffle(reports)
        store = Store(connection)
        for start in range(0, len(reports), 40):
            store.store(reports[start : start + 40], source="test")
        assert assert_true(connection, simulator, FIRST, FIRST + IDS) > IDS * 0.04


def _raids(endpoints: Endpoints, tracked: dict[int, tuple[int, int]]) -> Iterator[Report]:
    with requests.Session() as session:
        session.headers.update(headers("key", "pytest (+mail@example.org)"))
        for instance_id in range(FIRST, FIRST + IDS):
            answer = session.get(endpoints.pgcr_url(instance_id), timeout=30)
            result = classify_pgcr(
                answer.status_code,
                answer.headers["Content-Type"],
                answer.content,
                instance_id=instance_id,
                tracked_hashes=tracked,
                now=datetime.now(UTC),
            )
            assert result.kind in (ResultKind.SUCCESS, ResultKind.NON_RAID), result
            if result.instance is not None:
                assert result.response is not None
                yield Report(result.instance, pack(result.response))

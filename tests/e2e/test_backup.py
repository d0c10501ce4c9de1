"""A stack that crawls is backed up, destroyed, restored, and ends as if nothing had happened."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from raidhub_dagster.storage.postgres import connect
from tests.support.system import FIRST_ID, System, free_base, system, wait_for
from tests.support.truth import assert_true, read_truth

IDS = 3_000
HEAD = FIRST_ID + IDS - 1
SIMULATOR = f"--calm --fault latency_ms=20 --raid-share 0.1 --players 500 --head {HEAD}"
ATLAS = "--workers 24 --block-size 100 --lease-s 6 --retry-scale 0.05"
LOST = {"postgres", "clickhouse", "rabbitmq", "stack.env"}


def test_a_destroyed_stack_comes_back_and_the_crawl_ends_as_the_world_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a new machine: raids that only the dead broker knew of are those that would be lost."""
    folder = tmp_path / "backup"
    with system(tmp_path, simulator=SIMULATOR, atlas=ATLAS) as running:
        wait_for("raids are stored", lambda: _stored(running) >= 60, limit_s=180)
        running.stop("hermes")  # what atlas publishes from now on waits in the queue
        lost = "SELECT sum(raids) - (SELECT count(*) FROM raw.pgcr) FROM streaming.crawl_block"
        wait_for("raids wait in the queue", lambda: running.number(lost) >= 20, limit_s=180)
        made = running.raidhub("backup", folder)
        assert made.returncode == 0, made.stdout + made.stderr
        running.start("hermes")
    home = running.supervisor.home
    assert {path.name for path in home.iterdir()} >= LOST
    for path in home.iterdir():
        if path.name != "simulator":  # it is Bungie, who has lost nothing
            destroy(path)
    monkeypatch.setenv("RAIDHUB_PORT_BASE", str(free_base()))  # stack.env knew the other one
    restored = running.raidhub("restore", folder)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert "asked for again: 0 blocks" not in restored.stdout

    with system(tmp_path, simulator=SIMULATOR, atlas=ATLAS) as running:
        wait_for("everything was stored", lambda: _is_complete(running), limit_s=300)
        running.stop("atlas")
        with closing(connect(running.settings, "pytest")) as connection:
            assert assert_true(connection, running.simulator, FIRST_ID, HEAD) > IDS * 0.05
        recount = running.raidhub("verify", "--wait", 60)
        assert recount.returncode == 0, recount.stdout + recount.stderr


def destroy(path: Path) -> None:
    """With what a link in the home leads to."""
    target = path.resolve()
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    if path.is_symlink():
        path.unlink()


def _stored(running: System) -> int:
    return running.number("SELECT count(*) FROM core.instance")


def _is_complete(running: System) -> bool:
    raids = read_truth(running.simulator, "raids", from_=FIRST_ID, to=HEAD)
    wanted = {raid["instance_id"] for raid in raids}
    return wanted <= {row[0] for row in running.rows("SELECT instance_id FROM raw.pgcr")}

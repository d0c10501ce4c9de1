"""Archives and reprocessing as assets: partitions, runs, checks, the repair of skulls."""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.archives import (
    ARCHIVE_FILES,
    PGCR_ARCHIVE_KEY,
    PGCR_BLOCKS,
    REPROCESSED_PGCR_KEY,
)
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.failures import RETRY_RUN_TAG
from raidhub_dagster.resources import ArchiveResource, PostgresResource
from sensors.archive_partitions import archive_partitions_sensor
from tests.dagster.conftest import World
from tests.dagster.home import ROOT, dagster_environment, run_job
from tests.support.archives import FIRST, NAME, make_lines, pack_lines, serving, write_archive

BLOCK = "16000000000-16009999999"
LINES = make_lines(20)
CONFIG = ROOT / "docs" / "repairs" / "update_skull_hashes.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_archive(tmp_path, LINES)
    return tmp_path


@pytest.fixture
def defs(store: PostgresResource, folder: Path) -> dg.Definitions:
    archives = ArchiveResource(settings={"archive_source": str(folder)})
    return build_defs({"postgres": store, "archives": archives})


def run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    key: dg.AssetKey,
    partition: str,
    **config: Any,
) -> tuple[dg.ExecuteInProcessResult, dict[str, Any]]:
    """One partition as the UI runs it; the result and the metadata of its materialization."""
    definition = ARCHIVE_FILES if key == PGCR_ARCHIVE_KEY else PGCR_BLOCKS
    instance.add_dynamic_partitions(str(definition.name), [partition])
    done = defs.resolve_job_def(job).execute_in_process(
        instance=instance,
        partition_key=partition,
        run_config={"ops": {"__".join(key.path): {"config": config}}},
        raise_on_error=False,
    )
    events = [e for e in done.get_asset_materialization_events() if e.asset_key == key]
    metadata: dict[str, Any] = {}
    if events:
        (event,) = events
        assert event.partition == partition
        found = event.step_materialization_data.materialization.metadata
        metadata = {name: value.value for name, value in found.items()}
    return done, metadata


def load(defs: dg.Definitions, instance: dg.DagsterInstance, **config: Any) -> Any:
    return run(defs, instance, "archives_job", PGCR_ARCHIVE_KEY, NAME, **config)


def evaluations(done: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {e.check_name: e.passed for e in done.get_asset_check_evaluations()}


def test_a_partition_is_a_file(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World, folder: Path
) -> None:
    """A click on Materialize stores the file's raids; the page says how many lines were what."""
    write_archive(folder, [*LINES, b"rubbish\n"])
    done, metadata = load(defs, instance)
    assert done.success
    assert evaluations(done) == {
        "pgcr_archive_counts_add_up": True,
        "pgcr_archive_raids_are_stored": True,
    }
    assert world.rows("SELECT count(*) FROM core.instance") == [(20,)]
    assert metadata["dagster/row_count"] == 20
    assert (metadata["lines"], metadata["lines_non_raid"], metadata["lines_refused"]) == (61, 40, 1)
    assert metadata["share"] == 1.0
    (refused,) = metadata["first_refused_lines"].records
    assert (refused.data["line"], refused.data["reason"]) == (61, "unreadable")


def test_a_run_of_hours_is_observed_while_it_lasts(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    """Without it nobody can tell an import from a hanging one before it ends."""
    load(defs, instance, tell_every_s=0.0)
    filters = dg.AssetRecordsFilter(asset_key=PGCR_ARCHIVE_KEY, asset_partitions=[NAME])
    records = instance.fetch_observations(filters, limit=1000).records
    assert len(records) == len(LINES)
    newest = records[0].asset_observation
    assert newest is not None
    told = {name: value.value for name, value in newest.metadata.items()}
    assert told["share"] == 1.0
    assert {"lines", "lines_per_second", "seconds"} <= set(told)


def test_a_second_run_reads_nothing_unless_told_to(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    """A backfill over all files, started again after a failure, must not begin all over."""
    load(defs, instance)
    _, metadata = load(defs, instance)
    assert (metadata["lines_stored"], metadata["lines_per_second"]) == (20, 0.0)
    _, metadata = load(defs, instance, again=True)
    assert metadata["lines_duplicate"] == 20


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", r"behind line \d+: ends in the middle of the compressed stream"),
        ("gone", "No such file"),
        ("rubbish", "broken compressed stream"),
    ],
)
def test_a_bad_file_fails_at_once_with_the_reason(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    folder: Path,
    damage: str,
    message: str,
) -> None:
    """Retries would read it twice more in vain, for hours."""
    path = folder / f"{NAME}.jsonl.zst"
    if damage == "gone":
        path.unlink()
    else:
        body = path.read_bytes()
        path.write_bytes(body[: len(body) // 2] if damage == "cut" else b"<html>")
    done, _ = load(defs, instance)
    assert not done.success
    (failure,) = done.get_step_failure_events()
    assert re.search(message, str(failure.step_failure_data.error))
    run_record = instance.get_run_by_id(done.run_id)
    assert run_record is not None
    assert run_record.tags[RETRY_RUN_TAG] == "false"


def test_a_setting_that_is_missing_is_named(
    store: PostgresResource, instance: dg.DagsterInstance
) -> None:
    done, _ = load(build_defs({"postgres": store}), instance)
    (failure,) = done.get_step_failure_events()
    assert "ARCHIVE_SOURCE is not set" in str(failure.step_failure_data.error)


def tick(
    store: PostgresResource, instance: dg.DagsterInstance, location: str | None
) -> tuple[dict[str, list[str]], str | None]:
    """Adds what one tick asks for; partitions by definition, and why it skipped."""
    settings = {"archive_source": location} if location else {}
    context = dg.build_sensor_context(
        instance=instance,
        resources={"postgres": store, "archives": ArchiveResource(settings=settings)},
    )
    result = archive_partitions_sensor.evaluate_tick(context)
    asked = {
        request.partitions_def_name: list(request.partition_keys)
        for request in result.dynamic_partitions_requests or ()
    }
    for name, keys in asked.items():
        instance.add_dynamic_partitions(name, keys)
    return asked, result.skip_message


def test_the_sensor_adds_what_has_no_partition_yet(
    store: PostgresResource, instance: dg.DagsterInstance, world: World, folder: Path
) -> None:
    """New files and blocks appear by themselves, old ones keep their history, no run starts."""
    world.player(7)
    world.raid(FIRST + 5, [7])
    write_archive(folder, LINES, "0-9999999")
    asked, _ = tick(store, instance, str(folder))
    assert asked == {"archive_file": ["0-9999999", NAME], "pgcr_block": [BLOCK]}
    asked, why = tick(store, instance, str(folder))
    assert (asked, why) == ({}, "nothing new: 2 archives, 1 blocks of kept reports")
    (folder / "0-9999999.jsonl.zst").unlink()
    write_archive(folder, LINES, "20000000-29999999")
    assert tick(store, instance, str(folder))[0] == {"archive_file": ["20000000-29999999"]}
    assert len(instance.get_dynamic_partitions("archive_file")) == 3


def test_the_sensor_works_without_archives_and_over_the_web(
    store: PostgresResource, instance: dg.DagsterInstance, world: World
) -> None:
    """Reprocessing needs its blocks also where nobody has archives."""
    asked, why = tick(store, instance, None)
    assert (asked, why) == (
        {},
        "nothing new: ARCHIVE_SOURCE is not set, 0 blocks of kept reports",
    )
    with serving() as server:
        server.files = {f"{NAME}.jsonl.zst": pack_lines(LINES)}
        assert tick(store, instance, server.address)[0] == {"archive_file": [NAME]}
    assert world.rows("SELECT count(*) FROM core.instance") == [(0,)]


def test_an_archive_of_a_web_server_is_imported(
    store: PostgresResource, instance: dg.DagsterInstance
) -> None:
    with serving() as server:
        server.files = {f"{NAME}.jsonl.zst": pack_lines(LINES)}
        archives = ArchiveResource(settings={"archive_source": server.address})
        done, metadata = load(build_defs({"postgres": store, "archives": archives}), instance)
    assert done.success
    assert metadata["lines_stored"] == 20


def test_reprocessing_previews_and_repairs_its_block(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World
) -> None:
    """The report names field, old and new value and ids; nothing changes before it is asked to."""
    load(defs, instance)
    world.run("UPDATE core.instance SET score = 5 WHERE instance_id = %s", [FIRST + 10])
    what = (defs, instance, "reprocessing_job", REPROCESSED_PGCR_KEY, BLOCK)
    done, metadata = run(*what)
    assert evaluations(done) == {"reprocessed_pgcr_leaves_none_wrong": False}
    counts = {name: metadata[name] for name in ("dagster/row_count", "wrong_reports", "dry_run")}
    assert counts == {"dagster/row_count": 20, "wrong_reports": 1, "dry_run": True}
    assert "preview: nothing was changed" in metadata["report"]
    assert f"| instance.score | 1 | {FIRST + 10} |  | 5 | 0 |" in metadata["report"]
    assert world.rows("SELECT count(*) FROM core.instance WHERE score = 5") == [(1,)]
    _, metadata = run(*what, dry_run=False, last_id=FIRST + 9)
    assert (metadata["dagster/row_count"], metadata["repaired_reports"]) == (1, 0)
    done, metadata = run(*what, dry_run=False)
    assert evaluations(done) == {"reprocessed_pgcr_leaves_none_wrong": True}
    assert metadata["repaired_reports"] == 1
    assert world.rows("SELECT count(*) FROM core.instance WHERE score = 5") == [(0,)]
    _, metadata = run(*what)
    assert (metadata["wrong_reports"], metadata["repaired_reports"]) == (0, 0)
    done, _ = run(*what, first_id=FIRST + 9, last_id=FIRST)
    (failure,) = [e for e in done.all_events if e.is_step_failure]
    assert f"first_id {FIRST + 9} is above last_id {FIRST}" in str(failure.step_failure_data.error)


def test_the_repair_of_skulls_runs_from_a_shell(postgres: dict[str, Any], tmp_path: Path) -> None:
    """The example file is what people copy: it must be accepted, and preview."""
    environment = dagster_environment(postgres, tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
    done = run_job("update_skull_hashes", environment, CONFIG)
    assert done.returncode == 0, done.stderr
    told = done.stderr + done.stdout
    assert "Skulls of hash 1044919065, ids 1 to 16377060019 (preview" in told
    assert "instances: **0**" in told

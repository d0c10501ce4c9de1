"""The manifest's assets, checks, jobs and sensor on real stores and the simulator."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.manifest import WORK, weapon_definitions
from raidhub_dagster.checks.manifest import MANIFEST_CHECKS
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.failures import RETRY_RUN_TAG
from raidhub_dagster.resources import BungieResource, ClickHouseResource, PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage import api_state
from raidhub_dagster.storage.clickhouse import connect
from raidhub_dagster.storage.postgres import alone
from sensors.manifest_version import (
    EAGER_TRIES,
    VERSION_TAG,
    follow_manifest,
    is_asked,
    manifest_version_sensor,
)
from simulator.manifest import NEW_RAID_HASH, NEW_WEAPON
from tests.dagster.conftest import World
from tests.dagster.home import ROOT, dagster_environment, run_job
from tests.support.bungie import Bungie, simulated

NIGHT = datetime(2026, 7, 1, 3, 0, tzinfo=UTC)
RELEASE = datetime(2026, 7, 7, 17, 5, tzinfo=UTC)

STEPS = [
    "bungie/manifest_version",
    "bungie/manifest_database",
    "bungie/unknown_raid_hashes",
    "postgres/activity_feat_definitions",
    "postgres/class_definitions",
    "postgres/weapon_definitions",
    "clickhouse/activity",
    "clickhouse/activity_version",
    "clickhouse/version",
    "clickhouse/weapon_definition",
]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bungie]:
    with simulated(tmp_path_factory.mktemp("bungie")) as bungie:
        yield bungie


@pytest.fixture
def bungie(simulator: Bungie) -> Iterator[Bungie]:
    """Calm, with a manifest that nobody saw yet."""
    publish(simulator)
    yield simulator
    simulator.calm()


def publish(bungie: Bungie, **body: Any) -> None:
    bungie.ask("/sim/manifest", **{"hidden": 0, **body})


@pytest.fixture
def api(bungie: Bungie, tmp_path: Path) -> dict[str, Any]:
    return {
        "bungie_api_key": "key",
        "bungie_url_base": bungie.address,
        "manifest_dir": str(tmp_path / "manifest"),
    }


@pytest.fixture
def resources(
    store: PostgresResource, clickhouse: dict[str, Any], api: dict[str, Any]
) -> dict[str, Any]:
    return {
        "postgres": store,
        "clickhouse": ClickHouseResource(settings=clickhouse),
        "bungie": BungieResource(settings=api),
    }


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(resources: dict[str, Any], instance: dg.DagsterInstance) -> Run:
    """Executes a job: manifest_job, with `config` as a person types it."""

    def execute(job: str = "manifest_job", **config: Any) -> dg.ExecuteInProcessResult:
        return (
            build_defs(resources)
            .resolve_job_def(job)
            .execute_in_process(instance=instance, raise_on_error=False, run_config=config)
        )

    return execute


def told(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """Asset -> metadata of its materialization."""
    return {
        "/".join(event.asset_key.path): {
            name: value.value if hasattr(value, "value") else value
            for name, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


# --- the job --------------------------------------------------------------------------------------


def test_one_job_brings_everything_to_the_published_version(
    run: Run, bungie: Bungie, world: World, clickhouse: dict[str, Any], settings_for: Any
) -> None:
    result = run()
    assert result.success
    found = told(result)
    assert sorted(found) == sorted(STEPS)
    version = found["bungie/manifest_version"]
    assert version["label"] == bungie.ask("/sim")["manifest"]
    assert version["is_unchanged"] is False
    ((weapons,),) = world.rows("SELECT count(*) FROM definitions.weapon_definition")
    assert found["postgres/weapon_definitions"]["dagster/row_count"] == weapons > 100
    assert found["postgres/activity_feat_definitions"]["dagster/row_count"] == 13
    assert found["bungie/unknown_raid_hashes"]["dagster/row_count"] == 0
    assert version["dagster/row_count"] == 1
    assert found["bungie/manifest_database"]["dagster/row_count"] > weapons
    assert {m["version"] for key, m in found.items() if "clickhouse" not in key} == {
        version["version"]
    }
    client = connect(settings_for(clickhouse), "pytest")
    assert client.query("SELECT count() FROM weapon_definition").result_rows == [(weapons,)]
    client.close()
    assert all(checks(result).values())
    assert {key.name for check in MANIFEST_CHECKS for key in check.check_keys} <= set(
        checks(result)
    )


def test_an_unchanged_version_is_told_and_costs_nothing(run: Run) -> None:
    """A person who looks at the asset wants to know why it took no time."""
    run()
    result = run()
    assert result.success
    found = told(result)
    assert found["bungie/manifest_version"]["to_load"] == "nothing"
    steps = [m["is_unchanged"] for m in found.values() if "is_unchanged" in m]
    assert steps == [True] * 5
    assert found["bungie/manifest_database"]["downloaded_bytes"] == 0


def test_force_is_said_once_for_all_steps(run: Run, world: World) -> None:
    run()
    world.run("UPDATE definitions.weapon_definition SET name = 'wrong'")
    result = run(force=True)
    assert result.success
    found = told(result)
    assert found["bungie/manifest_database"]["downloaded_bytes"] > 0
    loaded = found["postgres/weapon_definitions"]
    assert loaded["updated"] == loaded["dagster/row_count"] - loaded["redacted"]


def test_disk_works_without_bungie(run: Run, bungie: Bungie, world: World) -> None:
    """For a day on which the API is away, or a file that a person brought."""
    run()
    world.run("TRUNCATE definitions.weapon_definition")
    bungie.ask("/sim/maintenance", on=True)
    result = run(disk=True, force=True)
    assert result.success
    assert told(result)["postgres/weapon_definitions"]["inserted"] > 100
    assert [name for name, passed in checks(result).items() if not passed] == [
        "manifest_version_is_published"
    ]


def test_a_file_that_somebody_emptied_is_not_loaded(run: Run, tmp_path: Path) -> None:
    """It passed its checks when it came, and a later run takes it as it lies there."""
    assert run().success
    with closing(sqlite3.connect(tmp_path / "manifest" / "current")) as file, file:
        file.execute("DELETE FROM DestinyClassDefinition")
    result = run()
    assert not result.success
    assert checks(result)["manifest_database_has_every_table"] is False
    assert "postgres/class_definitions" not in told(result)
    assert run(force=True).success


def test_what_a_person_has_to_look_at_is_in_the_metadata(run: Run, bungie: Bungie) -> None:
    publish(bungie, flaws=["bad_records", "new_values", "new_raid"])
    result = run()
    assert result.success
    found = told(result)
    weapons = found["postgres/weapon_definitions"]
    assert (weapons["bad"], weapons["unknown"], weapons["redacted"]) == (7, 5 + 5, 1)
    rows = {
        event.materialization.asset_key.path[-1]: event.materialization.metadata
        for event in result.get_asset_materialization_events()
    }

    def table(asset: str, name: str) -> list[Mapping[str, Any]]:
        value = rows[asset][name]
        assert isinstance(value, dg.TableMetadataValue)
        return [record.data for record in value.records]

    strange = {"value": "8", "records": 1, "examples": f"[{NEW_WEAPON}]"}
    assert {"field": "defaultDamageType", **strange} in table(
        "weapon_definitions", "unknown_values"
    )
    assert [row["hash"] for row in table("unknown_raid_hashes", "raids")] == [NEW_RAID_HASH]
    assert table("weapon_definitions", "bad_records")[0]["hash"] == 11
    assert [name for name, passed in checks(result).items() if not passed] == [
        "unknown_raid_hashes_are_none"
    ]


@pytest.mark.parametrize("flaw", ["missing_table", "shrunk", "corrupt"])
def test_an_unfit_manifest_fails_at_once_and_changes_nothing(
    run: Run, bungie: Bungie, world: World, instance: dg.DagsterInstance, flaw: str
) -> None:
    """The same file again brings the same failure: neither step nor run is repeated."""
    run()
    before = world.rows("SELECT * FROM definitions.weapon_definition ORDER BY hash")
    publish(bungie, flaws=[flaw])
    result = run()
    assert not result.success
    assert sorted(told(result)) == ["bungie/manifest_version"]
    assert world.rows("SELECT * FROM definitions.weapon_definition ORDER BY hash") == before
    (record,) = instance.get_run_records(limit=1)
    assert record.dagster_run.tags[RETRY_RUN_TAG] == "false"


def test_two_runs_do_not_write_the_folder_at_once(
    run: Run, postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    with alone(settings_for(postgres), "pytest", WORK):
        result = run()
    assert not result.success
    assert sorted(told(result)) == ["bungie/manifest_version"]
    assert run().success


def test_copies_are_made_alone_every_day(run: Run, world: World) -> None:
    run()
    world.run("DELETE FROM definitions.weapon_definition WHERE slot = 'Power'")
    result = run("manifest_lookups_job")
    assert result.success
    copies = {key: m["dagster/row_count"] for key, m in told(result).items()}
    ((weapons,),) = world.rows("SELECT count(*) FROM definitions.weapon_definition")
    assert copies == {
        "clickhouse/activity": 18,
        "clickhouse/activity_version": 91,
        "clickhouse/version": 22,
        "clickhouse/weapon_definition": weapons,
    }


def test_the_job_runs_from_the_command_line(
    postgres: dict[str, Any], clickhouse: dict[str, Any], api: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("force: true\n")
    environment = dagster_environment(postgres | clickhouse | api, tmp_path / "home")
    environment["PYTHONPATH"] = str(ROOT)
    done = run_job("manifest_job", environment, config)
    assert done.returncode == 0, done.stderr


# --- checks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (
            "UPDATE definitions.weapon_definition SET slot = 'Kinetic Slot' WHERE slot = 'Kinetic'",
            "weapon_definitions_have_known_slots",
        ),
        (
            "UPDATE definitions.weapon_definition SET hash = -5"
            " WHERE hash = (SELECT min(hash) FROM definitions.weapon_definition)",
            "weapon_definitions_have_usable_hashes",
        ),
        ("TRUNCATE definitions.weapon_definition", "weapon_definitions_have_usable_hashes"),
        (
            "TRUNCATE definitions.activity_feat_definition",
            "activity_feat_definitions_have_usable_hashes",
        ),
        (
            "DELETE FROM definitions.weapon_definition WHERE slot = 'Power'",
            "weapon_definition_copy_is_whole",
        ),
    ],
)
def test_a_check_fails_on_a_table_that_readers_cannot_use(
    run: Run,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    world: World,
    change: str,
    check: str,
) -> None:
    run()
    world.run(change)
    selection = dg.AssetSelection.checks_for_assets(
        weapon_definitions.key,
        dg.AssetKey(["postgres", "activity_feat_definitions"]),
        dg.AssetKey(["clickhouse", "weapon_definition"]),
    )
    job = dg.define_asset_job("look", selection=selection)
    defs = dg.Definitions.merge(build_defs(resources), dg.Definitions(jobs=[job]))
    result = defs.resolve_job_def("look").execute_in_process(
        instance=instance, raise_on_error=False
    )
    assert checks(result)[check] is False


# --- the sensor -----------------------------------------------------------------------------------

Tick = Callable[..., dg.SensorResult]


@pytest.fixture
def tick(resources: dict[str, Any], instance: dg.DagsterInstance) -> Tick:
    """One tick at `now`, from the cursor of the tick before."""

    def evaluate(
        now: datetime, cursor: str | None = None, bungie: BungieResource | None = None
    ) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={}, repository_def=None
        )
        return follow_manifest(context, bungie or resources["bungie"], resources["postgres"], now)

    return evaluate


def why(result: dg.SensorResult) -> str:
    assert not result.run_requests
    assert isinstance(result.skip_reason, dg.SkipReason)
    return result.skip_reason.skip_message or ""


def request(result: dg.SensorResult) -> dg.RunRequest:
    (found,) = result.run_requests or ()
    return found


def record_run(
    instance: dg.DagsterInstance, asked: dg.RunRequest, status: dg.DagsterRunStatus
) -> str:
    """A run as the daemon makes it from a request."""
    job = build_defs().resolve_job_def("manifest_job")
    run = instance.create_run_for_job(job, tags=dict(asked.tags), status=status)
    return run.run_id


def test_the_wired_sensor_asks_for_a_run(
    resources: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    context = dg.build_sensor_context(
        instance=instance,
        resources={name: resources[name] for name in ("bungie", "postgres")},
    )
    data = manifest_version_sensor.evaluate_tick(context)
    (asked,) = data.run_requests or ()
    version = json.loads(data.cursor or "")["version"]
    assert asked.run_key == f"manifest:{version}"
    assert asked.tags[VERSION_TAG] == version


@pytest.mark.parametrize(
    ("now", "hours_ago", "asks"),
    [
        (datetime(2026, 7, 7, 16, 55, tzinfo=UTC), 0.1, False),
        (datetime(2026, 7, 7, 17, 0, tzinfo=UTC), 0.1, True),
        (datetime(2026, 7, 7, 19, 55, tzinfo=UTC), 0.1, True),
        (datetime(2026, 7, 7, 20, 0, tzinfo=UTC), 0.1, False),
        (datetime(2026, 7, 7, 3, 0, tzinfo=UTC), 3.9, False),
        (datetime(2026, 7, 7, 3, 0, tzinfo=UTC), 4.0, True),
        (datetime(2026, 7, 7, 3, 0, tzinfo=UTC), -1.0, True),  # a clock that was set back
    ],
)
def test_asks_often_after_the_reset_and_rarely_else(
    now: datetime, hours_ago: float, asks: bool
) -> None:
    assert is_asked(now, now - timedelta(hours=hours_ago)) is asks


def test_a_loaded_version_is_left_alone(tick: Tick, run: Run, bungie: Bungie) -> None:
    run()
    result = tick(NIGHT)
    assert "is loaded" in why(result)
    asked = bungie.requests_so_far()
    assert "is loaded" in why(tick(NIGHT + timedelta(minutes=5), result.cursor))
    assert bungie.requests_so_far() == asked
    why(tick(NIGHT + timedelta(hours=4), result.cursor))
    assert bungie.requests_so_far() == asked + 1


def test_a_failed_load_is_tried_again_at_the_next_tick(
    tick: Tick, instance: dg.DagsterInstance
) -> None:
    """A run key works once: with the version alone in it the failure would stay for ever."""
    first = tick(NIGHT)
    key = request(first).run_key
    run_id = record_run(instance, request(first), dg.DagsterRunStatus.FAILURE)
    second = tick(NIGHT + timedelta(minutes=5), first.cursor)
    assert request(second).run_key == f"{key}:after:{run_id}"
    again = tick(NIGHT + timedelta(minutes=5), first.cursor)
    assert request(again).run_key == request(second).run_key  # a daemon that died in between
    run_id = record_run(instance, request(second), dg.DagsterRunStatus.FAILURE)
    third = tick(NIGHT + timedelta(minutes=10), second.cursor)
    assert request(third).run_key == f"{key}:after:{run_id}"


def test_a_version_that_never_loads_is_tried_less(tick: Tick, instance: dg.DagsterInstance) -> None:
    """A manifest that waits for a person must not fill the history with 288 runs a day."""
    result = tick(NIGHT)
    for _ in range(EAGER_TRIES):
        record_run(instance, request(result), dg.DagsterRunStatus.FAILURE)
    assert "was tried 12 times" in why(tick(NIGHT + timedelta(hours=1), result.cursor))
    assert request(tick(NIGHT + timedelta(hours=4), result.cursor))
    assert request(tick(RELEASE, result.cursor))


def test_a_version_in_work_is_not_started_twice(tick: Tick, instance: dg.DagsterInstance) -> None:
    first = tick(RELEASE)
    record_run(instance, request(first), dg.DagsterRunStatus.STARTED)
    assert "runs already" in why(tick(RELEASE + timedelta(minutes=5), first.cursor))


def test_a_version_that_comes_back_is_loaded_again(
    tick: Tick, run: Run, bungie: Bungie, instance: dg.DagsterInstance
) -> None:
    """Servers roll back, and the first load of that version has used up its key."""
    publish(bungie, revision=201)
    first = tick(RELEASE)
    run_id = record_run(instance, request(first), dg.DagsterRunStatus.SUCCESS)
    run()
    publish(bungie, revision=202)
    run()
    publish(bungie, revision=201)
    back = request(tick(RELEASE + timedelta(minutes=5), first.cursor))
    assert back.run_key == f"{request(first).run_key}:after:{run_id}"


def test_a_copy_that_failed_is_tried_again(tick: Tick, run: Run, world: World) -> None:
    """ClickHouse may be away while PostgreSQL loads; weapons would lack names until the night."""
    run()
    world.run("DELETE FROM streaming.api_state WHERE key = 'manifest:clickhouse'")
    assert request(tick(NIGHT))
    assert run().success
    assert "is loaded" in why(tick(NIGHT))


def test_an_api_that_is_down_is_a_skip_and_asked_at_the_next_tick(tick: Tick) -> None:
    down = BungieResource(
        settings={"bungie_api_key": "key", "bungie_url_base": f"http://{HOST}:{free_port()}"}
    )
    result = tick(NIGHT, None, down)
    assert "no answer" in why(result)
    assert result.cursor is None
    assert request(tick(NIGHT + timedelta(minutes=5), result.cursor))


def test_maintenance_is_a_skip(tick: Tick, bungie: Bungie) -> None:
    bungie.ask("/sim/maintenance", on=True)
    assert "SystemDisabled" in why(tick(RELEASE))


@pytest.mark.parametrize(
    ("enabled", "age_s", "asks"), [(False, 60, 0), (False, 300, 1), (True, 60, 1)]
)
def test_the_gate_of_the_stream_is_heeded_while_it_is_fresh(
    tick: Tick, bungie: Bungie, world: World, enabled: bool, age_s: float, asks: int
) -> None:
    """Hermes looks once a minute; without hermes nobody's word from yesterday counts."""
    api_state.record(world.connection, {"Destiny2": enabled}, age_s=age_s)
    asked = bungie.requests_so_far()
    result = tick(RELEASE)
    assert bungie.requests_so_far() == asked + asks
    assert bool(result.run_requests) == bool(asks)


def test_a_refused_key_is_a_red_tick(tick: Tick, bungie: Bungie) -> None:
    """A person has to change it: a skip would hide that for weeks."""
    bungie.ask("/sim/keys", key="key", code=2101)
    with pytest.raises(Exception, match="ApiInvalidOrExpiredKey"):
        tick(RELEASE)
    bungie.ask("/sim/keys", key="key")


@pytest.mark.parametrize(
    "cursor",
    [
        "{old release",
        "[1]",
        '{"version": "x"}',
        '{"asked_at": "2026-07-01T02:59:00", "version": "x"}',
    ],
)
def test_starts_over_when_the_cursor_is_unreadable(tick: Tick, cursor: str) -> None:
    """Otherwise one bad deploy stops the sensor until somebody resets it by hand."""
    assert request(tick(NIGHT, cursor)).run_key != "manifest:x"

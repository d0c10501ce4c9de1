"""Recovery as Dagster runs it: assets, checks, schedules, sensor and repairs, on real servers."""

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pytest
import yaml

from assets.recovery import MISSED_PGCRS_KEY, PGCR_GAPS_KEY
from assets.tables import RETRY
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import (
    BrokerResource,
    BungieResource,
    DiscordResource,
    PostgresResource,
)
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import api_state
from raidhub_dagster.storage.postgres import connected
from sensors.missed_backlog import ABOVE, BELOW, missed_backlog_sensor
from simulator.world import FIRST_ID
from tests.dagster.home import BIN, ROOT, run_job
from tests.dagster.results import evaluation
from tests.support.bungie import IDS, Bungie, simulated
from tests.support.queues import ready, until
from tests.support.recovery import keep, miss, open_gap
from tests.support.topics import execute, rows, store
from tests.support.typed import variables
from tests.support.webhook import Hook

NEWEST = FIRST_ID + IDS - 1
EXAMPLES = ROOT / "docs" / "repairs"
STATES = "SELECT instance_id, state FROM streaming.missed_pgcr ORDER BY 1"


@pytest.fixture(scope="module")
def simulated_bungie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bungie]:
    with simulated(tmp_path_factory.mktemp("bungie")) as bungie:
        yield bungie


@pytest.fixture
def bungie(simulated_bungie: Bungie) -> Iterator[Bungie]:
    yield simulated_bungie
    simulated_bungie.calm()


@pytest.fixture
def given(bungie: Bungie, postgres: dict[str, Any], rabbitmq: dict[str, Any]) -> dict[str, Any]:
    """Settings of every resource, as overrides."""
    return {
        **postgres,
        **rabbitmq,
        "bungie_api_key": "key",
        "bungie_url_base": bungie.address,
        "pgcr_url_base": bungie.address,
    }


@pytest.fixture
def settings(given: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    """With a raid stored at the head, so that half of the world is old enough."""
    settings = settings_for(given)
    keep(settings, NEWEST, hash=1374392663)
    return settings


def resources(given: Mapping[str, Any], **more: Any) -> dict[str, object]:
    overrides = {**given, **more}
    return {
        "postgres": PostgresResource(settings=overrides),
        "broker": BrokerResource(settings=overrides),
        "bungie": BungieResource(settings=overrides),
        "discord": DiscordResource(settings=overrides),
    }


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(given: dict[str, Any], instance: dg.DagsterInstance) -> Run:
    """Runs a job of the code location in this process."""

    def execute_job(
        name: str, config: Mapping[str, Any] | None = None, **more: Any
    ) -> dg.ExecuteInProcessResult:
        defs = build_defs(resources(given, **more))
        return defs.resolve_job_def(name).execute_in_process(
            instance=instance, run_config=config, raise_on_error=False
        )

    return execute_job


def metadata_of(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("__".join(key.path))
    return {name: value.value for name, value in event.metadata.items()}


def report_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of a repair's only output."""
    assert result.success, [e.message for e in result.all_events if e.is_failure]
    (output,) = [e for e in result.all_events if e.event_type_value == "STEP_OUTPUT"]
    return {name: value.value for name, value in output.step_output_data.metadata.items()}


def raids(bungie: Bungie, count: int) -> list[int]:
    return list(islice(bungie.raids(), count))


# Assets and checks.


def test_missed_ids_are_recovered_checked_and_told(
    bungie: Bungie, settings: Settings, run: Run
) -> None:
    """The whole way of one night: the run, what the asset's page shows, what Discord gets."""
    found = raids(bungie, 3)
    miss(settings, *found, FIRST_ID - 5)
    with closing(Hook()) as hook:
        result = run("recovery_missed_job", hades_webhook_url=hook.url.get_secret_value())
    assert result.success
    metadata = metadata_of(result, MISSED_PGCRS_KEY)
    assert {k: metadata[k] for k in ("processed", "found", "not_found", "due_left")} == {
        "processed": 4,
        "found": 3,
        "not_found": 1,
        "due_left": 0,
    }
    assert (metadata["dagster/row_count"], metadata["ended_early"]) == (1, "no")
    assert metadata["found_ids"].split(", ")[0] in map(str, found)
    checks = {c.check_name: c.passed for c in result.get_asset_check_evaluations()}
    assert checks == {"missed_pgcrs_are_not_stored": True, "missed_pgcrs_are_attended": True}
    ((embed,),) = [m["embeds"] for m in hook.got]
    fields = {f["name"]: f["value"] for f in embed["fields"]}
    assert embed["title"] == "Missed Reports Recovered"
    assert (fields["Processed"], fields["Found"], fields["Failed"]) == ("4", "3", "1")
    assert ready(settings, "instance_store") == 3


def test_gaps_are_swept_and_checked(bungie: Bungie, settings: Settings, run: Run) -> None:
    open_gap(settings, FIRST_ID, FIRST_ID + 149)
    result = run("recovery_gaps_job")
    assert result.success
    metadata = metadata_of(result, PGCR_GAPS_KEY)
    assert (metadata["dagster/row_count"], metadata["open_ids"]) == (0, 0)
    assert (metadata["sampled"], metadata["gaps_done"]) == (2, 1)
    assert metadata["found"] == sum(bungie.world.is_raid(FIRST_ID + n) for n in range(150))
    assert evaluation(result, "pgcr_gaps_end").passed


def test_a_long_gap_fails_for_good_with_what_to_do(settings: Settings, run: Run) -> None:
    """Nobody would notice a gap that is passed over night after night."""
    open_gap(settings, FIRST_ID - 300_000, FIRST_ID - 1)
    result = run("recovery_gaps_job")
    assert not result.success
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    assert "run recovery_gaps_job with force: true" in error.message
    assert not result.filter_events(lambda e: e.is_step_up_for_retry)


def test_a_setting_that_makes_no_sense_is_named(settings: Settings, run: Run) -> None:
    assert settings
    config = {"ops": {"postgres__missed_pgcrs": {"config": {"workers": 0}}}}
    result = run("recovery_missed_job", config)
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "workers must be 1 to 64, not 0" in str(failure.step_failure_data.error)


@pytest.mark.parametrize("key", [MISSED_PGCRS_KEY, PGCR_GAPS_KEY])
def test_an_asset_shares_the_api_and_outlasts_a_restart_of_zeus(key: dg.AssetKey) -> None:
    """Two of them at once would take the budget of two; a lost connection must not cost a night."""
    asset = build_defs().resolve_assets_def(key)
    assert asset.op.pool == "bungie"
    assert asset.op.retry_policy == RETRY


def test_checks_see_what_is_wrong(settings: Settings, run: Run) -> None:
    """A row of a stored id is closed by the run itself; one that nobody tries stays red."""
    miss(settings, NEWEST - 10)  # too near the head for recovery, and the crawl is down
    execute(settings, "UPDATE streaming.missed_pgcr SET next_attempt_at = now() - '2 d'::interval")
    checks = {
        c.check_name: c.passed for c in run("recovery_missed_job").get_asset_check_evaluations()
    }
    assert checks == {"missed_pgcrs_are_not_stored": True, "missed_pgcrs_are_attended": False}


# When.


@pytest.fixture
def persistent() -> Iterator[dg.DagsterInstance]:
    """One on disk: a schedule gets only a reference to its instance."""
    with dg.instance_for_test() as instance:
        yield instance


def schedule_tick(
    given: Mapping[str, Any],
    instance: dg.DagsterInstance,
    name: str = "recovery_missed_schedule",
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC),
) -> Any:
    repository = build_defs(resources(given)).get_repository_def()
    # Left open, it keeps its instance as that of every test that comes after.
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=at,
        resources={"postgres": PostgresResource(settings=dict(given))},
        repository_def=repository,
    ) as context:
        return repository.get_schedule_def(name).evaluate_tick(context)


def test_the_schedule_starts_a_run_when_there_is_something_to_do(
    settings: Settings, given: dict[str, Any], persistent: dg.DagsterInstance
) -> None:
    """Every skipped tick says why: nothing due, the API off, a run at work."""
    assert schedule_tick(given, persistent).skip_message == "no missed id is due"
    miss(settings, FIRST_ID)
    assert len(schedule_tick(given, persistent).run_requests) == 1
    with connected(settings, "test") as connection:
        api_state.record(connection, {"Destiny2": False, "Activities": True})
    assert schedule_tick(given, persistent).skip_message == (
        "the API is off: Destiny2; 1 missed ids are due"
    )
    with connected(settings, "test") as connection:
        api_state.record(connection, {"Destiny2": True, "Activities": True})
    _pretend_a_run(persistent)
    assert "runs already" in schedule_tick(given, persistent).skip_message


def test_a_new_gap_is_swept_within_a_quarter_of_an_hour(
    settings: Settings, given: dict[str, Any], persistent: dg.DagsterInstance
) -> None:
    """Raids in it are missing until then; swept once, it waits for its next round."""

    def tick(hour: int, minute: int) -> tuple[int, str]:
        at = datetime(2026, 1, 1, hour, minute, tzinfo=UTC)
        found = schedule_tick(given, persistent, "recovery_gaps_schedule", at)
        return len(found.run_requests or ()), found.skip_message or ""

    assert tick(0, 15) == (0, "no gap is due")
    assert tick(4, 45) == (1, "")  # the neighbours of missed ids
    open_gap(settings, FIRST_ID - 300_000, FIRST_ID - 1)
    assert tick(0, 15) == (0, "no gap is due")  # too long: it fails a run once a day, not 96 times
    open_gap(settings, FIRST_ID, FIRST_ID + 149)
    assert tick(0, 15) == (1, "")
    execute(settings, "UPDATE streaming.gap SET rounds = 1, swept_at = now() - '19 h'::interval")
    assert tick(0, 15) == (0, "no gap is due")
    execute(settings, "UPDATE streaming.gap SET swept_at = now() - '21 h'::interval")
    assert tick(0, 15) == (1, "")
    with connected(settings, "test") as connection:
        api_state.record(connection, {"Destiny2": True, "Activities": False})
    assert tick(4, 45) == (0, "the API is off: Activities; 1 gaps are due")
    with connected(settings, "test") as connection:
        api_state.record(connection, {"Destiny2": True, "Activities": True})
    _pretend_a_run(persistent, "recovery_gaps_job")
    assert "runs already" in tick(4, 45)[1]


def _pretend_a_run(instance: dg.DagsterInstance, job_name: str = "recovery_missed_job") -> None:
    instance.add_run(dg.DagsterRun(job_name=job_name, status=dg.DagsterRunStatus.STARTED))


def sensor_tick(
    given: Mapping[str, Any], instance: dg.DagsterInstance, cursor: str | None
) -> tuple[int, str | None, str | None]:
    """Requests, cursor, and why it skipped."""
    store = PostgresResource(settings={**given, "missed_backlog_rows": 3})
    repository = build_defs(resources(given)).get_repository_def()
    context = dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources={"postgres": store},
        repository_def=repository,
    )
    tick = missed_backlog_sensor.evaluate_tick(context)
    return len(tick.run_requests or []), tick.cursor, tick.skip_message


def test_a_backlog_starts_one_run_each_time_it_passes_the_threshold(
    settings: Settings, given: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    """A run every minute while the API is ill would only make it worse."""
    miss(settings, *range(FIRST_ID, FIRST_ID + 3))
    assert sensor_tick(given, instance, None)[:2] == (0, BELOW)
    miss(settings, FIRST_ID + 3)
    assert sensor_tick(given, instance, BELOW)[:2] == (1, ABOVE)
    requests, cursor, why = sensor_tick(given, instance, ABOVE)
    assert (requests, cursor) == (0, ABOVE)
    assert why == "4 missed ids are due, a run starts beyond 3: it did, the rest is the schedule's"
    assert sensor_tick(given, instance, "{old release")[:2] == (1, ABOVE)


def test_a_backlog_waits_for_the_api_and_for_a_run_at_work(
    settings: Settings, given: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    """And is not forgotten meanwhile: the cursor stays below."""
    miss(settings, *range(FIRST_ID, FIRST_ID + 4))
    with connected(settings, "test") as connection:
        api_state.record(connection, {"Destiny2": True, "Activities": False})
        requests, cursor, why = sensor_tick(given, instance, BELOW)
        assert (requests, cursor) == (0, BELOW)
        assert "the API is off: Activities" in str(why)
        api_state.record(connection, {"Destiny2": True, "Activities": True})
    _pretend_a_run(instance)
    requests, cursor, why = sensor_tick(given, instance, BELOW)
    assert (requests, cursor) == (0, BELOW)
    assert "runs already" in str(why)


# A death in the middle.


def test_a_killed_run_loses_nothing(
    bungie: Bungie,
    settings: Settings,
    given: dict[str, Any],
    run: Run,
    tmp_path: Path,
) -> None:
    """SIGKILL while requests are out: every id is in its row or in the queue, and comes again."""
    listed = raids(bungie, 60)
    miss(settings, *listed)
    bungie.faults(latency_ms=150.0)
    environment = variables(given)
    environment |= {"DAGSTER_HOME": str(tmp_path), "RAIDHUB_HOME": str(tmp_path)}
    command = ["job", "execute", "-m", "raidhub_dagster.definitions", "-j", "recovery_missed_job"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "dagster", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            until(lambda: ready(settings, "instance_store") >= 5, limit_s=60)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    bungie.calm()
    states = dict(rows(settings, STATES))
    resolved = [i for i, state in states.items() if state == "resolved"]
    assert sorted(states) == listed
    assert set(states.values()) == {"resolved", "waiting"}
    assert len(resolved) <= ready(settings, "instance_store") < 60
    # Its claims end by themselves after a quarter of an hour.
    execute(
        settings, "UPDATE streaming.missed_pgcr SET next_attempt_at = now() WHERE state = 'waiting'"
    )
    assert run("recovery_missed_job").success
    assert set(dict(rows(settings, STATES)).values()) == {"resolved"}


# Repairs.


def example(name: str, **changed: Any) -> dict[str, Any]:
    """The configuration in docs/repairs, with some values changed."""
    config: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text("utf-8"))
    config["ops"][name]["config"] |= changed
    return config


@pytest.mark.parametrize(
    "name", ["process_single_pgcr", "fix_malformed_pgcrs", "flag_restricted_pgcrs"]
)
def test_an_example_runs_and_changes_nothing(
    bungie: Bungie, settings: Settings, run: Run, name: str
) -> None:
    """Whoever copies the file and types the command must get a preview."""
    assert bungie
    before = everything(settings)
    report = report_of(run(name, example(name)))
    assert "(preview: nothing was changed)" in report["report"]
    assert everything(settings) == before


def everything(settings: Settings) -> list[Any]:
    return [
        rows(settings, f"SELECT * FROM {table} ORDER BY 1")
        for table in (
            "core.instance",
            "raw.pgcr",
            "core.player",
            "streaming.missed_pgcr",
            "streaming.pgcr_revision",
            "flagging.flag_instance",
            "flagging.blacklist_instance",
        )
    ]


def test_the_example_of_a_single_report_is_a_raid_of_the_simulator(
    bungie: Bungie, settings: Settings, given: dict[str, Any], tmp_path: Path
) -> None:
    """The first thing a newcomer tries, from the command line."""
    wanted = example("process_single_pgcr")["ops"]["process_single_pgcr"]["config"]["id"]
    assert wanted in set(bungie.raids())
    assert settings
    environment = variables(given)
    environment |= {"DAGSTER_HOME": str(tmp_path), "RAIDHUB_HOME": str(tmp_path)}
    done = run_job("process_single_pgcr", environment, EXAMPLES / "process_single_pgcr.yaml")
    assert done.returncode == 0, done.stderr
    assert "a raid that can be stored" in done.stderr


def test_a_single_report_is_explained_and_stored(
    bungie: Bungie, settings: Settings, run: Run
) -> None:
    wanted = raids(bungie, 1)[0]
    miss(settings, wanted)
    preview = report_of(run("process_single_pgcr", example("process_single_pgcr", id=wanted)))
    assert (preview["kind"], preview["outcome"]) == ("success", "stored")
    assert f"| instance_id | {wanted} |" in preview["report"]
    config = example("process_single_pgcr", id=wanted, dry_run=False)
    assert report_of(run("process_single_pgcr", config))["outcome"] == "stored"
    assert (wanted, "resolved") in rows(settings, STATES)
    again = report_of(run("process_single_pgcr", config))
    assert (again["outcome"], again["differences"]) == ("duplicate", 0)


def test_a_single_report_tells_what_would_change(
    bungie: Bungie, settings: Settings, run: Run
) -> None:
    """Before a stored raid is overwritten a person wants to see each value."""
    whole = bungie.instance(raids(bungie, 1)[0])
    store(settings, msgspec.structs.replace(whole, players=whole.players[:1], player_count=1))
    wanted = whole.instance_id
    preview = report_of(run("process_single_pgcr", example("process_single_pgcr", id=wanted)))
    assert preview["outcome"] == "replaced"
    assert f"| player_count | 1 | {len(whole.players)} |" in preview["report"]
    config = example("process_single_pgcr", id=wanted, dry_run=False)
    assert report_of(run("process_single_pgcr", config))["outcome"] == "replaced"
    counted = "SELECT player_count FROM core.instance WHERE instance_id = {}"
    assert rows(settings, counted.format(wanted)) == [(len(whole.players),)]


@pytest.mark.parametrize(
    ("id_", "means"),
    [
        (FIRST_ID - 1, "not published, or not yet"),
        (NEWEST + 5, "not published, or not yet"),
    ],
)
def test_an_id_that_is_not_there_is_explained(
    settings: Settings, run: Run, id_: int, means: str
) -> None:
    assert settings
    config = example("process_single_pgcr", id=id_, dry_run=False)
    report = report_of(run("process_single_pgcr", config))
    assert (report["means"], report["outcome"]) == (means, "nothing to store")


@pytest.mark.parametrize("id_", [0, -5, 2**63])
def test_an_impossible_id_is_named(settings: Settings, run: Run, id_: int) -> None:
    assert settings
    result = run("process_single_pgcr", example("process_single_pgcr", id=id_))
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "id must be between 1 and 2^63-1" in str(failure.step_failure_data.error)


def test_malformed_reports_are_stored_once_they_are_whole(
    bungie: Bungie, settings: Settings, run: Run
) -> None:
    """And those that are still broken keep their row and its time."""
    healed, gone = raids(bungie, 1)[0], FIRST_ID - 9
    other = next(i for i in range(FIRST_ID, NEWEST) if not bungie.world.is_raid(i))
    miss(settings, healed, gone, other, state="malformed")
    preview = report_of(run("fix_malformed_pgcrs", example("fix_malformed_pgcrs")))
    assert (preview["reports"], preview["stored"], preview["not_found"]) == (3, 1, 1)
    done = report_of(run("fix_malformed_pgcrs", example("fix_malformed_pgcrs", dry_run=False)))
    assert (done["stored"], done["non_raid"]) == (1, 1)
    assert dict(rows(settings, STATES)) == {
        gone: "malformed",
        healed: "resolved",
        other: "resolved",
    }
    again = run("fix_malformed_pgcrs", example("fix_malformed_pgcrs", ids=[healed], dry_run=False))
    assert report_of(again)["duplicate"] == 1


FLAGS = (
    "SELECT f.instance_id, cheat_check_version, f.cheat_check_bitmask, cheat_probability,"
    " report_source, reason FROM flagging.flag_instance AS f"
    " JOIN flagging.blacklist_instance AS b USING (instance_id, cheat_check_version) ORDER BY 1"
)


def test_withdrawn_reports_are_flagged_once(bungie: Bungie, settings: Settings, run: Run) -> None:
    """Clears that Bungie took back leave the boards; what people decided stays."""
    clear, lifted, other_hash = raids(bungie, 3)
    keep(settings, clear)
    keep(settings, lifted, is_whitelisted=True)
    keep(settings, other_hash, hash=1374392663)
    bungie.faults(blocked=1.0, blocked_forever=1.0)
    name = "flag_restricted_pgcrs"
    preview = report_of(run(name, example(name)))
    assert (preview["flagged"], preview["whitelisted"], preview["asked"]) == (1, 1, 1)
    assert rows(settings, FLAGS) == []
    done = report_of(run(name, example(name, dry_run=False)))
    assert done["flagged"] == 1
    wanted = [(clear, "manual", 1 << 46 | 1 << 15, 1, "Manual", "Restricted PGCR")]
    assert rows(settings, FLAGS) == wanted
    again = report_of(run(name, example(name, dry_run=False)))
    assert (again["flagged"], again["flagged_before"], again["asked"]) == (0, 1, 0)
    assert rows(settings, FLAGS) == wanted


def test_a_report_that_is_there_is_not_flagged(
    bungie: Bungie, settings: Settings, run: Run
) -> None:
    keep(settings, raids(bungie, 1)[0])
    report = report_of(
        run("flag_restricted_pgcrs", example("flag_restricted_pgcrs", dry_run=False))
    )
    assert (report["asked"], report["flagged"]) == (1, 0)


def test_an_unknown_hash_is_named(settings: Settings, run: Run) -> None:
    assert settings
    result = run("flag_restricted_pgcrs", example("flag_restricted_pgcrs", hash=5))
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "hash 5 is in no definition" in str(failure.step_failure_data.error)

"""The assets, checks, schedules and the repair of ClickHouse, run as Dagster runs them."""

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import yaml

from assets.analytics import DAYS, DIRTY_DAYS, GAME_DAYS, clickhouse_instance, key_of
from assets.charts import Bar, bar_chart
from assets.reports import WEEKS
from assets.tables import RETRY
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.errors import TransientError
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage.clickhouse_parity import compare
from raidhub_dagster.storage.clickhouse_rebuild import awaiting_days
from tests.dagster.home import ROOT, dagster_environment, run_job
from tests.dagster.results import evaluation
from tests.support.analytics import HOUR, Analytics, opened, run, send_until_quiet
from tests.support.typed import variables

DAY = HOUR.date()
EXAMPLE = ROOT / "docs" / "repairs" / "rebuild_clickhouse_day.yaml"
STORES_EQUAL = "clickhouse_dirty_day_leaves_stores_equal"
DATED = ("instance", "player_population_by_hour", "clear_time_by_day", "weapon_meta_by_hour")


@pytest.fixture
def analytics(
    postgres: dict[str, Any], clickhouse: dict[str, Any], settings_for: Callable[..., Settings]
) -> Iterator[Analytics]:
    """Two days of runs in both stores, of which ClickHouse then loses two."""
    with opened(settings_for(postgres, clickhouse)) as stores:
        stores.store(run(1), run(2, players=(2, 3)), run(3, started=HOUR - timedelta(days=1)))
        send_until_quiet(stores)
        stores.clickhouse.command("DELETE FROM instance WHERE instance_id IN (1, 3)")
        yield stores


@pytest.fixture
def defs(postgres: dict[str, Any], clickhouse: dict[str, Any]) -> dg.Definitions:
    return build_defs(
        {
            "postgres": PostgresResource(settings=postgres),
            "clickhouse": ClickHouseResource(settings=clickhouse),
        }
    )


Execute = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def execute(defs: dg.Definitions, instance: dg.DagsterInstance) -> Execute:
    """Runs a job, of a range of partitions when there is one."""

    def run_it(
        job: str, first: date | None = None, last: date | None = None, **more: Any
    ) -> dg.ExecuteInProcessResult:
        tags = {}
        if first and last:
            tags = {
                "dagster/asset_partition_range_start": first.isoformat(),
                "dagster/asset_partition_range_end": last.isoformat(),
            }
        return defs.resolve_job_def(job).execute_in_process(instance=instance, tags=tags, **more)

    return run_it


def metadata(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    (event, *_) = [e for e in result.get_asset_materialization_events() if e.asset_key == key]
    return {k: v.value for k, v in event.materialization.metadata.items()}


def test_a_range_of_days_is_rebuilt_in_one_run(
    analytics: Analytics, execute: Execute, instance: dg.DagsterInstance
) -> None:
    """A backfill of a year as a run a day would take hours of starting alone."""
    first = DAY - timedelta(days=4)
    done = execute("analytics_rebuild_job", first, DAY)
    assert execute("analytics_clear_time_job", first, DAY).success
    for name in DATED:
        partitions = instance.get_materialized_partitions(key_of(name))
        assert len(partitions) == 5, name
    told = metadata(done, key_of("instance"))
    assert (told["dagster/row_count"], told["corrected_runs"]) == (3, 2)
    checks = {
        c.check_name: c.passed
        for c in done.get_asset_check_evaluations()
        if c.check_name.endswith("_equals_its_source")
    }
    assert checks == {
        f"{name}_equals_its_source": True for name in DATED if name != "clear_time_by_day"
    }
    assert compare(analytics.postgres, analytics.clickhouse) == []
    assert awaiting_days(analytics.postgres) == []


def test_the_daily_job_rebuilds_marked_days_and_compares(
    analytics: Analytics, execute: Execute
) -> None:
    """What 04:00 is for: a loss shows as a failed check, which names the day and both figures."""
    failed = execute("analytics_daily_job")
    check = evaluation(failed, STORES_EQUAL)
    assert not check.passed
    table = check.metadata["days"]
    assert isinstance(table, dg.TableMetadataValue)
    days = {r.data["day"]: r.data for r in table.records}
    assert (days[str(DAY)]["instances_postgres"], days[str(DAY)]["instances_clickhouse"]) == (2, 1)
    assert execute("analytics_rebuild_job", DAY - timedelta(days=1), DAY).success
    assert awaiting_days(analytics.postgres) != []  # clear times, and the days before
    done = execute("analytics_daily_job")
    assert evaluation(done, STORES_EQUAL).passed
    assert metadata(done, DIRTY_DAYS)["still_differing"] == 0
    assert awaiting_days(analytics.postgres) == []


def test_relations_show_who_plays_with_whom(analytics: Analytics, execute: Execute) -> None:
    config = {
        "ops": {
            "clickhouse__player_relation_weights_bidirectional": {"config": {"player": 2}},
        }
    }
    analytics.clickhouse.command("TRUNCATE TABLE player_relation_weights_bidirectional")
    done = execute("analytics_relations_job", run_config=config)
    told = metadata(done, key_of("player_relation_weights_bidirectional"))
    assert [r.data["teammate"] for r in told["teammates"].records] == ["Ann#0001"]
    assert [r.data["membership_id"] for r in told["strongest_pairs"].records] == ["2"]


@pytest.mark.usefixtures("analytics")
def test_a_week_is_reported_with_a_picture(execute: Execute) -> None:
    week = (HOUR + timedelta(minutes=90) - timedelta(hours=17)).date()
    week -= timedelta(days=(week.weekday() - 1) % 7)
    done = execute("reports_weekly_job", week - timedelta(days=7), week)
    report = metadata(done, key_of("weekly_raid_report"))
    assert {r.data["raid"] for r in report["report"].records} == {"King's Fall"}
    head, _, picture = report["runs_by_raid"].partition("base64,")
    assert head.endswith("(data:image/svg+xml;")
    assert "King&#x27;s Fall" in base64.b64decode(picture.rstrip(")")).decode()
    trend = metadata(done, key_of("weapon_meta_trend"))["trend"].records
    assert [r.data["weapon"] for r in trend] == ["70"]
    assert all(c.passed for c in done.get_asset_check_evaluations())


@pytest.mark.usefixtures("analytics")
@pytest.mark.parametrize(
    ("job", "partitions"),
    [
        ("analytics_rebuild_job", DAYS),
        ("analytics_clear_time_job", GAME_DAYS),
        ("reports_weekly_job", WEEKS),
    ],
)
def test_what_goes_on_can_be_rebuilt(
    execute: Execute, job: str, partitions: dg.TimeWindowPartitionsDefinition
) -> None:
    """The running week needs days that have not begun; Dagster must not insist on them."""
    last = partitions.get_last_partition_key()
    assert last is not None
    done = execute(job, partition_key=last)
    assert all(check.passed for check in done.get_asset_check_evaluations())


def test_a_picture_of_nothing_is_a_picture() -> None:
    """A week without raids must not fail the run."""
    assert "data:image/svg+xml" in bar_chart("Nothing", []).value
    assert "data:image/svg+xml" in bar_chart("Zero", [Bar("a<b", 0, "0")]).value


@pytest.mark.parametrize("store", ["postgres", "clickhouse"])
def test_a_store_that_is_away_is_tried_again(
    store: str, postgres: dict[str, Any], clickhouse: dict[str, Any]
) -> None:
    """An outage of minutes must not need a person: the error passes on to the retry policy."""
    address = {"postgres": postgres, "clickhouse": clickhouse}
    port = {"postgres": "postgres_port", "clickhouse": "clickhouse_http_port"}[store]
    address[store] = address[store] | {f"{store}_host": HOST, port: free_port()}
    with pytest.raises((TransientError, psycopg2.OperationalError)):
        clickhouse_instance(
            context=dg.build_asset_context(partition_key=DAY.isoformat()),
            postgres=PostgresResource(settings=address["postgres"]),
            clickhouse=ClickHouseResource(settings=address["clickhouse"]),
        )


@pytest.mark.parametrize("name", [*DATED, "weekly_raid_report", "weapon_meta_trend"])
def test_a_rebuild_is_pooled_repeated_and_one_run_a_range(defs: dg.Definitions, name: str) -> None:
    """A run a day would make a backfill of a year cost hours of starting."""
    asset = defs.resolve_assets_def(key_of(name))
    assert asset.op.pool == "clickhouse_insert"
    assert asset.op.retry_policy == RETRY
    assert stop_run_retries in asset.hook_defs
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()


def repair(execute: Execute, **config: Any) -> dict[str, Any]:
    """Facts of the report of one run."""
    done = execute(
        "rebuild_clickhouse_day", run_config={"ops": {"rebuild_clickhouse_day": {"config": config}}}
    )
    (event,) = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
    return {k: v.value for k, v in event.step_output_data.metadata.items()}


def test_the_repair_previews_then_corrects_then_finds_nothing(
    analytics: Analytics, execute: Execute
) -> None:
    days = [f"{DAY - timedelta(days=1)}..{DAY}"]
    preview = repair(execute, days=days)
    assert (preview["runs_added"], preview["differing_measures"] > 0) == (2, True)
    assert "preview: nothing was changed" in preview["report"]
    assert compare(analytics.postgres, analytics.clickhouse) != []
    done = repair(execute, days=days, dry_run=False, relations=True)
    assert (done["runs_added"], done["differing_measures"]) == (2, 0)
    assert compare(analytics.postgres, analytics.clickhouse) == []
    assert repair(execute, days=days, dry_run=False)["runs_added"] == 0


def test_the_repair_names_a_day_that_is_none(execute: Execute) -> None:
    with pytest.raises(dg.Failure, match=r"'31\.1\.2026' is no day") as caught:
        repair(execute, days=["31.1.2026"])
    assert not caught.value.allow_retries


@pytest.mark.usefixtures("analytics")
def test_the_example_of_the_repair_runs_from_the_command_line(
    postgres: dict[str, Any], clickhouse: dict[str, Any], tmp_path: Path
) -> None:
    """What the docs say is typed at night, by somebody who has no time to correct it."""
    config = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    assert config["ops"]["rebuild_clickhouse_day"]["config"]["dry_run"] is True
    environment = dagster_environment(postgres, tmp_path / "home")
    environment |= variables(clickhouse)
    done = run_job("rebuild_clickhouse_day", environment, EXAMPLE)
    assert done.returncode == 0, done.stderr
    assert "preview: nothing was changed" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("name", "cron", "job"),
    [
        ("analytics_daily", "0 4 * * *", "analytics_daily_job"),
        ("analytics_relations", "0 5 * * 1", "analytics_relations_job"),
        ("reports_weekly", "0 18 * * 2", "reports_weekly_job"),
    ],
)
def test_runs_at_the_time_that_is_written(
    defs: dg.Definitions, name: str, cron: str, job: str
) -> None:
    schedule = defs.resolve_schedule_def(f"{name}_schedule")
    assert (schedule.cron_schedule, schedule.job_name) == (cron, job)
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


def test_the_weekly_report_is_of_the_week_that_just_ended(defs: dg.Definitions) -> None:
    """An hour after the reset; of the new week there is nothing to say yet."""
    with (
        dg.instance_for_test() as persistent,
        # Left open, it keeps its instance as that of every test that comes after.
        dg.build_schedule_context(
            instance=persistent,
            scheduled_execution_time=datetime(2026, 1, 13, 18, tzinfo=UTC),
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        tick = defs.resolve_schedule_def("reports_weekly_schedule").evaluate_tick(context)
        assert [r.partition_key for r in tick.run_requests or ()] == ["2026-01-06"]
        persistent.add_run(
            dg.DagsterRun(job_name="reports_weekly_job", status=dg.DagsterRunStatus.STARTED)
        )
        tick = defs.resolve_schedule_def("reports_weekly_schedule").evaluate_tick(context)
        assert "runs already" in (tick.skip_message or "")

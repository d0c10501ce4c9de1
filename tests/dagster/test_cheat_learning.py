"""Learned scores as Dagster runs them: assets, checks, schedules and the job of decisions."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.cheat_learning import FEATURES_KEY, MODEL_KEY, QUEUE_KEY
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.settings import Settings
from tests.dagster.home import ROOT
from tests.support.analytics import Analytics, opened
from tests.support.cheat_runs import populate, store

LEARN = {"ops": {"postgres__cheat_model": {"config": {"days": 100, "precision": 0.9}}}}
REVIEW = {"ops": {"postgres__review_queue": {"config": {"days": 60, "at_least": 0.2}}}}
QUEUE = "SELECT id, state, decided_by FROM flagging.review_queue ORDER BY id"


@pytest.fixture
def stores(
    postgres: dict[str, Any], clickhouse: dict[str, Any], settings_for: Callable[..., Settings]
) -> Iterator[Analytics]:
    with opened(settings_for(postgres, clickhouse)) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


Execute = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def execute(
    postgres: dict[str, Any], clickhouse: dict[str, Any], folder: Path, instance: dg.DagsterInstance
) -> Execute:
    defs = build_defs(
        {
            "postgres": PostgresResource(settings={**postgres, "cheat_model_dir": str(folder)}),
            "clickhouse": ClickHouseResource(settings=clickhouse),
        }
    )

    def run_it(job: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        return defs.resolve_job_def(job).execute_in_process(
            instance=instance, run_config=config, raise_on_error=False
        )

    return run_it


def told(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == key]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def outcome(instance: dg.DagsterInstance, key: dg.AssetKey) -> Any:
    (record,) = instance.fetch_observations(key, limit=1).records
    assert record.asset_observation is not None
    return record.asset_observation.metadata["outcome"].value


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [e for e in result.all_events if e.is_step_failure]
    return str(event.step_failure_data.error)


def test_a_model_is_trained_and_fills_the_queue(
    stores: Analytics, execute: Execute, folder: Path
) -> None:
    """What a Monday and the mornings after it are: from runs to a list that somebody reads."""
    store(
        populate(31, runs=1000, players=400, cheaters=5, until=datetime.now(UTC)),
        stores.postgres,
        stores.clickhouse,
    )
    learned = execute("cheats_learning_job", LEARN)
    assert learned.success
    features = told(learned, FEATURES_KEY)
    assert features["dagster/row_count"] > 0
    assert len(features["features"].records) == 20
    model = told(learned, MODEL_KEY)
    assert [path.name for path in folder.iterdir()] == [f"{model['version']}.model"]
    assert {r.data["split"] for r in model["evaluation"].records} == {"weeks", "raid", "reason"}
    assert model["recall_by_what_was_held_out"].startswith("![Recall at precision 0.9")

    reviewed = execute("cheats_review_job", REVIEW)
    assert reviewed.success
    queue = told(reviewed, QUEUE_KEY)
    assert queue["model"] == model["version"]
    assert queue["added"] == queue["open"] == len(queue["look_at_first"].records[:50]) > 0
    assert "where the median of" in queue["look_at_first"].records[0].data["reasons"]
    checks = {
        c.check_name: c.passed
        for result in (learned, reviewed)
        for c in result.get_asset_check_evaluations()
    }
    assert checks == {
        "cheat_features_are_complete": True,
        "cheat_model_is_usable": True,
        "review_queue_only_advises": True,
    }

    example = yaml.safe_load((ROOT / "docs/repairs/decide_review.yaml").read_text("utf-8"))
    config = example["ops"]["decide_review"]["config"]
    config["ids"] = [row[0] for row in stores.rows(QUEUE)][:2]
    assert execute("decide_review", example).success
    assert {row[1] for row in stores.rows(QUEUE)} == {"open"}
    config["dry_run"] = False
    assert execute("decide_review", example).success
    assert stores.rows(QUEUE)[:2] == [(id_, "dismissed", "night shift") for id_ in config["ids"]]


def test_a_young_system_has_no_model_and_nothing_is_red(
    stores: Analytics, execute: Execute, instance: dg.DagsterInstance, folder: Path
) -> None:
    """The first Monday must not wake anybody up."""
    learned = execute("cheats_learning_job")
    assert learned.success
    assert "too little to learn from" in outcome(instance, MODEL_KEY)
    assert instance.get_latest_materialization_event(MODEL_KEY) is None
    reviewed = execute("cheats_review_job")
    assert reviewed.success
    assert "no model was trained yet" in outcome(instance, QUEUE_KEY)
    assert instance.get_latest_materialization_event(QUEUE_KEY) is None
    assert not folder.exists()
    assert stores.rows("SELECT count(*) FROM flagging.review_queue") == [(0,)]


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("job", ["cheats_learning_job", "cheats_review_job"])
def test_without_the_extra_a_run_says_how_to_install_it(
    job: str, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not repeated: the next try has it no more than this one."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    result = execute(job)
    assert not result.success
    assert "pip install 'raidhub-dagster[ml]'" in failure(result)


@pytest.mark.usefixtures("stores")
def test_learning_goes_by_the_rules_in_use(
    postgres: dict[str, Any], clickhouse: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    """Labels of other rules than those that raise levels would teach another game."""
    job = build_defs(
        {
            "postgres": PostgresResource(settings={**postgres, "cheat_version": "compat-0"}),
            "clickhouse": ClickHouseResource(settings=clickhouse),
        }
    ).resolve_job_def("cheats_learning_job")
    assert "CHEAT_VERSION" in failure(
        job.execute_in_process(instance=instance, raise_on_error=False)
    )


@pytest.mark.parametrize("name", ["cheats_learning", "cheats_review"])
def test_without_the_extra_the_schedule_skips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without it would have a red run every day."""
    schedule = build_defs().resolve_schedule_def(f"{name}_schedule")
    with dg.instance_for_test() as instance, dg.build_schedule_context(instance) as context:
        assert len(schedule.evaluate_tick(context).run_requests or []) == 1
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with dg.instance_for_test() as instance, dg.build_schedule_context(instance) as context:
        tick = schedule.evaluate_tick(context)
    assert not tick.run_requests
    assert "pip install" in (tick.skip_message or "")


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decision": "maybe"}, "decision: 'maybe' is none of confirmed, dismissed"),
        ({"ids": []}, "ids: none is given"),
        ({"actor": ""}, "actor: nobody is named"),
        ({}, "no row of the review queue has"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(
    change: dict[str, Any], words: str, execute: Execute
) -> None:
    example = yaml.safe_load((ROOT / "docs/repairs/decide_review.yaml").read_text("utf-8"))
    example["ops"]["decide_review"]["config"] |= change
    assert words in failure(execute("decide_review", example))


@pytest.mark.parametrize(
    ("name", "cron"), [("cheats_learning", "0 6 * * 1"), ("cheats_review", "30 6 * * *")]
)
def test_the_clock_asks_for_the_job(name: str, cron: str) -> None:
    schedule = build_defs().resolve_schedule_def(f"{name}_schedule")
    assert (schedule.cron_schedule, schedule.job_name) == (cron, f"{name}_job")

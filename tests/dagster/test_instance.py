import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_postgres.utils import DagsterPostgresException

from raidhub_dagster.daemon import POOLS, set_limits
from raidhub_dagster.stack.process import free_port
from tests.dagster.conftest import World
from tests.dagster.home import dagster_environment, run_job

CONFIG = """\
ops:
  postgres__individual_raid_leaderboard:
    config:
      timeout_s: 60
"""


@pytest.fixture
def environment(
    postgres: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The variables of a Dagster home on the test's database, also set in this process."""
    own = dagster_environment(postgres, tmp_path / "home")
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return {**os.environ, **own}


def test_a_job_typed_in_a_shell_is_recorded(
    environment: dict[str, str], world: World, tmp_path: Path
) -> None:
    """Repairs at night are run so: exit code 0, and the run in the same history as all others."""
    world.player(7, clears=3)
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG)
    done = run_job("leaderboards_raid_job", environment, config)
    assert done.returncode == 0, done.stderr
    assert world.rows("SELECT clears FROM leaderboard.individual_raid_leaderboard") == [(3,)]
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        (run,) = instance.get_runs()
        assert (run.job_name, run.status) == ("leaderboards_raid_job", dg.DagsterRunStatus.SUCCESS)
        key = dg.AssetKey(["postgres", "individual_raid_leaderboard"])
        (told,) = instance.fetch_materializations(key, limit=1).records
        assert told.asset_materialization is not None
        assert told.asset_materialization.metadata["dagster/row_count"].value == 1


@pytest.mark.parametrize(
    ("written", "told"),
    [("timeout_s: -1", "statement_timeout"), ("timeout: 60", "timeout_s")],
    ids=["refused value", "unknown name"],
)
def test_a_bad_config_ends_the_command_at_once(
    environment: dict[str, str], tmp_path: Path, written: str, told: str
) -> None:
    """Whoever typed it is waiting; three tries of the same mistake take two minutes."""
    config = tmp_path / "run.yaml"
    config.write_text(CONFIG.replace("timeout_s: 60", written))
    done = run_job("leaderboards_raid_job", environment, config)
    assert done.returncode != 0
    assert told in done.stderr + done.stdout
    assert "STEP_UP_FOR_RETRY" not in done.stderr


def test_a_deployment_without_its_database_fails(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that falls back to a file of its own would run everything a second time."""
    monkeypatch.setenv("POSTGRES_PORT", str(free_port()))
    with pytest.raises(DagsterPostgresException):
        dg.DagsterInstance.from_config(environment["DAGSTER_HOME"])


def test_the_instance_is_the_one_that_dagster_yaml_describes(environment: dict[str, str]) -> None:
    """A key that Dagster ignores silently would cost its protection without a word."""
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]) as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_retries_enabled
        assert instance.run_monitoring_enabled
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        pools = instance.get_concurrency_config().pool_config
        assert pools.default_pool_limit == 1


def test_pools_get_their_limits_and_keep_those_of_people(tmp_path: Path) -> None:
    """With the default alone one long crawl of clans would hold up the manifest for an hour."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("bungie", 7)
        assert set(set_limits(instance)) == set(POOLS) - {"bungie"}
        given = {limit.name: limit.limit for limit in storage.get_pool_limits()}
        assert given == {**POOLS, "bungie": 7}
        assert set_limits(instance) == {}

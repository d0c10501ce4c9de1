"""What Dagster refreshes by itself: what changed, once, and never what a schedule did already."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from assets.leaderboards import WFR_SCORE_KEY, leaderboard_key
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import PostgresResource
from sensors.automation import scores_automation_sensor
from tests.dagster.conftest import World

RACES = leaderboard_key("world_first_contest_leaderboard")
GLOBAL = leaderboard_key("individual_global_leaderboard")
CLAN = leaderboard_key("clan_leaderboard")


class Automation:
    """Evaluates the sensor's conditions at chosen times, one evaluation after another."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.defs, self.instance = defs, instance
        self._cursor: Any = None
        # Ahead of the clock: a cron tick must lie after everything that the test does.
        self._hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

    def an_hour_passes(self) -> set[str]:
        """What is requested at the ticks of the next hour."""
        requested: set[str] = set()
        self._hour += timedelta(hours=1)
        for minute in (5, 21, 41, 51):
            result = dg.evaluate_automation_conditions(
                defs=self.defs,
                instance=self.instance,
                asset_selection=scores_automation_sensor.asset_selection,
                evaluation_time=self._hour + timedelta(minutes=minute),
                cursor=self._cursor,
            )
            self._cursor = result.cursor
            requested |= {
                key.path[-1]
                for key in (WFR_SCORE_KEY, GLOBAL, CLAN)
                if result.get_num_requested(key)
            }
        return requested

    def refresh(self, *keys: dg.AssetKey) -> None:
        job = self.defs.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(instance=self.instance, asset_selection=list(keys))
        assert done.success


@pytest.fixture
def automation(store: PostgresResource, instance: dg.DagsterInstance, world: World) -> Automation:
    """Everything was refreshed once, by one run, as on the first evening."""
    for membership_id in (1, 2):
        world.player(membership_id)
    world.raid(100, [1])
    found = Automation(build_defs({"postgres": store}), instance)
    found.an_hour_passes()
    found.refresh(RACES, WFR_SCORE_KEY, GLOBAL, CLAN)
    assert found.an_hour_passes() == set()
    return found


def test_scores_follow_a_race_that_changed(automation: Automation, world: World) -> None:
    """During a race only the races are refreshed: without this the scores are a day behind."""
    world.raid(101, [2], completed_after=timedelta(hours=19))
    automation.refresh(RACES)
    assert automation.an_hour_passes() == {"wfr_score"}
    automation.refresh(WFR_SCORE_KEY)
    assert automation.an_hour_passes() == {"individual_global_leaderboard", "clan_leaderboard"}
    automation.refresh(GLOBAL, CLAN)
    assert automation.an_hour_passes() == set()


def test_nothing_follows_a_refresh_that_changed_nothing(automation: Automation) -> None:
    """On all days without a race: the schedules rank once a day, and nobody ranks once more."""
    automation.refresh(RACES)
    assert automation.an_hour_passes() == set()
    automation.refresh(WFR_SCORE_KEY)
    assert automation.an_hour_passes() == set()


def test_the_schedule_of_races_and_scores_is_not_repeated(
    automation: Automation, world: World
) -> None:
    """Its run brings the scores itself; only the ranks of the scores are new work."""
    world.raid(101, [2], completed_after=timedelta(hours=19))
    automation.refresh(RACES, WFR_SCORE_KEY)
    assert automation.an_hour_passes() == {"individual_global_leaderboard", "clan_leaderboard"}

"""The night of a new raid: told when it begins and ends, and ranked once more when it is over."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import DiscordResource, PostgresResource
from sensors.contest_weekend import (
    LAST_REFRESH_AFTER,
    LAST_REFRESH_JOB,
    contest_weekend_sensor,
    follow_contests,
)
from tests.dagster.conftest import LAST_WISH_ID, World
from tests.support.webhook import Hook

BEGIN = datetime(2030, 3, 1, 17, tzinfo=UTC)
END = BEGIN + timedelta(hours=48)


class Ticks:
    """Ticks at given times, each with the cursor of the one before."""

    def __init__(self, instance: dg.DagsterInstance, hook: Hook, store: PostgresResource) -> None:
        self.cursor: str | None = None
        self.discord = DiscordResource(settings={"atlas_webhook_url": hook.address})
        self._instance, self._hook, self._store = instance, hook, store

    def __call__(self, at: datetime) -> list[str | None]:
        """Run keys of the requested runs."""
        context = dg.build_sensor_context(instance=self._instance, cursor=self.cursor)
        result = follow_contests(context, self._store, self.discord, lambda: at)
        self.cursor = result.cursor
        return [request.run_key for request in result.run_requests or []]

    @property
    def told(self) -> list[str]:
        return [message["embeds"][0]["title"] for message in self._hook.got]


@pytest.fixture
def tick(instance: dg.DagsterInstance, hook: Hook, store: PostgresResource, world: World) -> Ticks:
    world.run(
        "UPDATE definitions.activity_definition SET release_date = %s, contest_end = %s"
        " WHERE id = %s",
        (BEGIN, END, LAST_WISH_ID),
    )
    return Ticks(instance, hook, store)


def test_tells_begin_and_end_once_and_asks_for_the_last_refresh(tick: Ticks) -> None:
    """Who began before the end may finish hours later, when nothing follows the races any more."""
    tick(BEGIN - timedelta(minutes=1))
    assert tick.told == []
    for minutes in (0, 1, 2):
        tick(BEGIN + timedelta(minutes=minutes))
    assert tick.told == ["Contest begins"]
    for minutes in (0, 1, 2):
        assert tick(END + timedelta(minutes=minutes)) == []
    assert tick.told == ["Contest begins", "Contest is over"]
    assert tick(END + LAST_REFRESH_AFTER) == [f"contest:{LAST_WISH_ID}:{END.isoformat()}"]
    assert tick(END + LAST_REFRESH_AFTER + timedelta(minutes=1)) == []


def test_tells_a_contest_that_is_called_off(tick: Ticks, world: World) -> None:
    """Bungie once ended one early: the definitions then say another end."""
    tick(BEGIN)
    world.run(
        "UPDATE definitions.activity_definition SET contest_end = NULL WHERE id = %s",
        (LAST_WISH_ID,),
    )
    tick(BEGIN + timedelta(hours=1))
    assert tick.told == ["Contest begins", "Contest is over"]


def test_tells_when_the_board_is_not_refreshed_any_more(
    tick: Ticks, instance: dg.DagsterInstance
) -> None:
    """On that night everybody looks at this board; its schedule may be off, or its job hang."""
    instance.report_runless_asset_event(
        dg.AssetMaterialization(["postgres", "world_first_contest_leaderboard"])
    )
    tick(BEGIN)
    assert tick.told == ["Contest begins", "Contest board is stale"]
    tick(END)
    assert sorted(tick.told[2:]) == ["Contest board is fresh", "Contest is over"]


@pytest.mark.parametrize(
    "cursor", ["{old release", "[1]", '{"on": {"4": "soon"}, "closing": 5, "levels": 1}']
)
def test_starts_over_when_the_cursor_is_unreadable(tick: Ticks, cursor: str) -> None:
    """What is on is told again; contests of past years are not."""
    tick.cursor = cursor
    assert tick(BEGIN) == []
    assert tick.told == ["Contest begins"]
    assert json.loads(tick.cursor or "")["on"] == {str(LAST_WISH_ID): END.isoformat()}


def test_a_tick_by_the_clock_asks_for_a_job_that_exists(
    tick: Ticks, store: PostgresResource
) -> None:
    """The wiring: resources by name, and the job of the run it asks for."""
    tick.cursor = json.dumps({"closing": {"4": "2020-01-01T00:00:00+00:00"}})
    repository = build_defs().get_repository_def()
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(
            instance=instance,
            cursor=tick.cursor,
            repository_def=repository,
            resources={"postgres": store, "discord": tick.discord},
        )
        result = contest_weekend_sensor.evaluate_tick(context)
    (request,) = result.run_requests or []
    assert request.run_key == "contest:4:2020-01-01T00:00:00+00:00"
    assert request.job_name == LAST_REFRESH_JOB
    assert repository.has_job(LAST_REFRESH_JOB)

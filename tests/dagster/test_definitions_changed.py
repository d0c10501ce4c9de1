"""The sensor that follows the game's definitions."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from raidhub_dagster.resources import DiscordResource, PostgresResource
from sensors.definitions_changed import definitions_changed_sensor
from tests.dagster.conftest import World
from tests.support.webhook import Hook

Tick = Callable[[str | None], dg.SensorResult]


@pytest.fixture
def webhook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture
def tick(instance: dg.DagsterInstance, store: PostgresResource, webhook: Hook) -> Tick:
    discord = DiscordResource(settings={"atlas_webhook_url": webhook.url.get_secret_value()})

    def evaluate(cursor: str | None) -> Any:
        context = dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            resources={"postgres": store, "discord": discord},
        )
        return definitions_changed_sensor.evaluate_tick(context)

    return evaluate


def keys(result: Any) -> list[str]:
    return [request.run_key for request in result.run_requests]


def test_a_new_season_and_a_new_activity_are_told_and_followed(
    tick: Tick, world: World, webhook: Hook
) -> None:
    """On release day somebody adds a raid; sums, scores and boards must not wait for a person."""
    first = tick(None)
    assert keys(first) == []
    world.run(
        "INSERT INTO definitions.season VALUES (99, 'S', 'Season of Tests', 'None', '2030-01-01Z');"
        "INSERT INTO definitions.activity_definition (id, name, path, release_date, splash_path)"
        " VALUES (77, 'Halls of Proof', 'halls', '2030-01-02Z', 'halls');"
        "UPDATE definitions.activity_definition SET contest_end = '2030-01-03Z' WHERE id = 1"
    )
    second = tick(first.cursor)
    assert len(keys(second)) == 1
    (message,) = webhook.got
    (embed,) = message["embeds"]
    assert embed["title"] == "Definitions Changed"
    assert {field["name"]: field["value"] for field in embed["fields"]} == {
        "New activities": "Halls of Proof (77)",
        "Changed activities": "Leviathan (1)",
        "New seasons": "Season of Tests (99)",
    }
    third = tick(second.cursor)
    assert keys(third) == []
    assert "none of" in str(third)


def test_definitions_that_come_back_are_followed_again(tick: Tick, world: World) -> None:
    """A key of the content alone would be one that Dagster has seen: the boards stay wrong."""
    first = tick(None)
    world.run("UPDATE definitions.activity_definition SET is_sunset = NOT is_sunset WHERE id = 1")
    second = tick(first.cursor)
    world.run("UPDATE definitions.activity_definition SET is_sunset = NOT is_sunset WHERE id = 1")
    third = tick(second.cursor)
    world.run("UPDATE definitions.activity_definition SET is_sunset = NOT is_sunset WHERE id = 1")
    fourth = tick(third.cursor)
    assert len({*keys(second), *keys(third), *keys(fourth)}) == 3


@pytest.mark.parametrize(
    "cursor", ["{old", "[]", "null", '{"rows": {}}', '{"rows": {}, "changes": 1e999}', "7"]
)
@pytest.mark.usefixtures("world")
def test_a_broken_cursor_starts_over_without_a_storm(
    tick: Tick, webhook: Hook, cursor: str
) -> None:
    """One run, however often it happens: Dagster starts none whose key it knows. Nobody is told."""
    broken, again = tick(cursor), tick("broken again")
    assert len(keys(broken)) == 1
    assert keys(again) == keys(broken)
    assert json.loads(broken.cursor or "") == json.loads(tick(None).cursor or "")
    assert keys(tick(broken.cursor)) == []
    assert webhook.got == []


@pytest.mark.usefixtures("world")
def test_a_definition_that_left_is_told(tick: Tick, world: World, webhook: Hook) -> None:
    first = tick(None)
    world.run("DELETE FROM definitions.season WHERE id = 3")
    tick(first.cursor)
    (message,) = webhook.got
    (field,) = message["embeds"][0]["fields"]
    assert (field["name"], field["value"]) == ("Gone seasons", "3")


def test_its_run_is_of_all_boards() -> None:
    """Boards depend on definitions in many ways; half of them new would contradict the rest."""
    assert definitions_changed_sensor.job_name == "leaderboards_job"
    assert definitions_changed_sensor.default_status is dg.DefaultSensorStatus.RUNNING

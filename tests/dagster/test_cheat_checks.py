"""Cheat checks again, by job, by day and by sensor."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import DiscordResource, PostgresResource
from sensors.cheat_levels import cheat_levels_sensor
from sensors.cheat_rules import cheat_rules_sensor
from tests.dagster.conftest import RELEASE, World
from tests.dagster.results import evaluation
from tests.support.webhook import Hook

VERSION = load_parameters().version
DAY = (RELEASE + timedelta(hours=20)).date()
VAULT = 3881495763  # Vault of Glass, whose fresh clear by one player nobody could do then

Execute = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def execute(store: PostgresResource, instance: dg.DagsterInstance) -> Execute:
    def run(job: str, op: str, *, tags: dict[str, str] | None = None, **config: object) -> Any:
        return (
            build_defs({"postgres": store})
            .resolve_job_def(job)
            .execute_in_process(
                run_config={"ops": {op: {"config": config}}},
                instance=instance,
                tags=tags,
                raise_on_error=False,
            )
        )

    return run


def days(first: object, last: object) -> dict[str, str]:
    """Tags of a run over a range of partitions."""
    start, end = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    return {start: str(first), end: str(last)}


def a_cheat(world: World, *, hash_: int = VAULT) -> None:
    """Raid 1: one player, fresh, in a raid that takes more."""
    world.player(7, cheat_level=3, last_seen=datetime.now(UTC))
    world.raid(1, [7], hash_=hash_)
    world.run(
        "INSERT INTO extended.instance_character (instance_id, membership_id, character_id,"
        " completed, kills, precision_kills, time_played_seconds, start_seconds)"
        " VALUES (1, 7, 1, true, 900, 5, 7200, 0)"
    )


def flags(world: World) -> list[tuple[Any, ...]]:
    return world.rows("SELECT instance_id, cheat_check_version FROM flagging.flag_instance")


def metadata(done: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = done.get_asset_materialization_events()[:1]
    return {k: v.value for k, v in event.materialization.metadata.items()}


@pytest.mark.parametrize("last", [DAY, DAY + timedelta(days=2)])
def test_days_are_previewed_then_written(
    execute: Execute, world: World, instance: dg.DagsterInstance, last: Any
) -> None:
    """A range is one run: a run a day would take days for the years there are."""
    a_cheat(world)
    step = "postgres__cheat_recheck"
    preview = execute("cheat_recheck_job", step, tags=days(DAY, last))
    assert preview.success
    told = metadata(preview)
    assert (told["dagster/row_count"], told["newly_flagged"], told["dry_run"]) == (1, 2, True)
    assert "preview" in told["report"]
    assert flags(world) == []
    done = execute("cheat_recheck_job", step, tags=days(DAY, last), dry_run=False)
    assert metadata(done)["newly_flagged"] == 2
    assert flags(world) == [(1, VERSION)]
    repeated = execute("cheat_recheck_job", step, tags=days(DAY, last), dry_run=False)
    assert (metadata(repeated)["newly_flagged"], metadata(repeated)["flagged"]) == (0, 1)
    key = dg.AssetKey(["postgres", "cheat_recheck"])
    found = instance.get_materialized_partitions(key)
    assert found == {str(DAY + timedelta(days=n)) for n in range((last - DAY).days + 1)}


@pytest.mark.parametrize(
    ("job", "config"),
    [
        ("recheck_instance", {"instances": [1, 404]}),
        ("recheck_player", {"players": [7], "days": 0}),
    ],
)
def test_a_person_checks_again_what_somebody_asks_about(
    execute: Execute, world: World, job: str, config: dict[str, object]
) -> None:
    a_cheat(world)
    preview = execute(job, job, **config)
    (output,) = [e for e in preview.all_events if e.event_type_value == "STEP_OUTPUT"]
    report = str(output.step_output_data.metadata["report"].value)
    assert "preview" in report
    assert "| 1 |  | Vault of Glass | newly flagged | 0.0 | " in report
    assert "| 404 |" in report or job == "recheck_player"
    assert flags(world) == []
    assert execute(job, job, dry_run=False, **config).success
    assert flags(world) == [(1, VERSION)]


@pytest.mark.usefixtures("world")
def test_a_player_who_is_not_stored_fails_the_job_once(execute: Execute) -> None:
    failed = execute("recheck_player", "recheck_player", players=[404])
    (event,) = [e for e in failed.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "no such player: 404" in str(event.step_failure_data.error)


@pytest.mark.usefixtures("world")
def test_norms_are_loaded_and_checked(execute: Execute) -> None:
    done = execute("cheat_norms_job", "postgres__activity_norm")
    assert done.success
    assert metadata(done)["dagster/row_count"] > 0
    assert evaluation(done, "activity_norm_is_possible").passed


# --- Sensors ------------------------------------------------------------------------------------

Tick = Callable[[str | None], Any]


@pytest.fixture
def levels(instance: dg.DagsterInstance, store: PostgresResource) -> Tick:
    def evaluate(cursor: str | None) -> Any:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"postgres": store}
        )
        return cheat_levels_sensor.evaluate_tick(context)

    return evaluate


def change(world: World, player: int, old: int, new: int, *, minutes_ago: int = 5) -> int:
    ((found,),) = world.rows(
        "INSERT INTO streaming.cheat_level_change (membership_id, old_level, new_level, reason,"
        " actor, changed_at) VALUES (%s, %s, %s, 'test', 'test', now() - make_interval(mins => %s))"
        " RETURNING id",
        (player, old, new, minutes_ago),
    )
    return int(found)


def test_all_who_rose_since_the_last_tick_are_one_run(
    levels: Tick, execute: Execute, world: World
) -> None:
    """A run a player would cost seconds each, four times a day for hundreds."""
    a_cheat(world)
    world.run("UPDATE core.instance SET date_completed = now() - interval '2 days'")
    change(world, 9, 0, 2)
    change(world, 8, 4, 3)  # fell
    change(world, 7, 0, 3)
    newest = change(world, 6, 3, 4)
    change(world, 5, 0, 4, minutes_ago=0)  # may have company that commits later
    first = levels(None)
    (request,) = first.run_requests
    assert request.run_key == f"{VERSION}:6:4,7:3"
    assert first.cursor == str(newest)
    config = request.run_config["ops"]["recheck_raised"]["config"]
    assert config == {"dry_run": False, "players": [6, 7]}
    assert execute("recheck_raised", "recheck_raised", **config).success
    queued = "SELECT destination, key FROM streaming.outbox WHERE kind = 'message'"
    assert world.rows(queued) == [("instance_cheat_check", 1)]
    assert levels(first.cursor).run_requests == []
    assert levels(first.cursor).skip_message is not None


def test_changes_without_a_rise_are_passed_over(levels: Tick, world: World) -> None:
    newest = change(world, 9, 0, 2)
    tick = levels(None)
    assert (tick.run_requests, tick.cursor) == ([], str(newest))


@pytest.mark.parametrize("cursor", ["{old", "-1", "", "٣", "9" * 30, "9" * 18])
def test_a_broken_cursor_of_levels_starts_over(levels: Tick, world: World, cursor: str) -> None:
    """With the key of the first time: Dagster starts no run whose key it knows."""
    change(world, 7, 0, 3)
    assert [r.run_key for r in levels(cursor).run_requests] == [f"{VERSION}:7:3"]


def test_a_tick_takes_no_more_than_it_can(levels: Tick, world: World) -> None:
    """The first tick after a new version of the levels may find thousands."""
    world.run(
        "INSERT INTO streaming.cheat_level_change (membership_id, old_level, new_level, reason,"
        " actor, changed_at) SELECT n, 0, 4, 't', 't', now() - interval '1 hour'"
        " FROM generate_series(1, 501) AS n"
    )
    first = levels(None)
    (request,) = first.run_requests
    assert len(request.run_config["ops"]["recheck_raised"]["config"]["players"]) == 500
    assert len(request.run_key) < 200
    (rest,) = levels(first.cursor).run_requests
    assert rest.run_key == f"{VERSION}:501:4"


@pytest.fixture
def rules(instance: dg.DagsterInstance, store: PostgresResource, hook: Hook) -> Tick:
    def evaluate(cursor: str | None, **settings: object) -> Any:
        postgres = PostgresResource(settings={**store.settings, **settings})
        discord = DiscordResource(settings={"atlas_webhook_url": hook.address})
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"postgres": postgres, "discord": discord}
        )
        return cheat_rules_sensor.evaluate_tick(context)

    return evaluate


@pytest.mark.usefixtures("world")
def test_other_rules_are_told_and_previewed(rules: Tick, execute: Execute, hook: Hook) -> None:
    """What it would change must be read before anything is written, and by whom it concerns."""
    first = rules(None)
    assert first.run_requests == []
    assert rules(first.cursor).run_requests == []
    other = json.loads(first.cursor) | {"version": "compat-1.0", "parameters": "other"}
    second = rules(json.dumps(other))
    (request,) = second.run_requests
    assert second.cursor == first.cursor
    (message,) = hook.got
    told = {field["name"]: field["value"] for field in message["embeds"][0]["fields"]}
    assert told["Changed"] == "Version of the rules, Parameters of the rules"
    (step,) = request.run_config["ops"]
    config = request.run_config["ops"][step]["config"]
    assert config == {"dry_run": True}
    assert execute("cheat_recheck_job", step, tags=dict(request.tags), **config).success


def test_a_new_heavy_weapon_is_told(rules: Tick, world: World, hook: Hook) -> None:
    """Kills with it were no heavy kills until the manifest came."""
    first = rules(None)
    statement = (
        "INSERT INTO definitions.weapon_definition VALUES"
        " (%s, 'A', '/a', 'Sword', 'Solar', 'Power', %s, 'Exotic')"
    )
    world.run(statement, (1, "Primary"))
    assert rules(first.cursor).run_requests == []
    world.run(statement, (2, "Heavy"))
    assert len(rules(first.cursor).run_requests) == 1
    assert len(hook.got) == 1


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("cursor", ["{old", "[]", "null", '{"version": "compat-1.0"}', "7"])
def test_a_broken_cursor_of_rules_only_remembers(rules: Tick, hook: Hook, cursor: str) -> None:
    tick = rules(cursor)
    assert tick.run_requests == []
    assert tick.cursor == rules(None).cursor
    assert hook.got == []

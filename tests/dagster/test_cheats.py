"""The levels as a job: from flags to the report, with the API there, odd, and away."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
import yaml

from raidhub_dagster.cheat_detection.checking import check_batch
from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import BungieResource, PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage.postgres import alone, connected
from raidhub_dagster.storage.store import Store
from tests.dagster.home import ROOT
from tests.support import worlds
from tests.support.bungie import Bungie, simulated
from tests.support.cheats import Suspects

JOB = "cheats_levels_job"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bungie]:
    with simulated(tmp_path_factory.mktemp("bungie")) as bungie:
        yield bungie


@pytest.fixture
def bungie(simulator: Bungie) -> Iterator[Bungie]:
    """The module's simulator, calm again at the end."""
    yield simulator
    simulator.calm()


@pytest.fixture
def suspects(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Iterator[Suspects]:
    with connected(settings_for(postgres), "pytest") as connection:
        yield Suspects(connection)


def api_at(address: str) -> BungieResource:
    return BungieResource(
        settings={
            "bungie_api_key": "key",
            "bungie_url_base": address,
            "pgcr_url_base": address,
        }
    )


def run(
    postgres: dict[str, Any],
    instance: dg.DagsterInstance,
    api: BungieResource,
    **settings: str,
) -> dg.ExecuteInProcessResult:
    defs = build_defs(
        {"postgres": PostgresResource(settings={**postgres, **settings}), "bungie": api}
    )
    return defs.resolve_job_def(JOB).execute_in_process(instance=instance, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    (event,) = [
        e
        for e in result.get_asset_materialization_events()
        if e.asset_key and e.asset_key.path[-1] == name
    ]
    return {key: value.value for key, value in event.materialization.metadata.items()}


def failed_checks(result: dg.ExecuteInProcessResult) -> list[str]:
    return [e.check_name for e in result.get_asset_check_evaluations() if not e.passed]


def test_one_run_goes_from_flags_to_the_report(
    postgres: dict[str, Any], instance: dg.DagsterInstance, suspects: Suspects, bungie: Bungie
) -> None:
    """What the schedule starts four times a day, and what a reviewer follows backwards."""
    ann = worlds.FIRST_PLAYER
    solos = [worlds.clear(n, hours=n, players=[ann]) for n in (1, 2, 3)]
    Store(suspects.connection).store([worlds.report_of(solo) for solo in solos], source="test")
    with suspects.connection:
        check_batch(suspects.connection, load_parameters(), [s.instance_id for s in solos])
    suspects.rows("DELETE FROM streaming.outbox")
    shown = bungie.player(lambda p: not p.is_private)
    known = suspects.cheater(shown.membership_id, 6, membership_type=shown.membership_type)
    gone = suspects.cheater(7, 4)
    worst = suspects.cheater(8, 100)
    result = run(
        postgres,
        instance,
        api_at(bungie.address),
        nemesis_webhook_url="http://nowhere/secret",
        cheat_check_webhook_url="http://nowhere/secret",
    )
    assert result.success
    assert failed_checks(result) == []
    assert [suspects.level(who) for who in (known, gone, worst)] == [3, 2, 4]
    counted = metadata(result, "player_flag_stats")
    assert (counted["dagster/row_count"], counted["class_a"]) == (4, 113)
    told = metadata(result, "player_cheat_levels")
    assert (told["dagster/row_count"], told["raised"], told["raised_to_4"]) == (4, 4, 1)
    assert (told["profiles_asked"], told["judged_without_profile"]) == (4, 3)
    assert [record.data["to"] for record in told["risen"].records] == [4, 3, 2, 1]
    listed = metadata(result, "blacklisted_instances")
    assert (listed["flagged"], listed["cascaded"], listed["cascading_players"]) == (3, 100, 1)
    report = metadata(result, "cheat_report")
    assert report["players_of_level_4"] == 1
    assert "| 4 | Blacklisted | 1 |" in report["report"]
    assert report["trend"].startswith("![Raids flagged a day")
    sent = suspects.rows("SELECT destination, key FROM streaming.outbox ORDER BY id")
    assert sent == [("cheat_check", worst), ("nemesis", 0)]
    assert suspects.rows(
        "SELECT DISTINCT evidence ->> 'run' FROM streaming.cheat_level_change"
    ) == [(result.run_id,)]
    ((evidence,),) = suspects.rows(
        "SELECT evidence FROM streaming.cheat_level_change WHERE membership_id = %s", ann
    )
    assert evidence["flags"] == {"a": 3, "b": 0, "c": 0, "d": 0}
    for solo, flag in zip(solos, evidence["instances"], strict=True):
        assert flag["instance"] == solo.instance_id
        ((numbers,),) = suspects.rows(
            "SELECT explanation FROM flagging.flag_instance_player"
            " WHERE membership_id = %s AND instance_id = %s AND cheat_check_version = %s",
            *(ann, flag["instance"], flag["version"]),
        )
        assert "cleared fresh King's Fall with 1 player, expected at least 3" in numbers


def test_a_second_run_changes_nothing(
    postgres: dict[str, Any], instance: dg.DagsterInstance, suspects: Suspects, bungie: Bungie
) -> None:
    suspects.cheater(7, 6)
    suspects.cheater(8, 100)
    api = api_at(bungie.address)
    run(postgres, instance, api)

    def state() -> list[Any]:
        return [
            suspects.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
            for table in (
                "core.player",
                "flagging.blacklist_instance",
                "flagging.blacklist_instance_player",
                "streaming.cheat_level_change",
            )
        ]

    before = state()
    again = run(postgres, instance, api)
    assert again.success
    assert state() == before
    assert metadata(again, "player_cheat_levels")["raised"] == 0
    assert metadata(again, "blacklisted_instances")["cascaded"] == 0


@pytest.mark.parametrize("trouble", ["away", "maintenance"])
def test_an_api_that_is_away_costs_nobody_a_verdict(
    postgres: dict[str, Any],
    instance: dg.DagsterInstance,
    suspects: Suspects,
    bungie: Bungie,
    trouble: str,
) -> None:
    """One failed request once ended the run, and the blacklist was a day late."""
    who = suspects.cheater(7, 6)
    if trouble == "maintenance":
        bungie.ask("/sim/maintenance", on=True)
    address = bungie.address if trouble == "maintenance" else f"http://{HOST}:{free_port()}"
    result = run(postgres, instance, api_at(address))
    assert result.success
    assert suspects.level(who) == 3
    assert metadata(result, "player_cheat_levels")["judged_without_profile"] == 1


def test_a_run_on_an_empty_database_succeeds(
    postgres: dict[str, Any], instance: dg.DagsterInstance, bungie: Bungie
) -> None:
    """The first day of a deployment."""
    result = run(postgres, instance, api_at(bungie.address))
    assert result.success
    assert failed_checks(result) == []
    assert metadata(result, "player_flag_stats")["dagster/row_count"] == 0


def test_a_run_beside_another_one_is_refused(
    postgres: dict[str, Any],
    instance: dg.DagsterInstance,
    settings_for: Callable[..., Settings],
    bungie: Bungie,
) -> None:
    """Two of them would judge by half-written counts; `dagster job execute` has no queue."""
    with alone(settings_for(postgres), "pytest", "cheat_levels"):
        result = run(postgres, instance, api_at(bungie.address))
    assert not result.success


def test_a_broken_claim_stops_what_follows(
    postgres: dict[str, Any], instance: dg.DagsterInstance, suspects: Suspects, bungie: Bungie
) -> None:
    """Levels without evidence must not blacklist anybody's raids."""
    suspects.cheater(8, 100)
    suspects.player(9)
    suspects.rows(
        "INSERT INTO streaming.cheat_level_change"
        " (membership_id, old_level, new_level, reason, actor) VALUES (9, 0, 4, '', 'nemesis')"
    )
    result = run(postgres, instance, api_at(bungie.address))
    assert failed_checks(result) == ["player_cheat_levels_are_explained"]
    assert suspects.blacklisted() == {}


def test_a_reason_without_a_name_is_told(
    postgres: dict[str, Any], instance: dg.DagsterInstance, suspects: Suspects, bungie: Bungie
) -> None:
    """Another release gave it: the report would count its flags under no reason."""
    suspects.player(9)
    raid = suspects.run([9])
    suspects.flag(raid, 9, 0.2, bitmask=1 << 11 | 1 << 40)
    result = run(postgres, instance, api_at(bungie.address))
    assert result.success
    assert failed_checks(result) == ["cheat_report_names_every_reason"]


def test_levels_are_taken_back_by_the_example(
    store: PostgresResource,
    postgres: dict[str, Any],
    instance: dg.DagsterInstance,
    suspects: Suspects,
    bungie: Bungie,
) -> None:
    """The command of the handbook, with the id of the run that was wrong."""
    who = suspects.cheater(8, 100)
    wrong = run(postgres, instance, api_at(bungie.address))
    path = ROOT / "docs" / "repairs" / "revert_cheat_levels.yaml"
    config = yaml.safe_load(path.read_text("utf-8"))
    config["ops"]["revert_cheat_levels"]["config"]["run"] = wrong.run_id

    def execute() -> dict[str, Any]:
        done = (
            build_defs({"postgres": store})
            .resolve_job_def("revert_cheat_levels")
            .execute_in_process(run_config=config, instance=instance)
        )
        (output,) = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
        return {k: v.value for k, v in output.step_output_data.metadata.items()}

    preview = execute()
    assert "preview" in preview["report"]
    assert (suspects.level(who), len(suspects.blacklisted())) == (4, 100)
    config["ops"]["revert_cheat_levels"]["config"]["dry_run"] = False
    done = execute()
    assert (done["taken_back"], done["blacklists_lifted"]) == (1, 100)
    assert (suspects.level(who), len(suspects.blacklisted())) == (0, 0)
    assert execute()["changes"] == 0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "which changes"),
        ({"since": "yesterday"}, "since: 'yesterday' is no time"),
        ({"until": "13:00h"}, "until: '13:00h' is no time"),
    ],
)
def test_a_wrong_choice_of_changes_is_refused_at_once(
    store: PostgresResource, instance: dg.DagsterInstance, config: dict[str, str], message: str
) -> None:
    """Three tries of the same mistake take two minutes."""
    job = build_defs({"postgres": store}).resolve_job_def("revert_cheat_levels")
    with pytest.raises(dg.Failure, match=message) as caught:
        job.execute_in_process(
            run_config={"ops": {"revert_cheat_levels": {"config": config}}}, instance=instance
        )
    assert not caught.value.allow_retries

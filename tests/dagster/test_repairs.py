"""Each repair from its example file: the launchpad and the shell must take it, and it must work."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.core import INSTANCE, INSTANCE_PLAYER, PLAYER, PLAYER_STATS
from raidhub_dagster.checks.derived_state import DERIVED_STATE_CHECKS
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.resources import BrokerResource, PostgresResource
from raidhub_dagster.settings import Settings
from tests.dagster.conftest import LAST_WISH_ID, World
from tests.dagster.home import ROOT, dagster_environment, run_job
from tests.support.queues import channel_of, ready

FOLDER = ROOT / "docs" / "repairs"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

Run = Callable[..., tuple[str, dict[str, Any]]]


def example(name: str, **changes: object) -> dict[str, Any]:
    """The file's configuration, some values of the repair changed."""
    config: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    if changes:
        config["ops"][name]["config"] |= changes
    return config


@pytest.fixture
def run(store: PostgresResource, instance: dg.DagsterInstance) -> Run:
    """`run(name, field=value)` -> the report, and everything that the step's output tells."""

    def execute(name: str, *, broker: BrokerResource | None = None, **changes: object) -> Any:
        defs = build_defs({"postgres": store, **({"broker": broker} if broker else {})})
        done = defs.resolve_job_def(name).execute_in_process(
            run_config=example(name, **changes), instance=instance
        )
        (output,) = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
        told = {key: value.value for key, value in output.step_output_data.metadata.items()}
        return told["report"], told

    return execute


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_its_job(name: str) -> None:
    """Whoever copies it at night has no time to find out which field was renamed."""
    job = build_defs().resolve_job_def(name)
    assert dg.validate_run_config(job, example(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_previews_and_is_listed(name: str) -> None:
    """A file that is executed as it stands must be harmless, and must be found."""
    for op in example(name).get("ops", {}).values():
        assert op["config"].get("dry_run", True) is True
    assert f"| [`{name}`]({name}.yaml) |" in (FOLDER / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_field_of_a_repair_is_explained(name: str) -> None:
    """The launchpad shows the description; the code is far away."""
    job = build_defs().resolve_job_def(name)
    for node in job.nodes_in_topological_order:
        schema: Any = node.definition.config_schema
        fields = getattr(schema.config_type, "fields", {})  # none: an asset without a config
        assert all(field.description for field in fields.values()), node.name


def test_a_repair_typed_in_a_shell_previews(
    postgres: dict[str, Any], world: World, tmp_path: Path
) -> None:
    """The command of docs/repairs/README.md, word for word."""
    world.player(7, clears=3)
    environment = {**os.environ, **dagster_environment(postgres, tmp_path / "home")}
    done = run_job("recompute_player_stats", environment, FOLDER / "recompute_player_stats.yaml")
    assert done.returncode == 0, done.stderr
    assert "player_stats_differing: **1**" in done.stderr
    assert world.rows("SELECT clears FROM core.player_stats") == [(3,)]


def test_players_are_recounted(run: Run, world: World) -> None:
    world.player(7, clears=3)
    world.player(8, clears=3)
    world.raid(1, [7, 8])
    report, told = run("fix_sherpa_clears", first_instance_id=1, last_instance_id=1)
    assert "preview" in report
    assert (told["players"], told["runs_differing"], told["last_player"]) == (2, 2, 8)
    assert world.rows("SELECT clears FROM core.player") == [(3,), (3,)]
    report, _ = run("fix_sherpa_clears", first_instance_id=1, last_instance_id=1, dry_run=False)
    assert "preview" not in report
    assert "| instance_player | 7 | 4 | 1 | False, 0 | True, 0 |" in report
    assert world.rows("SELECT clears, fresh_clears FROM core.player") == [(1, 1), (1, 1)]
    report, told = run("fix_sherpa_clears", first_instance_id=1, last_instance_id=1)
    assert told["runs_differing"] == told["player_stats_differing"] == told["totals_differing"] == 0


@pytest.mark.parametrize("players", [[7], []])
def test_counters_are_recomputed_for_some_or_all(
    run: Run, world: World, players: list[int]
) -> None:
    world.player(7, clears=3)
    world.player(8, clears=3)
    _, told = run("recompute_player_stats", players=players, dry_run=False)
    assert told["players"] == len(players) or 2
    left = world.rows("SELECT clears FROM core.player ORDER BY membership_id")
    assert left == [(0,), (3 if players else 0,)]


def test_a_mistyped_value_fails_once_with_its_name(run: Run) -> None:
    """Three tries of the same mistake take two minutes, and somebody waits."""
    for name, changes, told in (
        ("recompute_player_stats", {"players": [404]}, "no such players: 404"),
        ("fix_sherpa_clears", {"batch_players": 0}, "batch_players"),
        (
            "fix_sherpa_clears",
            {"first_instance_id": 9, "last_instance_id": 8},
            "first_instance_id 9 is above last_instance_id 8",
        ),
        (
            "update_skull_hashes",
            {"first_id": 9, "below_id": 9},
            "first_id 9 is above below_id - 1 = 8",
        ),
        ("refresh_view", {"view": "speed"}, "speed is no leaderboard"),
        ("clear_flags", {"since": "yesterday"}, "since"),
        ("clear_player", {"undo_changes": [1]}, "either players or undo_changes"),
        ("replay_dead_letters", {"queue": "players"}, "queue: 'players' is none of"),
        ("replay_dead_letters", {"limit": -1}, "cannot be negative"),
        ("prune_dagster_events", {"details_days": 0}, "not in PostgreSQL"),
    ):
        with pytest.raises(dg.Failure, match=told) as caught:
            run(name, **changes)
        assert not caught.value.allow_retries


def test_a_board_is_refreshed_after_what_it_needs(
    run: Run, world: World, instance: dg.DagsterInstance
) -> None:
    """Ranks of yesterday's scores would look right and be wrong; its page must show the refresh."""
    world.player(7, clears=3)
    world.raid(1, [7])
    report, _ = run("refresh_view")
    order = ["world_first_contest_leaderboard", "wfr_score", "individual_global_leaderboard"]
    assert [
        line.split("|")[1].strip()
        for line in report.splitlines()
        if "_leaderb" in line or "wfr" in line
    ] == order
    assert world.rows("SELECT wfr_score > 0 FROM leaderboard.individual_global_leaderboard") == [
        (True,)
    ]
    key = dg.AssetKey(["postgres", "individual_global_leaderboard"])
    (record,) = instance.fetch_materializations(key, limit=2).records
    assert record.asset_materialization is not None
    assert record.asset_materialization.metadata["dagster/row_count"].value == 1


def test_all_boards_are_refreshed(run: Run, world: World) -> None:
    _, told = run("refresh_view", view="all")
    assert told["refreshed"] == 8
    filled = world.rows("SELECT count(*) FROM pg_matviews WHERE ispopulated")
    assert filled == [(7,)]


def test_parked_messages_go_back(
    run: Run, rabbitmq: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(rabbitmq)
    broker = BrokerResource(settings=rabbitmq)
    parked = topology.parked_queue("player_crawl")
    with channel_of(settings) as channel:
        topology.declare(channel)
        topology.declare_failure_queues(channel, "player_crawl", [])
    headers = {"reason": "exhausted", "error": "gone\naway"}
    with Publisher(settings, "test") as publisher:
        publisher.publish(
            [Message(parked, b"%d" % n, {"delivery_mode": 2, "headers": headers}) for n in range(5)]
        )
    report, told = run("replay_dead_letters", broker=broker, limit=3)
    assert "gone away" in report
    assert (told["moved"], told["stay_parked"]) == (3, 2)
    assert (ready(settings, "player_crawl"), ready(settings, parked)) == (0, 5)
    _, told = run("replay_dead_letters", broker=broker, limit=3, dry_run=False)
    assert (ready(settings, "player_crawl"), ready(settings, parked)) == (3, 2)
    run("replay_dead_letters", broker=broker, limit=0, dry_run=False, rate_per_s=0.0)
    assert (ready(settings, "player_crawl"), ready(settings, parked)) == (5, 0)


def test_flags_and_players_are_cleared_and_brought_back(run: Run, world: World) -> None:
    world.player(7, cheat_level=4)
    world.raid(1, [7])
    world.run(
        "INSERT INTO flagging.flag_instance_player VALUES"
        " (1, 7, 'old', 1::bigint << 57, '2026-03-02', 0.9, 'why')"
    )
    report, told = run("clear_flags", kept_version="new")
    assert told["player_flags"] == 1
    assert "| 7 | Guardian 7 | 4 |" in report
    report, _ = run("clear_player", players=[7], dry_run=False)
    assert world.rows("SELECT cheat_level FROM core.player") == [(0,)]
    ((change, actor),) = world.rows("SELECT id, actor FROM streaming.cheat_level_change")
    assert actor == "night shift"
    assert f"| 7 | Guardian 7 | 4 | 1 | 0 | 0 | 0 | {change} |" in report
    run("clear_player", players=[], undo_changes=[change], dry_run=False)
    assert world.rows("SELECT cheat_level FROM core.player") == [(4,)]
    _, told = run("clear_flags", kept_version="new", dry_run=False)
    assert world.rows("SELECT * FROM flagging.flag_instance_player") == []


def test_ledgers_are_pruned(run: Run, world: World) -> None:
    world.run(
        "INSERT INTO streaming.account_factor_cache VALUES (1, now() - interval '2 days', '{}', 0);"
        "INSERT INTO streaming.blocked_success VALUES (1, now() - interval '2 days')"
    )
    report, told = run("prune_ledgers", dry_run=False)
    assert (told["rows"], told["tables_overdue"]) == (1, 1)
    assert "| streaming.blocked_success | hermes, pgcr_blocked_retry | 1 |" in report


def test_the_daily_sample_finds_a_wrong_player(
    store: PostgresResource, world: World, instance: dg.DagsterInstance
) -> None:
    """Between two runs of `raidhub verify` this is all that looks; red must name who."""
    sample = dg.define_asset_job(
        "sample", selection=dg.AssetSelection.checks(*DERIVED_STATE_CHECKS)
    )
    defs = dg.Definitions(
        assets=[INSTANCE, INSTANCE_PLAYER, PLAYER, PLAYER_STATS],
        asset_checks=DERIVED_STATE_CHECKS,
        jobs=[sample],
        resources={"postgres": store},
    )

    def failed() -> list[dg.AssetCheckEvaluation]:
        done = defs.resolve_job_def("sample").execute_in_process(instance=instance)
        found = done.get_asset_check_evaluations()
        assert len(found) == len(DERIVED_STATE_CHECKS)
        return [evaluation for evaluation in found if not evaluation.passed]

    assert failed() == []
    world.player(7, clears=3)
    (wrong,) = failed()
    assert "counters of an activity" in str(wrong.description)
    problems = wrong.metadata["problems"]
    assert isinstance(problems, dg.TableMetadataValue)
    assert [record.data["examples"] for record in problems.records] == ["7"]
    assert LAST_WISH_ID == 4

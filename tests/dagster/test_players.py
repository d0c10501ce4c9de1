"""Columns of players that follow from others, and batches of players for the queues."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import yaml
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from assets.leaderboards import SUM_OF_BEST_KEY
from assets.players import SEARCH_SCORE_KEY
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.jobs.repair import ALONE_TAG
from raidhub_dagster.players.requests import request_histories
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import alone, connected
from tests.dagster.conftest import LAST_WISH_ID, World
from tests.dagster.home import ROOT
from tests.dagster.results import evaluation

HISTORIES = "activity_history_update"
QUEUED = "SELECT key, destination, convert_from(body, 'UTF8') FROM streaming.outbox ORDER BY 1"


@pytest.fixture
def defs(store: PostgresResource) -> dg.Definitions:
    return build_defs({"postgres": store})


@pytest.fixture
def one_raid(world: World) -> World:
    """Last Wish is the only raid that counts; players 1 and 2 have cleared it, 3 has not."""
    world.run("UPDATE definitions.activity_definition SET is_raid = id = %s", (LAST_WISH_ID,))
    for membership_id in (1, 2, 3):
        world.player(membership_id)
    world.raid(100, [1, 2])
    world.run("UPDATE core.player_stats SET fastest_instance_id = 100 WHERE membership_id < 3")
    return world


def upkeep(defs: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = defs.resolve_job_def("players_upkeep_job")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def changed(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> tuple[Any, Any]:
    """How many players have a value, and how many got another one."""
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == key]
    told = event.materialization.metadata
    return told["dagster/row_count"].value, told["changed_players"].value


def test_sums_follow_changed_definitions(
    defs: dg.Definitions, instance: dg.DagsterInstance, one_raid: World
) -> None:
    """A raid was added by hand: ranks by speed would compare sums over different raids."""
    result = upkeep(defs, instance)
    assert result.success
    assert changed(result, SUM_OF_BEST_KEY) == (2, 2)
    sums = "SELECT membership_id, sum_of_best FROM core.player ORDER BY 1"
    assert one_raid.rows(sums) == [(1, 7200), (2, 7200), (3, None)]
    assert changed(upkeep(defs, instance), SUM_OF_BEST_KEY) == (2, 0)
    one_raid.run("UPDATE definitions.activity_definition SET is_raid = true WHERE id = 1")
    one_raid.run("UPDATE definitions.activity_definition SET is_sunset = false WHERE id = 1")
    assert changed(upkeep(defs, instance), SUM_OF_BEST_KEY) == (0, 2)


def test_more_players_than_a_batch_are_corrected(
    defs: dg.Definitions, instance: dg.DagsterInstance, one_raid: World
) -> None:
    """Locks are taken for 500 at a time; whoever comes after must not be forgotten."""
    one_raid.run(
        "INSERT INTO core.player (membership_id, last_seen, sum_of_best)"
        " SELECT 1000 + n, now(), 5 FROM generate_series(1, 1100) AS n"
    )
    assert changed(upkeep(defs, instance), SUM_OF_BEST_KEY) == (2, 1102)


def test_a_wrong_sum_fails_the_check_of_its_asset(
    defs: dg.Definitions, instance: dg.DagsterInstance, one_raid: World
) -> None:
    upkeep(defs, instance)
    one_raid.run("UPDATE core.player SET sum_of_best = 1 WHERE membership_id = 2")
    found = evaluation(checked(defs, instance, SUM_OF_BEST_KEY), "sum_of_best_follows_the_raids")
    assert (found.passed, found.description) == (False, "a sum differs from the raids")


def checked(
    defs: dg.Definitions, instance: dg.DagsterInstance, key: dg.AssetKey
) -> dg.ExecuteInProcessResult:
    job = dg.define_asset_job("check", selection=dg.AssetSelection.checks_for_assets(key))
    both = dg.Definitions.merge(defs, dg.Definitions(jobs=[job]))
    return both.resolve_job_def("check").execute_in_process(instance=instance, raise_on_error=False)


@pytest.fixture
def spoil(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Callable[[str], None]:
    """Writes a score around its formula, as a load that copies generated values does."""

    def run(connection: Connection, statement: str) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def write(change: str) -> None:
        column = "attrelid = 'core.player'::regclass AND attname = '_search_score'"
        with connected(settings_for(postgres), "pytest") as connection:
            run(connection, f"UPDATE pg_attribute SET attgenerated = '' WHERE {column}")
            run(connection, change)
            run(connection, f"UPDATE pg_attribute SET attgenerated = 's' WHERE {column}")

    return write


def test_search_scores_that_differ_from_their_formula_are_computed_anew(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World, spoil: Callable[[str], None]
) -> None:
    """The search would show a player of one raid before one of a thousand."""
    for membership_id in (1, 2, 3):
        world.player(membership_id, clears=membership_id)
    scores = "SELECT _search_score FROM core.player ORDER BY membership_id"
    right = world.rows(scores)
    spoil("UPDATE core.player SET _search_score = 7 WHERE membership_id < 3")
    assert world.rows(scores) != right
    result = checked(defs, instance, SEARCH_SCORE_KEY)
    found = evaluation(result, "search_score_follows_its_formula")
    assert (found.passed, found.metadata["broken_rows"].value) == (False, 2)
    assert changed(upkeep(defs, instance), SEARCH_SCORE_KEY) == (3, 2)
    assert world.rows(scores) == right
    assert changed(upkeep(defs, instance), SEARCH_SCORE_KEY) == (3, 0)


def test_another_formula_in_the_database_is_named(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World
) -> None:
    """Green every Sunday with scores that stay wrong would be worse than no upkeep."""
    world.player(1)
    world.run("ALTER TABLE core.player DROP COLUMN _search_score")
    world.run(
        "ALTER TABLE core.player ADD COLUMN _search_score numeric(14, 4)"
        " GENERATED ALWAYS AS (clears) STORED"
    )
    result = upkeep(defs, instance)
    errors = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    assert "1 search scores stay wrong" in str(errors)


def execute(
    defs: dg.Definitions, instance: dg.DagsterInstance, job: str, **config: object
) -> dict[str, Any]:
    """Runs a batch; the facts of its report."""
    done = defs.resolve_job_def(job).execute_in_process(
        instance=instance, run_config={"ops": {job: {"config": config}}}
    )
    (output,) = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
    return {k: v.value for k, v in output.step_output_data.metadata.items()}


@pytest.fixture
def raiders(world: World) -> World:
    """Players 1 to 9 with so many tens of clears; 1-3 were walked now, 4-6 last year, 7-9 never."""
    for n in range(1, 10):
        world.player(n, clears=10 * n, bungie_global_display_name=f"G{n}")
    world.run("UPDATE core.player SET history_last_crawled = now(), last_crawled = now()")
    old = "UPDATE core.player SET {} = now() - interval '200 days' WHERE membership_id in (4, 5, 6)"
    for column in ("history_last_crawled", "last_crawled"):
        world.run(old.format(column))
        world.run(f"UPDATE core.player SET {column} = NULL WHERE membership_id > 6")
    return world


def test_a_preview_queues_nobody(
    defs: dg.Definitions, instance: dg.DagsterInstance, raiders: World
) -> None:
    told = execute(defs, instance, HISTORIES)
    assert (told["due"], told["asked for"]) == (6, 6)
    assert "preview" in told["report"]
    assert raiders.rows(QUEUED) == raiders.rows("SELECT 1 FROM streaming.asked_player") == []


def test_histories_that_are_due_are_queued_once(
    defs: dg.Definitions, instance: dg.DagsterInstance, raiders: World
) -> None:
    """The queue may take days; a second click must not fill it with the same players."""
    told = execute(defs, instance, HISTORIES, dry_run=False)
    assert (told["due"], told["asked for"]) == (6, 6)
    assert raiders.rows(QUEUED) == [
        (n, "activity_history_crawl", str(n)) for n in (4, 5, 6, 7, 8, 9)
    ]
    again = execute(defs, instance, HISTORIES, dry_run=False)
    assert (again["due"], again["asked for"]) == (0, 0)
    raiders.run("UPDATE streaming.asked_player SET asked_at = now() - interval '8 days'")
    assert execute(defs, instance, HISTORIES)["due"] == 6


@pytest.mark.parametrize(
    ("config", "due", "picked"),
    [
        ({"count": 2}, 6, 2),
        ({"range": 4}, 4, 4),
        ({"weeks": 30}, 3, 3),
        ({"count": 0}, 0, 0),
    ],
)
def test_a_batch_is_as_large_and_as_old_as_asked_for(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    raiders: World,
    config: dict[str, object],
    due: int,
    picked: int,
) -> None:
    told = execute(defs, instance, HISTORIES, dry_run=False, **config)
    assert (told["due"], told["asked for"]) == (due, picked)
    assert len(raiders.rows(QUEUED)) == picked


def test_a_batch_that_was_killed_goes_on_with_others(
    raiders: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was queued is remembered in the same transaction as the messages."""
    monkeypatch.setattr("raidhub_dagster.players.requests._A_TRANSACTION", 2)
    raiders.run("ALTER TABLE streaming.asked_player ADD CHECK (membership_id <> 6)")
    batch = {"count": 9, "range_": 9, "older_than": timedelta(weeks=25), "dry_run": False}
    now = datetime.now(UTC)
    with pytest.raises(Exception, match="check constraint"):
        request_histories(raiders.connection, now=lambda: now, **batch)  # type: ignore[arg-type]
    asked = [row[0] for row in raiders.rows("SELECT membership_id FROM streaming.asked_player")]
    assert sorted(asked) == [key for key, *_ in raiders.rows(QUEUED)]
    assert len(asked) in (0, 2, 4)


def test_a_negative_number_is_refused_at_once(raiders: World) -> None:
    with pytest.raises(PermanentError, match="count=-1"):
        request_histories(
            raiders.connection, count=-1, range_=1, older_than=timedelta(0), dry_run=True
        )


def test_stale_players_are_the_nameless_and_then_the_oldest(
    defs: dg.Definitions, instance: dg.DagsterInstance, raiders: World
) -> None:
    """Nobody finds a player without a name, however few raids it has."""
    raiders.run(
        "INSERT INTO core.player (membership_id, membership_type, last_seen) VALUES (50, 3, now())"
    )
    told = execute(defs, instance, "stale_players", dry_run=False, range=5, count=4)
    assert (told["due"], told["asked for"]) == (6, 4)
    assert raiders.rows(QUEUED) == [(n, "player_crawl", str(n)) for n in (7, 8, 9, 50)]


def test_a_second_batch_at_once_is_refused(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    postgres: dict[str, Any],
    settings_for: Callable[..., Settings],
) -> None:
    with (
        alone(settings_for(postgres), "pytest", HISTORIES),
        pytest.raises(dg.Failure, match=f"{HISTORIES} runs already"),
    ):
        execute(defs, instance, HISTORIES)
    assert defs.resolve_job_def(HISTORIES).tags[ALONE_TAG] == HISTORIES


@pytest.mark.parametrize("job", [HISTORIES, "stale_players"])
@pytest.mark.usefixtures("raiders")
def test_the_example_file_is_a_preview_with_the_defaults(
    defs: dg.Definitions, instance: dg.DagsterInstance, job: str
) -> None:
    """People copy it, so it must be accepted, do nothing, and show what the schedule does."""
    config = yaml.safe_load((ROOT / "docs" / "repairs" / f"{job}.yaml").read_text("utf-8"))
    assert config["ops"][job]["config"].pop("dry_run")
    told = execute(defs, instance, job, **config["ops"][job]["config"])
    assert told == execute(defs, instance, job) | {"report": told["report"]}


@pytest.mark.parametrize(
    ("schedule", "cron"),
    [(f"{HISTORIES}_schedule", "0 3 * * 1"), ("stale_players_schedule", "30 3 * * *")],
)
@pytest.mark.usefixtures("raiders")
def test_the_clock_queues_for_real(
    defs: dg.Definitions, store: PostgresResource, schedule: str, cron: str
) -> None:
    """A repair previews by default: a schedule that forgot to say otherwise would do nothing."""
    found = defs.resolve_schedule_def(schedule)
    assert found.cron_schedule == cron
    with (
        dg.instance_for_test() as persistent,
        # Left open, it keeps its instance as that of every test that comes after.
        dg.build_schedule_context(
            instance=persistent,
            scheduled_execution_time=datetime(2026, 11, 2, 3, tzinfo=UTC),
            resources={"postgres": store},
            repository_def=defs.get_repository_def(),
        ) as context,
    ):
        (request,) = found.evaluate_tick(context).run_requests or ()
    (op,) = request.run_config["ops"].values()
    assert op == {"config": {"dry_run": False}}

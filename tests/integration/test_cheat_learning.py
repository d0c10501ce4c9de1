"""Learned scores on both real stores: what is read, what is learned, what is queued and decided."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.cheat_learning.artifact import Entry, check_newest, load_model, newest
from raidhub_dagster.cheat_learning.features import FEATURES, Flags, Rows, Window, read_rows
from raidhub_dagster.cheat_learning.labels import Labelled, read_labelled, window_of
from raidhub_dagster.cheat_learning.models import Model
from raidhub_dagster.cheat_learning.review import (
    Decision,
    Reviewed,
    check_advice,
    decide,
    read_queue,
    review,
)
from raidhub_dagster.cheat_learning.training import (
    TooLittle,
    Trained,
    look_at_features,
    train_model,
)
from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.storage import clickhouse as ch
from raidhub_dagster.storage.leaderboards import refresh_view
from tests.conftest import Overrides, make_settings, own_clickhouse, own_postgres
from tests.support.analytics import HOUR, Analytics, opened, run, send_until_quiet
from tests.support.cheat_runs import UNKNOWN, Population, populate, store

PARAMETERS = load_parameters()
NOW = datetime.now(UTC).replace(microsecond=0)
SINCE = NOW - timedelta(days=60)


@dataclass
class World:
    """Twelve weeks of runs in both stores, and a model of them."""

    stores: Analytics
    population: Population
    folder: Path
    trained: Trained
    model: Model

    @property
    def entry(self) -> Entry:
        return self.trained.entry

    def window(self, since: datetime = SINCE, until: datetime = NOW) -> Window:
        return window_of(self.stores.postgres, PARAMETERS, since, until)

    def review(self, *, at_least: float = 0.05, most: int = 100) -> Reviewed:
        return review(
            self.stores.postgres,
            self.stores.clickhouse,
            self.model,
            self.entry.version,
            self.window(),
            PARAMETERS,
            at_least=at_least,
            most=most,
        )

    def labelled(self, *, most_rows: int = 100_000) -> Labelled:
        stores = self.stores
        return read_labelled(
            stores.postgres, stores.clickhouse, self.window(), PARAMETERS, most_rows=most_rows
        )

    def queue(self) -> list[tuple[Any, ...]]:
        return self.stores.rows("SELECT * FROM flagging.review_queue ORDER BY id")


@pytest.fixture(scope="module")
def shared(
    postgres_server: Overrides,
    clickhouse_server: Overrides,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("models")
    with ExitStack() as closing_:
        own = closing_.enter_context(own_postgres(postgres_server))
        house = closing_.enter_context(own_clickhouse(clickhouse_server, postgres_server))
        stores = closing_.enter_context(opened(make_settings(own, house)))
        connection, client = stores.postgres, stores.clickhouse
        population = populate(21, runs=1200, players=1500, cheaters=4, until=NOW, weeks=8)
        store(population, connection, client)
        trained = train_model(
            connection,
            client,
            PARAMETERS,
            folder,
            since=SINCE,
            until=NOW,
            most_rows=100_000,
            precision=0.9,
            now=NOW,
        )
        assert isinstance(trained, Trained)
        yield World(stores, population, folder, trained, load_model(folder, trained.entry))


@pytest.fixture
def world(shared: World) -> World:
    """With an empty queue, nobody whitelisted and no level."""
    shared.stores.rows("DELETE FROM flagging.review_queue")
    shared.stores.rows(
        "UPDATE core.player SET is_whitelisted = false, cheat_level = 0, clears = 10"
    )
    shared.stores.rows("UPDATE core.instance SET is_whitelisted = false")
    shared.stores.rows("DELETE FROM flagging.blacklist_instance")
    shared.stores.rows("DELETE FROM streaming.cheat_check WHERE version = 'compat-2.3'")
    return shared


def everything_decided(stores: Analytics) -> dict[str, list[tuple[Any, ...]]]:
    """Levels, flags, blacklists and their ledgers: what only rules and people may write."""
    return {
        name: stores.rows(f"SELECT * FROM {name} ORDER BY 1, 2, 3")
        for name in (
            "core.player",
            "flagging.flag_instance",
            "flagging.flag_instance_player",
            "flagging.blacklist_instance",
            "flagging.blacklist_instance_player",
            "streaming.cheat_level_change",
            "streaming.cheat_check",
            "streaming.outbox",
        )
    }


# --- reading


def test_measures_are_those_of_the_definition(world: World) -> None:
    """Computed once in SQL and once in plain arrays: a sum over the wrong thing shows here."""
    rows = read_rows(world.stores.clickhouse, world.window())
    expected = world.population.rows
    kept = world.population.raw["seconds"] >= 60
    expected = expected.take(kept)
    order = np.lexsort((expected.membership_ids, expected.instance_ids))
    expected = expected.take(order)
    for field in fields(Rows):
        if field.name not in ("seasons", "values"):
            assert np.array_equal(getattr(rows, field.name), getattr(expected, field.name)), field
    for place, feature in enumerate(FEATURES):
        found, wanted = rows.values[:, place], expected.values[:, place]
        assert np.allclose(found, wanted, rtol=1e-5, equal_nan=True), feature.column
    assert len(set(rows.seasons)) >= 1
    assert rows.seasons.min() > 20


def test_a_part_is_drawn_by_runs_and_the_same_again(world: World) -> None:
    """Half of a team would change what its members are compared with."""
    client, window = world.stores.clickhouse, world.window()
    every = read_rows(client, window)
    drawn = read_rows(client, window, modulus=4)
    again = read_rows(client, window, modulus=4)
    assert np.array_equal(drawn.membership_ids, again.membership_ids)
    assert 0 < len(drawn) < len(every) / 2
    for instance in np.unique(drawn.instance_ids)[:20]:
        assert (drawn.instance_ids == instance).sum() == (every.instance_ids == instance).sum()
    missing = sorted(set(every.instance_ids.tolist()) - set(drawn.instance_ids.tolist()))[:3]
    listed = read_rows(client, window, modulus=0, wanted=missing)
    assert set(listed.instance_ids.tolist()) == set(missing)
    assert not listed.is_sampled.any()


@pytest.mark.parametrize(
    "change",
    [
        {"completed": False},
        {"duration": 59},
        {"players": tuple(range(1, 51))},
        # Within the bug window of September 2025.
        {"started": datetime(2025, 9, 18, 12, tzinfo=UTC)},
    ],
    ids=["incomplete", "short", "crowd", "bug"],
)
def test_runs_that_say_nothing_are_left_out(analytics: Analytics, change: dict[str, Any]) -> None:
    """Players would be queued for what the game did."""
    analytics.store(run(1, weapons=[]), run(2, **{"weapons": [], **change}))
    send_until_quiet(analytics)
    window = window_of(
        analytics.postgres, PARAMETERS, datetime(2025, 1, 1, tzinfo=UTC), HOUR + timedelta(days=2)
    )
    rows = read_rows(analytics.clickhouse, window)
    assert set(rows.instance_ids.tolist()) == {1}
    seen = look_at_features(
        analytics.postgres,
        analytics.clickhouse,
        PARAMETERS,
        since=window.since,
        until=window.until,
    )
    assert (seen.rows, seen.expected_rows) == (2, 2)


def test_a_player_without_weapons_or_kills_is_unknown_where_it_must_be(
    analytics: Analytics,
) -> None:
    """Nothing is divided by nothing."""
    analytics.store(run(1, weapons=[]))
    send_until_quiet(analytics)
    window = window_of(analytics.postgres, PARAMETERS, HOUR, HOUR + timedelta(days=1))
    rows = read_rows(analytics.clickhouse, window)
    unknown = {f.column for place, f in enumerate(FEATURES) if np.isnan(rows.values[0, place])}
    assert unknown == {"precision_share", "ability_share", "top_weapon_share", "heavy_share"}
    assert np.isfinite(np.nan_to_num(rows.values)).all()


def test_an_impossible_window_is_an_error_and_an_empty_one_is_empty(world: World) -> None:
    with closing(ch.connect(world.stores.settings, "pytest")) as client:
        window = world.window()._replace(seasons=())
        assert len(read_rows(client, window._replace(until=window.since))) == 0
        with pytest.raises((PermanentError, TransientError)):
            read_rows(client, window._replace(since=datetime(1, 1, 1, tzinfo=UTC)))


# --- labels and training


def test_labels_are_what_rules_and_people_say(world: World) -> None:
    labelled = world.labelled()
    pairs = set(
        zip(
            labelled.rows.instance_ids[labelled.positive].tolist(),
            labelled.rows.membership_ids[labelled.positive].tolist(),
            strict=True,
        )
    )
    of = world.population
    seen = of.flagged & (of.raw["seconds"] >= 60)
    expected = set(zip(of.rows.instance_ids[seen].tolist(),
                       of.rows.membership_ids[seen].tolist(), strict=True))  # fmt: skip
    assert pairs == expected
    assert labelled.reasons()
    runs = np.unique(of.rows.instance_ids[of.flagged])
    assert not np.isin(labelled.rows.instance_ids[labelled.negative], runs).any()
    assert not (labelled.positive & labelled.negative).any()


def test_what_was_not_drawn_but_confirmed_is_there(world: World) -> None:
    """One in ten thousand is confirmed: a draw would lose what there is to learn."""
    labelled = world.labelled(most_rows=800)
    every = world.labelled()
    assert labelled.positive.sum() == every.positive.sum()
    assert labelled.negative.sum() < every.negative.sum() / 3
    assert labelled.weights[labelled.negative].min() > 3
    assert set(labelled.weights[labelled.positive]) == {1.0}


def test_a_whitelisted_player_is_no_example_of_a_cheater(world: World) -> None:
    ((player,),) = world.stores.rows(
        "SELECT membership_id FROM flagging.flag_instance_player LIMIT 1"
    )
    world.stores.rows(
        "UPDATE core.player SET is_whitelisted = true WHERE membership_id = %s", player
    )
    labelled = world.labelled()
    assert not labelled.positive[labelled.rows.membership_ids == player].any()


def test_a_flag_that_later_rules_did_not_give_teaches_nothing(world: World) -> None:
    """After a rule was mended its mistakes would go on in every new model."""
    before = world.labelled()
    place = np.flatnonzero(before.positive)[0]
    instance = int(before.rows.instance_ids[place])
    world.stores.rows(
        "INSERT INTO streaming.cheat_check (instance_id, version, probability, bitmask, checked_at)"
        " VALUES (%s, 'compat-2.3', 0, 0, now() + interval '1 hour')",
        instance,
    )
    after = world.labelled()
    assert before.positive[before.rows.instance_ids == instance].any()
    assert not after.positive[after.rows.instance_ids == instance].any()
    assert after.positive.sum() < before.positive.sum()


def test_a_trained_model_is_listed_with_its_figures(world: World) -> None:
    stored = newest(world.stores.postgres)
    assert stored is not None
    assert stored._replace(created_at=None) == world.entry
    assert check_newest(world.stores.postgres, world.folder) == []
    ((splits,),) = world.stores.rows("SELECT metrics -> 'splits' FROM streaming.cheat_model")
    assert {split["split"] for split in splits} == {"weeks", "raid", "reason"}
    weeks = [f for f in world.trained.figures if f.split == "weeks"]
    assert weeks[0].average_precision > 0.5


def test_a_changed_file_is_a_red_check(world: World, tmp_path: Path) -> None:
    """Before the daily round stops with it."""
    (problem,) = check_newest(world.stores.postgres, tmp_path)
    assert "is not in CHEAT_MODEL_DIR" in problem.claim
    (tmp_path / f"{world.entry.version}.model").write_bytes(b"{}\n")
    (problem,) = check_newest(world.stores.postgres, tmp_path)
    assert "is not the file that training wrote" in problem.claim


def test_too_little_to_learn_from_writes_nothing(analytics: Analytics, tmp_path: Path) -> None:
    """A model of three cheaters advises to look at whoever resembles one of them."""
    analytics.store(run(1))
    send_until_quiet(analytics)
    done = train_model(
        analytics.postgres,
        analytics.clickhouse,
        PARAMETERS,
        tmp_path / "models",
        since=HOUR - timedelta(days=1),
        until=HOUR + timedelta(days=1),
        most_rows=1000,
        precision=0.98,
        now=NOW,
    )
    assert isinstance(done, TooLittle)
    assert "2 player-instances (at least 2000), 0 confirmed (at least 30)" in done.reason
    assert not (tmp_path / "models").exists()
    assert newest(analytics.postgres) is None


def test_a_folder_that_cannot_be_written_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = world.stores.rows("SELECT count(*) FROM streaming.cheat_model")
    with pytest.raises(PermanentError, match="CHEAT_MODEL_DIR"):
        train_model(
            world.stores.postgres,
            world.stores.clickhouse,
            PARAMETERS,
            tmp_path / "file" / "models",
            since=SINCE,
            until=NOW,
            most_rows=100_000,
            precision=0.98,
            now=NOW,
        )
    assert world.stores.rows("SELECT count(*) FROM streaming.cheat_model") == before


# --- the queue


def test_everything_runs_and_nobody_is_judged(world: World) -> None:
    """A score is a guess. One code path to a level, and an innocent is off the boards."""
    before = everything_decided(world.stores)
    done = world.review(at_least=0.05, most=500)
    assert done.added > 20
    ids = [row[0] for row in world.queue()]
    decide(world.stores.postgres, ids[:5], Decision.CONFIRMED, actor="ann", dry_run=False)
    decide(world.stores.postgres, ids[5:9], Decision.DISMISSED, actor="ann", dry_run=False)
    world.review(at_least=0.05, most=500)
    look_at_features(
        world.stores.postgres, world.stores.clickhouse, PARAMETERS, since=SINCE, until=NOW
    )
    assert everything_decided(world.stores) == before
    assert check_advice(world.stores.postgres) == []


def test_whom_the_rules_miss_is_queued_with_reasons(world: World) -> None:
    done = world.review(at_least=0.2)
    assert done.scored == int((world.population.raw["seconds"] >= 60).sum())
    of = world.population
    guilty = {
        (int(m), int(i))
        for m, i in zip(
            of.rows.membership_ids[of.cheats == UNKNOWN],
            of.rows.instance_ids[of.cheats == UNKNOWN],
            strict=True,
        )
    }
    queued = {(row["membership_id"], row["instance_id"]): row for row in done.first}
    assert len(guilty & set(queued)) >= 0.5 * len(guilty)
    assert len(guilty & set(queued)) >= 0.3 * len(queued)
    for row in done.first:
        assert row["model_version"] == world.entry.version
        assert row["expected_value"] == pytest.approx(row["score"] * row["worth"])
        assert all("where the median of" in reason["text"] for reason in row["reasons"])
    values = [row["expected_value"] for row in done.first]
    assert values == sorted(values, reverse=True)


def test_a_second_round_changes_nothing(world: World) -> None:
    first = world.review()
    before = world.queue()
    again = world.review()
    assert (first.renewed, again.added, again.renewed) == (0, 0, first.added)
    assert world.queue() == before


def test_at_most_so_many_rows_are_added(world: World) -> None:
    """A queue of thousands is looked at by nobody."""
    done = world.review(at_least=0.0, most=7)
    assert (done.added, len(world.queue())) == (7, 7)


def test_a_decision_is_final(world: World) -> None:
    """What somebody looked at for an hour must not come back tomorrow."""
    world.review()
    rows = [row[0] for row in world.queue()]
    done = decide(world.stores.postgres, rows[:2], Decision.DISMISSED, actor=" ann ", dry_run=False)
    assert [row["id"] for row in done.changed] == rows[:2]
    decided = world.stores.rows(
        "SELECT * FROM flagging.review_queue WHERE id = ANY(%s) ORDER BY id", rows[:2]
    )
    other = decide(world.stores.postgres, rows[:3], Decision.CONFIRMED, actor="bob", dry_run=False)
    assert [row["id"] for row in other.known] == rows[:2]
    assert [row["id"] for row in other.changed] == rows[2:3]
    world.review(at_least=0.0)
    assert decided == world.stores.rows(
        "SELECT * FROM flagging.review_queue WHERE id = ANY(%s) ORDER BY id", rows[:2]
    )
    assert {row[-1] for row in decided} == {"ann"}


def test_what_people_decided_is_learned_next(world: World) -> None:
    world.review()
    confirmed, dismissed = world.queue()[:2]
    decide(world.stores.postgres, [confirmed[0]], Decision.CONFIRMED, actor="a", dry_run=False)
    decide(world.stores.postgres, [dismissed[0]], Decision.DISMISSED, actor="a", dry_run=False)
    labelled = world.labelled()

    def at(row: tuple[Any, ...]) -> Flags:
        rows = labelled.rows
        return np.asarray((rows.membership_ids == row[1]) & (rows.instance_ids == row[2]))

    assert labelled.positive[at(confirmed)].tolist() == [True]
    assert labelled.negative[at(dismissed)].tolist() == [True]


def test_a_preview_decides_nothing(world: World) -> None:
    world.review()
    before = world.queue()
    done = decide(
        world.stores.postgres, [before[0][0]], Decision.CONFIRMED, actor="ann", dry_run=True
    )
    assert len(done.changed) == 1
    assert world.queue() == before


@pytest.mark.parametrize(
    ("ids", "actor", "words"),
    [([], "ann", "ids: none is given"), ([-1], "ann", r"has \[-1\]"), ([-1], " ", "actor")],
)
def test_a_decision_about_nothing_is_refused(
    world: World, ids: list[int], actor: str, words: str
) -> None:
    with pytest.raises(PermanentError, match=words):
        decide(world.stores.postgres, ids, Decision.CONFIRMED, actor=actor, dry_run=False)


def test_one_wrong_id_decides_nothing_at_all(world: World) -> None:
    world.review()
    before = world.queue()
    with pytest.raises(PermanentError, match=r"has \[-1\]"):
        decide(
            world.stores.postgres,
            [before[0][0], -1],
            Decision.CONFIRMED,
            actor="ann",
            dry_run=False,
        )
    assert world.queue() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE core.player SET is_whitelisted = true WHERE membership_id = %(player)s",
        "UPDATE core.player SET cheat_level = 4 WHERE membership_id = %(player)s",
        "UPDATE core.instance SET is_whitelisted = true WHERE instance_id = %(instance)s",
        "INSERT INTO flagging.blacklist_instance (instance_id, report_source, reason)"
        " VALUES (%(instance)s, 'Manual', 'seen')",
    ],
    ids=["whitelisted player", "level 4", "whitelisted run", "blacklisted run"],
)
def test_where_nothing_is_left_to_find_out_nobody_is_asked(world: World, statement: str) -> None:
    """Before it is queued, and after."""
    world.review()
    _, player, instance, *_ = world.queue()[0]
    with world.stores.postgres as connection, connection.cursor() as cursor:
        cursor.execute(statement, {"player": player, "instance": instance})
    done = world.review()
    assert done.moot >= 1
    assert (player, instance) not in {(row[1], row[2]) for row in world.queue()}
    assert world.review().moot == 0


def test_a_run_on_a_board_is_looked_at_first(world: World) -> None:
    """It holds a place that an honest team should have."""
    world.review()
    before = world.queue()
    name = "team_activity_version_leaderboard"
    refresh_view(world.stores.postgres, name, timeout_s=60)
    done = world.review()
    worths = {row[2]: row[4] for row in before}
    board = {i for (i,) in world.stores.rows(f"SELECT instance_id FROM leaderboard.{name}")}
    assert board
    for row in world.queue():
        if row[2] in worths:
            assert (row[4] > worths[row[2]]) == (row[2] in board)
    assert done.added + done.renewed > 0


def test_a_hidden_player_is_worth_a_quarter(world: World) -> None:
    """The boards of players leave them out already."""
    world.review()
    ((_, player, instance, _, worth, *_), *_) = world.queue()
    world.stores.rows("UPDATE core.player SET cheat_level = 2 WHERE membership_id = %s", player)
    world.review(most=1000)
    (now,) = [row[4] for row in world.queue() if (row[1], row[2]) == (player, instance)]
    assert now == pytest.approx(worth / 4)


def test_a_corrected_report_takes_its_row_along(world: World) -> None:
    """Its foreign key must not stop the replacement of a report."""
    world.review()
    _, player, instance, *_ = world.queue()[0]
    connection = world.stores.postgres
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM core.instance_player WHERE instance_id = %s AND membership_id = %s",
            (instance, player),
        )
        cursor.execute("SELECT count(*) FROM flagging.review_queue WHERE instance_id = %s AND"
                       " membership_id = %s", (instance, player))  # fmt: skip
        assert cursor.fetchone() == (0,)
    connection.rollback()


@pytest.mark.parametrize(
    ("statement", "claim"),
    [
        (
            "INSERT INTO flagging.flag_instance_player (instance_id, membership_id,"
            " cheat_check_version, cheat_check_bitmask, cheat_probability)"
            " SELECT instance_id, membership_id, 'learned-x', 0, 1"
            " FROM core.instance_player LIMIT 1",
            "flag",
        ),
        (
            "INSERT INTO flagging.blacklist_instance (instance_id, report_source, reason,"
            " cheat_check_version) SELECT instance_id, 'CheatCheck', '', 'learned-x'"
            " FROM core.instance LIMIT 1",
            "blacklist",
        ),
        (
            "INSERT INTO streaming.cheat_level_change (membership_id, old_level, new_level, reason,"
            " actor) VALUES (1, 0, 4, '', 'review_queue')",
            "level",
        ),
    ],
)
def test_a_verdict_from_a_score_is_found(world: World, statement: str, claim: str) -> None:
    """Whoever wires the queue to a verdict one day reads so the next morning."""
    assert check_advice(world.stores.postgres) == []
    try:
        world.stores.rows(statement)
        (problem,) = check_advice(world.stores.postgres)
        assert problem.claim == f"a {claim} comes from a learned score"
    finally:
        world.stores.rows(
            "DELETE FROM flagging.flag_instance_player WHERE cheat_check_version = 'learned-x'"
        )
        world.stores.rows("DELETE FROM streaming.cheat_level_change WHERE actor = 'review_queue'")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE flagging.review_queue SET state = 'confirmed'",
        "UPDATE flagging.review_queue SET state = 'dismissed', decided_at = now()",
        "UPDATE flagging.review_queue SET decided_by = 'ann'",
        "UPDATE flagging.review_queue SET state = 'maybe', decided_at = now(), decided_by = 'ann'",
        "UPDATE flagging.review_queue SET score = 1.5",
        "UPDATE flagging.review_queue SET reasons = '{}'",
    ],
)
def test_the_table_takes_no_half_decision(world: World, statement: str) -> None:
    """Not from an outside writer either."""
    world.review(most=1, at_least=0.0)
    with pytest.raises(Exception, match="violates check constraint"):
        world.stores.rows(statement)


def test_states_are_counted(world: World) -> None:
    world.review(most=3, at_least=0.0)
    ids = [row[0] for row in world.queue()]
    decide(world.stores.postgres, ids[:1], Decision.CONFIRMED, actor="ann", dry_run=False)
    states, first = read_queue(world.stores.postgres)
    assert states == {"open": 2, "confirmed": 1}
    assert len(first) == 2

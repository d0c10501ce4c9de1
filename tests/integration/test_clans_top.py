"""The weekly crawl of clans against prepared answers: who is chosen, what fails, what is left."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raidhub_dagster.bungie.client import BungieClient, BungieError
from raidhub_dagster.bungie.codes import CodeClass, class_of
from raidhub_dagster.clans.claims import check_board, check_inhabited, check_references, recount
from raidhub_dagster.clans.crawl import Outcome, crawl_clan
from raidhub_dagster.clans.top import (
    Asked,
    Crawled,
    Progress,
    ask_for_clans,
    choose_top_players,
    crawl_clans,
    pause_s,
)
from raidhub_dagster.errors import (
    MaintenanceError,
    PermanentError,
    TransientError,
    UnavailableError,
)
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.leaderboards import refresh_view
from raidhub_dagster.storage.postgres import Pool, connected
from tests.support.api import ENDPOINTS, FakeApi, Refusal
from tests.support.bungie import Bungie
from tests.support.queues import until
from tests.support.reports import Json
from tests.support.topics import execute, rows

NOW = datetime(2026, 11, 2, 12, tzinfo=UTC)
KEY_REFUSED = 2101
MEMBERS = "SELECT group_id, membership_id FROM clan.clan_members ORDER BY 1, 2"
CHOSEN = "SELECT membership_id, best_rank FROM streaming.top_player ORDER BY 1"


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Any) -> Settings:
    found: Settings = settings_for(postgres)
    return found


@pytest.fixture
def pool(settings: Settings) -> Iterator[Pool]:
    pool = Pool(settings, "test", size=4)
    yield pool
    pool.close()


class Faulty(FakeApi):
    """Raises what is prepared for an address; all else as usual."""

    def __init__(self, answers: Mapping[str, Json], errors: Mapping[str, Exception]) -> None:
        super().__init__(answers)
        self._errors = errors

    def get(self, url: str) -> bytes:
        if url in self._errors:
            self.asked.append(url)
            raise self._errors[url]
        return super().get(url)


def add_players(settings: Settings, *ids: int, kind: Any = 3, **columns: object) -> None:
    names = "".join(f", {name}" for name in columns)
    more = "".join(f", {value}" for value in columns.values())
    values = ", ".join(f"({who}, {kind}, now() - interval '1 day'{more})" for who in ids)
    execute(
        settings,
        f"INSERT INTO core.player (membership_id, membership_type, last_seen{names})"
        f" VALUES {values}",
    )


def at_top(settings: Settings, **group_of: object) -> None:
    """Players `p<id>` are chosen; a value is the array of their groups as of an hour ago."""
    values = ", ".join(
        f"({name[1:]}, 3, {name[1:]}, {groups or 'NULL'}::bigint[],"
        f" {'now() - $$1 hour$$::interval' if groups else 'NULL'})"
        for name, groups in group_of.items()
    )
    execute(settings, f"INSERT INTO streaming.top_player VALUES {values}")


def in_clans(*groups: int, ghosts: tuple[int, ...] = ()) -> Json:
    inactive = {str(g): False for g in groups} | {str(g): True for g in ghosts}
    return {"results": [], "areAllMembershipsInactive": inactive}


def groups_url(membership_id: int) -> str:
    return ENDPOINTS.groups_of_member_url(3, membership_id)


def clan_answers(*groups: int) -> dict[str, Json]:
    """Each of these has the two members 10 * id and 10 * id + 1."""
    answers: dict[str, Json] = {}
    for group in groups:
        answers[ENDPOINTS.group_url(group)] = {"detail": {"groupType": 1, "name": f"Clan {group}"}}
        infos = [{"destinyUserInfo": {"membershipId": str(10 * group + n)}} for n in range(2)]
        answers[ENDPOINTS.group_members_url(group, page=1)] = {"results": infos, "hasMore": False}
    return answers


def quiet(_: Progress) -> None:
    """Nobody listens."""


def ask(
    pool: Pool, api: FakeApi, *, fresh_h: float = 0, tell: Callable[[Progress], object] = quiet
) -> Asked:
    return ask_for_clans(
        pool, [api.client] * 3, fresh_for=timedelta(hours=fresh_h), tell=tell, every=1
    )


def crawl(
    pool: Pool,
    api: FakeApi,
    *,
    fresh_h: float = 0,
    tell: Callable[[Progress], object] = quiet,
    every: int = 1,
    threads: int = 3,
) -> Crawled:
    return crawl_clans(
        pool,
        [api.client] * threads,
        fresh_for=timedelta(hours=fresh_h),
        forget_after=timedelta(days=90),
        tell=tell,
        every=every,
    )


def choose(settings: Settings, top: int) -> tuple[int, list[dict[str, int]]]:
    with connected(settings, "test") as connection:
        for view in ("individual_global_leaderboard", "individual_raid_leaderboard"):
            refresh_view(connection, view, timeout_s=60)
        return choose_top_players(connection, top=top, timeout_s=60)


def test_a_good_rank_on_any_board_is_enough(settings: Settings) -> None:
    """The best sherpa of one raid is nowhere in the ranks by clears."""
    add_players(settings, *range(1, 6), clears=9, fresh_clears=5, total_time_played_seconds=100)
    add_players(settings, 6, clears=1, total_time_played_seconds=1)
    add_players(settings, 7, clears=1, total_time_played_seconds=1)
    execute(
        settings,
        "INSERT INTO core.player_stats (membership_id, activity_id, clears, sherpas)"
        " VALUES (7, 4, 1, 3)",
    )
    assert choose(settings, 1)[0] == 6
    assert rows(settings, CHOSEN) == [*((who, 1) for who in range(1, 6)), (7, 1)]


def test_a_rank_that_everybody_shares_who_has_nothing_is_none(settings: Settings) -> None:
    """Before anybody has a race score all players of the world share its first rank."""
    add_players(settings, 1, clears=2, total_time_played_seconds=5)
    add_players(settings, *range(2, 9), clears=1)
    choose(settings, 1)
    assert rows(settings, CHOSEN) == [(1, 1)]


@pytest.mark.parametrize("kind", ["0", "4", "NULL"])
def test_a_platform_that_nobody_answers_for_is_left_out(settings: Settings, kind: Any) -> None:
    add_players(settings, 1, kind=kind, clears=5)
    add_players(settings, 2, clears=3)
    assert choose(settings, 5) == (1, [{"membership_type": 3, "players": 1}])


def test_the_next_choice_keeps_what_is_known_of_who_stays(settings: Settings) -> None:
    """A run repeated after a failure would ask everybody again."""
    add_players(settings, 1, clears=5)
    at_top(settings, p1="'{77}'", p2="'{78}'")
    choose(settings, 5)
    assert rows(
        settings, "SELECT membership_id, best_rank, group_ids FROM streaming.top_player"
    ) == [(1, 1, [77])]


def test_a_board_that_was_never_filled_is_named(settings: Settings) -> None:
    with (
        connected(settings, "test") as connection,
        pytest.raises(PermanentError, match="was never refreshed"),
    ):
        choose_top_players(connection, top=1500, timeout_s=60)


def test_the_clans_of_each_player_are_kept_without_ghosts(settings: Settings, pool: Pool) -> None:
    """Clans of an account that cross save left behind stay in the answer for ever."""
    at_top(settings, p1=None, p2=None)
    told: list[Progress] = []
    api = FakeApi({groups_url(1): in_clans(5, ghosts=(6,)), groups_url(2): in_clans()})
    assert ask(pool, api, tell=told.append) == Asked(2, 2, [])
    assert rows(settings, "SELECT group_ids FROM streaming.top_player ORDER BY 1") == [
        ([],),
        ([5],),
    ]
    assert told[-1] == Progress("players", 2, 2, 0)


@pytest.mark.parametrize(
    "answer",
    [
        Refusal(1601),
        {"areAllMembershipsInactive": {"5": "maybe"}},
        {"areAllMembershipsInactive": 1},
    ],
)
def test_a_player_who_fails_is_listed_and_keeps_the_clans_of_last_week(
    settings: Settings, pool: Pool, answer: Json
) -> None:
    at_top(settings, p1="'{77}'", p2=None)
    api = FakeApi({groups_url(1): answer, groups_url(2): in_clans(5)})
    done = ask(pool, api)
    assert [(f.stage, f.id) for f in done.failed] == [("players", 1)]
    found = "SELECT membership_id, group_ids FROM streaming.top_player ORDER BY 1"
    assert rows(settings, found) == [(1, [77]), (2, [5])]


def test_every_clan_of_a_top_player_is_crawled_once(settings: Settings, pool: Pool) -> None:
    add_players(settings, 50, 51, 60)
    at_top(settings, p1="'{5}'", p2="'{5,6}'", p3="'{}'")
    api, told = FakeApi(clan_answers(5, 6)), list[Progress]()
    done = crawl(pool, api, tell=told.append)
    assert (done.outcomes, done.failed, done.clans) == ({Outcome.CRAWLED: 2}, [], 2)
    assert (done.members, done.pending) == (3, 1)
    assert rows(settings, MEMBERS) == [(5, 50), (5, 51), (6, 60)]
    assert len(api.asked) == 4
    assert told[-1] == Progress("clans", 2, 2, 0)
    asked = "SELECT key FROM streaming.outbox WHERE destination = 'player_crawl'"
    assert rows(settings, asked) == [(61,)]


def test_a_clan_that_fails_is_listed_and_keeps_its_members(settings: Settings, pool: Pool) -> None:
    """One odd clan must not cost the week, as it did the predecessor."""
    add_players(settings, 50, 51, 60, 61)
    at_top(settings, p1="'{5}'", p2="'{6}'")
    crawl(pool, FakeApi(clan_answers(5, 6)))
    done = crawl(pool, FakeApi(clan_answers(6)))
    assert [(f.stage, f.id, f.reason) for f in done.failed] == [("clans", 5, "code 1601")]
    assert rows(settings, MEMBERS) == [(5, 50), (5, 51), (6, 60), (6, 61)]


def test_all_clans_failing_is_a_failure(settings: Settings, pool: Pool) -> None:
    """Green with nothing done would be found out by a player, weeks later."""
    at_top(settings, p1="'{5}'", p2="'{6}'")
    with pytest.raises(PermanentError, match="all 2 clans failed, the last one with: code 1601"):
        crawl(pool, FakeApi({}))
    away = {ENDPOINTS.group_url(g): BungieError("no answer", facts={}) for g in (5, 6)}
    with pytest.raises(TransientError, match="all 2 clans failed"):
        crawl(pool, Faulty({}, away))


def test_the_rest_failing_again_is_none(settings: Settings, pool: Pool) -> None:
    """A run repeated for the sake of one account that is gone would never be green."""
    at_top(settings, p1=None, p2=None)
    api = FakeApi({groups_url(1): in_clans()})
    assert ask(pool, api).failed
    again = ask(pool, api, fresh_h=1)
    assert (again.players, again.asked, len(again.failed)) == (2, 1, 1)


def test_a_refused_key_ends_it_at_once(settings: Settings, pool: Pool) -> None:
    assert class_of(KEY_REFUSED) is CodeClass.KEY_PROBLEM
    at_top(settings, **{f"p{n}": f"'{{{n}}}'" for n in range(100, 150)})
    api = FakeApi({ENDPOINTS.group_url(n): Refusal(KEY_REFUSED) for n in range(100, 150)})
    with pytest.raises(PermanentError, match=f"code {KEY_REFUSED}"):
        crawl(pool, api)
    assert len(api.asked) < 50


def test_maintenance_ends_it_at_once_and_loses_nobody(settings: Settings, pool: Pool) -> None:
    add_players(settings, 50, 51)
    at_top(settings, p1="'{5}'")
    crawl(pool, FakeApi(clan_answers(5)))
    off = MaintenanceError("switched off")
    with pytest.raises(MaintenanceError):
        crawl(pool, Faulty({}, {ENDPOINTS.group_url(5): off}))
    assert rows(settings, MEMBERS) == [(5, 50), (5, 51)]


def test_an_api_that_is_away_is_not_asked_for_everybody(settings: Settings, pool: Pool) -> None:
    """Ten thousand players at 12 s of pauses each are hours until somebody hears of it."""
    numbers = range(100, 400)
    at_top(settings, **{f"p{n}": f"'{{{n}}}'" for n in numbers})
    away = {ENDPOINTS.group_url(n): BungieError("no answer", facts={}) for n in numbers}
    api = Faulty({}, away)
    with pytest.raises(UnavailableError, match="50 clans in a row failed"):
        crawl(pool, api, threads=1)
    assert len(api.asked) < 300


def test_a_crawl_that_was_killed_goes_on_where_it_ended(settings: Settings, pool: Pool) -> None:
    """What is committed is whole, and nobody is asked twice."""
    groups = range(100, 120)
    at_top(settings, **{f"p{g}": f"'{{{g}}}'" for g in groups})
    api = FakeApi(clan_answers(*groups))

    def kill(progress: Progress) -> None:
        if progress.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crawl(pool, api, tell=kill)
    pending = "SELECT group_id, count(*) FROM streaming.pending_clan_member GROUP BY 1"
    first = rows(settings, pending)
    assert 5 <= len(first) < 20
    assert {number for _, number in first} == {2}
    done = crawl(pool, api, fresh_h=1)
    assert done.outcomes == {Outcome.FRESH: len(first), Outcome.CRAWLED: 20 - len(first)}
    assert len(rows(settings, pending)) == 20
    assert len(api.asked) == 40


def crawl_everything(settings: Settings) -> None:
    """A process of its own, to be killed."""
    with (
        closing(Pool(settings, "killed", size=4)) as pool,
        BungieClient.from_settings(settings) as one,
        BungieClient.from_settings(settings) as other,
    ):
        crawl_clans(
            pool,
            [one, other],
            fresh_for=timedelta(hours=1),
            forget_after=timedelta(days=90),
            tell=quiet,
        )


def test_no_clan_is_half_there_after_a_kill(
    bungie: Bungie, postgres: dict[str, Any], settings_for: Any
) -> None:
    """`kill -9` at any moment leaves whole clans, and the next crawl the rest."""
    settings: Settings = settings_for(
        postgres, bungie_api_key="key", bungie_url_base=bungie.address
    )
    found = (bungie.world.clan(number) for number in range(bungie.world.clans))
    sizes = {c.group_id: len(c.members) for c in found if c is not None and not c.is_gone}
    groups = ",".join(map(str, sizes))
    at_top(settings, p1=f"'{{{groups}}}'")
    stored = "SELECT group_id, count(*) FROM streaming.pending_clan_member GROUP BY 1"
    process = multiprocessing.get_context("spawn").Process(
        target=crawl_everything, args=(settings,), daemon=True
    )
    process.start()
    until(lambda: len(rows(settings, stored)) >= 3)
    process.kill()
    process.join()
    left = dict(rows(settings, stored))
    assert 3 <= len(left) < len(sizes)
    assert left.items() <= sizes.items()
    crawl_everything(settings)
    assert dict(rows(settings, stored)) == sizes
    assert rows(settings, "SELECT count(*) FROM clan.clan") == [(len(sizes),)]


def test_clans_that_nobody_saw_for_long_are_dropped(settings: Settings, pool: Pool) -> None:
    """But not the clan of a top player whose crawl only failed."""
    add_players(settings, 50, 51, 60, 61, 70, 71)
    at_top(settings, p1="'{5}'", p2="'{6}'", p3="'{7}'", p4="'{8}'")
    crawl(pool, FakeApi(clan_answers(5, 6, 7, 8)))
    execute(
        settings,
        "UPDATE clan.clan SET updated_at = now() - interval '91 days' WHERE group_id <> 7;"
        "UPDATE streaming.top_player SET group_ids = '{}' WHERE membership_id IN (1, 3, 4)",
    )
    execute(settings, "UPDATE streaming.top_player SET group_ids = '{6,9}' WHERE membership_id = 2")
    done = crawl(pool, FakeApi(clan_answers(9)))
    assert done.forgotten == 2
    assert rows(settings, "SELECT group_id FROM clan.clan ORDER BY 1") == [(6,), (7,), (9,)]
    assert rows(settings, MEMBERS) == [(6, 60), (6, 61), (7, 70), (7, 71)]
    pending = "SELECT DISTINCT group_id FROM streaming.pending_clan_member"
    assert rows(settings, pending) == [(9,)]


def test_a_list_without_anybody_changes_no_member(settings: Settings, pool: Pool) -> None:
    """No clan is empty, so the answer is wrong; its members would be gone from all boards."""
    add_players(settings, 50, 51)
    crawl_clan(pool, FakeApi(clan_answers(5)).client, 5, fresh_for=timedelta(0))
    answers = clan_answers(5) | {
        ENDPOINTS.group_members_url(5, page=1): {"results": [], "hasMore": False}
    }
    found = crawl_clan(pool, FakeApi(answers).client, 5, fresh_for=timedelta(0))
    assert found is Outcome.NOBODY
    assert rows(settings, MEMBERS) == [(5, 50), (5, 51)]


def test_a_clan_that_is_gone_is_nobodys_any_more(settings: Settings, pool: Pool) -> None:
    """Its row stays without members, which must not look like a crawl that lost them."""
    add_players(settings, 50, 51)
    at_top(settings, p1="'{5,6}'", p2="'{6}'")
    crawl(pool, FakeApi(clan_answers(5, 6)))
    answers: dict[str, Any] = clan_answers(6) | {ENDPOINTS.group_url(5): Refusal(686)}
    assert crawl(pool, FakeApi(answers)).outcomes == {Outcome.GONE: 1, Outcome.CRAWLED: 1}
    assert rows(settings, "SELECT group_ids FROM streaming.top_player ORDER BY 1") == [
        ([6],),
        ([6],),
    ]
    with connected(settings, "test") as connection:
        assert check_inhabited(connection) == []


def test_an_emptied_clan_and_an_unknown_member_are_found(settings: Settings, pool: Pool) -> None:
    add_players(settings, 50, 51)
    at_top(settings, p1="'{5}'")
    crawl(pool, FakeApi(clan_answers(5)))
    with connected(settings, "test") as connection:
        assert (check_references(connection), check_inhabited(connection)) == ([], [])
        execute(
            settings,
            "ALTER TABLE clan.clan_members DROP CONSTRAINT clan_members_membership_id_fkey;"
            "UPDATE clan.clan_members SET membership_id = 99 WHERE membership_id = 50",
        )
        assert [(p.rows, p.examples) for p in check_references(connection)] == [(1, (99,))]
        execute(settings, "DELETE FROM clan.clan_members")
        assert [(p.rows, p.examples) for p in check_inhabited(connection)] == [(1, (5,))]


def test_a_board_is_recounted_by_its_definition(settings: Settings, pool: Pool) -> None:
    """The recount is in Python, so that a mistake in the view's SQL shows."""
    add_players(settings, 50, clears=3, sherpas=1, wfr_score=2.5, total_time_played_seconds=11)
    add_players(settings, 51, clears=4, fresh_clears=1, wfr_score=7.25)
    at_top(settings, p1="'{5,6}'")
    crawl(pool, FakeApi(clan_answers(5, 6)))
    with connected(settings, "test") as connection:
        done = refresh_view(connection, "clan_leaderboard", timeout_s=60)
        assert check_board(connection, unseen_from=done.unseen_from) == (2, [])
        execute(settings, "UPDATE core.player SET wfr_score = 1 WHERE membership_id = 50")
        # Left out: who changed after the refresh cannot be on the board as they are.
        assert check_board(connection, unseen_from=done.unseen_from) == (1, [])
        ((later,),) = rows(settings, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
        recounted, (problem,) = check_board(connection, unseen_from=int(later))
        assert (recounted, problem.rows, problem.examples) == (2, 1, (5,))


def test_a_recount_rounds_as_the_board_does() -> None:
    member = {"fresh_clears": 0, "sherpas": 0, "total_time_played_seconds": 0, "wfr_score": 0.0}
    row = recount([{**member, "clears": 2}, {**member, "clears": 3}])
    assert row is not None
    assert (row["clears"], row["average_clears"]) == (5, 3)
    assert recount([]) is None


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("reqs", lambda pool: crawl(pool, FakeApi({}), threads=0)),
        ("progress_every", lambda pool: crawl(pool, FakeApi({}), every=0)),
        (
            "forget_days",
            lambda pool: crawl_clans(
                pool, [], fresh_for=timedelta(0), forget_after=timedelta(0), tell=quiet
            ),
        ),
        ("top", lambda pool: pool.run(lambda c: choose_top_players(c, top=0, timeout_s=60))),
    ],
)
def test_a_number_that_makes_no_sense_is_named_at_once(
    pool: Pool, name: str, call: Callable[[Pool], object]
) -> None:
    """`forget_days: 0` would drop every clan that no top player is in."""
    with pytest.raises(PermanentError, match=f"{name} is 0, the least is 1"):
        call(pool)


def test_requests_wait_as_the_rule_says() -> None:
    """4 tries with 2n seconds (docs/domain/clans.md)."""
    assert [pause_s(n) for n in (1, 2, 3)] == [2, 4, 6]

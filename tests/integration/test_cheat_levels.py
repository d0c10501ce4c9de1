"""From flags to levels: what counts, who rises and by what, and what is written down of it."""

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from raidhub_dagster.bungie.client import BungieError
from raidhub_dagster.cheat_detection import claims
from raidhub_dagster.cheat_detection.flag_stats import FlagStats, count_flags
from raidhub_dagster.cheat_detection.levels import Raised, raise_levels
from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.cheat_detection.profiles import find_profiles
from raidhub_dagster.errors import MaintenanceError
from raidhub_dagster.storage.postgres import Pool
from raidhub_dagster.storage.webhooks import Webhook
from tests.support.api import ENDPOINTS, FakeApi, Refusal
from tests.support.cheats import GENERIC, NOW, Suspects, ago
from tests.support.database import Database

PARAMETERS = load_parameters("compat-2.2.0")
# 1 - (1 - 0.25) (1 - 0.4) (1 - 0.2) (1 - 0.85) (1 - 0.45) (1 + 0.2) with a fresh account: 0.964.
GUILTY = {
    "userInfo": {"membershipType": 1, "applicableMembershipTypes": [1]},
    "versionsOwned": 7,
    "characterIds": ["1"],
    "seasonHashes": [],
    "currentGuardianRank": 1,
    "lifetimeHighestGuardianRank": 1,
}


@pytest.fixture
def suspects(database: Database) -> Suspects:
    return Suspects(database.connection)


@pytest.fixture
def pool(database: Database) -> Iterator[Pool]:
    found = Pool(database.settings, "pytest", size=4)
    yield found
    found.close()


def answers(*players: int, **changes: Any) -> dict[str, Any]:
    """Guilty profiles on Xbox."""
    return {
        ENDPOINTS.profile_url(1, who): {"profile": {"data": GUILTY | changes}} for who in players
    }


Run = Callable[..., Raised]


@pytest.fixture
def run(database: Database, pool: Pool) -> Run:
    """Counts and raises, as the job does; without `api` nobody is to be had."""

    def execute(
        api: FakeApi | None = None,
        *,
        webhooks: Sequence[Webhook] = (),
        run: str = "r1",
        workers: int = 2,
    ) -> Raised:
        count_flags(database.connection, PARAMETERS, timeout_s=60)
        clients = [(api or FakeApi({})).client] * workers
        return raise_levels(pool, clients, PARAMETERS, run=run, webhooks=webhooks, now=lambda: NOW)

    return execute


def counts(suspects: Suspects) -> dict[int, tuple[int, ...]]:
    """Player -> flags of class a to d."""
    return {
        who: tuple(classes)
        for who, *classes in suspects.rows(
            "SELECT membership_id, class_a, class_b, class_c, class_d"
            " FROM streaming.player_flag_stats"
        )
    }


def count(suspects: Suspects) -> FlagStats:
    return count_flags(suspects.connection, PARAMETERS, timeout_s=60)


def test_flags_are_counted_by_class(suspects: Suspects) -> None:
    who = suspects.player(1)
    for player, of_run in (
        (0.85, None), (0.8499, 0.9899), (0.06, 0.99), (0.25, None), (0.06, 0.5), (0.06, 0.4),
        (0.06, None),
    ):  # fmt: skip
        instance = suspects.run([who])
        suspects.flag(instance, who, player)
        if of_run is not None:
            suspects.flag(instance, None, of_run)
    assert count(suspects) == FlagStats(1, 1, 2, 2, 2, 0)
    assert counts(suspects) == {1: (1, 2, 2, 2)}
    ((flags,),) = suspects.rows("SELECT flags FROM streaming.player_flag_stats")
    assert [flag["class"] for flag in flags] == list("abbccdd")
    assert flags[0].keys() == {
        "instance", "class", "player", "of_instance", "version", "bitmask"
    }  # fmt: skip
    assert (flags[0]["player"], flags[1]["of_instance"]) == (0.85, 0.9899)


def test_a_flag_counts_until_other_rules_find_the_raid_clean(suspects: Suspects) -> None:
    """After a rule was mended its old flags made cheaters for sixty days more."""
    who = suspects.player(1)
    for later in ("compat-2.3", "gamma-1", None, "compat-2.2.0"):
        instance = suspects.run([who])
        suspects.flag(instance, who, 0.9, at=ago(days=2))
        if later:
            suspects.check(instance, later, ago(days=1))
    before = suspects.run([who])
    suspects.check(before, "compat-2.1", ago(days=3))
    suspects.flag(before, who, 0.9, at=ago(days=2))
    # Left out is the first alone: gamma-1 counts nowhere, and 2.1 looked before.
    assert count(suspects) == FlagStats(1, 4, 0, 0, 0, 0)
    assert claims.check_counts(suspects.connection, PARAMETERS) == []


def test_what_does_not_count(suspects: Suspects) -> None:
    """Each of these made somebody a cheater once."""
    for who in range(1, 9):
        suspects.player(who)
    suspects.cheater(10, 3, cheat_level=4)
    suspects.cheater(11, 3, is_whitelisted=True)
    suspects.cheater(12, 2)  # too few
    for _ in range(3):
        suspects.flag(suspects.run([1]), 1, 0.9, at=ago(days=60, minutes=1))
        suspects.flag(suspects.run([2]), 2, 0.9, version="manual")
        suspects.flag(suspects.run([3]), 3, 0.9, version="beta-1.9")
        suspects.flag(suspects.run([4], is_whitelisted=True), 4, 0.9)
        suspects.flag(suspects.run([5]), None, 0.999)  # of the run alone
    instance = suspects.run([6])
    for version in ("compat-2.0.0", "compat-2.1.0", "compat-2.2.0"):
        suspects.flag(instance, 6, 0.9, version=version)  # one run
    count(suspects)
    assert counts(suspects) == {}


def test_the_latest_flag_of_a_run_counts(suspects: Suspects) -> None:
    """A better rule that says less must not be outvoted by the old one."""
    who = suspects.player(1)
    for _ in range(3):
        instance = suspects.run([who])
        suspects.flag(instance, who, 0.95, version="beta-2.0", at=ago(days=20))
        suspects.flag(instance, None, 0.999, version="beta-2.0", at=ago(days=20))
        suspects.flag(instance, who, 0.3, at=ago(days=10))
        suspects.flag(instance, None, 0.1, at=ago(days=10))
    count(suspects)
    assert counts(suspects) == {1: (0, 0, 3, 0)}


def test_flags_by_generic_rules_are_told_apart(suspects: Suspects) -> None:
    who = suspects.player(1)
    for own, of_run in ((True, True), (True, False), (False, True), (False, False)):
        instance = suspects.run([who])
        suspects.flag(instance, who, 0.9, bitmask=GENERIC if own else 1)
        suspects.flag(instance, None, 0.99, bitmask=GENERIC if of_run else 1)
    assert count(suspects) == FlagStats(1, 4, 0, 0, 0, 1)
    sure = suspects.rows("SELECT sure_a, sure_b, sure_c, sure_d FROM streaming.player_flag_stats")
    assert sure == [(2, 1, 0, 0)]


def test_counts_are_written_anew(suspects: Suspects) -> None:
    who = suspects.cheater(1, 3)
    count(suspects)
    suspects.rows("DELETE FROM flagging.flag_instance_player WHERE membership_id = %s", who)
    assert count(suspects).players == 0
    assert counts(suspects) == {}


def test_a_cheater_rises_and_the_record_says_why(suspects: Suspects, run: Run) -> None:
    """Who complains gets an answer with runs and numbers."""
    who = suspects.cheater(1, 6)
    done = run()
    assert suspects.level(who) == 3
    assert (done.eligible, done.judged, len(done.rises), done.levels) == (1, 1, 1, {3: 1})
    ((player, old, new, reason, actor, evidence),) = suspects.rows(
        "SELECT membership_id, old_level, new_level, reason, actor, evidence"
        " FROM streaming.cheat_level_change"
    )
    assert (player, old, new, actor) == (who, 0, 3, "nemesis")
    assert reason == evidence["rule"] == "6 or more flags of class a (6)"
    assert evidence["flags"] == {"a": 6, "b": 0, "c": 0, "d": 0}
    assert (evidence["rules"], evidence["run"], evidence["partial"]) == (
        "compat-2.2.0", "r1", True
    )  # fmt: skip
    flagged = suspects.rows("SELECT instance_id FROM flagging.flag_instance_player ORDER BY 1")
    assert [(flag["instance"],) for flag in evidence["instances"]] == flagged
    # All of his runs were alone: 0.75, over (500 - 70) / 70.
    assert evidence["factors"] == {"star_clears": pytest.approx(0.75 / (430 / 70), abs=1e-6)}


def test_a_second_run_changes_nothing(suspects: Suspects, run: Run) -> None:
    suspects.cheater(1, 6)

    def state() -> list[Any]:
        return [
            suspects.rows("SELECT * FROM core.player"),
            suspects.rows("SELECT * FROM streaming.cheat_level_change"),
            suspects.rows(
                "SELECT to_jsonb(s) - 'counted_at' FROM streaming.player_flag_stats AS s"
            ),
            suspects.rows("SELECT * FROM streaming.outbox"),
        ]

    webhooks = (Webhook.CHEAT_CHECK, Webhook.GM_REPORT)
    run(webhooks=webhooks)
    before = state()
    assert all(before)
    again = run(webhooks=webhooks)
    assert (again.eligible, again.judged, again.rises) == (1, 1, [])
    assert state() == before


def test_the_account_decides_where_flags_alone_do_not(suspects: Suspects, run: Run) -> None:
    """Five heavy flags: level 4 for a fresh account that owns nothing, 2 for an old one."""
    fresh = suspects.cheater(1, 5, first_seen=ago(days=1), clears=0)
    old = suspects.cheater(2, 5)
    api = FakeApi(answers(fresh) | answers(old, versionsOwned=8191, characterIds=["1", "2", "3"]))
    done = run(api)
    assert (suspects.level(fresh), suspects.level(old)) == (4, 2)
    assert done.levels == {2: 1, 4: 1}
    assert [rise.record.membership_id for rise in done.rises] == [fresh, old]
    (evidence,) = (
        e
        for (e,) in suspects.rows(
            "SELECT evidence FROM streaming.cheat_level_change WHERE membership_id = %s", fresh
        )
    )
    assert not evidence["partial"]
    assert evidence["factors"].keys() == {
        "age", "star_clears", "clears", "platform", "characters", "dlcs", "guardian_rank"
    }  # fmt: skip


def test_a_level_that_a_person_gave_is_never_lowered(suspects: Suspects, run: Run) -> None:
    who = suspects.cheater(1, 3, cheat_level=3)  # by the rules: 1
    run()
    assert (suspects.level(who), suspects.changes()) == (3, [])


def test_a_whitelist_wins_until_the_very_end(
    suspects: Suspects, database: Database, pool: Pool
) -> None:
    """Somebody whitelists the player while his profile is asked for."""
    who = suspects.cheater(1, 6)

    class Whitelisting(FakeApi):
        def get(self, url: str) -> bytes:
            other = Database(database.settings, database.connect())
            other.rows("UPDATE core.player SET is_whitelisted = true")
            other.connection.close()
            return super().get(url)

    count(suspects)
    client = Whitelisting(answers(who)).client
    done = raise_levels(pool, [client], PARAMETERS, run="r1", webhooks=(), now=lambda: NOW)
    assert (done.judged, done.rises) == (1, [])
    assert (suspects.level(who), suspects.changes()) == (0, [])


def test_a_level_that_rose_meanwhile_is_the_old_one_of_the_record(
    suspects: Suspects, database: Database, pool: Pool
) -> None:
    """The record is the truth about what was there before, or a revert brings back a wrong one."""
    who = suspects.cheater(1, 6)

    class Raising(FakeApi):
        def get(self, url: str) -> bytes:
            other = Database(database.settings, database.connect())
            other.rows("UPDATE core.player SET cheat_level = 2")
            other.connection.close()
            return super().get(url)

    count(suspects)
    client = Raising(answers(who)).client
    raise_levels(pool, [client], PARAMETERS, run="r1", webhooks=(), now=lambda: NOW)
    assert suspects.changes() == [(who, 2, 4, "nemesis")]


def test_generic_rules_alone_give_no_more_than_their_level(suspects: Suspects, run: Run) -> None:
    who = suspects.player(1)
    for _ in range(100):
        suspects.flag(suspects.run([who]), who, 0.95, bitmask=GENERIC)
    run()
    assert suspects.level(who) == 2


def test_nobody_asks_for_accounts_that_decide_nothing(suspects: Suspects, run: Run) -> None:
    """The API's budget is the crawl's; four times a day thousands of profiles would be a lot."""
    suspects.cheater(1, 4, cheat_level=2)  # the worst account would not make it 3
    suspects.cheater(2, 3, probability=0.06)  # three of class d are no level at all
    api = FakeApi({})
    done = run(api)
    assert (done.eligible, done.judged, api.asked) == (2, 0, [])


def test_profiles_are_kept_for_a_day(suspects: Suspects, run: Run) -> None:
    who = suspects.cheater(1, 3)
    suspects.cheater(2, 3)
    api = FakeApi(answers(who) | {ENDPOINTS.profile_url(1, 2): {"profile": {"privacy": 2}}})
    first = run(api)
    assert (first.profiles_asked, first.partial, first.profiles_missing) == (2, 1, {"hidden": 1})
    suspects.rows("UPDATE core.player SET cheat_level = 0")
    again = run(api)
    assert (again.profiles_asked, again.profiles_cached, len(api.asked)) == (0, 2, 2)
    assert (again.partial, again.profiles_missing) == (1, {"hidden": 1})
    kept = suspects.rows(
        "SELECT factors, chance > 0 FROM streaming.account_factor_cache ORDER BY membership_id"
    )
    assert kept[0][0]["characters"] == 1
    assert kept[0][1]
    suspects.rows("UPDATE core.player SET cheat_level = 0")
    suspects.rows(
        "UPDATE streaming.account_factor_cache SET fetched_at = %s", NOW - timedelta(hours=24)
    )
    assert run(api).profiles_asked == 2


ERROR = BungieError("HTTP 500", facts={})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Refusal(1601), "gone"),
        (Refusal(1665), "hidden"),
        (Refusal(217), "gone"),
        (Refusal(7), "refused"),
        (ERROR, "failed"),
        (MaintenanceError("off"), "maintenance"),
        (Refusal(2101), "refused key"),
        ({"profile": {"privacy": 2}}, "hidden"),
        ({"profile": None}, "hidden"),
        (None, "hidden"),
        ({"profile": {"data": {"characterIds": 7, "userInfo": "x"}}}, None),
    ],
)
def test_no_answer_costs_anybody_his_verdict(
    suspects: Suspects, run: Run, answer: Any, why: str | None
) -> None:
    """The predecessor crashed at the first of these, and nobody was judged that day."""
    who = suspects.cheater(1, 6)
    done = run(FakeApi({ENDPOINTS.profile_url(1, who): answer}))
    assert suspects.level(who) == 3
    assert done.profiles_missing == ({why: 1} if why else {})


def test_what_may_be_better_tomorrow_is_asked_again_at_once(suspects: Suspects, run: Run) -> None:
    """An hour of trouble at Bungie's must not leave verdicts without profiles for a day."""
    who = suspects.cheater(1, 5, first_seen=ago(days=1), clears=0)
    run(FakeApi({ENDPOINTS.profile_url(1, who): ERROR}))
    assert suspects.level(who) == 2
    run(FakeApi(answers(who)))
    assert suspects.level(who) == 4
    assert suspects.changes() == [(who, 0, 2, "nemesis"), (who, 2, 4, "nemesis")]


@pytest.mark.parametrize(
    ("error", "why", "most"),
    [(MaintenanceError("off"), "maintenance", 2), (ERROR, "no answer", 40)],
)
def test_an_api_that_is_away_is_not_asked_for_everybody(
    pool: Pool, error: Exception, why: str, most: int
) -> None:
    """Two hundred accounts with three tries each would hold the run for half an hour."""
    players = dict.fromkeys(range(1, 201), 1)
    api = FakeApi({ENDPOINTS.profile_url(1, who): error for who in players})
    done = find_profiles(pool, [api.client] * 2, players, fresh_for=timedelta(days=1))
    assert done.found == {}
    assert done.missing.total() == 200
    assert done.missing[why] > 150
    assert len(api.asked) <= most


def test_people_are_told_in_the_same_transaction(suspects: Suspects, run: Run) -> None:
    fresh = suspects.cheater(1, 5, first_seen=ago(days=1), clears=0)
    two = suspects.cheater(2, 4)
    suspects.cheater(3, 3, probability=0.3)  # nothing, three of class c
    one = suspects.cheater(4, 3)
    run(FakeApi(answers(fresh)), webhooks=(Webhook.CHEAT_CHECK, Webhook.GM_REPORT))
    assert [suspects.level(who) for who in (fresh, two, one)] == [4, 2, 1]
    sent = [
        (destination, key, json.loads(bytes(body)))
        for destination, key, body in suspects.rows(
            "SELECT destination, key, body FROM streaming.outbox ORDER BY destination, key"
        )
    ]
    assert [(destination, key) for destination, key, _ in sent] == [
        ("cheat_check", fresh), ("gm_report", fresh), ("gm_report", two)
    ]  # fmt: skip
    assert sent[0][2]["embeds"][0]["title"] == "Blacklisted Player"
    assert sent[1][2]["id"] == 1 * 2**20 + 4
    assert sent[1][2]["metadata"]["flags"]["class_a"] == 5
    assert sent[2][2]["metadata"]["raidhub_cheat_level"] == 2


def test_nothing_is_written_for_webhooks_that_are_off(suspects: Suspects, run: Run) -> None:
    suspects.cheater(1, 6)
    run()
    assert suspects.rows("SELECT * FROM streaming.outbox") == []


def test_many_rise_in_one_run(suspects: Suspects, run: Run) -> None:
    """More than one transaction takes."""
    for who in range(1, 121):
        suspects.cheater(who, 3)
    done = run(workers=4)
    assert done.levels == {1: 120}
    assert len(suspects.changes()) == 120

"""Which raids rules take off the team boards, what they never touch, and how it is taken back."""

from datetime import timedelta
from typing import Any

import pytest

from raidhub_dagster.cheat_detection import cheat_report, claims, clearing
from raidhub_dagster.cheat_detection.blacklist import Blacklisted, blacklist
from raidhub_dagster.cheat_detection.flag_stats import count_flags
from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.leaderboards import refresh_view
from tests.support.cheats import GENERIC, NOW, VERSION, Suspects, ago
from tests.support.database import Database

PARAMETERS = load_parameters("compat-2.2.0")
TEAM_BOARD = "team_activity_version_leaderboard"
CHECKED = ("CheatCheck", VERSION, "Flagged >= 0.95")
CHEAT, FRIEND, THIRD = 1, 2, 3


@pytest.fixture
def suspects(database: Database) -> Suspects:
    return Suspects(database.connection)


def run(suspects: Suspects) -> Blacklisted:
    return blacklist(suspects.connection, PARAMETERS, timeout_s=60)


def cascaded(player: int, version: str | None = None) -> tuple[str, str | None, str]:
    name = f"P{player}#0001"
    reason = f"Blacklisted player {name} ({player}) took part"
    return "BlacklistedPlayerCascade", version, reason


def test_raids_flagged_for_certain_are_excluded(suspects: Suspects) -> None:
    suspects.player(CHEAT)
    certain, likely, old, twice = (suspects.run([CHEAT]) for _ in range(4))
    suspects.flag(certain, None, 0.95)
    suspects.flag(likely, None, 0.9499)
    suspects.flag(old, None, 1, at=ago(days=60, minutes=1))
    suspects.flag(twice, None, 0.96, version="beta-2.0", at=ago(days=3))
    suspects.flag(twice, None, 0.97, at=ago(days=2))
    assert run(suspects) == Blacklisted(flagged=2)
    assert suspects.blacklisted() == {certain: CHECKED, twice: CHECKED}
    assert suspects.named() == set()
    assert run(suspects) == Blacklisted()


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("why", ["generic", "superseded"])
def test_weak_and_old_verdicts_exclude_nothing(suspects: Suspects, why: str, level: int) -> None:
    """Rules that know nothing of a raid only warn; a mended rule takes its mistakes back."""
    suspects.player(CHEAT, cheat_level=level)
    instance = suspects.run([CHEAT], at=ago(days=100))
    mask = GENERIC if why == "generic" else 0
    for who in (None, CHEAT):
        suspects.flag(instance, who, 0.99, bitmask=mask, at=ago(days=2))
    if why == "superseded":
        suspects.check(instance, "compat-2.3", ago(days=1))
    run(suspects)
    assert suspects.blacklisted() == {}
    suspects.flag(instance, None, 0.99, version="manual", at=ago(days=2))
    assert run(suspects).flagged == 1  # a person's word stays


def test_whitelists_are_respected(suspects: Suspects) -> None:
    """One generation of the predecessor ignored them, and a person's word was worth a day."""
    suspects.player(CHEAT, cheat_level=4)
    suspects.player(FRIEND, is_whitelisted=True)
    listed = suspects.run([CHEAT], is_whitelisted=True)
    together = suspects.run([CHEAT, FRIEND])
    for instance in (listed, together):
        suspects.flag(instance, None, 0.99)
        suspects.flag(instance, CHEAT, 0.99)
    assert run(suspects) == Blacklisted(players=1)
    suspects.player(THIRD, cheat_level=4, is_whitelisted=True)
    suspects.run([THIRD])
    assert run(suspects) == Blacklisted(players=1)
    assert suspects.blacklisted() == {}


def test_what_others_excluded_is_never_changed(suspects: Suspects) -> None:
    """The site's moderators find their own words, and nobody else's names under them."""
    suspects.player(CHEAT, cheat_level=4)
    by_hand, by_report, by_rule = (suspects.run([CHEAT]) for _ in range(3))
    for instance in (by_hand, by_report):
        suspects.flag(instance, None, 0.99)
    suspects.blacklist(by_hand, "Manual")
    suspects.blacklist(by_report, "WebReport")
    suspects.blacklist(by_rule, "CheatCheck")
    before = suspects.rows("SELECT * FROM flagging.blacklist_instance ORDER BY 1")
    done = run(suspects)
    assert (done.flagged, done.cascaded, done.eligible, done.named) == (0, 0, 3, 1)
    assert suspects.rows("SELECT * FROM flagging.blacklist_instance ORDER BY 1") == before
    assert suspects.named() == {(by_rule, CHEAT)}


@pytest.mark.parametrize(
    ("of_run", "of_player", "is_excluded"),
    [(0.75, None, True), (0.7499, None, False), (None, 0.5, True), (None, 0.4999, False)],
)
def test_flagged_raids_of_a_cheater_go_however_old_they_are(
    suspects: Suspects, of_run: float | None, of_player: float | None, is_excluded: bool
) -> None:
    suspects.player(CHEAT, cheat_level=4)
    instance = suspects.run([CHEAT], at=ago(days=900))
    if of_run is not None:
        suspects.flag(instance, None, of_run, at=ago(days=800))
    if of_player is not None:
        suspects.flag(instance, CHEAT, of_player, at=ago(days=800))
    done = run(suspects)
    assert (done.cascaded, done.named) == (int(is_excluded), int(is_excluded))
    assert suspects.blacklisted() == ({instance: cascaded(CHEAT, VERSION)} if is_excluded else {})


# Not solo, too short a time, not completed, not flagged: he took no part.
ABSENT: dict[str, Any] = {"completed": False, "seconds": 299}


@pytest.mark.parametrize(
    ("changes", "of_run", "of_player", "is_excluded"),
    [
        ({}, None, None, False),
        ({"seconds": 300}, None, None, True),
        ({"completed": True}, None, None, True),
        ({"duration": 996}, None, None, True),  # 299 s are 30 %
        ({"duration": 997}, None, None, False),
        ({}, 0.25, None, True),
        ({}, 0.2499, None, False),
        ({}, None, 0.10, True),
        ({}, None, 0.0999, False),
    ],
)
def test_recent_raids_go_when_the_cheater_took_part(
    suspects: Suspects,
    changes: dict[str, Any],
    of_run: float | None,
    of_player: float | None,
    is_excluded: bool,
) -> None:
    """Five strangers lose a clear each time: somebody who left at once is no reason."""
    suspects.player(CHEAT, cheat_level=4)
    suspects.player(FRIEND)
    instance = suspects.run([CHEAT, FRIEND], **(ABSENT | changes))
    if of_run is not None:
        suspects.flag(instance, None, of_run)
    if of_player is not None:
        suspects.flag(instance, CHEAT, of_player)
    run(suspects)
    assert suspects.named() == ({(instance, CHEAT)} if is_excluded else set())
    assert (instance in suspects.blacklisted()) == is_excluded


def test_a_run_alone_is_always_his(suspects: Suspects) -> None:
    suspects.player(CHEAT, cheat_level=4)
    instance = suspects.run([CHEAT], **ABSENT)
    run(suspects)
    assert set(suspects.blacklisted()) == {instance}


def test_recent_counts_from_when_he_was_seen_last(suspects: Suspects) -> None:
    seen = ago(days=13)
    suspects.player(CHEAT, cheat_level=4, last_seen=seen)
    inside = suspects.run([CHEAT], at=seen - timedelta(days=60))
    suspects.run([CHEAT], at=seen - timedelta(days=60, seconds=1))
    run(suspects)
    assert set(suspects.blacklisted()) == {inside}


@pytest.mark.parametrize(
    ("columns", "players"),
    [
        ({"cheat_level": 4, "last_seen": ago(days=14, minutes=1)}, 0),
        ({"cheat_level": 3}, 0),
        ({"cheat_level": 4, "is_whitelisted": True}, 0),
        ({"cheat_level": 4, "last_seen": ago(days=13, hours=12)}, 1),
    ],
)
def test_whose_raids_are_looked_at(
    suspects: Suspects, columns: dict[str, Any], players: int
) -> None:
    suspects.player(CHEAT, **columns)
    suspects.run([CHEAT], at=ago(days=14))
    done = run(suspects)
    assert (done.players, done.cascaded) == (players, players)


def test_a_raid_on_a_board_goes_for_a_year(suspects: Suspects) -> None:
    """Records are looked at for long; and a board that nobody filled must not stop the run."""
    suspects.player(CHEAT, cheat_level=4)
    on_board = suspects.run([CHEAT], at=ago(days=300))
    too_old = suspects.run([CHEAT], at=ago(days=366))
    assert run(suspects).eligible == 0  # no board was ever filled
    refresh_view(suspects.connection, TEAM_BOARD, timeout_s=60)
    done = run(suspects)
    assert (done.eligible, done.cascaded) == (1, 1)
    assert set(suspects.blacklisted()) == {on_board}
    assert too_old not in suspects.blacklisted()


def test_each_cheater_of_a_raid_is_named(suspects: Suspects) -> None:
    for who in (CHEAT, FRIEND):
        suspects.player(who, cheat_level=4)
    suspects.player(THIRD)
    instance = suspects.run([FRIEND, CHEAT, THIRD])
    done = run(suspects)
    assert (done.players, done.eligible, done.cascaded, done.named) == (2, 1, 1, 2)
    assert suspects.blacklisted() == {instance: cascaded(CHEAT)}
    assert suspects.named() == {(instance, CHEAT), (instance, FRIEND)}
    assert run(suspects) == Blacklisted(players=2, eligible=1)


def test_many_cheaters_are_more_than_one_transaction(suspects: Suspects) -> None:
    for who in range(1, 121):
        suspects.player(who, cheat_level=4)
        suspects.run([who])
    assert run(suspects).cascaded == 120


@pytest.mark.parametrize(
    "source", ["Manual", "WebReport", "CheatCheck", "BlacklistedPlayerCascade"]
)
def test_an_excluded_raid_leaves_the_team_boards_whoever_excluded_it(
    suspects: Suspects, source: str
) -> None:
    """The site's own buttons must work at the next refresh; that of the way back whitelists."""
    suspects.player(CHEAT)
    first, second = suspects.run([CHEAT]), suspects.run([CHEAT])

    def board() -> list[tuple[Any, ...]]:
        refresh_view(suspects.connection, TEAM_BOARD, timeout_s=60)
        return suspects.rows(
            f"SELECT instance_id, position FROM leaderboard.{TEAM_BOARD} ORDER BY position"
        )

    assert board() == [(first, 1), (second, 2)]
    suspects.blacklist(first, source)
    assert board() == [(second, 1)]
    suspects.rows("UPDATE core.instance SET is_whitelisted = true")
    assert board() == [(first, 1), (second, 2)]


# Taking back.


def change(
    suspects: Suspects,
    player: int,
    old: int,
    new: int,
    *,
    actor: str = "nemesis",
    run: str = "r1",
    hours: float = 0,
) -> int:
    """A recorded change; the level is set too."""
    suspects.rows("UPDATE core.player SET cheat_level = %s WHERE membership_id = %s", new, player)
    ((id_,),) = suspects.rows(
        "INSERT INTO streaming.cheat_level_change"
        " (membership_id, old_level, new_level, reason, actor, evidence, changed_at)"
        " VALUES (%s, %s, %s, 'r', %s, jsonb_build_object('run', %s::text), %s) RETURNING id",
        *(player, old, new, actor, run, NOW - timedelta(hours=hours)),
    )
    return int(id_)


def revert(suspects: Suspects, **options: Any) -> list[clearing.Reverted]:
    usual: dict[str, Any] = {"actor": "me", "reason": "wrong rule", "dry_run": False}
    return clearing.revert_changes(suspects.connection, **(usual | options))


@pytest.mark.parametrize("by", ["id", "run", "since", "window"])
def test_changes_are_taken_back_by_id_run_or_time(suspects: Suspects, by: str) -> None:
    """A wrong rule raised a hundred players: one command must undo it, and nothing else."""
    for who in (CHEAT, FRIEND, THIRD):
        suspects.player(who)
    change(suspects, THIRD, 0, 2, run="r0", hours=9)
    first = change(suspects, CHEAT, 0, 1, hours=2)
    second = change(suspects, CHEAT, 1, 3, hours=1)
    other = change(suspects, FRIEND, 0, 2, hours=1.5)
    change(suspects, THIRD, 2, 4, actor="admin", run="r1", hours=1)
    how: dict[str, dict[str, Any]] = {
        "id": {"changes": [first, second, other]},
        "run": {"run": "r1"},
        "since": {"since": ago(hours=3)},
        "window": {"since": ago(hours=3), "until": ago(minutes=30)},
    }
    preview = revert(suspects, **how[by], dry_run=True)
    assert [suspects.level(who) for who in (CHEAT, FRIEND, THIRD)] == [3, 2, 4]
    assert len(suspects.changes()) == 5
    done = revert(suspects, **how[by])
    assert [(c.change, c.new_level, c.problem) for c in done] == [
        (second, 1, ""), (first, 0, ""), (other, 0, "")
    ]  # fmt: skip
    assert [(c.change, c.new_level) for c in preview] == [(c.change, c.new_level) for c in done]
    assert [suspects.level(who) for who in (CHEAT, FRIEND, THIRD)] == [0, 0, 4]
    assert suspects.changes()[5:] == [
        (CHEAT, 3, 1, "me"), (CHEAT, 1, 0, "me"), (FRIEND, 2, 0, "me")
    ]  # fmt: skip
    if by != "id":
        assert revert(suspects, **how[by]) == []


def test_a_level_that_changed_since_stays(suspects: Suspects) -> None:
    """Somebody looked at this player meanwhile; his word is newer."""
    suspects.player(CHEAT)
    id_ = change(suspects, CHEAT, 0, 2)
    suspects.rows("UPDATE core.player SET cheat_level = 4")
    (done,) = revert(suspects, changes=[id_])
    assert done.problem == "the level is 4, not 2 any more"
    assert (suspects.level(CHEAT), len(suspects.changes())) == (4, 1)


def test_what_the_cascade_excluded_comes_back_with_the_level(suspects: Suspects) -> None:
    """Five innocent players lost these clears; and what else was excluded stays so."""
    for who in (CHEAT, FRIEND):
        suspects.player(who, cheat_level=4)
    alone, together, checked, by_hand = (
        suspects.run(team) for team in ([CHEAT], [CHEAT, FRIEND], [CHEAT], [CHEAT])
    )
    suspects.flag(checked, None, 0.99)
    suspects.blacklist(by_hand, "Manual", CHEAT)
    run(suspects)
    assert set(suspects.blacklisted()) == {alone, together, checked, by_hand}
    id_ = change(suspects, CHEAT, 3, 4)
    (done,) = revert(suspects, changes=[id_])
    assert done.rows == {"blacklisted_players": 3, "blacklists": 1}
    assert set(suspects.blacklisted()) == {together, checked, by_hand}
    assert suspects.named() == {(together, FRIEND), (by_hand, CHEAT)}
    assert suspects.level(CHEAT) == 3
    # And all of that back again.
    assert done.own_change is not None
    (again,) = revert(suspects, changes=[done.own_change])
    assert again.problem == ""
    assert suspects.level(CHEAT) == 4
    assert set(suspects.blacklisted()) == {alone, together, checked, by_hand}
    assert (alone, CHEAT) in suspects.named()


def test_exclusions_stay_where_asked(suspects: Suspects) -> None:
    suspects.player(CHEAT, cheat_level=4)
    suspects.run([CHEAT])
    run(suspects)
    id_ = change(suspects, CHEAT, 0, 4)
    (done,) = revert(suspects, changes=[id_], lift_blacklists=False)
    assert done.rows == {}
    assert len(suspects.blacklisted()) == 1


def test_a_clearing_is_taken_back_whole(suspects: Suspects) -> None:
    who = suspects.cheater(CHEAT, 3, cheat_level=2)
    cleared = clearing.clear_player(
        suspects.connection, who, actor="me", reason="lag", whitelist=True, dry_run=False
    )
    assert cleared.change is not None
    (done,) = revert(suspects, changes=[cleared.change])
    assert (done.problem, done.rows["player_flags"]) == ("", 3)
    assert suspects.rows("SELECT cheat_level, is_whitelisted FROM core.player") == [(2, False)]


def test_a_revert_without_a_choice_is_refused(suspects: Suspects) -> None:
    """An empty form must not undo everything that ever was."""
    with pytest.raises(PermanentError, match="which changes"):
        revert(suspects)


def test_a_player_who_is_gone_holds_up_no_other(suspects: Suspects) -> None:
    suspects.player(CHEAT)
    mine = change(suspects, CHEAT, 0, 2)
    theirs = change(suspects, 999, 0, 2)
    done = revert(suspects, run="r1")
    assert [(c.change, c.problem) for c in done] == [(mine, ""), (theirs, "no such player")]


# Claims and the report.


def test_claims_hold_after_a_run_and_break_when_somebody_meddles(suspects: Suspects) -> None:
    """A check that cannot fail tells nobody anything."""
    who = suspects.cheater(CHEAT, 6)
    for own, of_run, bitmask in (
        (0.3, 0.995, 1), (0.9, None, GENERIC), (None, 0.6, 1), (0.1, 0.999, GENERIC),
    ):  # fmt: skip
        instance = suspects.run([who])
        suspects.flag(instance, who, own, bitmask=bitmask)
        if of_run is not None:
            suspects.flag(instance, None, of_run)
    count_flags(suspects.connection, PARAMETERS, timeout_s=60)
    assert claims.check_counts(suspects.connection, PARAMETERS) == []
    (problem,) = claims.check_reached(suspects.connection, PARAMETERS)
    assert problem.examples == (who,)
    suspects.rows("UPDATE core.player SET cheat_level = 3")
    assert claims.check_reached(suspects.connection, PARAMETERS) == []
    suspects.rows("UPDATE streaming.player_flag_stats SET class_d = 9")
    (problem,) = claims.check_counts(suspects.connection, PARAMETERS)
    assert problem.examples == (who,)


def test_changes_without_evidence_are_noticed(suspects: Suspects) -> None:
    suspects.player(CHEAT)
    assert claims.check_recorded(suspects.connection) == []
    change(suspects, CHEAT, 0, 2, actor="admin")
    assert claims.check_recorded(suspects.connection) == []
    change(suspects, CHEAT, 2, 3)
    (problem,) = claims.check_recorded(suspects.connection)
    assert (problem.rows, problem.examples) == (1, (CHEAT,))


def test_a_verdict_on_the_whitelisted_is_noticed(suspects: Suspects) -> None:
    suspects.player(CHEAT, is_whitelisted=True)
    change(suspects, CHEAT, 0, 2)
    assert claims.check_spared(suspects.connection, ago(minutes=-5)) == []
    (problem,) = claims.check_spared(suspects.connection, ago(minutes=5))
    assert problem.examples == (CHEAT,)
    instance = suspects.run([CHEAT])
    suspects.blacklist(instance, "Manual")
    assert claims.check_blacklist(suspects.connection, ago(minutes=5)) == []
    suspects.rows("DELETE FROM flagging.blacklist_instance")
    suspects.blacklist(instance, "BlacklistedPlayerCascade")
    problems = claims.check_blacklist(suspects.connection, ago(minutes=5))
    assert [p.examples for p in problems] == [(instance,), (instance,)]


def test_the_report_counts(suspects: Suspects) -> None:
    suspects.player(CHEAT, cheat_level=4)
    suspects.player(FRIEND, cheat_level=1)
    first, second = suspects.run([CHEAT]), suspects.run([CHEAT, FRIEND])
    suspects.flag(first, None, 0.97, bitmask=1 << 11 | 1 << 60)
    suspects.flag(first, CHEAT, 0.9, bitmask=1 << 11 | 1 << 60 | 1 << 56)
    suspects.flag(second, None, 0.3, bitmask=1 << 11 | 1 << 51, at=ago(days=3))
    suspects.flag(second, None, 0.2, bitmask=1 << 11 | 1 << 51, version="beta-2.0", at=ago(days=3))
    suspects.blacklist(suspects.run([FRIEND], is_whitelisted=True), "Manual")
    run(suspects)
    change(suspects, CHEAT, 0, 4)
    report = cheat_report.read_report(suspects.connection, PARAMETERS, days=60)
    assert report.levels == {1: 1, 4: 1}
    assert report.blacklisted == {"BlacklistedPlayerCascade": 1, "CheatCheck": 1}
    assert [tuple(row.values()) for row in report.raids] == [("King's Fall", 2, 1, 2)]
    assert [tuple(row.values()) for row in report.reasons] == [
        ("TimeDilation", 2, 0), ("TooFast", 1, 1), ("PlayerTotalKills", 0, 1)
    ]  # fmt: skip
    assert len(report.trend) == 60
    assert sum(day.flagged for day in report.trend) == 2
    assert report.trend[-1].blacklisted == 2
    assert sum(day.raised for day in report.trend) == 1
    text = report.markdown()
    assert "| 4 | Blacklisted | 1 |" in text
    assert "| King's Fall | 2 | 1 | 2 |" in text


def test_a_report_of_nothing_is_a_report(suspects: Suspects) -> None:
    """The first day of a deployment."""
    report = cheat_report.read_report(suspects.connection, PARAMETERS, days=60)
    assert (report.levels, report.raids, report.reasons, len(report.trend)) == ({}, [], [], 60)
    assert "players_with_a_level: **0**" in report.markdown()

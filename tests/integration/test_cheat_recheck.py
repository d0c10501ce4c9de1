"""Checks again: the difference to what is stored, before anything is written."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from raidhub_dagster.cheat_detection import recheck, rules
from raidhub_dagster.cheat_detection.checking import CheckFailedError, check_batch
from raidhub_dagster.cheat_detection.facts import InstanceFacts
from raidhub_dagster.cheat_detection.parameters import Parameters, load_parameters
from raidhub_dagster.cheat_detection.verdict import PlayerVerdict, Reason, Verdict
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from tests.support import worlds
from tests.support.topics import execute, rows, store

PARAMETERS = load_parameters()
ANN, BEN = worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + 1
RUNS = [worlds.clear(n, hours=12 * n, players=[ANN, BEN][: n % 2 + 1]) for n in range(1, 7)]
IDS = [run.instance_id for run in RUNS]
LOWMAN, FAST = 62, 60
TABLES = ("streaming.cheat_check", "flagging.flag_instance", "flagging.flag_instance_player")


class Judge:
    """Rules of a test: what they say of an instance, and of all its players."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.verdicts: dict[int, tuple[float, int]] = {}
        self.fails: set[int] = set()
        self.skips: set[int] = set()
        monkeypatch.setattr(rules, "check", self.check)

    def check(self, parameters: Parameters, facts: InstanceFacts) -> Verdict:
        if facts.instance_id in self.fails:
            raise ZeroDivisionError
        probability, bit = self.verdicts.get(facts.instance_id, (0.0, 0))
        mask = 1 << 11 | (1 << bit if bit else 0)
        told = (Reason(bit, probability, f"bit {bit}"),) if bit else ()
        players = tuple(
            PlayerVerdict(p.membership_id, probability / 2, mask, told) for p in facts.players
        )
        skipped = "unsettled" if facts.instance_id in self.skips else None
        return Verdict(
            facts.instance_id, parameters.version, probability, mask, told, players, skipped
        )


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    return Judge(monkeypatch)


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    found = settings_for(postgres)
    store(found, *RUNS)
    return found


def everything(settings: Settings) -> list[list[tuple[Any, ...]]]:
    return [rows(settings, f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in TABLES]


def check(settings: Settings, parameters: Parameters = PARAMETERS) -> None:
    with connected(settings, "test") as connection, connection:
        check_batch(connection, parameters, IDS)


def again(
    settings: Settings,
    ids: list[int] = IDS,
    *,
    dry_run: bool = False,
    parameters: Parameters = PARAMETERS,
) -> recheck.Difference:
    with connected(settings, "test") as connection:
        return recheck.recheck(connection, parameters, ids, dry_run=dry_run)


def version(name: str) -> Parameters:
    return PARAMETERS.model_copy(update={"version": name})


def test_a_preview_tells_what_changes_and_writes_nothing(settings: Settings, judge: Judge) -> None:
    """Whoever starts a backfill over years has to see first whom it hits."""
    solo, duo, other = IDS[1], IDS[0], IDS[2]
    judge.verdicts = {solo: (0.9, LOWMAN), other: (0.5, FAST)}
    check(settings)
    before = everything(settings)
    judge.verdicts = {duo: (0.995, FAST), other: (0.5, FAST)}
    judge.skips = {IDS[5]}
    preview = again(settings, [*IDS, 5], dry_run=True)
    assert everything(settings) == before
    assert (preview.checked, preview.flagged, preview.missing) == (6, 2, [5])
    assert dict(preview.skipped) == {"unsettled": 1}
    assert (preview.new_flags, preview.gone_flags) == (3, 2)
    assert preview.by_raid_and_reason() == [
        {
            "raid": "King's Fall",
            "reason": "TooFast",
            "newly_flagged": 3,
            "no_longer_flagged": 0,
        },
        {
            "raid": "King's Fall",
            "reason": "TooFewPlayersFresh",
            "newly_flagged": 0,
            "no_longer_flagged": 2,
        },
    ]
    assert [(c.instance_id, c.player, c.before, c.after) for c in preview.changes] == [
        (duo, None, 0.0, 0.995),
        (solo, None, 0.9, 0.0),
        (duo, ANN, 0.0, 0.4975),
        (duo, BEN, 0.0, 0.4975),
        (solo, ANN, 0.45, 0.0),
    ]
    done = again(settings, [*IDS, 5])
    assert done == preview
    flagged = rows(settings, "SELECT instance_id FROM flagging.flag_instance ORDER BY 1")
    assert flagged == [(duo,), (other,)]


def test_checking_again_changes_no_row(settings: Settings) -> None:
    """Under the real rules: times of flags and checks stay, readers order by them."""
    check(settings)
    before = everything(settings)
    assert len(before[0]) == len(IDS)
    done = again(settings)
    assert (done.new_flags, done.gone_flags) == (0, 0)
    assert everything(settings) == before


def test_another_version_is_compared_with_the_verdict_before(
    settings: Settings, judge: Judge
) -> None:
    """Not with flags that a version in between took back, nor with those of people."""
    judge.verdicts = {IDS[0]: (0.9, LOWMAN), IDS[1]: (0.9, LOWMAN)}
    check(settings, version("beta-2.0"))
    judge.verdicts = {IDS[1]: (0.9, LOWMAN)}
    check(settings, version("beta-2.1"))
    execute(
        settings,
        "UPDATE streaming.cheat_check SET checked_at = checked_at - interval '1 day'"
        " WHERE version = 'beta-2.0';"
        "UPDATE flagging.flag_instance SET flagged_at = flagged_at - interval '1 day'"
        " WHERE cheat_check_version = 'beta-2.0';"
        "UPDATE flagging.flag_instance_player SET flagged_at = flagged_at - interval '1 day'"
        " WHERE cheat_check_version = 'beta-2.0';"
        "INSERT INTO flagging.flag_instance VALUES"
        f" ({IDS[2]}, 'manual', 1, now() + interval '1 hour', 1, 'a person')",
    )
    judge.verdicts = {IDS[0]: (0.9, LOWMAN), IDS[2]: (0.8, FAST)}
    done = again(settings)
    runs = {(c.instance_id, c.is_new) for c in done.changes if c.player is None}
    assert runs == {(IDS[0], True), (IDS[1], False), (IDS[2], True)}
    assert (again(settings).new_flags, again(settings).gone_flags) == (0, 0)


def test_flags_of_the_predecessor_count_as_a_verdict(settings: Settings, judge: Judge) -> None:
    """Rows were taken over from it, and it had no ledger."""
    execute(
        settings,
        "INSERT INTO flagging.flag_instance VALUES"
        f" ({IDS[0]}, 'beta-2.0', 1::bigint << {LOWMAN}, '2025-06-01Z', 0.9, NULL)",
    )
    judge.verdicts = {IDS[0]: (0.8, LOWMAN)}
    assert again(settings, dry_run=True).changes[0].player is not None  # only players are new
    judge.verdicts = {}
    (gone,) = again(settings, dry_run=True).changes
    assert (gone.instance_id, gone.player, gone.before, gone.is_new) == (IDS[0], None, 0.9, False)


def test_a_run_that_the_rules_fail_on_is_told_and_the_rest_is_done(
    settings: Settings, judge: Judge
) -> None:
    judge.fails = {IDS[0]}
    judge.verdicts = {IDS[1]: (0.9, LOWMAN)}
    done = again(settings)
    assert (done.checked, len(done.failed), done.flagged) == (5, 1, 1)
    with pytest.raises(CheckFailedError, match=str(IDS[0])):
        done.refuse_failures()
    assert len(rows(settings, "SELECT FROM streaming.cheat_check")) == 5


def test_days_and_players_name_their_runs(settings: Settings) -> None:
    """Runs end at 13:00 and 1:00 in turn: midnight belongs to the day that begins."""
    with connected(settings, "test") as connection:
        days = [recheck.instances_of_day(connection, date(2025, 1, n)) for n in range(1, 6)]
        assert days == [[IDS[0]], IDS[1:3], IDS[3:5], IDS[5:], []]
        midnight = "UPDATE core.instance SET date_completed = '2025-01-03Z' WHERE instance_id = "
        execute(settings, f"{midnight}{IDS[0]}")
        assert recheck.instances_of_day(connection, date(2025, 1, 2)) == IDS[1:3]
        assert recheck.instances_of_day(connection, date(2025, 1, 3)) == [IDS[0], *IDS[3:5]]
        assert recheck.instances_of_players(connection, [ANN, BEN], None) == IDS
        assert recheck.instances_of_players(connection, [BEN], None) == IDS[::2]
        since = datetime(2025, 1, 3, tzinfo=UTC)
        assert recheck.instances_of_players(connection, [ANN], since) == [IDS[0], *IDS[3:]]
        with pytest.raises(PermanentError, match=r"no such player: 5, 6"):
            recheck.instances_of_players(connection, [5, ANN, 6], None)


@pytest.mark.usefixtures("judge")
def test_recent_runs_of_risen_players_are_queued_once(settings: Settings) -> None:
    """And only of those whom the rule means: seen lately, of level 3 or 4, not whitelisted."""
    now = RUNS[-1].date_completed + timedelta(days=1)
    execute(settings, "DELETE FROM streaming.outbox")

    def queue(*players: int, at: datetime = now, dry_run: bool = False) -> int:
        with connected(settings, "test") as connection:
            return recheck.queue_recent(connection, PARAMETERS, players, now=at, dry_run=dry_run)

    assert queue(ANN, BEN) == 0  # no level
    execute(settings, "UPDATE core.player SET cheat_level = 3")
    execute(settings, f"UPDATE core.player SET is_whitelisted = true WHERE membership_id = {ANN}")
    assert queue(ANN) == 0
    execute(settings, "UPDATE core.player SET is_whitelisted = false")
    assert queue(ANN, at=now + timedelta(days=61)) == 0
    assert queue(ANN, BEN, dry_run=True) == len(IDS)
    assert rows(settings, "SELECT FROM streaming.outbox") == []
    with connected(settings, "test") as connection, connection:
        check_batch(connection, PARAMETERS, IDS[:2])
    assert queue(ANN, BEN, ANN) == len(IDS) - 2
    asked = rows(
        settings,
        "SELECT kind, destination, key, convert_from(body, 'UTF8') FROM streaming.outbox"
        " ORDER BY id",
    )
    assert asked == [("message", "instance_cheat_check", i, str(i)) for i in IDS[2:]]


def test_a_flag_without_its_verdict_is_found(settings: Settings, judge: Judge) -> None:
    """Half a verdict would raise a level, or hide a cheat, for ever."""
    judge.verdicts = {IDS[0]: (0.9, LOWMAN), IDS[1]: (0.5, FAST)}
    check(settings)

    def problems() -> list[tuple[int, ...]]:
        with connected(settings, "test") as connection:
            return [p.examples for p in recheck.check_ledger(connection, PARAMETERS)]  # type: ignore[misc]

    assert problems() == []
    execute(
        settings,
        f"DELETE FROM flagging.flag_instance WHERE instance_id = {IDS[0]};"
        f"UPDATE flagging.flag_instance SET cheat_probability = 0.4 WHERE instance_id = {IDS[1]};"
        "INSERT INTO flagging.flag_instance VALUES"
        f" ({IDS[2]}, '{PARAMETERS.version}', 1, now(), 0.7, NULL)",
    )
    assert problems() == [tuple(IDS[:3])]

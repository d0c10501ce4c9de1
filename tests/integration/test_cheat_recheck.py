"""Checks again: the difference to what is stored, before anything is written."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from raidhub_dagster.cheat_detection import recheck
from raidhub_dagster.cheat_detection.checking import CheckFailedError, check_batch
from raidhub_dagster.cheat_detection.parameters import Parameters, load_parameters
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from tests.support import worlds
from tests.support.cheats import broken_for
from tests.support.topics import execute, rows, store

PARAMETERS = load_parameters()
ANN, BEN = worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + 1
OTHER_HASH = 2381413764  # of another raid
TABLES = ("streaming.cheat_check", "flagging.flag_instance", "flagging.flag_instance_player")


def played(number: int) -> Instance:
    """A clear that nobody would suspect; BEN is in every second one."""
    team = [ANN, *([BEN] if number % 2 else []), *range(BEN + 1, BEN + 5)]
    run = worlds.clear(number, hours=12 * number, players=team)
    return msgspec.structs.replace(
        run,
        players=tuple(
            msgspec.structs.replace(
                player,
                characters=tuple(msgspec.structs.replace(c, kills=100) for c in player.characters),
            )
            for player in run.players
        ),
    )


RUNS = [played(n) for n in range(1, 7)]
IDS = [run.instance_id for run in RUNS]


def change(
    settings: Settings, instance_id: int, *, fast: bool = False, cheat: bool = False
) -> None:
    """Makes a run as fast as no team is, and ANN's kills more than one can have; or neither."""
    of = f"WHERE instance_id = {instance_id}"
    execute(
        settings,
        f"UPDATE core.instance SET duration = {400 if fast else 3600} {of};"
        "UPDATE extended.instance_character"
        f" SET kills = {3000 if cheat else 100}, super_kills = {600 if cheat else 0}"
        f" {of} AND membership_id = {ANN}",
    )


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


def test_a_preview_tells_what_changes_and_writes_nothing(settings: Settings) -> None:
    """Whoever starts a backfill over years has to see first whom it hits."""
    first, second, third = IDS[:3]
    change(settings, second, fast=True)
    change(settings, third, fast=True)
    check(settings)
    before = everything(settings)
    change(settings, first, fast=True, cheat=True)
    change(settings, second)
    growing = f"UPDATE core.instance SET player_count = 9 WHERE instance_id = {IDS[5]}"
    execute(settings, growing)
    preview = again(settings, [*IDS, 5], dry_run=True)
    assert everything(settings) == before
    assert (preview.checked, preview.flagged, preview.missing) == (6, 2, [5])
    assert dict(preview.skipped) == {"unsettled": 1}
    assert (preview.new_flags, preview.gone_flags) == (2, 1)
    counts = {
        row["reason"]: (row["newly_flagged"], row["no_longer_flagged"])
        for row in preview.by_raid_and_reason()
    }
    assert counts == {
        "TooFast": (2, 1),  # of the run, and ANN's part in it
        "PlayerTotalKills": (1, 0),
        "SuperKills": (1, 0),
        "KillsShare": (1, 0),
        "FirstClear": (1, 0),
        "TwoPlusCheaters": (1, 0),  # she, and whoever was there
    }
    assert {row["raid"] for row in preview.by_raid_and_reason()} == {"King's Fall"}
    assert [(c.instance_id, c.player, c.is_new) for c in preview.changes] == [
        (first, None, True),
        (second, None, False),
        (first, ANN, True),
    ]
    done = again(settings, [*IDS, 5])
    assert done == preview
    flagged = rows(settings, "SELECT instance_id FROM flagging.flag_instance ORDER BY 1")
    assert flagged == [(first,), (third,)]


def test_checking_again_changes_no_row(settings: Settings) -> None:
    """Times of flags and checks stay, readers order by them."""
    change(settings, IDS[0], fast=True, cheat=True)
    check(settings)
    before = everything(settings)
    assert [len(table) for table in before] == [len(IDS), 1, 1]
    done = again(settings)
    assert (done.new_flags, done.gone_flags) == (0, 0)
    assert everything(settings) == before


def test_another_version_is_compared_with_the_verdict_before(settings: Settings) -> None:
    """Not with flags that a version in between took back, nor with those of people."""
    change(settings, IDS[0], fast=True)
    change(settings, IDS[1], fast=True)
    check(settings, version("beta-2.0"))
    change(settings, IDS[0])
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
    for instance_id, fast in ((IDS[0], True), (IDS[1], False), (IDS[2], True)):
        change(settings, instance_id, fast=fast)
    done = again(settings)
    runs = {(c.instance_id, c.is_new) for c in done.changes if c.player is None}
    assert runs == {(IDS[0], True), (IDS[1], False), (IDS[2], True)}
    assert (again(settings).new_flags, again(settings).gone_flags) == (0, 0)


def test_the_verdict_of_rules_that_came_back_is_the_latest_again(settings: Settings) -> None:
    """Who goes back to the rules before and checks again would else be told of it for ever."""
    parameters = PARAMETERS.activities
    slow = {11: parameters[11].model_copy(update={"record_curve": None})}
    other = version("compat-2.9").model_copy(update={"activities": {**parameters, **slow}})
    change(settings, IDS[0], fast=True, cheat=True)
    check(settings)
    check(settings, other)

    def superseded() -> list[tuple[bool]]:
        return rows(
            settings,
            "SELECT streaming.is_superseded(instance_id, cheat_check_version, flagged_at,"
            " '{raidhub-3,compat-2}') FROM flagging.flag_instance"
            f" WHERE cheat_check_version = '{PARAMETERS.version}'",
        )

    assert superseded() == [(True,)]
    assert again(settings).new_flags == 1
    assert superseded() == [(False,)]
    before = everything(settings)
    done = again(settings)
    assert (done.new_flags, done.gone_flags) == (0, 0)
    assert everything(settings) == before


def test_flags_of_the_predecessor_count_as_a_verdict(settings: Settings) -> None:
    """Rows were taken over from it, and it had no ledger."""
    execute(
        settings,
        "INSERT INTO flagging.flag_instance VALUES"
        f" ({IDS[0]}, 'beta-2.0', 1::bigint << 60, '2025-06-01Z', 0.9, NULL)",
    )
    change(settings, IDS[0], fast=True, cheat=True)
    (new,) = again(settings, dry_run=True).changes
    assert new.player == ANN  # the run was flagged before
    change(settings, IDS[0])
    (gone,) = again(settings, dry_run=True).changes
    assert (gone.instance_id, gone.player, gone.before, gone.is_new) == (IDS[0], None, 0.9, False)


def test_a_run_that_the_rules_fail_on_is_told_and_the_rest_is_done(settings: Settings) -> None:
    execute(settings, f"UPDATE core.instance SET hash = {OTHER_HASH} WHERE instance_id = {IDS[0]}")
    change(settings, IDS[1], fast=True)
    done = again(settings, parameters=broken_for(worlds.HASHES[OTHER_HASH]))
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


def test_a_flag_without_its_verdict_is_found(settings: Settings) -> None:
    """Half a verdict would raise a level, or hide a cheat, for ever."""
    for instance_id in IDS[:2]:
        change(settings, instance_id, fast=True)
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

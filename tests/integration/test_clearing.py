"""What a person takes back goes, what people wrote and what today's rules say stays."""

from datetime import UTC, datetime
from typing import Any

import pytest

from raidhub_dagster.cheat_detection import clearing
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.store import Store
from tests.support import worlds
from tests.support.database import Database, store_all
from tests.support.worlds import clear

CHEAT, FRIEND = worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + 1
SOLO, DUO, OTHER = 1_000_001, 1_000_002, 1_000_003
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
OLD, NEW = "compat-1.0.0", "compat-2.0.0"


@pytest.fixture(autouse=True)
def _raids(database: Database) -> None:
    """A raid alone, one of two, one of the friend."""
    world = [
        clear(1, hours=1, players=[CHEAT]),
        clear(2, hours=2, players=[CHEAT, FRIEND]),
        clear(3, hours=3, players=[FRIEND]),
    ]
    store_all(Store(database.connection), world, 3)


def flag(
    database: Database,
    instance: int,
    player: int | None,
    *bits: int,
    version: str = OLD,
    at: datetime = MARCH,
) -> None:
    mask = sum(1 << bit for bit in bits)
    if player is None:
        database.rows(
            "INSERT INTO flagging.flag_instance VALUES (%s, %s, %s, %s, 0.97, 'why')",
            *(instance, version, mask, at),
        )
        return
    database.rows(
        "INSERT INTO flagging.flag_instance_player VALUES (%s, %s, %s, %s, %s, 0.9, 'why')",
        *(instance, player, version, mask, at),
    )


def blacklist(
    database: Database, instance: int, source: str, *players: int, version: str | None = None
) -> None:
    database.rows(
        "INSERT INTO flagging.blacklist_instance VALUES"
        ' (%s, %s::flagging."BlacklistReportSource", NULL, %s, %s)',
        *(instance, source, version, "why"),
    )
    for player in players:
        database.rows(
            "INSERT INTO flagging.blacklist_instance_player VALUES (%s, %s, 'why')",
            *(instance, player),
        )


def flags(database: Database) -> set[tuple[Any, ...]]:
    return set(
        database.rows(
            "SELECT instance_id, NULL, cheat_check_version FROM flagging.flag_instance"
            " UNION ALL"
            " SELECT instance_id, membership_id, cheat_check_version"
            " FROM flagging.flag_instance_player"
        )
    )


def blacklists(database: Database) -> dict[int, list[int]]:
    return dict(
        database.rows(
            "SELECT b.instance_id,"
            " array_remove(array_agg(p.membership_id ORDER BY p.membership_id), NULL)"
            " FROM flagging.blacklist_instance AS b"
            " LEFT JOIN flagging.blacklist_instance_player AS p USING (instance_id) GROUP BY 1"
        )
    )


def standing(database: Database, player: int = CHEAT) -> tuple[Any, ...]:
    (row,) = database.rows(
        "SELECT cheat_level, is_whitelisted FROM core.player WHERE membership_id = %s", player
    )
    return row


def clear_flags(database: Database, *bits: int, **options: Any) -> clearing.ClearedFlags:
    usual: dict[str, Any] = {"kept_version": NEW, "dry_run": False}
    return clearing.clear_flags(database.connection, bits, MARCH, **(usual | options))


def clear_player(database: Database, **options: Any) -> clearing.ClearedPlayer:
    usual: dict[str, Any] = {"actor": "me", "reason": "lag", "whitelist": True, "dry_run": False}
    return clearing.clear_player(database.connection, CHEAT, **(usual | options))


def test_flags_of_a_wrong_rule_go_and_all_others_stay(database: Database) -> None:
    """One bit too many, and honest verdicts are lost for good."""
    flag(database, SOLO, None, 11, 57)
    flag(database, SOLO, CHEAT, 11, 57)
    flag(database, DUO, CHEAT, 11, 57, version=NEW)
    flag(database, DUO, FRIEND, 11, 60)
    flag(database, OTHER, FRIEND, 11, 57, at=datetime(2026, 2, 1, tzinfo=UTC))
    flag(database, OTHER, FRIEND, 11, 57, version="manual")
    before = flags(database)
    preview = clear_flags(database, 57, 58, dry_run=True)
    assert flags(database) == before
    done = clear_flags(database, 57, 58)
    assert before - flags(database) == {(SOLO, None, OLD), (SOLO, CHEAT, OLD)}
    assert preview == done
    assert (done.instance_flags, done.player_flags, dict(done.verdicts)) == (1, 1, {OLD: 1})
    assert clear_flags(database, 57, 58).verdicts.total() == 0


def test_a_blacklist_goes_with_the_flag_that_gave_it(database: Database) -> None:
    """Else a mended rule leaves its victims off the boards for ever."""
    for instance in (SOLO, DUO):
        flag(database, instance, None, 57)
    flag(database, DUO, None, 57, version=NEW)
    blacklist(database, SOLO, "CheatCheck", version=OLD)
    blacklist(database, DUO, "CheatCheck", version=NEW)
    flag(database, OTHER, None, 57)
    blacklist(database, OTHER, "Manual", FRIEND)
    assert clear_flags(database, 57).blacklists == 1
    assert blacklists(database) == {DUO: [], OTHER: [FRIEND]}


def test_the_ledger_forgets_what_was_taken_back(database: Database) -> None:
    """A version that says it checked the raid would never flag it again."""
    flag(database, SOLO, CHEAT, 57)
    for version in (OLD, NEW):
        database.rows(
            "INSERT INTO streaming.cheat_check VALUES (%s, %s, now(), 0.9, 1, 1)", SOLO, version
        )
    assert clear_flags(database, 57).checks == 1
    assert database.rows("SELECT version FROM streaming.cheat_check") == [(NEW,)]


def test_players_who_keep_a_level_are_named(database: Database) -> None:
    """Levels never fall by themselves, so somebody has to look."""
    flag(database, DUO, CHEAT, 57)
    flag(database, DUO, FRIEND, 57)
    database.rows("UPDATE core.player SET cheat_level = 3 WHERE membership_id = %s", CHEAT)
    assert clear_flags(database, 57, dry_run=True).players == [
        {"membership_id": CHEAT, "name": "Ann#0001", "cheat_level": 3}
    ]


@pytest.mark.parametrize("bits", [(), (63,), (-1, 5)])
def test_bits_that_are_none_are_refused(database: Database, bits: tuple[int, ...]) -> None:
    """Bit 63 is the sign of the column: it would fail in the middle, or match everything."""
    with pytest.raises(PermanentError, match="bits"):
        clear_flags(database, *bits)


def punish(database: Database) -> None:
    """The cheat of level 4 in every way, the friend flagged and named as well."""
    database.rows("UPDATE core.player SET cheat_level = 4 WHERE membership_id = %s", CHEAT)
    flag(database, SOLO, None, 53)
    flag(database, SOLO, CHEAT, 53)
    flag(database, DUO, None, 60)
    flag(database, DUO, CHEAT, 60)
    flag(database, DUO, FRIEND, 60)
    blacklist(database, SOLO, "BlacklistedPlayerCascade", CHEAT)
    blacklist(database, DUO, "Manual", CHEAT, FRIEND)
    database.rows("INSERT INTO streaming.account_factor_cache VALUES (%s, now(), '{}', 1)", CHEAT)


def test_a_cleared_player_is_as_if_never_judged(database: Database) -> None:
    """A false verdict hides somebody from every board; nothing of it may linger."""
    punish(database)
    before = flags(database), blacklists(database)
    preview = clear_player(database, dry_run=True)
    assert (flags(database), blacklists(database)) == before
    assert standing(database) == (4, False)
    done = clear_player(database)
    assert flags(database) == {(DUO, None, OLD), (DUO, FRIEND, OLD)}
    assert blacklists(database) == {DUO: [FRIEND]}
    assert standing(database) == (0, True)
    assert database.rows("SELECT * FROM streaming.account_factor_cache") == []
    assert (preview.old_level, preview.rows) == (done.old_level, done.rows)
    assert done.rows == {
        "player_flags": 2,
        "instance_flags": 1,
        "blacklisted_players": 2,
        "blacklists": 1,
    }
    assert database.rows(
        "SELECT id, membership_id, old_level, new_level, reason, actor"
        " FROM streaming.cheat_level_change"
    ) == [(done.change, CHEAT, 4, 0, "lag", "me")]
    assert clear_player(database).change is None  # nothing left, nothing written


@pytest.mark.parametrize(("whitelist", "left"), [(True, {}), (False, {DUO: []})])
def test_a_whitelisted_players_raids_are_not_blacklisted_by_a_rule(
    database: Database, whitelist: bool, left: dict[int, list[int]]
) -> None:
    """The rule would not have done it had it known; without the whitelist it would do it again."""
    blacklist(database, DUO, "CheatCheck")
    clear_player(database, whitelist=whitelist)
    assert blacklists(database) == left
    assert standing(database) == (0, whitelist)


def test_a_clearing_can_be_taken_back(database: Database) -> None:
    """Some who plead innocent are not; the evidence must not be lost by believing them."""
    punish(database)
    before = flags(database), blacklists(database), standing(database)
    change = clear_player(database).change
    assert change is not None

    def restore(**options: Any) -> clearing.ClearedPlayer:
        usual: dict[str, Any] = {"actor": "you", "dry_run": False}
        return clearing.restore_player(database.connection, change, **(usual | options))

    restore(dry_run=True)
    assert standing(database) == (0, True)
    done = restore()
    assert (flags(database), blacklists(database), standing(database)) == before
    assert done.rows["player_flags"] == 2
    (why,) = database.rows(
        "SELECT explanation FROM flagging.flag_instance_player WHERE instance_id = %s", SOLO
    )
    assert why == ("why",)
    levels = database.rows("SELECT old_level, new_level, actor FROM streaming.cheat_level_change")
    assert levels == [(4, 0, "me"), (0, 4, "you")]
    with pytest.raises(PermanentError, match="is 4, not 0 any more"):
        restore()


def test_what_is_no_clearing_is_not_taken_back(database: Database) -> None:
    database.rows(
        "INSERT INTO streaming.cheat_level_change"
        " (membership_id, old_level, new_level, reason, actor) VALUES (1, 0, 2, 'rule', 'job')"
    )
    for change in (1, 99):
        with pytest.raises(PermanentError, match=f"change {change} is no clearing"):
            clearing.restore_player(database.connection, change, actor="me", dry_run=False)


def test_an_unknown_player_is_refused(database: Database) -> None:
    with pytest.raises(PermanentError, match="no such player: 5"):
        clearing.clear_player(
            database.connection, 5, actor="me", reason="", whitelist=True, dry_run=False
        )

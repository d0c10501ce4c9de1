"""What the rules are shown of stored runs: sums, weapons by row, and what was missing."""

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec
import pytest
from psycopg2.extras import LoggingConnection

from raidhub_dagster.cheat_detection.facts import InstanceFacts, Norms, WeaponUse
from raidhub_dagster.cheat_detection.loading import load_facts
from raidhub_dagster.pgcr.model import Character, Instance, Weapon
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from tests.support import worlds
from tests.support.topics import execute, store

ANN, BEN = worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + 1
HEAVY, LIGHT, UNKNOWN = 11, 12, 13
DEFINITIONS = (
    "INSERT INTO definitions.weapon_definition VALUES"
    f" ({HEAVY}, 'Gjallarhorn', '/a', 'Rocket Launcher', 'Solar', 'Power', 'Heavy', 'Exotic'),"
    f" ({LIGHT}, 'Khvostov', '/b', 'Auto Rifle', 'Kinetic', 'Kinetic', 'Primary', 'Basic')"
)


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(postgres)


def armed(instance: Instance, *characters: Character) -> Instance:
    """`instance`, whose first player played these."""
    first, *others = instance.players
    first = msgspec.structs.replace(first, characters=characters)
    return msgspec.structs.replace(instance, players=(first, *others))


def character(number: int, *weapons: Weapon, start: int = 0, seconds: int = 600) -> Character:
    kills = sum(weapon.kills for weapon in weapons) + 1
    return Character(
        *(number, None, None, True, 0, kills, 0, 1, 2, 3, 4, 5),
        time_played_seconds=seconds,
        start_seconds=start,
        weapons=weapons,
    )


def facts(settings: Settings, *ids: int) -> list[InstanceFacts]:
    with connected(settings, "test") as connection:
        return load_facts(connection, ids)


def test_characters_are_summed_and_weapons_stay_rows(settings: Settings) -> None:
    """Two rows of one weapon are two in the diversity rule, and a new weapon is never heavy."""
    run = armed(
        worlds.clear(1, hours=1, players=[ANN, BEN]),
        character(1, Weapon(HEAVY, 7, 0), Weapon(LIGHT, 5, 1)),
        character(2, Weapon(HEAVY, 7, 0), Weapon(UNKNOWN, 9, 0), start=600),
    )
    store(settings, run)
    execute(settings, DEFINITIONS)
    (found,) = facts(settings, run.instance_id, 5)
    ann, ben = found.players
    assert (found.activity_id, found.activity_name, found.is_raid) == (11, "King's Fall", True)
    assert (found.date_started, found.date_completed) == (run.date_started, run.date_completed)
    assert (found.duration, found.player_count, found.fresh) == (3600, 2, True)
    assert found.release_date is not None
    assert found.release_date.utcoffset() is not None
    assert (found.is_saturated, found.is_settled, found.norms) == (False, True, Norms())
    assert (ann.membership_id, ann.completed, ann.is_first_clear) == (ANN, True, True)
    assert (ann.kills, ann.super_kills, ann.grenade_kills, ann.melee_kills) == (30, 6, 8, 10)
    assert sorted(ann.weapons, key=lambda w: (w.kills, w.is_heavy)) == [
        *(WeaponUse(5, False), WeaponUse(7, True), WeaponUse(7, True), WeaponUse(9, False))
    ]
    assert (ben.kills, ben.weapons) == (9, ())


def test_the_number_of_statements_does_not_grow_with_the_batch(settings: Settings) -> None:
    """One statement a raid would make the queue as slow as the way to the database."""
    many = [worlds.clear(n, hours=n, players=[ANN, BEN]) for n in range(1, 31)]
    store(settings, *many)
    counts = []
    for batch in (many[:1], many):
        with closing(LoggingConnection(_address(settings))) as connection:
            told: list[str] = []
            connection.initialize(_Lines(told))
            assert len(load_facts(connection, [i.instance_id for i in batch])) == len(batch)
            counts.append(len(told))
    assert counts == [4, 4]  # the fourth reads bodies: these players used no weapon


class _Lines(logging.Logger):
    """A logger that keeps what psycopg2 sends."""

    def __init__(self, told: list[str]) -> None:
        super().__init__("statements")
        self._told = told

    def debug(self, msg: object, *_: object, **__: Any) -> None:
        self._told.append(str(msg))


def _address(settings: Settings) -> str:
    with connected(settings, "test") as connection:
        password = settings.postgres_password
        return f"{connection.dsn} password={password.get_secret_value() if password else ''}"


@pytest.mark.parametrize(("start", "seconds"), [(32_767, 10), (0, 32_767)])
def test_a_counter_at_its_end_is_told(settings: Settings, start: int, seconds: int) -> None:
    """Its time says nothing any more: whoever idled for a day is no slow-motion cheat."""
    run = armed(
        worlds.clear(1, hours=1, players=[ANN]),
        character(1, Weapon(LIGHT, 5, 1), start=start, seconds=seconds),
    )
    store(settings, run)
    assert [f.is_saturated for f in facts(settings, run.instance_id)] == [True]


def test_a_player_who_left_the_report_and_stays_makes_it_not_unsettled(settings: Settings) -> None:
    """Flags keep such a row for ever, and with it no check would ever judge the run again."""
    run = worlds.clear(1, hours=1, players=[ANN, BEN])
    store(settings, run)
    execute(settings, "UPDATE core.instance SET player_count = 1")
    assert [f.is_settled for f in facts(settings, run.instance_id)] == [True]


def test_nothing_is_read_for_nobody(settings: Settings) -> None:
    assert facts(settings) == facts(settings, 5) == []


def test_norms_come_with_the_run_of_their_kind(settings: Settings) -> None:
    """A checkpoint measured by fresh runs would always look like too few kills."""
    run = worlds.clear(1, hours=1, players=[ANN])
    store(settings, run)
    execute(
        settings,
        "INSERT INTO streaming.activity_norm (activity_id, version_id, fresh, clears, low_kills,"
        " quick_seconds) SELECT activity_id, version_id, fresh, 1000,"
        " CASE WHEN fresh THEN 300 ELSE 20 END, CASE WHEN fresh THEN 900.5 END"
        " FROM definitions.activity_version CROSS JOIN (VALUES (true), (false)) AS f (fresh)"
        " WHERE hash IN (SELECT hash FROM core.instance)",
    )
    assert [f.norms for f in facts(settings, run.instance_id)] == [Norms(300, 900.5)]
    execute(settings, "UPDATE core.instance SET fresh = NULL")
    assert [f.norms for f in facts(settings, run.instance_id)] == [Norms(20, None)]

"""Norms of activities without numbers, against the clears that they come from."""

from collections.abc import Callable
from typing import Any

import pytest

from raidhub_dagster.cheat_detection.norms import check_norms, refresh_norms
from raidhub_dagster.cheat_detection.parameters import Parameters, load_parameters
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from tests.support.topics import execute, rows

NORMS = (
    "SELECT version_id, fresh, clears, low_kills, quick_seconds FROM streaming.activity_norm"
    " WHERE activity_id = 30 ORDER BY version_id, fresh"
)
# A new raid: two hashes of version 1, one of version 4; clear n of a hash has n kills and 1000 + n
# seconds, and the latest ten end with the greatest n.
NEW_RAID = (
    "INSERT INTO definitions.activity_definition (id, name, path, release_date, splash_path)"
    " VALUES (30, 'New', 'new', '2025-01-01Z', 'new');"
    "INSERT INTO definitions.activity_version (hash, activity_id, version_id)"
    " VALUES (1, 30, 1), (2, 30, 1), (3, 30, 4)"
)
CLEAR = (
    "INSERT INTO core.player (membership_id, last_seen) VALUES (7, now()) ON CONFLICT DO NOTHING;"
    "INSERT INTO core.instance (instance_id, hash, completed, fresh, player_count, date_started,"
    " date_completed, duration, platform_type)"
    " SELECT {hash} * 1000 + n, {hash}, {completed}, {fresh}, 1, '2025-02-01Z'::timestamptz,"
    " '2025-02-01Z'::timestamptz + n * interval '1 hour', 1000 + n, 3"
    " FROM generate_series({first}, {last}) AS n;"
    "INSERT INTO core.instance_player (instance_id, membership_id, completed)"
    " SELECT instance_id, 7, true FROM core.instance WHERE instance_id / 1000 = {hash}"
    " ON CONFLICT DO NOTHING;"
    "INSERT INTO extended.instance_character (instance_id, membership_id, character_id, completed,"
    " kills, time_played_seconds, start_seconds)"
    " SELECT instance_id, 7, 1, true, instance_id % 1000, 10, 0 FROM core.instance"
    " WHERE instance_id / 1000 = {hash} ON CONFLICT DO NOTHING"
)


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    found = settings_for(postgres)
    execute(found, NEW_RAID)
    return found


def small(kills: int = 10, speed: int = 12) -> Parameters:
    """The rules in use, content with so many clears."""
    parameters = load_parameters()
    generic = parameters.generic
    generic = generic.model_copy(
        update={
            "kills_quantile": generic.kills_quantile.model_copy(
                update={"clears": kills, "quantile": 0.2}
            ),
            "speed_quantile": generic.speed_quantile.model_copy(
                update={"min_clears": speed, "quantile": 0.5}
            ),
        }
    )
    return parameters.model_copy(update={"generic": generic})


def clears(
    settings: Settings,
    hash_: int,
    first: int,
    last: int,
    *,
    fresh: str = "true",
    completed: str = "true",
) -> None:
    execute(
        settings,
        CLEAR.format(hash=hash_, first=first, last=last, fresh=fresh, completed=completed),
    )


def refresh(settings: Settings, parameters: Parameters | None = None) -> list[tuple[Any, ...]]:
    with connected(settings, "test") as connection:
        refresh_norms(connection, parameters or small())
        assert check_norms(connection) == []
    return rows(settings, NORMS)


def test_norms_are_those_of_the_latest_clears_of_both_hashes(settings: Settings) -> None:
    """By hand: of kills 3..12, two of ten are 3 and 4; of times 1001..1012 the middle is 1006.5."""
    clears(settings, 1, 1, 6)
    clears(settings, 2, 7, 12)
    clears(settings, 3, 1, 11)
    assert refresh(settings) == [
        (1, False, 0, None, None),
        (1, True, 12, 4, 1006.5),
        (4, False, 0, None, None),
        (4, True, 11, 3, None),  # kills 2..11; too few for a time
    ]


def test_checkpoints_and_what_is_unknown_are_one_kind(settings: Settings) -> None:
    clears(settings, 1, 1, 5, fresh="false")
    clears(settings, 2, 6, 10, fresh="NULL")
    clears(settings, 3, 1, 12, completed="false")
    assert refresh(settings)[:2] == [(1, False, 10, 2, None), (1, True, 0, None, None)]
    assert refresh(settings)[3][2:] == (0, None, None)


def test_too_few_clears_and_blacklisted_ones_are_no_norm(settings: Settings) -> None:
    """Else the first cheats of a new raid, who are its first clears, make themselves usual."""
    clears(settings, 1, 1, 10)
    assert refresh(settings)[1][3] is not None
    execute(
        settings,
        "INSERT INTO flagging.blacklist_instance (instance_id, report_source, reason)"
        " VALUES (1001, 'Manual', 'cheat')",
    )
    assert refresh(settings)[1] == (1, True, 9, None, None)
    execute(settings, "UPDATE core.instance SET is_whitelisted = true WHERE instance_id = 1001")
    assert refresh(settings)[1] == (1, True, 10, 2, None)  # a person said that it is none


def test_a_second_refresh_changes_no_norm(settings: Settings) -> None:
    """Verdicts would depend on how often somebody pressed the button."""
    clears(settings, 1, 1, 12)
    first = refresh(settings)
    assert refresh(settings) == first
    assert len(first) == 4


def test_an_activity_that_got_numbers_has_norms_no_more(settings: Settings) -> None:
    """They would stay as they are on the day, and nobody would know."""
    clears(settings, 1, 1, 12)
    assert len(refresh(settings)) == 4
    parameters = small()
    known = {**parameters.activities, 30: parameters.activities[1]}
    assert refresh(settings, parameters.model_copy(update={"activities": known})) == []
    wanted = {
        activity
        for (activity,) in rows(
            settings, "SELECT DISTINCT activity_id FROM streaming.activity_norm"
        )
    }
    assert wanted == {15, 16, 102}


def test_norms_that_no_run_can_have_are_found(settings: Settings) -> None:
    refresh(settings)
    execute(settings, "UPDATE streaming.activity_norm SET low_kills = -1 WHERE activity_id = 30")
    with connected(settings, "test") as connection:
        assert [(p.rows, p.examples) for p in check_norms(connection)] == [(4, (30,) * 4)]

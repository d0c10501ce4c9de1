"""Which messages a new instance asks for: enough to keep players current, never a flood."""

from datetime import date, datetime, timedelta

import msgspec
import pytest

from raidhub_dagster.messaging.topology import (
    CHARACTER_FILL,
    INSTANCE_CHEAT_CHECK,
    PLAYER_CRAWL,
)
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage.copy import day
from raidhub_dagster.storage.derive import Standing
from raidhub_dagster.storage.effects import Effects
from raidhub_dagster.storage.identity import Identity
from tests.support.worlds import FIRST_PLAYER, clear

WHO = FIRST_PLAYER
NAMED = {WHO: Identity(membership_type=3)}
RUN = clear(1, hours=20 * 24, players=[WHO])
NOW = RUN.date_completed + timedelta(minutes=1)
AGAIN = {WHO: Standing(is_first_clear=False, sherpas=0)}
FIRST = {WHO: Standing(is_first_clear=True, sherpas=0)}


def asked(
    effects: Effects, queue: str, *, run: Instance = RUN, standings: dict[int, Standing] = AGAIN
) -> int:
    """Outbox rows of `run` for `queue`."""
    return sum(b"message" in row and queue.encode() in row for row in effects.of(run, standings))


@pytest.mark.parametrize(
    ("last_crawled", "standings", "times"),
    [
        ({WHO: NOW - timedelta(hours=23, minutes=59)}, AGAIN, 0),
        ({WHO: NOW - timedelta(hours=24, minutes=1)}, AGAIN, 1),
        ({WHO: None}, AGAIN, 1),
        ({}, AGAIN, 1),
        ({WHO: NOW}, FIRST, 1),
    ],
    ids=["current", "stale", "never crawled", "new", "first clear"],
)
def test_players_are_crawled_when_something_is_to_be_learned(
    last_crawled: dict[int, datetime | None], standings: dict[int, Standing], times: int
) -> None:
    effects = Effects(NOW, last_crawled, NAMED)
    assert asked(effects, PLAYER_CRAWL, standings=standings) == times


@pytest.mark.parametrize(("identity", "times"), [(NAMED[WHO], 0), (Identity(), 1)])
def test_archives_ask_for_the_nameless_only(identity: Identity, times: int) -> None:
    """Ten million old reports would keep the player queue busy for weeks."""
    effects = Effects(RUN.date_completed + timedelta(days=31), {}, {WHO: identity})
    assert asked(effects, PLAYER_CRAWL, standings=FIRST) == times


def test_a_batch_asks_once_for_a_player() -> None:
    effects = Effects(NOW, {}, NAMED)
    runs = (RUN, clear(2, hours=20 * 24 - 2, players=[WHO]))
    assert [asked(effects, PLAYER_CRAWL, run=run) for run in runs] == [1, 0]


@pytest.mark.parametrize(
    ("changes", "times"),
    [
        ({}, 1),
        ({"class_hash": 1}, 1),
        ({"emblem_hash": 1}, 1),
        ({"class_hash": 1, "emblem_hash": 1}, 0),
        ({"character_id": 0}, 0),
    ],
)
def test_characters_are_filled_when_something_is_missing_and_they_can_be_named(
    changes: dict[str, int], times: int
) -> None:
    (player,) = RUN.players
    character = msgspec.structs.replace(player.characters[0], **changes)
    player = msgspec.structs.replace(player, characters=(character,))
    run = msgspec.structs.replace(RUN, players=(player,))
    assert asked(Effects(NOW, {}, NAMED), CHARACTER_FILL, run=run) == times


@pytest.mark.parametrize("completed", [True, False])
def test_every_run_is_checked_and_leaves_for_clickhouse_under_its_month(completed: bool) -> None:
    """A batch has one month; the rules of the checks decide about unfinished runs."""
    run = msgspec.structs.replace(RUN, completed=completed)
    assert asked(Effects(NOW, {}, NAMED), INSTANCE_CHEAT_CHECK, run=run) == 1
    *_, row = Effects(NOW, {}, NAMED).of(run, AGAIN)
    assert row.endswith(day(date(2025, 1, 1)))

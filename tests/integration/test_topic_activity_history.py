"""Topic activity_history_crawl against the simulated API, PostgreSQL and RabbitMQ."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from raidhub_dagster.errors import MaintenanceError, PermanentError, TransientError
from raidhub_dagster.messaging.messages import read_id
from raidhub_dagster.players.history import HistoryWalk
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import Pool
from simulator.world import MEMBERSHIP_BASE, Player
from streaming.hermes.topic import Delivery
from streaming.hermes.topics.activity_history_crawl import TOPIC, ActivityHistoryCrawl
from tests.support.api import ENDPOINTS, FakeApi, Refusal
from tests.support.bungie import PLAYERS, Bungie
from tests.support.queues import channel_of, consuming, publish, ready, until
from tests.support.reports import Json
from tests.support.topics import execute, outcome, outcomes, rows, small

WALKED = (
    "SELECT is_private, history_last_crawled > now() - interval '1 minute' FROM core.player"
    " WHERE membership_id = {}"
)


def is_open(player: Player) -> bool:
    return not player.is_private


def body(player: Player) -> bytes:
    return b"%d" % player.membership_id


def published(settings: Settings) -> list[int]:
    """Ids on pgcr_crawl, in the order in which they came; the queue is empty then."""
    found: list[int] = []
    with channel_of(settings) as channel:
        channel.queue_declare("pgcr_crawl", durable=True)
        while True:
            method, properties, text = channel.basic_get("pgcr_crawl", auto_ack=True)
            if method is None:
                return found
            found.append(read_id(text, "instanceId"))
            assert properties.message_id == f"pgcr_crawl:{found[-1]}"
            assert properties.delivery_mode == 2


def known(settings: Settings, player: Player) -> None:
    execute(
        settings,
        "INSERT INTO core.player (membership_id, membership_type, last_seen)"
        f" VALUES ({player.membership_id}, {player.membership_type}, now())",
    )


def test_every_raid_of_every_character_is_asked_for(bungie: Bungie, api_settings: Settings) -> None:
    player = bungie.player(lambda p: is_open(p) and len(bungie.raids_of(p)) > 2)
    known(api_settings, player)
    assert outcome(api_settings, TOPIC, body(player)) is None
    found = published(api_settings)
    assert set(found) == bungie.raids_of(player)
    assert len(found) == len(set(found))
    assert rows(api_settings, WALKED.format(player.membership_id)) == [(False, True)]


def test_deleted_characters_have_a_history_too(bungie: Bungie, api_settings: Settings) -> None:
    """Account statistics list them; the profile does not."""
    player = bungie.player(lambda p: is_open(p) and p.number % 10 == 0)
    before = bungie.requests_so_far()
    known(api_settings, player)
    assert outcome(api_settings, TOPIC, body(player)) is None
    played = {
        e.character_id
        for i in bungie.raids_of(player)
        for e in bungie.world.run(i).entries
        if e.player == player.number
    }
    # The statistics, one page for each character that raided, and the empty page of all four.
    assert bungie.requests_so_far() - before == 1 + len(played) + 4


def test_a_second_walk_publishes_what_is_still_missing(
    bungie: Bungie, api_settings: Settings
) -> None:
    player = bungie.player(is_open)
    assert outcomes(api_settings, TOPIC, [body(player)] * 2) == [None, None]
    assert sorted(published(api_settings)) == sorted([*bungie.raids_of(player)] * 2)


def test_a_private_history_is_remembered_and_no_failure(
    bungie: Bungie, api_settings: Settings
) -> None:
    player = bungie.player(lambda p: p.is_private)
    known(api_settings, player)
    assert outcome(api_settings, TOPIC, body(player)) is None
    assert rows(api_settings, WALKED.format(player.membership_id)) == [(True, True)]
    assert published(api_settings) == []


def test_the_membership_type_is_resolved_and_never_assumed(
    bungie: Bungie, api_settings: Settings
) -> None:
    """The predecessor assumed Steam: nobody else's history was ever walked."""
    player = bungie.player(lambda p: is_open(p) and p.membership_type in (2, 6))
    execute(
        api_settings,
        "INSERT INTO core.player (membership_id, membership_type, last_seen)"
        f" VALUES ({player.membership_id}, 3, now())",
    )
    assert outcome(api_settings, TOPIC, body(player)) is None
    assert set(published(api_settings)) == bungie.raids_of(player)
    stranger = next(
        p for p in bungie.players() if is_open(p) and p.membership_type == 6 and p != player
    )
    assert outcome(api_settings, TOPIC, body(stranger)) is None  # in no table at all
    assert set(published(api_settings)) == bungie.raids_of(stranger)


@pytest.mark.parametrize("missing", [MEMBERSHIP_BASE + PLAYERS * 7, 1 << 61])
def test_a_missing_account_is_walked_to_its_end(api_settings: Settings, missing: int) -> None:
    execute(
        api_settings,
        f"INSERT INTO core.player (membership_id, last_seen) VALUES ({missing}, now())",
    )
    assert outcome(api_settings, TOPIC, b"%d" % missing) is None
    assert rows(api_settings, WALKED.format(missing)) == [(False, True)]


@pytest.mark.parametrize("template", ["%d", '"%d"', '{"membershipId": "%d"}', "%d\n"])
def test_every_shape_of_message_is_taken(
    bungie: Bungie, api_settings: Settings, template: str
) -> None:
    player = bungie.player(is_open)
    assert outcome(api_settings, TOPIC, (template % player.membership_id).encode()) is None
    assert set(published(api_settings)) == bungie.raids_of(player)


@pytest.mark.parametrize("bad", [b"", b"{}", b"-1", b"12a"])
def test_a_body_without_an_id_is_permanent(api_settings: Settings, bad: bytes) -> None:
    assert isinstance(outcome(api_settings, TOPIC, bad), PermanentError)


def test_maintenance_and_errors_leave_the_walk_unfinished(
    bungie: Bungie, api_settings: Settings
) -> None:
    """history_last_crawled would say for 25 weeks that nothing is missing."""
    player = bungie.player(is_open)
    known(api_settings, player)
    bungie.ask("/sim/maintenance", on=True, systems=["Activities"])
    with closing(ActivityHistoryCrawl(api_settings)) as handler:
        for client in handler.clients:
            client._retrying.sleep = lambda _: None
        (error,) = handler.handle([Delivery(body(player))])
        assert isinstance(error, MaintenanceError)
        bungie.calm()
        bungie.faults(bad_gateway=1.0)
        (error,) = handler.handle([Delivery(body(player))])
        assert isinstance(error, TransientError)
    assert rows(api_settings, WALKED.format(player.membership_id)) == [(False, None)]


def test_messages_go_through_and_park(bungie: Bungie, api_settings: Settings) -> None:
    player = bungie.player(is_open)
    known(api_settings, player)
    topic = small(TOPIC, 2)
    publish(api_settings, topic, body(player), b"x")
    with consuming(api_settings, topic):
        until(lambda: rows(api_settings, WALKED.format(player.membership_id)) == [(False, True)])
        until(lambda: ready(api_settings, "activity_history_crawl.parked") == 1)
    assert set(published(api_settings)) == bungie.raids_of(player)


# What the simulator never does.

WHO, CHARACTER = MEMBERSHIP_BASE, 77


class Walk:
    """A walk over prepared pages of one character; what it publishes goes into a list."""

    def __init__(self, settings: Settings, *pages: Json) -> None:
        self.settings = settings
        self.pages: list[list[int]] = []
        answers: dict[str, Json] = {
            ENDPOINTS.account_stats_url(1, WHO): {"characters": [{"characterId": str(CHARACTER)}]}
        }
        for number, found in enumerate(pages):
            url = ENDPOINTS.activity_history_url(1, WHO, CHARACTER, page=number)
            answers[url] = found
        self.api = FakeApi(answers)

    def run(self) -> int:
        pool = Pool(self.settings, "test")
        try:
            with ThreadPoolExecutor(1) as executor:
                return HistoryWalk(pool, [self.api.client], executor, self._publish).walk(WHO)
        finally:
            pool.close()

    def _publish(self, ids: Sequence[int]) -> None:
        self.pages.append(list(ids))


def page(*ids: int) -> Json:
    return {"activities": [{"activityDetails": {"instanceId": str(i)}} for i in ids]}


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Any) -> Settings:
    found: Settings = settings_for(postgres)
    execute(found, f"INSERT INTO core.player (membership_id, last_seen) VALUES ({WHO}, now())")
    return found


def test_pages_are_read_until_the_first_empty_one(settings: Settings) -> None:
    """A short page is no end: the API leaves out what it cannot resolve."""
    walk = Walk(settings, page(9, 8, 7), page(6), page(5, 5, 9), {}, page(1))
    assert walk.run() == 6
    assert walk.pages == [[7, 8, 9], [6], [5, 9]]
    assert len(walk.api.asked) == 1 + 4


def test_a_walk_that_fails_half_way_begins_again(settings: Settings) -> None:
    walk = Walk(settings, page(9), Refusal(7))
    with pytest.raises(PermanentError):
        walk.run()
    assert walk.pages == [[9]]
    assert rows(settings, WALKED.format(WHO)) == [(False, None)]


def test_a_character_without_a_history_ends_only_its_own_walk(settings: Settings) -> None:
    """Characters that were deleted long ago answer 1620."""
    assert Walk(settings, Refusal(1620)).run() == 0
    assert rows(settings, WALKED.format(WHO)) == [(False, True)]


def test_a_history_that_closes_while_it_is_walked_is_private(settings: Settings) -> None:
    assert Walk(settings, page(9), Refusal(1665)).run() == 0
    assert rows(settings, WALKED.format(WHO)) == [(True, True)]


def test_what_is_stored_or_on_somebodys_list_is_left_out(settings: Settings) -> None:
    """Two thousand players a week: only what is missing may reach the API."""
    ids = list(range(1, 10))
    states = ("waiting", "malformed", "blocked", "unknown_hash", "missing", "resolved")
    execute(
        settings,
        "INSERT INTO core.instance (instance_id, hash, completed, player_count, date_started,"
        " date_completed, duration, platform_type)"
        " SELECT 1, min(hash), true, 1, now(), now(), 1, 3 FROM definitions.activity_version;"
        "INSERT INTO streaming.withheld_pgcr (instance_id, returns_at, closed_at)"
        " VALUES (8, now(), NULL), (9, now(), now())",
    )
    for instance_id, state in zip(ids[1:7], states, strict=True):
        execute(
            settings,
            "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
            f" VALUES ({instance_id}, '{state}', 'test', 'test')",
        )
    walk = Walk(settings, page(*ids, 10))
    # A confirmed hole that a history shows is none, and what was resolved but is not stored is
    # missing again.
    assert (walk.run(), walk.pages) == (4, [[6, 7, 9, 10]])

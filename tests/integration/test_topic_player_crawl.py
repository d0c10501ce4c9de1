"""Topic player_crawl against the simulated API, PostgreSQL and RabbitMQ."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from raidhub_dagster.bungie.client import RefusedError
from raidhub_dagster.errors import (
    MaintenanceError,
    PermanentError,
    TransientError,
    UnavailableError,
)
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from simulator.world import MEMBERSHIP_BASE, Player
from streaming.hermes.topic import Delivery
from streaming.hermes.topics.player_crawl import TOPIC, PlayerCrawl
from tests.support import worlds
from tests.support.bungie import PLAYERS, Bungie
from tests.support.queues import consuming, publish, ready, take, until
from tests.support.topics import execute, outcome, outcomes, rows, small, store

IDENTITY = (
    "SELECT membership_type, display_name, bungie_global_display_name,"
    " bungie_global_display_name_code, icon_path, is_private FROM core.player"
    " WHERE membership_id = {}"
)


def body(player: Player) -> bytes:
    return b"%d" % player.membership_id


def known(player: Player) -> tuple[Any, ...]:
    name = player.global_name or None
    code = f"{player.global_code:04}" if name and player.global_code is not None else None
    return (player.membership_type, player.display_name, name, code)


def is_open(player: Player) -> bool:
    return not player.is_private


def test_an_account_becomes_a_player_with_name_icon_and_dates(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Members of clans and people who search for themselves were in no report yet."""
    player = bungie.player(is_open)
    assert outcome(api_settings, TOPIC, body(player)) is None
    ((*names, icon, is_private),) = rows(api_settings, IDENTITY.format(player.membership_id))
    assert tuple(names) == known(player)
    assert (icon.startswith("/common/destiny2_content/icons/"), is_private) == (True, False)
    world = bungie.world
    runs = [(world.run(i), e) for i in bungie.raids_of(player) for e in world.run(i).entries]
    mine = [(run, e) for run, e in runs if e.player == player.number]
    newest = max(run.period + min(e.start + e.played, run.duration) for run, e in mine)
    ((last_seen, first_seen, crawled, clears),) = rows(
        api_settings,
        "SELECT last_seen, first_seen, last_crawled > now() - interval '1 minute', clears"
        " FROM core.player",
    )
    # Never the time of the crawl: the name search would take every crawled player for active.
    assert last_seen == max(
        datetime.fromtimestamp(newest, UTC),
        datetime.fromtimestamp(world.config.epoch - player.number, UTC),
    )
    assert first_seen in {datetime.fromtimestamp(run.period, UTC) for run, _ in mine} | {last_seen}
    assert (crawled, clears) == (True, 0)


@pytest.mark.parametrize(
    "template", ["%d", " %d\n", '"%d"', '{"membershipId": "%d"}', '{"membershipId": %d, "x": 1}']
)
def test_every_shape_of_message_is_taken(
    bungie: Bungie, api_settings: Settings, template: str
) -> None:
    player = bungie.player(is_open)
    assert outcome(api_settings, TOPIC, (template % player.membership_id).encode()) is None
    assert rows(api_settings, "SELECT membership_id FROM core.player") == [(player.membership_id,)]


@pytest.mark.parametrize(
    "bad", [b"", b"abc", b"-5", b"0", b"9223372036854775808", b"[1]", b'{"groupId": 1}', b"1.5"]
)
def test_a_body_without_an_id_is_permanent(api_settings: Settings, bad: bytes) -> None:
    error = outcome(api_settings, TOPIC, bad)
    assert isinstance(error, PermanentError)
    assert rows(api_settings, "SELECT count(*) FROM core.player") == [(0,)]


@pytest.mark.parametrize("shows_account", [True, False])
def test_a_private_player_is_hidden_and_keeps_what_reports_said(
    bungie: Bungie, api_settings: Settings, shows_account: bool
) -> None:
    """Hidden components come as a success without data; privacy itself shows in the history."""
    player = bungie.player(lambda p: p.is_private and (p.number % 2 == 1) == shows_account)
    execute(
        api_settings,
        "INSERT INTO core.player (membership_id, display_name, icon_path, last_seen, first_seen)"
        f" VALUES ({player.membership_id}, 'Told', '/told.png', '2020-01-01Z', '2019-01-01Z')",
    )
    assert outcome(api_settings, TOPIC, body(player)) is None
    ((kind, name, *_, icon, is_private),) = rows(
        api_settings, IDENTITY.format(player.membership_id)
    )
    assert (kind, is_private, icon) == (player.membership_type, True, "/told.png")
    assert name == (player.display_name if shows_account else "Told")
    assert rows(
        api_settings,
        "SELECT last_crawled IS NOT NULL, first_seen FROM core.player",
    ) == [(True, datetime(2019, 1, 1, tzinfo=UTC))]


def test_an_unknown_player_who_hides_everything_is_kept_without_a_date(
    bungie: Bungie, api_settings: Settings
) -> None:
    """last_seen must have a value: it is one that any sighting replaces."""
    player = bungie.player(lambda p: p.is_private and p.number % 2 == 0)
    assert outcome(api_settings, TOPIC, body(player)) is None
    assert rows(
        api_settings, "SELECT is_private, last_seen, display_name, bungie_name FROM core.player"
    ) == [(True, datetime(2017, 8, 27, tzinfo=UTC), None, None)]


def test_a_player_who_opens_up_again_is_shown_again(bungie: Bungie, api_settings: Settings) -> None:
    player = bungie.player(is_open)
    execute(
        api_settings,
        "INSERT INTO core.player (membership_id, last_seen, is_private, last_crawled)"
        f" VALUES ({player.membership_id}, now(), true, '2020-01-01Z')",
    )
    assert outcome(api_settings, TOPIC, body(player)) is None
    assert rows(api_settings, "SELECT is_private FROM core.player") == [(False,)]


@pytest.mark.parametrize(
    ("missing", "code"),
    [(MEMBERSHIP_BASE + PLAYERS * 7, 1601), (1 << 61, 217), (MEMBERSHIP_BASE + 1, 1601)],
)
def test_an_account_that_does_not_exist_is_remembered_as_asked_for(
    bungie: Bungie, api_settings: Settings, missing: int, code: int
) -> None:
    """No failure: the message is done. Who was never stored gets no row."""
    assert bungie.world.player_of(missing) is None, code
    execute(
        api_settings,
        "INSERT INTO core.player (membership_id, display_name, last_seen)"
        f" VALUES ({missing}, 'Gone', '2020-01-01Z')",
    )
    other = missing + 70
    assert outcomes(api_settings, TOPIC, [b"%d" % missing, b"%d" % other]) == [None, None]
    assert rows(
        api_settings,
        "SELECT membership_id, display_name, last_crawled IS NOT NULL, last_seen FROM core.player",
    ) == [(missing, "Gone", True, datetime(2020, 1, 1, tzinfo=UTC))]


def test_cross_save_accounts_are_found_under_their_present_type(
    bungie: Bungie, api_settings: Settings
) -> None:
    """A report of years ago knows the old platform; the wrong type is only a detour."""
    player = bungie.player(
        lambda p: is_open(p) and len(p.applicable) > 1 and p.membership_type == 6
    )
    execute(
        api_settings,
        "INSERT INTO core.player (membership_id, membership_type, last_seen)"
        f" VALUES ({player.membership_id}, 1, now())",
    )
    assert outcome(api_settings, TOPIC, body(player)) is None
    ((*names, _, _),) = rows(api_settings, IDENTITY.format(player.membership_id))
    assert tuple(names) == known(player)


@pytest.mark.parametrize(
    ("membership_type", "hours_ago", "asked"), [(3, 23, False), (3, 25, True), (None, 1, True)]
)
def test_a_player_crawled_today_is_left_alone_unless_nameless(
    bungie: Bungie,
    api_settings: Settings,
    membership_type: int | None,
    hours_ago: int,
    asked: bool,
) -> None:
    """A raid asks for six players at once; the API would refuse us if each were asked for."""
    player = bungie.player(is_open)
    kind = "NULL" if membership_type is None else player.membership_type
    execute(
        api_settings,
        "INSERT INTO core.player (membership_id, membership_type, last_seen, last_crawled)"
        f" VALUES ({player.membership_id}, {kind}, now(), now() - interval '{hours_ago} hours')",
    )
    before = bungie.requests_so_far()
    assert outcomes(api_settings, TOPIC, [body(player)] * 2) == [None, None]
    requests = bungie.requests_so_far() - before
    assert (requests > 0) == asked
    assert requests <= 8  # the second delivery asks nothing


def test_maintenance_is_nobodys_failure(bungie: Bungie, api_settings: Settings) -> None:
    player = bungie.player(is_open)
    bungie.ask("/sim/maintenance", on=True, systems=["D2Profiles"])
    assert isinstance(outcome(api_settings, TOPIC, body(player)), MaintenanceError)
    bungie.ask("/sim/maintenance", on=True, systems=["Activities"])
    assert isinstance(outcome(api_settings, TOPIC, body(player)), MaintenanceError)
    assert rows(api_settings, "SELECT count(*) FROM core.player") == [(0,)]


def test_an_api_that_is_away_is_no_messages_fault(api_settings: Settings) -> None:
    """Zeus restarts: nothing may be counted against thousands of players meanwhile."""
    away = api_settings.model_copy(update={"bungie_url_base": f"http://{HOST}:{free_port()}"})
    with closing(PlayerCrawl(away)) as handler:
        handler.client._retrying.sleep = lambda _: None
        assert isinstance(handler._outcome(Delivery(b"5")), UnavailableError)


def test_a_missing_key_is_no_messages_fault(api_settings: Settings) -> None:
    """Nothing is asked, and what waits is not parked as poison."""
    with pytest.raises(UnavailableError, match="BUNGIE_API_KEY"):
        PlayerCrawl(api_settings.model_copy(update={"bungie_api_key": None}))


def test_messages_go_through_park_and_wait(bungie: Bungie, api_settings: Settings) -> None:
    """The whole way: done, poison with its reason, failure on its first retry queue."""
    player = bungie.player(is_open)
    topic = small(TOPIC, 2)
    publish(api_settings, topic, body(player), b"nonsense")
    with consuming(api_settings, topic):
        until(lambda: rows(api_settings, "SELECT count(*) FROM core.player") == [(1,)])
        until(lambda: ready(api_settings, "player_crawl.parked") == 1)
        bungie.faults(unexpected=1.0)  # code 1618 for everything
        publish(api_settings, topic, b"%d" % (player.membership_id + 7))
        until(lambda: ready(api_settings, "player_crawl.retry.300") == 1)
    parked, retried = (
        take(api_settings, "player_crawl.parked"),
        take(api_settings, "player_crawl.retry.300"),
    )
    assert parked is not None
    assert retried is not None
    assert (parked[1], parked[0]["reason"]) == (b"nonsense", "poison")
    assert "neither an id nor JSON" in parked[0]["error"]
    assert (retried[1], retried[0]["x-retry-count"]) == (b"%d" % (player.membership_id + 7), 1)
    assert "DestinyUnexpectedError" in retried[0]["x-last-error"]


def test_a_report_between_two_crawls_wins_over_the_first_only(
    bungie: Bungie, api_settings: Settings
) -> None:
    """The newest sighting names the player, whoever saw it and whenever it was stored."""
    player = bungie.player(lambda p: is_open(p) and p.global_code is not None)
    early = worlds.clear(1, hours=1, players=[player.membership_id])
    later = _dated(worlds.clear(2, hours=2, players=[player.membership_id]), hours_ahead=1)
    store(api_settings, early)
    assert outcome(api_settings, TOPIC, body(player)) is None
    names = "SELECT display_name, bungie_global_display_name FROM core.player"
    assert rows(api_settings, names) == [(player.display_name, player.global_name)]
    store(api_settings, later)
    assert rows(api_settings, names) == [("Ann", "Ann")]
    assert rows(api_settings, "SELECT clears FROM core.player") == [(2,)]


def _dated(instance: Any, *, hours_ahead: int) -> Any:
    """The same clear, played an hour from now."""
    started = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=hours_ahead)
    ended = started + timedelta(hours=1)
    players = tuple(
        msgspec.structs.replace(p, first_seen=started, last_seen=ended) for p in instance.players
    )
    return msgspec.structs.replace(
        instance, date_started=started, date_completed=ended, players=players
    )


def test_errors_of_the_api_are_worth_another_try(bungie: Bungie, api_settings: Settings) -> None:
    with closing(PlayerCrawl(api_settings)) as handler:
        handler.client._retrying.sleep = lambda _: None
        for fault in ("unexpected", "bad_gateway", "broken_json", "truncated", "reset"):
            bungie.calm()
            bungie.faults(**{fault: 1.0})
            error = handler._outcome(Delivery(b"5"))
            assert isinstance(error, TransientError), fault
            assert not isinstance(error, UnavailableError | RefusedError), fault

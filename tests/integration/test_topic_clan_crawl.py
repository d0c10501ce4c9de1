"""Topic clan_crawl against the simulated API, PostgreSQL and RabbitMQ."""

import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from raidhub_dagster.clans.crawl import Outcome, crawl_clan
from raidhub_dagster.clans.group import BANNER_PARTS, clean
from raidhub_dagster.errors import MaintenanceError, PermanentError
from raidhub_dagster.players.rows import join_clans
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import Pool
from simulator.world import CLAN_BASE, MEMBERSHIP_BASE, Clan
from streaming.hermes.topics import player_crawl
from streaming.hermes.topics.clan_crawl import TOPIC
from tests.support.api import ENDPOINTS, FakeApi, Refusal
from tests.support.bungie import Bungie
from tests.support.queues import consuming, publish, ready, until
from tests.support.reports import Json
from tests.support.topics import execute, outcome, outcomes, rows, small

MEMBERS = "SELECT membership_id FROM clan.clan_members ORDER BY 1"
PENDING = "SELECT membership_id FROM streaming.pending_clan_member ORDER BY 1"
ASKED = (
    "SELECT key, convert_from(body, 'UTF8') FROM streaming.outbox"
    " WHERE destination = 'player_crawl' ORDER BY 1"
)


def of(bungie: Bungie, clan: Clan) -> list[tuple[int]]:
    """Membership ids of everyone in the clan, as rows."""
    return [(bungie.world.player(number).membership_id,) for number in clan.members]


def make_players(settings: Settings, ids: list[tuple[int]]) -> None:
    values = ", ".join(f"({who}, now())" for (who,) in ids)
    execute(settings, f"INSERT INTO core.player (membership_id, last_seen) VALUES {values}")


def forget_crawl(settings: Settings) -> None:
    execute(settings, "UPDATE clan.clan SET updated_at = updated_at - interval '4 hours'")


def of_a_page(clan: Clan) -> bool:
    return len(clan.members) < 90 and not clan.is_gone


def large(clan: Clan) -> bool:
    return len(clan.members) > 100 and not clan.is_gone


def body(clan: Clan) -> bytes:
    return b"%d" % clan.group_id


def test_all_pages_of_members_are_kept_at_once(bungie: Bungie, api_settings: Settings) -> None:
    """More than a page of 100; the list says itself when it ends."""
    clan = bungie.clan(large)
    make_players(api_settings, of(bungie, clan))
    assert outcome(api_settings, TOPIC, body(clan)) is None
    assert rows(api_settings, MEMBERS) == of(bungie, clan)
    assert (rows(api_settings, PENDING), rows(api_settings, ASKED)) == ([], [])
    assert rows(api_settings, "SELECT group_id, name, motto, call_sign FROM clan.clan") == [
        (clan.group_id, clean(clan.name), clean(clan.motto), clan.callsign)
    ]
    ((banner,),) = rows(api_settings, "SELECT clan_banner_data FROM clan.clan")
    assert set(banner) == set(BANNER_PARTS)
    assert all(banner.values())


def test_unknown_members_are_asked_for_and_join_when_they_are_known(
    bungie: Bungie, api_settings: Settings
) -> None:
    """A clan's board would never show whoever raided last before we began to crawl."""
    clan = bungie.clan(lambda c: of_a_page(c) and c.group_id % 20 != 0)
    known, unknown = of(bungie, clan)[::2], of(bungie, clan)[1::2]
    make_players(api_settings, known)
    assert outcome(api_settings, TOPIC, body(clan)) is None
    assert rows(api_settings, MEMBERS) == known
    assert rows(api_settings, PENDING) == unknown
    asked = rows(api_settings, ASKED)
    assert asked == [(who, str(who)) for (who,) in unknown]

    bodies = [text.encode() for _, text in asked]
    assert outcomes(api_settings, player_crawl.TOPIC, bodies) == [None] * len(bodies)
    assert rows(api_settings, MEMBERS) == of(bungie, clan)
    assert rows(api_settings, PENDING) == []


def test_a_player_whom_a_report_made_known_joins_without_a_crawl_of_their_own(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Between the clan's crawl and the player's one a raid may be stored and crawled for."""
    clan = bungie.clan(of_a_page)
    assert outcome(api_settings, TOPIC, body(clan)) is None
    ((who,), *_) = rows(api_settings, PENDING)
    execute(
        api_settings,
        "INSERT INTO core.player (membership_id, membership_type, last_seen, last_crawled)"
        f" VALUES ({who}, 3, now(), now())",
    )
    before = bungie.requests_so_far()
    assert outcome(api_settings, player_crawl.TOPIC, b"%d" % who) is None
    assert bungie.requests_so_far() == before
    assert rows(api_settings, MEMBERS) == [(who,)]


def test_a_member_who_does_not_exist_is_waited_for_no_longer(
    bungie: Bungie, api_settings: Settings
) -> None:
    clan = bungie.clan(of_a_page)
    assert outcome(api_settings, TOPIC, body(clan)) is None
    gone = MEMBERSHIP_BASE + 1
    execute(
        api_settings,
        f"INSERT INTO streaming.pending_clan_member VALUES ({clan.group_id}, {gone})",
    )
    assert outcome(api_settings, player_crawl.TOPIC, b"%d" % gone) is None
    assert (gone,) not in rows(api_settings, PENDING)


def test_who_left_is_no_member_any_more(bungie: Bungie, api_settings: Settings) -> None:
    clan = bungie.clan(of_a_page)
    stranger, waiting = MEMBERSHIP_BASE + 1, MEMBERSHIP_BASE + 2
    make_players(api_settings, [*of(bungie, clan), (stranger,)])
    assert outcome(api_settings, TOPIC, body(clan)) is None
    execute(
        api_settings,
        f"INSERT INTO clan.clan_members VALUES ({clan.group_id}, {stranger});"
        f"INSERT INTO streaming.pending_clan_member VALUES ({clan.group_id}, {waiting})",
    )
    forget_crawl(api_settings)
    assert outcome(api_settings, TOPIC, body(clan)) is None
    assert rows(api_settings, MEMBERS) == of(bungie, clan)
    assert rows(api_settings, PENDING) == []


def test_accounts_without_an_id_are_skipped(bungie: Bungie, api_settings: Settings) -> None:
    clan = bungie.clan(lambda c: c.group_id % 20 == 0 and not c.is_gone)
    make_players(api_settings, of(bungie, clan))
    assert outcome(api_settings, TOPIC, body(clan)) is None
    assert rows(api_settings, MEMBERS) == of(bungie, clan)


@pytest.mark.parametrize("code", [622, 686])
def test_a_clan_that_is_gone_loses_its_members_and_keeps_its_row(
    bungie: Bungie, api_settings: Settings, code: int
) -> None:
    """Readers link to clans of the past; boards must not show their members any more."""
    if code == 686:
        group_id = bungie.clan(lambda c: c.is_gone).group_id
    else:
        group_id = CLAN_BASE + bungie.world.clans + 5
    make_players(api_settings, [(7,)])
    banner = '{"decalId":1,"decalColorId":1,"decalBackgroundColorId":1,"gonfalonId":1,'
    banner += '"gonfalonColorId":1,"gonfalonDetailId":1,"gonfalonDetailColorId":1}'
    execute(
        api_settings,
        "INSERT INTO clan.clan (group_id, name, motto, call_sign, clan_banner_data, updated_at)"
        f" VALUES ({group_id}, 'Old', '', '', '{banner}', '2020-01-01Z');"
        f"INSERT INTO clan.clan_members VALUES ({group_id}, 7);"
        f"INSERT INTO streaming.pending_clan_member VALUES ({group_id}, 8)",
    )
    before = bungie.requests_so_far()
    assert outcomes(api_settings, TOPIC, [b"%d" % group_id] * 2) == [None, None]
    assert bungie.requests_so_far() == before + 1  # the second delivery finds it fresh
    assert rows(api_settings, "SELECT group_id, name FROM clan.clan") == [(group_id, "Old")]
    assert (rows(api_settings, MEMBERS), rows(api_settings, PENDING)) == ([], [])


def test_a_clan_that_never_was_leaves_nothing(bungie: Bungie, api_settings: Settings) -> None:
    group_id = CLAN_BASE + bungie.world.clans + 5
    assert outcome(api_settings, TOPIC, b"%d" % group_id) is None
    assert rows(api_settings, "SELECT count(*) FROM clan.clan") == [(0,)]


@pytest.mark.parametrize(("hours_ago", "asked"), [(2, False), (4, True)])
def test_a_clan_crawled_within_three_hours_is_left_alone(
    bungie: Bungie, api_settings: Settings, hours_ago: int, asked: bool
) -> None:
    """Everyone who opens a clan's page asks for it."""
    clan = bungie.clan(of_a_page)
    assert outcome(api_settings, TOPIC, body(clan)) is None
    execute(
        api_settings,
        f"UPDATE clan.clan SET updated_at = now() - interval '{hours_ago} hours', name = 'x'",
    )
    assert outcome(api_settings, TOPIC, body(clan)) is None
    assert (rows(api_settings, "SELECT name FROM clan.clan") == [("x",)]) != asked


@pytest.mark.parametrize("template", ["%d", '"%d"', '{"groupId": "%d"}', '{"groupId": %d}', " %d "])
def test_every_shape_of_message_is_taken(
    bungie: Bungie, api_settings: Settings, template: str
) -> None:
    clan = bungie.clan(of_a_page)
    assert outcome(api_settings, TOPIC, (template % clan.group_id).encode()) is None
    assert rows(api_settings, "SELECT group_id FROM clan.clan") == [(clan.group_id,)]


@pytest.mark.parametrize("bad", [b"", b"x", b"0", b"-1", b'{"membershipId": 1}', b"null"])
def test_a_body_without_an_id_is_permanent(api_settings: Settings, bad: bytes) -> None:
    assert isinstance(outcome(api_settings, TOPIC, bad), PermanentError)


@pytest.mark.parametrize("system", ["Groups", "Clans"])
def test_maintenance_is_nobodys_failure_and_no_member_is_lost(
    bungie: Bungie, api_settings: Settings, system: str
) -> None:
    clan = bungie.clan(of_a_page)
    make_players(api_settings, of(bungie, clan))
    assert outcome(api_settings, TOPIC, body(clan)) is None
    forget_crawl(api_settings)
    bungie.ask("/sim/maintenance", on=True, systems=[system])
    assert isinstance(outcome(api_settings, TOPIC, body(clan)), MaintenanceError)
    assert rows(api_settings, MEMBERS) == of(bungie, clan)


def test_messages_go_through_and_ask_by_way_of_the_outbox(
    bungie: Bungie, api_settings: Settings
) -> None:
    clan = bungie.clan(of_a_page)
    topic = small(TOPIC, 2)
    publish(api_settings, topic, body(clan), b"x", body(clan))
    with consuming(api_settings, topic):
        until(lambda: len(rows(api_settings, PENDING)) == len(clan.members))
        until(lambda: ready(api_settings, "clan_crawl.parked") == 1)
    assert {key for key, _ in rows(api_settings, ASKED)} == {who for (who,) in of(bungie, clan)}


# What the simulator never does.


def group(**detail: Json) -> Json:
    return {"detail": {"groupType": 1, "name": "Ann", **detail}}


def page(*ids: int, has_more: bool) -> Json:
    members = [{"destinyUserInfo": {"membershipId": str(i)}} for i in ids]
    return {"results": members, "hasMore": has_more, "totalResults": 5}


def crawl(settings: Settings, group_answer: Json, *pages: Json) -> tuple[Outcome, FakeApi]:
    answers = {ENDPOINTS.group_url(5): group_answer}
    answers |= {ENDPOINTS.group_members_url(5, page=n): p for n, p in enumerate(pages, 1)}
    api = FakeApi(answers)
    pool = Pool(settings, "test")
    try:
        found = crawl_clan(
            pool,
            api.client,
            5,
            fresh_for=timedelta(0),
            now=lambda: datetime.now(UTC),
        )
    finally:
        pool.close()
    return found, api


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Any) -> Settings:
    found: Settings = settings_for(postgres)
    return found


def test_three_members_beyond_the_hundredth_are_found(settings: Settings) -> None:
    """Clans of 103 were seen, whatever the game says about their size."""
    ids = list(range(1001, 1104))
    found, api = crawl(
        settings, group(), page(*ids[:100], has_more=True), page(*ids[100:], has_more=False)
    )
    assert (found, len(api.asked)) == (Outcome.CRAWLED, 3)
    assert rows(settings, PENDING) == [(i,) for i in ids]


@pytest.mark.parametrize("last", [page(has_more=True), page(1, has_more=True)])
def test_a_list_that_never_ends_is_left(settings: Settings, last: Json) -> None:
    """An empty page, or one that brings nobody new, is the end whatever the answer claims."""
    found, api = crawl(settings, group(), page(1, has_more=True), *[last] * 9)
    assert (found, len(api.asked)) == (Outcome.CRAWLED, 3)
    assert rows(settings, PENDING) == [(1,)]


def test_a_group_of_another_kind_writes_nothing(settings: Settings) -> None:
    found, api = crawl(settings, group(groupType=0))
    assert (found, len(api.asked)) == (Outcome.NO_CLAN, 1)
    assert rows(settings, "SELECT count(*) FROM clan.clan") == [(0,)]


def test_a_clan_that_dissolves_between_two_requests_is_gone(settings: Settings) -> None:
    assert crawl(settings, group(), page(1, has_more=False))[0] is Outcome.CRAWLED
    found, _ = crawl(settings, group(), page(1, has_more=True), Refusal(686))
    assert found is Outcome.GONE
    assert rows(settings, PENDING) == []


def test_readers_never_see_a_clan_without_members(settings: Settings) -> None:
    """The predecessor emptied the table for the length of a whole crawl."""
    make_players(settings, [(i,) for i in range(1, 60)])
    crawl(settings, group(), page(*range(1, 60), has_more=False))
    done, seen = threading.Event(), set[int]()

    def read() -> None:
        while not done.is_set():
            seen.add(len(rows(settings, MEMBERS)))

    reader = threading.Thread(target=read)
    reader.start()
    for last in (30, 59) * 8:
        crawl(settings, group(), page(*range(1, last + 1), has_more=False))
    done.set()
    reader.join()
    assert seen <= {30, 59}
    assert len(seen) == 2


def test_two_crawls_of_one_clan_and_its_players_at_once_end_in_one_truth(
    settings: Settings,
) -> None:
    """Locks of clans and of players cross here; a deadlock or a lost member would show."""
    ids = list(range(1001, 1031))
    failures: list[BaseException] = []

    def work(act: Any) -> None:
        try:
            for _ in range(6):
                act()
        except BaseException as error:  # noqa: BLE001  reported by the test's own thread
            failures.append(error)

    def meet() -> None:
        pool = Pool(settings, "test")
        try:
            for who in ids:
                execute(
                    settings,
                    "INSERT INTO core.player (membership_id, last_seen)"
                    f" VALUES ({who}, now()) ON CONFLICT DO NOTHING",
                )
                pool.run(partial(join_clans, membership_id=who))
        finally:
            pool.close()

    def crawl_it() -> None:
        crawl(settings, group(), page(*ids, has_more=False))

    threads = [threading.Thread(target=work, args=(act,)) for act in (crawl_it, crawl_it, meet)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    crawl_it()
    assert rows(settings, MEMBERS) == [(i,) for i in ids]
    assert rows(settings, PENDING) == []

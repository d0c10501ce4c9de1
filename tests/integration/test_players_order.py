"""Crawls and reports of the same players in any order leave the same rows."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.players import rows
from raidhub_dagster.players.crawl import Privacy, Sighting, sighting_of
from raidhub_dagster.players.profile import Character, Profile
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import postgres as pg
from raidhub_dagster.storage.store import Store
from tests.support import worlds


class Crawl(NamedTuple):
    membership_id: int
    sighting: Sighting


@st.composite
def crawls(draw: st.DrawFn, number: int) -> Crawl:
    """A crawl at its own moment of some hour of the world, with or without what it may show.

    The minute is the crawl's number: two crawls of one player never share a moment.
    """
    at = worlds.EPOCH + timedelta(hours=draw(st.integers(0, 44)), minutes=number)
    played = draw(st.none() | st.integers(0, 40).map(_hours))
    oldest = draw(st.none() | st.integers(-20, 20).map(_hours))
    emblem = draw(st.sampled_from([None, f"/crawl{number}.png"]))
    profile = Profile(
        draw(st.sampled_from([None, 2, 3])),
        draw(st.sampled_from([None, f"Crawl {number}", 'Q"u\\o,{}'])),
        draw(st.sampled_from([None, (f"Crawl {number}", "0007")])),
        played,
        (Character(1, None, None, emblem, played),),
        (1,),
    )
    kind = draw(st.sampled_from([None, 1]))
    privacy = Privacy(draw(st.sampled_from([None, True, False])), oldest)
    who = worlds.FIRST_PLAYER + draw(st.integers(0, 2))
    return Crawl(who, sighting_of(profile, kind, privacy, at))


def _hours(hours: int) -> datetime:
    return worlds.EPOCH + timedelta(hours=hours)


@pytest.fixture
def connection(
    postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> Iterator[Connection]:
    with closing(pg.connect(settings_for(postgres), "pytest")) as connection:
        yield connection


def happen(connection: Connection, events: list[Crawl | Instance]) -> None:
    store = Store(connection)
    for event in events:
        if isinstance(event, Instance):
            store.store([worlds.report_of(event)], source="test")
            continue
        seen = event.sighting
        with connection:
            rows.record_sighting(
                connection,
                event.membership_id,
                seen.identity,
                crawled_at=seen.crawled_at,
                last_seen=seen.last_seen,
                first_seen=seen.first_seen,
                is_private=seen.is_private,
            )


def left(connection: Connection) -> tuple[list[Any], list[Any]]:
    """Players without the counters, which are the store's own, and the sightings of their values.

    `updated_at` and the type are compared too; a row that a crawl made and no report touched has
    the same columns as one that was there before.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT membership_id, membership_type, icon_path, display_name, bungie_name,"
            " bungie_global_display_name, bungie_global_display_name_code, last_seen, first_seen,"
            " last_crawled, clears FROM core.player ORDER BY 1"
        )
        players = cursor.fetchall()
        cursor.execute("SELECT * FROM streaming.player_identity ORDER BY 1")
        return players, cursor.fetchall()


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_rows_do_not_depend_on_who_comes_first(connection: Connection, data: st.DataObject) -> None:
    """A crawl queued before a raid may be answered after it was stored, or the other way round."""
    raids = [data.draw(worlds.instances(1_000_000 + n, players=3)) for n in range(3)]
    looks = [data.draw(crawls(n)) for n in range(3)]
    events: list[Crawl | Instance] = [*raids, *looks]
    worlds.wipe(connection)
    happen(connection, events)
    wanted = left(connection)
    worlds.wipe(connection)
    happen(connection, data.draw(st.permutations(events)))
    assert left(connection) == wanted


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_the_last_crawl_decides_what_is_private(
    connection: Connection, data: st.DataObject
) -> None:
    """Two crawls of one player may be answered in the wrong order."""
    looks = [data.draw(crawls(n)) for n in range(4)]
    events: list[Crawl | Instance] = [*data.draw(st.permutations(looks))]
    worlds.wipe(connection)
    happen(connection, events)
    told = [look for look in looks if look.sighting.is_private is not None]
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT membership_id, is_private FROM core.player")
        found = dict(cursor.fetchall())
    for who in {look.membership_id for look in looks}:
        newest = max(
            (look.sighting.crawled_at, look.sighting.is_private)
            for look in looks
            if look.membership_id == who
        )
        if newest[1] is not None:
            assert found[who] == newest[1]
        if not any(look.membership_id == who for look in told):
            assert found[who] is False


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_rows_do_not_depend_on_who_writes_at_the_same_time(
    connection: Connection,
    postgres: dict[str, Any],
    settings_for: Callable[..., Settings],
    data: st.DataObject,
    seed: int,
) -> None:
    """A hundred slots crawl players whom the store is writing: nobody waits for ever or is lost."""
    raids = [data.draw(worlds.instances(1_000_000 + n, players=3)) for n in range(8)]
    looks = [data.draw(crawls(n)) for n in range(12)]
    worlds.wipe(connection)
    happen(connection, [*raids, *looks])
    wanted = left(connection)
    worlds.wipe(connection)
    failures: list[BaseException] = []

    def work(part: int) -> None:
        mine: list[Crawl | Instance] = (
            [*raids[part % 2 :: 2]] if part < 2 else [*looks[part - 2 :: 2]]
        )
        random.Random(seed + part).shuffle(mine)
        try:
            with closing(pg.connect(settings_for(postgres), "pytest")) as own:
                happen(own, mine)
        except BaseException as error:  # noqa: BLE001  reported by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert left(connection) == wanted

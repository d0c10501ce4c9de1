"""When something all topics need is away: nobody's message may pay for it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from raidhub_dagster.errors import MaintenanceError, PermanentError, UnavailableError
from raidhub_dagster.messaging.connection import BrokerError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from simulator.world import CLAN_BASE, FIRST_ID, MEMBERSHIP_BASE
from streaming.hermes.failures import is_infrastructure
from streaming.hermes.topic import Delivery, Topic
from streaming.hermes.topics import (
    activity_history_crawl,
    character_fill,
    clan_crawl,
    pgcr_blocked_retry,
    pgcr_crawl,
    player_crawl,
)
from streaming.hermes.topics.shared import ApiHandler
from tests.support.bungie import Bungie, simulated
from tests.support.reports import encode
from tests.support.topics import execute, rows

WHO, REPORT, CHARACTER = MEMBERSHIP_BASE, FIRST_ID, 77
BODIES: dict[str, tuple[Topic, bytes]] = {
    topic.name: (topic, body)
    for topic, body in (
        (player_crawl.TOPIC, b"%d" % WHO),
        (activity_history_crawl.TOPIC, b"%d" % WHO),
        (clan_crawl.TOPIC, b"%d" % CLAN_BASE),
        (pgcr_crawl.TOPIC, b"%d" % REPORT),
        (pgcr_blocked_retry.TOPIC, b"%d" % REPORT),
        (
            character_fill.TOPIC,
            encode({"membershipId": WHO, "characterId": CHARACTER, "instanceId": 1}),
        ),
    )
}
every_topic = pytest.mark.parametrize("name", BODIES)


@pytest.fixture
def settings(
    postgres: dict[str, Any], rabbitmq: dict[str, Any], settings_for: Callable[..., Settings]
) -> Settings:
    """Without an API; with a character that somebody has to ask for."""
    found = settings_for(postgres, rabbitmq, bungie_api_key="key")
    execute(
        found,
        f"INSERT INTO core.player (membership_id, last_seen) VALUES ({WHO}, now());"
        "INSERT INTO core.instance (instance_id, hash, completed, player_count, date_started,"
        " date_completed, duration, platform_type)"
        " SELECT 1, min(hash), true, 1, now(), now(), 1, 3 FROM definitions.activity_version;"
        f"INSERT INTO core.instance_player VALUES (1, {WHO}, true);"
        "INSERT INTO extended.instance_character (instance_id, membership_id, character_id,"
        " completed, time_played_seconds, start_seconds)"
        f" VALUES (1, {WHO}, {CHARACTER}, true, 1, 0)",
    )
    return found


def verdict(settings: Settings, name: str) -> Exception | None:
    topic, body = BODIES[name]
    with closing(topic.open(settings)) as handler:
        assert isinstance(handler, ApiHandler)
        for client in handler.clients:
            client._retrying.sleep = lambda _: None
        (error,) = handler.handle([Delivery(body)])
    return error


def at(settings: Settings, address: str) -> Settings:
    return settings.model_copy(update={"bungie_url_base": address, "pgcr_url_base": address})


@every_topic
def test_nobody_listens_where_the_api_should_be(settings: Settings, name: str) -> None:
    """Zeus restarts; five minutes of it would use up the retries of whatever is quick."""
    error = verdict(at(settings, f"http://{HOST}:{free_port()}"), name)
    assert isinstance(error, UnavailableError)
    assert "nobody listens at http://127.0.0.1:" in str(error)


@pytest.fixture(scope="module")
def strict_bungie(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bungie]:
    with simulated(tmp_path_factory.mktemp("strict"), "--api-key", "right") as bungie:
        yield bungie


@every_topic
def test_a_refused_key_parks_nothing(strict_bungie: Bungie, settings: Settings, name: str) -> None:
    """A typing error in one variable would otherwise park every message there is."""
    error = verdict(at(settings, strict_bungie.address), name)
    assert isinstance(error, UnavailableError)
    assert "refuses our key" in str(error)
    assert rows(settings, "SELECT last_crawled, history_last_crawled FROM core.player") == [
        (None, None)
    ]


@every_topic
def test_a_missing_key_parks_nothing(settings: Settings, name: str) -> None:
    topic, _ = BODIES[name]
    with pytest.raises(UnavailableError, match="BUNGIE_API_KEY is not set"):
        topic.open(settings.model_copy(update={"bungie_api_key": None}))


@every_topic
def test_maintenance_waits(bungie: Bungie, settings: Settings, name: str) -> None:
    bungie.ask("/sim/maintenance", on=True)
    error = verdict(at(settings, bungie.address), name)
    assert isinstance(error, MaintenanceError)
    assert not isinstance(error, PermanentError)


@every_topic
def test_a_database_that_is_away_is_infrastructure(
    bungie: Bungie, settings: Settings, name: str
) -> None:
    away = at(settings, bungie.address).model_copy(update={"postgres_port": free_port()})
    error = verdict(away, name)
    assert isinstance(error, psycopg2.OperationalError)
    assert is_infrastructure(error)


@pytest.mark.parametrize("name", ["pgcr_crawl", "pgcr_blocked_retry"])
def test_a_broker_that_is_away_is_infrastructure_and_nothing_counts_as_done(
    bungie: Bungie, settings: Settings, name: str
) -> None:
    """The raid would be marked as come out, and be on no queue."""
    topic, _ = BODIES[name]
    away = at(settings, bungie.address).model_copy(update={"rabbitmq_port": free_port()})
    with closing(topic.open(away)) as handler:
        (error,) = handler.handle([Delivery(b"%d" % next(bungie.raids()))])
    assert isinstance(error, BrokerError)
    assert rows(settings, "SELECT count(*) FROM streaming.blocked_success") == [(0,)]

"""Topic pgcr_crawl against the simulated API, PostgreSQL and RabbitMQ."""

import gzip
import json
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import Endpoints, ResultKind, classify_pgcr
from raidhub_dagster.errors import (
    MaintenanceError,
    PermanentError,
    TransientError,
    UnavailableError,
)
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from simulator.world import FIRST_ID
from streaming.hermes.topic import Delivery
from streaming.hermes.topics.instance_store import TOPIC as STORE
from streaming.hermes.topics.pgcr_crawl import TOPIC, PgcrCrawl
from tests.support.bungie import IDS, Bungie
from tests.support.queues import consuming, publish, ready, take, until
from tests.support.reports import encode, envelope
from tests.support.topics import execute, outcome, outcomes, rows, small, store

MISSED = (
    "SELECT instance_id, state, reason, source, next_attempt_at > now() FROM streaming.missed_pgcr"
)


def raid(bungie: Bungie) -> int:
    return next(bungie.raids())


def test_a_raid_goes_to_the_store_as_the_api_sent_it(
    bungie: Bungie, api_settings: Settings
) -> None:
    instance_id = raid(bungie)
    assert outcome(api_settings, TOPIC, b"%d" % instance_id) is None
    taken = take(api_settings, "instance_store")
    assert taken is not None
    headers, body = taken
    assert json.loads(gzip.decompress(body))["activityDetails"]["instanceId"] == str(instance_id)
    assert (headers["instance_id"], headers["source"]) == (instance_id, "pgcr_crawl")
    assert headers["settled"] is False


@pytest.mark.parametrize("template", ["%d", '"%d"', '{"instanceId": "%d"}', '{"instanceId": %d}'])
def test_every_shape_of_message_ends_in_a_stored_raid(
    bungie: Bungie, api_settings: Settings, template: str
) -> None:
    instance_id = raid(bungie)
    topic = small(TOPIC)
    publish(api_settings, topic, (template % instance_id).encode())
    with consuming(api_settings, topic), consuming(api_settings, small(STORE, 10)):
        until(lambda: rows(api_settings, "SELECT count(*) FROM core.instance") == [(1,)])
    assert rows(api_settings, "SELECT instance_id FROM core.instance") == [(instance_id,)]


@pytest.mark.parametrize("bad", [b"", b"x", b"0", b'{"refetch": true}', b'{"membershipId": 1}'])
def test_a_body_without_an_id_is_permanent(api_settings: Settings, bad: bytes) -> None:
    assert isinstance(outcome(api_settings, TOPIC, bad), PermanentError)


def test_a_message_that_the_broker_loses_between_two_tries_is_missed(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Somebody found the id missing; without a row nobody would look for it any more."""
    instance_id, topic = raid(bungie), replace(small(TOPIC), base_delay_s=1800)
    bungie.faults(unexpected=1.0)
    publish(api_settings, topic, b"%d" % instance_id)
    with consuming(api_settings, topic):
        until(lambda: ready(api_settings, "pgcr_crawl.retry.1800") == 1)
    assert take(api_settings, "pgcr_crawl.retry.1800") is not None
    assert rows(api_settings, MISSED) == [
        (instance_id, "waiting", "fetch_failed", "pgcr_crawl", True)
    ]


def test_a_stored_report_is_fetched_again_only_when_it_may_have_grown(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Ids come from histories by the thousand; a young report is looked at again on purpose."""
    instance_id = raid(bungie)
    store(api_settings, bungie.instance(instance_id))
    before = bungie.requests_so_far()
    assert outcome(api_settings, TOPIC, b"%d" % instance_id) is None
    assert outcome(api_settings, TOPIC, encode({"instanceId": instance_id, "refetch": 1})) is None
    assert bungie.requests_so_far() == before
    again = encode({"instanceId": str(instance_id), "refetch": True})
    assert outcome(api_settings, TOPIC, again) is None
    assert bungie.requests_so_far() == before + 1
    assert ready(api_settings, "instance_store") == 1


def test_a_second_look_gets_past_caches(bungie: Bungie, api_settings: Settings) -> None:
    """An edge that remembers the first answer would never show the rest of the report."""
    bungie.faults(malformed=1.0, malformed_forever=0.0)  # whole for who asks at a new address
    healed = next(i for i in bungie.raids() if _is_recent(bungie, i) and _heals(bungie, i))
    assert outcome(api_settings, TOPIC, b"%d" % healed) is None
    assert ready(api_settings, "instance_store") == 0
    again = encode({"instanceId": str(healed), "refetch": True})
    assert outcome(api_settings, TOPIC, again) is None
    assert ready(api_settings, "instance_store") == 1


def _heals(bungie: Bungie, instance_id: int) -> bool:
    with BungieClient(Endpoints(bungie.address, bungie.address), "key", "test") as client:
        plain = client.fetch_pgcr(instance_id, ())
        retried = client.fetch_pgcr(instance_id, (), malformed_retry=1)
    return (plain.kind, retried.kind) == (ResultKind.BAD_FORMAT, ResultKind.SUCCESS)


def test_a_withheld_report_goes_to_those_that_wait(bungie: Bungie, api_settings: Settings) -> None:
    bungie.faults(blocked=1.0, blocked_forever=1.0)
    instance_id = raid(bungie)
    assert outcome(api_settings, TOPIC, b"%d" % instance_id) is None
    taken = take(api_settings, "pgcr_blocked_retry")
    assert taken is not None
    assert taken[1] == b"%d" % instance_id
    assert rows(api_settings, MISSED) == []


def test_what_is_no_raid_or_not_there_is_done(bungie: Bungie, api_settings: Settings) -> None:
    """A row that somebody keeps about an id that turns out to be no raid is closed."""
    other = next(i for i in range(FIRST_ID, FIRST_ID + IDS) if not bungie.world.is_raid(i))
    execute(
        api_settings,
        "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
        f" VALUES ({other}, 'waiting', 'not_found', 'atlas')",
    )
    bodies = [b"%d" % other, b"%d" % (FIRST_ID + IDS)]
    assert outcomes(api_settings, TOPIC, bodies) == [None, None]
    assert ready(api_settings, "instance_store") == 0
    assert rows(api_settings, "SELECT instance_id, state FROM streaming.missed_pgcr") == [
        (other, "resolved")
    ]


def test_a_malformed_report_is_fetched_again_by_the_ledger(
    bungie: Bungie, api_settings: Settings
) -> None:
    """A raid of yesterday that is broken may be whole tomorrow: nothing to retry at once."""
    bungie.faults(malformed=1.0, malformed_forever=1.0)
    recent = [i for i in bungie.raids() if _is_recent(bungie, i)][:3]
    bodies = [b"%d" % i for i in recent]
    assert outcomes(api_settings, TOPIC, bodies) == [None] * 3
    found = rows(api_settings, MISSED)
    assert sorted(row[0] for row in found) == recent
    assert {(row[1], *row[3:]) for row in found} == {("malformed", "pgcr_crawl", True)}
    assert ready(api_settings, "instance_store") == 0


def _is_recent(bungie: Bungie, instance_id: int) -> bool:
    return bungie.world.run(instance_id).period > bungie.world.config.epoch - 86_400


def test_an_old_report_that_comes_twice_alike_is_taken_as_it_is(
    bungie: Bungie, api_settings: Settings
) -> None:
    """Reports of years ago lack what today's have; their raids count all the same."""
    old = next(i for i in bungie.raids() if not _is_recent(bungie, i))
    with closing(PgcrCrawl(api_settings)) as handler:
        fetch = handler.client.fetch_pgcr

        def without_extended(*args: Any, **kwargs: Any) -> Any:
            """The same answer from an API that lost `extended` of the last entry."""
            return _lamed(fetch(*args, **kwargs), old, handler)

        handler.client.fetch_pgcr = without_extended  # type: ignore[method-assign]
        assert list(handler.handle([Delivery(b"%d" % old)])) == [None]
    taken = take(api_settings, "instance_store")
    assert taken is not None
    assert taken[0]["settled"] is True


def _lamed(result: Any, instance_id: int, handler: PgcrCrawl) -> Any:
    report = json.loads(result.response)
    del report["entries"][-1]["extended"]
    return classify_pgcr(
        200,
        "application/json",
        encode(envelope(report)),
        instance_id=instance_id,
        tracked_hashes=handler.shared.tracked_hashes(),
        now=handler.now(),
    )


def test_errors_are_retried_and_maintenance_waits(bungie: Bungie, api_settings: Settings) -> None:
    body = b"%d" % raid(bungie)
    for fault in ("unexpected", "bad_gateway", "game_throttle", "edge_block", "truncated"):
        bungie.calm()
        bungie.faults(**{fault: 1.0})
        error = outcome(api_settings, TOPIC, body)
        assert isinstance(error, TransientError), fault
        assert not isinstance(error, UnavailableError), fault
    bungie.calm()
    bungie.ask("/sim/maintenance", on=True, systems=["Destiny2"])
    assert isinstance(outcome(api_settings, TOPIC, body), MaintenanceError)
    assert rows(api_settings, MISSED) == []


def test_an_api_that_is_away_is_no_messages_fault(api_settings: Settings) -> None:
    away = api_settings.model_copy(update={"pgcr_url_base": f"http://{HOST}:{free_port()}"})
    assert isinstance(outcome(away, TOPIC, b"5"), UnavailableError)


def test_failures_go_to_the_first_retry_queue(bungie: Bungie, api_settings: Settings) -> None:
    instance_id = raid(bungie)
    topic = small(TOPIC)
    bungie.faults(unexpected=1.0)
    publish(api_settings, topic, b"%d" % instance_id, b"x")
    with consuming(api_settings, topic):
        until(lambda: ready(api_settings, "pgcr_crawl.parked") == 1)
        until(lambda: ready(api_settings, "pgcr_crawl.retry.2") == 1)  # the second, by then
        bungie.calm()
        until(lambda: ready(api_settings, "instance_store") == 1)

"""Messages to webhooks through the outbox: with their transaction, in order, not for ever."""

import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from raidhub_dagster.discord.messages import embed
from raidhub_dagster.discord.webhooks import Address, Posted, Poster
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import free_port
from raidhub_dagster.storage import outbox
from raidhub_dagster.storage.webhooks import (
    RETRY_S,
    Webhook,
    addresses,
    enqueue,
    relay_webhook,
)
from tests.support.database import Database
from tests.support.webhook import Hook

STATES = (
    "SELECT key, sent_at IS NOT NULL, attempts, last_error FROM streaming.outbox"
    " WHERE kind = 'webhook' ORDER BY id"
)


@pytest.fixture
def hook() -> Iterator[Hook]:
    playing = Hook()
    yield playing
    playing.close()


@pytest.fixture
def poster() -> Iterator[Poster]:
    with Poster() as found:
        yield found


def put(database: Database, *keys: int, webhook: Webhook = Webhook.NEMESIS) -> None:
    with database.connection, database.connection.cursor() as cursor:
        for key in keys:
            enqueue(cursor, webhook, key, {"about": key})


def relay(
    database: Database,
    poster: Poster,
    known: Mapping[Webhook, Address],
    *,
    burst: int = 100,
) -> int:
    """How many steps had something to do."""
    steps = 0
    while relay_webhook(database.connection, poster.post, known, seconds_between=3, burst=burst):
        steps += 1
    return steps


def due(database: Database) -> None:
    """Lets all pauses be over."""
    database.rows(
        "UPDATE streaming.outbox SET next_attempt_at = now(),"
        " attempted_at = attempted_at - interval '1 hour' WHERE kind = 'webhook'"
    )


def test_messages_arrive_once_and_in_order(database: Database, hook: Hook, poster: Poster) -> None:
    put(database, 1, 2, 3)
    known = {Webhook.NEMESIS: Address(hook.url)}
    assert relay(database, poster, known) == 3
    assert relay(database, poster, known) == 0
    assert hook.got == [{"about": 1}, {"about": 2}, {"about": 3}]
    assert hook.authorizations == [None] * 3


def test_a_message_of_a_transaction_that_fails_is_never_sent(database: Database) -> None:
    """People would be told of a verdict that does not exist."""
    with database.connection.cursor() as cursor:
        enqueue(cursor, Webhook.NEMESIS, 1, {})
    database.connection.rollback()
    assert database.rows(STATES) == []


def test_no_more_than_the_burst_leaves_at_once(
    database: Database, hook: Hook, poster: Poster
) -> None:
    """Discord blocks a webhook that is flooded, and then nothing arrives."""
    known = {Webhook.NEMESIS: Address(hook.url), Webhook.CHEAT_CHECK: Address(hook.url)}
    put(database, *range(7))
    put(database, 100, webhook=Webhook.CHEAT_CHECK)
    assert relay(database, poster, known, burst=5) == 6  # five, and the other webhook's
    assert [m["about"] for m in hook.got] == [0, 1, 2, 3, 4, 100]
    database.rows(
        "UPDATE streaming.outbox SET attempted_at = now() - interval '15 seconds' WHERE key < 2"
    )
    assert relay(database, poster, known, burst=5) == 2
    assert [m["about"] for m in hook.got[6:]] == [5, 6]


def test_a_refused_message_is_tried_five_times_more_and_holds_up_no_other(
    database: Database, hook: Hook, poster: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    known = {Webhook.NEMESIS: Address(hook.url)}
    put(database, 1)
    hook.statuses = [500]
    relay(database, poster, known)
    put(database, 2)
    assert relay(database, poster, known) == 1
    assert database.rows(STATES) == [(1, False, 1, "HTTP 500"), (2, True, 1, None)]
    with caplog.at_level(logging.WARNING):
        for _ in range(len(RETRY_S)):
            due(database)
            hook.statuses = [500]
            assert relay(database, poster, known) == 1
    due(database)
    assert relay(database, poster, known) == 0
    assert database.rows(STATES)[0] == (1, True, 6, "HTTP 500")
    assert [m["about"] for m in hook.got] == [2]
    assert "did not reach its webhook: HTTP 500" in caplog.text
    assert "secret-token" not in caplog.text


def test_a_pause_that_discord_asks_for_rests_all_and_costs_no_try(
    database: Database, hook: Hook, poster: Poster
) -> None:
    put(database, 1, 2)
    hook.statuses = [429]
    known = {Webhook.NEMESIS: Address(hook.url)}
    assert relay(database, poster, known) == 1
    assert database.rows(STATES) == [(1, False, 0, None), (2, False, 0, None)]
    due(database)
    assert relay(database, poster, known) == 2
    assert [m["about"] for m in hook.got] == [1, 2]


def test_the_report_has_its_token_and_wants_200(
    database: Database, hook: Hook, poster: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    """204 is no success there: the receiver did something else than it promises."""
    settings = Settings(gm_report_webhook_url=hook.url, gm_report_webhook_auth=SecretStr("t0ken"))
    known = addresses(settings)
    assert set(known) == {Webhook.GM_REPORT}
    put(database, 1, webhook=Webhook.GM_REPORT)
    with caplog.at_level(logging.DEBUG):
        assert relay(database, poster, known) == 1
        assert database.rows(STATES) == [(1, False, 1, "HTTP 204")]
        due(database)
        hook.statuses = [200]
        assert relay(database, poster, known) == 1
    assert database.rows(STATES) == [(1, True, 2, None)]
    assert hook.authorizations == ["App t0ken"] * 2
    assert "t0ken" not in caplog.text
    assert "t0ken" not in repr(known)


def test_a_webhook_that_was_switched_off_takes_its_messages_along(
    database: Database, poster: Poster
) -> None:
    """Else they would wait, and all arrive when it is switched on after a year."""
    put(database, 1)
    assert relay(database, poster, {}) == 1
    assert database.rows(STATES) == [(1, True, 1, "no address is set")]


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "nonsense", "http://[::1"])
def test_an_address_without_an_answer_is_a_failed_try(poster: Poster, url: str) -> None:
    """Discord away, or a mistyped setting: neither ends the relay, nor shows the address."""
    url = url.replace("{port}", str(free_port()))
    posted = poster.post(Address(SecretStr(url)), b"{}")
    assert posted.problem
    assert url not in posted.problem


def test_a_redirect_is_not_followed(poster: Poster, hook: Hook) -> None:
    """The token would go to whom the answer names."""
    hook.statuses = [302]
    assert poster.post(Address(hook.url), b"{}") == Posted("HTTP 302")
    assert hook.requests == 1


def test_one_relay_posts_at_a_time(database: Database, hook: Hook, poster: Poster) -> None:
    """Two of them would each keep the rate, and together twice of it."""
    put(database, 1)
    known = {Webhook.NEMESIS: Address(hook.url)}
    other = database.connect()
    with other, other.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended('outbox webhooks', 0))")
        assert relay(database, poster, known) == 0
    other.close()
    assert relay(database, poster, known) == 1


def test_what_waits_for_people_is_no_backlog(database: Database) -> None:
    """An alert that the outbox is stuck would be wrong for an hour after each backfill."""
    put(database, 1)
    database.rows("UPDATE streaming.outbox SET created_at = now() - interval '1 day'")
    assert outbox.backlog(database.connection) == outbox.Backlog(0, 0.0, 0.0, 0.0, 0)


def test_an_embed_keeps_the_limits_of_discord() -> None:
    """One character too many, and the message is refused for ever."""
    message: Any = embed(
        "Flagged",
        255,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        footer="compat",
        fields={str(n): "x" * 2000 for n in range(30)} | {"0": ""},
        description="y" * 5000,
    )
    (shown,) = message["embeds"]
    assert len(shown["description"]) == 4096
    assert len(shown["fields"]) == 25
    assert shown["fields"][0]["value"] == "-"
    assert {len(field["value"]) for field in shown["fields"][1:]} == {1024}
    assert message["allowed_mentions"] == {"parse": []}
    assert json.loads(json.dumps(message)) == message

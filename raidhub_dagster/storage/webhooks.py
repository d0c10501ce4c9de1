"""Messages to webhooks that leave with the transaction that makes them true, and are not lost.

They are rows of the outbox; one relay at a time posts them, in order, at their receiver's rate.
A row holds the name of a webhook and never its address. Alerts, which may be lost and must not
wait, are another thing (`discord/alerts.py`). Rules: docs/domain/queues.md, "Outbox".
"""

import logging
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class
from pydantic import SecretStr

from raidhub_dagster.discord.webhooks import Address, Posted
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

log = logging.getLogger(__name__)
_SQL = load("postgres", "outbox")

# After each failure; together an hour, so that an outage of the receiver costs no message.
RETRY_S = (10.0, 40.0, 160.0, 640.0, 2560.0)


class Webhook(StrEnum):
    """Names in the outbox; the setting is `<NAME>_WEBHOOK_URL`."""

    CHEAT_CHECK = "cheat_check"
    NEMESIS = "nemesis"
    GM_REPORT = "gm_report"


def addresses(settings: Settings) -> dict[Webhook, Address]:
    """The webhooks that are on: those whose setting is not empty."""
    found = {
        Webhook.CHEAT_CHECK: settings.cheat_check_webhook_url,
        Webhook.NEMESIS: settings.nemesis_webhook_url,
    }
    known = {name: Address(url) for name, url in found.items() if url is not None}
    if settings.gm_report_webhook_url is not None:
        token = settings.gm_report_webhook_auth
        known[Webhook.GM_REPORT] = Address(
            settings.gm_report_webhook_url,
            SecretStr(f"App {token.get_secret_value()}") if token is not None else None,
            accepted=frozenset({200}),
        )
    return known


def enqueue(cursor: Cursor, webhook: Webhook, key: int, message: Mapping[str, object]) -> None:
    """Puts `message` into the outbox, in the caller's transaction; `key` is whom it is about.

    Whoever calls looks into `addresses` first: what nobody reads is not written.
    """
    cursor.execute(
        _SQL["add_webhook"],
        {"destination": webhook.value, "key": key, "body": msgspec.json.encode(message)},
    )


def relay_webhook(
    connection: Connection,
    post: Callable[[Address, bytes], Posted],
    known: Mapping[Webhook, Address],
    *,
    seconds_between: float,
    burst: int,
) -> bool:
    """Posts the oldest message whose receiver may get one, in one transaction; False without any.

    At most `burst` go to a webhook within `burst` times `seconds_between`, over all relays. A
    message that is refused is tried five times more, then closed with its error; one for a webhook
    that was switched off is closed at once. A crash in between posts it again.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["lock_webhooks"])
        if cursor.fetchone() != (True,):
            return False
        cursor.execute(
            _SQL["count_webhook_attempts"], {"window_s": burst * seconds_between, "burst": burst}
        )
        resting = array(name for (name,) in cursor)
        cursor.execute(_SQL["claim_webhook"], {"resting": resting})
        if (row := cursor.fetchone()) is None:
            return False
        row_id, destination, body, attempts = row
        address = known.get(destination)
        if address is None:
            cursor.execute(_SQL["close_webhook"], {"id": row_id, "error": "no address is set"})
            return True
        posted = post(address, bytes(body))
        values: dict[str, object] = {
            "id": row_id,
            "destination": destination,
            "error": posted.problem,
        }
        if posted.rest_s is not None:
            cursor.execute(_SQL["rest_webhooks"], values | {"pause_s": posted.rest_s})
        elif posted.problem is not None and attempts < len(RETRY_S):
            cursor.execute(_SQL["retry_webhook"], values | {"pause_s": RETRY_S[attempts]})
        else:
            cursor.execute(_SQL["close_webhook"], values)
            if posted.problem is not None:
                log.warning(
                    "A message did not reach its webhook: %s",
                    posted.problem,
                    extra={"action": "webhook_given_up", "webhook": destination, "row": row_id},
                )
    return True

"""Alerts to people: one call that never waits, never fails and never floods a channel.

An alert always goes into the log; with a webhook it is also posted, by a thread of its own, so that
neither a slow Discord nor a missing one can hold up what alerted. What an alert says is decided by
whoever raises it. Source of titles and colours: docs/alerts.md.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Self

import requests
from pydantic import SecretStr

from raidhub_dagster.discord.messages import Fields, embed, retry_after_s

log = logging.getLogger(__name__)

_WAITING = 100  # alerts that may wait for Discord; beyond it they stay in the log
_TIMEOUT_S = 10.0
_TRIES = 3
_LONGEST_PAUSE_S = 30.0  # that Discord may ask for


class Colour(IntEnum):
    DARK_RED = 10038562
    RED = 15548997
    DARK_ORANGE = 16737792
    ORANGE = 15105570
    BLUE = 3447003
    GREY = 9807270


@dataclass(frozen=True)
class Alert:
    """One message. Alerts of the same `kind` come at most once in `every_s` seconds.

    `mentions` calls the role of those on duty.
    """

    kind: str  # also the log's action
    title: str
    colour: Colour
    fields: Fields = field(default_factory=dict)
    every_s: float = 60.0
    mentions: bool = False


class Alerts:
    """Sends alerts of one process to one webhook; a context manager.

    `footer` says which process speaks. A closed sender only logs.
    """

    def __init__(
        self,
        webhook: SecretStr | None,
        *,
        footer: str,
        role_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._webhook = webhook
        self._footer = footer
        self._role_id = role_id
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._sent_at: dict[str, float] = {}
        self._held: dict[str, int] = {}  # of a kind, since its last one was sent
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(_WAITING)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if webhook is not None:
            self._thread = threading.Thread(target=self._post_all, name="alerts", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, alert: Alert) -> bool:
        """False when the kind was told too short ago; the next one says how many were held back."""
        with self._lock:
            now = self._clock()
            sent_at = self._sent_at.get(alert.kind)
            if sent_at is not None and now - sent_at < alert.every_s:
                self._held[alert.kind] = self._held.get(alert.kind, 0) + 1
                return False
            self._sent_at[alert.kind] = now
            held = self._held.pop(alert.kind, 0)
        level = logging.INFO if alert.colour in (Colour.GREY, Colour.BLUE) else logging.WARNING
        told = "; ".join(f"{name}: {value}" for name, value in alert.fields.items())
        log.log(
            level,
            "%s%s",
            alert.title,
            f": {told}" if told else "",
            extra={"action": alert.kind, "held_back": held},
        )
        if self._thread is not None and not self._closing.is_set():
            try:
                self._waiting.put_nowait(self._message(alert, held))
            except queue.Full:
                log.warning("Discord is too slow", extra={"action": "alert_dropped"})
        return True

    def close(self, limit_s: float = 5.0) -> None:
        """Waits up to `limit_s` for what is on its way."""
        self._closing.set()
        if self._thread is not None:
            with suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(limit_s)

    def _message(self, alert: Alert, held: int) -> dict[str, Any]:
        fields: Fields = {**alert.fields, **({"Held back before": held} if held else {})}
        message = embed(
            alert.title, alert.colour, at=self._now(), footer=self._footer, fields=fields
        )
        if alert.mentions and self._role_id:
            message["content"] = f"<@&{self._role_id}>"
            message["allowed_mentions"] = {"roles": [self._role_id]}
        return message

    def _post_all(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for message in iter(self._waiting.get, None):
                self._post(session, message)

    def _post(self, session: requests.Session, message: dict[str, Any]) -> None:
        """The address is a secret: it stands in no log line, nor does an error's text."""
        assert self._webhook is not None  # noqa: S101  there is no thread without it
        for _ in range(_TRIES):
            pause_s = 1.0
            try:
                answer = session.post(
                    self._webhook.get_secret_value(), json=message, timeout=_TIMEOUT_S
                )
                if answer.ok:
                    return
                problem = f"HTTP {answer.status_code}"
                if answer.status_code == 429:
                    pause_s = retry_after_s(answer, least_s=0.0, most_s=_LONGEST_PAUSE_S)
                elif answer.status_code < 500:
                    break
            except (requests.RequestException, ValueError) as error:
                problem = type(error).__name__
            if self._closing.wait(pause_s):
                break
        log.warning("An alert did not reach Discord: %s", problem, extra={"action": "alert_failed"})

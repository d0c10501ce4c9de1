"""Alerts against a webhook of our own: what arrives, how often, and that nobody waits for it."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from tests.support.webhook import Hook


@pytest.fixture
def hook() -> Iterator[Hook]:
    playing = Hook()
    yield playing
    playing.close()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def alert(**changes: Any) -> Alert:
    usual: dict[str, Any] = {"kind": "gap_found", "title": "Gap", "colour": Colour.BLUE}
    return Alert(**(usual | changes))


def test_an_alert_arrives_as_an_embed(hook: Hook) -> None:
    with Alerts(hook.url, footer="atlas", role_id="42") as alerts:
        alerts.send(alert(fields={"Previous Id": 7, "Empty": ""}, mentions=True))
        alerts.close()
    (message,) = hook.got
    (embed,) = message["embeds"]
    assert (embed["title"], embed["color"]) == ("Gap", 3447003)
    assert embed["footer"] == {"text": "atlas"}
    assert [(f["name"], f["value"]) for f in embed["fields"]] == [
        ("Previous Id", "7"),
        ("Empty", "-"),
    ]
    assert message["content"] == "<@&42>"
    assert message["allowed_mentions"] == {"roles": ["42"]}


def test_a_kind_comes_once_in_its_time_and_the_next_one_tells_how_many_there_were(
    hook: Hook,
) -> None:
    """A storm of the same alert would get the webhook blocked, and people stop reading."""
    clock = Clock()
    with Alerts(hook.url, footer="x", clock=clock) as alerts:
        sent = [alerts.send(alert(every_s=60)) for _ in range(5)]
        other = alerts.send(alert(kind="other"))
        clock.now += 60
        later = alerts.send(alert(every_s=60))
    assert (sent, other, later) == ([True, False, False, False, False], True, True)
    assert len(hook.got) == 3
    assert hook.got[-1]["embeds"][0]["fields"][-1]["value"] == "4"


def test_nobody_waits_for_a_discord_that_hangs(hook: Hook) -> None:
    """The crawl must not stop because Discord does; what is too much stays in the log."""
    hook.hold.clear()
    alerts = Alerts(hook.url, footer="x")
    for number in range(500):
        assert alerts.send(alert(kind=str(number)))
    alerts.close(limit_s=0.05)
    assert hook.requests == 0


def test_a_busy_discord_is_asked_again(hook: Hook) -> None:
    hook.statuses = [429]
    alerts = Alerts(hook.url, footer="x")
    alerts.send(alert())
    while not hook.got:
        threading.Event().wait(0.01)
    alerts.close()
    assert hook.requests == 2


def test_a_refused_alert_is_told_without_the_address(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    """The address is all that it takes to write into the channel."""
    hook.statuses = [404]
    with caplog.at_level(logging.INFO), Alerts(hook.url, footer="x") as alerts:
        alerts.send(alert())
    assert hook.requests == 1
    assert "HTTP 404" in caplog.text
    assert "secret-token" not in caplog.text


def test_without_a_webhook_the_log_has_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Alerts(None, footer="x") as alerts:
        assert alerts.send(alert(fields={"Id": 5}))
    # Threads of other tests may still log.
    (record,) = (r for r in caplog.records if getattr(r, "action", None) == "gap_found")
    assert (record.getMessage(), record.action) == ("Gap: Id: 5", "gap_found")  # type: ignore[attr-defined]

"""What a person reads when something changed."""

import logging
from pathlib import Path

import pytest

from raidhub_dagster.discord.alerts import Alerts
from streaming.zeus.news import Teller
from streaming.zeus.traffic import Host, News, What

DOCS = Path(__file__).resolve().parents[2] / "docs" / "alerts.md"
CODE = "PerEndpointRequestThrottleExceeded"


@pytest.mark.parametrize(
    ("news", "text"),
    [
        (
            News(What.ADDRESS_PAUSED, 3, 10.0, CODE, Host.STATS, left=15),
            f"{CODE} by the stats host: address 3 pauses for 10 s, 15 others go on",
        ),
        (
            News(What.BACKED_OFF, seconds=20.0, label="DestinyThrottledByGameServer"),
            "DestinyThrottledByGameServer: nothing is sent to both hosts for 20 s",
        ),
        (
            News(What.BACKED_OFF, seconds=10.0, label="Http503", host=Host.WWW),
            "Http503: nothing is sent to the www host for 10 s",
        ),
        (
            News(What.KEY_PAUSED, 1, 10.0, "PerUserThrottleExceeded"),
            "PerUserThrottleExceeded: key 1 pauses for 10 s",
        ),
        (News(What.KEY_BACK, 1, left=2), "Key 1 is accepted again; 2 are healthy"),
        (
            News(What.KEY_REFUSED, 1, label="ApiInvalidOrExpiredKey", left=0),
            "API Key Quarantined: Key: 1; Reason: ApiInvalidOrExpiredKey; Healthy Keys: 0",
        ),
        (
            News(What.MOST_PAUSED, 9, label=CODE, left=7),
            f"Most Addresses Paused: Paused: 9 of 16; Last Reason: {CODE}",
        ),
        (
            News(What.MOST_BLOCKED, 9, label="Http403", left=7),
            "Most Addresses Blocked: Paused: 9 of 16; Last Reason: Http403",
        ),
    ],
    ids=lambda value: value.what.name if isinstance(value, News) else "",
)
def test_each_piece_of_news_is_one_line(
    news: News, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Alerts(None, footer="zeus") as alerts:
        Teller(alerts, 16).tell(news)
    (record,) = caplog.records
    assert record.getMessage() == text
    assert str(record.__dict__["action"]).startswith(news.what.value)


def test_each_key_alerts_once_and_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    """The second bad key is worse news than the first."""
    with Alerts(None, footer="zeus") as alerts:
        teller = Teller(alerts, 16)
        for number in (0, 1, 0, 1):
            teller.tell(News(What.KEY_REFUSED, number, label="ApplicationDisabled"))
    assert [record.getMessage()[:27] for record in caplog.records] == [
        "API Key Quarantined: Key: 0",
        "API Key Quarantined: Key: 1",
    ]


@pytest.mark.parametrize(
    "title", ["API Key Quarantined", "Most Addresses Paused", "Most Addresses Blocked"]
)
def test_alerts_are_in_the_list_of_alerts(title: str) -> None:
    assert f"| {title} | zeus |" in DOCS.read_text("utf-8")

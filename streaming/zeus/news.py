"""Telling people what changed: a line of the log for each piece of news, an alert for the grave."""

import logging

from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from streaming.zeus.traffic import News, What

log = logging.getLogger(__name__)

_AGAIN_S = 3600.0  # the trouble goes on: its reminder


class Teller:
    """`addresses` is how many source addresses there are."""

    def __init__(self, alerts: Alerts, addresses: int) -> None:
        self._alerts = alerts
        self._addresses = addresses

    def tell(self, news: News) -> None:
        match news.what:
            case What.KEY_REFUSED:
                self._alerts.send(
                    Alert(
                        # A kind for each key: the second one must not wait for the first's hour.
                        f"{What.KEY_REFUSED}_{news.number}",
                        "API Key Quarantined",
                        Colour.RED,
                        {"Key": news.number, "Reason": news.label, "Healthy Keys": news.left},
                        every_s=_AGAIN_S,
                        mentions=True,
                    )
                )
            case What.MOST_PAUSED:
                self._alerts.send(
                    Alert(
                        What.MOST_PAUSED,
                        "Most Addresses Paused",
                        Colour.DARK_ORANGE,
                        {
                            "Paused": f"{news.number} of {self._addresses}",
                            "Last Reason": news.label,
                        },
                        every_s=_AGAIN_S,
                    )
                )
            case _:
                log.log(
                    logging.INFO if news.what is What.KEY_BACK else logging.WARNING,
                    _TEXTS[news.what],
                    news.host or "both hosts",
                    news.number,
                    news.seconds,
                    news.label,
                    extra={
                        "action": news.what.value,
                        "number": news.number,
                        "seconds": round(news.seconds, 1),
                        "reason": news.label,
                    },
                )


# host, number, seconds, reason
_TEXTS = {
    What.ADDRESS_PAUSED: "Throttled by %s: address %d pauses for %.0f s (%s)",
    What.BACKED_OFF: "Throttled by %s: nothing%.0s is sent for %.0f s (%s)",
    What.KEY_PAUSED: "Throttled by %s: key %d pauses for %.0f s (%s)",
    What.KEY_BACK: "Accepted by %s again: key %d%.0s%s",
}

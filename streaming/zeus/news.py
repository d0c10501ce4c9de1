"""Telling people what changed: a line of the log for each piece of news, an alert for the grave."""

import logging

from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from streaming.zeus.traffic import News, What

log = logging.getLogger(__name__)

_AGAIN_S = 3600.0  # when the trouble goes on: its reminder


class Teller:
    """`addresses` is how many source addresses there are."""

    def __init__(self, alerts: Alerts, addresses: int) -> None:
        self._alerts = alerts
        self._addresses = addresses

    def tell(self, news: News) -> None:
        """Never waits and never fails."""
        match news.what:
            case What.KEY_REFUSED:
                self._alerts.send(
                    Alert(
                        # A kind for each key: the second one must not wait for the first's hour.
                        f"{news.what}_{news.number}",
                        "API Key Quarantined",
                        Colour.RED,
                        {"Key": news.number, "Reason": news.label, "Healthy Keys": news.left},
                        every_s=_AGAIN_S,
                        mentions=True,
                    )
                )
            case What.MOST_PAUSED | What.MOST_BLOCKED:
                is_blocked = news.what is What.MOST_BLOCKED
                paused = f"{news.number} of {self._addresses}"
                self._alerts.send(
                    Alert(
                        news.what,
                        "Most Addresses Blocked" if is_blocked else "Most Addresses Paused",
                        Colour.DARK_ORANGE,
                        {"Paused": paused, "Last Reason": news.label},
                        every_s=_AGAIN_S,
                    )
                )
            case What.ADDRESS_PAUSED:
                _log(
                    logging.WARNING,
                    news,
                    "%s by the %s host: address %d pauses for %.0f s, %d others go on",
                    *(news.label, news.host, news.number, news.seconds, news.left),
                )
            case What.BACKED_OFF:
                hosts = f"the {news.host} host" if news.host else "both hosts"
                text = "%s: nothing is sent to %s for %.0f s"
                _log(logging.WARNING, news, text, news.label, hosts, news.seconds)
            case What.KEY_PAUSED:
                text = "%s: key %d pauses for %.0f s"
                _log(logging.WARNING, news, text, news.label, news.number, news.seconds)
            case What.KEY_BACK:
                text = "Key %d is accepted again; %d are healthy"
                _log(logging.INFO, news, text, news.number, news.left)


def _log(level: int, news: News, text: str, *values: object) -> None:
    facts = {"number": news.number, "seconds": round(news.seconds, 1), "reason": news.label}
    log.log(level, text, *values, extra={"action": news.what.value, **facts})

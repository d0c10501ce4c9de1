"""Reads what one of our processes tells at /metrics, for commands that have no Prometheus."""

import http.client
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from raidhub_dagster.errors import TransientError

_TIMEOUT_S = 2.0


class Scrape:
    """Samples of one moment, by the name they are exported as."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for a text that is not in the exposition format."""
        self._samples: defaultdict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def value(self, name: str) -> float | None:
        """Of a series without labels; None when the process does not measure it."""
        found = self._samples.get(name)
        return found[0][1] if found else None

    def by(self, label: str, name: str) -> Mapping[str, float]:
        """Values of all series of `name` by their `label`."""
        return {labels[label]: value for labels, value in self._samples.get(name, ())}


def scrape(host: str, port: int) -> Scrape:
    """Raises TransientError when nobody answers within 2 s, or somebody else does."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        if answer.status != 200:
            raise TransientError(f"/metrics on {host}:{port}: HTTP {answer.status}")
        return Scrape(text)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise TransientError(f"/metrics on {host}:{port}: {reason.lower()}") from None
    finally:
        connection.close()

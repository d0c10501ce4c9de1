"""The kinds of failure that callers act on differently; nothing else belongs here."""

from collections.abc import Mapping

Fact = str | int | float | bool


class RaidHubError(Exception):
    """Any failure of ours; `facts` are the few values a reader needs at night (never a secret)."""

    def __init__(self, message: str, facts: Mapping[str, Fact] | None = None) -> None:
        super().__init__(message)
        self.facts: dict[str, Fact] = dict(facts or {})


class PermanentError(RaidHubError):
    """The same input fails again: not found, private, malformed."""


class TransientError(RaidHubError):
    """A later try may succeed: 5xx, throttling, locks, a lost connection."""


class UnavailableError(TransientError):
    """Who has to answer is away or refuses us altogether: no message and no id is to blame."""


class MaintenanceError(RaidHubError):
    """Bungie switched the system off: neither retry nor failure, come back later."""


class ConfigurationError(PermanentError):
    """A setting is missing or unusable; the message names the variable in one line."""

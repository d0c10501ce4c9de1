"""What the watching sensors share: their cursor, and how they tell an episode once."""

import json
from collections.abc import Iterable, Mapping

from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.discord.messages import Fields
from raidhub_dagster.monitoring.episodes import Reading, follow
from raidhub_dagster.resources import DiscordResource


def read_cursor(cursor: str | None) -> dict[str, object]:
    """The object in the cursor; an unreadable one, or that of an older release, is empty."""
    try:
        told = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def numbers(value: object) -> dict[str, int]:
    """The whole numbers of an object out of a cursor, by name; what is none is left out."""
    if not isinstance(value, dict):
        return {}
    return {n: v for n, v in value.items() if isinstance(v, int) and not isinstance(v, bool)}


def tell(
    discord: DiscordResource, levels: Mapping[str, int], readings: Iterable[Reading]
) -> dict[str, int]:
    """Posts what began, worsened or is over; returns the levels for the next tick's cursor.

    Waits 5 s at most. A tick that dies after it tells again: rather twice than never.
    """
    with discord.alerts() as alerts:
        return follow(levels, readings, alerts.send)


def bad(kind: str, title: str, fields: Fields, *, mentions: bool = False) -> Alert:
    # No pause of its own: the episode is told once, and two queues may fill up at once.
    return Alert(kind, title, Colour.RED, fields, every_s=0, mentions=mentions)


def good(kind: str, title: str, fields: Fields) -> Alert:
    return Alert(kind, title, Colour.BLUE, fields, every_s=0)

"""What messages to Discord look like and how long it asks to wait; who posts them is elsewhere.

Limits are Discord's: a message above one is refused as a whole.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import requests

# What is told besides the title: name -> value.
Fields = Mapping[str, str | int | float]

_FIELD_LENGTH = 1024
_FIELDS = 25
_DESCRIPTION_LENGTH = 4096


def embed(
    title: str,
    colour: int,
    *,
    at: datetime,
    footer: str,
    fields: Fields | None = None,
    description: str = "",
) -> dict[str, Any]:
    """A message of one embed, cut to the limits; no name in it calls anybody."""
    shown: dict[str, Any] = {
        "title": title,
        "color": int(colour),
        "fields": [
            {"name": name, "value": (str(value) or "-")[:_FIELD_LENGTH], "inline": True}
            for name, value in (fields or {}).items()
        ][:_FIELDS],
        "timestamp": at.isoformat(),
        "footer": {"text": footer},
    }
    if description:
        shown["description"] = description[:_DESCRIPTION_LENGTH]
    return {"embeds": [shown], "allowed_mentions": {"parse": []}}


def retry_after_s(answer: requests.Response, *, least_s: float, most_s: float) -> float:
    """The pause that a refusal (429) asks for, within these; a second when it names none."""
    try:
        asked_s = float(answer.headers.get("Retry-After", "1"))
    except ValueError:
        asked_s = 1.0
    return min(max(asked_s, least_s), most_s)

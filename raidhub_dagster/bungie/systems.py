"""Which of Bungie's systems are switched on: GET /Platform/Settings/, read without any I/O.

Rules: docs/domain/bungie-api.md, "Maintenance".
"""

from collections.abc import Iterable, Mapping

import msgspec

from raidhub_dagster.errors import TransientError

# Those that anything of ours needs.
DESTINY = "Destiny2"
ACTIVITIES = "Activities"
PROFILES = "D2Profiles"
CHARACTERS = "D2Characters"
GROUPS = "Groups"
CLANS = "Clans"
KNOWN = (DESTINY, ACTIVITIES, PROFILES, CHARACTERS, GROUPS, CLANS)
# What reports of activities need.
REPORTS = (DESTINY, ACTIVITIES)

POLL_S = 60.0


class _System(msgspec.Struct):
    enabled: bool = False


class _Settings(msgspec.Struct):
    systems: dict[str, _System]


_SETTINGS = msgspec.json.Decoder(_Settings)  # made once, here: players/profile.py says why


def read_systems(response: bytes) -> dict[str, bool]:
    """KNOWN system -> whether it is on, from the JSON of Response.

    A name that is missing counts as on, since Bungie renames systems without a word, but without
    Destiny2 nothing of the game is there. Raises TransientError for an answer of another shape.
    """
    try:
        found = _SETTINGS.decode(response).systems
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransientError(f"settings without systems: {error}") from None
    return {name: found[name].enabled if name in found else name != DESTINY for name in KNOWN}


def off(state: Mapping[str, bool], needed: Iterable[str]) -> list[str]:
    """Those of `needed` that are off; all of them while `state` is empty: nobody knows yet."""
    return [name for name in needed if not state.get(name, False)]

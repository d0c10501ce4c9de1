"""Self-made reports in the shapes of the wire, for tests that need one: names and ids are invented.

`make_report` gives the object under Response, a plain dict to change at will; `encode`, `envelope`
and `flatten` turn it into what a server, a queue or an archive holds.
"""

import json
from collections.abc import Sequence
from typing import Any

Json = Any  # any JSON value; tests put wrong ones in on purpose

KINGS_FALL = 1374392663
FIRST_PLAYER = 4_611_686_018_000_000_000
FIRST_CHARACTER = 2_305_843_009_000_000_000


def make_report(
    *,
    instance_id: int = 16_000_000_001,
    hash: int = KINGS_FALL,  # noqa: A002 - the word of the domain
    period: str = "2025-01-20T20:00:00Z",
    duration: int = 3600,
    players: Sequence[dict[str, Json]] | None = None,
    mode: int = 4,
    completion_reason: int = 0,
    fresh: bool = True,
    skulls: Sequence[int] = (),
) -> dict[str, Json]:
    """A report; `players` are entries of `make_entry`, by default two that finished.

    The count and the duration that every entry repeats are filled in here.
    """
    entries = [make_entry(1), make_entry(2)] if players is None else list(players)
    for entry in entries:
        entry["values"] |= {
            "activityDurationSeconds": stat(duration),
            "completionReason": stat(completion_reason),
            "playerCount": stat(len(entries)),
            "teamScore": stat(0),
        }
    report = {
        "period": period,
        "startingPhaseIndex": 0,
        "activityWasStartedFromBeginning": fresh,
        "activityDetails": {
            "referenceId": hash,
            "directorActivityHash": hash,
            "instanceId": str(instance_id),
            "mode": mode,
            "modes": [7, mode],
            "isPrivate": False,
            "membershipType": 3,
        },
        "entries": entries,
        "teams": [],
    }
    return report | ({"selectedSkullHashes": list(skulls)} if skulls else {})


def make_entry(
    player: int,
    *,
    character: int | None = None,
    completed: bool = True,
    kills: int = 10,
    deaths: int = 0,
    start: int = 0,
    time: int = 3600,
    weapons: Sequence[tuple[int, int, int]] = ((347366834, 6, 2),),
) -> dict[str, Json]:
    """One character of the invented player number `player`.

    `character` defaults to the player's own first one; `weapons` are (hash, kills, precision).
    """
    character = player * 10 if character is None else character
    values = {
        "assists": 3,
        "completed": int(completed),
        "deaths": deaths,
        "kills": kills,
        "opponentsDefeated": kills + 3,
        "efficiency": (kills + 3) / max(deaths, 1),
        "killsDeathsRatio": kills / max(deaths, 1),
        "killsDeathsAssists": (kills + 1.5) / max(deaths, 1),
        "score": 0,
        "fireteamId": 9.124542641700202e18,
        "startSeconds": start,
        "timePlayedSeconds": time,
    }
    return {
        "standing": 0,
        "score": stat(0),
        "player": {
            "destinyUserInfo": {
                "iconPath": f"/common/icons/{player}.jpg",
                "crossSaveOverride": 3,
                "applicableMembershipTypes": [3],
                "isPublic": True,
                "membershipType": 3,
                "membershipId": str(FIRST_PLAYER + player),
                "displayName": f"Guardian {player}",
                "bungieGlobalDisplayName": f"Guardian {player}",
                "bungieGlobalDisplayNameCode": player,
            },
            "characterClass": "Hunter",
            "classHash": 671679327,
            "raceHash": 898834093,
            "genderHash": 3111576190,
            "characterLevel": 50,
            "lightLevel": 1827,
            "emblemHash": 1918663075,
        },
        "characterId": str(FIRST_CHARACTER + character),
        "values": {key: stat(value) for key, value in values.items()},
        "extended": {
            "weapons": [_weapon(*weapon) for weapon in weapons],
            "values": {
                "precisionKills": stat(2),
                "weaponKillsGrenade": stat(1),
                "weaponKillsMelee": stat(1),
                "weaponKillsSuper": stat(2),
                "weaponKillsAbility": stat(0),
            },
        },
    }


def make_realistic_report(*, mode: int = 4) -> dict[str, Json]:
    """Six players with six or so weapons each: about 24 kB, the size of a usual raid."""
    weapons = [(3_000_000_000 + 7 * number, 40 - number, 9) for number in range(7)]
    entries = [
        make_entry(n, kills=150 + n, deaths=n % 2, start=n, time=3500, weapons=weapons)
        for n in range(1, 7)
    ]
    return make_report(players=entries, mode=mode)


def stat(value: Json) -> Json:
    """A statistic as the API wraps it; numbers are floats there."""
    number = float(value) if isinstance(value, int) else value
    return {"basic": {"value": number, "displayValue": str(value)}}


def encode(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def envelope(response: Json, **changes: Json) -> dict[str, Json]:
    """The API's answer around `response`."""
    usual = {
        "Response": response,
        "ErrorCode": 1,
        "ThrottleSeconds": 0,
        "ErrorStatus": "Success",
        "Message": "Ok",
        "MessageData": {},
    }
    return usual | changes


def flatten(value: Json) -> Json:
    """The same as an archive has it: bare numbers, no empty list of weapons."""
    if isinstance(value, list):
        return [flatten(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "basic" in value:
        return value["basic"]["value"]
    return {key: flatten(item) for key, item in value.items() if (key, item) != ("weapons", [])}


def archived(report: dict[str, Json], *, is_flat: bool = True) -> bytes:
    """The line of an archive: its two keys first, statistics flattened or not, drifted types."""
    details = report["activityDetails"]
    drifted = {
        **report,
        "period": report["period"].replace("Z", ".000Z"),
        "activityDetails": {
            **details,
            "instanceId": int(details["instanceId"]),
            "membershipType": 0,
        },
    }
    kept = {
        "_id": str(details["instanceId"]),
        "archived": "2025-03-01T00:00:00.000Z",
        **(flatten(drifted) if is_flat else drifted),
    }
    return encode(kept) + b"\n"


def _weapon(weapon_hash: int, kills: int, precision: int) -> dict[str, Json]:
    return {
        "referenceId": weapon_hash,
        "values": {
            "uniqueWeaponKills": stat(kills),
            "uniqueWeaponPrecisionKills": stat(precision),
            "uniqueWeaponKillsPrecisionKills": stat(precision / max(kills, 1)),
        },
    }

"""Real reports under their own ids: reading the files of `--replay` and the facts in them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from simulator.reports import parse_timestamp
from simulator.world import Entry, Run

# What reading a report raises that is not well formed.
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)


class ReplayError(Exception):
    """A file cannot be replayed; the message names it."""


@dataclass(frozen=True)
class Replayed:
    body: bytes  # the envelope, its Response byte for byte as in the file
    run: Run


def load(folder: Path) -> dict[int, Replayed]:
    """Reads every `<id>*.json` of `folder`, by id. Raises ReplayError."""
    if not folder.is_dir():
        raise ReplayError(f"{folder} is not a folder")
    found: dict[int, Replayed] = {}
    for path in sorted(folder.glob("*.json")):
        name = re.match(r"\d+", path.name)
        if name is None:
            raise ReplayError(f"{path}: the name must start with the id")
        try:
            response = _response(path.read_bytes())
            run = read_run(msgspec.json.decode(response))
        except (OSError, msgspec.DecodeError, *_MALFORMED) as error:
            raise ReplayError(f"{path}: {type(error).__name__}: {error}") from None
        if run.instance_id != int(name.group()):
            raise ReplayError(f"{path}: holds the report of {run.instance_id}")
        found[run.instance_id] = Replayed(
            b'{"Response":' + response + b',"ErrorCode":1,"ThrottleSeconds":0,'
            b'"ErrorStatus":"Success","Message":"Ok","MessageData":{}}',
            run,
        )
    return found


def _response(data: bytes) -> bytes:
    """The Response object of an envelope, or the object itself."""
    fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    return bytes(fields["Response"]) if "Response" in fields else data.strip()


def read_run(response: dict[str, Any]) -> Run:
    """The facts of a report that is well formed; raises one of _MALFORMED."""
    details = response["activityDetails"]
    entries = [_entry(entry) for entry in response["entries"]]
    first = response["entries"][0]["values"]
    return Run(
        instance_id=int(details["instanceId"]),
        hash=int(details["directorActivityHash"]),
        mode=int(details["mode"]),
        modes=tuple(details.get("modes", ())),
        membership_type=int(details["membershipType"]),
        period=parse_timestamp(response["period"]),
        duration=max(_stat(e["values"], "activityDurationSeconds") for e in response["entries"]),
        phase=response.get("startingPhaseIndex"),
        flag=response.get("activityWasStartedFromBeginning"),
        player_count=_stat(first, "playerCount"),
        team_score=_stat(first, "teamScore"),
        skulls=response.get("selectedSkullHashes", []),
        entries=entries,
    )


def _stat(values: dict[str, Any], name: str) -> int:
    return int(values[name]["basic"]["value"]) if name in values else 0


def _entry(entry: dict[str, Any]) -> Entry:
    player, values = entry["player"], entry["values"]
    extended = entry.get("extended", {})
    more = extended.get("values", {})
    return Entry(
        membership_id=int(player["destinyUserInfo"]["membershipId"]),
        membership_type=int(player["destinyUserInfo"]["membershipType"]),
        player=-1,
        character=0,
        character_id=int(entry["characterId"]),
        class_hash=int(player["classHash"]),
        emblem_hash=int(player["emblemHash"]),
        completed=_stat(values, "completed"),
        reason=_stat(values, "completionReason"),
        start=_stat(values, "startSeconds"),
        played=_stat(values, "timePlayedSeconds"),
        kills=_stat(values, "kills"),
        deaths=_stat(values, "deaths"),
        assists=_stat(values, "assists"),
        score=_stat(values, "score"),
        precision=_stat(more, "precisionKills"),
        supers=_stat(more, "weaponKillsSuper"),
        grenades=_stat(more, "weaponKillsGrenade"),
        melees=_stat(more, "weaponKillsMelee"),
        weapons=[
            (
                int(weapon["referenceId"]),
                _stat(weapon["values"], "uniqueWeaponKills"),
                _stat(weapon["values"], "uniqueWeaponPrecisionKills"),
            )
            for weapon in extended.get("weapons", [])
        ],
    )

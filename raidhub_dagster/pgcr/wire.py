"""A raid report as it comes, in typed form: no rule about raids, only what a value may look like.

`read` decodes the common shapes, the API's and that of flattened archive lines, in one pass (about
50 us a raid). Whatever that refuses - numbers as text, NaN, wrong types - is decoded a second time
into plain Python objects and read with tolerance into the same structs, so the rules in `parse.py`
exist once.
Source: docs/domain/pgcr.md, Numbers and ids.
"""

import json
import re
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TypeGuard, TypeVar

import msgspec

from raidhub_dagster.pgcr.model import Rejection

MAX_COUNT = 2**31 - 1
MAX_HASH = 2**32 - 1
MAX_ID = 2**63 - 1

_PERIOD = re.compile(
    r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_ID = re.compile(r"\d{1,19}", re.ASCII)

Undecodable = (msgspec.MsgspecError, ValueError, RecursionError)
"""What a JSON decoder raises: ValueError for bytes that are no UTF-8, RecursionError for depth."""


class _Wire(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """Keys nobody names here are ignored."""


_S = TypeVar("_S", bound=_Wire)


class Basic(_Wire, frozen=True):
    value: float


class Stat(_Wire, frozen=True):
    basic: Basic


Value = Stat | float
"""A statistic: wrapped by the API, bare in archives."""


def value_of(stat: Value) -> float:
    return stat if isinstance(stat, float) else stat.basic.value


class Values(_Wire, frozen=True):
    activity_duration_seconds: Value = 0.0
    completion_reason: Value = 0.0
    player_count: Value = -1.0
    team_score: Value = 0.0
    completed: Value = 0.0
    score: Value = 0.0
    kills: Value = 0.0
    assists: Value = 0.0
    deaths: Value = 0.0
    time_played_seconds: Value = 0.0
    start_seconds: Value = 0.0


class ExtendedValues(_Wire, frozen=True):
    precision_kills: Value = 0.0
    weapon_kills_super: Value = 0.0
    weapon_kills_grenade: Value = 0.0
    weapon_kills_melee: Value = 0.0


class WeaponValues(_Wire, frozen=True):
    unique_weapon_kills: Value = 0.0
    unique_weapon_precision_kills: Value = 0.0


class WeaponUse(_Wire, frozen=True):
    reference_id: int = 0
    values: WeaponValues = WeaponValues()


class Extended(_Wire, frozen=True):
    weapons: list[WeaponUse] = []
    values: ExtendedValues = ExtendedValues()


class UserInfo(_Wire, frozen=True):
    membership_id: int | str = 0
    membership_type: int = 0
    icon_path: str | None = None
    display_name: str | None = None
    bungie_global_display_name: str | None = None
    bungie_global_display_name_code: int | None = None


class PlayerInfo(_Wire, frozen=True):
    destiny_user_info: UserInfo = UserInfo()
    class_hash: int = 0
    emblem_hash: int = 0


class Entry(_Wire, frozen=True):
    player: PlayerInfo = PlayerInfo()
    character_id: int | str = 0
    values: Values = Values()
    extended: Extended | None = None


class ActivityDetails(_Wire, frozen=True):
    instance_id: int | str = 0
    director_activity_hash: int = 0
    reference_id: int = 0
    membership_type: int = 0


class Report(_Wire, frozen=True):
    """What the rules need. Ids and hashes are unchecked, numbers finite, nothing is clamped."""

    activity_details: ActivityDetails
    entries: list[Entry]
    period: str = ""
    activity_was_started_from_beginning: bool | None = None
    starting_phase_index: int | None = None
    selected_skull_hashes: list[int] = []


_REPORTS = msgspec.json.Decoder(Report)
_OBJECTS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(body: bytes) -> Report | Rejection:
    """The report in `body`, the JSON of Response; a Rejection when a container is not there."""
    try:
        return _REPORTS.decode(body)
    except Undecodable:
        return read_tolerantly(body)


def read_tolerantly(body: bytes) -> Report | Rejection:
    """The same from any shape: slower, never raises."""
    plain = decode_plain(body)
    if isinstance(plain, Rejection):
        return plain
    details, entries = plain["activityDetails"], plain.get("entries")
    if not isinstance(entries, list):
        return Rejection("not_json_object", "entries", f"{_kind(entries)} is no list")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            return Rejection("not_json_object", f"entries[{index}]", f"{_kind(entry)} is no object")
    flag, phase = plain.get("activityWasStartedFromBeginning"), plain.get("startingPhaseIndex")
    return Report(
        activity_details=ActivityDetails(
            instance_id=_id(details.get("instanceId")),
            director_activity_hash=integer(details.get("directorActivityHash")),
            reference_id=integer(details.get("referenceId")),
            membership_type=integer(details.get("membershipType")),
        ),
        entries=[_entry(entry) for entry in entries],
        period=_string(plain.get("period")) or "",
        activity_was_started_from_beginning=flag if isinstance(flag, bool) else None,
        starting_phase_index=_integer_or_none(phase),
        selected_skull_hashes=[integer(skull) for skull in _list(plain, "selectedSkullHashes")],
    )


def decode_plain(body: bytes) -> dict[str, Any] | Rejection:
    """The object in `body` with an object under `activityDetails`, whatever else is wrong."""
    try:
        text = body.decode("utf-8", "replace")
        plain = json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError) as error:
        return Rejection("not_json_object", "Response", f"{type(error).__name__}: {error}"[:200])
    if not isinstance(plain, dict):
        return Rejection("not_json_object", "Response", f"{_kind(plain)} is no object")
    details = plain.get("activityDetails")
    if not isinstance(details, dict):
        return Rejection("not_json_object", "activityDetails", f"{_kind(details)} is no object")
    return plain


def split_object(body: bytes) -> dict[str, bytes] | None:
    """Top-level keys of a JSON object and the bytes of each value as they stand there.

    None when `body` is no object. What Python's decoder takes beyond JSON (NaN, lone surrogates)
    is accepted; then values are written anew.
    """
    try:
        return {key: bytes(raw) for key, raw in _OBJECTS.decode(body).items()}
    except Undecodable:
        pass
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(plain, dict):
        return None
    return {key: json.dumps(value).encode() for key, value in plain.items()}


def read_period(text: str) -> datetime | None:
    """Aware, UTC, whole seconds; None when `text` is no RFC 3339 time with Z or an offset."""
    match = _PERIOD.fullmatch(text)
    if match is None:
        return None
    day, time, offset = match.groups()
    try:
        return datetime.fromisoformat(f"{day}T{time}{offset.upper()}").astimezone(UTC)
    except (ValueError, OverflowError):  # February 30th; year 1 with an offset
        return None


def read_id(value: int | str) -> int:
    """A 64-bit id, sent as text or number; 0 when it is none in 1..2^63-1."""
    if isinstance(value, str):
        value = int(value) if _ID.fullmatch(value) else 0
    return value if 0 < value <= MAX_ID else 0


def number(value: object) -> float:
    """Any statistic: wrapped, bare or as text; what is no finite number counts as 0."""
    found = _number_or_none(value)
    return 0.0 if found is None else found


def integer(value: object) -> int:
    """A hash or type: null and missing are 0, whatever is no integer is -1."""
    if value is None:
        return 0
    found = _integer_or_none(value)
    return -1 if found is None else found


def _number_or_none(value: object) -> float | None:
    if isinstance(value, dict):
        basic = value.get("basic")
        value = basic.get("value") if isinstance(basic, dict) else None
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if _is_number(value) and isfinite(value):
        return float(value)
    return None


def _integer_or_none(value: object) -> int | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        # Not by way of float where it can be helped: that rounds above 2^53.
        value = _parse_int(value) if value.strip().isdigit() else float(value)
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return value if _is_number(value) and isinstance(value, int) else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parse_int(text: str) -> int | float:
    """Python refuses integers of more than 4300 digits; far shorter ones are garbage already."""
    return int(text) if len(text) <= 100 else float(text)


def _entry(entry: dict[str, Any]) -> Entry:
    player, values, extended = _dict(entry, "player"), _dict(entry, "values"), entry.get("extended")
    user = _dict(player, "destinyUserInfo")
    return Entry(
        player=PlayerInfo(
            destiny_user_info=UserInfo(
                membership_id=_id(user.get("membershipId")),
                membership_type=integer(user.get("membershipType")),
                icon_path=_string(user.get("iconPath")),
                display_name=_string(user.get("displayName")),
                bungie_global_display_name=_string(user.get("bungieGlobalDisplayName")),
                bungie_global_display_name_code=_integer_or_none(
                    user.get("bungieGlobalDisplayNameCode")
                ),
            ),
            class_hash=integer(player.get("classHash")),
            emblem_hash=integer(player.get("emblemHash")),
        ),
        character_id=_id(entry.get("characterId")),
        values=_stats(Values, values),
        extended=_extended(extended) if isinstance(extended, dict) else None,
    )


def _extended(extended: dict[str, Any]) -> Extended:
    weapons = [weapon for weapon in _list(extended, "weapons") if isinstance(weapon, dict)]
    return Extended(
        weapons=[
            WeaponUse(
                integer(weapon.get("referenceId")), _stats(WeaponValues, _dict(weapon, "values"))
            )
            for weapon in weapons
        ],
        values=_stats(ExtendedValues, _dict(extended, "values")),
    )


def _stats(kind: type[_S], values: dict[str, Any]) -> _S:
    """A struct of statistics from the keys that are there and are numbers."""
    found = {
        name: _number_or_none(values[key])
        for name, key in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
        if key in values
    }
    return kind(**{name: value for name, value in found.items() if value is not None})


def _dict(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _list(parent: dict[str, Any], key: str) -> list[Any]:
    value = parent.get(key)
    return value if isinstance(value, list) else []


def _id(value: object) -> int | str:
    return value if isinstance(value, int | str) and not isinstance(value, bool) else 0


def _string(value: object) -> str | None:
    """Text without lone surrogates, which neither UTF-8 nor PostgreSQL can hold."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "replace").decode() if not value.isascii() else value


def _kind(value: object) -> str:
    return type(value).__name__

"""What Bungie's answers about a player say, opened: pure, without a request or a statement.

Answers are read with tolerance: absent and null mean unknown, numbers may be text, and a hidden
component is `{"privacy": 2}` without data. Rules: docs/domain/players.md.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import msgspec

from raidhub_dagster.errors import TransientError
from raidhub_dagster.pgcr.wire import MAX_COUNT, MAX_HASH, Undecodable, read_id, read_period

# Destiny 2 began on 2017-09-06, its beta in July: an earlier date is the default of a date type.
_FIRST_DATE = datetime(2017, 7, 1, tzinfo=UTC)
_CLOCKS_DIFFER = timedelta(days=1)


class Character(NamedTuple):
    character_id: int
    class_hash: int | None
    emblem_hash: int | None
    emblem_path: str | None
    last_played: datetime | None


class Profile(NamedTuple):
    """An account; what its owner hides is None or missing."""

    membership_type: int | None
    display_name: str | None
    global_name: tuple[str, str] | None  # name and code of at least four digits
    last_played: datetime | None
    characters: tuple[Character, ...]  # the most recently played first
    character_ids: tuple[int, ...]  # also those of hidden characters, if the account tells

    @property
    def icon_path(self) -> str | None:
        """The emblem of the most recently played character that has one."""
        return next((c.emblem_path for c in self.characters if c.emblem_path), None)


class Activity(NamedTuple):
    """A row of a history."""

    instance_id: int
    period: datetime | None


class _Wire(msgspec.Struct, rename="camel", frozen=True):
    """Keys that nobody names here are ignored."""


class _UserInfo(_Wire, frozen=True):
    membership_type: int | None = None
    membership_id: int | str | None = None
    display_name: str | None = None
    bungie_global_display_name: str | None = None
    bungie_global_display_name_code: int | None = None


class _ProfileData(_Wire, frozen=True):
    user_info: _UserInfo | None = None
    date_last_played: str | None = None
    character_ids: list[int | str] | None = None


class _CharacterData(_Wire, frozen=True):
    class_hash: int | None = None
    emblem_hash: int | None = None
    emblem_path: str | None = None
    date_last_played: str | None = None


class _ProfileComponent(_Wire, frozen=True):
    data: _ProfileData | None = None


class _CharactersComponent(_Wire, frozen=True):
    data: dict[str, _CharacterData] | None = None


class _CharacterComponent(_Wire, frozen=True):
    data: _CharacterData | None = None


class _ProfileResponse(_Wire, frozen=True):
    profile: _ProfileComponent | None = None
    characters: _CharactersComponent | None = None


class _CharacterResponse(_Wire, frozen=True):
    character: _CharacterComponent | None = None


class _LinkedProfile(_Wire, frozen=True):
    membership_type: int | None = None
    membership_id: int | str | None = None


class _LinkedResponse(_Wire, frozen=True):
    profiles: list[_LinkedProfile] | None = None


class _StatsCharacter(_Wire, frozen=True):
    character_id: int | str | None = None


class _StatsResponse(_Wire, frozen=True):
    characters: list[_StatsCharacter] | None = None


class _ActivityDetails(_Wire, frozen=True):
    instance_id: int | str | None = None


class _Activity(_Wire, frozen=True):
    period: str | None = None
    activity_details: _ActivityDetails | None = None


class _HistoryResponse(_Wire, frozen=True):
    activities: list[_Activity] | None = None


T = TypeVar("T")

# Made once, here: msgspec 0.22 opens a struct for the first time without a lock, and a second
# thread that meets it half open ends the process (segmentation fault).
_PROFILES = msgspec.json.Decoder(_ProfileResponse, strict=False)
_CHARACTERS = msgspec.json.Decoder(_CharacterResponse, strict=False)
_LINKED = msgspec.json.Decoder(_LinkedResponse, strict=False)
_STATS = msgspec.json.Decoder(_StatsResponse, strict=False)
_HISTORIES = msgspec.json.Decoder(_HistoryResponse, strict=False)


def read_profile(response: bytes, now: datetime) -> Profile:
    """Components 100 and 200 of an account; `now` (aware) bounds what can have been played.

    Raises TransientError for an answer of another shape, as every reader here.
    """
    found = _decode(response, _PROFILES, "profile")
    account = (found.profile and found.profile.data) or _ProfileData()
    shown = (found.characters and found.characters.data) or {}
    characters = sorted(_characters(shown, now), key=_last_played, reverse=True)
    user = account.user_info or _UserInfo()
    played = [c.last_played for c in characters if c.last_played]
    if at := _date(account.date_last_played, now):
        played.append(at)
    listed = (read_id(value) for value in account.character_ids or ())
    return Profile(
        membership_type=known_type(user.membership_type),
        display_name=_text(user.display_name),
        global_name=_global_name(user),
        last_played=max(played, default=None),
        characters=tuple(characters),
        character_ids=tuple(
            dict.fromkeys([c.character_id for c in characters] + [i for i in listed if i])
        ),
    )


def read_character(response: bytes, character_id: int, now: datetime) -> Character | None:
    """Component 200 of one character, None when it is hidden."""
    found = _decode(response, _CHARACTERS, "character")
    data = found.character and found.character.data
    return _character(character_id, data, now) if data else None


def read_linked_type(response: bytes, membership_id: int) -> int | None:
    """The type under which `membership_id` lives; None when it is no living account.

    Accounts that cross save left behind stand among the errors of the answer: they are gone.
    """
    found = _decode(response, _LINKED, "linked profiles")
    for profile in found.profiles or ():
        if read_id(profile.membership_id or 0) == membership_id:
            return known_type(profile.membership_type)
    return None


def read_character_ids(response: bytes) -> list[int]:
    """Every character an account ever had, deleted ones included, from its account statistics."""
    found = _decode(response, _STATS, "account statistics")
    ids = (read_id(character.character_id or 0) for character in found.characters or ())
    return list(dict.fromkeys(i for i in ids if i))


def read_history(response: bytes) -> list[Activity]:
    """A page of a history, newest first, without rows that have no id; empty behind the last."""
    found = _decode(response, _HISTORIES, "history")
    rows = []
    for row in found.activities or ():
        instance_id = read_id((row.activity_details and row.activity_details.instance_id) or 0)
        if instance_id:
            rows.append(Activity(instance_id, read_period(row.period or "")))
    return rows


def known_type(membership_type: int | None) -> int | None:
    """1 Xbox, 2 PlayStation, 3 Steam, 4 Battle.net, 5 Stadia, 6 Epic; None for all others."""
    return membership_type if membership_type and 1 <= membership_type <= 6 else None


def _decode(response: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    try:
        return decoder.decode(response)
    except Undecodable as error:
        raise TransientError(f"{what} of another shape: {error}") from None


def _characters(shown: dict[str, _CharacterData], now: datetime) -> Iterator[Character]:
    for key, data in shown.items():
        if character_id := read_id(key):
            yield _character(character_id, data, now)


def _character(character_id: int, data: _CharacterData, now: datetime) -> Character:
    return Character(
        character_id,
        _hash(data.class_hash),
        _hash(data.emblem_hash),
        _text(data.emblem_path),
        _date(data.date_last_played, now),
    )


def _last_played(character: Character) -> tuple[datetime, int]:
    return character.last_played or _FIRST_DATE, character.character_id


def _date(text: str | None, now: datetime) -> datetime | None:
    """None also for dates on which nobody can have played."""
    read = read_period(text or "")
    return read if read and _FIRST_DATE <= read <= now + _CLOCKS_DIFFER else None


def _global_name(user: _UserInfo) -> tuple[str, str] | None:
    """A pair or nothing, as in reports (docs/domain/pgcr.md, "Players and characters")."""
    name, code = _text(user.bungie_global_display_name), user.bungie_global_display_name_code
    return (name, f"{code:04}") if name and code is not None and 0 <= code <= MAX_COUNT else None


def _text(value: str | None) -> str | None:
    """None when empty. PostgreSQL's text cannot hold NUL, so it goes."""
    return (value or "").replace("\0", "") or None


def _hash(value: int | None) -> int | None:
    return value if value and 0 < value <= MAX_HASH else None

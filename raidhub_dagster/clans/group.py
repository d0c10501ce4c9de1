"""What Bungie's answers about a clan say, opened and cleaned: pure.

Rules: docs/domain/clans.md.
"""

import html
from typing import NamedTuple, TypeVar

import msgspec

from raidhub_dagster.errors import TransientError
from raidhub_dagster.pgcr.wire import MAX_HASH, Undecodable, read_id

BANNER_PARTS = (
    "decalId",
    "decalColorId",
    "decalBackgroundColorId",
    "gonfalonId",
    "gonfalonColorId",
    "gonfalonDetailId",
    "gonfalonDetailColorId",
)
_CLAN = 1  # groupType
_FILLER = "\u3164"  # a letter without shape, with which names are made to look empty or centred


class Clan(NamedTuple):
    name: str
    motto: str
    call_sign: str
    banner: dict[str, int]  # exactly BANNER_PARTS, 0 for what is missing


class MemberPage(NamedTuple):
    members: tuple[int, ...]  # membership ids, each once
    has_more: bool


class _Wire(msgspec.Struct, rename="camel", frozen=True):
    """Keys that nobody names here are ignored."""


class _ClanInfo(_Wire, frozen=True):
    clan_callsign: str | None = None
    clan_banner_data: dict[str, msgspec.Raw] | None = None


class _Detail(_Wire, frozen=True):
    group_type: int | None = None
    name: str | None = None
    motto: str | None = None
    clan_info: _ClanInfo | None = None


class _GroupResponse(_Wire, frozen=True):
    detail: _Detail


class _UserInfo(_Wire, frozen=True):
    membership_id: int | str | None = None


class _Member(_Wire, frozen=True):
    destiny_user_info: _UserInfo | None = None


class _MembersResponse(_Wire, frozen=True):
    results: list[_Member] | None = None
    has_more: bool | None = None


class _GroupsOfMember(_Wire, frozen=True):
    # Always there, empty for a player without clans: who lacks it is not known to have none.
    inactive: dict[str, bool] = msgspec.field(name="areAllMembershipsInactive")


T = TypeVar("T")

# Made once, here: players/profile.py says why.
_GROUPS = msgspec.json.Decoder(_GroupResponse, strict=False)
_MEMBERS = msgspec.json.Decoder(_MembersResponse, strict=False)
_GROUPS_OF_MEMBER = msgspec.json.Decoder(_GroupsOfMember, strict=False)


def read_group(response: bytes) -> Clan | None:
    """The clan of a GetGroup answer, None for a group of another kind.

    Raises TransientError for an answer of another shape, as `read_members`.
    """
    detail = _decode(response, _GROUPS, "group").detail
    if detail.group_type != _CLAN:
        return None
    info = detail.clan_info or _ClanInfo()
    given = info.clan_banner_data or {}
    return Clan(
        clean(detail.name),
        clean(detail.motto),
        clean(info.clan_callsign),
        {part: _unsigned(given.get(part)) for part in BANNER_PARTS},
    )


def read_members(response: bytes) -> MemberPage:
    """One page of members. Those without an id (deleted accounts have none) are left out."""
    found = _decode(response, _MEMBERS, "members")
    infos = (member.destiny_user_info for member in found.results or ())
    ids = (read_id((info and info.membership_id) or 0) for info in infos)
    return MemberPage(tuple(dict.fromkeys(i for i in ids if i)), has_more=bool(found.has_more))


def read_clans_of(response: bytes) -> tuple[int, ...]:
    """Ids of the clans in which the account of a GetGroupsForMember answer is active, ascending.

    The others are ghosts: clans of an account that cross save left behind.
    """
    inactive = _decode(response, _GROUPS_OF_MEMBER, "groups of a member").inactive
    ids = (read_id(group_id) for group_id, is_inactive in inactive.items() if not is_inactive)
    return tuple(sorted({group_id for group_id in ids if group_id}))


def clean(text: str | None) -> str:
    """A name without entities, fillers and surrounding blanks; NUL is none of PostgreSQL's."""
    opened = html.unescape(text or "")
    return opened.replace(_FILLER, "").replace("\0", "").strip()


def _decode(response: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    try:
        return decoder.decode(response)
    except Undecodable as error:
        raise TransientError(f"{what} of another shape: {error}") from None


def _unsigned(raw: msgspec.Raw | None) -> int:
    """0 for whatever is no unsigned number of 32 bits."""
    try:
        value = msgspec.json.decode(raw or b"0", type=int, strict=False)
    except Undecodable:
        return 0
    return value if 0 <= value <= MAX_HASH else 0

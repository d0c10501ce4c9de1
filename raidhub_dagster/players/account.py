"""Finds an account whose membership type may be unknown: asks until a type is the right one.

Rules: docs/domain/players.md, "Membership type".
"""

from collections import deque
from collections.abc import Callable, Mapping

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.errors import RaidHubError
from raidhub_dagster.players.profile import known_type, read_linked_type

# The likely ones in the order in which they are tried: Battle.net's accounts moved to Steam.
TYPES = (1, 2, 3, 5, 6)
_PLATFORMS = {"TigerXbox": 1, "TigerPsn": 2, "TigerSteam": 3, "TigerStadia": 5, "TigerEgs": 6}
_HINTS = ("membershipType", "membershipInfo.membershipType")

_NOT_FOUND = 1601
_WRONG_TYPE = frozenset({18, 1630})
# Impossible id, banned, unresolvable, and accounts that their platform keeps to itself.
_ABSENT = frozenset({8, 24, 205, 217, 1668, 1669, 1670, 1682})


class AbsentError(RaidHubError):
    """The account does not exist, or nobody may ask for it: no later try finds it."""


def ask_account(
    client: BungieClient, membership_id: int, known: int | None, url_of: Callable[[int], str]
) -> tuple[int, bytes]:
    """The membership type that was right, and the response to `url_of` it.

    Tries the `known` type, then every other one; a hint in a refusal goes first, and the linked
    profiles are asked last. Raises AbsentError, and RefusedError for what no other type would
    change (privacy, a deleted character, a refused key).
    """
    waiting = deque(dict.fromkeys([known] if known else []) | dict.fromkeys(TYPES))
    asked: set[int] = set()
    linked_asked = False
    while True:
        if not waiting and not linked_asked:
            linked_asked = True
            waiting.extend(_linked(client, membership_id) - asked)
        if not waiting:
            raise AbsentError(f"no account {membership_id} of any type")
        membership_type = waiting.popleft()
        if membership_type in asked:
            continue
        asked.add(membership_type)
        try:
            return membership_type, client.get(url_of(membership_type))
        except RefusedError as error:
            if error.code in _ABSENT:
                raise AbsentError(f"no account {membership_id}: {error}") from error
            if error.code == _NOT_FOUND:
                waiting.clear()  # of this type or of all: the linked profiles know
            elif error.code not in _WRONG_TYPE:
                raise
            elif hint := _hint(error.data):
                waiting.appendleft(hint)


def _linked(client: BungieClient, membership_id: int) -> set[int]:
    """The type that the linked profiles tell, if they do."""
    try:
        response = client.get(client.endpoints.linked_profiles_url(membership_id))
    except RefusedError as error:
        if error.code_class is CodeClass.KEY_PROBLEM:
            raise
        return set()
    found = read_linked_type(response, membership_id)
    return {found} if found else set()


def _hint(data: Mapping[str, str]) -> int | None:
    for name in _HINTS:
        said = data.get(name, "")
        if said in _PLATFORMS:
            return _PLATFORMS[said]
        if said.isdecimal() and len(said) == 1:
            return known_type(int(said))
    return None

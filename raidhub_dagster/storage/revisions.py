"""Two versions of one report: do they differ, in what, and which of them counts.

Bungie publishes some reports before they are whole, and every delivery may come twice or late. The
answers here depend on the two versions alone, so that the order of arrival plays no part. Rules
and reasons: docs/domain/storage.md, "Changed reports". Pure; the store reads and writes.
"""

import hashlib
from collections.abc import Collection, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import msgspec

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import fetched_at, open_body, unstamped
from raidhub_dagster.pgcr.model import Instance, Player, Rejection
from raidhub_dagster.pgcr.wire import read
from raidhub_dagster.storage.clickhouse_rows import decode_row, encode_row, row_of


class Report(NamedTuple):
    """A parsed instance and the gzip of the Response JSON that it was parsed from.

    The body's stamp says when it was fetched, if that is known (`pgcr/envelope.py`).
    """

    instance: Instance
    body: bytes


class Relation(Enum):
    """In what the later-coming of two versions differs from the one that is kept."""

    SAME = auto()  # in nothing that we read
    IDENTITY = auto()  # in names, icons, emblems and classes only
    CONTENT = auto()  # in what happened
    CONFLICT = auto()  # in activity or start: it is another run


def relation(kept: Instance, incoming: Instance) -> Relation:
    if (kept.hash, kept.date_started) != (incoming.hash, incoming.date_started):
        return Relation.CONFLICT
    if 0 in (kept.platform_type, incoming.platform_type):
        # Archives lost it: every line of theirs would be a change of what the API said.
        incoming = msgspec.structs.replace(incoming, platform_type=kept.platform_type)
    if kept == incoming:
        return Relation.SAME
    return Relation.IDENTITY if _run(kept) == _run(incoming) else Relation.CONTENT


def is_better(incoming: bytes, kept: bytes) -> bool | None:
    """Whether the body `incoming` counts more than `kept`, which differs; None for the same moment.

    The one with more entries counts, whenever it was fetched: a cache may serve a young copy for
    hours. Of equal ones the later fetched. When a time is unknown, as in archives, what is kept
    stays: neither could ever be told from the other.
    """
    size, kept_size = _size(incoming), _size(kept)
    if size != kept_size:
        return size > kept_size
    at, kept_at = fetched_at(incoming), fetched_at(kept)
    if at is None or kept_at is None:
        return False
    return None if at == kept_at else at > kept_at


def digest(body: bytes) -> bytes:
    """Key of a version; equal for two fetches of an unchanged report that were packed alike.

    The statements in store.sql and verify.sql compute the same.
    """
    return hashlib.sha256(unstamped(body)).digest()


def is_row_of(row: Mapping[str, Any], instance: Instance, retained: Collection[int] = ()) -> bool:
    """Whether `row` (`clickhouse_rows.read_rows`) says what `instance` does, standings aside.

    A class or emblem that the report lacks may have been filled in since. `retained` are players
    who are in the report no more but stay.
    """
    stored, wanted = row_and_report(row, instance, retained)
    return stored == wanted


def row_and_report(
    row: Mapping[str, Any], instance: Instance, retained: Collection[int] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`row` and the row that `instance` gives, without whatever may differ between them."""
    wanted = decode_row(encode_row(row_of(instance, {})))
    reported = {player["membership_id"]: player for player in wanted["players"]}
    players = []
    for player in row["players"]:
        report = reported.get(player["membership_id"])
        if report is None and player["membership_id"] in retained:
            continue
        looks = {c["character_id"]: c for c in report["characters"]} if report else {}
        characters = [_reported(c, looks.get(c["character_id"])) for c in player["characters"]]
        standing = {"sherpas": 0, "is_first_clear": 0}
        players.append({**player, **standing, "characters": characters})
    return {**row, "players": players}, wanted


def _reported(stored: dict[str, Any], report: dict[str, Any] | None) -> dict[str, Any]:
    """A stored character with the looks that its report lacks taken off again."""
    missing = {name: 0 for name in ("class_hash", "emblem_hash") if report and not report[name]}
    return {**stored, **missing}


def _run(instance: Instance) -> Instance:
    """What happened, without who the players are now."""
    return msgspec.structs.replace(instance, players=tuple(map(_anonymous, instance.players)))


def _anonymous(player: Player) -> Player:
    characters = tuple(
        msgspec.structs.replace(c, class_hash=None, emblem_hash=None) for c in player.characters
    )
    return msgspec.structs.replace(
        player,
        membership_type=None,
        icon_path=None,
        display_name=None,
        bungie_global_display_name=None,
        bungie_global_display_name_code=None,
        characters=characters,
    )


def _size(body: bytes) -> tuple[int, int]:
    """Entries, and how many of them have their statistics; nothing of what is no report."""
    try:
        report = read(open_body(body))
    except PermanentError:
        return (0, 0)
    if isinstance(report, Rejection):
        return (0, 0)
    return len(report.entries), sum(entry.extended is not None for entry in report.entries)

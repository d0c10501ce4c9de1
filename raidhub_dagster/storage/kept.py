"""Kept reports against the rows that were made of them: what today's parser would write.

Used by `raidhub verify` on a sample and by reprocessing on all. Only reads; statements in
`sql/postgres/queries/kept.sql`.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.storage.clickhouse_rows import read_rows
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.identity import Identity, merge, sighting
from raidhub_dagster.storage.plan import parse_kept
from raidhub_dagster.storage.players import read_players
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.revisions import row_and_report

_SQL = load("postgres", "kept")
_ABSENT = "absent"
_PRESENT = "present"


class State(StrEnum):
    """What a kept report is to its rows."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"  # today's parser rejects it
    WAITING = "waiting"  # for the definition of its hash
    NOT_STORED = "not_stored"  # there are no rows, and nothing that it waits for


class Difference(NamedTuple):
    """One field in which the rows are not what the report says; `field` is `<what>.<column>`."""

    field: str
    old: object
    new: object
    where: str = ""  # the player or character


class Comparison(NamedTuple):
    instance_id: int
    state: State
    parsed: Instance | Rejection
    differences: tuple[Difference, ...] = ()

    @property
    def is_wrong(self) -> bool:
        return self.state not in (State.EQUAL, State.WAITING)

    def __str__(self) -> str:
        if isinstance(self.parsed, Rejection):
            return f"{self.instance_id}: {self.parsed.reason} at {self.parsed.field}"
        if self.differences:
            fields = ", ".join(sorted({d.field for d in self.differences}))
            return f"{self.instance_id}: rows differ from the report in {fields}"
        return f"{self.instance_id}: {self.state}"


def compare_kept(
    connection: Connection, kept: Mapping[int, bytes], *, now: datetime
) -> Iterator[Comparison]:
    """Each of `kept` (id -> body) with its rows, ascending.

    Identity is that of the newest sighting: a kept report as new as that must agree with it.
    """
    ids = sorted(kept)
    with connection, connection.cursor() as cursor:
        stored = {row["instance_id"]: row for row in read_rows(connection, ids)}
        cursor.execute(_SQL["flagged"], {"instances": ids})
        flagged: dict[int, set[int]] = {}
        for instance_id, membership_id in cursor:
            flagged.setdefault(instance_id, set()).add(membership_id)
        cursor.execute(_SQL["read_unsent_fields"], {"instances": array(ids)})
        unsent = {instance_id: rest for instance_id, *rest in cursor}
        cursor.execute(_SQL["read_waiting"], {"instances": array(ids)})
        waiting = {instance_id for (instance_id,) in cursor}
        parties = {p["membership_id"] for row in stored.values() for p in row["players"]}
        players = read_players(cursor, parties)
    for instance_id in ids:
        parsed = parse_kept(instance_id, kept[instance_id], now)
        row = stored.get(instance_id)
        if isinstance(parsed, Rejection):
            yield Comparison(instance_id, State.UNREADABLE, parsed)
            continue
        if row is None:
            state = State.WAITING if instance_id in waiting else State.NOT_STORED
            yield Comparison(instance_id, state, parsed)
            continue
        found = [
            *_row_differences(row, unsent[instance_id], parsed, flagged.get(instance_id, set())),
            *_identity_differences(
                parsed, {who: player.identity for who, player in players.items()}
            ),
        ]
        state = State.DIFFERENT if found else State.EQUAL
        yield Comparison(instance_id, state, parsed, tuple(found))


def _row_differences(
    row: Mapping[str, Any], unsent: list[Any], instance: Instance, flagged: set[int]
) -> Iterator[Difference]:
    stored, wanted = row_and_report(row, instance, flagged)
    skull_hashes, platform_type = unsent
    stored |= {"skull_hashes": skull_hashes or [], "platform_type": platform_type}
    wanted |= {
        "skull_hashes": list(instance.skull_hashes),
        "platform_type": instance.platform_type,
    }
    players, reported = stored.pop("players"), wanted.pop("players")
    yield from _columns("instance", stored, wanted)
    for who, old, new in _paired(players, reported, "membership_id"):
        if old is None or new is None:
            yield _presence("player", old, new, who)
            continue
        characters, others = old.pop("characters"), new.pop("characters")
        yield from _columns("player", old, new, who)
        for character, had, has in _paired(characters, others, "character_id"):
            where = f"{who}/{character}"
            if had is None or has is None:
                yield _presence("character", had, has, where)
                continue
            weapons, used = had.pop("weapons"), has.pop("weapons")
            yield from _columns("character", had, has, where)
            if weapons != used:
                yield Difference("character.weapons", _brief(weapons), _brief(used), where)


def _identity_differences(
    instance: Instance, known: Mapping[int, Identity]
) -> Iterator[Difference]:
    for player in instance.players:
        old = known.get(player.membership_id)
        if old is None:
            continue  # told as an absent player
        new = merge(sighting(player, instance.instance_id), old)
        if new != old:
            yield Difference(
                "player.identity", _identity(old), _identity(new), str(player.membership_id)
            )


def _identity(identity: Identity) -> str:
    name = "#".join(identity.global_name) if identity.global_name else None
    return f"{identity.membership_type} {identity.display_name} {name} {identity.icon_path}"


def _columns(
    what: str, old: Mapping[str, Any], new: Mapping[str, Any], where: str = ""
) -> Iterator[Difference]:
    for column, value in new.items():
        if old[column] != value:
            yield Difference(f"{what}.{column}", old[column], value, where)


def _presence(what: str, old: object, new: object, where: str) -> Difference:
    before, after = (_ABSENT if side is None else _PRESENT for side in (old, new))
    return Difference(what, before, after, where)


def _paired(
    old: list[dict[str, Any]], new: list[dict[str, Any]], key: str
) -> Iterator[tuple[str, dict[str, Any] | None, dict[str, Any] | None]]:
    """Rows of both sides with the same `key`, which is told as text."""
    olds, news = ({row[key]: row for row in side} for side in (old, new))
    for found in sorted(olds.keys() | news.keys()):
        yield str(found), olds.get(found), news.get(found)


def _brief(weapons: list[dict[str, int]]) -> str:
    return ", ".join(f"{w['weapon_hash']}:{w['kills']}/{w['precision_kills']}" for w in weapons)

"""Stores parsed reports: one transaction for a batch, exact whatever the order of arrival.

What one stored report must produce, and why in this order, is docs/domain/storage.md. The rules
of derived state are in `derive.py`, those of identity in `identity.py`, every statement in
`sql/postgres/queries/store.sql`; here they are put together under locks.
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.storage import rows
from raidhub_dagster.storage.copy import array, binary, copy_rows, fields, int8
from raidhub_dagster.storage.derive import (
    Change,
    Completer,
    Derived,
    Mark,
    NewInstance,
    Pair,
    Speed,
    Standing,
    derive,
    displaced,
    earliest_clears,
)
from raidhub_dagster.storage.effects import Effects
from raidhub_dagster.storage.identity import Identity, Seen, merge, sighting
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "store")
_INT4_MAX = 2_147_483_647
# After so many rounds in which ever more players had to be locked, the activities are locked.
_LOCK_ROUNDS = 3
_KNOWN_AGAIN_BATCH = 50
_NOBODY = Identity()


class Report(NamedTuple):
    """A parsed instance and the gzip of the Response JSON that it was parsed from."""

    instance: Instance
    body: bytes


class Outcome(StrEnum):
    STORED = "stored"
    DUPLICATE = "duplicate"
    UNKNOWN_HASH = "unknown_hash"


class StoredPlayer(NamedTuple):
    identity: Identity
    last_crawled: datetime | None


class _MorePlayersError(Exception):
    """Members of displaced instances are not locked yet: start again with them."""

    def __init__(self, players: set[int]) -> None:
        super().__init__(f"{len(players)} more players must be locked")
        self.players = players


def _utcnow() -> datetime:
    return datetime.now(UTC)


class Store:
    """Stores batches over one connection; one thread at a time, any number of stores at once."""

    def __init__(
        self,
        connection: Connection,
        *,
        now: Callable[[], datetime] = _utcnow,
        sleep: Callable[[float], None] = time.sleep,
        rng: Rng = random,
    ) -> None:
        self._connection = connection
        self._now = now
        self._sleep = sleep
        self._rng = rng

    def store(self, reports: Sequence[Report], *, source: str) -> list[Outcome]:
        """What became of each report, in their order, after one commit for all of them.

        Either everything of the batch is stored or nothing; a second delivery is a duplicate and
        changes nothing. Raises psycopg2.Error: when the connection stands, one report is to blame
        and the caller finds it by storing each alone.
        """
        if not reports:
            return []
        also: set[int] = set()
        for lock_round in range(_LOCK_ROUNDS + 1):
            batch = _Batch(reports, source, also, alone=lock_round == _LOCK_ROUNDS, now=self._now())
            try:
                return in_transaction(self._connection, batch.run, sleep=self._sleep, rng=self._rng)
            except _MorePlayersError as more:
                also |= more.players
        raise AssertionError("with its activities locked a batch asks for no more players")

    def store_known_hashes(self, *, limit: int = _KNOWN_AGAIN_BATCH) -> int:
        """Stores up to `limit` reports that waited for the definition of their hash.

        Returns how many it stored. A kept report that is unreadable today is fetched again.
        """
        reports = []
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(_SQL["find_known_again"], {"limit": limit})
            for instance_id, data in cursor.fetchall():
                parsed = _parse_kept(instance_id, bytes(data), self._now())
                if isinstance(parsed, Rejection):
                    cursor.execute(
                        _SQL["park_unreadable"],
                        {"instance_id": instance_id, "reason": parsed.reason, "error": str(parsed)},
                    )
                else:
                    reports.append(Report(parsed, bytes(data)))
        outcomes = self.store(reports, source="unknown_hash")
        return outcomes.count(Outcome.STORED)


def _parse_kept(instance_id: int, data: bytes, now: datetime) -> Instance | Rejection:
    try:
        body = open_body(data)
    except PermanentError as error:
        return Rejection("not_json_object", "$", str(error))
    # It was accepted once: what was good enough then is good enough now.
    return parse(body, now=now, expected_id=instance_id, settled=True)


class _Batch:
    """One try at one batch. Every list that is written is in ascending order of its key."""

    def __init__(
        self,
        reports: Sequence[Report],
        source: str,
        also: Collection[int],
        *,
        alone: bool,
        now: datetime,
    ) -> None:
        self._reports = reports
        self._source = source
        self._also = also
        self._alone = alone
        self._now = now
        # Of two deliveries in one batch the first counts.
        self._by_id = {r.instance.instance_id: r for r in reversed(reports)}

    def run(self, connection: Connection) -> list[Outcome]:
        with connection.cursor() as cursor:
            activities = self._find_activities(cursor)
            locked = self._lock(cursor, activities)
            stored, kept = self._find_stored(cursor)
            unknown = [
                r.instance
                for instance_id, r in sorted(self._by_id.items())
                if instance_id not in stored and r.instance.hash not in activities
            ]
            new = [
                NewInstance(r.instance, activities[r.instance.hash])
                for instance_id, r in sorted(self._by_id.items())
                if instance_id not in stored and r.instance.hash in activities
            ]
            members = {p.membership_id for item in new for p in item.instance.players}
            players = read_players(cursor, members)
            derived = self._derive(cursor, new, locked)

            self._keep_raw(cursor, kept)
            if new:
                self._write(cursor, new, players, derived)
            if unknown:
                cursor.execute(
                    _SQL["park_unknown"],
                    {
                        "source": self._source,
                        "instances": array(i.instance_id for i in unknown),
                        "hashes": array(i.hash for i in unknown),
                    },
                )
            resolved = self._by_id.keys() - {i.instance_id for i in unknown}
            cursor.execute(_SQL["resolve_missed"], {"instances": array(sorted(resolved))})
        return self._outcomes(stored, {i.instance_id for i in unknown})

    def _outcomes(self, stored: Collection[int], unknown: Collection[int]) -> list[Outcome]:
        outcomes, seen = [], set(stored)
        for report in self._reports:
            instance_id = report.instance.instance_id
            if instance_id in unknown:
                outcomes.append(Outcome.UNKNOWN_HASH)
            else:
                outcomes.append(Outcome.DUPLICATE if instance_id in seen else Outcome.STORED)
            seen.add(instance_id)
        return outcomes

    def _find_activities(self, cursor: Cursor) -> dict[int, int]:
        """Hash -> activity, of those hashes of the batch that are defined."""
        hashes = {r.instance.hash for r in self._by_id.values()}
        cursor.execute(_SQL["find_activities"], {"hashes": array(sorted(hashes))})
        return dict(cursor.fetchall())

    def _lock(self, cursor: Cursor, activities: Mapping[int, int]) -> set[int]:
        """Takes every lock of the batch in the one order that all writers keep; the players."""
        statement = _SQL["own_activities" if self._alone else "share_activities"]
        cursor.execute(statement, {"activities": array(sorted(set(activities.values())))})
        players = {p.membership_id for r in self._by_id.values() for p in r.instance.players}
        players |= set(self._also)
        cursor.execute(_SQL["lock_keys"], {"keys": array(sorted(players | self._by_id.keys()))})
        return players

    def _find_stored(self, cursor: Cursor) -> tuple[set[int], set[int]]:
        """Ids that have an instance row, and those that have a raw row."""
        cursor.execute(_SQL["find_stored"], {"instances": array(sorted(self._by_id))})
        stored, kept = set(), set()
        for instance_id, is_stored, is_kept in cursor:
            if is_stored:
                stored.add(instance_id)
            if is_kept:
                kept.add(instance_id)
        return stored, kept

    def _derive(self, cursor: Cursor, new: Sequence[NewInstance], locked: set[int]) -> Derived:
        pairs = sorted(
            {Pair(p.membership_id, item.activity_id) for item in new for p in item.instance.players}
        )
        cursor.execute(
            _SQL["read_stats"],
            {
                "players": array(pair.membership_id for pair in pairs),
                "activities": array(pair.activity_id for pair in pairs),
            },
        )
        fastest: dict[Pair, Speed] = {}
        cleared: set[Pair] = set()
        for membership_id, activity_id, clears, duration, completed, instance_id in cursor:
            pair = Pair(membership_id, activity_id)
            if clears:
                cleared.add(pair)
            if instance_id is not None:
                fastest[pair] = Speed(duration, completed, instance_id)

        earliest = earliest_clears(new)
        first = self._first_clears(cursor, earliest, cleared, fastest)
        losing = displaced(earliest, first)
        completers: dict[int, list[Completer]] = {}
        if losing:
            instances = sorted({mark.instance_id for mark in losing.values()})
            cursor.execute(_SQL["read_completers"], {"instances": array(instances)})
            for instance_id, membership_id, is_first, sherpas in cursor:
                standing = Standing(is_first, sherpas)
                completers.setdefault(instance_id, []).append(Completer(membership_id, standing))
            members = {c.membership_id for listed in completers.values() for c in listed}
            if not self._alone and not members <= locked:
                raise _MorePlayersError(members - locked)
        activity_of = {mark.instance_id: pair.activity_id for pair, mark in losing.items()}
        return derive(new, first, fastest, activity_of, completers)

    def _first_clears(
        self,
        cursor: Cursor,
        earliest: Mapping[Pair, Mark],
        cleared: Collection[Pair],
        fastest: Mapping[Pair, Speed],
    ) -> dict[Pair, Mark]:
        """The stored first clear of each pair, or any clear earlier than its new ones.

        The fastest run is already at hand and nearly always the earlier one, so that a crawl in
        order asks for first clears of those only who have no fresh clear yet.
        """
        first: dict[Pair, Mark] = {}
        asked: set[Pair] = set()
        for pair, mark in earliest.items():
            if pair not in cleared:
                continue
            known = fastest.get(pair)
            if known and (bound := Mark(known.date_completed, known.instance_id)) < mark:
                first[pair] = bound
            else:
                asked.add(pair)
        if asked:
            players = sorted({pair.membership_id for pair in asked})
            cursor.execute(_SQL["read_first_clears"], {"players": array(players)})
            for membership_id, activity_id, completed, instance_id in cursor:
                if (pair := Pair(membership_id, activity_id)) in asked:
                    first[pair] = Mark(completed, instance_id)
        return first

    def _keep_raw(self, cursor: Cursor, kept: Collection[int]) -> None:
        raw = [
            fields(2) + int8(instance_id) + binary(report.body)
            for instance_id, report in sorted(self._by_id.items())
            if instance_id not in kept
        ]
        if raw:
            copy_rows(cursor, _SQL["copy_raw"], raw)

    def _write(
        self,
        cursor: Cursor,
        new: Sequence[NewInstance],
        players: Mapping[int, StoredPlayer],
        derived: Derived,
    ) -> None:
        instances = [item.instance for item in new]
        copy_rows(cursor, _SQL["copy_instances"], map(rows.instance_row, instances))
        identities = _write_players(cursor, instances, players, derived.changes)
        standings = derived.standings
        copy_rows(
            cursor,
            _SQL["copy_instance_players"],
            (row for i in instances for row in rows.player_rows(i, standings[i.instance_id])),
        )
        copy_rows(
            cursor,
            _SQL["copy_characters"],
            (row for i in instances for row in rows.character_rows(i)),
        )
        weapons = [row for i in instances for row in rows.weapon_rows(i)]
        if weapons:
            copy_rows(cursor, _SQL["copy_weapons"], weapons)
        _write_stats(cursor, derived.changes)
        if derived.rewritten:
            _rewrite(cursor, derived)
        crawled = {who: player.last_crawled for who, player in players.items()}
        effects = Effects(self._now, crawled, identities)
        copy_rows(
            cursor,
            _SQL["copy_outbox"],
            (row for i in instances for row in effects.of(i, standings[i.instance_id])),
        )


def read_players(cursor: Cursor, members: Iterable[int]) -> dict[int, StoredPlayer]:
    """Those of `members` (membership ids) who have a row."""
    cursor.execute(_SQL["read_players"], {"players": array(sorted(members))})
    return {row[0]: _stored_player(row) for row in cursor}


def _stored_player(row: tuple[object, ...]) -> StoredPlayer:
    _, kind, kind_at, kind_by, icon, icon_at, icon_by, name, name_at, name_by, *rest = row
    global_name, code, global_at, global_by, last_crawled = rest
    pair = None if global_name is None or code is None else (global_name, code)
    identity = Identity(
        kind,  # type: ignore[arg-type]  # columns of read_players, in their order
        _seen(kind_at, kind_by),
        icon,  # type: ignore[arg-type]
        _seen(icon_at, icon_by),
        name,  # type: ignore[arg-type]
        _seen(name_at, name_by),
        pair,  # type: ignore[arg-type]
        _seen(global_at, global_by),
    )
    return StoredPlayer(identity, last_crawled)  # type: ignore[arg-type]


def _seen(at: object, instance_id: object) -> Seen | None:
    if isinstance(at, datetime) and isinstance(instance_id, int):
        return Seen(at, instance_id)
    return None


def _write_players(
    cursor: Cursor,
    instances: Iterable[Instance],
    stored: Mapping[int, StoredPlayer],
    changes: Mapping[Pair, Change],
) -> dict[int, Identity]:
    """Upserts everyone of the new instances; their identities as they are now."""
    identities: dict[int, Identity] = {}
    first_seen: dict[int, datetime] = {}
    last_seen: dict[int, datetime] = {}
    for instance in instances:
        for player in instance.players:
            who = player.membership_id
            known = identities.get(who) or (stored[who].identity if who in stored else _NOBODY)
            identities[who] = merge(known, sighting(player, instance.instance_id))
            first_seen[who] = min(player.first_seen, first_seen.get(who, player.first_seen))
            last_seen[who] = max(player.last_seen, last_seen.get(who, player.last_seen))
    totals: dict[int, Change] = {}
    for pair, change in changes.items():
        total = totals.setdefault(pair.membership_id, Change())
        total.clears += change.clears
        total.fresh_clears += change.fresh_clears
        total.sherpas += change.sherpas
        total.total_time_played_seconds += change.total_time_played_seconds

    everyone = sorted(identities)
    listed = [identities[who] for who in everyone]
    added = [totals[who] for who in everyone]
    cursor.execute(
        _SQL["upsert_players"],
        {
            "players": array(everyone),
            "membership_types": array(i.membership_type for i in listed),
            "icon_paths": array(i.icon_path for i in listed),
            "display_names": array(i.display_name for i in listed),
            "global_names": array(i.global_name and i.global_name[0] for i in listed),
            "global_codes": array(i.global_name and i.global_name[1] for i in listed),
            "last_seen": array(last_seen[who] for who in everyone),
            "first_seen": array(first_seen[who] for who in everyone),
            "clears": array(t.clears for t in added),
            "fresh_clears": array(t.fresh_clears for t in added),
            "sherpas": array(t.sherpas for t in added),
            "times": array(min(t.total_time_played_seconds, _INT4_MAX) for t in added),
        },
    )
    write_identities(cursor, identities)
    others = {who: total.sherpas for who, total in totals.items() if who not in identities}
    if others:
        cursor.execute(
            _SQL["add_sherpas"],
            {"players": array(others), "sherpas": array(others.values())},
        )
    return identities


def write_identities(cursor: Cursor, identities: Mapping[int, Identity]) -> None:
    """Which sighting each value of these players (by membership id) came from; ascending ids."""
    everyone = sorted(identities)
    listed = [identities[who] for who in everyone]
    cursor.execute(
        _SQL["upsert_identities"],
        {
            "players": array(everyone),
            "type_seen": array(
                i.membership_type_seen and i.membership_type_seen.at for i in listed
            ),
            "type_instances": _instances(i.membership_type_seen for i in listed),
            "icon_seen": array(i.icon_path_seen and i.icon_path_seen.at for i in listed),
            "icon_instances": _instances(i.icon_path_seen for i in listed),
            "name_seen": array(i.display_name_seen and i.display_name_seen.at for i in listed),
            "name_instances": _instances(i.display_name_seen for i in listed),
            "global_seen": array(i.global_name_seen and i.global_name_seen.at for i in listed),
            "global_instances": _instances(i.global_name_seen for i in listed),
        },
    )


def _instances(seen: Iterable[Seen | None]) -> str:
    return array(None if s is None else s.instance_id for s in seen)


def _write_stats(cursor: Cursor, changes: Mapping[Pair, Change]) -> None:
    pairs = sorted(changes)
    listed = [changes[pair] for pair in pairs]
    cursor.execute(
        _SQL["upsert_stats"],
        {
            "players": array(pair.membership_id for pair in pairs),
            "activities": array(pair.activity_id for pair in pairs),
            "clears": array(c.clears for c in listed),
            "fresh_clears": array(c.fresh_clears for c in listed),
            "sherpas": array(c.sherpas for c in listed),
            "fastest": array(c.fastest and c.fastest.instance_id for c in listed),
            "times": array(min(c.total_time_played_seconds, _INT4_MAX) for c in listed),
        },
    )
    faster = sorted({pair.membership_id for pair in pairs if changes[pair].fastest})
    if faster:
        cursor.execute(_SQL["update_sums_of_best"], {"players": array(faster)})


def _rewrite(cursor: Cursor, derived: Derived) -> None:
    """Standings in instances that lost a first clear, and the note that ClickHouse has old ones."""
    changed = [
        (instance_id, membership_id, standing)
        for instance_id, standings in sorted(derived.rewritten.items())
        for membership_id, standing in sorted(standings.items())
    ]
    cursor.execute(
        _SQL["rewrite_standings"],
        {
            "instances": array(instance_id for instance_id, _, _ in changed),
            "players": array(membership_id for _, membership_id, _ in changed),
            "first_clears": array(standing.is_first_clear for _, _, standing in changed),
            "sherpas": array(standing.sherpas for _, _, standing in changed),
        },
    )
    cursor.execute(_SQL["mark_corrections"], {"instances": array(sorted(derived.rewritten))})

"""Stores parsed reports: one transaction for a batch, exact whatever the order of arrival.

What one stored report must produce, and why in this order, is docs/domain/storage.md. The rules
of derived state are in `derive.py`, those of identity in `identity.py`, every statement in
`sql/postgres/queries/store.sql`; here they are put together under locks.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.pgcr.envelope import fetched_at
from raidhub_dagster.pgcr.model import Rejection
from raidhub_dagster.storage import replace, rows, young
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
from raidhub_dagster.storage.plan import Outcome as Outcome
from raidhub_dagster.storage.plan import Plan, State, make_plan, parse_kept
from raidhub_dagster.storage.players import Shown, read_players, write_players
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.revisions import Report as Report
from raidhub_dagster.storage.revisions import digest

_SQL = load("postgres", "store")
_INT4_MAX = 2_147_483_647
# After so many rounds in which ever more players had to be locked, the activities are locked.
_LOCK_ROUNDS = 3
_KNOWN_AGAIN_BATCH = 50

# What a caller writes in the transaction of its batch; it may be called again for a new try.
Note = Callable[[Cursor, list[Outcome]], None]


class _MorePlayersError(Exception):
    """Players whose rows will change are not locked yet: start again with them."""

    def __init__(self, players: set[int]) -> None:
        super().__init__(f"{len(players)} more players must be locked")
        self.players = players


def _utcnow() -> datetime:
    return datetime.now(UTC)


class Store:
    """Stores batches over one connection; one thread at a time, any number of stores at once.

    With `rechecks` young raids are put down to be fetched again.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        rechecks: young.Rechecks | None = None,
        now: Callable[[], datetime] = _utcnow,
        sleep: Callable[[float], None] = time.sleep,
        rng: Rng = random,
    ) -> None:
        self._connection = connection
        self._rechecks = rechecks
        self._now = now
        self._sleep = sleep
        self._rng = rng

    def store(
        self,
        reports: Sequence[Report],
        *,
        source: str,
        note: Note | None = None,
        anew: bool = False,
    ) -> list[Outcome]:
        """What became of each report, in their order, after one commit for all of them.

        Either everything of the batch is stored or nothing, with what `note` writes. A second
        delivery changes nothing; of several versions of a report the better one counts, whichever
        comes first. With `anew` the kept version, coming again, has its rows written again: the
        parser may have learned. Raises psycopg2.Error: when the connection stands, one report is
        to blame and the caller finds it by storing each alone.
        """
        if not reports:
            return []
        also: set[int] = set()
        for lock_round in count():
            batch = _Batch(
                reports,
                source,
                also,
                alone=lock_round >= _LOCK_ROUNDS,
                rechecks=self._rechecks,
                note=note,
                anew=anew,
                now=self._now(),
            )
            try:
                return in_transaction(self._connection, batch.run, sleep=self._sleep, rng=self._rng)
            except _MorePlayersError as more:
                also |= more.players
        raise AssertionError("unreachable")

    def store_known_hashes(self, *, limit: int = _KNOWN_AGAIN_BATCH) -> int:
        """Stores up to `limit` reports that waited for the definition of their hash.

        Returns how many it stored. A kept report that is unreadable today is fetched again.
        """
        reports = []
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(_SQL["find_known_again"], {"limit": limit})
            for instance_id, data in cursor.fetchall():
                parsed = parse_kept(instance_id, bytes(data), self._now())
                if isinstance(parsed, Rejection):
                    cursor.execute(
                        _SQL["park_unreadable"],
                        {"instance_id": instance_id, "reason": parsed.reason, "error": str(parsed)},
                    )
                else:
                    reports.append(Report(parsed, bytes(data)))
        outcomes = self.store(reports, source="unknown_hash")
        return outcomes.count(Outcome.STORED)


class _Batch:
    """One try at one batch. Every list that is written is in ascending order of its key."""

    def __init__(
        self,
        reports: Sequence[Report],
        source: str,
        also: Collection[int],
        *,
        alone: bool,
        rechecks: young.Rechecks | None,
        note: Note | None,
        anew: bool,
        now: datetime,
    ) -> None:
        self._reports = reports
        self._source = source
        self._also = also
        self._alone = alone
        self._rechecks = rechecks
        self._note = note
        self._anew = anew
        self._now = now
        self._positions: dict[int, list[int]] = defaultdict(list)
        for position, report in enumerate(reports):
            self._positions[report.instance.instance_id].append(position)

    def run(self, connection: Connection) -> list[Outcome]:
        outcomes = [Outcome.DUPLICATE] * len(self._reports)
        with connection.cursor() as cursor:
            activities = self._find_activities(cursor)
            locked = self._lock(cursor, activities)
            for wave in self._waves():
                reports = {i: self._reports[position] for i, position in wave.items()}
                for instance_id, outcome in self._store(cursor, reports, activities, locked):
                    outcomes[wave[instance_id]] = outcome
            if self._note:
                self._note(cursor, outcomes)
        return outcomes

    def _waves(self) -> list[dict[int, int]]:
        """Positions of the reports by ascending id; each wave has at most one version of an id.

        Nearly always one wave is all. A redelivery within the batch is in none.
        """
        waves: list[dict[int, int]] = [{}]
        for instance_id, positions in sorted(self._positions.items()):
            if len(positions) > 1:
                versions = {self._reports[p].body: p for p in reversed(positions)}
                positions = sorted(versions.values())
            for number, position in enumerate(positions):
                if number == len(waves):
                    waves.append({})
                waves[number][instance_id] = position
        return waves

    def _store(
        self,
        cursor: Cursor,
        wave: Mapping[int, Report],
        activities: Mapping[int, int],
        locked: set[int],
    ) -> Iterable[tuple[int, Outcome]]:
        plan = make_plan(cursor, wave, activities, anew=self._anew, now=self._now)
        before = replace.read_members(cursor, plan.stored) if plan.stored else {}
        others = plan.others.union(*before.values())
        if not others <= locked:
            raise _MorePlayersError(others - locked)

        _keep_bodies(cursor, plan)
        if plan.again:
            self._replace(cursor, plan, before, locked)
        if plan.new:
            self._insert(cursor, plan.new, locked)
        if plan.shown:
            shown = {p.membership_id for s in plan.shown for p in s.instance.players}
            write_players(cursor, plan.shown, read_players(cursor, shown), {})
        if changed := [i.instance_id for i in plan.looks if replace.update_looks(cursor, i)]:
            cursor.execute(_SQL["mark_corrections"], {"instances": array(changed)})
        if plan.unknown:
            cursor.execute(
                _SQL["park_unknown"],
                {
                    "source": self._source,
                    "instances": array(i.instance_id for i in plan.unknown),
                    "hashes": array(i.hash for i in plan.unknown),
                },
            )
        if self._rechecks:
            young.note(cursor, plan.first, self._rechecks)
        resolved = sorted(wave.keys() - {i.instance_id for i in plan.unknown})
        cursor.execute(_SQL["resolve_missed"], {"instances": array(resolved)})
        return plan.outcomes.items()

    def _replace(
        self, cursor: Cursor, plan: Plan, before: Mapping[int, set[int]], locked: set[int]
    ) -> None:
        """Instances with other rows than they had; everything derived comes from all rows."""
        instances = [item.instance for item in plan.again]
        absent = [i for i in instances if i.instance_id not in plan.stored]
        if absent:
            copy_rows(cursor, _SQL["copy_instances"], map(rows.instance_row, absent))
        pairs = {
            Pair(membership_id, item.activity_id)
            for item in plan.again
            for membership_id in (
                *(p.membership_id for p in item.instance.players),
                *before.get(item.instance.instance_id, ()),
            )
        }
        pairs |= {
            Pair(membership_id, activity_id)
            for instance_id, activity_id in plan.moved.items()
            for membership_id in before.get(instance_id, ())
        }
        players = read_players(cursor, {pair.membership_id for pair in pairs})
        identities = write_players(cursor, map(Shown, instances), players, {})
        for instance in instances:
            if replace.write_rows(cursor, instance):
                plan.outcomes[instance.instance_id] = Outcome.PARTLY_REPLACED

        def check_locked(members: set[int]) -> None:
            if not self._alone and not members <= locked:
                raise _MorePlayersError(members - locked)

        activities = {item.instance.instance_id: item.activity_id for item in plan.again}
        standings = replace.restate(cursor, activities, pairs, check_locked)
        cursor.execute(_SQL["mark_corrections"], {"instances": array(sorted(standings))})
        crawled = {who: player.last_crawled for who, player in players.items()}
        effects = Effects(self._now, crawled, identities)
        copy_rows(
            cursor,
            _SQL["copy_outbox"],
            (
                row
                for i in instances
                for row in effects.of_replaced(
                    i, standings[i.instance_id], before.get(i.instance_id, set())
                )
            ),
        )

    def _find_activities(self, cursor: Cursor) -> dict[int, int]:
        """Hash -> activity, of those hashes of the batch that are defined."""
        hashes = {r.instance.hash for r in self._reports}
        cursor.execute(_SQL["find_activities"], {"hashes": array(sorted(hashes))})
        return dict(cursor.fetchall())

    def _lock(self, cursor: Cursor, activities: Mapping[int, int]) -> set[int]:
        """Takes every lock of the batch in the one order that all writers keep; the players."""
        statement = _SQL["own_activities" if self._alone else "share_activities"]
        cursor.execute(statement, {"activities": array(sorted(set(activities.values())))})
        players = {p.membership_id for r in self._reports for p in r.instance.players}
        players |= set(self._also)
        cursor.execute(_SQL["lock_keys"], {"keys": array(sorted(players | self._positions.keys()))})
        return players

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

    def _insert(self, cursor: Cursor, new: Sequence[NewInstance], locked: set[int]) -> None:
        players = read_players(cursor, {p.membership_id for n in new for p in n.instance.players})
        derived = self._derive(cursor, new, locked)
        instances = [item.instance for item in new]
        copy_rows(cursor, _SQL["copy_instances"], map(rows.instance_row, instances))
        identities = write_players(cursor, map(Shown, instances), players, derived.changes)
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


def _keep_bodies(cursor: Cursor, plan: Plan) -> None:
    """What counts goes into raw.pgcr, what does not any more, or never did, to the revisions."""
    if plan.kept:
        copy_rows(
            cursor,
            _SQL["copy_raw"],
            (fields(2) + int8(r.instance.instance_id) + binary(r.body) for r in plan.kept),
        )
    for instance_id, body, state, date_crawled in plan.revisions:
        cursor.execute(
            _SQL["keep_revision"],
            {
                "instance_id": instance_id,
                "digest": digest(body),
                "fetched_at": fetched_at(body) or date_crawled,
                "body": body,
                "state": state,
            },
        )
        if state is State.CONFLICT and not cursor.rowcount:
            plan.outcomes[instance_id] = Outcome.DUPLICATE  # it was told before
    for report in plan.replaced:
        version = {"instance_id": report.instance.instance_id, "body": report.body}
        cursor.execute(_SQL["replace_raw"], version)
        cursor.execute(_SQL["forget_revision"], {**version, "digest": digest(report.body)})


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

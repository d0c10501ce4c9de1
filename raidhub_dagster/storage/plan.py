"""Sorts the reports of a batch by what is known of their ids: what has to be done for each.

Nearly all are of new ids. The rest are redeliveries, later fetches of a report that may have
changed, and instances that somebody outside deleted. Rules: docs/domain/storage.md, "Changed
reports"; this module reads, `store.py` does what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.storage.clickhouse_rows import read_rows
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.derive import NewInstance
from raidhub_dagster.storage.players import Shown
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.revisions import (
    Relation,
    Report,
    digest,
    is_better,
    is_row_of,
    relation,
)

_SQL = load("postgres", "store")


class Outcome(StrEnum):
    """What became of a delivered report."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    UNKNOWN_HASH = "unknown_hash"
    SEEN_AGAIN = "seen_again"  # only names and looks are others than before
    REPLACED = "replaced"
    # Replaced, but players who are in it no more had to stay, because they are flagged.
    PARTLY_REPLACED = "partly_replaced"
    SUPERSEDED = "superseded"  # what is stored says more, or is newer
    CONFLICT = "conflict"  # another run under the same id; the first one stays


class State(StrEnum):
    """Of a body among the revisions."""

    SUPERSEDED = "superseded"
    CONFLICT = "conflict"


class Revision(NamedTuple):
    instance_id: int
    body: bytes
    state: State
    date_crawled: datetime | None = None  # stands in for the time of the fetch


@dataclass
class Plan:
    """What a wave of reports, at most one of each id, has to do."""

    first: list[Report] = field(default_factory=list)  # of ids of which nothing was there
    new: list[NewInstance] = field(default_factory=list)  # derived by what they add
    again: list[NewInstance] = field(default_factory=list)  # derived from all rows
    unknown: list[Instance] = field(default_factory=list)  # wait for a definition
    shown: list[Shown] = field(default_factory=list)  # change nothing but identity
    looks: list[Instance] = field(default_factory=list)  # whose classes and emblems are newer
    kept: list[Report] = field(default_factory=list)  # first bodies
    replaced: list[Report] = field(default_factory=list)  # bodies in place of others
    revisions: list[Revision] = field(default_factory=list)
    stored: set[int] = field(default_factory=set)  # ids of `again` that have an instance row
    moved: dict[int, int] = field(default_factory=dict)  # of these, the activity they leave
    others: set[int] = field(default_factory=set)  # players whom kept versions alone tell of
    outcomes: dict[int, Outcome] = field(default_factory=dict)


class _Found(NamedTuple):
    """What is there of an id: an instance, a kept body, or both."""

    hash: int | None  # of the instance; None when there is none
    date_started: datetime | None
    is_kept: bool
    digest: bytes | None
    missed: str | None  # state of its row among the missed ids

    @property
    def is_stored(self) -> bool:
        return self.hash is not None

    def is_of(self, instance: Instance) -> bool:
        """False when the stored instance is another run."""
        return (self.hash, self.date_started) in (
            (None, None),
            (instance.hash, instance.date_started),
        )


class _Kept(NamedTuple):
    body: bytes
    date_crawled: datetime | None
    parsed: Instance | Rejection


def make_plan(
    cursor: Cursor,
    wave: Mapping[int, Report],
    activities: Mapping[int, int],
    *,
    anew: bool = False,
    now: datetime,
) -> Plan:
    """The plan of `wave`, which is in ascending order; `activities` has those of defined hashes.

    With `anew` an instance whose kept body comes again gets its rows again. The caller holds the
    locks of the ids, so that what is read here stays true.
    """
    cursor.execute(_SQL["find_stored"], {"instances": array(wave)})
    found = {
        instance_id: _Found(hash_, started, is_kept, key and bytes(key), missed)
        for instance_id, hash_, started, is_kept, key, missed in cursor
    }
    planner = _Planner(cursor, activities, now, anew=anew)
    for instance_id, report in wave.items():
        planner.add(report, found.get(instance_id))
    return planner.plan


def foresee(cursor: Cursor, report: Report, *, now: datetime) -> Outcome:
    """What storing `report` alone would end as, by what is there now; reads only.

    Players who would have to stay because they are flagged are not looked for (PARTLY_REPLACED).
    """
    cursor.execute(_SQL["find_activities"], {"hashes": array([report.instance.hash])})
    instance_id = report.instance.instance_id
    plan = make_plan(cursor, {instance_id: report}, dict(cursor.fetchall()), now=now)
    return plan.outcomes[instance_id]


def read_kept(cursor: Cursor, instance_id: int, now: datetime) -> Instance | Rejection | None:
    """What the kept report of `instance_id` says; None without one."""
    cursor.execute(_SQL["read_kept"], {"instance_id": instance_id})
    row = cursor.fetchone()
    return None if row is None else parse_kept(instance_id, bytes(row[0]), now)


def parse_kept(instance_id: int, data: bytes, now: datetime) -> Instance | Rejection:
    """What a kept body says. It was accepted once: what was good enough then is good enough now."""
    try:
        body = open_body(data)
    except PermanentError as error:
        return Rejection("not_json_object", "$", str(error))
    return parse(body, now=now, expected_id=instance_id, settled=True)


class _Planner:
    """Decides report by report; reads more of those alone that differ from what is there."""

    def __init__(
        self, cursor: Cursor, activities: Mapping[int, int], now: datetime, *, anew: bool
    ) -> None:
        self.plan = Plan()
        self._anew = anew
        self._cursor = cursor
        self._activities = activities
        self._now = now

    def add(self, report: Report, found: _Found | None) -> None:
        self.plan.outcomes[report.instance.instance_id] = self._decide(report, found)

    def _decide(self, report: Report, found: _Found | None) -> Outcome:
        if found is None:
            self.plan.first.append(report)
            self.plan.kept.append(report)
            return self._add_rows(report.instance, None)
        if self._anew and found.is_stored and found.digest == digest(report.body):
            return self._restate(report.instance, found)
        if found.is_stored and not found.is_of(report.instance):
            return self._contradict(report)
        if not found.is_kept:
            return self._mend_body(report, None)
        if found.digest == digest(report.body):
            return self._repeat(report.instance, found)
        kept = self._read_kept(report.instance.instance_id)
        if isinstance(kept.parsed, Rejection):
            if found.is_stored:
                return self._mend_body(report, kept)
            self._keep(report, kept)
            return self._add_rows(report.instance, found)
        related = relation(kept.parsed, report.instance)
        if related is Relation.SAME:
            return self._repeat(report.instance, found)
        if related is Relation.CONFLICT and found.is_stored:
            return self._mend_body(report, kept)
        if related is Relation.CONFLICT:
            # It waits for the definition of its hash, or is about to be stored from its body.
            self.plan.unknown.append(kept.parsed)
            return self._contradict(report)
        return self._compete(report, kept, kept.parsed, found, related)

    def _add_rows(self, instance: Instance, found: _Found | None) -> Outcome:
        """Of an id without an instance."""
        activity_id = self._activities.get(instance.hash)
        if activity_id is None:
            self.plan.unknown.append(instance)
            return Outcome.UNKNOWN_HASH
        # A body that waits for nothing is left of an instance that somebody deleted: its players
        # may have kept their counters, and ClickHouse has its row.
        was_stored = found is not None and found.missed in (None, "resolved")
        listed = self.plan.again if was_stored else self.plan.new
        listed.append(NewInstance(instance, activity_id))
        return Outcome.STORED

    def _replace_rows(self, instance: Instance) -> Outcome:
        self.plan.again.append(NewInstance(instance, self._activities[instance.hash]))
        self.plan.stored.add(instance.instance_id)
        return Outcome.REPLACED

    def _restate(self, instance: Instance, found: _Found) -> Outcome:
        """The kept body is read anew: its rows are wrong, whatever they say."""
        if instance.hash not in self._activities:
            return Outcome.CONFLICT  # its rows cannot be of a hash that nobody defined
        if found.hash != instance.hash:
            self._cursor.execute(_SQL["find_activities"], {"hashes": array([found.hash])})
            ((_, activity_id),) = self._cursor.fetchall()
            self.plan.moved[instance.instance_id] = activity_id
        return self._replace_rows(instance)

    def _repeat(self, instance: Instance, found: _Found) -> Outcome:
        """The version whose body is kept came again."""
        return Outcome.DUPLICATE if found.is_stored else self._add_rows(instance, found)

    def _contradict(self, report: Report) -> Outcome:
        """The id was of another run before, which stays: nobody can tell which one is right."""
        self.plan.revisions.append(
            Revision(report.instance.instance_id, report.body, State.CONFLICT)
        )
        return Outcome.CONFLICT

    def _mend_body(self, report: Report, kept: _Kept | None) -> Outcome:
        """An instance whose body is gone, no report, or of another run: only its rows can tell."""
        instance = report.instance
        (row,) = read_rows(self._cursor.connection, [instance.instance_id])
        is_same = is_row_of(row, instance)
        if not is_same and _characters(row) > sum(len(p.characters) for p in instance.players):
            self._supersede(report, report.body)
            return Outcome.SUPERSEDED
        self._keep(report, kept)
        return Outcome.DUPLICATE if is_same else self._replace_rows(instance)

    def _keep(self, report: Report, instead: _Kept | None) -> None:
        """The body of `report` for one that is not there or cannot be compared with it."""
        if instead is None:
            self.plan.kept.append(report)
        else:
            self.plan.replaced.append(report)
            self._supersede(report, instead.body, instead.date_crawled)

    def _compete(
        self, report: Report, kept: _Kept, kept_instance: Instance, found: _Found, change: Relation
    ) -> Outcome:
        """Two versions of one run: the better one counts, both are sightings."""
        instance = report.instance
        better = is_better(report.body, kept.body)
        if better is None:
            # Fetched in the same second: the one that comes later, but nothing comes twice.
            better = change is Relation.IDENTITY or not self._was_superseded(report)
        if better:
            self.plan.replaced.append(report)
        if change is Relation.CONTENT:
            loser, crawled = (kept.body, kept.date_crawled) if better else (report.body, None)
            self._supersede(report, loser, crawled)
        if not found.is_stored:
            winner, loser_instance = (instance, kept_instance)
            if not better:
                winner, loser_instance = (kept_instance, instance)
            self.plan.others.update(p.membership_id for p in kept_instance.players)
            outcome = self._add_rows(winner, found)
            if outcome is Outcome.STORED:
                self._show(loser_instance, winner)
            return outcome
        if change is Relation.IDENTITY:
            self.plan.shown.append(Shown(instance, is_newest=better))
            if better:
                self.plan.looks.append(instance)
            return Outcome.SEEN_AGAIN
        if better:
            return self._replace_rows(instance)
        self._show(instance, kept_instance)
        return Outcome.SUPERSEDED

    def _show(self, loser: Instance, winner: Instance) -> None:
        """The version that does not count is a sighting of those who were there."""
        there = {player.membership_id for player in winner.players}
        players = tuple(p for p in loser.players if p.membership_id in there)
        if players:
            shown = msgspec.structs.replace(loser, players=players)
            self.plan.shown.append(Shown(shown, is_newest=False))

    def _supersede(self, report: Report, body: bytes, date_crawled: datetime | None = None) -> None:
        self.plan.revisions.append(
            Revision(report.instance.instance_id, body, State.SUPERSEDED, date_crawled)
        )

    def _was_superseded(self, report: Report) -> bool:
        version = {"instance_id": report.instance.instance_id, "digest": digest(report.body)}
        self._cursor.execute(_SQL["was_superseded"], version)
        return self._cursor.fetchone() is not None

    def _read_kept(self, instance_id: int) -> _Kept:
        self._cursor.execute(_SQL["read_kept"], {"instance_id": instance_id})
        ((data, date_crawled),) = self._cursor.fetchall()
        body = bytes(data)
        return _Kept(body, date_crawled, parse_kept(instance_id, body, self._now))


def _characters(row: Mapping[str, Any]) -> int:
    return sum(len(player["characters"]) for player in row["players"])

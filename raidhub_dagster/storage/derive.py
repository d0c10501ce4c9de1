"""First clears, sherpas, counters and fastest runs as pure functions of the stored instances.

The definitions are those of docs/domain/storage.md; here is how a set of new instances changes
what they already gave. Nothing in this module touches a database: the store reads the state that
`derive` asks for and writes what it returns, under locks that keep both true.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from raidhub_dagster.pgcr.model import Instance


class Pair(NamedTuple):
    """A player in an activity: what first clears, counters and fastest runs belong to."""

    membership_id: int
    activity_id: int


class Mark(NamedTuple):
    """A place in the order of clears; the smallest of a pair is its first clear."""

    date_completed: datetime
    instance_id: int


class Speed(NamedTuple):
    """A place in the order of fresh clears by time; the smallest of a pair is its fastest."""

    duration: int
    date_completed: datetime
    instance_id: int


class Standing(NamedTuple):
    """What one player has of one instance."""

    is_first_clear: bool
    sherpas: int


class Change(msgspec.Struct):
    """What is added to the counters of a pair; `fastest` only when there is a new one."""

    clears: int = 0
    fresh_clears: int = 0
    sherpas: int = 0
    total_time_played_seconds: int = 0
    fastest: Speed | None = None


class NewInstance(NamedTuple):
    instance: Instance
    activity_id: int

    @property
    def mark(self) -> Mark:
        return Mark(self.instance.date_completed, self.instance.instance_id)


class Completer(NamedTuple):
    """A stored row of someone who completed an instance."""

    membership_id: int
    standing: Standing


class Derived(NamedTuple):
    standings: dict[int, dict[int, Standing]]  # new instance -> completer -> standing
    changes: dict[Pair, Change]
    rewritten: dict[int, dict[int, Standing]]  # stored instance -> completer -> changed standing


def earliest_clears(new: Iterable[NewInstance]) -> dict[Pair, Mark]:
    """The earliest clear of each pair among `new`: the only candidates for a first clear."""
    earliest: dict[Pair, Mark] = {}
    for item in new:
        mark = item.mark
        for player in item.instance.players:
            if player.completed:
                pair = Pair(player.membership_id, item.activity_id)
                if pair not in earliest or mark < earliest[pair]:
                    earliest[pair] = mark
    return earliest


def displaced(earliest: Mapping[Pair, Mark], first: Mapping[Pair, Mark]) -> dict[Pair, Mark]:
    """Those first clears of `first` whose place an earlier one of `earliest` takes."""
    return {
        pair: first[pair] for pair, mark in earliest.items() if pair in first and mark < first[pair]
    }


def derive(
    new: Iterable[NewInstance],
    first: Mapping[Pair, Mark],
    fastest: Mapping[Pair, Speed],
    displaced_activity: Mapping[int, int],
    displaced_completers: Mapping[int, Iterable[Completer]],
) -> Derived:
    """What the set `new` changes, treated at once; the result equals one-by-one in any order.

    `first` has the stored first clear of each pair in `new`, or any stored clear earlier than all
    new ones of the pair, which settles the matter as well; `fastest` its stored fastest run
    (absent: none). The last two hold, for each stored instance that loses a first clear, its
    activity and all its completers.
    """
    new = list(new)
    earliest = earliest_clears(new)
    loses = displaced(earliest, first)
    changes: dict[Pair, Change] = {}
    standings: dict[int, dict[int, Standing]] = {}

    def change(pair: Pair) -> Change:
        return changes.setdefault(pair, Change())

    for item in new:
        instance = item.instance
        completers = [p.membership_id for p in instance.players if p.completed]
        firsts = {
            membership_id
            for membership_id in completers
            if earliest[pair := Pair(membership_id, item.activity_id)] == item.mark
            and (pair not in first or pair in loses)
        }
        standings[instance.instance_id] = {
            membership_id: _standing(membership_id in firsts, len(firsts))
            for membership_id in completers
        }
        for player in instance.players:
            pair = Pair(player.membership_id, item.activity_id)
            counted = change(pair)
            counted.total_time_played_seconds += player.time_played_seconds
            if not player.completed:
                continue
            counted.clears += 1
            counted.sherpas += standings[instance.instance_id][player.membership_id].sherpas
            if instance.fresh:
                counted.fresh_clears += 1
                speed = Speed(instance.duration, instance.date_completed, instance.instance_id)
                best = counted.fastest or fastest.get(pair)
                if best is None or speed < best:
                    counted.fastest = speed

    rewritten: dict[int, dict[int, Standing]] = {}
    losers: dict[int, set[int]] = {}
    for pair, mark in loses.items():
        losers.setdefault(mark.instance_id, set()).add(pair.membership_id)
    for instance_id, who in losers.items():
        before = {c.membership_id: c.standing for c in displaced_completers[instance_id]}
        firsts = {m for m, standing in before.items() if standing.is_first_clear} - who
        for membership_id, standing in before.items():
            now = _standing(membership_id in firsts, len(firsts))
            if now != standing:
                rewritten.setdefault(instance_id, {})[membership_id] = now
                if now.sherpas != standing.sherpas:
                    pair = Pair(membership_id, displaced_activity[instance_id])
                    change(pair).sherpas += now.sherpas - standing.sherpas
    return Derived(standings, changes, rewritten)


def _standing(is_first_clear: bool, newcomers: int) -> Standing:
    """Of someone who completed an instance with `newcomers` first clears."""
    return Standing(is_first_clear, 0 if is_first_clear else newcomers)

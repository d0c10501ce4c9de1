"""What learned scores add to the rules on simulated worlds, whose truth is known.

As in production: a model learns from what rules said of other runs, and people look only at
player-instances of which the rules are not sure.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.verdict import Verdict, flagged_players, is_flagged
from raidhub_dagster.cheat_learning.evaluation import evaluate
from raidhub_dagster.cheat_learning.features import Flags, Ints, Rows
from raidhub_dagster.cheat_learning.labels import SURE, Known, Labelled, label
from raidhub_dagster.cheat_learning.models import Model, score, train
from tests.support.cheat_runs import measures
from tests.support.judged import Case

PRECISION = 0.98  # of what is queued, at least; what rules are held to
_WEEK_S = 604_800
_LARGEST_TEAM = 49

Judged = tuple[Case, Verdict]
Pair = tuple[int, int]  # instance, player


class Adviser(NamedTuple):
    """A model, and the score from which on somebody is queued."""

    model: Model
    threshold: float

    def queue(self, parameters: Parameters, judged: Sequence[Judged]) -> set[Pair]:
        """Whom people would be asked to look at in these runs, which are those of one world."""
        rows = _left(parameters, judged)
        rows = rows.take(score(self.model, rows).total >= self.threshold)
        return set(_pairs(rows))


def learn(parameters: Parameters, shown: Sequence[Judged], tuned: Sequence[Judged]) -> Adviser:
    """Learns from the verdicts on `shown`; each of the two is of one world.

    The threshold has PRECISION in `tuned`, by the truth.
    """
    known = _labelled(parameters, shown)
    model = train(known.rows, known.positive, known.negative, known.weights)
    rows = _left(parameters, tuned)
    guilty = {(case.facts.instance_id, who) for case, _ in tuned for who in case.cheating}
    found = evaluate(
        score(model, rows).total,
        _among(rows, guilty),
        np.ones(len(rows)),
        precision=PRECISION,
        split="seed",
        held_out="",
    )
    return Adviser(model, found.threshold)


def _left(parameters: Parameters, judged: Sequence[Judged]) -> Rows:
    """Rows of which the rules are not sure."""
    certain = parameters.blacklist.flagged.probability
    sure = {
        (verdict.instance_id, player.membership_id)
        for _, verdict in judged
        for player in verdict.players
        if player.probability >= SURE or verdict.probability >= certain
    }
    rows = rows_of(parameters, [case for case, _ in judged])
    return rows.take(~_among(rows, sure))


def rows_of(parameters: Parameters, cases: Sequence[Case]) -> Rows:
    """Rows of the runs that a reading from ClickHouse would have; all of one season."""
    kept = [case for case in cases if _is_read(parameters, case)]
    listed = [
        (run, case.facts, player, tally)
        for run, case in enumerate(kept)
        for player, tally in zip(case.facts.players, case.tallies, strict=True)
    ]
    counts = np.array(
        [
            (
                *(run, player.time_played_seconds, player.kills),
                *(tally.deaths, tally.assists, tally.precise),
                *(player.super_kills, player.grenade_kills, player.melee_kills),
                sum(w.kills for w in player.weapons if w.is_heavy),
                sum(w.kills for w in player.weapons),
                *(tally.weapons, tally.top, tally.start, facts.duration, facts.player_count),
            )
            for run, facts, player, tally in listed
        ],
        dtype=np.int64,
    ).reshape(-1, 16)
    names = (
        *("run", "seconds", "kills", "deaths", "assists", "precise", "supers", "grenades"),
        *("melees", "heavy", "weapon_kills", "weapons", "top", "start", "duration", "size"),
    )
    raw = dict(zip(names, counts.T, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):  # who was there for no time: left out
        values = measures(raw)

    def column(of: Iterable[float]) -> Ints:
        return np.fromiter(of, dtype=np.int64, count=len(listed))

    rows = Rows(
        column(facts.instance_id for _, facts, *_ in listed),
        column(player.membership_id for *_, player, _ in listed),
        column(facts.activity_id for _, facts, *_ in listed),
        column(facts.version_id for _, facts, *_ in listed),
        np.zeros(len(listed), dtype=np.int64),
        column(facts.player_count for _, facts, *_ in listed),
        column(facts.fresh is True for _, facts, *_ in listed).astype(np.bool_),
        column(facts.date_completed.timestamp() // _WEEK_S for _, facts, *_ in listed),
        np.ones(len(listed), dtype=np.bool_),
        values,
    )
    return rows.take(raw["seconds"] >= 60)


def _is_read(parameters: Parameters, case: Case) -> bool:
    facts = case.facts
    return (
        facts.completed
        and facts.duration >= 60
        and 0 < facts.player_count <= _LARGEST_TEAM
        and not facts.is_saturated
        and not any(
            window.overlaps(facts.date_started, facts.date_completed)
            for window in parameters.skip.windows
        )
    )


def _labelled(parameters: Parameters, judged: Sequence[Judged]) -> Labelled:
    """As they are before anybody has a level."""
    known = Known(
        confirmed={
            (v.instance_id, p.membership_id): p.bitmask
            for _, v in judged
            for p in v.players
            if p.probability >= SURE
        },
        dismissed=(),
        clean=[
            v.instance_id
            for _, v in judged
            if v.skipped is None
            and not is_flagged(parameters, v)
            and not flagged_players(parameters, v)
        ],
        doubtful=(),
    )
    return label(rows_of(parameters, [case for case, _ in judged]), known, modulus=1)


def _pairs(rows: Rows) -> list[Pair]:
    return list(zip(rows.instance_ids.tolist(), rows.membership_ids.tolist(), strict=True))


def _among(rows: Rows, pairs: Collection[Pair]) -> Flags:
    return np.array([pair in pairs for pair in _pairs(rows)], dtype=np.bool_)

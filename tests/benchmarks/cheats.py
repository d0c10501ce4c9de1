"""How well the cheat rules tell cheaters from the innocent, on worlds that know who is which.

`precision` and `recall` are of runs: one counts as flagged when its own chance or that of one of
its players is at least 0.5; recall is over the styles of cheating that rules look for. `level_*`
are of players at level 3 or above. `brier` and `calibration_error` (of ten bins) ask whether a
chance of 0.7 is right seven times of ten. Tables go to stderr. The world and every account in it
are a function of the seeds: those in TUNING_SEEDS are for whoever changes a rule or the world,
figures are told of REPORTING_SEEDS only.

`queue_precision` is that of the player-instances which a learned score would have people look at,
those left out of which the rules are sure; `queue_recall` is of runs, over the styles without a
rule. The model learns from the rules' verdicts on a world where cheats are rarer, and its threshold
is set on another one.

`instances_per_second` are stored runs that two processes check against PostgreSQL, from the ids to
the commit; `worker_cpu_ms` is what one of them costs its process, `grown_mb` the memory that came
on top after a third of the work. `rules_per_second` are the rules alone in one process.
"""

import multiprocessing
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cache
from typing import NamedTuple

import psutil

from raidhub_dagster.cheat_detection.account import (
    Counts,
    Profile,
    Record,
    judge,
    judge_account,
)
from raidhub_dagster.cheat_detection.checking import BATCH, Outcome, check_batch
from raidhub_dagster.cheat_detection.flag_stats import Flag, classes_of
from raidhub_dagster.cheat_detection.parameters import (
    DEFAULT_VERSION,
    FOLDER,
    Parameters,
    load_parameters,
)
from raidhub_dagster.cheat_detection.rules import check
from raidhub_dagster.cheat_detection.verdict import Verdict
from raidhub_dagster.cheat_learning.models import is_installed
from raidhub_dagster.pgcr.envelope import pack, stamped
from raidhub_dagster.pgcr.model import Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.store import Report, Store
from raidhub_dagster.storage.young import Rechecks
from simulator.conduct import FRESH_ACCOUNT, STYLES, JudgedWorld
from simulator.reports import Reports
from simulator.world import FIRST_ID
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import server
from tests.support.judged import CHEATED, NOW, Case, make_world, read_cases, with_norms
from tests.support.learned import Adviser, learn

TUNING_SEEDS = (101, 102)
REPORTING_SEEDS = (9101, 9102, 9103)
RUNS = 8_000  # of each seed
STORED, WORKERS = 12_000, 2  # runs that are checked in PostgreSQL, by so many processes
FLAGGED = 0.5
LEVEL = 3
COVERED = tuple(style for style in STYLES if style != FRESH_ACCOUNT)
UNCOVERED = tuple(style for style in STYLES if style not in COVERED)
# Where every seventh run is cheated, cheaters are not odd. In the real game they are rarer still.
LEARNED_SHARE = 0.03


class Judged(NamedTuple):
    seed: int
    case: Case
    verdict: Verdict

    @property
    def chance(self) -> float:
        """The run's own, or that of its most suspicious player."""
        return max(self.verdict.probability, *(p.probability for p in self.verdict.players), 0.0)

    @property
    def is_flagged(self) -> bool:
        return self.chance >= FLAGGED


class Standing(NamedTuple):
    """A player at the end: how they cheat (None: they do not), and their level."""

    style: str | None
    level: int
    flags: int


class Evaluation(NamedTuple):
    judged: list[Judged]
    players: list[Standing]  # who has a flag, and every cheater
    rules_per_second: float


def judge_worlds(
    parameters: Parameters, seeds: Sequence[int], runs: int, *, cheaters: float = CHEATED
) -> Evaluation:
    """Every run of these worlds judged, then every player by what was flagged."""
    worlds = {seed: make_world(seed, cheaters=cheaters) for seed in seeds}
    cases = [(seed, case) for seed in seeds for case in _cases(seed, runs, cheaters)]
    usual = with_norms(parameters, [case for _, case in cases])
    began = time.perf_counter()
    verdicts = [check(parameters, case.facts) for case in usual]
    seconds = time.perf_counter() - began
    judged = [
        Judged(seed, case, verdict)
        for (seed, _), case, verdict in zip(cases, usual, verdicts, strict=True)
    ]
    players = [
        standing
        for seed, world in worlds.items()
        for standing in judge_players(parameters, world, [j for j in judged if j.seed == seed])
    ]
    return Evaluation(judged, players, len(verdicts) / seconds)


@cache
def _cases(seed: int, runs: int, cheaters: float) -> list[Case]:
    return list(read_cases(make_world(seed, cheaters=cheaters), runs))


# --- players ------------------------------------------------------------------------------------


def judge_players(
    parameters: Parameters, world: JudgedWorld, judged: Sequence[Judged]
) -> list[Standing]:
    """Levels as the batch job would give them when every profile can be read.

    Nobody's history is older than the world, so that most accounts count as young: harder on the
    honest than the real game.
    """
    flags: dict[int, list[tuple[str, str]]] = defaultdict(list)  # classes of each
    runs: dict[int, list[Case]] = defaultdict(list)
    for each in judged:
        verdict = each.verdict
        for player in verdict.players:
            runs[player.membership_id].append(each.case)
            if player.probability > parameters.thresholds.player_store:
                own = Flag(player.probability, player.bitmask)
                of_run = Flag(verdict.probability, verdict.bitmask)
                flags[player.membership_id].append(classes_of(parameters.classes, own, of_run))
    cheaters = {world.player(world.cheater(i)).membership_id for i in range(world.cheaters)}
    return [
        _stand(parameters, world, who, flags.get(who, []), runs.get(who, []))
        for who in sorted(flags.keys() | cheaters)
    ]


def _stand(
    parameters: Parameters,
    world: JudgedWorld,
    membership_id: int,
    flags: Sequence[tuple[str, str]],
    runs: Sequence[Case],
) -> Standing:
    player = world.player_of(membership_id)
    if player is None:
        raise LookupError(f"{membership_id} is not of this world")
    account = world.account(player.number)
    done = [case.facts for case in runs if case.facts.completed]
    recent = [f for f in done if (NOW - f.date_started).days < parameters.account.window_days]
    record = Record(
        membership_id=membership_id,
        membership_type=player.membership_type,
        name="",
        first_seen=min((case.facts.date_started for case in runs), default=NOW),
        last_seen=max((case.facts.date_completed for case in runs), default=NOW),
        clears=sum(
            p.completed for f in done for p in f.players if p.membership_id == membership_id
        ),
        is_private=player.is_private,
        was_crawled=True,
        cheat_level=0,
        completed=len(recent),
        lowman=sum(
            f.player_count <= parameters.account.star_clears.lowman_max_players for f in recent
        ),
        flawless=sum(f.flawless is True for f in recent),
        solo=sum(f.player_count == 1 for f in recent),
    )
    profile = Profile(
        membership_types=player.applicable,
        characters=account.characters,
        versions_owned=account.versions_owned,
        seasons=account.seasons,
        current_rank=account.rank,
        highest_rank=account.lifetime_rank,
    )
    chance = judge_account(parameters.account, record, profile, NOW).chance
    whole, sure = (_count(names[place] for names in flags) for place in (0, 1))
    level = judge(parameters, whole, sure, chance).level
    return Standing(world.style_of(player.number), level, len(flags))


def _count(names: Iterable[str]) -> Counts:
    found = list(names)
    return Counts(*(found.count(name) for name in "abcd"))


# --- figures ------------------------------------------------------------------------------------


def figures(evaluation: Evaluation) -> Figures:
    judged = evaluation.judged
    flagged = [j for j in judged if j.is_flagged]
    covered = [j for j in judged if j.case.conduct in COVERED]
    blamed = [
        p.membership_id in j.case.cheating
        for j in judged
        for p in j.verdict.players
        if p.probability >= FLAGGED
    ]
    innocent = [j.chance for j in judged if not j.case.is_cheated and j.case.conduct]
    ordinary = [j.chance for j in judged if not j.case.conduct]
    raised = [p for p in evaluation.players if p.level >= LEVEL]
    cheaters = [p for p in evaluation.players if p.style in COVERED]
    return {
        "precision": _share(j.case.is_cheated for j in flagged),
        "recall": _share(j.is_flagged for j in covered),
        "innocent_max": max(innocent, default=0.0),
        "ordinary_max": max(ordinary, default=0.0),
        "brier": _brier(judged),
        "calibration_error": _calibration_error(judged),
        "blamed_precision": _share(blamed),
        "level_precision": _share(p.style is not None for p in raised),
        "level_recall": _share(p.level >= LEVEL for p in cheaters),
        "rules_per_second": evaluation.rules_per_second,
    }


def _share(held: Iterable[bool]) -> float:
    """Of all; 1 of none, because nothing was wrong."""
    found = list(held)
    return sum(found) / len(found) if found else 1.0


def _brier(judged: Sequence[Judged]) -> float:
    """Mean squared distance of the chances from what was true; 0 is perfect."""
    if not judged:
        return 0.0
    return sum((j.chance - j.case.is_cheated) ** 2 for j in judged) / len(judged)


def _bins(judged: Sequence[Judged]) -> list[list[Judged]]:
    bins: list[list[Judged]] = [[] for _ in range(10)]
    for j in judged:
        bins[min(int(j.chance * 10), 9)].append(j)
    return bins


def _calibration_error(judged: Sequence[Judged]) -> float:
    """Mean distance of a bin's chances from its share of cheats, weighed by its runs."""
    error = sum(
        abs(sum(j.chance for j in found) - sum(j.case.is_cheated for j in found))
        for found in _bins(judged)
    )
    return error / max(len(judged), 1)


# --- learned scores -----------------------------------------------------------------------------

Queued = frozenset[tuple[int, int, int]]
"""Seed, instance and player of those whom people would be asked to look at."""


def learn_from_worlds(parameters: Parameters, runs: int) -> Adviser:
    """Learned and tuned on the tuning seeds."""
    shown, tuned = TUNING_SEEDS
    rare = judge_worlds(parameters, [shown], runs, cheaters=LEARNED_SHARE)
    usual = judge_worlds(parameters, [tuned], runs)
    return learn(parameters, _verdicts(rare.judged), _verdicts(usual.judged))


def queue(parameters: Parameters, adviser: Adviser, judged: Sequence[Judged]) -> Queued:
    by_seed: dict[int, list[Judged]] = defaultdict(list)
    for j in judged:
        by_seed[j.seed].append(j)
    return frozenset(
        (seed, instance_id, player)
        for seed, mine in by_seed.items()
        for instance_id, player in adviser.queue(parameters, _verdicts(mine))
    )


def _verdicts(judged: Sequence[Judged]) -> list[tuple[Case, Verdict]]:
    return [(j.case, j.verdict) for j in judged]


def _is_found(judged: Judged, queued: Queued) -> bool:
    """Whether a cheater of the run is queued."""
    instance_id = judged.case.facts.instance_id
    return any((judged.seed, instance_id, who) in queued for who in judged.case.cheating)


def queue_figures(judged: Sequence[Judged], queued: Queued) -> Figures:
    guilty = {(j.seed, j.case.facts.instance_id, who) for j in judged for who in j.case.cheating}
    return {
        "queue_precision": _share(look in guilty for look in queued),
        "queue_recall": _share(_is_found(j, queued) for j in judged if j.case.conduct in UNCOVERED),
    }


def queue_table(judged: Sequence[Judged], queued: Queued) -> str:
    """Recall of runs by style: of the rules, of the queue, of either; and who is queued wrongly."""
    rows: list[Row] = []
    for style in STYLES:
        mine = [j for j in judged if j.case.conduct == style]
        found = [_is_found(j, queued) for j in mine]
        either = [j.is_flagged or of_queue for j, of_queue in zip(mine, found, strict=True)]
        has_rule = "yes" if style in COVERED else "no"
        by_rules = _share(j.is_flagged for j in mine)
        rows.append((style, has_rule, len(mine), by_rules, _share(found), _share(either)))
    wrong: dict[str, int] = defaultdict(int)
    for j in judged:
        for player in j.verdict.players:
            look = (j.seed, j.case.facts.instance_id, player.membership_id)
            if look in queued and player.membership_id not in j.case.cheating:
                wrong[j.case.conduct or "ordinary"] += 1
    return "\n\n".join(
        (
            _table(("learned score", "rule", "runs", "by rules", "queued", "either"), rows),
            _table(("queued wrongly, in runs", "players"), sorted(wrong.items())),
        )
    )


# --- tables -------------------------------------------------------------------------------------


def tables(evaluation: Evaluation) -> str:
    """What the figures are made of: styles, innocents, raids, bins and levels."""
    judged = evaluation.judged
    by_conduct: dict[str, list[Judged]] = defaultdict(list)
    by_raid: dict[int, list[Judged]] = defaultdict(list)
    for j in judged:
        by_conduct[j.case.conduct].append(j)
        by_raid[j.case.facts.activity_id].append(j)
    return "\n\n".join(
        (
            _table(
                ("style", "runs", "recall", "of runs", "of cheaters", "mean", "brier"),
                [_style(style, by_conduct[style]) for style in STYLES],
            ),
            _table(
                ("innocent", "runs", "above", "most of a run", "most of a player"),
                [
                    _innocent(kind or "ordinary", found)
                    for kind, found in sorted(by_conduct.items())
                    if kind not in STYLES
                ],
            ),
            _table(
                ("raid", "runs", "cheated", "precision", "recall", "brier"),
                [_raid(found) for _, found in sorted(by_raid.items())],
            ),
            _table(
                ("chance", "runs", "mean", "cheated"),
                [_bin(place, found) for place, found in enumerate(_bins(judged)) if found],
            ),
            _table(
                ("players", "all", *(f"level {level}" for level in range(5))),
                [
                    _levels(style or "honest, flagged", evaluation.players, style)
                    for style in (*STYLES, None)
                ],
            ),
        )
    )


Row = tuple[str | int | float, ...]


def _style(style: str, judged: Sequence[Judged]) -> Row:
    players = [
        p.probability >= FLAGGED
        for j in judged
        for p in j.verdict.players
        if p.membership_id in j.case.cheating
    ]
    return (
        style,
        len(judged),
        _share(j.is_flagged for j in judged),
        _share(j.verdict.probability >= FLAGGED for j in judged),
        _share(players),
        sum(j.chance for j in judged) / max(len(judged), 1),
        _brier(judged),
    )


def _innocent(kind: str, judged: Sequence[Judged]) -> Row:
    return (
        kind,
        len(judged),
        sum(j.chance > FLAGGED for j in judged),
        max(j.verdict.probability for j in judged),
        max((p.probability for j in judged for p in j.verdict.players), default=0.0),
    )


def _raid(judged: Sequence[Judged]) -> Row:
    covered = [j for j in judged if j.case.conduct in COVERED]
    flagged = [j for j in judged if j.is_flagged]
    return (
        judged[0].case.facts.activity_name,
        len(judged),
        len(covered),
        _share(j.case.is_cheated for j in flagged),
        _share(j.is_flagged for j in covered),
        _brier(judged),
    )


def _bin(place: int, judged: Sequence[Judged]) -> Row:
    return (
        f"{place / 10:.1f}-{(place + 1) / 10:.1f}",
        len(judged),
        sum(j.chance for j in judged) / len(judged),
        _share(j.case.is_cheated for j in judged),
    )


def _levels(name: str, players: Sequence[Standing], style: str | None) -> Row:
    mine = [p for p in players if p.style == style]
    return (name, len(mine), *(sum(p.level == level for p in mine) for level in range(5)))


def _table(head: Sequence[str], rows: Sequence[Row]) -> str:
    lines = [list(head)] + [
        [f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


# --- throughput ---------------------------------------------------------------------------------


def store_runs(settings: Settings, numbers: Sequence[int]) -> None:
    """Stores runs of a world, by their place in it; a process that did is ready to check."""
    load_parameters()
    world = make_world(TUNING_SEEDS[0])
    reports = Reports(world)
    with closing(connect(settings, "bench")) as connection:
        store = Store(connection, rechecks=Rechecks.of(settings))
        for start in range(0, len(numbers), BATCH):
            found = []
            for number in numbers[start : start + BATCH]:
                text = reports.response(world.run(FIRST_ID + number)).encode()
                instance = parse(text, now=NOW)
                assert not isinstance(instance, Rejection), instance
                found.append(Report(instance, stamped(pack(text), NOW)))
            store.store(found, source="bench")


def check_runs(settings: Settings, numbers: Sequence[int]) -> tuple[float, float]:
    """Checks stored runs as the topic does, a transaction a batch.

    MB of memory that came on top after the first third, and seconds of processor time.
    """
    process, parameters = psutil.Process(), load_parameters()
    before, warm = process.cpu_times(), 0
    with closing(connect(settings, "bench")) as connection:
        for start in range(0, len(numbers), BATCH):
            ids = [FIRST_ID + number for number in numbers[start : start + BATCH]]
            with connection:
                outcomes = check_batch(connection, parameters, ids)
            assert set(outcomes.values()) == {Outcome.CHECKED}, outcomes
            if start <= len(numbers) // 3:
                warm = process.memory_info().rss
    after = process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return (process.memory_info().rss - warm) / 2**20, cpu_s


def throughput(runs: int = STORED) -> Figures:
    """Every run is new to the version, one of seven is cheated."""
    with server() as settings, multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        parts = [(settings, range(part, runs, WORKERS)) for part in range(WORKERS)]
        pool.starmap(store_runs, parts, chunksize=1)
        began = time.perf_counter()
        spent = pool.starmap(check_runs, parts, chunksize=1)
        seconds = time.perf_counter() - began
    return {
        "instances_per_second": runs / seconds,
        "worker_cpu_ms": 1000 * sum(cpu_s for _, cpu_s in spent) / runs,
        "grown_mb": max(grown for grown, _ in spent),
    }


def run() -> Figures:
    """Figures of the default version; of any other its name stands before them."""
    found: Figures = {}
    for version in sorted(path.stem for path in FOLDER.glob("*.yaml")):
        evaluation = judge_worlds(load_parameters(version), REPORTING_SEEDS, RUNS)
        sys.stderr.write(f"{version}\n\n{tables(evaluation)}\n\n")
        its = figures(evaluation)
        is_default = version == DEFAULT_VERSION
        found |= its if is_default else {f"{version}_{name}": its[name] for name in its}
        if is_default and is_installed():
            parameters = load_parameters(version)
            queued = queue(parameters, learn_from_worlds(parameters, RUNS), evaluation.judged)
            sys.stderr.write(f"{queue_table(evaluation.judged, queued)}\n\n")
            found |= queue_figures(evaluation.judged, queued)
    return found | throughput()


if __name__ == "__main__":
    report(run)

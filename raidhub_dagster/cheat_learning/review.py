"""The queue of player-instances that people should look at, and what they decide.

It advises: from here no way leads to a level, a flag or a blacklist. What was decided stays as it
is and teaches the next model. Rules: docs/domain/cheat-learning.md, "The queue".
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class
from psycopg2.extras import RealDictCursor

from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_learning.artifact import PREFIX
from raidhub_dagster.cheat_learning.features import (
    Floats,
    Rows,
    Window,
    count_players,
    find_usual,
    read_rows,
)
from raidhub_dagster.cheat_learning.labels import SURE, Pair, slices
from raidhub_dagster.cheat_learning.models import Model, score, score_usual
from raidhub_dagster.cheat_learning.reasons import Reason, find_reasons
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.leaderboards import count_places
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "review_queue")

_MOST_CANDIDATES = 5000  # with the highest scores: of these the worth is looked up
_SHOWN = 50
_HIDDEN_LEVEL = 2  # from here on boards of players leave somebody out


class Decision(StrEnum):
    CONFIRMED = "confirmed"
    DISMISSED = "dismissed"


def worth_of(*, boards: int, clears: int, is_hidden: bool) -> float:
    """What it is worth to confirm that a run was cheated.

    1, and 2 for each place of a team that the run holds, and half the logarithm of the player's
    clears, which all boards of players rank; a quarter of that when those boards leave the player
    out already.
    """
    worth = 1 + 2 * boards + math.log1p(max(clears, 0)) / 2
    return worth / 4 if is_hidden else worth


@dataclass
class Reviewed:
    """What a round did; `first` are the rows to look at first, of all that are open."""

    scored: int
    found: int  # scores that were high enough
    added: int = 0
    renewed: int = 0  # open before, with a new score now
    moot: int = 0  # taken out: nothing is left to find out
    seconds: float = 0.0
    states: dict[str, int] = field(default_factory=dict)
    first: list[dict[str, Any]] = field(default_factory=list)


def review(
    connection: Connection,
    client: Client,
    model: Model,
    version: str,
    window: Window,
    parameters: Parameters,
    *,
    at_least: float,
    most: int,
) -> Reviewed:
    """Scores every run of the window and queues the `most` with the highest expected value.

    Only scores of `at_least`, and only where somebody may gain from looking. A second time changes
    nothing, and decided rows never change. Raises as `read_rows`, and psycopg2's errors.
    """
    started = time.monotonic()
    scored, rows, totals = _best(client, model, window, at_least)
    done = Reviewed(scored, len(rows))
    scope = {"sure": SURE, "prefixes": list(parameters.flag_prefixes)}
    with connection, connection.cursor() as cursor:
        worth = _worths(cursor, rows, scope)
        pairs = list(zip(rows.instance_ids.tolist(), rows.membership_ids.tolist(), strict=True))
        valued = [
            (-totals[place] * worth[pair], pair, place)
            for place, pair in enumerate(pairs)
            if pair in worth
        ]
        chosen = np.array([place for *_, place in sorted(valued)[:most]], dtype=np.int64)
        if len(chosen):
            best = rows.take(chosen)
            usual = find_usual(model.norms, best)
            scores, spreads = score_usual(model, best, usual)
            reasons = find_reasons(model, best, usual, spreads, scores.total)
            worths = [worth[pairs[place]] for place in chosen]
            outcomes = _enqueue(cursor, best, scores.total, worths, reasons, version)
            done.added, done.renewed = outcomes[True], outcomes[False]
        cursor.execute(_SQL["drop_moot"], scope)
        done.moot = cursor.rowcount
    done.states, done.first = read_queue(connection)
    done.seconds = time.monotonic() - started
    return done


def read_queue(connection: Connection) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Rows by state, and the open ones with the highest expected value, reasons as objects."""
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_SQL["count_states"])
        states = {row["state"]: row["count"] for row in cursor}
        cursor.execute(_SQL["read_first"], {"limit": _SHOWN})
        return states, [dict(row) for row in cursor]


def _best(
    client: Client, model: Model, window: Window, at_least: float
) -> tuple[int, Rows, Floats]:
    """How many rows were scored, and those with the highest scores."""
    scored, kept, totals = 0, [], []
    for part in slices(window, count_players(client, window)):
        rows = read_rows(client, part)
        total = score(model, rows).total
        high = total >= at_least
        scored += len(rows)
        kept.append(rows.take(high))
        totals.append(total[high])
    all_rows, all_totals = Rows.joined(kept), np.concatenate(totals)
    order = np.argsort(-all_totals, kind="stable")[:_MOST_CANDIDATES]
    return scored, all_rows.take(order), all_totals[order]


def _worths(cursor: Cursor, rows: Rows, scope: Mapping[str, Any]) -> dict[Pair, float]:
    """What a look is worth, of those rows that somebody may gain from looking at."""
    instances, players = rows.instance_ids.tolist(), rows.membership_ids.tolist()
    places = count_places(cursor, instances)
    pairs = {"players": array(players), "instances": array(instances)}
    cursor.execute(_SQL["read_candidates"], {**scope, **pairs})
    return {
        (instance, player): worth_of(
            boards=places[instance],
            clears=clears,
            is_hidden=level >= _HIDDEN_LEVEL or is_private,
        )
        for player, instance, clears, level, is_private in cursor
    }


def _enqueue(
    cursor: Cursor,
    rows: Rows,
    totals: Floats,
    worths: Sequence[float],
    reasons: Sequence[Sequence[Reason]],
    version: str,
) -> Counter[bool]:
    """Counts of rows that are new (True) and that were there."""
    texts = [msgspec.json.encode([r._asdict() for r in row]).decode() for row in reasons]
    cursor.execute(
        _SQL["enqueue"],
        {
            "players": array(rows.membership_ids.tolist()),
            "instances": array(rows.instance_ids.tolist()),
            "scores": array(np.round(totals, 6).tolist()),
            "worths": array(np.round(worths, 6).tolist()),
            "reasons": texts,
            "version": version,
        },
    )
    return Counter(is_new for (is_new,) in cursor)


@dataclass(frozen=True)
class Decided:
    """`changed` are, or would be, decided now; `known` were before, and stay as they were."""

    changed: list[dict[str, Any]]
    known: list[dict[str, Any]]


def decide(
    connection: Connection,
    ids: Sequence[int],
    decision: Decision,
    *,
    actor: str,
    dry_run: bool,
) -> Decided:
    """Writes down what `actor` thinks of open rows of the queue, by their ids; nothing else.

    A decision is final. Raises PermanentError for no id, an id that no row has, or no actor; then
    nothing is decided.
    """
    if not ids:
        raise PermanentError("ids: none is given")
    if not actor.strip():
        raise PermanentError("actor: nobody is named")
    scope = {"ids": array(sorted(set(ids))), "decision": str(decision), "actor": actor.strip()}
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_SQL["read_listed"], scope)
        rows = [dict(row) for row in cursor]
        if missing := sorted(set(ids) - {row["id"] for row in rows}):
            raise PermanentError(f"ids: no row of the review queue has {missing}")
        if not dry_run:
            cursor.execute(_SQL["decide"], scope)
    return Decided(
        [row for row in rows if row["state"] == "open"],
        [row for row in rows if row["state"] != "open"],
    )


def check_advice(connection: Connection) -> list[Problem]:
    """Flags, blacklists and levels that name a model instead of a rule or a person; best none."""
    scope = {"prefix": PREFIX}
    with connection, connection.cursor() as cursor:
        return [
            *find_broken(cursor, _SQL["check_flags"], "a flag comes from a learned score", scope),
            *find_broken(
                cursor, _SQL["check_blacklists"], "a blacklist comes from a learned score", scope
            ),
            *find_broken(cursor, _SQL["check_levels"], "a level comes from a learned score", scope),
        ]

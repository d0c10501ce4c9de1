"""Notices new seasons, activities, versions and hashes, and has what depends on them done again."""

import json
from collections.abc import Mapping
from hashlib import sha256

import dagster as dg

from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.jobs.leaderboards import leaderboards_job
from raidhub_dagster.resources import TICK_LIMIT_S, DiscordResource, PostgresResource
from raidhub_dagster.storage.definitions import Definition, load_digests

_WORDS = {
    "activity_definition": "activities",
    "version_definition": "versions",
    "activity_version": "hashes",
    "season": "seasons",
}

# Table -> key -> digest of the row. Keys are texts, as JSON has them.
State = Mapping[str, Mapping[str, str]]


def follow_definitions(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, discord: DiscordResource
) -> dg.SensorResult | dg.SkipReason:
    """One run of all leaderboards, with the sums and scores they rank, when a definition changed.

    The cursor is JSON: `rows`, and `changes`, the number of changes seen. The first tick only
    remembers. With a cursor that cannot be read it is unknown what is new: nobody is told, and the
    run has a key of the definitions alone, so that however often that happens there is one run.
    """
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        definitions = load_digests(connection)
    before, changes = _read_cursor(context.cursor)
    after: dict[str, dict[str, str]] = {table: {} for table in _WORDS}
    for row in definitions:
        after[row.table][str(row.key)] = row.digest
    if after == before:
        return dg.SkipReason(f"none of {len(definitions)} definitions changed")
    cursor = json.dumps({"rows": after, "changes": changes + 1})
    if not context.cursor:
        reason = dg.SkipReason(f"the first look at {len(definitions)} definitions")
        return dg.SensorResult(skip_reason=reason, cursor=cursor)
    if before is not None:
        with discord.alerts() as alerts:
            alerts.send(
                Alert(
                    "definitions_changed",
                    "Definitions Changed",
                    Colour.BLUE,
                    _news(definitions, before, after),
                )
            )
    digest = sha256("".join(d.digest for d in definitions).encode()).hexdigest()
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"definitions:{digest[:12]}:{changes}")],
        cursor=cursor,
    )


def _read_cursor(cursor: str | None) -> tuple[State | None, int]:
    """The state told so far, None when there is none, and how many changes there were."""
    try:
        told = json.loads(cursor or "")
        rows, changes = told["rows"], int(told["changes"])
        return {table: dict(rows[table]) for table in _WORDS}, changes
    except (ValueError, TypeError, KeyError, OverflowError):
        return None, 0


def _news(
    definitions: list[Definition], before: State, after: State
) -> dict[str, str | int | float]:
    """What people read: names of what is new, names of what changed, how many left."""
    news: dict[str, str | int | float] = {}
    for table, word in _WORDS.items():
        rows = [d for d in definitions if d.table == table]
        new = [d for d in rows if str(d.key) not in before[table]]
        other = [d for d in rows if before[table].get(str(d.key), d.digest) != d.digest]
        gone = before[table].keys() - after[table].keys()
        for told, found in (("New", new), ("Changed", other)):
            if found:
                news[f"{told} {word}"] = ", ".join(f"{d.name} ({d.key})" for d in found)
        if gone:
            news[f"Gone {word}"] = ", ".join(sorted(gone))
    return news


definitions_changed_sensor = dg.sensor(
    name="definitions_changed_sensor",
    minimum_interval_seconds=120,
    default_status=dg.DefaultSensorStatus.RUNNING,
    job=leaderboards_job,
    description="Every 2 minutes: new or changed seasons, activities, versions and hashes are told "
    "in Discord, and leaderboards_job brings sums, scores and boards to them.",
)(follow_definitions)

"""One report explained: what the API says, what the parser derives, what storing it would change.

The repairs of single ids and of malformed ones. Previews read only; storing is the store's
business (storage/store.py), which also knows how to replace what it has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging.messages import MAX_ID
from raidhub_dagster.pgcr.envelope import pack, stamped
from raidhub_dagster.pgcr.model import Instance, Player, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.recovery.fetch import Fetched, fetch_report
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.plan import Outcome, foresee, read_kept
from raidhub_dagster.storage.store import Report, Store
from raidhub_dagster.storage.young import Rechecks

# What we make of each kind of answer, for a person who asks about one id.
MEANING = {
    ResultKind.SUCCESS: "a raid that can be stored",
    ResultKind.NON_RAID: "published, but no raid or Pantheon: we do not keep it",
    ResultKind.NOT_FOUND: "not published, or not yet",
    ResultKind.INSUFFICIENT_PRIVILEGES: "it exists and is withheld (code 12)",
    ResultKind.BAD_FORMAT: "the answer cannot be used",
    ResultKind.EXTERNAL_ERROR: "the API failed; says nothing about the id",
    ResultKind.RATE_LIMITED: "we were throttled; says nothing about the id",
}
_MOST_CHANGES = 50
_NOTHING = "-"
Row = Mapping[str, object]


@dataclass(frozen=True)
class Explained:
    """Everything about one id. `outcome` is what the store does with it, None when nothing can."""

    instance_id: int
    fetched: Fetched
    instance: Instance | None
    report: Report | None
    outcome: Outcome | None
    derived: list[Row] = field(default_factory=list)
    players: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)  # of what is kept; empty without


def check_id(instance_id: int) -> None:
    if not 0 < instance_id <= MAX_ID:
        raise PermanentError(f"id must be between 1 and 2^63-1, not {instance_id}")


def explain(
    connection: Connection,
    client: BungieClient,
    instance_id: int,
    *,
    force: bool = False,
    now: datetime | None = None,
) -> Explained:
    """Fetches and explains; changes nothing.

    `force` reads a report as one that never grows any more, so that some defects are accepted
    before 48 h are over. Raises PermanentError for an impossible id, MaintenanceError, and
    UnavailableError.
    """
    check_id(instance_id)
    at = now or datetime.now(UTC)
    with connection:
        tracked = load_tracked_hashes(connection)
    fetched = fetch_report(client, instance_id, tracked, now=lambda: at, past_caches=True)
    instance, response = fetched.instance, fetched.result.response
    if instance is None and force and response is not None:
        forced = parse(response, now=at, expected_id=instance_id, settled=True)
        instance = forced if isinstance(forced, Instance) else None
    if instance is None or response is None:
        return Explained(instance_id, fetched, None, None, None)
    report = Report(instance, stamped(pack(response), at))
    with connection, connection.cursor() as cursor:
        outcome = foresee(cursor, report, now=at)
        kept = read_kept(cursor, instance_id, at)
    changes = [] if kept is None or isinstance(kept, Rejection) else _changes(kept, instance)
    return Explained(
        instance_id,
        fetched,
        instance,
        report,
        outcome,
        derived=_derived(instance),
        players=[_player(p) for p in instance.players],
        changes=changes[:_MOST_CHANGES],
    )


def store_explained(
    connection: Connection, explained: Explained, *, source: str, rechecks: Rechecks
) -> Outcome | None:
    """Stores it through the store's one path; what became of it, None without a report.

    One that may still grow is put down to be fetched again, as if the crawl had brought it.
    """
    if explained.report is None:
        return None
    (outcome,) = Store(connection, rechecks=rechecks).store([explained.report], source=source)
    return outcome


def _derived(instance: Instance) -> list[Row]:
    """Every field but the players, as the parser derived it."""
    return [
        {"field": name, "value": _shown(value)}
        for name, value in msgspec.structs.asdict(instance).items()
        if name != "players"
    ]


def _player(player: Player) -> Row:
    characters = player.characters
    return {
        "membership_id": player.membership_id,
        "name": player.bungie_global_display_name or player.display_name or _NOTHING,
        "completed": player.completed,
        "time_played_s": player.time_played_seconds,
        "characters": len(characters),
        "kills": sum(c.kills for c in characters),
        "deaths": sum(c.deaths for c in characters),
    }


def _changes(kept: Instance, instance: Instance) -> list[Row]:
    """Where the two differ, a row a value."""
    before, after = dict(_flat("", kept)), dict(_flat("", instance))
    return [
        {"field": name, "stored": before.get(name, _NOTHING), "now": after.get(name, _NOTHING)}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


# By what the members of a list are told apart.
_KEYS = {"players": "membership_id", "characters": "character_id", "weapons": "weapon_hash"}


def _flat(place: str, value: Any) -> Iterator[tuple[str, object]]:
    """Path -> value of every leaf; members of lists are named by their key."""
    for name, part in msgspec.structs.asdict(value).items():
        path = f"{place}{name}"
        if name in _KEYS:
            for member in part:
                yield from _flat(f"{path}[{getattr(member, _KEYS[name])}].", member)
        else:
            yield path, _shown(part)


def _shown(value: object) -> object:
    if value is None:
        return "unknown"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return value

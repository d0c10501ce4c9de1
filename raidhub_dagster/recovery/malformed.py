"""Malformed reports fetched again past all caches, and stored where they are whole by now."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.errors import MaintenanceError, PermanentError
from raidhub_dagster.recovery.single import Explained, check_id, explain, store_explained
from raidhub_dagster.storage import missed
from raidhub_dagster.storage.young import Rechecks

SOURCE = "fix_malformed_pgcrs"
MOST = 1000  # rows of a run: a few minutes, unless the API stalls; what is left is the next one's


@dataclass
class Mended:
    """`rows` has one line an id: its answer, and what the store did or would do."""

    outcomes: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, object]] = field(default_factory=list)
    stopped: str = ""


def mend(
    connection: Connection,
    client: BungieClient,
    ids: Sequence[int],
    *,
    rechecks: Rechecks,
    most: int = MOST,
    dry_run: bool = True,
    tell: Callable[[int], None] = lambda _done: None,
) -> Mended:
    """Fetches `ids`, or without any all that are malformed (at most `most`), and stores the whole.

    Each id is stored by itself, so that a killed run may simply be started again. Raises
    PermanentError for an impossible id or limit, UnavailableError.
    """
    if most < 1:
        raise PermanentError(f"most must be at least 1, not {most}")
    for instance_id in ids:
        check_id(instance_id)
    mended = Mended()
    for instance_id in sorted(set(ids)) or missed.list_malformed(connection, limit=most):
        try:
            explained = explain(connection, client, instance_id)
        except MaintenanceError as error:
            mended.stopped = f"maintenance: {error}"
            break
        said = _settle(connection, explained, None if dry_run else rechecks)
        mended.outcomes[said] += 1
        mended.rows.append(
            {"id": instance_id, "answer": explained.fetched.said[:120], "outcome": said}
        )
        if len(mended.rows) % 100 == 0:
            tell(len(mended.rows))
    return mended


def _settle(connection: Connection, explained: Explained, rechecks: Rechecks | None) -> str:
    """What became of the id, or without `rechecks`, in a preview, would.

    The row of one that is still malformed is left to its next try.
    """
    if explained.report is not None:
        outcome = explained.outcome
        if rechecks is not None:
            outcome = store_explained(connection, explained, source=SOURCE, rechecks=rechecks)
        return str(outcome)
    kind = explained.fetched.kind
    if kind is ResultKind.NON_RAID and rechecks is not None:
        with connection, connection.cursor() as cursor:
            missed.close(cursor, [explained.instance_id], among=missed.RETRIED)
    return kind.name.lower()

"""A small archive made of kept reports, to try the import where no archive is at hand."""

from pathlib import Path

import zstandard
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.archives.source import Span
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.storage.archive import ARCHIVE_SUFFIX
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "kept")


def write_sample(connection: Connection, folder: Path, *, most: int) -> str:
    """Writes the first `most` kept reports as an archive into `folder`; returns its name.

    The file is there whole or not at all. Raises PermanentError when no report is kept.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_page"], {"after": 0, "last": 2**63 - 1, "limit": most})
        kept = cursor.fetchall()
    if not kept:
        raise PermanentError("no report is kept, so there is nothing to archive")
    name = Span(kept[0][0], kept[-1][0]).name
    lines = (_line(instance_id, open_body(bytes(body))) for instance_id, body in kept)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    part.write_bytes(zstandard.compress(b"".join(lines)))
    part.rename(folder / f"{name}{ARCHIVE_SUFFIX}")
    return name


def _line(instance_id: int, report: bytes) -> bytes:
    """As archives have it: their own keys first (docs/domain/archives.md, "Format")."""
    return b'{"_id":"%d",%s\n' % (instance_id, report.strip().removeprefix(b"{"))

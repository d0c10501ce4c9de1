"""Loads the named statements of `sql/`; no statement is written in Python."""

import re
from pathlib import Path

SQL_ROOT = Path(__file__).resolve().parents[2] / "sql"
_HEADER = re.compile(r"^-- name: ([a-z][a-z0-9_]*)$", re.MULTILINE)


def load(engine: str, area: str) -> dict[str, str]:
    """Name -> statement of `sql/<engine>/queries/<area>.sql`, comments kept.

    Comments show in pg_stat_statements, so a slow query names its place. Raises ValueError for a
    name used twice.
    """
    _, *parts = _HEADER.split((SQL_ROOT / engine / "queries" / f"{area}.sql").read_text("utf-8"))
    names, texts = parts[::2], parts[1::2]
    if len(set(names)) < len(names):
        raise ValueError(f"{engine}/{area}.sql names a query twice")
    return dict(zip(names, map(str.strip, texts), strict=True))

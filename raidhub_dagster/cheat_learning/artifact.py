"""Trained models as files, and the list of them in the database (`streaming.cheat_model`).

A file is a line of JSON and a pickle. A pickle runs what it says when it is opened, so only bytes
whose SHA-256 the database knows are opened: a file that somebody put there is refused unread.
"""

import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import Json

from raidhub_dagster.cheat_learning.features import SCHEMA
from raidhub_dagster.cheat_learning.models import Model, library_version
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.claims import Problem
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "review_queue")

PREFIX = "learned-"  # of every version: no rules' version begins so
SUFFIX = ".model"
_MOST_BYTES = 256 << 20  # one has some 5 MB
_KEPT = 8  # files; older models advise nobody any more


class Entry(NamedTuple):
    """A model as the database knows it; times are aware."""

    version: str
    digest: str
    feature_schema: tuple[str, ...]
    library: str
    trained_since: datetime
    trained_until: datetime
    rows: int
    positives: int
    negatives: int
    created_at: datetime | None = None


def save(
    connection: Connection,
    folder: Path,
    model: Model,
    *,
    since: datetime,
    until: datetime,
    counts: tuple[int, int, int],
    metrics: Mapping[str, Any],
    now: datetime,
) -> Entry:
    """Writes the file, then lists it; `counts` are rows, positives, negatives.

    Files of models that are not among the newest eight go. Raises PermanentError when the folder
    cannot be written.
    """
    library = library_version()
    payload = pickle.dumps(model, protocol=5)
    version = f"{PREFIX}{now:%Y%m%dT%H%M%S}-{hashlib.sha256(payload).hexdigest()[:8]}"
    head = {"version": version, "feature_schema": SCHEMA, "library": library}
    body = json.dumps(head).encode() + b"\n" + payload
    entry = Entry(version, hashlib.sha256(body).hexdigest(), SCHEMA, library, since, until, *counts)
    try:
        _write(folder, version, body)
    except OSError as error:
        raise PermanentError(f"CHEAT_MODEL_DIR: {folder} cannot be written: {error}") from error
    row = {
        **entry._asdict(),
        "feature_schema": list(SCHEMA),
        "since": since,
        "until": until,
        "metrics": Json(dict(metrics)),
    }
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["add_model"], row)
        cursor.execute(_SQL["list_models"])
        versions = [name for (name,) in cursor]
    _prune(folder, versions[_KEPT:])
    return entry


def newest(connection: Connection) -> Entry | None:
    """The model that was trained last; None when there is none."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["newest_model"])
        row = cursor.fetchone()
    return None if row is None else Entry(row[0], row[1], tuple(row[2]), *row[3:])


def load_model(folder: Path, entry: Entry) -> Model:
    """The model of `entry`.

    Raises PermanentError when its file is missing or is not the one that was written, when it was
    made for other features than this release has, or by another version of scikit-learn; all of
    that before anything in the file is opened. Raises ConfigurationError without the extra.
    """
    if (library := library_version()) != entry.library:
        raise PermanentError(
            f"{entry.version} was made by scikit-learn {entry.library}, here is {library}: "
            "train a new one",
            {"model": entry.version},
        )
    body = _read_body(folder, entry)
    model = pickle.loads(body[body.index(b"\n") + 1 :])  # noqa: S301  the digest is ours
    if not isinstance(model, Model):
        raise PermanentError(f"{entry.version} holds no model", {"model": entry.version})
    return model


def check_newest(connection: Connection, folder: Path) -> list[Problem]:
    """Why the newest model could not be opened here; best empty, also when there is none."""
    entry = newest(connection)
    try:
        if entry is not None:
            _read_body(folder, entry)
    except PermanentError as error:
        return [Problem(str(error), 1, (entry.version if entry else "",))]
    return []


def _read_body(folder: Path, entry: Entry) -> bytes:
    """The file of `entry`, unopened. Raises PermanentError as `load_model`."""
    path = folder / f"{entry.version}{SUFFIX}"
    facts = {"model": entry.version, "file": str(path)}
    if differing := _differing(entry.feature_schema):
        raise PermanentError(
            f"{entry.version} was made for other features ({differing}): train a new one", facts
        )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise PermanentError(f"{path} is larger than {_MOST_BYTES} bytes", facts)
        body = path.read_bytes()
    except OSError as error:
        raise PermanentError(
            f"the file of {entry.version} is not in CHEAT_MODEL_DIR ({folder}): every machine that "
            "runs steps needs that folder",
            facts,
        ) from error
    if hashlib.sha256(body).hexdigest() != entry.digest:
        raise PermanentError(f"{path} is not the file that training wrote: it stays shut", facts)
    return body


def _differing(schema: Sequence[str]) -> str:
    """In words, how `schema` differs from this release's; empty when it does not."""
    gone = [name for name in schema if name not in SCHEMA]
    new = [name for name in SCHEMA if name not in schema]
    told = [f"{', '.join(gone)} is no feature here"] if gone else []
    told += [f"{', '.join(new)} is new"] if new else []
    return "; ".join(told) or ("" if tuple(schema) == SCHEMA else "another order")


def _write(folder: Path, version: str, body: bytes) -> None:
    """At once: nobody reads half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".model-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(folder / f"{version}{SUFFIX}")
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _prune(folder: Path, versions: Sequence[str]) -> None:
    for version in versions:
        (folder / f"{version}{SUFFIX}").unlink(missing_ok=True)

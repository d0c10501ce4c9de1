"""The folder of manifests: download, checks, the switch to a new one, and what is kept.

A file `<name>.content` is whole: it was unpacked under another name first. `current` is a link to
the one that passed its checks last; only that one is loaded from. The time of a file is when it was
last used. One process at a time works here (`postgres.alone`).
"""

import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.manifest.database import ACTIVITIES, ITEMS, TABLES, UnfitError, count_rows
from raidhub_dagster.manifest.index import Version

# In 2026 the zip had about 100 MB, the database in it about 400.
MOST_ZIP_BYTES = 1 << 30
MOST_DATABASE_BYTES = 4 << 30
# The others are small: one release of the game may well add a fifth to them.
STEADY = (ITEMS, ACTIVITIES)
OLD_KEPT = 3

_CURRENT = "current"
_PART = ".part"
_CHUNK_BYTES = 1 << 20


class Fetched(NamedTuple):
    path: Path
    zip_bytes: int  # 0: it lay here already


def fetch(
    open_client: Callable[[], BungieClient], version: Version, folder: Path, *, force: bool = False
) -> Fetched:
    """The database of `version` in `folder`, downloaded unless it is there; `force` does it anew.

    A zip that is broken is downloaded once more, past the edge's memory. Raises TransientError when
    that one is broken too, PermanentError for one that is too long, and what `download` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"*{_PART}"):  # by a run that was killed
        left.unlink()
    path = folder / version.name
    if path.exists() and not (force and version.path):
        return Fetched(path, 0)
    if not version.path:
        raise PermanentError(f"{path} is gone, and only Bungie could be asked for it")
    packed, unpacked = (folder / f"{version.name}.{kind}{_PART}" for kind in ("zip", "db"))
    try:
        for past_cache in (False, True):
            with open_client() as client, packed.open("wb") as file:
                size = client.download(
                    version.path, file, most_bytes=MOST_ZIP_BYTES, past_cache=past_cache
                )
            try:
                _unpack(packed, unpacked)
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
                problem = f"{version.path} is no sound zip of one file: {error}"
            else:
                unpacked.replace(path)
                _sync(folder)
                return Fetched(path, size)
        raise TransientError(problem, {"bytes": size})
    finally:
        packed.unlink(missing_ok=True)
        unpacked.unlink(missing_ok=True)


def verify(path: Path, last: Mapping[str, int], *, most_change_percent: int = 20) -> dict[str, int]:
    """Rows of each table that we need, counted; `last` are those of the manifest loaded before.

    Raises UnfitError for a file that is no database, lacks a table or finds one empty, and for one
    of `STEADY` whose rows differ from the last by more than the percentage.
    """
    rows = count_rows(path)
    for table in TABLES:
        before, now = last.get(table, 0), rows[table]
        if now == 0:
            raise UnfitError(f"{path.name}: {table} is empty")
        if table in STEADY and before and abs(now - before) * 100 > before * most_change_percent:
            raise UnfitError(
                f"{path.name}: {table} has {now} rows, the last manifest had {before}: more than "
                f"{most_change_percent} % apart",
                {"table": table, "rows": now, "rows_before": before},
            )
    return rows


def switch(path: Path) -> None:
    """From now on `path` is the current one of its folder: the old one until then, never none."""
    os.utime(path)
    link = path.with_name(_CURRENT + _PART)
    link.symlink_to(path.name)
    link.replace(path.with_name(_CURRENT))
    _sync(path.parent)


def current(folder: Path) -> Path | None:
    """The file that passed its checks last; None before the first one."""
    link = folder / _CURRENT
    return folder / link.readlink() if link.exists() else None


def newest(folder: Path) -> Path:
    """The file that was last used or put there. Raises PermanentError in an empty folder."""
    files = _files(folder)
    if not files:
        raise PermanentError(f"no manifest lies in {folder.absolute()}: download one first")
    return files[0]


def prune(folder: Path) -> list[str]:
    """Deletes all but the current file and the `OLD_KEPT` newest others; returns their names."""
    kept = current(folder)
    old = [path for path in _files(folder) if path != kept][OLD_KEPT:]
    for path in old:
        path.unlink()
    return [path.name for path in old]


def _files(folder: Path) -> list[Path]:
    files = ((path.stat().st_mtime_ns, path) for path in folder.glob("*.content"))
    return [path for _, path in sorted(files, reverse=True)]


def _unpack(packed: Path, target: Path) -> None:
    """The one file of the zip, its check sum compared. Raises what zipfile raises."""
    with zipfile.ZipFile(packed) as archive:
        members = archive.infolist()
        if len(members) != 1:
            raise zipfile.BadZipFile(f"{len(members)} files in it")
        with archive.open(members[0]) as source, target.open("wb") as file:
            size = 0
            while chunk := source.read(_CHUNK_BYTES):
                size += file.write(chunk)
                if size > MOST_DATABASE_BYTES:  # whatever the zip says of itself
                    raise PermanentError(f"the zip opens to more than {MOST_DATABASE_BYTES} bytes")
            file.flush()
            os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """So that a name stands for the whole file even after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What a backup's folder holds: `manifest.json`, written last, names every file and its digest.

A folder without it is a backup that did not end. Making and restoring are beside this module.
"""

import hashlib
import os
from datetime import datetime
from pathlib import Path

import msgspec

from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.storage.clickhouse import MIGRATIONS as CLICKHOUSE_MIGRATIONS
from raidhub_dagster.storage.schema import MIGRATIONS as POSTGRES_MIGRATIONS
from raidhub_dagster.storage.verify import Sizes

NAME = "manifest.json"
FORMAT = 1


class File(msgspec.Struct, frozen=True):
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a restore must know before it touches a server; never a secret."""

    format: int
    made_at: datetime  # the moment that both stores are restored to
    postgres_version: int  # of the server, as server_version_num: 150018
    postgres_migrations: list[str]
    clickhouse_migrations: list[str]
    roles: list[str]  # that own or may use something in a dumped database
    databases: dict[str, str]  # folder of a dump -> name of the database there
    sizes: Sizes
    clickhouse_rows: int
    files: dict[str, File]  # by their path in the folder

    @property
    def postgres_major(self) -> int:
        return self.postgres_version // 10_000


def write(folder: Path, manifest: Manifest) -> None:
    """The manifest takes its place at once: a kill leaves none, or the whole one."""
    prepared = folder / f"{NAME}.new"
    prepared.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    prepared.replace(folder / NAME)


def read(folder: Path) -> Manifest:
    """Raises ConfigurationError for a folder without one, PermanentError for one that is none."""
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}")
    try:
        text = (folder / NAME).read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{folder} has no {NAME}: it is no backup, or one that did not end"
        ) from None
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PermanentError(f"{folder / NAME} is unreadable: {error}") from None
    if manifest.format != FORMAT:
        raise PermanentError(
            f"{folder} has the format {manifest.format}, this release reads {FORMAT}"
        )
    return manifest


def check_release(manifest: Manifest) -> None:
    """Raises PermanentError for a schema that this release does not know: it is of a newer one."""
    for store, migrations, known in (
        ("PostgreSQL", manifest.postgres_migrations, migrations_of(POSTGRES_MIGRATIONS)),
        ("ClickHouse", manifest.clickhouse_migrations, migrations_of(CLICKHOUSE_MIGRATIONS)),
    ):
        if newer := sorted(set(migrations) - set(known)):
            raise PermanentError(
                f"the backup is of a newer release: this one lacks the {store} migration {newer[0]}"
            )


def migrations_of(folder: Path) -> list[str]:
    """Names of the migrations of this release, in order; ways back are none."""
    names = {path.name.removesuffix(".sql").removesuffix(".up") for path in folder.glob("*.sql")}
    return sorted(n for n in names if not n.endswith((".down", ".rollback")))


def list_files(folder: Path) -> dict[str, File]:
    """Every file below `folder`, with its digest; reads all of them."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            found[str(path.relative_to(folder))] = _describe(path)
    return dict(sorted(found.items()))


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raises PermanentError naming the first file that is missing or not as it was written."""
    for name, wanted in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise PermanentError(f"the backup is not whole: {name} is missing")
        size = path.stat().st_size
        if size != wanted.bytes:
            raise PermanentError(
                f"the backup is damaged: {name} has {size} bytes instead of {wanted.bytes}"
            )
        if _describe(path) != wanted:
            raise PermanentError(f"the backup is damaged: {name} is not what was written")


def _describe(path: Path) -> File:
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())

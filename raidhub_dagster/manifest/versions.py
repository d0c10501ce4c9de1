"""From the version that Bungie publishes to the file that is loaded, and who works on which."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.manifest import files, state
from raidhub_dagster.manifest.database import count_rows
from raidhub_dagster.manifest.index import Version, ask
from raidhub_dagster.manifest.load import WEAPONS

OpenClient = Callable[[], BungieClient]


@dataclass(frozen=True)
class Brought:
    """The current file, and what was done to have it."""

    version: Version
    path: Path
    is_unchanged: bool = False
    zip_bytes: int = 0  # 0: it was here
    rows: dict[str, int] = field(default_factory=dict)  # of the tables that are needed, counted
    pruned: list[str] = field(default_factory=list)


def choose(
    connection: Connection, open_client: OpenClient, folder: Path, *, disk: bool = False
) -> Version:
    """What the steps after this one work on: what Bungie publishes, or the newest file here.

    Raises what `ask` raises; PermanentError with `disk` and an empty folder.
    """
    if disk:
        version = Version(files.newest(folder).name, path="", label="from disk")
    else:
        with open_client() as client:
            version = ask(client)
    state.write_wanted(connection, version)
    return version


def bring(
    connection: Connection,
    open_client: OpenClient,
    folder: Path,
    *,
    force: bool = False,
    most_change_percent: int = 20,
) -> Brought:
    """Makes the chosen version the current file: download, checks, switch, and prunes old ones.

    Until it has passed every check the last good one stays. The current one is only counted: who
    damaged it since is told by its rows. Raises UnfitError and what `files.fetch` raises.
    """
    version = state.read_wanted(connection)
    if version is None:
        raise PermanentError("no version was chosen yet: materialize manifest_version first")
    path = files.current(folder)
    if path is not None and path.name == version.name and not force:
        return Brought(version, path, is_unchanged=True, rows=count_rows(path))
    fetched = files.fetch(open_client, version, folder, force=force)
    done = state.read_done(connection, WEAPONS.table)
    last = done.rows if done is not None else {}
    rows = files.verify(fetched.path, last, most_change_percent=most_change_percent)
    files.switch(fetched.path)
    return Brought(
        version,
        fetched.path,
        zip_bytes=fetched.zip_bytes,
        rows=rows,
        pruned=files.prune(folder),
    )

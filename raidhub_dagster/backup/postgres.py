"""pg_dump and pg_restore over one database: how they are called, and what goes in first."""

import os
import re
import subprocess
from pathlib import Path

from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.postgres import find_binary
from raidhub_dagster.stack.process import Launch
from raidhub_dagster.storage.postgres import libpq_variables

# Bodies of reports are gzip already: more than the least compression costs hours and saves nothing.
_COMPRESSION = 1
# core.instance computes its season from definitions.season while its rows come in.
_FIRST_SCHEMA = "definitions"


def dump(
    settings: Settings, database: str, folder: Path, *, jobs: int, snapshot: str | None = None
) -> None:
    """The whole database into `folder`, which must not exist; of `snapshot` when there is one.

    Raises PermanentError with pg_dump's own reason.
    """
    arguments = ["--format=directory", f"--jobs={jobs}", f"--compress={_COMPRESSION}"]
    if snapshot is not None:
        arguments.append(f"--snapshot={snapshot}")
    _run(settings, "pg_dump", *arguments, f"--file={folder}", f"--dbname={database}")


def restore(settings: Settings, database: str, folder: Path, *, jobs: int) -> None:
    """A dump into an empty database, what others derive from first, indexes last.

    Raises PermanentError with pg_restore's own reason; the database is unfinished then.
    """
    for part in (
        ["--section=pre-data"],
        ["--section=data", f"--schema={_FIRST_SCHEMA}"],
        ["--section=data", f"--exclude-schema={_FIRST_SCHEMA}"],
        ["--section=post-data"],
    ):
        options = ["--exit-on-error", "--no-owner", f"--jobs={jobs}", f"--dbname={database}"]
        _run(settings, "pg_restore", *options, *part, str(folder))


def check_version(settings: Settings, made_with: int, server: int) -> None:
    """Raises ConfigurationError when server or pg_restore are older than a dump of `made_with`.

    All three are majors: a dump goes into the same or a newer one.
    """
    if server < made_with:
        raise ConfigurationError(
            f"the backup is of PostgreSQL {made_with} and the server at POSTGRES_HOST is"
            f" {server}: restore it into {made_with} or newer"
        )
    told = _run(settings, "pg_restore", "--version")
    found = re.search(r"(\d+)", told)
    if found is not None and int(found[1]) < made_with:
        raise ConfigurationError(
            f"the backup is of PostgreSQL {made_with} and pg_restore is of {found[1]}:"
            " RAIDHUB_POSTGRES_BIN names the folder of a newer one"
        )


def _run(settings: Settings, program: str, *arguments: str) -> str:
    command = (find_binary(settings, program), *arguments)
    environment = {**os.environ, **libpq_variables(settings), "PGAPPNAME": f"raidhub {program}"}
    done = subprocess.run(  # noqa: S603  a command of ours
        Launch(command, Path.cwd()).tied_command(),
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if "error:" in line), " / ".join(lines[-3:]))
        raise PermanentError(f"{program} failed: {reason}")
    return done.stdout

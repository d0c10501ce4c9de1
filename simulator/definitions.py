"""The game's definitions as the simulator sees them, read from the seed CSVs; no rule lives here.

The files are those that seed `definitions.*`. The simulator parses them itself: it imports nothing
of the platform it is there to test.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "sql" / "postgres" / "seeds"


class DefinitionError(Exception):
    """A definition file is missing or unusable; the message names the file and the column."""


@dataclass(frozen=True)
class Activity:
    """A raid or a Pantheon; times are Unix seconds, None where the game had no such window."""

    id: int
    name: str
    is_sunset: bool
    is_raid: bool
    release: int
    contest_end: int | None
    week_one_end: int | None


@dataclass(frozen=True)
class Version:
    """One `directorActivityHash` and what it stands for; `release` in Unix seconds."""

    hash: int
    activity: Activity
    version_id: int
    version_name: str
    is_world_first: bool
    release: int


@dataclass(frozen=True)
class Definitions:
    activities: dict[int, Activity]
    versions: dict[int, Version]  # by hash


def load(folder: Path) -> Definitions:
    """Reads the three files that matter here. Raises DefinitionError."""
    activities: dict[int, Activity] = {}
    versions: dict[int, Version] = {}
    for row in _rows(folder / "activity_definition.csv"):
        activity = Activity(
            id=row.read("id", int),
            name=row["name"],
            is_sunset=row["is_sunset"] == "true",
            is_raid=row["is_raid"] == "true",
            release=row.read("release_date", _seconds),
            contest_end=row.read("contest_end", _seconds_or_none),
            week_one_end=row.read("week_one_end", _seconds_or_none),
        )
        activities[activity.id] = activity
    names = {row["id"]: row["name"] for row in _rows(folder / "version_definition.csv")}
    for row in _rows(folder / "activity_version.csv"):
        activity = row.read("activity_id", lambda text: activities[int(text)])
        own = row.read("release_date_override", _seconds_or_none)
        version = Version(
            hash=row.read("hash", int),
            activity=activity,
            version_id=row.read("version_id", int),
            version_name=row.read("version_id", names.__getitem__),
            is_world_first=row["is_world_first"] == "true",
            release=activity.release if own is None else own,
        )
        versions[version.hash] = version
    return Definitions(activities, versions)


class _Row(dict[str, str]):
    """A row that says which column is missing or unusable, for whoever edited the file."""

    def __init__(self, path: Path, values: dict[str, str]) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, column: str) -> str:
        raise DefinitionError(f"{self.path} has no column {column}")

    def read(self, column: str, convert: Callable[[str], _T]) -> _T:
        text = self[column]
        try:
            return convert(text)
        except (ValueError, LookupError):
            raise DefinitionError(f"{self.path}: {text!r} is no {column}") from None


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_Row(path, row) for row in csv.DictReader(file, restval="")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DefinitionError(f"cannot read definitions: {path}: {error}") from None


def _seconds_or_none(text: str) -> int | None:
    return _seconds(text) if text else None


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())

"""The game's definitions as the simulator sees them, read from the seed CSVs; no rule lives here.

The files are those that seed `definitions.*`. The simulator parses them itself: it imports nothing
of the platform it is there to test.
"""

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

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
            id=int(row["id"]),
            name=row["name"],
            is_sunset=row["is_sunset"] == "true",
            is_raid=row["is_raid"] == "true",
            release=_seconds(row["release_date"]),
            contest_end=_seconds(row["contest_end"]) if row["contest_end"] else None,
            week_one_end=_seconds(row["week_one_end"]) if row["week_one_end"] else None,
        )
        activities[activity.id] = activity
    names = {row["id"]: row["name"] for row in _rows(folder / "version_definition.csv")}
    for row in _rows(folder / "activity_version.csv"):
        activity = activities[int(row["activity_id"])]
        own = row["release_date_override"]
        versions[int(row["hash"])] = Version(
            hash=int(row["hash"]),
            activity=activity,
            version_id=int(row["version_id"]),
            version_name=names[row["version_id"]],
            is_world_first=row["is_world_first"] == "true",
            release=_seconds(own) if own else activity.release,
        )
    return Definitions(activities, versions)


class _Row(dict[str, str]):
    """A row that says where a column is missing, for whoever edited the file."""

    def __init__(self, path: Path, values: dict[str, str]) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, column: str) -> str:
        raise DefinitionError(f"{self.path} has no column {column}")


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [_Row(path, row) for row in csv.DictReader(file)]
    except OSError as error:
        raise DefinitionError(f"cannot read definitions: {error}") from None


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())

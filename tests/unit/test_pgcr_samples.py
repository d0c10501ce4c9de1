"""Every real report gives the facts that were computed from it by hand.

Reports of real players are not part of the project: without the folder of samples beside the
checkout these tests skip.
"""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raidhub_dagster.bungie.protocol import ResultKind, classify_pgcr
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.pgcr.probe import Probe, probe
from tests.support.reports import encode, flatten
from tests.support.samples import DUNGEON, FACTS, SAMPLES, Facts

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ROOT / "sql" / "postgres" / "seeds" / "activity_version.csv"
NOW = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no samples at {SAMPLES}")


@pytest.fixture(scope="module")
def activity_versions() -> dict[int, tuple[int, int]]:
    with VERSIONS.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return {int(r["hash"]): (int(r["activity_id"]), int(r["version_id"])) for r in rows}


def sample(instance_id: int) -> bytes:
    (path,) = SAMPLES.glob(f"{instance_id}_*.json")
    return path.read_bytes()


def facts_of(instance: Instance, versions: dict[int, tuple[int, int]]) -> Facts:
    characters = [c for player in instance.players for c in player.characters]
    return Facts(
        activity_version=versions[instance.hash],
        started=f"{instance.date_started:%Y-%m-%dT%H:%M:%SZ}",
        duration=instance.duration,
        entries=len(characters),
        players=instance.player_count,
        finishers=sum(player.completed for player in instance.players),
        completed=instance.completed,
        fresh=instance.fresh,
        flawless=instance.flawless,
        kills=sum(c.kills for c in characters),
        weapon_rows=sum(len(c.weapons) for c in characters),
        score=instance.score,
        platform=instance.platform_type,
        time_s=sum(player.time_played_seconds for player in instance.players),
    )


def parsed(body: bytes, instance_id: int) -> Instance:
    result = parse(body, now=NOW, expected_id=instance_id)
    assert isinstance(result, Instance), result
    return result


@pytest.mark.parametrize("instance_id", FACTS)
def test_gives_every_fact_of_a_real_raid(
    instance_id: int, activity_versions: dict[int, tuple[int, int]]
) -> None:
    """These are what leaderboards and profiles show of a run."""
    instance = parsed(open_body(sample(instance_id)), instance_id)
    assert facts_of(instance, activity_versions) == FACTS[instance_id]
    assert (instance.date_completed - instance.date_started).total_seconds() == instance.duration
    assert instance.skull_hashes == ()


@pytest.mark.parametrize("instance_id", FACTS)
def test_gives_the_same_when_flattened_by_an_archive(instance_id: int) -> None:
    """Archives go through the same path, or history and present would disagree."""
    body = open_body(sample(instance_id))
    flat = flatten(json.loads(body))
    flat["activityDetails"]["instanceId"] = instance_id
    flat["period"] = flat["period"].replace("Z", ".123Z")
    assert parsed(encode(flat), instance_id) == parsed(body, instance_id)


@pytest.mark.parametrize("instance_id", FACTS)
def test_accepts_a_real_raid_as_it_came(instance_id: int) -> None:
    """The stored bytes must be those that the API sent."""
    body = sample(instance_id)
    result = classify_pgcr(
        200, "application/json", body, instance_id=instance_id, tracked_hashes=(), now=NOW
    )
    assert (result.kind, result.code, result.status) == (ResultKind.SUCCESS, 1, "Success")
    assert result.instance == parsed(open_body(body), instance_id)
    assert result.response is not None
    assert result.response in body


def test_sees_that_a_real_dungeon_is_no_raid() -> None:
    """Storing it would put dungeons on raid leaderboards."""
    seen = probe(open_body(sample(DUNGEON)), ())
    assert seen == Probe(tracked=False, ended_at=datetime(2025, 2, 13, 5, 17, 26, tzinfo=UTC))


def test_parses_players_whom_bungie_could_not_resolve() -> None:
    """They have no name, type or class; the rest of the run is as good as any."""
    instance = parsed(open_body(sample(DUNGEON)), DUNGEON)
    identities: set[tuple[Any, ...]] = {
        (p.membership_type, p.icon_path, p.display_name, p.bungie_global_display_name)
        for p in instance.players
    }
    assert identities == {(None, None, None, None)}
    assert {c.class_hash for p in instance.players for c in p.characters} == {None}
    assert (instance.player_count, instance.platform_type) == (5, 0)


@pytest.mark.parametrize(
    ("instance_id", "characters", "seconds"),
    [(10629996107, 2, 2694), (14287236297, 1, 3187), (6870306963, 3, 3184)],
)
def test_counts_overlapping_characters_once(
    instance_id: int, characters: int, seconds: int
) -> None:
    """A player who changes characters must not play longer than the clock ran."""
    instance = parsed(open_body(sample(instance_id)), instance_id)
    assert (characters, seconds) in {
        (len(p.characters), p.time_played_seconds) for p in instance.players
    }


def test_counts_people_and_not_entries() -> None:
    """The report says 8 players where 6 people played."""
    instance = parsed(open_body(sample(6870306963)), 6870306963)
    assert (instance.player_count, sum(len(p.characters) for p in instance.players)) == (6, 8)


def test_keeps_saturated_times_as_they_are() -> None:
    """32767 is a lower bound; guessing more would invent time."""
    instance = parsed(open_body(sample(7315438924)), 7315438924)
    assert max(c.time_played_seconds for p in instance.players for c in p.characters) == 32767

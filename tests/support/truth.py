"""The database against the simulator's ground truth: every raid, every run, every player."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

import msgspec
import requests
from psycopg2.extensions import connection as Connection  # noqa: N812

Facts = dict[str, Any]


def read_truth(simulator: str, what: str, **span: int) -> Iterator[Facts]:
    """Lines of `/truth/<what>` of the simulator at this base address."""
    query = "&".join(f"{name.rstrip('_')}={value}" for name, value in span.items())
    with requests.get(f"{simulator}/truth/{what}?{query}", stream=True, timeout=120) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            yield msgspec.json.decode(line)


def assert_true(connection: Connection, simulator: str, first: int, last: int) -> int:
    """Fails with the first differing row; returns how many raids were compared."""
    raids = list(read_truth(simulator, "raids", from_=first, to=last))
    known = {r["instance_id"]: _instance(r) for r in raids if r["activity"] is not None}
    stored = _stored_instances(connection)
    assert stored.keys() - known.keys() == set(), "stored, but not in the world"
    assert known.keys() - stored.keys() == set(), "in the world, but not stored"
    for instance_id, facts in known.items():
        assert _as_reported(stored[instance_id], facts) == facts, instance_id
    unknown = {r["instance_id"] for r in raids if r["activity"] is None}
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT instance_id FROM streaming.missed_pgcr JOIN raw.pgcr USING (instance_id)"
            " WHERE state = 'unknown_hash'"
        )
        assert {row[0] for row in cursor} == unknown
    players = {p["membership_id"]: p for p in read_truth(simulator, "players", to=last)}
    assert _stored_players(connection) == {who: _player(p) for who, p in players.items()}
    return len(known)


def _instance(raid: Facts) -> Facts:
    """A raid of the truth with what the tables have of it."""
    kept = ("hash", "duration", "score", "completed", "fresh", "flawless", "player_count")
    return {
        **{name: raid[name] for name in kept},
        "skull_hashes": raid["skull_hashes"],
        "date_started": raid["date_started"],
        "date_completed": raid["date_completed"],
        "players": [
            {
                "membership_id": p["membership_id"],
                "completed": p["completed"],
                "time_played_seconds": p["time_played_seconds"],
                "characters": [
                    {key: value for key, value in c.items() if key != "weapon_kills"}
                    for c in p["characters"]
                ],
            }
            for p in raid["players"]
        ],
    }


def _as_reported(stored: Facts, reported: Facts) -> Facts:
    """`stored` without the class and emblem that a report left open and character_fill found."""
    open_looks = {
        (p["membership_id"], c["character_id"], look)
        for p in reported["players"]
        for c in p["characters"]
        for look in ("class_hash", "emblem_hash")
        if c[look] is None
    }
    players = [
        {
            **p,
            "characters": [
                {
                    name: None if (p["membership_id"], c["character_id"], name) in open_looks else v
                    for name, v in c.items()
                }
                for c in p["characters"]
            ],
        }
        for p in stored["players"]
    ]
    return {**stored, "players": players}


def _stored_instances(connection: Connection) -> dict[int, Facts]:
    runs: dict[int, list[Facts]] = {}
    characters: dict[tuple[int, int], list[Facts]] = {}
    weapons: dict[tuple[int, int, int], list[list[int]]] = {}
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT instance_id, membership_id, character_id, weapon_hash, kills, precision_kills"
            " FROM extended.instance_character_weapon ORDER BY 1, 2, 3, 4"
        )
        for *owner, weapon_hash, kills, precision in cursor:
            weapons.setdefault(tuple(owner), []).append([weapon_hash, kills, precision])
        cursor.execute(
            "SELECT instance_id, membership_id, character_id, class_hash, emblem_hash, completed,"
            " score, kills, assists, deaths, precision_kills, super_kills, grenade_kills,"
            " melee_kills, start_seconds, time_played_seconds"
            " FROM extended.instance_character ORDER BY 1, 2, 3"
        )
        names = [column.name for column in cursor.description or ()][2:]
        for instance_id, who, *values in cursor:
            facts = dict(zip(names, values, strict=True))
            facts["weapons"] = weapons.get((instance_id, who, facts["character_id"]), [])
            characters.setdefault((instance_id, who), []).append(facts)
        cursor.execute(
            "SELECT instance_id, membership_id, completed, time_played_seconds"
            " FROM core.instance_player ORDER BY 1, 2"
        )
        for instance_id, who, completed, seconds in cursor:
            runs.setdefault(instance_id, []).append(
                {
                    "membership_id": who,
                    "completed": completed,
                    "time_played_seconds": seconds,
                    "characters": characters.get((instance_id, who), []),
                }
            )
        cursor.execute(
            "SELECT instance_id, hash, duration, score, completed, fresh, flawless, player_count,"
            " skull_hashes, date_started, date_completed FROM core.instance"
        )
        names = [column.name for column in cursor.description or ()][1:]
        stored = {}
        for instance_id, *values in cursor:
            facts = dict(zip(names, values, strict=True))
            for name in ("date_started", "date_completed"):
                facts[name] = facts[name].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            stored[instance_id] = {**facts, "players": runs[instance_id]}
        return stored


_TOTALS = ("clears", "fresh_clears", "sherpas", "total_time_played_seconds")


def _player(truth: Facts) -> Facts:
    return {
        **{name: truth[name] for name in (*_TOTALS, "sum_of_best")},
        "activities": {
            int(activity): {
                **{name: stats[name] for name in (*_TOTALS, "fastest_instance_id")},
                "first_clear": stats["first_clear"],
            }
            for activity, stats in truth["activities"].items()
        },
    }


def _stored_players(connection: Connection) -> dict[int, Facts]:
    firsts: dict[tuple[int, int], int] = {}
    activities: dict[int, dict[int, Facts]] = {}
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.membership_id, v.activity_id, p.instance_id FROM core.instance_player AS p"
            " JOIN core.instance USING (instance_id)"
            " JOIN definitions.activity_version AS v USING (hash) WHERE p.is_first_clear"
        )
        for who, activity_id, instance_id in cursor:
            assert (who, activity_id) not in firsts, "two first clears"
            firsts[who, activity_id] = instance_id
        cursor.execute(
            "SELECT membership_id, activity_id, clears, fresh_clears, sherpas,"
            " total_time_played_seconds, fastest_instance_id FROM core.player_stats"
        )
        for who, activity_id, *values in cursor:
            facts = dict(zip((*_TOTALS, "fastest_instance_id"), values, strict=True))
            facts["first_clear"] = firsts.get((who, activity_id))
            activities.setdefault(who, {})[activity_id] = facts
        cursor.execute(
            "SELECT membership_id, clears, fresh_clears, sherpas, total_time_played_seconds,"
            " sum_of_best FROM core.player"
        )
        return {
            who: {
                **dict(zip((*_TOTALS, "sum_of_best"), values, strict=True)),
                "activities": activities.get(who, {}),
            }
            for who, *values in cursor
        }

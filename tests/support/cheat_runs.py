"""Player-instances of a made-up game, with truth: who cheats, how, and what rules would see.

Players have a skill and a style, runs a pace, so that good players, supporters, snipers, idlers and
record teams are as far from the middle as real ones. Cheaters cheat in every run.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from clickhouse_connect.driver.client import Client
from numpy.typing import NDArray
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import execute_values

from raidhub_dagster.cheat_learning.features import FEATURES, Flags, Floats, Ints, Rows
from raidhub_dagster.cheat_learning.labels import Labelled

# Hashes of standard versions -> raid.
HASHES = {1374392663: 11, 2381413764: 12, 2122313384: 4, 1541433876: 14}
HEAVY, SNIPER, OTHER = 90, 91, 100  # weapons; others count up from the last
FIRST_PLAYER = 4_611_686_018_500_000_000
# What no rule looks at: never dies, hits nothing but heads, helps with everything.
UNKNOWN = "untouchable"
# How cheaters cheat -> the bit that a rule sets.
KNOWN = {"kill_rate": 56, "supers": 58, "heavy": 47}
CHEATS = (*KNOWN, UNKNOWN)
_WEEK = 604_800


@dataclass(frozen=True)
class Population:
    """One row a player-instance, ascending by instance and player."""

    rows: Rows
    cheats: NDArray[np.str_]  # empty for the innocent
    flagged: Flags  # whom the rules are sure of; now and then an innocent
    raw: Mapping[str, Ints]  # counts behind the measures
    started: Ints  # seconds since 1970
    hashes: Ints

    @property
    def guilty(self) -> Flags:
        return np.asarray(self.cheats != "")

    def labelled(self) -> Labelled:
        """As the rules leave it: flagged is confirmed, everything else in their runs is clean."""
        flagged_runs = np.unique(self.rows.instance_ids[self.flagged])
        bits = np.array([1 << KNOWN.get(cheat, 60) for cheat in self.cheats], dtype=np.int64)
        return Labelled(
            self.rows,
            self.flagged,
            ~np.isin(self.rows.instance_ids, flagged_runs),
            np.where(self.flagged, bits, 0),
            np.ones(len(self.rows)),
        )


def populate(
    seed: int,
    *,
    runs: int,
    players: int = 4000,
    cheaters: int = 12,
    until: datetime | None = None,
    weeks: int = 12,
    first_instance: int = 1000,
) -> Population:
    """`cheaters` of each kind among `players`; runs of `weeks` up to `until` (aware)."""
    rng = np.random.default_rng(seed)
    end = until or datetime(2026, 6, 1, tzinfo=UTC)
    hashes = np.array(list(HASHES))[rng.integers(0, len(HASHES), runs)]
    raid = np.array([list(HASHES.values()).index(HASHES[int(h)]) for h in hashes])
    fresh = rng.random(runs) < 0.6
    size = np.where(rng.random(runs) < 0.85, 6, rng.integers(1, 6, runs))
    is_record = rng.random(runs) < 0.005
    pace = np.exp(rng.normal(0, 0.18, runs)) * np.where(is_record, 0.5, 1)
    minutes = np.array([38, 45, 55, 50])[raid] * np.where(fresh, 1, 0.35) * pace * (6 / size) ** 0.4
    duration = np.maximum(minutes * 60, 240).astype(np.int64)
    began = int(end.timestamp()) - rng.integers(0, weeks * _WEEK - 86_400, runs) - duration - 3600

    run = np.repeat(np.arange(runs), size)
    who = np.concatenate([np.sort(rng.choice(players, n, replace=False)) for n in size])
    of = {name: rng.normal(0, 1, players)[who] for name in ("skill", "aim", "help", "ability")}
    is_idle = rng.random(len(run)) < 0.006
    is_support = (who % 33) == 7
    is_sniper = (who % 37) == 5
    kind = np.full(players, "", dtype="<U12")
    for place, cheat in enumerate(CHEATS):
        kind[place * cheaters : (place + 1) * cheaters] = cheat
    cheats = kind[who]

    seconds = np.minimum(
        np.where(rng.random(len(run)) < 0.9, 1, rng.uniform(0.2, 1, len(run))) * duration[run],
        duration[run],
    ).astype(np.int64)
    at = seconds / 60

    def count(rate: Floats) -> Ints:
        return np.asarray(rng.poisson(np.maximum(rate * at, 0)), dtype=np.int64)

    def noise(width: float) -> Floats:
        return np.exp(rng.normal(0, width, len(run)))

    base = np.array([4.5, 5.5, 4.0, 5.0])[raid][run] * (6 / size[run]) ** 0.5
    rate = base * np.exp(0.3 * of["skill"]) * noise(0.2) * np.where(is_record[run], 1.6, 1)
    rate = rate * np.where(is_support, 0.6, 1) * np.where(is_idle, 0.02, 1)
    rate = rate * np.select([cheats == "kill_rate", cheats == "heavy"], [5.0, 2.2], 1.0)
    kills = count(rate)
    deaths = count(0.16 * np.exp(-0.5 * of["skill"]) * noise(0.4) * np.where(is_idle, 0.2, 1))
    assists = count(
        0.35 * base * np.exp(0.25 * of["help"]) * noise(0.25)
        * np.where(is_support, 2.5, 1) * np.where(is_idle, 0.1, 1)
    )  # fmt: skip
    aim = 0.42 + 0.09 * of["aim"] + np.where(is_sniper, 0.3, 0) + rng.normal(0, 0.05, len(run))
    ability = np.clip(0.3 + 0.08 * of["ability"] + rng.normal(0, 0.05, len(run)), 0.02, 0.8)
    untouchable = cheats == UNKNOWN
    deaths = np.where(untouchable, 0, deaths)
    assists = np.where(untouchable, count(2.2 * base), assists)
    aim = np.where(untouchable, rng.uniform(0.93, 0.99, len(run)), aim)
    ability = np.where(untouchable, rng.uniform(0.0, 0.05, len(run)), ability)
    precise = rng.binomial(kills, np.clip(aim, 0.01, 0.99))
    by_ability = rng.binomial(np.minimum(kills, kills - np.where(untouchable, precise, 0)), ability)
    supers = rng.binomial(by_ability, 0.35)
    supers = np.where(cheats == "supers", count(np.full(len(run), 9.0)), supers)
    kills = np.maximum(kills, supers + by_ability)
    rest = np.maximum(by_ability - supers, 0)
    grenades = rng.binomial(rest, 0.6)
    weapon_kills = np.maximum(kills - supers - rest, 0)
    share = np.where(cheats == "heavy", 0.95, np.clip(rng.beta(2, 9, len(run)), 0, 1))
    heavy = rng.binomial(weapon_kills, share)
    best = rng.binomial(weapon_kills - heavy, np.clip(rng.normal(0.6, 0.12, len(run)), 0.3, 0.95))
    raw = {
        "run": run, "seconds": seconds, "kills": kills, "deaths": deaths, "assists": assists,
        "precise": np.minimum(precise, kills), "supers": supers, "grenades": grenades,
        "melees": rest - grenades, "heavy": heavy, "best": best,
        "others": weapon_kills - heavy - best, "duration": duration[run], "size": size[run],
        "start": duration[run] - seconds, "weapon_kills": weapon_kills,
    }  # fmt: skip
    by_weapon = np.stack([raw["heavy"], raw["best"], raw["others"]])
    raw |= {"top": by_weapon.max(axis=0), "weapons": (by_weapon > 0).sum(axis=0)}
    instances = first_instance + run
    caught = np.isin(cheats, list(KNOWN)) & (rng.random(len(run)) < 0.9)
    wrong = (cheats == "") & (rng.random(len(run)) < 0.0001)
    rows = Rows(
        instances,
        FIRST_PLAYER + who,
        np.array(list(HASHES.values()))[raid][run],
        np.ones(len(run), dtype=np.int64),
        np.full(len(run), 25),
        size[run],
        fresh[run],
        (began + duration)[run] // _WEEK,
        np.ones(len(run), dtype=np.bool_),
        measures(raw),
    )
    return Population(rows, cheats, caught | wrong, raw, began[run], hashes[run])


def measures(raw: Mapping[str, Ints]) -> Floats:
    """The features by their definition, in the plainest way (docs/domain/cheat-learning.md).

    `raw` has for each player-instance `run`, the place of its run counted from 0, and the counts
    that are used below; `top` are the kills of the most used weapon.
    """

    def team(name: str) -> Ints:
        return np.bincount(raw["run"], weights=raw[name])[raw["run"]]

    minutes, size, kills = raw["seconds"] / 60, raw["size"], raw["kills"]
    abilities = raw["supers"] + raw["grenades"] + raw["melees"]
    some, armed = np.maximum(kills, 1), np.maximum(raw["weapon_kills"], 1)
    few = raw["weapon_kills"] < 10
    by_name = {
        "kills_per_minute": kills / minutes,
        "deaths_per_minute": raw["deaths"] / minutes,
        "assists_per_minute": raw["assists"] / minutes,
        "supers_per_minute": raw["supers"] / minutes,
        "grenades_per_minute": raw["grenades"] / minutes,
        "melees_per_minute": raw["melees"] / minutes,
        "precision_share": np.where(kills < 10, np.nan, raw["precise"] / some),
        "ability_share": np.where(kills < 10, np.nan, abilities / some),
        "kills_to_team": size * (kills + 1) / (team("kills") + size),
        "deaths_to_team": size * (raw["deaths"] + 1) / (team("deaths") + size),
        "assists_to_team": size * (raw["assists"] + 1) / (team("assists") + size),
        "kills_per_death": (kills + 1) / (raw["deaths"] + 1),
        "assists_per_kill": (raw["assists"] + 1) / (kills + 1),
        "time_share": raw["seconds"] / raw["duration"],
        "team_time_share": team("seconds") / raw["duration"] / size,
        "duration_minutes": raw["duration"] / 60,
        "weapons_used": raw["weapons"],
        "top_weapon_share": np.where(few, np.nan, raw["top"] / armed),
        "heavy_share": np.where(few, np.nan, raw["heavy"] / armed),
        "start_share": raw["start"] / raw["duration"],
    }
    return np.column_stack([by_name[f.column] for f in FEATURES]).astype(np.float64)


def store(
    population: Population,
    connection: Connection,
    client: Client,
    *,
    version: str = "compat-2.2.0",
) -> None:
    """The runs in both stores, the rules' flags and the ledger beside them; past the store itself.

    A heavy weapon is made known to ClickHouse.
    """
    rows, raw = population.rows, population.raw
    starts = np.flatnonzero(np.diff(raw["run"], prepend=-1))
    players = np.unique(rows.membership_ids).tolist()
    flagged = np.flatnonzero(population.flagged)
    with connection, connection.cursor() as cursor:
        execute_values(
            cursor,
            "INSERT INTO core.player (membership_id, membership_type, display_name, last_seen,"
            " clears) VALUES %s ON CONFLICT DO NOTHING",
            [(player, 3, f"Guardian {player}", datetime.now(UTC), 10) for player in players],
        )
        execute_values(
            cursor,
            "INSERT INTO core.instance (instance_id, hash, completed, fresh, player_count,"
            " date_started, date_completed, duration, platform_type) VALUES %s",
            [
                (
                    int(rows.instance_ids[at]),
                    int(population.hashes[at]),
                    True,
                    bool(rows.is_fresh[at]),
                    int(rows.team_sizes[at]),
                    (began := datetime.fromtimestamp(int(population.started[at]), UTC)),
                    began + timedelta(seconds=int(raw["duration"][at])),
                    int(raw["duration"][at]),
                    3,
                )
                for at in starts
            ],
        )
        execute_values(
            cursor,
            "INSERT INTO core.instance_player (instance_id, membership_id, completed,"
            " time_played_seconds) VALUES %s",
            [
                (int(i), int(m), True, int(s))
                for i, m, s in zip(
                    rows.instance_ids, rows.membership_ids, raw["seconds"], strict=True
                )
            ],
        )
        execute_values(
            cursor,
            "INSERT INTO streaming.cheat_check (instance_id, version, probability, bitmask)"
            " VALUES %s",
            [(int(rows.instance_ids[at]), version, 0, 0) for at in starts],
        )
        execute_values(
            cursor,
            "INSERT INTO flagging.flag_instance_player (instance_id, membership_id,"
            " cheat_check_version, cheat_check_bitmask, cheat_probability) VALUES %s",
            [
                (
                    int(rows.instance_ids[at]),
                    int(rows.membership_ids[at]),
                    version,
                    1 << KNOWN.get(str(population.cheats[at]), 60),
                    0.95,
                )
                for at in flagged
            ],
        )
    client.command(
        "INSERT INTO weapon_definition (hash, name, ammo_type) VALUES"
        f" ({HEAVY}, 'Rocket', 'Heavy'), ({SNIPER}, 'Bow', 'Primary')"
    )
    client.raw_insert(
        "instance", insert_block=b"".join(_lines(population, starts)), fmt="JSONEachRow"
    )


def _lines(population: Population, starts: Ints) -> Iterator[bytes]:
    rows, raw = population.rows, population.raw
    ends = [*starts[1:], len(rows)]
    for start, end in zip(starts, ends, strict=True):
        began = datetime.fromtimestamp(int(population.started[start]), UTC)
        duration = int(raw["duration"][start])
        yield (
            msgspec.json.encode(
                {
                    "instance_id": int(rows.instance_ids[start]),
                    "hash": int(population.hashes[start]),
                    "completed": 1,
                    "player_count": int(rows.team_sizes[start]),
                    "fresh": int(rows.is_fresh[start]),
                    "flawless": 2,
                    "date_started": f"{began:%Y-%m-%d %H:%M:%S}",
                    "date_completed": f"{began + timedelta(seconds=duration):%Y-%m-%d %H:%M:%S}",
                    "platform_type": 3,
                    "duration": duration,
                    "score": 0,
                    "players": [_player(population, at) for at in range(start, end)],
                }
            )
            + b"\n"
        )


def _player(population: Population, at: int) -> dict[str, Any]:
    raw = {name: int(values[at]) for name, values in population.raw.items()}
    weapons = [(HEAVY, raw["heavy"]), (SNIPER, raw["best"]), (OTHER, raw["others"])]
    return {
        "membership_id": int(population.rows.membership_ids[at]),
        "completed": 1,
        "time_played_seconds": raw["seconds"],
        "characters": [
            {
                "character_id": at + 1,
                "completed": 1,
                "kills": raw["kills"],
                "assists": raw["assists"],
                "deaths": raw["deaths"],
                "precision_kills": raw["precise"],
                "super_kills": raw["supers"],
                "grenade_kills": raw["grenades"],
                "melee_kills": raw["melees"],
                "time_played_seconds": raw["seconds"],
                "start_seconds": raw["start"],
                "weapons": [
                    {"weapon_hash": hash_, "kills": kills, "precision_kills": 0}
                    for hash_, kills in weapons
                    if kills
                ],
            }
        ],
    }

"""One stored instance as a row of ClickHouse's `instance`: the shape of docs/domain/clickhouse.md.

Two ways lead to a row, and both give the same one for the same state: from the parsed report at
store time, and from PostgreSQL's present rows for corrections and rebuilds.
"""

import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import zstandard
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.pgcr.model import Character, Instance
from raidhub_dagster.storage.derive import Standing
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "clickhouse_rows")
_UNKNOWN = 2  # of fresh and flawless
_NOT_PLAYED = Standing(is_first_clear=False, sherpas=0)

# Compressors must not be shared between threads; making one costs more than compressing 6 kB.
_local = threading.local()


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Zstandard of the JSON object; equal rows give equal bytes."""
    compressor = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=1)
    return bytes(compressor.compress(msgspec.json.encode(row)))


def decode_row(body: bytes) -> dict[str, Any]:
    """The row that `encode_row` took; times are text."""
    row: dict[str, Any] = msgspec.json.decode(zstandard.ZstdDecompressor().decompress(body))
    return row


def row_of(instance: Instance, standings: Mapping[int, Standing]) -> dict[str, Any]:
    """The first revision of `instance`; `standings` by membership id, only of completers."""
    return {
        "instance_id": instance.instance_id,
        "hash": instance.hash,
        "completed": int(instance.completed),
        "player_count": instance.player_count,
        "fresh": _tristate(instance.fresh),
        "flawless": _tristate(instance.flawless),
        "date_started": _time(instance.date_started),
        "date_completed": _time(instance.date_completed),
        "platform_type": max(instance.platform_type, 0),
        "duration": instance.duration,
        "score": instance.score,
        "players": [
            {
                "membership_id": player.membership_id,
                "completed": int(player.completed),
                "time_played_seconds": player.time_played_seconds,
                "sherpas": (standing := standings.get(player.membership_id, _NOT_PLAYED)).sherpas,
                "is_first_clear": int(standing.is_first_clear),
                "characters": [_character(c) for c in player.characters],
            }
            for player in instance.players
        ],
        "revision": 1,
    }


def read_rows(connection: Connection, instance_ids: Iterable[int]) -> list[dict[str, Any]]:
    """Rows of those `instance_ids` that are stored, ascending, as PostgreSQL has them now.

    All have `revision` 1: whoever sends a correction sets its own.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SQL["read_rows"], {"instance_ids": list(instance_ids)})
        return [row for (row,) in cursor]


def _character(character: Character) -> dict[str, Any]:
    return {
        "character_id": character.character_id,
        "class_hash": character.class_hash or 0,
        "emblem_hash": character.emblem_hash or 0,
        "completed": int(character.completed),
        "score": character.score,
        "kills": character.kills,
        "assists": character.assists,
        "deaths": character.deaths,
        "precision_kills": character.precision_kills,
        "super_kills": character.super_kills,
        "grenade_kills": character.grenade_kills,
        "melee_kills": character.melee_kills,
        "time_played_seconds": character.time_played_seconds,
        "start_seconds": character.start_seconds,
        "weapons": character.weapons,
    }


def _tristate(value: bool | None) -> int:
    return _UNKNOWN if value is None else int(value)


def _time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S")

"""An instance as binary COPY rows: the columns of the COPY statements in store.sql."""

from collections.abc import Iterator, Mapping

from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage.copy import boolean, fields, int4, int8, int8_array, timestamp
from raidhub_dagster.storage.derive import Standing


def instance_row(i: Instance) -> bytes:
    return (
        fields(12)
        + int8(i.instance_id)
        + int8(i.hash)
        + int4(i.score)
        + boolean(i.flawless)
        + boolean(i.completed)
        + boolean(i.fresh)
        + int4(i.player_count)
        + timestamp(i.date_started)
        + timestamp(i.date_completed)
        + int4(i.duration)
        + int4(i.platform_type)
        + int8_array(i.skull_hashes)
    )


def player_rows(instance: Instance, standings: Mapping[int, Standing]) -> Iterator[bytes]:
    absent = Standing(is_first_clear=False, sherpas=0)
    start = fields(6) + int8(instance.instance_id)
    for player in instance.players:
        standing = standings.get(player.membership_id, absent)
        yield (
            start
            + int8(player.membership_id)
            + boolean(player.completed)
            + int4(player.time_played_seconds)
            + int4(standing.sherpas)
            + boolean(standing.is_first_clear)
        )


def character_rows(instance: Instance) -> Iterator[bytes]:
    start = fields(16) + int8(instance.instance_id)
    for player in instance.players:
        for c in player.characters:
            yield (
                start
                + int8(player.membership_id)
                + int8(c.character_id)
                + int8(c.class_hash)
                + int8(c.emblem_hash)
                + boolean(c.completed)
                + int4(c.score)
                + int4(c.kills)
                + int4(c.assists)
                + int4(c.deaths)
                + int4(c.precision_kills)
                + int4(c.super_kills)
                + int4(c.grenade_kills)
                + int4(c.melee_kills)
                + int4(c.time_played_seconds)
                + int4(c.start_seconds)
            )


def weapon_rows(instance: Instance) -> Iterator[bytes]:
    start = fields(6) + int8(instance.instance_id)
    for player in instance.players:
        for character in player.characters:
            owner = start + int8(player.membership_id) + int8(character.character_id)
            for w in character.weapons:
                yield owner + int8(w.weapon_hash) + int4(w.kills) + int4(w.precision_kills)

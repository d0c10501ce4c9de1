"""The contract with outside readers and writers, to the column; rules: docs/domain/schema.md."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import sqrt
from typing import Any

import pytest
from psycopg2 import errors
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import Json

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.migrations import migrate_postgres
from raidhub_dagster.storage.postgres import connect

# table -> columns: type, NN = not null, =default, gen = generated and stored.
TABLES = {
    "definitions.activity_definition": """
        id int NN, name text NN, is_sunset bool NN =false, is_raid bool NN =true, path text NN,
        release_date tz(0) NN, day_one_end tz(0) gen, contest_end tz(0), week_one_end tz(0),
        milestone_hash bigint, splash_path text NN""",
    "definitions.version_definition": """
        id int NN, name text NN, associated_activity_id int, path text NN,
        is_challenge_mode bool NN =false""",
    "definitions.activity_version": """
        hash bigint NN, activity_id int NN, version_id int NN, is_world_first bool NN =false,
        release_date_override tz(0)""",
    "definitions.season": """
        id int NN, short_name text NN, long_name text NN, dlc text NN, start_date tz(0) NN""",
    "definitions.class_definition": "hash bigint NN, name text NN",
    "definitions.weapon_definition": """
        hash bigint NN, name text NN, icon_path text NN, weapon_type text NN, element text NN,
        slot text NN, ammo_type text NN, rarity text NN""",
    "definitions.activity_feat_definition": """
        hash bigint NN, skull_hash bigint NN, name text NN, name_short text gen,
        description text NN, icon_path text NN, description_short text NN,
        modifier_power_contribution int NN, created_at tz(3) NN =now()""",
    "core.player": """
        membership_id bigint NN, membership_type int, icon_path text, display_name text,
        bungie_global_display_name text, bungie_global_display_name_code text,
        bungie_name text gen, last_seen tz(3) NN, first_seen tz(3) NN =now(),
        clears int NN =0, fresh_clears int NN =0, sherpas int NN =0,
        total_time_played_seconds int NN =0, sum_of_best int, last_crawled tz(3),
        wfr_score double NN =0, cheat_level smallint NN =0, is_private bool NN =false,
        is_whitelisted bool NN =false, history_last_crawled tz(3), updated_at tz(3) NN =now(),
        _search_score numeric(14,4) gen""",
    "core.instance": """
        instance_id bigint NN, hash bigint NN, score int NN =0, flawless bool, completed bool NN,
        fresh bool, player_count int NN, date_started tz(0) NN, date_completed tz(0) NN,
        duration int NN, platform_type int NN, season_id int NN gen,
        is_whitelisted bool NN =false, skull_hashes bigint[] ='{}'::bigint[]""",
    "core.instance_player": """
        instance_id bigint NN, membership_id bigint NN, completed bool NN,
        time_played_seconds int NN =0, sherpas int NN =0, is_first_clear bool NN =false""",
    "core.player_stats": """
        membership_id bigint NN, activity_id int NN, clears int NN =0, fresh_clears int NN =0,
        sherpas int NN =0, fastest_instance_id bigint, total_time_played_seconds int NN =0""",
    "extended.instance_character": """
        instance_id bigint NN, membership_id bigint NN, character_id bigint NN,
        class_hash bigint, emblem_hash bigint, completed bool NN, score int NN =0,
        kills int NN =0, assists int NN =0, deaths int NN =0, precision_kills int NN =0,
        super_kills int NN =0, grenade_kills int NN =0, melee_kills int NN =0,
        time_played_seconds int NN, start_seconds int NN""",
    "extended.instance_character_weapon": """
        instance_id bigint NN, membership_id bigint NN, character_id bigint NN,
        weapon_hash bigint NN, kills int NN =0, precision_kills int NN =0""",
    "clan.clan": """
        group_id bigint NN, name text NN, motto text NN, call_sign text NN,
        clan_banner_data jsonb NN, updated_at tz(3) NN =now()""",
    "clan.clan_members": "group_id bigint NN, membership_id bigint NN",
    "raw.pgcr": "instance_id bigint NN, data bytea NN, date_crawled tz =now()",
    "flagging.flag_instance": """
        instance_id bigint NN, cheat_check_version text NN, cheat_check_bitmask bigint NN,
        flagged_at tz =now(), cheat_probability numeric, explanation text""",
    "flagging.flag_instance_player": """
        instance_id bigint NN, membership_id bigint NN, cheat_check_version text NN,
        cheat_check_bitmask bigint NN, flagged_at tz =now(), cheat_probability numeric,
        explanation text""",
    "flagging.blacklist_instance": """
        instance_id bigint NN, report_source flagging."BlacklistReportSource" NN,
        report_id bigint, cheat_check_version text, reason text NN, created_at tz =now()""",
    "flagging.blacklist_instance_player": """
        instance_id bigint NN, membership_id bigint NN, reason text NN""",
    "flagging.review_queue": """
        id bigint NN, membership_id bigint NN, instance_id bigint NN, score double NN,
        worth double NN, expected_value double NN gen, reasons jsonb NN, model_version text NN,
        state text NN ='open'::text, created_at tz NN =now(), decided_at tz, decided_by text""",
    "subscriptions.destination": """
        id bigint NN =serial, channel_type text NN, is_active bool NN =true,
        consecutive_delivery_failures int NN =0, last_delivery_success_at tz(3),
        last_delivery_failure_at tz(3), last_delivery_error text, deactivated_at tz(3),
        deactivation_reason text, created_at tz(3) NN =now(), updated_at tz(3) NN =now()""",
    "subscriptions.discord_destination_config": """
        destination_id bigint NN, guild_id text, channel_id text, webhook_id text NN,
        webhook_token text NN, created_at tz(3) NN =now(), updated_at tz(3) NN =now()""",
    "subscriptions.http_callback_destination_config": """
        destination_id bigint NN, callback_url text NN, created_at tz(3) NN =now(),
        updated_at tz(3) NN =now()""",
    "subscriptions.rule": """
        id bigint NN =serial, destination_id bigint NN, scope text NN, membership_id bigint,
        group_id bigint, is_active bool NN =true, require_fresh bool NN =false,
        require_completed bool NN =false, activity_raid_bitmap bigint NN =0,
        created_at tz(3) NN =now(), updated_at tz(3) NN =now()""",
    "leaderboard.individual_global_leaderboard": """
        membership_id bigint,
        clears int, clears_position bigint, clears_rank bigint, clears_percentile numeric,
        fresh_clears int, fresh_clears_position bigint, fresh_clears_rank bigint,
        fresh_clears_percentile numeric,
        sherpas int, sherpas_position bigint, sherpas_rank bigint, sherpas_percentile numeric,
        speed int, speed_position bigint, speed_rank bigint, speed_percentile numeric,
        total_time_played int, total_time_played_position bigint, total_time_played_rank bigint,
        total_time_played_percentile numeric,
        wfr_score double, wfr_score_position bigint, wfr_score_rank bigint,
        wfr_score_percentile numeric""",
    "leaderboard.individual_raid_leaderboard": """
        activity_id int, membership_id bigint,
        clears int, clears_position bigint, clears_rank bigint, clears_percentile numeric,
        fresh_clears int, fresh_clears_position bigint, fresh_clears_rank bigint,
        fresh_clears_percentile numeric,
        sherpas int, sherpas_position bigint, sherpas_rank bigint, sherpas_percentile numeric,
        total_time_played int, total_time_played_position bigint, total_time_played_rank bigint,
        total_time_played_percentile numeric""",
    "leaderboard.individual_pantheon_version_leaderboard": """
        membership_id bigint, version_id int,
        clears bigint, clears_position bigint, clears_rank bigint,
        fresh_clears bigint, fresh_clears_position bigint, fresh_clears_rank bigint,
        score bigint, score_position bigint, score_rank bigint""",
    "leaderboard.team_activity_version_leaderboard": """
        activity_id int, version_id int, instance_id bigint, value numeric, position bigint,
        rank bigint, membership_ids jsonb""",
    "leaderboard.world_first_contest_leaderboard": """
        activity_id int, position bigint, rank bigint, instance_id bigint, date_completed tz(0),
        time_after_launch numeric, is_challenge_mode bool, membership_ids jsonb""",
    "leaderboard.team_pantheon_custom_race_leaderboard": """
        position bigint, rank bigint, value numeric, instance_id bigint, membership_ids jsonb""",
    "leaderboard.clan_leaderboard": """
        group_id bigint, known_member_count bigint, clears bigint, average_clears numeric,
        fresh_clears bigint, average_fresh_clears numeric, sherpas bigint,
        average_sherpas numeric, time_played_seconds bigint,
        average_time_played_seconds numeric, total_contest_score double,
        weighted_contest_score double""",
}

# table -> keys and indexes; PK, U = unique.
INDEXES = {
    "definitions.activity_definition": ["PK (id)"],
    "definitions.version_definition": ["PK (id)"],
    "definitions.activity_version": ["PK (hash)", "(activity_id)", "(version_id)"],
    "definitions.season": ["PK (id)", "(start_date DESC)"],
    "definitions.class_definition": ["PK (hash)"],
    "definitions.weapon_definition": ["PK (hash)"],
    "definitions.activity_feat_definition": ["PK (hash)"],
    "core.player": [
        "PK (membership_id)",
        "(lower(bungie_name) text_pattern_ops, _search_score DESC)",
        "(lower(display_name) text_pattern_ops, _search_score DESC)",
        "(cheat_level, membership_id) WHERE (cheat_level > 0)",
    ],
    "core.instance": [
        "brin (date_completed timestamptz_minmax_multi_ops)"
        " WITH (pages_per_range='32', autosummarize='on')",
        "PK (instance_id)",
        "(hash, date_completed) WHERE completed",
        "(hash, player_count, fresh, flawless)"
        " WHERE (completed AND ((player_count <= 3) OR flawless))",
        "(hash, duration) WHERE (completed AND fresh)",
        "(hash, score DESC) WHERE (completed AND fresh AND (score > 0))",
    ],
    "core.instance_player": [
        "PK (instance_id, membership_id)",
        "(instance_id)",
        "(membership_id)",
        "(is_first_clear) INCLUDE (instance_id) WHERE is_first_clear",
        "(membership_id) INCLUDE (instance_id) WHERE is_first_clear",
    ],
    "core.player_stats": ["PK (membership_id, activity_id)", "(fastest_instance_id)"],
    "extended.instance_character": [
        "PK (instance_id, membership_id, character_id)",
        "(membership_id)",
    ],
    "extended.instance_character_weapon": [
        "PK (instance_id, membership_id, character_id, weapon_hash)"
    ],
    "clan.clan": ["PK (group_id)"],
    "clan.clan_members": ["PK (group_id, membership_id)", "(membership_id)"],
    "raw.pgcr": ["PK (instance_id)"],
    "flagging.flag_instance": ["PK (instance_id, cheat_check_version)", "(flagged_at DESC)"],
    "flagging.flag_instance_player": [
        "PK (instance_id, membership_id, cheat_check_version)",
        "(membership_id)",
        "(flagged_at DESC)",
    ],
    "flagging.blacklist_instance": ["PK (instance_id)"],
    "flagging.blacklist_instance_player": ["PK (instance_id, membership_id)", "(membership_id)"],
    "flagging.review_queue": [
        "PK (id)",
        "U (membership_id, instance_id)",
        "(expected_value DESC, id) WHERE (state = 'open'::text)",
        "(state, instance_id) WHERE (state <> 'open'::text)",
        "(instance_id, membership_id)",
    ],
    "subscriptions.destination": ["PK (id)"],
    "subscriptions.discord_destination_config": [
        "PK (destination_id)",
        "U (channel_id)",
        "U (webhook_id)",
    ],
    "subscriptions.http_callback_destination_config": ["PK (destination_id)", "U (callback_url)"],
    "subscriptions.rule": [
        "PK (id)",
        "U (membership_id, destination_id) WHERE ((scope = 'player'::text) AND is_active)",
        "U (group_id, destination_id) WHERE ((scope = 'clan'::text) AND is_active)",
        "(destination_id)",
    ],
    "leaderboard.individual_global_leaderboard": [
        "U (membership_id)",
        "U (clears_position)",
        "U (fresh_clears_position)",
        "U (sherpas_position)",
        "(speed_position)",
        "U (total_time_played_position)",
        "U (wfr_score_position)",
    ],
    "leaderboard.individual_raid_leaderboard": [
        "U (activity_id, membership_id)",
        "U (activity_id, clears_position)",
        "U (activity_id, fresh_clears_position)",
        "U (activity_id, sherpas_position)",
        "U (activity_id, total_time_played_position)",
    ],
    "leaderboard.individual_pantheon_version_leaderboard": [
        "U (version_id, membership_id)",
        "U (version_id, clears_position)",
        "U (version_id, fresh_clears_position)",
        "U (version_id, score_position)",
    ],
    "leaderboard.team_activity_version_leaderboard": [
        'U (activity_id, version_id, "position")',
        "U (instance_id)",
        "gin (membership_ids)",
    ],
    "leaderboard.world_first_contest_leaderboard": [
        "U (instance_id)",
        '(activity_id, "position")',
        "gin (membership_ids)",
    ],
    "leaderboard.team_pantheon_custom_race_leaderboard": [
        'U ("position")',
        "U (instance_id)",
        "gin (membership_ids)",
    ],
    "leaderboard.clan_leaderboard": [
        "U (group_id)",
        "(clears DESC, group_id)",
        "(fresh_clears DESC, group_id)",
        "(sherpas DESC, group_id)",
        "(time_played_seconds DESC, group_id)",
        "(total_contest_score DESC, group_id)",
        "(weighted_contest_score DESC, group_id)",
    ],
}

# Without remark: restrict on delete, nothing on update.
FOREIGN_KEYS = {
    "definitions.version_definition (associated_activity_id)"
    " -> definitions.activity_definition (id) update cascade, delete set null",
    "definitions.activity_version (activity_id)"
    " -> definitions.activity_definition (id) update cascade, delete restrict",
    "definitions.activity_version (version_id)"
    " -> definitions.version_definition (id) update cascade, delete restrict",
    "core.instance (hash) -> definitions.activity_version (hash) delete restrict",
    "core.instance_player (instance_id) -> core.instance (instance_id) delete restrict",
    "core.instance_player (membership_id) -> core.player (membership_id) delete restrict",
    "core.player_stats (membership_id) -> core.player (membership_id) delete restrict",
    "core.player_stats (activity_id) -> definitions.activity_definition (id) delete restrict",
    "core.player_stats (fastest_instance_id)"
    " -> core.instance (instance_id) update cascade, delete set null",
    "extended.instance_character (instance_id, membership_id)"
    " -> core.instance_player (instance_id, membership_id) delete restrict",
    "extended.instance_character_weapon (instance_id, membership_id, character_id)"
    " -> extended.instance_character (instance_id, membership_id, character_id) delete restrict",
    "clan.clan_members (group_id) -> clan.clan (group_id) delete restrict",
    "clan.clan_members (membership_id) -> core.player (membership_id) delete restrict",
    "flagging.flag_instance (instance_id) -> core.instance (instance_id) delete restrict",
    "flagging.flag_instance_player (instance_id, membership_id)"
    " -> core.instance_player (instance_id, membership_id) delete restrict",
    "flagging.blacklist_instance (instance_id) -> core.instance (instance_id) delete restrict",
    "flagging.blacklist_instance_player (instance_id)"
    " -> flagging.blacklist_instance (instance_id) delete cascade",
    "flagging.blacklist_instance_player (instance_id, membership_id)"
    " -> core.instance_player (instance_id, membership_id) delete restrict",
    "flagging.review_queue (instance_id, membership_id)"
    " -> core.instance_player (instance_id, membership_id) delete cascade",
    "subscriptions.discord_destination_config (destination_id)"
    " -> subscriptions.destination (id) delete cascade",
    "subscriptions.http_callback_destination_config (destination_id)"
    " -> subscriptions.destination (id) delete cascade",
    "subscriptions.rule (destination_id) -> subscriptions.destination (id) delete cascade",
}

_SHORT = {
    "integer": "int",
    "boolean": "bool",
    "double precision": "double",
    "timestamp with time zone": "tz",
}

# What other programs insert, parents first; every other column must do without a value.
_AT = datetime(2022, 8, 26, 18, 0, tzinfo=UTC)
OUTSIDE_INSERTS: list[tuple[str, dict[str, Any]]] = [
    (
        "core.player",
        {
            "membership_id": 1,
            "membership_type": 3,
            "icon_path": "/icon.png",
            "display_name": "Guardian",
            "bungie_global_display_name": "Guardian",
            "bungie_global_display_name_code": "0042",
            "last_seen": _AT,
            "first_seen": _AT,
            "clears": 1,
            "fresh_clears": 1,
            "sherpas": 0,
            "total_time_played_seconds": 3600,
            "sum_of_best": None,
            "wfr_score": 0.5,
            "cheat_level": 0,
            "is_private": False,
            "is_whitelisted": False,
            "updated_at": _AT,
        },
    ),
    (
        "core.instance",
        {
            "instance_id": 10,
            "hash": 1374392663,
            "score": 0,
            "flawless": None,
            "completed": True,
            "fresh": None,
            "player_count": 1,
            "date_started": _AT,
            "date_completed": _AT,
            "duration": 3600,
            "platform_type": 3,
            "is_whitelisted": False,
            "skull_hashes": [1, 2],
        },
    ),
    (
        "core.instance_player",
        {
            "instance_id": 10,
            "membership_id": 1,
            "completed": True,
            "time_played_seconds": 3600,
            "sherpas": 0,
            "is_first_clear": True,
        },
    ),
    (
        "core.player_stats",
        {
            "membership_id": 1,
            "activity_id": 11,
            "clears": 1,
            "fresh_clears": 1,
            "sherpas": 0,
            "total_time_played_seconds": 3600,
        },
    ),
    (
        "extended.instance_character",
        {
            "instance_id": 10,
            "membership_id": 1,
            "character_id": 7,
            "class_hash": 671679327,
            "emblem_hash": None,
            "completed": True,
            "score": 0,
            "kills": 5,
            "assists": 0,
            "deaths": 0,
            "precision_kills": 0,
            "super_kills": 0,
            "grenade_kills": 0,
            "melee_kills": 0,
            "time_played_seconds": 3600,
            "start_seconds": 0,
        },
    ),
    ("raw.pgcr", {"instance_id": 10, "data": b"{}", "date_crawled": _AT}),
    (
        "flagging.flag_instance",
        {
            "instance_id": 10,
            "cheat_check_version": "v1",
            "cheat_check_bitmask": 3,
            "cheat_probability": 0.5,
        },
    ),
    (
        "flagging.flag_instance_player",
        {
            "instance_id": 10,
            "membership_id": 1,
            "cheat_check_version": "v1",
            "cheat_check_bitmask": 3,
            "cheat_probability": 1,
        },
    ),
    (
        "flagging.blacklist_instance",
        {
            "instance_id": 10,
            "report_source": "WebReport",
            "report_id": 4,
            "cheat_check_version": None,
            "reason": "reported",
        },
    ),
    (
        "flagging.blacklist_instance_player",
        {"instance_id": 10, "membership_id": 1, "reason": "reported"},
    ),
    ("subscriptions.destination", {"channel_type": "discord_webhook", "is_active": True}),
    (
        "subscriptions.discord_destination_config",
        {
            "destination_id": 1,
            "guild_id": "1",
            "channel_id": "2",
            "webhook_id": "3",
            "webhook_token": "token",
        },
    ),
    (
        "subscriptions.rule",
        {
            "destination_id": 1,
            "scope": "player",
            "membership_id": 1,
            "require_fresh": False,
            "require_completed": True,
            "activity_raid_bitmap": 0,
        },
    ),
    (
        "subscriptions.rule",
        {
            "destination_id": 1,
            "scope": "clan",
            "group_id": 1,
            "require_fresh": False,
            "require_completed": True,
            "activity_raid_bitmap": 1 << 33,
        },
    ),
]

SettingsFor = Callable[..., Settings]


@pytest.fixture
def connection(postgres: dict[str, Any], settings_for: SettingsFor) -> Iterator[Connection]:
    with closing(connect(settings_for(postgres), "test")) as connection:
        yield connection


def fetch(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    marks = ", ".join(["%s"] * len(row))
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))


def player(connection: Connection, **row: Any) -> None:
    insert(connection, "core.player", {"membership_id": 1, "last_seen": _AT} | row)


def instance(connection: Connection, **row: Any) -> None:
    base = dict(OUTSIDE_INSERTS)["core.instance"]
    insert(connection, "core.instance", base | row)


def short(type_: str) -> str:
    type_ = re.sub(r"timestamp\((\d)\) with time zone", r"tz(\1)", type_)
    return _SHORT.get(type_, type_)


@pytest.mark.parametrize("table", TABLES)
def test_table_has_the_agreed_columns(connection: Connection, table: str) -> None:
    """Readers name these columns and rely on their types and on which may be null."""
    rows = fetch(
        connection,
        """
        SELECT attname, format_type(atttypid, atttypmod), attnotnull, attgenerated = 's',
            pg_get_expr(adbin, adrelid)
        FROM pg_attribute
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
        ORDER BY attnum""",
        table,
    )
    columns = []
    for name, type_, not_null, generated, default in rows:
        parts = [name, short(type_)]
        if not_null:
            parts.append("NN")
        if generated:
            parts.append("gen")
        elif default is not None:
            parts.append("=serial" if default.startswith("nextval(") else f"={default}")
        columns.append(" ".join(parts))
    expected = re.split(r",\s+", TABLES[table].strip())
    assert columns == [" ".join(column.split()) for column in expected]


def test_public_schemas_hold_nothing_else(connection: Connection) -> None:
    """The lists of this file are complete: a table that is not agreed on belongs elsewhere."""
    rows = fetch(
        connection,
        """
        SELECT nspname || '.' || relname FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relkind IN ('r', 'm', 'v', 'p')
            AND nspname NOT IN ('streaming', 'public', 'information_schema')
            AND nspname NOT LIKE 'pg%%'""",
    )
    assert {name for (name,) in rows} == set(TABLES) == set(INDEXES)


@pytest.mark.parametrize("table", INDEXES)
def test_table_has_the_agreed_indexes(connection: Connection, table: str) -> None:
    """Each serves a reader's query or the store; one too many costs every insert."""
    rows = fetch(
        connection,
        """
        SELECT indisprimary, indisunique, pg_get_indexdef(indexrelid)
        FROM pg_index WHERE indrelid = %s::regclass""",
        table,
    )
    found = []
    for primary, unique, definition in rows:
        method, text = definition.split(" USING ")[1].split(" ", 1)
        kind = "PK " if primary else "U " if unique else "" if method == "btree" else f"{method} "
        found.append(kind + text)
    assert sorted(found) == sorted(INDEXES[table])


def test_foreign_keys_are_exactly_the_agreed_ones(connection: Connection) -> None:
    """A stricter one breaks outside writers; one from `streaming` would block their deletes."""
    actions = {"a": "", "r": "restrict", "c": "cascade", "n": "set null"}
    rows = fetch(
        connection,
        """
        SELECT conrelid::regclass::text, confrelid::regclass::text, confupdtype, confdeltype,
            (SELECT string_agg(attname, ', ' ORDER BY place)
                FROM unnest(conkey) WITH ORDINALITY AS key (number, place)
                JOIN pg_attribute ON attrelid = conrelid AND attnum = number),
            (SELECT string_agg(attname, ', ' ORDER BY place)
                FROM unnest(confkey) WITH ORDINALITY AS key (number, place)
                JOIN pg_attribute ON attrelid = confrelid AND attnum = number)
        FROM pg_constraint WHERE contype = 'f'""",
    )
    found = {
        f"{table} ({columns}) -> {target} ({keys}) "
        + (f"update {actions[update]}, " if actions[update] else "")
        + f"delete {actions[delete]}"
        for table, target, update, delete, columns, keys in rows
    }
    assert found == FOREIGN_KEYS


def test_report_sources_keep_their_names_and_order(connection: Connection) -> None:
    """Readers cast to the enumeration by its mixed-case name."""
    rows = fetch(
        connection, 'SELECT unnest(enum_range(NULL::flagging."BlacklistReportSource"))::text'
    )
    assert [name for (name,) in rows] == [
        "Manual",
        "WebReport",
        "CheatCheck",
        "BlacklistedPlayerCascade",
    ]


def test_outside_writers_insert_their_columns_and_delete_children_first(
    connection: Connection,
) -> None:
    """They know only these columns; any other one without a default would stop them."""
    for table, row in OUTSIDE_INSERTS:
        insert(connection, table, row)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE core.player SET cheat_level = 2")
        cursor.execute("UPDATE core.instance SET is_whitelisted = true")
        for table, _ in reversed(OUTSIDE_INSERTS):
            cursor.execute(f"DELETE FROM {table}")


def test_counters_stay_as_an_outside_writer_wrote_them(connection: Connection) -> None:
    """A trigger that counts would overwrite what a restore inserts."""
    triggers = fetch(connection, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")
    assert triggers == []


# --- generated values


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Apia"])
def test_day_one_ends_a_day_later_in_every_session_zone(connection: Connection, zone: str) -> None:
    """New York's day of 2024-11-03 has 25 hours; readers compare with release + 24 h."""
    release = datetime(2024, 11, 2, 17, 0, tzinfo=UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('TimeZone', %s, false)", [zone])
    row = {"id": 99, "name": "New", "path": "new", "release_date": release, "splash_path": "new"}
    insert(connection, "definitions.activity_definition", row)
    (end,) = fetch(
        connection, "SELECT day_one_end FROM definitions.activity_definition WHERE id = 99"
    )
    assert end == (release + timedelta(days=1),)


@pytest.mark.parametrize(
    ("at", "season"),
    [
        ("2017-09-06T08:59:59Z", 1),  # before all: the earliest
        ("2017-09-06T09:00:00Z", 1),
        ("2017-12-05T17:00:00Z", 1),  # the very second of a start
        ("2017-12-05T17:00:00.000001Z", 2),
        ("2017-12-05T17:00:01Z", 2),
        ("2026-06-09T17:00:01Z", 29),
        ("2040-01-01T00:00:00Z", 29),
    ],
)
def test_season_starts_are_exclusive(connection: Connection, at: str, season: int) -> None:
    assert fetch(connection, "SELECT definitions.get_season(%s::timestamptz)", at) == [(season,)]


def test_season_is_one_when_none_is_known(connection: Connection) -> None:
    """An empty table must not stop the store."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM definitions.season")
    assert fetch(connection, "SELECT definitions.get_season(now())") == [(1,)]


def test_earliest_season_is_the_fallback_whatever_its_id(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM definitions.season WHERE id < 5")
    assert fetch(connection, "SELECT definitions.get_season('2017-01-01Z')") == [(5,)]


def test_instance_gets_its_season_whatever_the_search_path(connection: Connection) -> None:
    """Outside writers have their own search path; the function must name its schema."""
    with connection.cursor() as cursor:
        cursor.execute("SET search_path TO pg_catalog")
    instance(connection)
    assert fetch(connection, "SELECT season_id FROM core.instance") == [(18,)]


def test_skulls_are_an_empty_list_when_not_given(connection: Connection) -> None:
    """Readers require an array."""
    row = dict(OUTSIDE_INSERTS)["core.instance"] | {"instance_id": 11}
    del row["skull_hashes"]
    insert(connection, "core.instance", row)
    assert fetch(connection, "SELECT skull_hashes FROM core.instance") == [([],)]


@pytest.mark.parametrize(
    ("name", "code", "display", "shown"),
    [
        ("Guardian", "0042", "other", "Guardian#0042"),
        ("Guardian", None, "other", "other"),
        (None, "0042", "other", "other"),
        (None, None, None, None),
    ],
)
def test_bungie_name_needs_name_and_code(
    connection: Connection, name: str | None, code: str | None, display: str, shown: str | None
) -> None:
    player(
        connection,
        display_name=display,
        bungie_global_display_name=name,
        bungie_global_display_name_code=code,
    )
    assert fetch(connection, "SELECT bungie_name FROM core.player") == [(shown,)]


@pytest.mark.parametrize(
    ("last_seen", "clears", "wfr_score"),
    [
        ("2017-08-27T00:00:00Z", 0, 0.0),
        ("2015-01-01T00:00:00Z", 8, 0.0),  # never less than 2^0
        ("2022-08-26T18:00:00Z", 99, 3.5),
        ("2026-06-13T17:00:00Z", 12345, 42.25),
    ],
)
def test_search_score_follows_its_formula(
    connection: Connection, last_seen: str, clears: int, wfr_score: float
) -> None:
    """Search results are ordered by it."""
    player(connection, last_seen=last_seen, clears=clears, wfr_score=wfr_score)
    age = datetime.fromisoformat(last_seen) - datetime(2017, 8, 27, tzinfo=UTC)
    expected = sqrt(clears + 1) * 2 ** (max(0.0, age.total_seconds()) / 2e7) * sqrt(wfr_score + 1)
    ((score,),) = fetch(connection, "SELECT _search_score FROM core.player")
    assert float(score) == pytest.approx(expected, abs=1e-4, rel=1e-12)


def test_search_score_never_stops_a_write(connection: Connection) -> None:
    """A date from the far future, or the most clears an int holds, would overflow the column."""
    player(connection, last_seen="9999-01-01T00:00:00Z", clears=2**31 - 1, wfr_score=1e300)
    assert fetch(connection, "SELECT _search_score FROM core.player") == [(Decimal(9999999999),)]


@pytest.mark.parametrize(
    ("name", "short_name"),
    [
        ("Feat: Cutthroat", "Cutthroat"),
        ("FEAT:Cutthroat ", "Cutthroat"),
        ("Cutthroat", "Cutthroat"),
        ("Defeat: all", "Defeat: all"),
    ],
)
def test_feat_has_a_short_name(connection: Connection, name: str, short_name: str) -> None:
    row = dict.fromkeys(("description", "icon_path", "description_short"), "")
    numbers = {"hash": 1, "skull_hash": 2, "modifier_power_contribution": 0}
    insert(connection, "definitions.activity_feat_definition", {"name": name, **row, **numbers})
    query = "SELECT name_short FROM definitions.activity_feat_definition"
    assert fetch(connection, query) == [(short_name,)]


# --- refused values

_BANNER = dict.fromkeys(
    (
        "decalId",
        "decalColorId",
        "decalBackgroundColorId",
        "gonfalonId",
        "gonfalonColorId",
        "gonfalonDetailId",
        "gonfalonDetailColorId",
    ),
    4294967295,
)


def clan(connection: Connection, banner: object) -> None:
    row = {"group_id": 1, "name": "", "motto": "", "call_sign": ""}
    insert(connection, "clan.clan", row | {"clan_banner_data": Json(banner)})


def test_banner_of_seven_numbers_is_taken(connection: Connection) -> None:
    clan(connection, _BANNER)


@pytest.mark.parametrize(
    "banner",
    [
        {},
        {**_BANNER, "more": 1},
        {**_BANNER, "decalId": -1},
        {**_BANNER, "decalId": 1.5},
        {**_BANNER, "decalId": 2**32},
        {**_BANNER, "decalId": "1"},
        {**_BANNER, "decalId": None},
        {**_BANNER, "decalId": [1]},
        [1],
        None,
    ],
)
def test_banner_that_readers_reject_is_refused(connection: Connection, banner: object) -> None:
    """One bad banner would fail the page of a whole clan."""
    with pytest.raises((errors.CheckViolation, errors.InvalidParameterValue)):
        clan(connection, banner)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("subscriptions.destination", {"channel_type": "pigeon"}),
        ("subscriptions.rule", {"destination_id": 1, "scope": "player"}),
        ("subscriptions.rule", {"destination_id": 1, "scope": "clan", "membership_id": 1}),
        (
            "subscriptions.rule",
            {"destination_id": 1, "scope": "clan", "membership_id": 1, "group_id": 1},
        ),
        ("subscriptions.rule", {"destination_id": 1, "scope": "all", "membership_id": 1}),
        (
            "flagging.flag_instance",
            {
                "instance_id": 10,
                "cheat_check_version": "v1",
                "cheat_check_bitmask": 0,
                "cheat_probability": 1.01,
            },
        ),
        ("core.player", {"membership_id": 1, "last_seen": _AT, "cheat_level": 5}),
    ],
)
def test_value_outside_its_set_is_refused(
    connection: Connection, table: str, row: dict[str, Any]
) -> None:
    with pytest.raises(errors.CheckViolation):
        insert(connection, table, row)


def test_player_is_notified_once_a_destination(connection: Connection) -> None:
    """Two active rules for the same player and channel would post everything twice."""
    insert(connection, "subscriptions.destination", {"channel_type": "http_callback"})
    rule = {"destination_id": 1, "scope": "player", "membership_id": 1}
    insert(connection, "subscriptions.rule", rule | {"is_active": False})
    insert(connection, "subscriptions.rule", rule)
    with pytest.raises(errors.UniqueViolation):
        insert(connection, "subscriptions.rule", rule)


# --- the readers' role


@pytest.fixture
def reader(postgres: dict[str, Any], settings_for: SettingsFor) -> Iterator[Connection]:
    name = f"reader_of_{postgres['postgres_db']}"
    login = {"postgres_readonly_user": name, "postgres_readonly_password": "s'ecret"}
    migrate_postgres(settings_for(postgres, login))
    as_reader = {"postgres_user": name, "postgres_password": "s'ecret"}
    with closing(connect(settings_for(postgres, as_reader), "reader")) as connection:
        connection.autocommit = True
        yield connection
    with closing(connect(settings_for(postgres), "test")) as owner, owner, owner.cursor() as cursor:
        cursor.execute(f'DROP OWNED BY "{name}"')
        cursor.execute(f'DROP ROLE "{name}"')


def test_reader_selects_from_every_public_table(reader: Connection, connection: Connection) -> None:
    for table in TABLES:
        if table.startswith("leaderboard."):
            with connection, connection.cursor() as cursor:
                cursor.execute(f"REFRESH MATERIALIZED VIEW {table}")
        assert len(fetch(reader, f"SELECT * FROM {table} LIMIT 1")) <= 1


def test_reader_selects_from_tables_that_come_later(
    reader: Connection, connection: Connection
) -> None:
    """Otherwise each migration would have to remember the role."""
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE leaderboard.pantheon_custom_race_snapshot (position int)")
    assert fetch(reader, "SELECT * FROM leaderboard.pantheon_custom_race_snapshot") == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO definitions.class_definition VALUES (1, 'Guardian')",
        "UPDATE core.player SET cheat_level = 0",
        "DELETE FROM raw.pgcr",
        "TRUNCATE raw.pgcr",
        "REFRESH MATERIALIZED VIEW leaderboard.clan_leaderboard",
        "CREATE TABLE core.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "SELECT * FROM streaming.outbox",
        "SELECT nextval('subscriptions.rule_id_seq')",
    ],
)
def test_reader_does_nothing_but_select(reader: Connection, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege), reader.cursor() as cursor:
        cursor.execute(statement)


def test_owner_cannot_be_the_reader(postgres: dict[str, Any], settings_for: SettingsFor) -> None:
    """The owner's password would silently become the readers'."""
    settings = settings_for(postgres, postgres_readonly_user=postgres["postgres_user"])
    with pytest.raises(ConfigurationError, match="POSTGRES_READONLY_USER"):
        migrate_postgres(settings)

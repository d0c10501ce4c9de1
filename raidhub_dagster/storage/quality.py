"""Claims that the stored tables must keep, looked at once a day on samples of bounded size.

What a claim is and how it is told: claims.py. Recounts of everything are verify.py's.
"""

from collections.abc import Mapping
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.queries import load

_POSTGRES = load("postgres", "quality")
_CLICKHOUSE = load("clickhouse", "quality")


class Claim(NamedTuple):
    """What a table promises: the name and words of its check, and query -> words of a problem."""

    name: str
    description: str
    broken_by: Mapping[str, str]


# By the name that the store gives the table.
POSTGRES: Mapping[str, Claim] = {
    "definitions.season": Claim(
        "begin_in_order",
        "There are seasons, and each begins after the one before it.",
        {
            "no_season": "there is no season",
            "seasons_out_of_order": "a season begins no later than the one before",
        },
    ),
    "definitions.activity_definition": Claim(
        "are_whole",
        "Every activity has a name and a hash, and its windows end after its release.",
        {
            "no_activity": "there is no activity",
            "activities_with_odd_times": "a window ends before the release, or the name is empty",
            "activities_without_hash": "no report's hash means this activity",
        },
    ),
    "definitions.version_definition": Claim(
        "have_names",
        "There are versions, and each has a name and a path.",
        {"no_version": "there is no version", "versions_without_name": "a name or path is empty"},
    ),
    "definitions.activity_version": Claim(
        "have_hashes",
        "There are hashes, and each fits into 32 bits.",
        {"no_hash": "there is no hash", "hashes_out_of_range": "a hash is none"},
    ),
    "raw.pgcr": Claim(
        "is_stored",
        "Each of the newest thousand reports is a stored raid, or waits with a reason.",
        {"reports_without_instance": "a report is kept and not stored, and nobody waits for it"},
    ),
    "streaming.crawl_block": Claim(
        "covers_every_id",
        "Below the crawl's cursor every id is in a block or in a gap.",
        {"ids_outside_the_ledger": "nobody is responsible for an id"},
    ),
    "streaming.missed_pgcr": Claim(
        "is_worked_off",
        "No missed id is stored already, none is overdue by a day.",
        {
            "missed_but_stored": "the raid is stored, but counts as missed",
            "missed_and_forgotten": "the next try is overdue by more than a day",
        },
    ),
    "core.instance": Claim(
        "is_kept_and_readable",
        "Sampled raids have their report and the values that public readers accept.",
        {
            "instances_without_report": "raw.pgcr lacks the report",
            "instances_that_readers_refuse": "a value is outside of what readers accept",
        },
    ),
    "core.instance_player": Claim(
        "is_there",
        "Sampled raids have players.",
        {"instances_without_players": "a raid has no player"},
    ),
    "extended.instance_character": Claim(
        "is_complete",
        "Players of sampled raids have a character, and its class is known.",
        {
            "players_without_character": "a player has no character",
            "characters_of_unknown_class": "no definition names the class",
        },
    ),
    "extended.instance_character_weapon": Claim(
        "has_hashes",
        "Weapons in sampled raids have a hash of 32 bits and no negative count.",
        {"weapons_out_of_range": "a hash or a count is out of range"},
    ),
    "clan.clan": Claim(
        "have_names",
        "Every clan has a name, and was written in the past.",
        {"clans_without_name": "a clan has no name, or a time in the future"},
    ),
    "streaming.top_player": Claim(
        "are_known",
        "Everybody at the top is a player that we know.",
        {"top_players_unknown": "core.player lacks the player"},
    ),
    "streaming.outbox": Claim(
        "is_drained",
        "Nothing waits for more than an hour or failed more than ten times.",
        {
            "effects_that_stay": "an effect does not leave",
            "rows_without_month": "a row for ClickHouse has no month",
        },
    ),
}
CLICKHOUSE: Mapping[str, Claim] = {
    "instance": Claim(
        "has_keys",
        "Raids of the last week have ids, players, times and a known activity.",
        {
            "instances_without_keys": "an id, a player or a time is missing",
            "instances_of_unknown_activity": "no definition knows the hash",
        },
    ),
    "player_population_by_hour": Claim(
        "has_keys",
        "Hours are past and of known activities.",
        {
            "hours_of_unknown_activity": "no definition knows the activity",
            "hours_in_the_future": "the hour is in the future",
        },
    ),
    "clear_time_by_day": Claim(
        "has_keys",
        "Days are of known activities and versions.",
        {"days_of_unknown_version": "no definition knows activity and version"},
    ),
    "weapon_meta_by_hour": Claim(
        "has_keys",
        "Weapons of the last week have a hash and a known activity.",
        {"weapons_without_keys": "the weapon or the activity is unknown"},
    ),
    "player_relation_weights_bidirectional": Claim(
        "has_pairs",
        "A pair is two different players.",
        {"pairs_without_keys": "a pair lacks a player, or is one player"},
    ),
}


def check_table(
    connection: Connection, table: str, *, sample: int = 500, limit_s: float = 120
) -> list[Problem]:
    """What `table` of POSTGRES breaks; best empty.

    Looks at up to twice `sample` raids. Raises psycopg2.errors.QueryCanceled after `limit_s` in one
    statement.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["limit_statement"], {"limit_ms": f"{int(limit_s * 1000)}"})
        cursor.execute(_POSTGRES["draw_instances"], {"size": sample})
        drawn = {"instances": [instance_id for (instance_id,) in cursor]}
        return [
            problem
            for query, words in POSTGRES[table].broken_by.items()
            for problem in find_broken(cursor, _POSTGRES[query], words, drawn)
        ]


def check_clickhouse(client: Client, table: str) -> list[Problem]:
    """What `table` of CLICKHOUSE breaks; best empty."""
    problems = []
    for query, words in CLICKHOUSE[table].broken_by.items():
        ((rows,),) = client.query(_CLICKHOUSE[query]).result_rows
        if rows:
            problems.append(Problem(words, rows, ()))
    return problems

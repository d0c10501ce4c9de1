"""Raises cheat levels from counted flags and account factors, with the evidence for each.

Levels rise and never fall here; a higher one that a person gave stays. Each change is a row of
`streaming.cheat_level_change`, written with the level and with what people are told of it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import Json

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.cheat_detection import notices
from raidhub_dagster.cheat_detection.account import (
    Counts,
    Record,
    judge,
    judge_account,
)
from raidhub_dagster.cheat_detection.blacklist import Blacklisted
from raidhub_dagster.cheat_detection.flag_stats import TOP_LEVEL
from raidhub_dagster.cheat_detection.notices import Rise
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.profiles import find_profiles
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.postgres import Pool
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.webhooks import Webhook, enqueue

_SQL = load("postgres", "nemesis")

ACTOR = "nemesis"
PROFILE_FRESH = timedelta(hours=24)
REPORTED_FROM = 2  # levels that the Grandmasters' service hears of
_AT_ONCE = 50  # players of a transaction, whom the store has to wait for
_READ_AT_ONCE = 500


@dataclass
class Raised:
    """What a run did. `eligible` have flags enough, `judged` could rise by their account."""

    eligible: int = 0
    judged: int = 0
    profiles_cached: int = 0
    profiles_asked: int = 0
    profiles_missing: Counter[str] = field(default_factory=Counter)
    partial: int = 0  # judged without a profile
    rises: list[Rise] = field(default_factory=list)  # the highest level first
    levels: dict[int, int] = field(default_factory=dict)  # players by level afterwards

    def raised_to(self, level: int) -> int:
        return sum(rise.new_level == level for rise in self.rises)


@dataclass(frozen=True)
class _Candidate:
    membership_id: int
    level: int
    flags: Counts
    sure: Counts


def raise_levels(
    pool: Pool,
    clients: Sequence[BungieClient],
    parameters: Parameters,
    *,
    run: str,
    webhooks: Collection[Webhook],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Raised:
    """Judges everybody in the counts of `flag_stats` who could rise, and raises who does.

    Profiles are asked for with one thread for each of `clients`; who has none is judged by what
    the database knows. `webhooks` are those that are on. A run that ends early leaves whole
    batches, and the next one goes on. Raises psycopg2.Error and nothing of the API's.
    """
    done = Raised()
    candidates = _candidates(pool, parameters, done)
    records = {
        record.membership_id: record
        for record in _records(pool, parameters, [c.membership_id for c in candidates], now())
    }
    candidates = [c for c in candidates if c.membership_id in records]
    profiles = find_profiles(
        pool,
        clients,
        {who: record.membership_type for who, record in records.items()},
        fresh_for=PROFILE_FRESH,
        now=now,
    )
    done.judged = len(candidates)
    done.profiles_cached, done.profiles_asked = profiles.cached, profiles.asked
    done.profiles_missing = profiles.missing
    at = now()
    rises: list[Rise] = []
    chances: list[tuple[int, float]] = []
    for candidate in candidates:
        record = records[candidate.membership_id]
        account = judge_account(
            parameters.account, record, profiles.found.get(candidate.membership_id), at
        )
        done.partial += account.is_partial
        chances.append((candidate.membership_id, account.chance))
        level, rule = judge(parameters, candidate.flags, candidate.sure, account.chance)
        if level > record.cheat_level:
            rises.append(
                Rise(
                    record,
                    record.cheat_level,
                    level,
                    rule,
                    candidate.flags,
                    candidate.sure,
                    account,
                )
            )
    _keep_chances(pool, chances)
    for start in range(0, len(rises), _AT_ONCE):
        batch = rises[start : start + _AT_ONCE]

        def write(connection: Connection, batch: list[Rise] = batch) -> list[Rise]:
            return _raise(connection, parameters, batch, run, webhooks, at)

        done.rises += pool.run(write)
    done.rises.sort(key=lambda rise: (-rise.new_level, rise.record.membership_id))
    with pool.connection() as connection:
        done.levels = count_levels(connection)
    return done


def tell_run(
    connection: Connection,
    parameters: Parameters,
    done: Blacklisted,
    *,
    run: str,
    webhooks: Collection[Webhook],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Tells people what the run came to, once its last step is done."""
    if Webhook.NEMESIS not in webhooks:
        return
    levels = count_levels(connection)
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_raised"], {"actor": ACTOR, "run": run})
        ((raised,),) = cursor.fetchall()
        message = notices.run_summary(
            levels,
            raised=raised,
            blacklisted=done.flagged,
            cascaded=done.cascaded,
            eligible=done.eligible,
            now=now(),
            version=parameters.version,
        )
        enqueue(cursor, Webhook.NEMESIS, 0, message)


def count_levels(connection: Connection) -> dict[int, int]:
    """Players by level, those of level 0 left out."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_levels"])
        return dict(cursor.fetchall())


def _candidates(pool: Pool, parameters: Parameters, done: Raised) -> list[_Candidate]:
    """Who could rise if the account said the worst: nobody else's account is looked at."""
    with pool.connection() as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_flag_stats"])
        rows = cursor.fetchall()
    done.eligible = len(rows)
    read = (_Candidate(who, level, Counts(*c[:4]), Counts(*c[4:])) for who, level, *c in rows)
    return [
        candidate
        for candidate in read
        if candidate.level < TOP_LEVEL
        and judge(parameters, candidate.flags, candidate.sure, 1.0).level > candidate.level
    ]


def _records(
    pool: Pool, parameters: Parameters, players: Sequence[int], now: datetime
) -> Iterator[Record]:
    values = {
        "lowman": parameters.account.star_clears.lowman_max_players,
        "since": now - timedelta(days=parameters.account.window_days),
    }
    for start in range(0, len(players), _READ_AT_ONCE):
        batch = array(players[start : start + _READ_AT_ONCE])
        with pool.connection() as connection, connection, connection.cursor() as cursor:
            cursor.execute(_SQL["read_records"], values | {"players": batch})
            rows = cursor.fetchall()
        yield from (Record(*row) for row in rows)


def _keep_chances(pool: Pool, chances: Sequence[tuple[int, float]]) -> None:
    """Beside the facts, for who looks there."""

    def write(connection: Connection) -> None:
        ordered = sorted(chances)
        with connection.cursor() as cursor:
            cursor.execute(
                _SQL["keep_chances"],
                {
                    "players": array(who for who, _ in ordered),
                    "chances": array(f"{chance:.6f}" for _, chance in ordered),
                },
            )

    if chances:
        pool.run(write)


def _raise(
    connection: Connection,
    parameters: Parameters,
    batch: Sequence[Rise],
    run: str,
    webhooks: Collection[Webhook],
    now: datetime,
) -> list[Rise]:
    """One transaction: levels, their records, and what is told of them; who rose."""
    by_player = {rise.record.membership_id: rise for rise in batch}
    players = array(by_player)
    with connection.cursor() as cursor:
        cursor.execute(_SQL["lock_players"], {"players": players})
        cursor.execute(
            _SQL["raise_levels"],
            {"players": players, "levels": array(rise.new_level for rise in batch)},
        )
        rises = [
            msgspec.structs.replace(by_player[who], old_level=old)
            for who, old in sorted(cursor.fetchall())
        ]
        for rise in rises:
            who = rise.record.membership_id
            cursor.execute(
                _SQL["record_change"],
                {
                    "player": who,
                    "old": rise.old_level,
                    "new": rise.new_level,
                    "reason": rise.rule,
                    "actor": ACTOR,
                    "evidence": Json(
                        notices.evidence(rise, version=parameters.version, run=run, now=now)
                    ),
                },
            )
            if rise.new_level == TOP_LEVEL and Webhook.CHEAT_CHECK in webhooks:
                message = notices.blacklisted_player(rise, now=now, version=parameters.version)
                enqueue(cursor, Webhook.CHEAT_CHECK, who, message)
            if rise.new_level >= REPORTED_FROM and Webhook.GM_REPORT in webhooks:
                report = notices.gm_report(
                    rise, now=now, window_days=parameters.account.window_days
                )
                enqueue(cursor, Webhook.GM_REPORT, who, report)
    return rises

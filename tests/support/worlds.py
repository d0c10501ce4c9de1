"""Random worlds of instances, and the tables they must give by the definitions alone.

A report may have several versions; `histories` gives worlds in which it has. The oracle recomputes
everything from the whole set, in the plainest way and without a line of the store: quadratic, but
so simple that it can be checked by eye against docs/domain/storage.md.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.pgcr.envelope import pack, stamped
from raidhub_dagster.pgcr.model import Character, Instance, Player, Weapon
from raidhub_dagster.storage.store import Report
from tests.support.reports import stat

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)
# Two hashes of one raid, one of another that every sum of best needs, one of a sunset raid.
HASHES = {1374392663: 11, 2964135793: 11, 2381413764: 12, 2693136600: 1}
FIRST_PLAYER = 4_611_686_018_400_000_000


class Tables(NamedTuple):
    """What the store must leave, as sets of plain rows."""

    instance_players: set[tuple[Any, ...]]
    player_stats: set[tuple[Any, ...]]
    players: set[tuple[Any, ...]]
    instances: set[tuple[Any, ...]]
    characters: set[tuple[Any, ...]]
    weapons: set[tuple[Any, ...]]


def report_of(instance: Instance, fetched_at: datetime | None = None) -> Report:
    """`instance` with a body that parses to it."""
    body = pack(json.dumps(_response(instance), ensure_ascii=False).encode())
    return Report(instance, stamped(body, fetched_at) if fetched_at else body)


def _response(i: Instance) -> dict[str, Any]:
    """The report that says `i`; one character a player."""
    flag = {} if i.fresh is None else {"activityWasStartedFromBeginning": i.fresh}
    return {
        "period": i.date_started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        **flag,
        "activityDetails": {
            "instanceId": str(i.instance_id),
            "directorActivityHash": i.hash,
            "membershipType": i.platform_type,
            "mode": 4,
        },
        "selectedSkullHashes": list(i.skull_hashes),
        "entries": [_entry(i, p, c) for p in i.players for c in p.characters],
    }


def _entry(i: Instance, p: Player, c: Character) -> dict[str, Any]:
    values = {
        "activityDurationSeconds": i.duration,
        "completionReason": 0,
        "playerCount": -1,
        "teamScore": i.score,
        "completed": int(c.completed),
        "score": c.score,
        "kills": c.kills,
        "assists": c.assists,
        "deaths": c.deaths,
        "startSeconds": c.start_seconds,
        "timePlayedSeconds": c.time_played_seconds,
    }
    extended = {
        "precisionKills": c.precision_kills,
        "weaponKillsSuper": c.super_kills,
        "weaponKillsGrenade": c.grenade_kills,
        "weaponKillsMelee": c.melee_kills,
    }
    code = p.bungie_global_display_name_code
    return {
        "player": {
            "destinyUserInfo": {
                "membershipId": str(p.membership_id),
                "membershipType": p.membership_type or 0,
                "iconPath": p.icon_path,
                "displayName": p.display_name,
                "bungieGlobalDisplayName": p.bungie_global_display_name,
                "bungieGlobalDisplayNameCode": code and int(code),
            },
            "classHash": c.class_hash or 0,
            "emblemHash": c.emblem_hash or 0,
        },
        "characterId": str(c.character_id),
        "values": {key: stat(value) for key, value in values.items()},
        "extended": {
            "weapons": [
                {
                    "referenceId": w.weapon_hash,
                    "values": {
                        "uniqueWeaponKills": stat(w.kills),
                        "uniqueWeaponPrecisionKills": stat(w.precision_kills),
                    },
                }
                for w in c.weapons
            ],
            "values": {key: stat(value) for key, value in extended.items()},
        },
    }


@st.composite
def instances(draw: st.DrawFn, instance_id: int, players: int = 6) -> Instance:
    """An instance whose date does not follow its id, by some of few players."""
    started = EPOCH + timedelta(hours=draw(st.integers(0, 40)))
    duration = draw(st.integers(1, 3)) * 1000
    members = sorted(draw(st.sets(st.integers(0, players - 1), min_size=1, max_size=4)))
    return team(
        instance_id=instance_id,
        hash_=draw(st.sampled_from(sorted(HASHES))),
        platform_type=draw(st.sampled_from([-1, 1, 3])),
        started=started,
        duration=duration,
        score=draw(st.integers(0, 5)),
        fresh=draw(st.sampled_from([True, True, False, None])),
        skull_hashes=tuple(draw(st.lists(st.integers(1, 2**32 - 1), max_size=2, unique=True))),
        players=[draw(_players(FIRST_PLAYER + m, started, duration)) for m in members],
    )


def team(
    *,
    instance_id: int,
    hash_: int,
    platform_type: int,
    started: datetime,
    duration: int,
    score: int,
    fresh: bool | None,
    skull_hashes: tuple[int, ...],
    players: Sequence[Player],
) -> Instance:
    """The instance of these players, with what follows from them."""
    completed = any(p.completed for p in players)
    deathless = all(c.deaths == 0 for p in players for c in p.characters)
    return Instance(
        instance_id=instance_id,
        hash=hash_,
        platform_type=platform_type,
        date_started=started,
        date_completed=started + timedelta(seconds=duration),
        duration=duration,
        score=score,
        player_count=len(players),
        completed=completed,
        deathless=deathless,
        fresh=fresh,
        flawless=fresh if completed and deathless else False,
        skull_hashes=skull_hashes,
        players=tuple(players),
    )


@st.composite
def _players(draw: st.DrawFn, membership_id: int, started: datetime, duration: int) -> Player:
    kind = draw(st.sampled_from([None, 1, 3]))
    name = draw(st.sampled_from(["Ann", 'Q"u\\o', "雪", None])) if kind else None
    icon = draw(st.sampled_from(["/a.png", "/b.png", None])) if kind else None
    pair = draw(st.sampled_from([("Ann", "0001"), ("Bob", "0420"), (None, None)]))
    weapons = draw(st.dictionaries(st.integers(1, 9), st.integers(0, 9), max_size=3))
    start = draw(st.sampled_from([0, 8]))
    played = draw(st.integers(0, duration))
    character = Character(
        character_id=membership_id * 2 % 2**62 + draw(st.integers(0, 1)),
        class_hash=draw(st.sampled_from([None, 671679327])),
        emblem_hash=draw(st.sampled_from([None, 4242])),
        completed=draw(st.booleans()),
        score=7,
        kills=draw(st.integers(0, 300)),
        assists=1,
        deaths=draw(st.sampled_from([0, 0, 2])),
        precision_kills=3,
        super_kills=4,
        grenade_kills=5,
        melee_kills=6,
        time_played_seconds=played,
        start_seconds=start,
        weapons=tuple(Weapon(key, kills, kills // 2) for key, kills in sorted(weapons.items())),
    )
    return _played(
        Player(
            membership_id=membership_id,
            membership_type=kind,
            icon_path=icon,
            display_name=name,
            bungie_global_display_name=pair[0],
            bungie_global_display_name_code=pair[1],
            completed=character.completed,
            time_played_seconds=0,
            first_seen=started,
            last_seen=started,
            characters=(character,),
        ),
        duration,
    )


def _played(player: Player, duration: int) -> Player:
    """`player` with the times that follow from those of its character."""
    (character,) = player.characters
    end = min(character.start_seconds + character.time_played_seconds, duration)
    return msgspec.structs.replace(
        player,
        completed=character.completed,
        time_played_seconds=max(end - character.start_seconds, 0)
        if character.time_played_seconds
        else 0,
        last_seen=player.first_seen + timedelta(seconds=end),
    )


@st.composite
def histories(draw: st.DrawFn, most: int = 8) -> tuple[list[Instance], list[list[Report]]]:
    """A world, and for each of its instances all versions of the report, the one that counts last.

    Versions grow: each has the entries of the one before and perhaps more, and knows no less of
    its players. One with fewer entries may have been fetched at any time, for a cache may be old.
    """
    world = draw(worlds(most))
    return world, [draw(_versions(instance)) for instance in world]


@st.composite
def _versions(draw: st.DrawFn, final: Instance) -> list[Report]:
    number = draw(st.integers(0, 3))
    sizes = sorted(draw(st.integers(1, len(final.players))) for _ in range(number))
    order = draw(st.permutations(range(len(final.players))))
    parts = sorted(draw(st.integers(5, 10)) for _ in range(number))  # of the time, in tenths
    ended = final.date_completed
    times = [draw(st.integers(1, 50)) for _ in range(number)]
    reports = []
    for rank, (size, part) in enumerate(zip(sizes, parts, strict=True)):
        instance = draw(
            _younger(
                final, sorted(order[:size]), part, unresolved=rank == 0 and draw(st.booleans())
            )
        )
        # Of equal size the later fetched counts; a smaller one may come from a cache at any time.
        is_whole = size == len(final.players)
        minutes = rank * 100 + times[rank] + (0 if is_whole else draw(st.sampled_from([0, 9_000])))
        reports.append((size, minutes, instance))
    reports.sort(key=lambda report: report[:2])
    versions = [(1_000, final)]
    for _, minutes, instance in reversed(reports):
        if all(instance != other for _, other in versions):
            versions.append((minutes, instance))
    return [report_of(i, ended + timedelta(minutes=m)) for m, i in reversed(versions)]


@st.composite
def _younger(
    draw: st.DrawFn, final: Instance, members: list[int], part: int, *, unresolved: bool
) -> Instance:
    """A version of `final` with some of its entries, other names, and perhaps other facts."""
    is_other_run = draw(st.booleans())
    players = []
    for member in members:
        player = final.players[member]
        (character,) = player.characters
        if is_other_run:
            played = character.time_played_seconds * part // 10
            character = msgspec.structs.replace(
                character,
                completed=draw(st.booleans()),
                kills=draw(st.integers(0, 300)),
                time_played_seconds=played,
                weapons=character.weapons[: draw(st.integers(0, 3))],
            )
        if unresolved:
            character = msgspec.structs.replace(character, class_hash=None, emblem_hash=None)
            player = msgspec.structs.replace(
                player,
                membership_type=None,
                icon_path=None,
                display_name=None,
                bungie_global_display_name=None,
                bungie_global_display_name_code=None,
            )
        elif draw(st.booleans()):
            if character.emblem_hash:
                character = msgspec.structs.replace(character, emblem_hash=777)
            if player.display_name:
                player = msgspec.structs.replace(player, display_name="Old")
            if player.bungie_global_display_name:
                player = msgspec.structs.replace(
                    player,
                    bungie_global_display_name="Older",
                    bungie_global_display_name_code="0002",
                )
        players.append(
            _played(msgspec.structs.replace(player, characters=(character,)), final.duration)
        )
    return team(
        instance_id=final.instance_id,
        hash_=final.hash,
        platform_type=final.platform_type,
        started=final.date_started,
        duration=final.duration,
        score=draw(st.integers(0, 5)) if is_other_run else final.score,
        fresh=draw(st.sampled_from([True, False, None])) if is_other_run else final.fresh,
        skull_hashes=final.skull_hashes,
        players=players,
    )


def clear(number: int, *, hours: int, players: Sequence[int]) -> Instance:
    """A fresh clear of King's Fall, an hour long, that began `hours` after the epoch."""
    started = EPOCH + timedelta(hours=hours)
    character = Character(0, None, None, True, 0, 9, 0, 1, 0, 0, 0, 0, 3600, 0, ())
    listed = [
        Player(
            membership_id=who,
            membership_type=3,
            icon_path="/a.png",
            display_name="Ann",
            bungie_global_display_name="Ann",
            bungie_global_display_name_code="0001",
            completed=True,
            time_played_seconds=3600,
            first_seen=started,
            last_seen=started + timedelta(hours=1),
            characters=(msgspec.structs.replace(character, character_id=who % 2**40 + 1),),
        )
        for who in players
    ]
    return Instance(
        instance_id=1_000_000 + number,
        hash=1374392663,
        platform_type=3,
        date_started=started,
        date_completed=started + timedelta(hours=1),
        duration=3600,
        score=0,
        player_count=len(listed),
        completed=True,
        deathless=False,
        fresh=True,
        flawless=False,
        skull_hashes=(),
        players=tuple(listed),
    )


@st.composite
def worlds(draw: st.DrawFn, most: int = 14) -> list[Instance]:
    count = draw(st.integers(1, most))
    ids = draw(st.permutations(range(1, count + 1)))
    return [draw(instances(1_000_000 + n)) for n in ids]


def expected(world: Iterable[Instance], needed_activities: Sequence[int]) -> Tables:
    """The tables that `world` must give; a sum of best needs all of `needed_activities`."""
    by_id = {i.instance_id: i for i in world}
    runs: dict[tuple[int, int], list[tuple[Instance, Player]]] = defaultdict(list)
    for instance in by_id.values():
        for player in instance.players:
            runs[player.membership_id, HASHES[instance.hash]].append((instance, player))

    first: dict[tuple[int, int], int] = {}
    for pair, listed in runs.items():
        clears = [(i.date_completed, i.instance_id) for i, p in listed if p.completed]
        if clears:
            first[pair] = min(clears)[1]

    rows = set()
    sherpas: dict[tuple[int, int], int] = {}
    for instance in by_id.values():
        activity = HASHES[instance.hash]
        newcomers = {
            p.membership_id
            for p in instance.players
            if first.get((p.membership_id, activity)) == instance.instance_id
        }
        for player in instance.players:
            who = player.membership_id
            given = len(newcomers) if player.completed and who not in newcomers else 0
            sherpas[instance.instance_id, who] = given
            rows.add(
                (
                    instance.instance_id,
                    who,
                    player.completed,
                    player.time_played_seconds,
                    given,
                    who in newcomers,
                )
            )

    stats: dict[tuple[int, int], tuple[int, int, int, int | None, int]] = {}
    for pair, listed in runs.items():
        fresh = [
            (i.duration, i.date_completed, i.instance_id)
            for i, p in listed
            if p.completed and i.fresh
        ]
        stats[pair] = (
            sum(p.completed for _, p in listed),
            len(fresh),
            sum(sherpas[i.instance_id, p.membership_id] for i, p in listed),
            min(fresh)[2] if fresh else None,
            sum(p.time_played_seconds for _, p in listed),
        )

    players = set()
    for who in {pair[0] for pair in runs}:
        own = {a: s for (p, a), s in stats.items() if p == who}
        sightings = [
            ((p.last_seen, i.instance_id), p)
            for i in by_id.values()
            for p in i.players
            if p.membership_id == who
        ]
        best: int | None = None
        if all(a in own and own[a][3] is not None for a in needed_activities):
            best = sum(by_id[own[a][3] or 0].duration for a in needed_activities)
        typed = [(seen, p) for seen, p in sightings if p.membership_type is not None]
        pair_of = _newest(
            [
                (seen, (p.bungie_global_display_name, p.bungie_global_display_name_code))
                for seen, p in sightings
                if p.bungie_global_display_name
            ]
        )
        players.add(
            (
                who,
                _newest([(seen, p.membership_type) for seen, p in typed]),
                _newest([(seen, p.icon_path) for seen, p in typed if p.icon_path]),
                _newest([(seen, p.display_name) for seen, p in typed if p.display_name]),
                *(pair_of or (None, None)),
                max(p.last_seen for _, p in sightings),
                min(p.first_seen for _, p in sightings),
                sum(s[0] for s in own.values()),
                sum(s[1] for s in own.values()),
                sum(s[2] for s in own.values()),
                sum(s[4] for s in own.values()),
                best,
            )
        )
    return Tables(
        rows,
        {(*pair, *values) for pair, values in stats.items()},
        players,
        {
            (
                *(i.instance_id, i.hash, i.score, i.flawless, i.completed, i.fresh),
                *(i.player_count, i.date_started, i.date_completed, i.duration),
                *(i.platform_type, i.skull_hashes),
            )
            for i in by_id.values()
        },
        {
            (i.instance_id, p.membership_id, *msgspec.structs.astuple(c)[:-1])
            for i in by_id.values()
            for p in i.players
            for c in p.characters
        },
        {
            (i.instance_id, p.membership_id, c.character_id, *msgspec.structs.astuple(w))
            for i in by_id.values()
            for p in i.players
            for c in p.characters
            for w in c.weapons
        },
    )


def _newest(values: list[tuple[Any, Any]]) -> Any:
    return max(values, key=lambda pair: pair[0])[1] if values else None


def found(connection: Connection) -> Tables:
    """The same tables as PostgreSQL has them."""

    def rows(statement: str) -> set[tuple[Any, ...]]:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            listed = [tuple(tuple(v) if isinstance(v, list) else v for v in r) for r in cursor]
        assert len(set(listed)) == len(listed)
        return set(listed)

    return Tables(
        rows(
            "SELECT instance_id, membership_id, completed, time_played_seconds, sherpas,"
            " is_first_clear FROM core.instance_player"
        ),
        rows(
            "SELECT membership_id, activity_id, clears, fresh_clears, sherpas,"
            " fastest_instance_id, total_time_played_seconds FROM core.player_stats"
        ),
        rows(
            "SELECT membership_id, membership_type, icon_path, display_name,"
            " bungie_global_display_name, bungie_global_display_name_code, last_seen, first_seen,"
            " clears, fresh_clears, sherpas, total_time_played_seconds, sum_of_best"
            " FROM core.player"
        ),
        rows(
            "SELECT instance_id, hash, score, flawless, completed, fresh, player_count,"
            " date_started, date_completed, duration, platform_type, skull_hashes"
            " FROM core.instance"
        ),
        rows(
            "SELECT instance_id, membership_id, character_id, class_hash, emblem_hash, completed,"
            " score, kills, assists, deaths, precision_kills, super_kills, grenade_kills,"
            " melee_kills, time_played_seconds, start_seconds FROM extended.instance_character"
        ),
        rows(
            "SELECT instance_id, membership_id, character_id, weapon_hash, kills, precision_kills"
            " FROM extended.instance_character_weapon"
        ),
    )


def wipe(connection: Connection) -> None:
    """Forgets every stored instance, so that the next example starts from nothing."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE core.instance, core.player, core.instance_player, core.player_stats,"
            " extended.instance_character, extended.instance_character_weapon, raw.pgcr,"
            " flagging.flag_instance, flagging.flag_instance_player, flagging.blacklist_instance,"
            " flagging.blacklist_instance_player, flagging.review_queue, clan.clan_members,"
            " streaming.outbox, streaming.player_identity, streaming.missed_pgcr,"
            " streaming.clickhouse_correction, streaming.pgcr_revision, streaming.young_pgcr"
        )

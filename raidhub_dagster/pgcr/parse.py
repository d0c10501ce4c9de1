"""From the bytes of a raid report to an Instance: what is accepted, and every derived fact.

A pure function of its arguments. Rules: docs/domain/pgcr.md; the shapes of values are `wire.py`'s,
the eras `freshness.py`'s business.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from raidhub_dagster.pgcr.freshness import FLAG, is_fresh, required_field
from raidhub_dagster.pgcr.model import Character, Instance, Player, Rejection, Weapon
from raidhub_dagster.pgcr.wire import (
    MAX_COUNT,
    MAX_HASH,
    Entry,
    Report,
    UserInfo,
    Value,
    read,
    read_id,
    read_period,
    value_of,
)

FIRST_YEAR = 2017
MAX_FUTURE = timedelta(days=1)  # clocks differ; more is garbage
OBJECTIVE_COMPLETED = 0  # completion reason


def parse(
    body: bytes, *, now: datetime, expected_id: int | None = None, settled: bool = False
) -> Instance | Rejection:
    """The run that `body` (JSON of Response, of the API or flattened by an archive) reports.

    `now` (aware) bounds its start. With `expected_id` the report has to carry that id. `settled`
    says that the report ended 48 h ago and a second fetch gave the same: it will not get better,
    so some defects are accepted then. Never raises, whatever `body` is.
    """
    report = read(body)
    if isinstance(report, Rejection):
        return report
    head = _read_head(report, now, expected_id)
    if isinstance(head, Rejection):
        return head
    members = _read_members(report, settled=settled)
    if isinstance(members, Rejection):
        return members
    needed = required_field(head.started)
    if needed is not None and not settled and _era_field(report, needed) is None:
        return Rejection("era_field", needed, f"run of {head.started:%Y-%m-%d}")
    return _derive(report, head, members)


class _Head(NamedTuple):
    instance_id: int
    activity_hash: int
    started: datetime
    duration: int


_Members = dict[int, dict[int, list[Entry]]]
"""Entries of the report by membership id and character id."""


def _read_head(report: Report, now: datetime, expected_id: int | None) -> _Head | Rejection:
    details, entries = report.activity_details, report.entries
    instance_id = read_id(details.instance_id)
    if instance_id == 0 or instance_id != (expected_id or instance_id):
        said = f"{str(details.instance_id)[:40]!r}, expected {expected_id or 'an id'}"
        return Rejection("id_mismatch", "activityDetails.instanceId", said)
    started = read_period(report.period)
    if started is None or started.year < FIRST_YEAR or started > now + MAX_FUTURE:
        return Rejection("period", "period", repr(report.period[:40]))
    activity_hash = details.director_activity_hash or details.reference_id
    if not 0 < activity_hash <= MAX_HASH:
        place = "activityDetails.directorActivityHash"
        return Rejection("hash_missing", place, str(activity_hash)[:40])
    if not entries:
        return Rejection("entries_empty", "entries")
    # Counts characters, not players; displayed as "-" when it is -1.
    expected_entries = int(value_of(entries[0].values.player_count))
    if expected_entries >= 0 and expected_entries != len(entries):
        said = f"{str(expected_entries)[:40]} expected, {len(entries)} there"
        return Rejection("entry_count", "entries[0].values.playerCount", said)
    duration = max(_count(entry.values.activity_duration_seconds) for entry in entries)
    if duration == 0:
        return Rejection("no_duration", "entries[0].values.activityDurationSeconds")
    return _Head(instance_id, activity_hash, started, duration)


def _read_members(report: Report, *, settled: bool) -> _Members | Rejection:
    members: _Members = {}
    unidentified = unextended = None
    for index, entry in enumerate(report.entries):
        membership_id = read_id(entry.player.destiny_user_info.membership_id)
        if membership_id == 0:
            unidentified = index if unidentified is None else unidentified
            continue
        if entry.extended is None and unextended is None:
            unextended = index
        characters = members.setdefault(membership_id, {})
        characters.setdefault(read_id(entry.character_id), []).append(entry)
    if unidentified is not None and not (settled and members):
        place = f"entries[{unidentified}].player.destinyUserInfo.membershipId"
        return Rejection("membership_id", place)
    if unextended is not None and not settled:
        return Rejection("extended_missing", f"entries[{unextended}].extended")
    return members


def _era_field(report: Report, name: str) -> bool | int | None:
    if name == FLAG:
        return report.activity_was_started_from_beginning
    return report.starting_phase_index


def _derive(report: Report, head: _Head, members: _Members) -> Instance:
    first = report.entries[0].values
    reached = _count(first.completion_reason) == OBJECTIVE_COMPLETED
    players = tuple(
        _player(membership_id, members[membership_id], head, reached=reached)
        for membership_id in sorted(members)
    )
    completed = any(player.completed for player in players)
    deathless = all(_count(entry.values.deaths) == 0 for entry in report.entries)
    fresh = is_fresh(
        head.started,
        head.activity_hash,
        flag=report.activity_was_started_from_beginning,
        phase=report.starting_phase_index,
        deathless=deathless,
    )
    platform_type = report.activity_details.membership_type
    skulls = dict.fromkeys(report.selected_skull_hashes)
    return Instance(
        instance_id=head.instance_id,
        hash=head.activity_hash,
        platform_type=platform_type if -1 <= platform_type <= 6 else 0,
        date_started=head.started,
        date_completed=head.started + timedelta(seconds=head.duration),
        duration=head.duration,
        score=_count(first.team_score),
        player_count=len(players),
        completed=completed,
        deathless=deathless,
        fresh=fresh,
        flawless=fresh if completed and deathless else False,
        skull_hashes=tuple(skull for skull in skulls if 0 < skull <= MAX_HASH),
        players=players,
    )


def _player(
    membership_id: int, by_character: dict[int, list[Entry]], head: _Head, *, reached: bool
) -> Player:
    entries = [entry for same in by_character.values() for entry in same]
    spans = [_span(entry) for entry in entries]
    characters = tuple(_character(key, by_character[key]) for key in sorted(by_character))
    user = _identity(entries)
    known = _is_known(user)
    global_name, global_code = _global_pair(user)
    last_s = min(max(end for _, end in spans), head.duration)
    return Player(
        membership_id=membership_id,
        membership_type=user.membership_type if known else None,
        icon_path=_text(user.icon_path) if known else None,
        display_name=_text(user.display_name) if known else None,
        bungie_global_display_name=global_name,
        bungie_global_display_name_code=global_code,
        completed=reached and any(character.completed for character in characters),
        time_played_seconds=_union_s(spans, head.duration),
        first_seen=head.started,
        last_seen=head.started + timedelta(seconds=last_s),
        characters=characters,
    )


def _identity(entries: list[Entry]) -> UserInfo:
    """The first resolved identity, the first one when none is."""
    users = [entry.player.destiny_user_info for entry in entries]
    return next((user for user in users if _is_known(user)), users[0])


def _is_known(user: UserInfo) -> bool:
    return 1 <= user.membership_type <= 6


def _global_pair(user: UserInfo) -> tuple[str, str] | tuple[None, None]:
    name, code = _text(user.bungie_global_display_name), user.bungie_global_display_name_code
    if name is None or code is None or not 0 <= code <= MAX_COUNT:
        return None, None
    return name, f"{code:04}"


def _text(value: str | None) -> str | None:
    """None when empty. PostgreSQL's text cannot hold NUL, so it goes."""
    return value.replace("\0", "") or None if value else None


def _character(character_id: int, entries: list[Entry]) -> Character:
    """One character; several entries of it (left and joined again) are added up."""
    values = [entry.values for entry in entries]
    extended = [entry.extended.values for entry in entries if entry.extended]
    return Character(
        character_id=character_id,
        class_hash=_first_hash([entry.player.class_hash for entry in entries]),
        emblem_hash=_first_hash([entry.player.emblem_hash for entry in entries]),
        completed=any(_count(v.completed) == 1 for v in values),
        score=_sum([v.score for v in values]),
        kills=_sum([v.kills for v in values]),
        assists=_sum([v.assists for v in values]),
        deaths=_sum([v.deaths for v in values]),
        precision_kills=_sum([v.precision_kills for v in extended]),
        super_kills=_sum([v.weapon_kills_super for v in extended]),
        grenade_kills=_sum([v.weapon_kills_grenade for v in extended]),
        melee_kills=_sum([v.weapon_kills_melee for v in extended]),
        time_played_seconds=min(_union_s([_span(entry) for entry in entries]), MAX_COUNT),
        start_seconds=min(_count(v.start_seconds) for v in values),
        weapons=_weapons(entries),
    )


def _weapons(entries: list[Entry]) -> tuple[Weapon, ...]:
    found: dict[int, tuple[int, int]] = {}
    for entry in entries:
        for use in entry.extended.weapons if entry.extended else ():
            kills, precise = found.get(use.reference_id, (0, 0))
            found[use.reference_id] = (
                kills + _count(use.values.unique_weapon_kills),
                precise + _count(use.values.unique_weapon_precision_kills),
            )
    return tuple(
        Weapon(key, min(found[key][0], MAX_COUNT), min(found[key][1], MAX_COUNT))
        for key in sorted(found)
        if 0 < key <= MAX_HASH
    )


def _first_hash(hashes: list[int]) -> int | None:
    return next((found for found in hashes if 0 < found <= MAX_HASH), None)


def _count(stat: Value) -> int:
    """Toward zero, within what a 32-bit column holds."""
    # `value_of`, without the call: 250 of them would cost a raid 8 us.
    value = stat if isinstance(stat, float) else stat.basic.value
    if value <= 0:
        return 0
    return int(value) if value < MAX_COUNT else MAX_COUNT


def _sum(stats: list[Value]) -> int:
    return min(sum(map(_count, stats)), MAX_COUNT)


def _span(entry: Entry) -> tuple[int, int]:
    start = _count(entry.values.start_seconds)
    return start, start + _count(entry.values.time_played_seconds)


def _union_s(spans: list[tuple[int, int]], limit: int = 2 * MAX_COUNT) -> int:
    """Seconds that the half-open `spans` cover before `limit`; the default is beyond any span."""
    total = covered = 0
    for start, end in sorted(spans):
        first, last = max(start, covered), min(end, limit)
        if last > first:
            total += last - first
            covered = last
    return total

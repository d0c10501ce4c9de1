"""Is it a raid? Looks at a report just far enough to tell, because 95 % are not.

Source: docs/domain/pgcr.md, Tracked reports.
"""

from collections.abc import Container
from datetime import datetime, timedelta

import msgspec

from raidhub_dagster.pgcr.model import Rejection
from raidhub_dagster.pgcr.wire import (
    MAX_COUNT,
    Stat,
    Undecodable,
    decode_plain,
    integer,
    number,
    read_period,
)

RAID_MODE = 4


class Probe(msgspec.Struct, frozen=True):
    tracked: bool
    ended_at: datetime | None  # start plus duration, for the lag; None without a readable start


class _Details(msgspec.Struct, rename="camel", frozen=True, gc=False):
    mode: int = 0
    modes: list[int] = []
    director_activity_hash: int = 0


class _Values(msgspec.Struct, rename="camel", frozen=True, gc=False):
    activity_duration_seconds: Stat | float = 0.0


class _Entry(msgspec.Struct, frozen=True, gc=False):
    values: _Values = _Values()


class _Report(msgspec.Struct, rename="camel", frozen=True, gc=False):
    activity_details: _Details
    period: str = ""
    entries: list[_Entry] = []


_REPORTS = msgspec.json.Decoder(_Report)


def probe(body: bytes, tracked_hashes: Container[int]) -> Probe | Rejection:
    """Whether to keep the report in `body` (JSON of Response), and when its run ended.

    A Rejection only when there is no activityDetails to look at; never raises.
    """
    try:
        report = _REPORTS.decode(body)
    except Undecodable:
        return probe_tolerantly(body, tracked_hashes)
    details = report.activity_details
    return Probe(
        details.mode == RAID_MODE
        or RAID_MODE in details.modes
        or details.director_activity_hash in tracked_hashes,
        _end(report.period, [_seconds(e.values.activity_duration_seconds) for e in report.entries]),
    )


def probe_tolerantly(body: bytes, tracked_hashes: Container[int]) -> Probe | Rejection:
    """The same for any shape."""
    plain = decode_plain(body)
    if isinstance(plain, Rejection):
        return plain
    details, period, entries = plain["activityDetails"], plain.get("period"), plain.get("entries")
    modes = details.get("modes")
    durations = [
        number(entry["values"].get("activityDurationSeconds"))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("values"), dict)
    ]
    return Probe(
        integer(details.get("mode")) == RAID_MODE
        or any(integer(mode) == RAID_MODE for mode in (modes if isinstance(modes, list) else []))
        or integer(details.get("directorActivityHash")) in tracked_hashes,
        _end(period if isinstance(period, str) else "", durations),
    )


def _seconds(value: Stat | float) -> float:
    return value if isinstance(value, float) else value.basic.value


def _end(period: str, durations: list[float]) -> datetime | None:
    started = read_period(period)
    if started is None:
        return None
    try:
        return started + timedelta(seconds=int(min(max(durations, default=0.0), MAX_COUNT)))
    except OverflowError:  # the year 9999
        return None

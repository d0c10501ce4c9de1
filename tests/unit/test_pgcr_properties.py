"""Whatever is done to a report, the parser gives an Instance or a Rejection that names a field.

Reports of real players are mutated where the folder of samples is beside the checkout, and
self-made ones always.
"""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from raidhub_dagster.bungie.protocol import ResultKind, classify_pgcr
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.pgcr.probe import Probe, probe, probe_tolerantly
from raidhub_dagster.pgcr.wire import MAX_COUNT, MAX_HASH, MAX_ID, Report, read, read_tolerantly
from tests.support.reports import (
    encode,
    envelope,
    flatten,
    make_entry,
    make_realistic_report,
    make_report,
)
from tests.support.samples import SAMPLES

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REASONS = {
    "not_json_object",
    "id_mismatch",
    "period",
    "hash_missing",
    "entries_empty",
    "entry_count",
    "no_duration",
    "membership_id",
    "extended_missing",
    "era_field",
}
Json = Any
ODD: list[Json] = [
    *(None, True, False, "", "0", "1", "-1", " 7 ", "1e999", "NaN", "x", "\ud800", "\0", [], {}),
    *(0, -1, 1, 4, 1.5, -0.0, 1e300, 2**31, 2**32, 2**63, 2**64, 10**50, float("nan")),
    *(float("inf"), {"basic": None}, {"basic": {}}, {"basic": {"value": 3}}),
    *({"basic": {"value": "3"}}, [[]], [None], [1, "1"], "2025-01-01T00:00:00Z"),
    "9999-12-31T23:59:59-23:59",
]  # fmt: skip


@cache
def originals() -> tuple[bytes, ...]:
    """Reports to start from, as JSON."""
    crowd = [make_entry(n, character=n % 7, deaths=n % 3, time=500 * n) for n in range(9)]
    made = (
        make_report(skulls=[5, 6]),
        make_report(period="2019-01-01T00:00:00Z", players=crowd),
        flatten(make_report()),
        make_realistic_report(),
    )
    real = (open_body(path.read_bytes()) for path in sorted(SAMPLES.glob("*.json")))
    return (*(encode(report) for report in made), *real)


def places(value: Json) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield value, key
        if isinstance(item, dict | list):
            yield from places(item)


@st.composite
def mutated(draw: st.DrawFn) -> Json:
    """A report with some values replaced, removed, emptied or doubled."""
    report = json.loads(draw(st.sampled_from(originals())))
    for _ in range(draw(st.integers(1, 4))):
        spots = list(places(report))
        if not spots:
            break
        place, key = spots[draw(st.integers(0, len(spots) - 1))]
        match draw(st.sampled_from(["replace", "remove", "double", "text"])):
            case "replace":
                place[key] = deepcopy(draw(st.sampled_from(ODD)))  # later mutations reach into it
            case "remove":
                del place[key]
            case "double" if isinstance(place, list):
                place.append(deepcopy(place[key]))
            case _:
                place[key] = str(place[key])
    return report


def check(result: Instance | Rejection) -> None:
    if isinstance(result, Rejection):
        assert result.reason in REASONS
        assert result.field
        return
    assert 0 < result.instance_id <= MAX_ID
    assert 0 < result.hash <= MAX_HASH
    assert -1 <= result.platform_type <= 6
    assert 0 < result.duration <= MAX_COUNT
    assert result.date_completed - result.date_started == timedelta(seconds=result.duration)
    assert (result.date_started.utcoffset(), result.date_started.microsecond) == (timedelta(0), 0)
    assert result.player_count == len(result.players) > 0
    assert result.flawless in {result.fresh, False}
    ids = [player.membership_id for player in result.players]
    assert ids == sorted(set(ids))
    for player in result.players:
        assert 0 < player.membership_id <= MAX_ID
        assert 0 <= player.time_played_seconds <= result.duration
        assert result.date_started == player.first_seen <= player.last_seen <= result.date_completed
        characters = [character.character_id for character in player.characters]
        assert characters == sorted(set(characters))
        for character in player.characters:
            counts = [
                value
                for key, value in msgspec.structs.asdict(character).items()
                if isinstance(value, int) and not key.endswith(("_id", "_hash"))
            ]
            assert all(0 <= count <= MAX_COUNT for count in counts)
            hashes = [weapon.weapon_hash for weapon in character.weapons]
            assert hashes == sorted(set(hashes))
            assert all(0 < found <= MAX_HASH for found in hashes)
    assert b"\\u0000" not in msgspec.json.encode(result)  # and every text is UTF-8


@settings(max_examples=300)
@given(report=mutated(), settled=st.booleans())
def test_a_mutated_report_is_parsed_or_rejected_with_a_field(report: Json, settled: bool) -> None:
    """An exception of another kind stops a consumer; a wrong fact stays for ever."""
    body = encode(report)
    check(parse(body, now=NOW, settled=settled))
    assert isinstance(probe(body, ()), Probe | Rejection)


@settings(max_examples=300)
@given(report=mutated())
def test_both_ways_of_decoding_agree(report: Json) -> None:
    """The fast one must refuse whatever it would read differently."""
    body = encode(report)
    assert unwrapped(read(body)) == unwrapped(read_tolerantly(body))
    assert probe(body, {7}) == probe_tolerantly(body, {7})


def test_both_ways_of_decoding_agree_on_originals() -> None:
    """Where the fast one surely accepts."""
    for body in originals():
        assert unwrapped(read(body)) == unwrapped(read_tolerantly(body))
        assert probe(body, ()) == probe_tolerantly(body, ())


def unwrapped(found: Report | Rejection) -> Json:
    """With bare statistics: the tolerant way knows no others."""
    return flatten(msgspec.to_builtins(found))


def test_a_flattened_line_is_read_in_one_pass() -> None:
    """Archives have nothing else: ten times slower, and ten times the memory for a huge line."""
    line = encode(flatten(make_realistic_report()))
    found = msgspec.json.decode(line, type=Report)
    assert unwrapped(found) == unwrapped(read_tolerantly(line))


@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_body_is_parsed_or_rejected_with_a_field(data: st.DataObject) -> None:
    """Lines are cut, disks rot."""
    body = bytearray(data.draw(st.sampled_from(originals())))
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(parse(bytes(body[: data.draw(st.integers(0, len(body)))]), now=NOW))


@given(body=st.binary())
def test_any_bytes_are_rejected_with_a_field(body: bytes) -> None:
    """Nothing is told about what a queue may hold."""
    check(parse(body, now=NOW))
    assert isinstance(probe(body, ()), Rejection)


@settings(max_examples=100)
@given(report=mutated(), seed=st.integers())
def test_the_order_of_keys_means_nothing(report: Json, seed: int) -> None:
    """Two servers write the same report in different order."""
    order = random.Random(seed)

    def shuffled(value: Json) -> Json:
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in order.sample(list(value), len(value))}
        return value

    assert parse(encode(shuffled(report)), now=NOW) == parse(encode(report), now=NOW)


def spans() -> st.SearchStrategy[list[tuple[int, int, int]]]:
    """(player, start, time) of some entries, all within a minute or so."""
    return st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=9
    )


@given(entries=spans(), duration=st.integers(1, 60), same=st.booleans())
def test_time_is_what_counting_second_by_second_gives(
    entries: list[tuple[int, int, int]], duration: int, same: bool
) -> None:
    """The union of intervals, against the plainest way to count."""
    made = [
        make_entry(player, character=1 if same else number, start=start, time=time)
        for number, (player, start, time) in enumerate(entries)
    ]
    result = parse(encode(make_report(players=made, duration=duration)), now=NOW)
    assert isinstance(result, Instance)
    by_player = {p: [e for e in entries if e[0] == p] for p in sorted({e[0] for e in entries})}
    assert [player.time_played_seconds for player in result.players] == [
        len(
            {
                second
                for _, start, time in own
                for second in range(start, min(start + time, duration))
            }
        )
        for own in by_player.values()
    ]
    assert [(p.last_seen - p.first_seen).seconds for p in result.players] == [
        min(max(start + time for _, start, time in own), duration) for own in by_player.values()
    ]


@given(
    entries=spans(),
    kills=st.integers(0, 10**10),
    deaths=st.integers(0, 2),
    days=st.integers(0, 3000),
)
def test_an_archive_tells_the_same_as_the_api(
    entries: list[tuple[int, int, int]], kills: int, deaths: int, days: int
) -> None:
    """History comes from archives: the same run must not differ by its source."""
    made = [
        make_entry(p, character=n, start=start, time=time, kills=kills, deaths=deaths)
        for n, (p, start, time) in enumerate(entries)
    ]
    period = f"{datetime(2017, 9, 6, tzinfo=UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"
    report = make_report(players=made, period=period)
    flat = flatten(report)
    flat["activityDetails"]["instanceId"] = int(flat["activityDetails"]["instanceId"])
    result = parse(encode(report), now=NOW)
    assert isinstance(result, Instance)
    assert parse(encode(flat), now=NOW) == result


@settings(max_examples=200)
@given(
    status=st.integers(100, 599),
    content_type=st.sampled_from(["application/json", "text/html", ""]),
    report=mutated(),
    code=st.sampled_from([*ODD, 1, 5, 12, 31, 1653, 999]),
    cut=st.none() | st.integers(0, 2000),
)
def test_every_answer_has_a_kind(
    status: int, content_type: str, report: Json, code: Json, cut: int | None
) -> None:
    """The crawl decides by it alone; it must not meet an exception."""
    body = encode(envelope(report, ErrorCode=code))[:cut]
    result = classify_pgcr(status, content_type, body, instance_id=7, tracked_hashes=(), now=NOW)
    assert result.kind in ResultKind
    assert (result.instance is not None) == (result.kind is ResultKind.SUCCESS)
    assert (result.rejection is not None) == (result.kind is ResultKind.BAD_FORMAT)
    assert (result.throttle_seconds > 0) == (result.kind is ResultKind.RATE_LIMITED)

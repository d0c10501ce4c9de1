"""Which of two versions of a report counts: by what they say, never by who came first."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from raidhub_dagster.pgcr.envelope import fetched_at, gunzip, pack, stamped, unstamped
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage.clickhouse_rows import decode_row, encode_row, row_of
from raidhub_dagster.storage.derive import Standing
from raidhub_dagster.storage.revisions import Relation, digest, is_better, is_row_of, relation
from tests.support.worlds import FIRST_PLAYER, clear, report_of

RUN = clear(1, hours=1, players=[FIRST_PLAYER, FIRST_PLAYER + 1])
LONGER = clear(1, hours=1, players=[FIRST_PLAYER, FIRST_PLAYER + 1, FIRST_PLAYER + 2])
AT = datetime(2025, 1, 1, 3, tzinfo=UTC)
HOUR = timedelta(hours=1)


def change(**fields: Any) -> Instance:
    return msgspec.structs.replace(RUN, **fields)


def change_player(**fields: Any) -> Instance:
    one, *others = RUN.players
    return change(players=(msgspec.structs.replace(one, **fields), *others))


def change_character(**fields: Any) -> Instance:
    (character,) = RUN.players[0].characters
    return change_player(characters=(msgspec.structs.replace(character, **fields),))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (RUN, Relation.SAME),
        (change(platform_type=0), Relation.SAME),
        (change(platform_type=1), Relation.CONTENT),
        (change_player(display_name="Bob"), Relation.IDENTITY),
        (change_player(membership_type=None, icon_path=None), Relation.IDENTITY),
        (change_player(bungie_global_display_name="Bob"), Relation.IDENTITY),
        (change_character(emblem_hash=4, class_hash=5), Relation.IDENTITY),
        (change_character(kills=4), Relation.CONTENT),
        (change_player(time_played_seconds=4), Relation.CONTENT),
        (change(fresh=None), Relation.CONTENT),
        (change(skull_hashes=(4,)), Relation.CONTENT),
        (LONGER, Relation.CONTENT),
        (change(hash=2381413764), Relation.CONFLICT),
        (change(date_started=RUN.date_started + HOUR), Relation.CONFLICT),
    ],
)
def test_versions_differ_in_nothing_in_names_in_content_or_altogether(
    other: Instance, expected: Relation
) -> None:
    """A name for content would check every raid again; content for a name would lose it."""
    assert relation(RUN, other) is expected
    assert relation(other, RUN) is expected


def body(instance: Instance = RUN, at: datetime | None = AT) -> bytes:
    return report_of(instance, at).body


def without_statistics(report: bytes) -> bytes:
    plain = json.loads(gunzip(report))
    del plain["entries"][0]["extended"]
    return pack(json.dumps(plain).encode())


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (body(LONGER), body(RUN)),
        (body(LONGER, AT), body(RUN, AT + HOUR)),
        (body(LONGER, None), body(RUN, AT)),
        (body(RUN, AT + HOUR), body(RUN, AT)),
        (body(RUN, AT), without_statistics(body(RUN))),
        (body(RUN, AT), b"no report"),
        (body(RUN, AT), pack(b"{}")),
    ],
    ids=["more entries", "later stale copy", "archive", "later", "whole", "garbage", "no report"],
)
def test_one_of_two_versions_is_better(better: bytes, worse: bytes) -> None:
    """Both at once would let them take turns for ever, one delivery after the other."""
    assert is_better(better, worse)
    assert not is_better(worse, better)


def test_versions_of_the_same_second_are_told_apart_by_nothing() -> None:
    assert is_better(body(RUN, AT), body(change(score=3), AT)) is None


@pytest.mark.parametrize(("one", "other"), [(None, None), (None, AT)])
def test_what_cannot_be_told_apart_leaves_what_is_there(
    one: datetime | None, other: datetime | None
) -> None:
    assert is_better(body(RUN, one), body(RUN, other)) is False
    assert is_better(body(RUN, other), body(RUN, one)) is False


def test_a_stamp_is_read_by_everybody_and_changes_nothing_else() -> None:
    """It stands where gzip says a time stands, so that any reader opens the body as before."""
    plain = b'{"activityDetails": {}}'
    packed = pack(plain)
    later = stamped(packed, AT + timedelta(seconds=0.9))
    assert gzip.decompress(later) == gunzip(later) == plain
    assert (fetched_at(packed), fetched_at(later)) == (None, AT)
    assert fetched_at(gzip.compress(plain, mtime=AT.timestamp())) == AT
    assert unstamped(packed) == unstamped(later)
    assert digest(packed) == digest(later) != digest(pack(b"{}"))


@pytest.mark.parametrize("text", [b"", b"{}", b"\x1f\x8b", b"\x1f\x8b\x08\x00\x01\x02\x03"])
def test_what_is_no_gzip_has_no_time(text: bytes) -> None:
    """Programs outside keep plain JSON."""
    assert fetched_at(text) is None


@pytest.mark.parametrize(
    ("at", "kept"),
    [
        (datetime(1960, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (datetime(2200, 1, 1, tzinfo=UTC), datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)),
    ],
)
def test_absurd_times_end_at_what_the_header_holds(at: datetime, kept: datetime) -> None:
    """A header from outside may say anything; 0 would mean that nobody knows."""
    assert fetched_at(stamped(pack(b"{}"), at)) == kept


def row(instance: Instance) -> dict[str, Any]:
    standings = {FIRST_PLAYER: Standing(is_first_clear=True, sherpas=0)}
    return decode_row(encode_row(row_of(instance, standings)))


def test_rows_are_those_of_a_report_but_for_what_was_filled_in() -> None:
    assert is_row_of(row(RUN), RUN)
    assert is_row_of(row(change_character(class_hash=5, emblem_hash=6)), RUN)
    assert not is_row_of(row(RUN), change_character(class_hash=5))
    assert not is_row_of(row(change(score=7)), RUN)
    assert not is_row_of(row(RUN), LONGER)
    assert not is_row_of(row(LONGER), RUN)
    retained = {**row(RUN), "players": row(LONGER)["players"]}
    assert is_row_of(retained, RUN, {FIRST_PLAYER + 2})
    assert not is_row_of(retained, RUN, {FIRST_PLAYER + 1})

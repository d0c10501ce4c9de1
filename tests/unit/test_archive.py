"""Archives as bytes: what is read of them, where it goes on, and what is no archive."""

import io
import json
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.probe import Probe, is_surely_untracked, probe
from raidhub_dagster.storage.archive import (
    Place,
    TruncatedError,
    read_lines,
    without_archive_keys,
)
from tests.support.archives import pack_lines
from tests.support.reports import archived, encode, envelope, make_report

TRACKED = {1374392663}
LINES = [f'{{"number":{n}}}\n'.encode() for n in range(200)]


def read(packed: bytes, **options: Any) -> list[bytes | None]:
    return [line.body for line in read_lines(io.BytesIO(packed), **options)]


def test_lines_come_as_they_stand_with_their_places() -> None:
    """A place that is a byte off would resume in the middle of a report."""
    lines = [*LINES, b"\n", b'{"last":1}']
    found = list(read_lines(io.BytesIO(pack_lines(lines))))
    assert [line.body for line in found] == lines
    assert found[-1].end == Place(len(lines), sum(map(len, lines)))


@pytest.mark.parametrize("number", [0, 1, 77, 199, 200])
def test_reading_goes_on_behind_any_line(number: int) -> None:
    """A run killed anywhere must neither lose the next line nor read one twice."""
    packed = pack_lines(LINES)
    ends = [Place(), *(line.end for line in read_lines(io.BytesIO(packed)))]
    rest = list(read_lines(io.BytesIO(packed), after=ends[number]))
    assert [line.body for line in rest] == LINES[number:]
    assert [line.end for line in rest] == ends[number + 1 :]


def test_a_file_of_several_frames_is_one_archive() -> None:
    """People join downloads with cat, and parallel compressors write a frame a thread."""
    packed = pack_lines(LINES[:50]) + pack_lines(LINES[50:51]) + pack_lines(LINES[51:])
    assert read(packed) == LINES


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_cut_file_gives_its_whole_lines_and_then_says_so(share: float) -> None:
    """Otherwise half a download counts as imported and the rest is missed for ever."""
    packed = pack_lines(LINES)
    lines = read_lines(io.BytesIO(packed[: int(len(packed) * share)]))
    found: list[bytes | None] = []
    with pytest.raises(TruncatedError, match="middle of the compressed stream"):
        found.extend(line.body for line in lines)
    assert found == LINES[: len(found)]


def test_a_file_cut_between_lines_is_cut_all_the_same() -> None:
    """A block that ends with a line looks like a whole file to whoever looks at lines only."""
    packed = pack_lines(LINES)
    whole = zstandard.ZstdCompressor().compressobj()
    flushed = whole.compress(LINES[0]) + whole.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    with pytest.raises(TruncatedError):
        read(flushed)
    assert read(packed) == LINES


@pytest.mark.parametrize("packed", [b"no zstd at all", pack_lines(LINES) + b"\0\0\0\0rubbish"])
def test_what_is_no_zstd_is_refused(packed: bytes) -> None:
    """An error page that was saved under the name of an archive."""
    with pytest.raises(PermanentError, match="broken compressed stream"):
        read(packed)


def test_a_file_shorter_than_what_was_read_of_it_is_refused() -> None:
    with pytest.raises(PermanentError, match="shorter than what was read"):
        read(pack_lines(LINES), after=Place(1000, 1 << 20))


def test_an_archive_with_the_largest_window_is_read() -> None:
    """Archives were written with --long=27; a decoder of smaller windows reads none of them."""
    packed = pack_lines(LINES, window_log=27)
    assert zstandard.get_frame_parameters(packed).window_size == 1 << 27
    assert read(packed) == LINES


def test_a_line_beyond_the_limit_costs_itself_only() -> None:
    """Also when it is the last one, or ends exactly at the limit."""
    lines = [b"a" * 9 + b"\n", b"b" * 10 + b"\n", b"c" * 3000 + b"\n", b"d\n", b"e" * 3_000_000]
    found = list(read_lines(io.BytesIO(pack_lines(lines)), max_line_bytes=10))
    assert [line.body for line in found] == [lines[0], lines[1], None, lines[3], None]
    assert found[-1].end == Place(5, sum(map(len, lines)))


def test_a_bomb_is_opened_piece_by_piece() -> None:
    """64 MB of one letter pack into some KB: they must not become one line, nor fill memory."""
    packed = zstandard.ZstdCompressor().compress(b"x" * (64 << 20) + b"\nend\n")
    assert len(packed) < 10_000
    assert read(packed, max_line_bytes=1000) == [None, b"end\n"]


def test_keys_of_the_archive_go_and_all_else_stays_byte_for_byte() -> None:
    """raw.pgcr must not say what Bungie never said, nor lose what it did."""
    line = b'{"_id":"1","archived":"x","n":1.50,"deep":{"_id":2},"text":"\\u00e9 \xc3\xa9"}'
    assert without_archive_keys(line) == b'{"n":1.50,"deep":{"_id":2},"text":"\\u00e9 \xc3\xa9"}'
    moved = b'{"n":1e400,"archived":"x","_id":"1"}'  # which not every decoder takes
    assert json.loads(without_archive_keys(moved)) == json.loads(b'{"n":1e400}')
    plain = b'{"n": 1, "name": "\\"_id\\""}'
    assert without_archive_keys(plain) is plain


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"mode": 18}, False),
        ({"mode": 4}, True),
        ({"mode": 18, "modes": [7, 4]}, True),
        ({"mode": 0, "modes": [], "directorActivityHash": 1374392663}, True),
        ({"mode": "4"}, True),
        ({"mode": 4.0}, True),
        ({"mode": 18, "modes": None}, False),
        ({"mode": 18, "directorActivityHash": "1374392663"}, True),
        ({"mode": 18, "more": {"deep": 1}}, False),
        ({"mode": 18, "name": "a } in a text"}, False),
    ],
)
@pytest.mark.parametrize("form", ["flat", "wrapped", "envelope"])
def test_the_first_look_never_drops_what_the_probe_keeps(
    changes: dict[str, Any], kept: bool, form: str
) -> None:
    """A raid dropped at the first look is lost without a trace."""
    report = make_report(hash=777, mode=18)
    report["activityDetails"] |= changes
    line = (
        encode(envelope(report)) if form == "envelope" else archived(report, is_flat=form == "flat")
    )
    assert probe(encode(report), TRACKED) == Probe(kept, probe(encode(report), ()).ended_at)  # type: ignore[union-attr]
    if kept:
        assert not is_surely_untracked(line, TRACKED)


def test_the_first_look_drops_usual_lines() -> None:
    """If it dropped nothing, all would be right and a tenth as fast."""
    strike = make_report(hash=777, mode=18)
    for line in (archived(strike), archived(strike, is_flat=False), encode(envelope(strike))):
        assert is_surely_untracked(line, TRACKED)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b'{"activityDetails":',
        b'{"activityDetails":{"mode":18',
        b'{"a":"\\"activityDetails\\":{\\"mode\\":18}","activityDetails":{"mode":4}}',
        b'{"x":{"activityDetails":{"mode":18}},"activityDetails":{"mode":4}}',
        b'{"activityDetails":[{"mode":18}]}',
    ],
)
def test_the_first_look_leaves_odd_lines_to_the_probe(line: bytes) -> None:
    assert not is_surely_untracked(line, TRACKED)


@given(st.binary(max_size=80))
def test_the_first_look_bears_anything(noise: bytes) -> None:
    """One line of rubbish must not end the import of ten million."""
    is_surely_untracked(noise, TRACKED)
    is_surely_untracked(b'{"activityDetails":{' + noise + b"}", TRACKED)

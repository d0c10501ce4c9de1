"""Reads reports out of files: single JSON files and archives of one report a line.

Formats: docs/domain/archives.md. Memory stays bounded by one line and the decoder's window,
whatever the size of the file.
"""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import MAX_PLAIN_BYTES
from raidhub_dagster.pgcr.wire import split_object

# Archives were written with windows of up to 2^27 bytes, more than the decoder's own limit.
_MAX_WINDOW_BYTES = 1 << 27
# So much of a file is decoded at a time. A block of four bytes may stand for 128 KiB of equal ones,
# so even a bomb opens to no more than 128 MiB at once.
_PACKED_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_ARCHIVE_ONLY_KEYS = ("_id", "archived")

ARCHIVE_SUFFIX = ".jsonl.zst"
SUFFIXES = (".json", ".json.gz", ARCHIVE_SUFFIX)


class TruncatedError(PermanentError):
    """The file ends in the middle of its stream: it was cut, or is still being copied."""


class Place(NamedTuple):
    """So much of an archive is read: lines, and bytes of the decompressed stream."""

    line: int = 0
    offset_bytes: int = 0


START = Place()


class Line(NamedTuple):
    """One line of an archive, or None for one that is too long; `end` is the place behind it."""

    end: Place
    body: bytes | None


class Entry(NamedTuple):
    """One report as it stands in a file, or what is wrong with its place."""

    place: str  # "FILE" or "FILE:LINE"
    body: bytes
    problem: str = ""


def find_files(path: Path) -> list[Path]:
    """The report files at `path`: itself, or those below the folder, in order of name.

    Raises PermanentError for a path that is not there, a file of another kind, an empty folder.
    """
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        if not found:
            raise PermanentError(f"{path}: no file named *{', *'.join(SUFFIXES)} below it")
        return found
    if not path.exists():
        raise PermanentError(f"{path}: no such file")
    if not path.name.endswith(SUFFIXES):
        raise PermanentError(f"{path}: not a report file (*{', *'.join(SUFFIXES)})")
    return [path]


def read_entries(path: Path, *, max_line_bytes: int = MAX_PLAIN_BYTES) -> Iterator[Entry]:
    """Every report of one file. Raises PermanentError when the file cannot be read (on)."""
    try:
        if not path.name.endswith(ARCHIVE_SUFFIX):
            yield Entry(str(path), path.read_bytes())
            return
        with path.open("rb") as file:
            for line in read_lines(file, max_line_bytes=max_line_bytes):
                place = f"{path}:{line.end.line}"
                if line.body is None:
                    yield Entry(place, b"", too_long(max_line_bytes))
                elif not line.body.isspace():
                    yield Entry(place, line.body)
    except (OSError, PermanentError) as error:
        raise PermanentError(f"{path}: {error}") from None


def read_lines(
    packed: BinaryIO,
    *,
    after: Place = START,
    max_line_bytes: int = MAX_PLAIN_BYTES,
    skipped: Callable[[], None] = lambda: None,
) -> Iterator[Line]:
    """The lines of a zstd stream behind `after`, blank ones included.

    What stands before has to be decoded all the same, at about 1 GB/s; `skipped` hears of each
    piece of it. Raises TruncatedError, and PermanentError for what is no zstd or ends before
    `after`.
    """
    reader: BinaryIO = io.BufferedReader(_Plain(packed), _CHUNK_BYTES)
    _skip(reader, after.offset_bytes, skipped)
    number, offset = after
    while line := reader.readline(max_line_bytes + 1):
        length = len(line)
        body: bytes | None = line
        if length > max_line_bytes and not line.endswith(b"\n"):
            body = None
            while rest := reader.readline(_CHUNK_BYTES):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
        number += 1
        offset += length
        yield Line(Place(number, offset), body)


def too_long(limit: int) -> str:
    return f"line longer than {limit} bytes"


def without_archive_keys(body: bytes) -> bytes:
    """A report without what the archive added to it; every other value byte for byte."""
    if b'"_id"' not in body and b'"archived"' not in body:
        return body
    parts = split_object(body)
    if parts is None or not any(key in parts for key in _ARCHIVE_ONLY_KEYS):
        return body
    kept = (
        json.dumps(key).encode() + b":" + value
        for key, value in parts.items()
        if key not in _ARCHIVE_ONLY_KEYS
    )
    return b"{" + b",".join(kept) + b"}"


class _Plain(io.RawIOBase):
    """The decompressed bytes of a zstd stream of any number of frames.

    zstandard's own reader takes the end of a cut file for the end of the stream.
    """

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""  # packed bytes behind the end of a frame
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: "memoryview", /) -> int:  # type: ignore[override]  # typeshed's Buffer
        while not self._plain:
            packed = self._rest or self._packed.read(_PACKED_BYTES)
            if not packed:
                if self._frame is not None:
                    raise TruncatedError("ends in the middle of the compressed stream")
                return 0
            self._plain = memoryview(self._decode(packed))
        size = min(len(target), len(self._plain))
        target[:size] = self._plain[:size]
        self._plain = self._plain[size:]
        return size

    def _decode(self, packed: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        try:
            plain = self._frame.decompress(packed)
        except zstandard.ZstdError as error:
            raise PermanentError(f"broken compressed stream: {error}") from None
        self._rest = b""
        if self._frame.eof:
            self._rest = self._frame.unused_data
            self._frame = None
        return plain


def _skip(reader: BinaryIO, size: int, skipped: Callable[[], None]) -> None:
    while size:
        read = len(reader.read(min(size, _CHUNK_BYTES)))
        if not read:
            raise PermanentError("is shorter than what was read of it before")
        size -= read
        skipped()

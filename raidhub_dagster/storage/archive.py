"""Reads reports out of files: single JSON files and archives of one report a line.

Formats: docs/domain/bungie-api.md, "Archives". Memory stays bounded by one line, whatever the
size of the file.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import zstandard

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import MAX_PLAIN_BYTES

# Archives were written with windows of up to 2^27 bytes, more than the decoder's own limit.
_MAX_WINDOW_BYTES = 1 << 27
_CHUNK_BYTES = 1 << 20
_ARCHIVE_ONLY_KEYS = ("_id", "archived")

SUFFIXES = (".json", ".json.gz", ".jsonl.zst")


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
        if not path.name.endswith(".jsonl.zst"):
            yield Entry(str(path), path.read_bytes())
            return
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        with (
            path.open("rb") as file,
            decompressor.stream_reader(file, read_across_frames=True) as plain,
        ):
            for number, line in _lines(io.BufferedReader(plain, _CHUNK_BYTES), max_line_bytes):
                place = f"{path}:{number}"
                if line is None:
                    yield Entry(place, b"", f"line longer than {max_line_bytes} bytes")
                elif line.strip():
                    yield Entry(place, line)
    except (OSError, zstandard.ZstdError) as error:
        raise PermanentError(f"{path}: {error}") from None


def without_archive_keys(body: bytes) -> bytes:
    """A report without what the archive added to it; every other value byte for byte."""
    if not body.startswith(b'{"_id"'):
        return body
    parts = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    kept = {key: value for key, value in parts.items() if key not in _ARCHIVE_ONLY_KEYS}
    return msgspec.json.encode(kept)


def _lines(reader: io.BufferedReader, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Number (from 1) and text of each line; None for one longer than `limit` bytes."""
    number = 0
    while line := reader.readline(limit + 1):
        number += 1
        if len(line) <= limit or line.endswith(b"\n"):
            yield number, line
            continue
        while (rest := reader.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield number, None

"""The report in whatever a file or a queue holds, compressed or not, wrapped or bare, and back.

A packed report carries the moment of its fetch where gzip has a place for it (RFC 1952, MTIME):
of two versions of a report it tells which is the later one, for as long as the body is kept.
"""

import gzip
import struct
import zlib
from datetime import UTC, datetime

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.wire import split_object

GZIP_MAGIC = b"\x1f\x8b"
# Lines of archives reach tens of MB; beyond this it is no report but a mistake or a bomb.
MAX_PLAIN_BYTES = 128 * 1024 * 1024
_MAX_DEPTH = 3  # an old message around an envelope around a report
_WRAPPERS = ("Response", "pgcr", "raw")
_STAMP = slice(4, 8)  # in a gzip header: seconds since 1970, little-endian; 0 is unknown
_NO_ERROR = frozenset({b"0", b"1", b'"0"', b'"1"', b"null"})


def open_body(body: bytes) -> bytes:
    """The JSON of the report in `body`, byte for byte as it stands there.

    Accepts gzip or plain; the report itself, the API's envelope around it, and the messages of
    earlier generations, `{"instance": .., "pgcr": P}` and `{"activity": .., "raw": P}`, of which
    only P counts. Whether it is a good report is for `parse` to say. Raises PermanentError.
    """
    return _unwrap(gunzip(body) if body.startswith(GZIP_MAGIC) else body, _MAX_DEPTH)


def gunzip(body: bytes, limit: int = MAX_PLAIN_BYTES) -> bytes:
    """`body` decompressed. Raises PermanentError when it is no whole gzip, or opens to too much."""
    plain, rest = b"", body
    while rest:  # a file may hold several members
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            plain += member.decompress(rest, max_length=limit + 1 - len(plain))
        except zlib.error as error:
            raise PermanentError(f"broken gzip: {error}") from None
        if len(plain) > limit:
            raise PermanentError(f"opens to more than {limit} bytes")
        if not member.eof:
            raise PermanentError("truncated gzip")
        rest = member.unused_data
    return plain


def pack(plain: bytes) -> bytes:
    """The gzip of a report, as it travels and as raw.pgcr keeps it.

    Kept for ever: zlib's level 6 makes it 20 % smaller than isal's best, for 0.07 ms more.
    """
    return gzip.compress(plain, 6, mtime=0)


def stamped(body: bytes, fetched_at: datetime) -> bytes:
    """The gzip `body` saying that it was fetched at `fetched_at` (aware), in whole seconds."""
    seconds = min(max(int(fetched_at.timestamp()), 1), 2**32 - 1)
    return body[: _STAMP.start] + struct.pack("<I", seconds) + body[_STAMP.stop :]


def fetched_at(body: bytes) -> datetime | None:
    """When `body` was fetched, in whole seconds; None for one that does not say, as in archives."""
    if not body.startswith(GZIP_MAGIC) or len(body) < _STAMP.stop:
        return None
    (seconds,) = struct.unpack("<I", body[_STAMP])
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def unstamped(body: bytes) -> bytes:
    """What two fetches of an unchanged report have in common: all behind the stamp."""
    return body[_STAMP.stop :]


def _unwrap(plain: bytes, depth: int) -> bytes:
    parts = split_object(plain)
    if parts is None:
        raise PermanentError("no JSON object, so no report")
    if "activityDetails" in parts:
        return plain
    if parts.get("ErrorCode", b"1") not in _NO_ERROR:
        raise PermanentError(f"an error answer instead of a report: {plain[:200]!r}")
    inner = next((parts[key] for key in _WRAPPERS if key in parts), None)
    if inner is None or depth == 0:
        raise PermanentError("no report in it: neither activityDetails nor a known wrapper")
    return _unwrap(inner, depth - 1)

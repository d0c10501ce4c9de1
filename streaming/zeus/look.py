"""A look into an answer on its way through: does it say stop? What passes stays untouched."""

import zlib
from collections.abc import Mapping

from raidhub_dagster.bungie.protocol import Answer, read_answer

# An envelope without Response is at most so long, packed or not: 1672 comes with HTTP 200 too.
# Anything longer with a status of success is one.
SHORT_BYTES = 2048
# Of a refusal no more is opened; pages of the edge have their title at the top.
_MOST_BYTES = 64 * 1024


def look(http_status: int, headers: Mapping[str, str], body: bytes) -> Answer | None:
    """What an answer says; None for one that needs no look: a success or a redirect.

    `body` is what came, packed or not, of a long one the beginning. Never raises.
    """
    if 300 <= http_status < 400:
        return None
    kind = headers.get("Content-Type", "")
    if 200 <= http_status < 300 and len(body) > SHORT_BYTES and "html" not in kind.lower():
        return None
    return read_answer(http_status, kind, _opened(headers.get("Content-Encoding", ""), body))


def whole(http_status: int, headers: Mapping[str, str], body: bytes, limit: int) -> Answer:
    """The same for a body of any length that opens to at most `limit` bytes."""
    plain = _opened(headers.get("Content-Encoding", ""), body, limit)
    return read_answer(http_status, headers.get("Content-Type", ""), plain)


def _opened(encoding: str, body: bytes, limit: int = _MOST_BYTES) -> bytes:
    if not encoding or encoding.lower() == "identity":
        return body[:limit]
    if encoding.lower() not in ("gzip", "x-gzip"):
        return b""
    try:
        return zlib.decompressobj(31).decompress(body, limit)
    except zlib.error:
        return b""

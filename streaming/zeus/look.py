"""A look into an answer on its way through: does it say stop? What passes stays untouched."""

import zlib
from collections.abc import Mapping

from raidhub_dagster.bungie.protocol import Answer, read_answer

# An error with a status of success (1672 comes so) is at most so long. Anything longer needs no
# look: opening the beginning of a report costs 6 us, reading all of it 60.
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
    encoding = headers.get("Content-Encoding", "")
    if not 200 <= http_status < 300 or "html" in kind.lower():
        return read_answer(http_status, kind, _opened(encoding, body, _MOST_BYTES))
    if len(body) > SHORT_BYTES:
        return None
    plain = _opened(encoding, body, SHORT_BYTES + 1)
    return read_answer(http_status, kind, plain) if len(plain) <= SHORT_BYTES else None


def whole(http_status: int, headers: Mapping[str, str], body: bytes, limit: int) -> Answer:
    """What an answer says, for a body of any length that opens to at most `limit` bytes."""
    plain = _opened(headers.get("Content-Encoding", ""), body, limit)
    return read_answer(http_status, headers.get("Content-Type", ""), plain)


def _opened(encoding: str, body: bytes, limit: int) -> bytes:
    if not encoding or encoding.lower() == "identity":
        return body[:limit]
    if encoding.lower() not in ("gzip", "x-gzip"):
        return b""
    try:
        return zlib.decompressobj(31).decompress(body, limit)
    except zlib.error:
        return b""

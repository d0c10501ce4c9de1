"""Which headers pass, in both directions. What is not listed here does not reach Bungie."""

from collections.abc import Mapping

from multidict import CIMultiDict

# What may decide about an answer; everything else says who asks, or belongs to the connection.
_FORWARDED = (
    "Accept",
    "Accept-Language",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Range",
)
# With these the answer is not the one that everybody gets.
CONDITIONS = frozenset({"If-Modified-Since", "If-None-Match", "If-Range", "Range"})

_KEPT_BACK = (
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Connection",
    "Set-Cookie",  # the edge's, for the address that we used
    "Set-Cookie2",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
)


def forwarded(given: Mapping[str, str]) -> dict[str, str]:
    """What goes on of a caller's headers; key and User-Agent are ours and not among them.

    Of encodings only gzip is offered: others could not be opened to look for a throttle.
    """
    kept = {name: given[name] for name in _FORWARDED if name in given}
    kept["Accept-Encoding"] = (
        "gzip" if _takes_gzip(given.get("Accept-Encoding", "")) else "identity"
    )
    return kept


def returned(given: Mapping[str, str]) -> CIMultiDict[str]:
    """An answer's headers without those of the connection it came over."""
    kept = CIMultiDict(given)
    for name in kept.get("Connection", "").split(","):
        kept.popall(name.strip(), None)
    for name in _KEPT_BACK:
        if name in kept:
            del kept[name]
    return kept


def _takes_gzip(accepted: str) -> bool:
    if accepted == "gzip":
        return True
    for part in accepted.lower().replace(" ", "").split(","):
        coding, _, weight = part.partition(";q=")
        if coding in ("gzip", "x-gzip", "*"):
            return weight.strip("0.") != "" or not weight
    return False

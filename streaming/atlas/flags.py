"""What the flags of `raidhub atlas` mean together: dependent defaults, and contradictions.

Table of flags: docs/domain/crawl.md, "Flags".
"""

from typing import NamedTuple

from streaming.atlas.scaling import Bounds

WORKERS = 25
LEAST_WORKERS = 5
MOST_WORKERS = 250
BUFFER = 10_000
# A developer's machine asks for samples of the newest ids with a few workers.
DEV_MOST_WORKERS = 8
DEV_BUFFER = 100
DEV_SKIP = 4
AUTOMATIC = -1
NONE = -1


class FlagError(ValueError):
    """A combination that makes no sense; `flag` is the one to change."""

    def __init__(self, flag: str, message: str) -> None:
        super().__init__(message)
        self.flag = flag


class Flags(NamedTuple):
    workers: int  # at the start
    bounds: Bounds
    target: int | None
    buffer: int  # ids
    step: int  # every so many-th id is asked


def settle(
    *,
    workers: int | None,
    least: int | None,
    most: int,
    target: int,
    buffer: int,
    dev: bool,
    dev_skip: int | None,
) -> Flags:
    """Flags as given, None where they were not; raises FlagError."""
    if dev_skip is not None and not dev:
        raise FlagError("--dev-skip", "is of use with --dev only")
    if target == 0:
        raise FlagError("--target", f"is an id from 1 on, or {NONE} for none")
    upper = most or (DEV_MOST_WORKERS if dev else MOST_WORKERS)
    if least is not None and least > upper:
        raise FlagError("--min-workers", f"{least} is more than --max-workers, which is {upper}")
    if workers is not None and workers > upper:
        raise FlagError("--workers", f"{workers} is more than --max-workers, which is {upper}")
    begin = min(WORKERS, upper) if workers is None else workers
    # Who asks for fewer at the start than the lower bound means it.
    lower = min(LEAST_WORKERS, begin) if least is None else least
    if workers is None:
        begin = max(begin, lower)
    elif begin < lower:
        raise FlagError("--workers", f"{begin} is less than --min-workers, which is {lower}")
    if buffer == AUTOMATIC:
        buffer = DEV_BUFFER if dev else BUFFER
    step = (DEV_SKIP if dev_skip is None else dev_skip) + 1 if dev else 1
    return Flags(begin, Bounds(lower, upper), None if target == NONE else target, buffer, step)

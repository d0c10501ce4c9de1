"""Was a run started from the beginning? What the two fields of a report are worth, era by era.

Source: docs/domain/pgcr.md, Fresh.
"""

from datetime import UTC, datetime

BEYOND_LIGHT = datetime(2020, 11, 10, 17, tzinfo=UTC)
WITCH_QUEEN = datetime(2022, 2, 22, 17, tzinfo=UTC)
HAUNTED = datetime(2022, 5, 24, 17, tzinfo=UTC)

FLAG = "activityWasStartedFromBeginning"
PHASE = "startingPhaseIndex"

_SCOURGE = frozenset({548750096, 2812525063})
# fmt: off
_LEVIATHAN = frozenset({
    2693136600, 2693136601, 2693136602, 2693136603, 2693136604, 2693136605, 89727599, 287649202,
    1699948563, 1875726950, 3916343513, 4039317196, 417231112, 508802457, 757116822, 771164842,
    1685065161, 1800508819, 2449714930, 3446541099, 4206123728, 3912437239, 3879860661, 3857338478,
})
# fmt: on


def required_field(period: datetime) -> str | None:
    """The field that decides for a run that began at `period` (aware), None where none does."""
    if period >= WITCH_QUEEN:
        return FLAG
    return PHASE if period < BEYOND_LIGHT else None


def is_fresh(
    period: datetime,
    activity_hash: int,
    *,
    flag: bool | None,
    phase: int | None,
    deathless: bool,
) -> bool | None:
    """True or false where it can be known, else None.

    `flag` is activityWasStartedFromBeginning, `phase` startingPhaseIndex, None when absent.
    """
    if period >= HAUNTED:
        return flag
    if period >= WITCH_QUEEN:  # a wipe wrongly cleared the flag
        return flag if flag or deathless else None
    if period >= BEYOND_LIGHT:  # always false and 0, never repaired
        return None
    if phase is None:
        return None
    if activity_hash in _SCOURGE:
        return phase <= 1
    if activity_hash in _LEVIATHAN:
        return phase in {0, 2}
    return phase == 0

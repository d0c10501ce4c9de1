"""What people are told of a run of recovery: one message, only when it did something."""

from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.recovery.outcomes import Fate, Tally, ranges

_MOST_RANGES = 15
# Left for later without a result.
_UNSOLVED = (Fate.NOT_FOUND, Fate.FAILED, Fate.MALFORMED)


def facts(tally: Tally) -> dict[str, int]:
    """Counts of every fate, 0 included, and `processed`."""
    return {"processed": tally.processed} | {fate.value: tally.fates[fate] for fate in Fate}


def told_ranges(ids: list[int]) -> str:
    """Up to 15 contiguous ranges, a line each, and how many more there are."""
    found = ranges(ids)
    lines = [
        str(first) if first == last else f"{first} - {last} ({last - first + 1})"
        for first, last in found[:_MOST_RANGES]
    ]
    if len(found) > _MOST_RANGES:
        lines.append(f"and {len(found) - _MOST_RANGES} more")
    return "\n".join(lines)


def summary(title: str, tally: Tally, stopped: str) -> Alert | None:
    """The message about a run; None when it asked for nothing."""
    if not tally.processed:
        return None
    fields: dict[str, str | int | float] = {
        "Processed": tally.processed,
        "Found": tally.fates[Fate.FOUND],
        "Failed": sum(tally.fates[fate] for fate in _UNSOLVED),
        "Never Published": tally.fates[Fate.MISSING],
        "Ranges": told_ranges(tally.ids),
    }
    if stopped:
        fields["Ended Early"] = stopped
    return Alert("recovery_done", title, Colour.BLUE if tally.found else Colour.GREY, fields, 0.0)

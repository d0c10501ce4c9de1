"""The bits of a flag's mask: which there are, what they are called, and how they are put together.

Readers outside read the masks, so that a bit once given keeps its meaning. Bit 63 is the sign of
bigint and stays free; so do 35-44.
"""

from collections.abc import Iterable
from enum import IntEnum

from raidhub_dagster.cheat_detection.parameters import Parameters

# Raids without parameters of their own: their bit is their id.
_RAID_BITS = range(1, 33)


class ReasonBit(IntEnum):
    """Everything that is no activity. `name -> sentence`, as the explanations say it."""

    MANUAL = 0  # Manual -> what the person who flagged it wrote
    GENERIC = 45  # Generic -> without rules for unknown activities the chance would be 0.031
    RESTRICTED_PGCR = 46  # RestrictedPGCR -> the report is restricted
    HEAVY_AMMO_KILLS = 47  # HeavyAmmoKills -> 190 of 200 weapon kills with heavy ammo in 8:20
    FAST_LOWMAN_CHECKPOINT = 48  # FastLowmanCheckpoint -> cleared Atheon in 1:30, expected ...
    UNLIKELY_LOWMAN = 49  # UnlikelyLowman -> cleared Atheon with exactly 1 player in 7:30, ...
    KILLS_SHARE = 50  # KillsShare -> 93.0 % of the team's 540 kills in 20.0 % of its time, ...
    TIME_DILATION = 51  # TimeDilation -> the players were there for 10:00 together, ...
    FIRST_CLEAR = 52  # FirstClear -> a first clear, so that 0.310 weighs as 0.392
    SOLO = 53  # Solo -> solo: the run (0.310) and its player (0.200) are judged as one
    TOTAL_INSTANCE_KILLS = 54  # TotalInstanceKills -> cleared Atheon with 3 kills, expected ...
    TWO_PLUS_CHEATERS = 55  # TwoPlusCheaters -> two or more players cheated, with a ...
    PLAYER_TOTAL_KILLS = 56  # PlayerTotalKills -> 45.2 kills a minute
    WEAPON_DIVERSITY = 57  # WeaponDiversity -> 640 kills with 2 weapons in 40:00, diversity 1.50
    SUPER_KILLS = 58  # SuperKills -> 9.1 super kills a minute
    GRENADE_KILLS = 59  # GrenadeKills -> 25.3 grenade kills a minute and 1.2 with ...
    TOO_FAST = 60  # TooFast -> cleared fresh Vault of Glass in 9:00, expected at least 18:20 ...
    TOO_FEW_PLAYERS_CHECKPOINT = 61  # TooFewPlayersCheckpoint -> cleared Atheon with 1 player, ...
    TOO_FEW_PLAYERS_FRESH = 62  # TooFewPlayersFresh -> cleared fresh Vault of Glass with 1 ...

    @property
    def label(self) -> str:
        """The name that readers know."""
        return _LABELS.get(self) or self.name.title().replace("_", "")


_LABELS = {ReasonBit.RESTRICTED_PGCR: "RestrictedPGCR"}


def activity_mask(parameters: Parameters, activity_id: int) -> int:
    """The mask of an activity: one bit, or none for one that has no bit yet."""
    if (activity := parameters.activities.get(activity_id)) is not None:
        return 1 << activity.bit
    return 1 << activity_id if activity_id in _RAID_BITS else 0


def known_mask(parameters: Parameters) -> int:
    """Every bit that this release can give."""
    activities = (activity.bit for activity in parameters.activities.values())
    return mask_of({*_RAID_BITS, *activities, *ReasonBit})


def mask_of(bits: Iterable[int]) -> int:
    mask = 0
    for bit in bits:
        mask |= 1 << bit
    return mask


def bits_in(mask: int) -> tuple[int, ...]:
    """Ascending. Raises ValueError below 0: a mask never has the sign."""
    if mask < 0:
        raise ValueError(f"{mask} is no mask of reasons")
    return tuple(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def labels_in(parameters: Parameters, mask: int) -> tuple[str, ...]:
    """What the bits are called: activities by name, reasons as readers know them."""
    activities = {activity.bit: activity.name for activity in parameters.activities.values()}
    known = {int(bit): bit.label for bit in ReasonBit}
    names = activities | known
    return tuple(names.get(bit, f"Bit {bit}") for bit in bits_in(mask))

"""Repeatable chance: a 64-bit mix of a key and a number, cheap enough to ask for every id.

`random.Random` costs 5 us to seed; one call here costs 0.5 us, and most ids need nothing more.
"""

_MASK = (1 << 64) - 1
_ONE = float(1 << 64)


def mix(value: int) -> int:
    """The SplitMix64 finaliser: neighbouring values give unrelated 64-bit results."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def key(seed: int, purpose: str) -> int:
    """A key for one use of the seed, so that two uses never share their luck."""
    return mix(seed ^ mix(int.from_bytes(purpose.encode(), "little") & _MASK))


def unit(chance_key: int, number: int) -> float:
    """A number in [0, 1) that belongs to `number`."""
    return mix(chance_key ^ number) / _ONE

"""Which of our API keys goes out next, and which must not; without clock and without I/O.

Keys are known by their number: the first is 0. Their text leaves this module in `text` only.
"""

import math
from dataclasses import dataclass

QUARANTINE_S = 3600.0
THROTTLES_IN_A_ROW = 5


@dataclass(slots=True)
class _Key:
    text: str
    paused_at: float = -math.inf
    paused_until: float = -math.inf
    throttles: int = 0  # pauses in a row
    refused_until: float | None = None  # set: in quarantine, until a probe shows better
    refused_code: int | None = None
    probing: bool = False


class Keys:
    """Takes turns over the healthy keys.

    A refused key rests for an hour; then one request tries it, and decides.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = [_Key(text) for text in keys]
        self._next = 0
        self._troubled = False  # False: none is paused or refused, which is nearly always

    def __len__(self) -> int:
        return len(self._keys)

    def text(self, index: int) -> str:
        """The key itself."""
        return self._keys[index].text

    def pick(self, now: float) -> int | None:
        """The number of the next usable key; None when there is none now."""
        for _ in self._keys:
            index, self._next = self._next, (self._next + 1) % len(self._keys)
            key = self._keys[index]
            if not self._troubled:
                return index
            if self._usable_at(key, now) <= now:
                key.probing = key.refused_until is not None
                return index
        return None

    def usable_at(self, now: float) -> float:
        """When `pick` will give a key: `now`, later, or infinity while the last hope is tried."""
        if not self._troubled:
            return now
        return min(self._usable_at(key, now) for key in self._keys)

    def refusal(self, now: float) -> tuple[int | None, float] | None:
        """The code of a refused key and the seconds to the next probe, when all are refused."""
        if not self._troubled or not all(self.is_refused(i) for i in range(len(self))):
            return None
        if (usable_at := self.usable_at(now)) <= now:
            return None  # a probe is due
        key = min(self._keys, key=lambda key: key.refused_until or 0.0)
        # While the last hope is tried nobody knows more than that it is decided soon.
        return key.refused_code, usable_at - now if math.isfinite(usable_at) else 1.0

    def is_refused(self, index: int) -> bool:
        """True while the key is in quarantine, its probe included."""
        return self._keys[index].refused_until is not None

    def pause_s(self, index: int, now: float) -> float:
        """Seconds until a throttled key may go out again; 0 for others."""
        return max(self._keys[index].paused_until - now, 0.0)

    @property
    def healthy(self) -> int:
        """How many are not in quarantine."""
        return sum(key.refused_until is None for key in self._keys)

    def accepted(self, index: int, sent_at: float) -> bool:
        """An answer that only a good key gets; True when that ends a quarantine."""
        if not self._troubled:
            return False
        key = self._keys[index]
        # Answers from before the trouble may still be on their way; only the probe ends a
        # quarantine.
        if sent_at < key.paused_at or (key.refused_until is not None and not key.probing):
            return False
        healed = key.refused_until is not None
        key.throttles, key.refused_until, key.refused_code, key.probing = 0, None, None, False
        self._troubled = any(k.throttles or k.refused_until is not None for k in self._keys)
        return healed

    def refused(self, index: int, code: int | None, now: float) -> bool:
        """Puts the key into quarantine; True when it was not there yet."""
        key = self._keys[index]
        known = key.refused_until is not None
        if known and not key.probing:
            return False
        self._troubled = True
        key.refused_until, key.refused_code, key.probing = now + QUARANTINE_S, code, False
        return not known

    def throttled(
        self, index: int, code: int | None, seconds: float, sent_at: float, now: float
    ) -> bool:
        """Pauses the key; True when this was the fifth time in a row and it is quarantined."""
        key = self._keys[index]
        if key.refused_until is not None:
            return self.refused(index, code, now)
        self._troubled = True
        if sent_at < key.paused_at:  # on its way when the pause began: nothing new
            key.paused_until = max(key.paused_until, key.paused_at + seconds)
            return False
        key.paused_at, key.paused_until = now, now + seconds
        key.throttles += 1
        return key.throttles >= THROTTLES_IN_A_ROW and self.refused(index, code, now)

    def undecided(self, index: int) -> None:
        """No answer came that says anything about the key: the next request may probe."""
        self._keys[index].probing = False

    @staticmethod
    def _usable_at(key: _Key, now: float) -> float:
        if key.refused_until is not None:
            return math.inf if key.probing else max(key.refused_until, now)
        return max(key.paused_until, now)

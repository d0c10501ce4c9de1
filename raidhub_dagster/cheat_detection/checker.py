"""What a cheat check is to the rest of the platform; the heuristics themselves are not here.

A check is a pure question about one stored instance under one version of the rules. Who answers
it is found by `load_checker`.
"""

from typing import NamedTuple, Protocol

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class


class Verdict(NamedTuple):
    """What a check found; a clean pass has probability 0 and no bits."""

    probability: float  # in 0..1, of the instance as a whole
    bitmask: int  # of reasons, 63 bits
    flagged_players: int


class Checker(Protocol):
    """A set of rules; `version` changes with any formula or parameter."""

    @property
    def version(self) -> str: ...

    def check(self, connection: Connection, instance_id: int) -> Verdict | None:
        """The verdict on a stored instance, None when it is not stored.

        Flags are written in the transaction of `connection`, which the caller commits together
        with the ledger; writing them again changes nothing.
        """


def load_checker() -> Checker | None:
    """The rules of this release; None as long as it has none, and then nobody consumes checks."""
    return None

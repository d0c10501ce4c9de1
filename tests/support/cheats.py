"""Players, runs and flags for tests of cheat levels, as outside writers insert them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.parameters import Parameters, load_parameters

NOW = datetime.now(UTC).replace(microsecond=0)
VERSION = "compat-2.2.0"
KINGS_FALL = 1374392663  # activity 11
BIT = 1 << 11
GENERIC = 1 << 45


def broken_for(activity_id: int) -> Parameters:
    """Numbers with which the rules raise for runs of this activity, and for no other.

    Whatever is stored, they raise nothing, and no file of parameters may lack what is missing
    here: it stands for a mistake in a rule.
    """
    parameters = load_parameters()
    half = parameters.activities[activity_id].model_copy(update={"min_kills": None})
    return parameters.model_copy(
        update={"activities": {**parameters.activities, activity_id: half}}
    )


def ago(**parts: float) -> datetime:
    return NOW - timedelta(**parts)


class Suspects:
    """Rows in a database without any; everything is recent unless a test says otherwise."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._next = 5_000_000

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """A statement that returns nothing gives no rows."""
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def player(self, membership_id: int, **columns: object) -> int:
        """An old account with many clears on Xbox, about which only the flags are odd."""
        row = {
            "membership_id": membership_id,
            "membership_type": 1,
            "bungie_global_display_name": f"P{membership_id}",
            "bungie_global_display_name_code": "0001",
            "first_seen": ago(days=2000),
            "last_seen": ago(hours=1),
            "last_crawled": ago(days=1),
            "clears": 500,
        } | columns
        self._insert("core.player", row)
        return membership_id

    def run(
        self,
        players: Sequence[int],
        *,
        at: datetime | None = None,
        completed: bool = True,
        seconds: int = 3600,
        hash_: int = KINGS_FALL,
        **columns: object,
    ) -> int:
        """A run of `players` of an hour that ended at `at`; its id."""
        self._next += 1
        ended = at or ago(days=1)
        self._insert(
            "core.instance",
            {
                "instance_id": self._next,
                "hash": hash_,
                "score": 0,
                "flawless": False,
                "completed": completed,
                "fresh": True,
                "player_count": len(players),
                "date_started": ended - timedelta(hours=1),
                "date_completed": ended,
                "duration": 3600,
                "platform_type": 3,
                "skull_hashes": [],
            }
            | columns,
        )
        for membership_id in players:
            self._insert(
                "core.instance_player",
                {
                    "instance_id": self._next,
                    "membership_id": membership_id,
                    "completed": completed,
                    "time_played_seconds": seconds,
                },
            )
        return self._next

    def flag(
        self,
        instance_id: int,
        membership_id: int | None,
        probability: float | None,
        *,
        version: str = VERSION,
        at: datetime | None = None,
        bitmask: int = BIT,
    ) -> None:
        """A flag of a player in a run, or with None of the run itself."""
        row = {
            "instance_id": instance_id,
            "cheat_check_version": version,
            "cheat_check_bitmask": bitmask,
            "flagged_at": at or ago(minutes=30),
            "cheat_probability": probability,
        }
        if membership_id is None:
            self._insert("flagging.flag_instance", row)
        else:
            self._insert("flagging.flag_instance_player", row | {"membership_id": membership_id})

    def check(self, instance_id: int, version: str, at: datetime) -> None:
        """The ledger's row of a check that found nothing."""
        row = {"instance_id": instance_id, "version": version, "checked_at": at}
        self._insert("streaming.cheat_check", row | {"probability": 0, "bitmask": 0})

    def cheater(self, membership_id: int, flags: int, probability: float = 0.9, **more: Any) -> int:
        """A player with so many runs alone, each flagged."""
        self.player(membership_id, **more)
        for _ in range(flags):
            self.flag(self.run([membership_id]), membership_id, probability)
        return membership_id

    def level(self, membership_id: int) -> int:
        ((level,),) = self.rows(
            "SELECT cheat_level FROM core.player WHERE membership_id = %s", membership_id
        )
        return int(level)

    def changes(self) -> list[tuple[Any, ...]]:
        """(player, old, new, actor) of all recorded changes, the oldest first."""
        return self.rows(
            "SELECT membership_id, old_level, new_level, actor"
            " FROM streaming.cheat_level_change ORDER BY id"
        )

    def blacklisted(self) -> dict[int, tuple[str, str | None, str]]:
        return {
            instance: (source, version, reason)
            for instance, source, version, reason in self.rows(
                "SELECT instance_id, report_source::text, cheat_check_version, reason"
                " FROM flagging.blacklist_instance"
            )
        }

    def named(self) -> set[tuple[int, int]]:
        return set(
            self.rows("SELECT instance_id, membership_id FROM flagging.blacklist_instance_player")
        )

    def blacklist(self, instance_id: int, source: str = "Manual", *names: int) -> None:
        self.rows(
            "INSERT INTO flagging.blacklist_instance (instance_id, report_source, reason)"
            ' VALUES (%s, %s::flagging."BlacklistReportSource", %s)',
            *(instance_id, source, "by hand"),
        )
        for name in names:
            self.rows(
                "INSERT INTO flagging.blacklist_instance_player VALUES (%s, %s, 'by hand')",
                *(instance_id, name),
            )

    def _insert(self, table: str, row: dict[str, object]) -> None:
        values = ", ".join(["%s"] * len(row))
        self.rows(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})", *row.values())

"""What must leave when an instance is stored: messages to other topics and a row for ClickHouse.

Rows of the outbox, written in the storing transaction; the relay sends them. Rules:
docs/domain/storage.md, "Effects".
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

import msgspec

from raidhub_dagster.messaging import topology
from raidhub_dagster.pgcr.model import Instance, Player
from raidhub_dagster.storage.clickhouse_rows import encode_row, row_of
from raidhub_dagster.storage.copy import binary, day, fields, int8
from raidhub_dagster.storage.derive import Standing
from raidhub_dagster.storage.identity import Identity

_STALE_AFTER = timedelta(hours=24)
_ARCHIVE_AFTER = timedelta(days=30)


class Effects:
    """Makes the outbox rows of the instances of one batch.

    `last_crawled` has everyone who was stored before, `identities` everyone as they are now.
    """

    def __init__(
        self,
        now: datetime,
        last_crawled: Mapping[int, datetime | None],
        identities: Mapping[int, Identity],
    ) -> None:
        self._now = now
        self._last_crawled = last_crawled
        self._identities = identities
        self._asked: set[int] = set()  # players whose crawl is asked for already

    def of(self, instance: Instance, standings: Mapping[int, Standing]) -> Iterator[bytes]:
        """Everything that a new instance asks for."""
        yield from self._messages(instance, standings, instance.players)
        row = encode_row(row_of(instance, standings))
        month = instance.date_completed.date().replace(day=1)
        yield _outbox_row(b"clickhouse", "instance", instance.instance_id, row) + day(month)

    def of_replaced(
        self, instance: Instance, standings: Mapping[int, Standing], known: Collection[int]
    ) -> Iterator[bytes]:
        """What a replaced instance asks for: another check, and the crawls of who came with it.

        `known` are the players it had before. ClickHouse learns of it by a correction.
        """
        joined = [p for p in instance.players if p.membership_id not in known]
        yield from self._messages(instance, standings, joined)

    def _messages(
        self, instance: Instance, standings: Mapping[int, Standing], players: Iterable[Player]
    ) -> Iterator[bytes]:
        is_archive = instance.date_completed < self._now - _ARCHIVE_AFTER
        for player in players:
            who = player.membership_id
            if who not in self._asked and self._wants_crawl(player, standings, is_archive):
                self._asked.add(who)
                yield _message(topology.PLAYER_CRAWL, who, b"%d" % who)
            for character in player.characters:
                if character.character_id and None in (character.class_hash, character.emblem_hash):
                    yield _message(
                        topology.CHARACTER_FILL,
                        character.character_id,
                        msgspec.json.encode(
                            {
                                "membershipId": str(who),
                                "characterId": str(character.character_id),
                                "instanceId": str(instance.instance_id),
                            }
                        ),
                    )
        instance_id = instance.instance_id
        yield _message(topology.INSTANCE_CHEAT_CHECK, instance_id, b"%d" % instance_id)

    def _wants_crawl(
        self, player: Player, standings: Mapping[int, Standing], is_archive: bool
    ) -> bool:
        who = player.membership_id
        if self._identities[who].membership_type is None:
            return True
        if is_archive:
            return False
        if who not in self._last_crawled or (who in standings and standings[who].is_first_clear):
            return True
        crawled = self._last_crawled[who]
        return crawled is None or crawled < self._now - _STALE_AFTER


def _message(queue: str, key: int, body: bytes) -> bytes:
    return _outbox_row(b"message", queue, key, body) + day(None)


def _outbox_row(kind: bytes, destination: str, key: int, body: bytes) -> bytes:
    return fields(5) + binary(kind) + binary(destination.encode()) + int8(key) + binary(body)

"""All topics in a process of their own, killed in the middle of their work."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from raidhub_dagster.messaging.messages import id_message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import free_port
from streaming.hermes.topics.registry import TOPICS
from tests.support.bungie import Bungie
from tests.support.queues import ready, until
from tests.support.topics import rows
from tests.support.typed import variables

PLAYERS, CLANS = 240, 6


@contextmanager
def hermes(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`raidhub hermes` with all topics and the relay; killed at the end if it still runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from streaming.cli import hermes; hermes()"],
            env={**os.environ, **variables(settings)},
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def count(settings: Settings, table: str) -> int:
    return int(rows(settings, f"SELECT count(*) FROM {table}")[0][0])


def grown(settings: Settings, table: str, to: int) -> bool:
    return count(settings, table) >= to


def left(settings: Settings) -> int:
    """Messages on the way of any topic, and effects that have not left the outbox."""
    on_queues = sum(ready(settings, name) for name in TOPICS)
    return on_queues + count(
        settings, "streaming.outbox WHERE sent_at IS NULL AND kind = 'message'"
    )


def test_killed_processes_lose_nothing(
    bungie: Bungie, api_settings: Settings, tmp_path: Path
) -> None:
    """Kill -9 between request and commit, twice; the third process ends what they began."""
    settings = api_settings.model_copy(
        update={"hermes_metrics_port": free_port(), "clickhouse_http_port": free_port()}
    )
    settings.model_fields_set.update(("hermes_metrics_port", "clickhouse_http_port"))
    players = [p for p, _ in zip(bungie.players(), range(PLAYERS), strict=False)]
    clans = [
        c
        for n in range(bungie.world.clans)
        if (c := bungie.world.clan(n)) is not None and not c.is_gone and len(c.members) < 40
    ][:CLANS]
    walked = [p for p in players if not p.is_private][:10]
    with Publisher(settings, "test") as publisher:
        publisher.publish(
            [
                *(id_message("player_crawl", p.membership_id) for p in players),
                *(id_message("clan_crawl", c.group_id) for c in clans),
                *(id_message("activity_history_crawl", p.membership_id) for p in walked),
            ]
        )
    for _ in range(2):
        with hermes(settings, tmp_path / "log") as victim:
            before = count(settings, "core.player")
            until(partial(grown, settings, "core.player", before + 50), limit_s=90)
            victim.send_signal(signal.SIGKILL)
            victim.wait(10)
    raids = set().union(*(bungie.raids_of(p) for p in walked))
    members = {bungie.world.player(n).membership_id for c in clans for n in c.members}
    with hermes(settings, tmp_path / "log"):
        until(lambda: count(settings, "core.instance") >= len(raids), limit_s=90)
        until(lambda: count(settings, "clan.clan_members") >= len(members), limit_s=90)
        until(lambda: left(settings) == 0, limit_s=90)
    assert {i for (i,) in rows(settings, "SELECT instance_id FROM core.instance")} == raids
    crawled = rows(settings, "SELECT membership_id FROM core.player WHERE last_crawled IS NOT NULL")
    assert {p.membership_id for p in players} | members <= {who for (who,) in crawled}
    assert {m for (m,) in rows(settings, "SELECT membership_id FROM clan.clan_members")} == members
    assert count(settings, "streaming.pending_clan_member") == 0
    walks = rows(
        settings, "SELECT membership_id FROM core.player WHERE history_last_crawled IS NOT NULL"
    )
    assert {who for (who,) in walks} <= {p.membership_id for p in walked}
    assert count(settings, "streaming.cheat_check") == len(raids)
    assert [ready(settings, f"{name}.parked") for name in TOPICS] == [0] * len(TOPICS)

"""Real reports through the whole path: API, atlas, queue, hermes, both stores."""

from pathlib import Path

import pytest

from tests.support.samples import DUNGEON, FACTS, SAMPLES, Facts
from tests.support.system import FIRST_ID, System, system, wait_for

_FACTS = """
SELECT i.instance_id, v.activity_id, v.version_id,
       to_char(i.date_started AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), i.duration,
       c.entries, i.player_count, p.finishers, i.completed, i.fresh, i.flawless, c.kills, c.weapons,
       i.score, i.platform_type, p.seconds
FROM core.instance AS i
JOIN definitions.activity_version AS v USING (hash)
JOIN (SELECT instance_id, count(*) FILTER (WHERE completed) AS finishers,
             sum(time_played_seconds) AS seconds
      FROM core.instance_player GROUP BY 1) AS p USING (instance_id)
JOIN (SELECT instance_id, count(*) AS entries, sum(kills) AS kills,
             sum((SELECT count(*) FROM extended.instance_character_weapon AS w
                  WHERE (w.instance_id, w.membership_id, w.character_id)
                      = (c.instance_id, c.membership_id, c.character_id))) AS weapons
      FROM extended.instance_character AS c GROUP BY 1) AS c USING (instance_id)
"""


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no samples at {SAMPLES}")
def test_real_reports_stand_in_the_stores_with_every_fact(tmp_path: Path) -> None:
    """The simulator may be wrong about Bungie; these are Bungie's own answers."""
    arguments = f"--calm --replay {SAMPLES} --head {FIRST_ID}"
    with system(tmp_path, simulator=arguments) as running:
        for instance_id in (*FACTS, DUNGEON):
            _crawl_only(running, instance_id)
        wait_for(
            "seven raids in both stores",
            lambda: (
                running.number(
                    "SELECT count(*) FROM streaming.outbox WHERE kind = 'clickhouse'"
                    " AND sent_at IS NOT NULL"
                )
                >= len(FACTS)
            ),
            limit_s=60,
        )
        found = {row[0]: Facts((row[1], row[2]), *row[3:]) for row in running.rows(_FACTS)}
        assert found == FACTS
        assert running.rows(f"SELECT * FROM raw.pgcr WHERE instance_id = {DUNGEON}") == []
        recount = running.raidhub("verify", "--sample", 7)
        # The cursor was moved about by hand, so of all checks only the ledger's may differ.
        differing = [line.split()[0] for line in recount.stdout.splitlines() if "differ" in line]
        assert set(differing) <= {"ledger"}, recount.stdout + recount.stderr


def _crawl_only(running: System, instance_id: int) -> None:
    """Atlas from `instance_id` to `instance_id`, as on its very first start."""
    running.execute("DELETE FROM streaming.crawl_cursor")
    target = ("--target", instance_id, "--until", instance_id)
    done = running.raidhub("atlas", "--buffer", 0, *target, timeout_s=60)
    assert done.returncode == 0, done.stderr

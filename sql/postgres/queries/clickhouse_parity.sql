-- PostgreSQL's side of the comparison with ClickHouse.

-- name: day_totals
-- Index instance_date_completed_brin for a range of days; everything is a scan. `sent_only` leaves
-- out what the outbox still holds.
WITH run AS MATERIALIZED (
    SELECT
        instance_id, player_count, (date_completed AT TIME ZONE 'UTC')::date AS day
    FROM core.instance AS i
    WHERE date_completed >= %(since)s::date::timestamp AT TIME ZONE 'UTC'
      AND date_completed < %(until)s::date::timestamp AT TIME ZONE 'UTC'
      AND NOT (%(sent_only)s AND EXISTS (
          SELECT FROM streaming.outbox AS o
          WHERE o.kind = 'clickhouse' AND o.sent_at IS NULL AND o.key = i.instance_id
      ))
), by_player AS (
    SELECT
        run.day,
        sum(p.time_played_seconds) AS time_played_seconds,
        count(*) FILTER (WHERE p.is_first_clear) AS first_clears,
        sum(p.sherpas) AS sherpas
    FROM run
    INNER JOIN core.instance_player AS p USING (instance_id)
    GROUP BY run.day
), by_character AS (
    SELECT run.day, sum(c.kills) AS kills
    FROM run
    INNER JOIN extended.instance_character AS c USING (instance_id)
    GROUP BY run.day
), by_instance AS (
    SELECT day, count(*) AS instances, sum(player_count) AS players FROM run GROUP BY day
)
SELECT
    day,
    instances,
    players,
    coalesce(kills, 0)::bigint AS kills,
    coalesce(time_played_seconds, 0)::bigint AS time_played_seconds,
    coalesce(first_clears, 0)::bigint AS first_clears,
    coalesce(sherpas, 0)::bigint AS sherpas
FROM by_instance
LEFT JOIN by_player USING (day)
LEFT JOIN by_character USING (day);

-- name: select_marks
-- Scans a table with a row a day.
SELECT day, marked_at
FROM streaming.clickhouse_dirty_day
WHERE NOT %(table)s = ANY(rebuilt_tables)
ORDER BY day;

-- name: select_correcting_days
-- Index clickhouse_correction_open_idx. Their rows in ClickHouse are known to be old.
SELECT DISTINCT (i.date_completed AT TIME ZONE 'UTC')::date
FROM streaming.clickhouse_correction AS c
INNER JOIN core.instance AS i USING (instance_id)
WHERE c.sent_revision < c.revision;

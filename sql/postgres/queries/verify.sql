-- Recounts of everything derived, compared with what is stored. Full scans are right here: the
-- point is to look at every row. Each statement returns up to `limit` differing rows (null: all) and
-- their number. The first three also recount some `players` alone (null: everybody), by the indexes
-- on their ids; the driver puts the values into the text, so that the planner sees which it is.

-- name: standings
-- First clears and sherpas by their definitions. The newcomers of an instance are those marked: with
-- every mark right, which this judges first, that is the definition, and nobody else's history is
-- read for it.
WITH runs AS MATERIALIZED (
    SELECT p.instance_id, p.membership_id, p.completed, p.is_first_clear, p.sherpas,
           v.activity_id, i.date_completed
    FROM core.instance_player AS p
    JOIN core.instance AS i USING (instance_id)
    JOIN definitions.activity_version AS v USING (hash)
    WHERE %(players)s::bigint[] IS NULL OR p.membership_id = ANY(%(players)s::bigint[])
),
firsts AS MATERIALIZED (
    SELECT DISTINCT ON (membership_id, activity_id) membership_id, instance_id
    FROM runs
    WHERE completed
    ORDER BY membership_id, activity_id, date_completed, instance_id
),
newcomers AS (
    SELECT instance_id, count(*) AS number
    FROM core.instance_player
    WHERE is_first_clear
      AND (%(players)s::bigint[] IS NULL OR instance_id IN (SELECT instance_id FROM runs))
    GROUP BY instance_id
),
wanted AS (
    SELECT runs.*,
           firsts.instance_id IS NOT NULL AS first_clear,
           CASE WHEN completed AND firsts.instance_id IS NULL THEN coalesce(number, 0)
                ELSE 0 END AS given
    FROM runs
    LEFT JOIN firsts USING (membership_id, instance_id)
    LEFT JOIN newcomers ON newcomers.instance_id = runs.instance_id
)
SELECT instance_id, membership_id, activity_id, is_first_clear, first_clear, sherpas, given,
       count(*) OVER () AS differing
FROM wanted
WHERE (is_first_clear, sherpas) IS DISTINCT FROM (first_clear, given)
ORDER BY membership_id, instance_id
LIMIT %(limit)s;

-- name: player_stats
WITH runs AS MATERIALIZED (
    SELECT p.membership_id, v.activity_id, p.completed, p.sherpas, p.time_played_seconds,
           p.completed AND coalesce(i.fresh, false) AS fresh_clear,
           i.duration, i.date_completed, i.instance_id
    FROM core.instance_player AS p
    JOIN core.instance AS i USING (instance_id)
    JOIN definitions.activity_version AS v USING (hash)
    WHERE %(players)s::bigint[] IS NULL OR p.membership_id = ANY(%(players)s::bigint[])
),
stored AS (
    SELECT *
    FROM core.player_stats
    WHERE %(players)s::bigint[] IS NULL OR membership_id = ANY(%(players)s::bigint[])
),
wanted AS (
    SELECT membership_id, activity_id,
           count(*) FILTER (WHERE completed) AS clears,
           count(*) FILTER (WHERE fresh_clear) AS fresh_clears,
           sum(sherpas) AS sherpas,
           (array_agg(instance_id ORDER BY duration, date_completed, instance_id)
               FILTER (WHERE fresh_clear))[1] AS fastest_instance_id,
           least(2147483647, sum(time_played_seconds)) AS total_time_played_seconds
    FROM runs
    GROUP BY membership_id, activity_id
)
SELECT membership_id, activity_id,
       s.clears, w.clears, s.fresh_clears, w.fresh_clears, s.sherpas, w.sherpas,
       s.fastest_instance_id, w.fastest_instance_id,
       s.total_time_played_seconds, w.total_time_played_seconds,
       count(*) OVER () AS differing
FROM stored AS s
FULL JOIN wanted AS w USING (membership_id, activity_id)
WHERE (s.clears, s.fresh_clears, s.sherpas, s.fastest_instance_id, s.total_time_played_seconds)
    IS DISTINCT FROM
    (w.clears, w.fresh_clears, w.sherpas, w.fastest_instance_id, w.total_time_played_seconds)
ORDER BY membership_id, activity_id
LIMIT %(limit)s;

-- name: players
WITH needed AS MATERIALIZED (
    SELECT id FROM definitions.activity_definition WHERE is_raid AND NOT is_sunset
),
wanted AS (
    SELECT s.membership_id,
           sum(s.clears) AS clears,
           sum(s.fresh_clears) AS fresh_clears,
           sum(s.sherpas) AS sherpas,
           least(2147483647, sum(s.total_time_played_seconds)) AS total_time_played_seconds,
           CASE WHEN count(i.duration) FILTER (WHERE n.id IS NOT NULL)
                     = (SELECT count(*) FROM needed)
                THEN least(2147483647, sum(i.duration) FILTER (WHERE n.id IS NOT NULL))
                END AS sum_of_best
    FROM core.player_stats AS s
    LEFT JOIN core.instance AS i ON i.instance_id = s.fastest_instance_id
    LEFT JOIN needed AS n ON n.id = s.activity_id
    WHERE %(players)s::bigint[] IS NULL OR s.membership_id = ANY(%(players)s::bigint[])
    GROUP BY s.membership_id
)
SELECT membership_id,
       p.clears, w.clears, p.fresh_clears, w.fresh_clears, p.sherpas, w.sherpas,
       p.total_time_played_seconds, w.total_time_played_seconds, p.sum_of_best, w.sum_of_best,
       count(*) OVER () AS differing
FROM core.player AS p
LEFT JOIN wanted AS w USING (membership_id)
WHERE (%(players)s::bigint[] IS NULL OR membership_id = ANY(%(players)s::bigint[]))
  AND (p.clears, p.fresh_clears, p.sherpas, p.total_time_played_seconds, p.sum_of_best)
    IS DISTINCT FROM
    (coalesce(w.clears, 0), coalesce(w.fresh_clears, 0), coalesce(w.sherpas, 0),
     coalesce(w.total_time_played_seconds, 0), w.sum_of_best)
ORDER BY membership_id
LIMIT %(limit)s;

-- name: sightings
-- A player was first seen when the first run began or before it, last seen in the last one or later.
SELECT membership_id, p.first_seen, min(i.date_started), p.last_seen, max(i.date_started),
       count(*) OVER () AS differing
FROM core.player AS p
JOIN core.instance_player USING (membership_id)
JOIN core.instance AS i USING (instance_id)
GROUP BY p.membership_id
HAVING p.first_seen > min(i.date_started) OR p.last_seen < max(i.date_started)
LIMIT %(limit)s;

-- name: raw_reports
-- A stored instance without its report, or a report that neither is stored nor waits for anything.
SELECT instance_id, i.instance_id IS NOT NULL AS stored, r.instance_id IS NOT NULL AS kept,
       m.state, count(*) OVER () AS differing
FROM core.instance AS i
FULL JOIN raw.pgcr AS r USING (instance_id)
LEFT JOIN streaming.missed_pgcr AS m USING (instance_id)
WHERE r.instance_id IS NULL
   OR (i.instance_id IS NULL
       AND coalesce(m.state, 'resolved') IN ('resolved', 'rejected', 'missing'))
LIMIT %(limit)s;

-- name: missed_but_stored
SELECT m.instance_id, m.state, count(*) OVER () AS differing
FROM streaming.missed_pgcr AS m
JOIN core.instance AS i USING (instance_id)
WHERE m.state <> 'resolved'
LIMIT %(limit)s;

-- name: ledger
-- Ranges below the cursor that no block and no gap covers. Blocks cannot overlap (constraint).
WITH covered AS (
    SELECT range_agg(ids) AS ids
    FROM (
        SELECT int8range(first_id, last_id, '[]') AS ids FROM streaming.crawl_block
        UNION ALL
        SELECT int8range(first_id, last_id, '[]') FROM streaming.gap
    ) AS ranges
),
holes AS (
    SELECT c.name,
           unnest(int8multirange(int8range(c.first_id, c.next_id))
                  - coalesce(covered.ids, '{}'::int8multirange)) AS hole
    FROM streaming.crawl_cursor AS c, covered
)
SELECT name, lower(hole) AS first_id, upper(hole) - 1 AS last_id, count(*) OVER () AS differing
FROM holes
LIMIT %(limit)s;

-- name: current_revisions
-- What counts is no revision of itself.
SELECT instance_id, v.state, v.fetched_at, count(*) OVER () AS differing
FROM streaming.pgcr_revision AS v
JOIN raw.pgcr AS r USING (instance_id)
WHERE sha256(substring(r.data FROM 9)) = v.sha256
LIMIT %(limit)s;

-- name: young
-- Reports whose second look is hours late: the chore of hermes that asks for them does not run.
SELECT instance_id, rounds, due_at, count(*) OVER () AS differing
FROM streaming.young_pgcr
WHERE due_at < now() - interval '6 hours'
ORDER BY due_at
LIMIT %(limit)s;

-- name: sample_stored
-- Random ids between the ends, each with the next stored one: primary key only.
WITH drawn AS MATERIALIZED (
    SELECT low + floor(random() * (high - low + 1))::bigint AS id
    FROM (SELECT min(instance_id) AS low, max(instance_id) AS high FROM core.instance) AS ends,
         generate_series(1, %(size)s)
)
SELECT instance_id, data
FROM raw.pgcr
WHERE instance_id IN (
    SELECT (SELECT min(instance_id) FROM core.instance WHERE instance_id >= drawn.id) FROM drawn
);

-- name: sample_superseded
-- Any of them: few reports ever change.
SELECT instance_id, v.data, r.data
FROM streaming.pgcr_revision AS v
JOIN raw.pgcr AS r USING (instance_id)
WHERE v.state = 'superseded'
ORDER BY random()
LIMIT %(size)s;

-- name: pending_effects
-- What has not reached ClickHouse yet: until then the stores must differ.
SELECT (SELECT count(*) FROM streaming.outbox WHERE kind = 'clickhouse' AND sent_at IS NULL)
     + (SELECT count(*) FROM streaming.clickhouse_correction WHERE sent_revision < revision)
       AS pending;

-- name: sizes
SELECT (SELECT count(*) FROM core.instance) AS instances,
       (SELECT count(*) FROM core.player) AS players,
       (SELECT count(*) FROM streaming.missed_pgcr WHERE state NOT IN ('resolved', 'rejected'))
       AS missed;

-- name: played
-- A scan, of what one person asks for.
SELECT min(date_started), max(date_started) FROM core.instance;

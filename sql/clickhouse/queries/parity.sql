-- What ClickHouse holds against what it should hold. FINAL never merges across months: the date is
-- part of the key. Recomputations are written apart from the views, or both would share a mistake.
-- {since}, {until}: days, the latter excluded. Aggregates are compared on days that lie wholly
-- within their time to live; what is older disappears part by part.

-- name: day_totals
SELECT
    toDate(date_completed) AS day,
    count() AS instances,
    sum(player_count) AS players,
    sum(arraySum(arrayFlatten(players.characters.kills))) AS kills,
    sum(arraySum(players.time_played_seconds)) AS time_played_seconds,
    sum(arraySum(players.is_first_clear)) AS first_clears,
    sum(arraySum(players.sherpas)) AS sherpas
FROM instance FINAL
WHERE date_completed >= {since:Date} AND date_completed < {until:Date}
GROUP BY day
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: player_population_by_hour
SELECT
    toDate(hour) AS day,
    concat(toString(hour), ' activity ', toString(activity_id)) AS key,
    'player_count' AS measure,
    sum(wanted) AS expected,
    sum(held) AS stored
FROM (
    SELECT hour, activity_id, 0 AS wanted, player_count AS held
    FROM player_population_by_hour
    UNION ALL
    SELECT run.hour AS hour, v.activity_id AS activity_id, run.player_count AS wanted, 0 AS held
    FROM (
        SELECT
            hash,
            player_count,
            toStartOfHour(date_completed) - arrayJoin(range(0, 3 * 24 + 1)) * 3600 AS hour
        FROM instance FINAL
        WHERE date_completed >= {since:Date} AND date_completed < {until:Date} + 4
          AND duration > 0
          AND player_count < 50
          AND hour >= toStartOfHour(date_started)
          AND hour < date_completed
    ) AS run
    INNER JOIN activity_version AS v ON v.hash = run.hash
)
WHERE day >= greatest({since:Date}, toDate(now() - INTERVAL 1 MONTH) + 1) AND day < {until:Date}
GROUP BY hour, activity_id
HAVING expected != stored
ORDER BY hour, activity_id
LIMIT {limit:UInt32}
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: clear_time_by_day
-- The state is a sample of 8192 runs: exact up to there, near beyond.
SELECT
    bungie_day AS day,
    concat(
        toString(bungie_day), ' activity ', toString(activity_id),
        ' version ', toString(version_id)
    ) AS key,
    concat('clear_time ', ['0.05', '0.1', '0.5', '0.9'][quantile]) AS measure,
    recomputed.clear_time[quantile] AS expected,
    aggregated.clear_time[quantile] AS stored
FROM (
    SELECT
        toDate(i.date_completed - INTERVAL 17 HOUR) AS bungie_day,
        v.activity_id AS activity_id,
        v.version_id AS version_id,
        quantiles(0.05, 0.1, 0.5, 0.9)(i.duration) AS clear_time,
        count() AS runs
    FROM instance AS i FINAL
    INNER JOIN activity_version AS v ON v.hash = i.hash
    WHERE i.date_completed >= {since:Date} AND i.date_completed < {until:Date} + 2
      AND i.completed = 1 AND i.fresh = 1
    GROUP BY bungie_day, activity_id, version_id
) AS recomputed
FULL OUTER JOIN (
    SELECT
        bungie_day, activity_id, version_id,
        quantilesMerge(0.05, 0.1, 0.5, 0.9)(clear_time) AS clear_time
    FROM clear_time_by_day
    GROUP BY bungie_day, activity_id, version_id
) AS aggregated USING (bungie_day, activity_id, version_id)
ARRAY JOIN [1, 2, 3, 4] AS quantile
WHERE day >= greatest({since:Date}, toDate(now() - INTERVAL 1 YEAR) + 1)
  AND day < {until:Date}
  AND abs(expected - stored) > if(runs > 8192, 0.05 * expected, 0.001)
ORDER BY day, activity_id, version_id, quantile
LIMIT {limit:UInt32}
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: weapon_meta_by_hour
SELECT
    toDate(hour) AS day,
    concat(
        toString(hour), ' activity ', toString(activity_id), ' weapon ', toString(weapon_hash)
    ) AS key,
    counted.1 AS measure,
    counted.2 AS expected,
    counted.3 AS stored
FROM (
    SELECT
        hour,
        activity_id,
        weapon_hash,
        [
            ('usage_count', sumIf(uses, is_run), sumIf(uses, NOT is_run)),
            ('kill_count', sumIf(kills, is_run), sumIf(kills, NOT is_run)),
            ('precision_kill_count', sumIf(precise, is_run), sumIf(precise, NOT is_run))
        ] AS counts
    FROM (
        SELECT
            hour, activity_id, weapon_hash, toUInt64(usage_count) AS uses,
            kill_count AS kills, precision_kill_count AS precise, false AS is_run
        FROM weapon_meta_by_hour
        UNION ALL
        SELECT
            run.hour, v.activity_id, run.weapon.weapon_hash, toUInt64(1),
            toUInt64(run.weapon.kills), toUInt64(run.weapon.precision_kills), true
        FROM (
            SELECT
                hash,
                toStartOfHour(date_completed) AS hour,
                arrayJoin(arrayFlatten(players.characters.weapons)) AS weapon
            FROM instance FINAL
            WHERE date_completed >= {since:Date} AND date_completed < {until:Date}
        ) AS run
        INNER JOIN activity_version AS v ON v.hash = run.hash
    )
    GROUP BY hour, activity_id, weapon_hash
)
ARRAY JOIN counts AS counted
WHERE day >= greatest({since:Date}, toDate(now() - INTERVAL 1 MONTH) + 1)
  AND day < {until:Date}
  AND counted.2 != counted.3
ORDER BY hour, activity_id, weapon_hash, measure
LIMIT {limit:UInt32}
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: player_relation_weights_bidirectional
-- Of all time, so it is compared only when everything is. Weights of 0 vanish in merges.
SELECT
    NULL AS day,
    concat(toString(member), ' with ', toString(related)) AS key,
    'weight' AS measure,
    sum(wanted) AS expected,
    sum(held) AS stored
FROM (
    SELECT
        membership_id AS member, related_membership_id AS related, 0 AS wanted, weight AS held
    FROM player_relation_weights_bidirectional
    UNION ALL
    SELECT
        toUInt64(a.membership_id) AS member,
        toUInt64(b.membership_id) AS related,
        toUInt64(least(a.time_played_seconds, b.time_played_seconds))
            * (1 + a.completed) * (1 + b.completed) AS wanted,
        0 AS held
    FROM (SELECT player_count, players FROM instance FINAL)
    ARRAY JOIN players AS a
    ARRAY JOIN players AS b
    WHERE player_count < 50 AND member != related
)
GROUP BY member, related
HAVING expected != stored
ORDER BY member, related
LIMIT {limit:UInt32}
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- Rebuilds of days, a week or everything: a twin is filled, then its partitions take the place of
-- the table's, each at once. {since}, {until}: days in UTC, of clear times game days, the latter
-- excluded. {day} names a partition: a day, of reports the week's Tuesday.
-- What an aggregate counts is said once more here, by day instead of by insert; the comparison
-- (parity.sql) recounts it in a third way. {excluded}: runs that the views have still to count.

-- name: select_kept_since
-- The first day that lies wholly within a month, and within a year, of time to live.
SELECT toDate(now() - INTERVAL 1 MONTH) + 1 AS month, toDate(now() - INTERVAL 1 YEAR) + 1 AS year;

-- name: empty
TRUNCATE TABLE {twin:Identifier};

-- name: replace_player_population_by_hour
-- FROM takes no parameter here, hence a statement a table.
ALTER TABLE player_population_by_hour REPLACE PARTITION {day:Date} FROM player_population_by_hour_twin;

-- name: replace_clear_time_by_day
ALTER TABLE clear_time_by_day REPLACE PARTITION {day:Date} FROM clear_time_by_day_twin;

-- name: replace_weapon_meta_by_hour
ALTER TABLE weapon_meta_by_hour REPLACE PARTITION {day:Date} FROM weapon_meta_by_hour_twin;

-- name: replace_weekly_raid_report
ALTER TABLE weekly_raid_report REPLACE PARTITION {day:Date} FROM weekly_raid_report_twin;

-- name: replace_weapon_meta_trend
ALTER TABLE weapon_meta_trend REPLACE PARTITION {day:Date} FROM weapon_meta_trend_twin;

-- name: replace_player_relation_weights_bidirectional
-- A table without partitions is one. It stays the same table, so the view goes on filling it.
ALTER TABLE player_relation_weights_bidirectional
REPLACE PARTITION tuple() FROM player_relation_weights_bidirectional_twin;

-- name: drop_date
-- Where nothing is left: the engine refuses to replace a partition by none.
ALTER TABLE {table:Identifier} DROP PARTITION {day:Date};

-- name: drop_relations
ALTER TABLE player_relation_weights_bidirectional DROP PARTITION tuple();

-- name: count_relations
SELECT count() FROM player_relation_weights_bidirectional_twin;

-- name: drop_month
ALTER TABLE instance DROP PARTITION {month:UInt32};

-- name: count_changes
-- The day as it is against the day as it was sent to the staging table; revisions play no part.
SELECT
    countIf(wanted != 0) AS rows,
    countIf(held = 0) AS added,
    countIf(wanted = 0) AS removed,
    countIf(held != 0 AND wanted != 0 AND held != wanted) AS changed,
    toDate(minIf(started, held != wanted)) AS since
FROM (
    SELECT
        sumIf(content, is_new) AS wanted, sumIf(content, NOT is_new) AS held,
        min(date_started) AS started
    FROM (
        SELECT
            date_completed, instance_id, date_started, true AS is_new,
            cityHash64(
                hash, completed, player_count, fresh, flawless, date_started, platform_type,
                duration, score, players
            ) AS content
        FROM instance_staging FINAL
        UNION ALL
        SELECT
            date_completed, instance_id, date_started, false AS is_new,
            cityHash64(
                hash, completed, player_count, fresh, flawless, date_started, platform_type,
                duration, score, players
            ) AS content
        FROM instance FINAL
        WHERE date_completed >= {day:Date} AND date_completed < {day:Date} + 1
    )
    GROUP BY date_completed, instance_id
);

-- name: attach_present
-- Links the parts of the month, copies nothing.
ALTER TABLE instance_twin ATTACH PARTITION {month:UInt32} FROM instance;

-- name: delete_day
DELETE FROM instance_twin
WHERE date_completed >= {day:Date} AND date_completed < {day:Date} + 1;

-- name: attach_staged
ALTER TABLE instance_twin ATTACH PARTITION {month:UInt32} FROM instance_staging;

-- name: is_twin_whole
-- The month without the day, and the day as staged, are what will take the month's place.
SELECT
    (
        SELECT count() FROM instance FINAL
        WHERE toYYYYMM(date_completed) = {month:UInt32}
          AND NOT (date_completed >= {day:Date} AND date_completed < {day:Date} + 1)
    ) AS others,
    (SELECT count() FROM instance_staging FINAL) AS staged,
    (SELECT count() FROM instance_twin FINAL) AS prepared;

-- name: replace_month
ALTER TABLE instance REPLACE PARTITION {month:UInt32} FROM instance_twin;

-- name: undefined_hashes
-- Of everything that may count for the days.
SELECT DISTINCT hash
FROM instance
WHERE date_completed >= {since:Date} AND date_completed < {until:Date} + 4
  AND hash NOT IN (SELECT hash FROM activity_version)
ORDER BY hash;

-- name: fill_player_population_by_hour
INSERT INTO player_population_by_hour_twin (hour, activity_id, player_count)
SELECT run.hour, v.activity_id, sum(run.player_count)
FROM (
    SELECT
        hash,
        player_count,
        toDateTime(arrayJoin(range(
            toUInt32(greatest(
                toStartOfHour(date_started), toStartOfHour(date_completed) - INTERVAL 3 DAY
            )),
            toUInt32(date_completed),
            3600
        ))) AS hour
    FROM instance FINAL
    WHERE date_completed > {since:Date} AND date_completed < {until:Date} + 3
      AND date_started < {until:Date}
      AND duration > 0 AND player_count < 50
      AND NOT has({excluded:Array(Int64)}, instance_id)
) AS run
INNER JOIN activity_version AS v ON v.hash = run.hash
WHERE run.hour >= {since:Date} AND run.hour < {until:Date}
GROUP BY run.hour, v.activity_id
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: fill_clear_time_by_day
INSERT INTO clear_time_by_day_twin (bungie_day, activity_id, version_id, clear_time)
SELECT
    run.bungie_day, v.activity_id, v.version_id,
    quantilesState(0.05, 0.1, 0.5, 0.9)(run.duration)
FROM (
    SELECT hash, duration, toDate(date_completed - INTERVAL 17 HOUR) AS bungie_day
    FROM instance FINAL
    WHERE date_completed >= toDateTime({since:Date}) + INTERVAL 17 HOUR
      AND date_completed < toDateTime({until:Date}) + INTERVAL 17 HOUR
      AND completed = 1 AND fresh = 1
      AND NOT has({excluded:Array(Int64)}, instance_id)
) AS run
INNER JOIN activity_version AS v ON v.hash = run.hash
GROUP BY run.bungie_day, v.activity_id, v.version_id
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: fill_weapon_meta_by_hour
INSERT INTO weapon_meta_by_hour_twin
    (hour, activity_id, weapon_hash, usage_count, kill_count, precision_kill_count)
SELECT
    run.hour, v.activity_id, run.weapon.weapon_hash,
    count(), sum(run.weapon.kills), sum(run.weapon.precision_kills)
FROM (
    SELECT
        hash,
        toStartOfHour(date_completed) AS hour,
        arrayJoin(arrayFlatten(players.characters.weapons)) AS weapon
    FROM instance FINAL
    WHERE date_completed >= {since:Date} AND date_completed < {until:Date}
      AND NOT has({excluded:Array(Int64)}, instance_id)
) AS run
INNER JOIN activity_version AS v ON v.hash = run.hash
GROUP BY run.hour, v.activity_id, run.weapon.weapon_hash
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: select_months
SELECT DISTINCT toYYYYMM(date_completed) AS month FROM instance ORDER BY month;

-- name: fill_player_relation_weights_bidirectional
-- A month at a time: pairs of all years would not fit into memory, and merges add them up.
INSERT INTO player_relation_weights_bidirectional_twin
    (membership_id, related_membership_id, weight)
SELECT
    toUInt64(a.membership_id) AS member,
    toUInt64(b.membership_id) AS related,
    sum(
        toUInt64(least(a.time_played_seconds, b.time_played_seconds))
        * (a.completed + 1) * (b.completed + 1)
    )
FROM (
    SELECT players
    FROM instance FINAL
    WHERE toYYYYMM(date_completed) = {month:UInt32} AND player_count < 50
      AND NOT has({excluded:Array(Int64)}, instance_id)
)
ARRAY JOIN players AS a
ARRAY JOIN players AS b
WHERE member != related
GROUP BY member, related
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: sum_relations
-- One sum of everything, without pairs in memory: finds what was lost or counted twice.
SELECT
    (
        SELECT sum(arraySum(arrayMap(
            a -> arraySum(arrayMap(
                b -> if(
                    a.membership_id = b.membership_id,
                    0,
                    toUInt64(least(a.time_played_seconds, b.time_played_seconds))
                    * (a.completed + 1) * (b.completed + 1)
                ),
                players
            )),
            players
        )))
        FROM instance FINAL
        WHERE player_count < 50 AND NOT has({excluded:Array(Int64)}, instance_id)
    ) AS expected,
    (SELECT sum(weight) FROM player_relation_weights_bidirectional) AS stored
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: strongest_pairs
-- Each pair once. Reads the whole table: the only way to an order of all pairs.
SELECT membership_id, related_membership_id, sum(weight) AS weight
FROM player_relation_weights_bidirectional
WHERE membership_id < related_membership_id
GROUP BY membership_id, related_membership_id
ORDER BY weight DESC, membership_id, related_membership_id
LIMIT {limit:UInt32}
SETTINGS max_bytes_before_external_group_by = 1000000000;

-- name: teammates
-- Primary key.
SELECT related_membership_id, sum(weight) AS weight
FROM player_relation_weights_bidirectional
WHERE membership_id = {player:UInt64}
GROUP BY related_membership_id
ORDER BY weight DESC, related_membership_id
LIMIT {limit:UInt32};

-- name: fill_weekly_raid_report
INSERT INTO weekly_raid_report_twin (
    week, activity_id, version_id, runs, clears, fresh_clears, players,
    median_clear_s, median_fresh_clear_s, fastest_fresh_clear_s
)
SELECT
    {since:Date}, v.activity_id, v.version_id,
    count(),
    countIf(run.completed = 1),
    countIf(run.completed = 1 AND run.fresh = 1),
    uniqExactArray(run.members),
    quantileExactInclusiveOrNullIf(0.5)(run.duration, run.completed = 1),
    quantileExactInclusiveOrNullIf(0.5)(run.duration, run.completed = 1 AND run.fresh = 1),
    minOrNullIf(run.duration, run.completed = 1 AND run.fresh = 1)
FROM (
    SELECT hash, completed, fresh, duration, players.membership_id AS members
    FROM instance FINAL
    WHERE date_completed >= toDateTime({since:Date}) + INTERVAL 17 HOUR
      AND date_completed < toDateTime({until:Date}) + INTERVAL 17 HOUR
) AS run
INNER JOIN activity_version AS v ON v.hash = run.hash
GROUP BY v.activity_id, v.version_id
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: fill_weapon_meta_trend
-- Both weeks from the runs themselves: the hourly table is kept for a month only.
INSERT INTO weapon_meta_trend_twin (
    week, weapon_hash, usage_count, kill_count, precision_kill_count, usage_share,
    usage_count_before, kill_count_before, usage_share_before
)
SELECT
    {since:Date}, weapon_hash, uses, kills, precision_kills,
    if(sum(uses) OVER () = 0, 0, uses / sum(uses) OVER ()),
    uses_before, kills_before,
    if(sum(uses_before) OVER () = 0, 0, uses_before / sum(uses_before) OVER ())
FROM (
    SELECT
        weapon.weapon_hash AS weapon_hash,
        countIf(is_now) AS uses,
        sumIf(weapon.kills, is_now) AS kills,
        sumIf(weapon.precision_kills, is_now) AS precision_kills,
        countIf(NOT is_now) AS uses_before,
        sumIf(weapon.kills, NOT is_now) AS kills_before
    FROM (
        SELECT
            date_completed >= toDateTime({since:Date}) + INTERVAL 17 HOUR AS is_now,
            arrayJoin(arrayFlatten(players.characters.weapons)) AS weapon
        FROM instance FINAL
        WHERE date_completed >= toDateTime({since:Date} - 7) + INTERVAL 17 HOUR
          AND date_completed < toDateTime({until:Date}) + INTERVAL 17 HOUR
          AND hash IN (SELECT hash FROM activity_version)
    )
    GROUP BY weapon_hash
)
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: read_weekly_raid_report
SELECT
    r.week, coalesce(nullIf(a.name, ''), toString(r.activity_id)) AS raid,
    coalesce(nullIf(v.name, ''), toString(r.version_id)) AS version,
    r.runs, r.clears, round(r.clears / r.runs, 4) AS completion_rate, r.fresh_clears, r.players,
    r.median_clear_s, r.median_fresh_clear_s, r.fastest_fresh_clear_s
FROM weekly_raid_report AS r
LEFT JOIN activity AS a ON a.id = r.activity_id
LEFT JOIN version AS v ON v.id = r.version_id
WHERE r.week >= {since:Date} AND r.week < {until:Date}
ORDER BY r.week, r.runs DESC, r.activity_id, r.version_id;

-- name: read_weapon_meta_trend
-- The most used of either week, so that what fell out of use shows too.
SELECT
    t.week, coalesce(nullIf(w.name, ''), toString(t.weapon_hash)) AS weapon, w.slot AS slot,
    t.usage_count, t.usage_count_before,
    toInt64(t.usage_count) - toInt64(t.usage_count_before) AS usage_change,
    round(100 * t.usage_share, 3) AS usage_percent,
    round(100 * (t.usage_share - t.usage_share_before), 3) AS percent_points,
    t.kill_count, toInt64(t.kill_count) - toInt64(t.kill_count_before) AS kill_change
FROM weapon_meta_trend AS t
LEFT JOIN weapon_definition AS w ON w.hash = t.weapon_hash
WHERE t.week = {day:Date}
ORDER BY greatest(t.usage_count, t.usage_count_before) DESC, t.weapon_hash
LIMIT {limit:UInt32};

-- name: count_partitions
-- As stored: what readers add up. Names of partitions are days here, which sort as text.
SELECT partition, sum(rows) AS rows
FROM system.parts
WHERE active AND database = currentDatabase() AND table = {table:String}
  AND partition >= {first:String} AND partition <= {last:String}
GROUP BY partition;

-- name: count_report
-- The report against the runs of its week, counted without the report's own statement.
SELECT
    (SELECT count() FROM instance FINAL
     WHERE toDate(date_completed - INTERVAL 17 HOUR) >= {since:Date}
       AND toDate(date_completed - INTERVAL 17 HOUR) < {until:Date}
       AND hash IN (SELECT hash FROM activity_version)) AS runs,
    (SELECT sum(runs) FROM weekly_raid_report
     WHERE week >= {since:Date} AND week < {until:Date}) AS reported;

-- name: count_trend
SELECT
    (SELECT sum(length(arrayFlatten(players.characters.weapons))) FROM instance FINAL
     WHERE toDate(date_completed - INTERVAL 17 HOUR) >= {since:Date}
       AND toDate(date_completed - INTERVAL 17 HOUR) < {until:Date}
       AND hash IN (SELECT hash FROM activity_version)) AS uses,
    (SELECT sum(usage_count) FROM weapon_meta_trend
     WHERE week >= {since:Date} AND week < {until:Date}) AS reported;
